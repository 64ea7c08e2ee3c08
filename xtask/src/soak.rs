//! `cargo xtask soak-boot`: many boots in a row, of mixed programs and vCPU counts, two machines at a time.
//!
//! The boots are trials of the boot tests' harness (`OXV_SOAK`), so each compares output and exit code with the host's, keeps the kernel
//! log on a failure and says how to run it again.

use crate::test::{self, boot_command};
use crate::run;
use anyhow::Result;

/// Options of `cargo xtask soak-boot`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many boots.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Use the quickly built kernel.
    #[arg(long)]
    dev: bool,
}

/// Runs them.
///
/// # Errors
/// When one boot hangs or does something else than the host.
pub(crate) fn command(options: &Options) -> Result<()> {
    let mut command = boot_command(&test::Options::with_kernel(options.dev))?;
    run::check(command.env("OXV_SOAK", options.count.to_string()))
}
