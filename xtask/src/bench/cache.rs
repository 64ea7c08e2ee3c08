//! What the Linux guest printed in earlier runs, in `target/bench/linux.json`: by kernel, machine and program.
//!
//! It is kept in every run and used only when asked for.

use super::guest::Guest;
use super::machine::Machine;
use super::work_dir;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// The kept lines.
pub(super) struct Cache {
    path: PathBuf,
    entries: BTreeMap<String, Vec<String>>,
    used: bool,
}

impl Cache {
    /// Reads what there is; `used`: whether [`Cache::has`] may say yes.
    ///
    /// # Errors
    /// When the folder cannot be made or the file is damaged.
    pub(super) fn open(used: bool) -> Result<Self> {
        let path = work_dir()?.join("linux.json");
        let entries = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged; delete it", path.display()))?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Self { path, entries, used })
    }

    /// Whether the lines of this run are known and may be used.
    pub(super) fn has(&self, guest: &dyn Guest, machine: Machine, program: &Path) -> bool {
        self.used && guest.is_reference() && self.entries.contains_key(&key(guest, machine, program))
    }

    /// The lines of this run; none when they are not known.
    pub(super) fn take(&self, guest: &dyn Guest, machine: Machine, program: &Path) -> Vec<String> {
        self.entries.get(&key(guest, machine, program)).cloned().unwrap_or_default()
    }

    /// Keeps the lines of a run of the reference.
    pub(super) fn put(&mut self, guest: &dyn Guest, machine: Machine, program: &Path, lines: Vec<String>) {
        if guest.is_reference() {
            self.entries.insert(key(guest, machine, program), lines);
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.entries)?;
        std::fs::write(&self.path, text).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The program by its bytes.
fn key(guest: &dyn Guest, machine: Machine, program: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    std::fs::read(program).unwrap_or_default().hash(&mut hasher);
    let kernel = guest.kernel().file_name().unwrap_or_default().to_string_lossy();
    format!("{kernel} {machine:?} {} {:x}", super::programs::name(program), hasher.finish())
}
