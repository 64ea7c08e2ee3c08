//! Compiling the measured programs.

use super::work_dir;
use crate::{paths, run};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `bench/NAME/main.c` to a static program that both guests run.
pub(super) fn compile(name: &str) -> Result<PathBuf> {
    gcc(&paths::root().join("bench").join(name).join("main.c"), name)
}

/// Compiles the Linux guest's `/init`.
pub(super) fn compile_linux_init() -> Result<PathBuf> {
    gcc(&paths::root().join("bench/linux_init.c"), "linux_init")
}

fn gcc(source: &Path, name: &str) -> Result<PathBuf> {
    let output = work_dir()?.join(name);
    run::check(Command::new("gcc").args(["-O2", "-Wall", "-static", "-fno-pie", "-no-pie", "-o"]).arg(&output).arg(source).arg("-lpthread"))?;
    Ok(output)
}

/// The name of a compiled program.
pub(super) fn name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
