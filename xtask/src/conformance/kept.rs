//! What earlier runs of a suite found out: a file for each system, with the runner's lines. A later line of a test replaces the earlier
//! one. So a long suite can be run in parts.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use super::runner::{Outcome, Outcomes, directory};

/// Where a test was run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// This machine.
    Linux,
    /// This machine, with local sockets only.
    LinuxLocal,
    /// oxv.
    Oxv,
}

fn path(suite: &str, system: System) -> Result<PathBuf> {
    let name = match system {
        System::Linux => "linux",
        System::LinuxLocal => "linux-local",
        System::Oxv => "oxv",
    };
    Ok(directory(suite)?.join(name).with_extension("results"))
}

/// What is known.
///
/// # Errors
/// When the file cannot be read; it need not exist.
pub(super) fn read(suite: &str, system: System) -> Result<Outcomes> {
    let path = path(suite, system)?;
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Outcomes::new()),
        text => Ok(text.with_context(|| format!("cannot read {}", path.display()))?.lines().filter_map(super::runner::outcome).collect()),
    }
}

/// Adds to it.
pub(super) struct Keeper {
    file: File,
}

impl Keeper {
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn open(suite: &str, system: System) -> Result<Self> {
        let path = path(suite, system)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file })
    }

    /// Keeps one outcome.
    pub(super) fn keep(&mut self, name: &str, outcome: &Outcome) -> Result<()> {
        writeln!(self.file, "{name} {} {}", outcome.how, outcome.said).context("cannot keep a result")
    }
}
