//! The Linux guest's root: a cpio archive (newc).

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How long one program of a batch may take, in the guest's time.
const PROGRAM_SECONDS: u64 = 60;

/// An archive being written.
#[derive(Default)]
struct Archive(Vec<u8>);

/// `/dev/console` and the program as `/init`.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn single(program: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.console();
    archive.program("init", program)?;
    archive.write(&program.with_extension("cpio"))
}

/// `/init`, and the programs in `/bench` with a list of their names.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn several(init: &Path, programs: &[&PathBuf]) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.console();
    archive.program("init", init)?;
    archive.entry("bench", 0o040_755, (0, 0), &[]);
    let mut list = String::new();
    for program in programs {
        let name = super::programs::name(program);
        archive.program(&format!("bench/{name}"), program)?;
        list += &format!("{name} {PROGRAM_SECONDS}\n");
    }
    archive.entry("bench/list", 0o100_644, (0, 0), list.as_bytes());
    archive.write(&init.with_extension("cpio"))
}

/// All of `root`, `/init`, and one script in `/bench`, which may take so many seconds.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn tree(root: &Path, init: &Path, name: &str, script: &str, seconds: u64) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.directory(root, "")?;
    archive.entry("dev/console", 0o020_600, (5, 1), &[]);
    archive.program("init", init)?;
    archive.entry("bench", 0o040_755, (0, 0), &[]);
    archive.entry(&format!("bench/{name}"), 0o100_755, (0, 0), script.as_bytes());
    archive.entry("bench/list", 0o100_644, (0, 0), format!("{name} {seconds}\n").as_bytes());
    archive.write(&root.with_extension("cpio"))
}

impl Archive {
    /// What is in a directory, under `prefix`.
    fn directory(&mut self, path: &Path, prefix: &str) -> Result<()> {
        for file in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            let file = file?;
            let (path, data) = (file.path(), file.metadata()?);
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            match data.file_type() {
                kind if kind.is_dir() => {
                    self.entry(&name, data.mode(), (0, 0), &[]);
                    self.directory(&path, &format!("{name}/"))?;
                }
                kind if kind.is_symlink() => self.entry(&name, data.mode(), (0, 0), fs::read_link(&path)?.as_os_str().as_bytes()),
                kind if kind.is_file() => self.entry(&name, data.mode(), (0, 0), &fs::read(&path)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn console(&mut self) {
        self.entry("dev", 0o040_755, (0, 0), &[]);
        self.entry("dev/console", 0o020_600, (5, 1), &[]);
    }

    fn program(&mut self, name: &str, program: &Path) -> Result<()> {
        let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        self.entry(name, 0o100_755, (0, 0), &bytes);
        Ok(())
    }

    /// Appends one file: a header of thirteen 8-digit hexadecimal fields, the name, the data, each padded to 4 bytes.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        let Self(archive) = self;
        let inode = archive.len() as u32;
        let fields = [inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        archive.extend_from_slice(b"070701");
        fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    fn write(mut self, path: &Path) -> Result<PathBuf> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        fs::write(path, self.0).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.to_path_buf())
    }
}
