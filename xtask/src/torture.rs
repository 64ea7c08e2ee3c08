//! `cargo xtask torture` and `cargo xtask fuzz-calls`: long runs in a kernel that preempts, delays and migrates at random, on virtual CPUs that
//! are stopped from outside; the first with stress programs, the second with system calls at random.
//!
//! The runs are trials of the boot tests' harness (`OXV_TORTURE`, `OXV_FUZZ`); a failure prints the command that repeats it.

use crate::run;
use crate::test::{self, boot_command};
use anyhow::Result;

/// Options of both.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each machine runs, in minutes [default: 30 for torture, 60 for fuzz-calls].
    #[arg(long)]
    minutes: Option<f64>,
    /// Numbers of virtual CPUs, each in a machine of its own, two at a time [default: 1,2,4 for torture, 2,4 for fuzz-calls].
    #[arg(long, value_name = "N,...")]
    smp: Option<String>,
    /// Draw the same programs, calls and seeds again.
    #[arg(long)]
    seed: Option<u64>,
    /// Use the quickly built kernel, with its assertions.
    #[arg(long)]
    dev: bool,
}

/// Stress programs.
///
/// # Errors
/// When a run hangs or does something else than the host.
pub(crate) fn stress(options: &Options) -> Result<()> {
    run_long(options, "torture", "OXV_TORTURE", 30.0, "1,2,4")
}

/// System calls at random.
///
/// # Errors
/// When a kernel dies, hangs or does not get its memory back.
pub(crate) fn fuzz_calls(options: &Options) -> Result<()> {
    run_long(options, "fuzz-calls", "OXV_FUZZ", 60.0, "2,4")
}

/// Has the harness run the trials that `variable` turns on.
fn run_long(options: &Options, name: &str, variable: &str, minutes: f64, smp: &str) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let minutes = options.minutes.unwrap_or(minutes);
    let smp = options.smp.as_deref().unwrap_or(smp);
    eprintln!("{name} for {minutes} minutes each with {smp} virtual CPUs; again: cargo xtask {name} --seed {seed}");
    let mut command = boot_command(&test::Options::with_kernel(options.dev))?;
    command.env(variable, ((minutes * 60.0) as u64).to_string());
    run::check(command.env("OXV_TORTURE_SMP", smp).env("OXV_TORTURE_SEED", seed.to_string()))
}
