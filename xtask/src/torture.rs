//! `cargo xtask torture`: stress programs in a kernel that preempts, delays and migrates at random, on virtual CPUs that are stopped from outside.
//!
//! The runs are trials of the boot tests' harness (`OXV_TORTURE`); a failure prints the command that repeats it.

use crate::test::{self, boot_command};
use crate::run;
use anyhow::Result;

/// Options of `cargo xtask torture`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long, in minutes.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Numbers of virtual CPUs.
    #[arg(long, default_value = "1,2,4", value_name = "N,...")]
    smp: String,
    /// Draw the same programs and seeds again.
    #[arg(long)]
    seed: Option<u64>,
    /// Use the quickly built kernel, with its assertions.
    #[arg(long)]
    dev: bool,
}

/// Runs it.
///
/// # Errors
/// When a run hangs or does something else than the host.
pub(crate) fn command(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("torture for {} minutes with {} virtual CPUs; again: cargo xtask torture --seed {seed}", options.minutes, options.smp);
    let mut command = boot_command(&test::Options::with_kernel(options.dev))?;
    command.env("OXV_TORTURE", ((options.minutes * 60.0) as u64).to_string());
    run::check(command.env("OXV_TORTURE_SMP", &options.smp).env("OXV_TORTURE_SEED", seed.to_string()))
}
