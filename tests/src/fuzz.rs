//! System calls that nobody should make: at random (`tests/guest/fuzz_calls.c`): the kernel must survive whatever a program asks of it, and get its memory back.
//!
//! Those that oxv denies (`denied.c`) are here, too, since what the host denies is another matter.
//!
//! Among the boot tests for some seconds with fixed seeds; `cargo xtask fuzz-calls` runs it under torture for as long as wanted.

use crate::bad_input::{Check, Entry};
use crate::case::{Build, Program, Stdin};
use crate::{compare, paths, run, toolchain};
use std::process::Command;
use std::time::Duration;

/// What a run takes besides the fuzzing.
const OVERHEAD: Duration = Duration::from_secs(120);

/// How one machine is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Decides everything but the threads' turns.
    pub seed: u64,
    /// For how long.
    pub seconds: u64,
    /// Whether the kernel preempts, delays and migrates at random, too.
    pub torture: bool,
}

/// The short runs.
#[must_use]
pub fn all() -> Vec<Check> {
    let checks: [Entry; 4] = [
        ("calls/denied", denied),
        ("fuzz/calls-1cpu", || fuzz(&Plan { cpus: 1, seed: 11, seconds: 6, torture: false })),
        ("fuzz/calls-2cpu", || fuzz(&Plan { cpus: 2, seed: 22, seconds: 6, torture: false })),
        ("fuzz/calls-4cpu-torture", || fuzz(&Plan { cpus: 4, seed: 44, seconds: 6, torture: true })),
    ];
    checks.into_iter().map(|(name, run)| Check { name, run }).collect()
}

fn denied() -> Result<(), String> {
    let program = toolchain::program(&Program::Source("denied.c", Build::Dynamic)).map_err(|error| error.to_string())?;
    let mut command = Command::new(paths::oxv());
    command.args(["run", "--cwd", "/", "--"]).arg(&program);
    expect_success(&mut command, OVERHEAD, "denied")
}

/// Fuzzes one machine.
///
/// # Errors
/// What went wrong, with the command that repeats it.
pub fn fuzz(plan: &Plan) -> Result<(), String> {
    let program = toolchain::program(&Program::Source("fuzz_calls.c", Build::Static)).map_err(|error| error.to_string())?;
    let mut command = Command::new(paths::oxv());
    command.args(["run", "--cwd", "/", "--memory", "512M", "--smp", &plan.cpus.to_string()]);
    if plan.torture {
        command.arg(format!("--torture={:#x}", plan.seed));
    }
    command.arg("--").arg(&program).args([plan.seed.to_string(), plan.seconds.to_string(), "3".to_owned(), "3".to_owned()]);
    expect_success(&mut command, Duration::from_secs(plan.seconds) + OVERHEAD, &format!("fuzz-{}cpu", plan.cpus))
}

fn expect_success(command: &mut Command, limit: Duration, name: &str) -> Result<(), String> {
    let outcome = run::outcome(command, &Stdin::Empty, limit);
    if outcome.exit == Some(0) {
        return Ok(());
    }
    let log = run::keep_log(name, &outcome.stderr);
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let shown = run::shown(command);
    Err(format!("exit code {:?}; log: {}\nagain: {shown}\n{said}\n{}", outcome.exit, log.display(), compare::tail(&outcome.stderr, 40)))
}
