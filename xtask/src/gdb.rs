//! `cargo xtask gdb`: gdb with the kernel's symbols, attached to a machine started with `oxv run --gdb`.

use crate::{build, run};
use anyhow::Result;
use std::process::Command;

/// Options of `cargo xtask gdb`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The address QEMU's gdb stub listens at.
    #[arg(long, default_value = "localhost:1234")]
    connect: String,
    /// The kernel was built with `--dev`.
    #[arg(long)]
    dev: bool,
}

/// Builds the kernel (for its symbols) and runs gdb.
pub(crate) fn command(options: &Options) -> Result<()> {
    let kernel = build::kernel(&build::Options { dev: options.dev })?;
    run::check(
        Command::new("gdb")
            .arg(kernel)
            .args(["-ex", "set architecture i386:x86-64"])
            .args(["-ex", &format!("target remote {}", options.connect)]),
    )
}
