//! `cargo xtask fuzz-calls`: system calls at random, under torture, for as long as wanted.
//!
//! The runs are trials of the boot tests' harness (`OXV_FUZZ`); a failure prints the command that repeats it.

use crate::run;
use crate::test::{self, boot_command};
use anyhow::Result;

/// Options of `cargo xtask fuzz-calls`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long, in minutes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Numbers of virtual CPUs, each in a machine of its own, two at a time.
    #[arg(long, default_value = "2,4", value_name = "N,...")]
    smp: String,
    /// Make the same calls again.
    #[arg(long)]
    seed: Option<u64>,
    /// Use the quickly built kernel, with its assertions.
    #[arg(long)]
    dev: bool,
}

/// Runs it.
///
/// # Errors
/// When a kernel dies, hangs or does not get its memory back.
pub(crate) fn command(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("fuzzing for {} minutes with {} virtual CPUs; again: cargo xtask fuzz-calls --seed {seed}", options.minutes, options.smp);
    let mut command = boot_command(&test::Options::with_kernel(options.dev))?;
    command.env("OXV_FUZZ", ((options.minutes * 60.0) as u64).to_string());
    run::check(command.env("OXV_TORTURE_SMP", &options.smp).env("OXV_TORTURE_SEED", seed.to_string()))
}
