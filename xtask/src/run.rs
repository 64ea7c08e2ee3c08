//! Starting other programs, with errors that name them.

use anyhow::{Context, Result, bail};
use std::process::{Command, Output};

/// A cargo command in the repository, without the caller's compiler flags: a stray `RUSTFLAGS` would
/// replace those of the kernel.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(crate::paths::root())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_DIR", crate::paths::target());
    cargo
}

/// Runs `command` and fails unless it exits with 0.
///
/// # Errors
/// When the program cannot be started or exits with another status.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{}: {status}", describe(command));
    }
    Ok(())
}

/// Runs `command` and returns what it printed.
///
/// # Errors
/// When the program cannot be started or fails; the message then holds its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command
        .output()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{}: {status}\n{}", describe(command), String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn describe(command: &Command) -> String {
    let mut text = name(command);
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
