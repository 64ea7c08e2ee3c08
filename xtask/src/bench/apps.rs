//! What people run: a script with Debian's programs, started in both guests from the same files.
//!
//! `oxv build` gathers them into an image. oxv boots that; for Linux it is unpacked again and becomes the root.

use super::machine::{Clock, Machine};
use super::{initramfs, programs, work_dir};
use crate::{paths, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a guest may take for one of them.
pub(super) const LIMIT: Duration = Duration::from_secs(240);

/// A script and what it needs.
pub(super) struct App {
    /// The interpreter and its arguments; those that begin with `bench/` or `tests/` are files and directories of the repository.
    pub(super) command: &'static [&'static str],
    /// Debian packages beyond the interpreter's.
    pub(super) packages: &'static [&'static str],
}

/// On two CPUs; enough memory for Linux to unpack a JDK in it.
pub(super) const MACHINE: Machine = Machine { cpus: 2, memory_mib: 2048, clock: Clock::Real };

impl App {
    /// Makes the image with the files of both guests.
    ///
    /// # Errors
    /// When a package is not installed.
    pub(super) fn image(&self, name: &str) -> Result<PathBuf> {
        let image = work_dir()?.join(name).with_extension("img");
        let mut command = Command::new(paths::oxv());
        command.args(["build", "--cwd", "/", "-o"]).arg(&image);
        for package in self.packages {
            command.args(["--package", package]);
        }
        for ours in self.arguments().filter(|argument| argument.starts_with(paths::root())) {
            command.arg("--add").arg(ours);
        }
        run::output(command.arg("--").args(self.arguments())).with_context(|| format!("{name} needs {}", self.packages.join(" ")))?;
        Ok(image)
    }

    fn arguments(&self) -> impl Iterator<Item = PathBuf> {
        let is_ours = |word: &str| ["bench/", "tests/"].iter().any(|start| word.starts_with(start));
        self.command.iter().map(move |word| if is_ours(word) { paths::root().join(word) } else { PathBuf::from(word) })
    }

    /// Unpacks the image and makes it a root for Linux that runs the app by its name.
    ///
    /// # Errors
    /// When the image cannot be unpacked.
    pub(super) fn linux_root(&self, name: &str, image: &Path) -> Result<PathBuf> {
        let root = work_dir()?.join(name).with_extension("root");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        run::output(Command::new("fsck.erofs").arg(format!("--extract={}", root.display())).arg(image))?;
        let words: Vec<_> = self.arguments().map(|word| word.to_string_lossy().into_owned()).collect();
        let script = format!("#!/bin/sh\nexport PATH=/usr/bin:/bin HOME=/root LANG=C.UTF-8\nexec {}\n", words.join(" "));
        let archive = initramfs::tree(&root, &programs::compile_linux_init()?, name, &script, LIMIT.as_secs());
        fs::remove_dir_all(&root)?;
        archive
    }
}
