//! What only root may do: programs whose own checks must hold in oxv. They are not compared with the host, whose rights are not known.

use crate::bad_input::{Check, Entry};
use crate::case::{Build, Program, Stdin};
use crate::{compare, paths, run, toolchain};
use std::process::Command;
use std::time::Duration;

/// Every check of this file.
#[must_use]
pub fn all() -> Vec<Check> {
    let checks: [Entry; 4] = [
        ("privileged/mounts", || checks_itself("mounts.c")),
        ("privileged/device-nodes", || checks_itself("device_nodes.c")),
        ("privileged/kernel-log", || checks_itself("kernel_log.c")),
        ("privileged/adjtime", || checks_itself("adjtime.c")),
    ];
    checks.into_iter().map(|(name, run)| Check { name, run }).collect()
}

/// The program must say `done` with one and with four CPUs.
fn checks_itself(source: &'static str) -> Result<(), String> {
    let program = toolchain::program(&Program::Source(source, Build::Dynamic)).map_err(|error| error.to_string())?;
    for cpus in ["1", "4"] {
        let mut command = Command::new(paths::oxv());
        command.args(["run", "--cwd", "/", "--smp", cpus, "--"]).arg(&program);
        let outcome = run::outcome(&mut command, &Stdin::Empty, Duration::from_secs(120));
        if outcome.exit != Some(0) || !outcome.stdout.ends_with(b"done\n") {
            let output = compare::tail(&outcome.stdout, 60);
            return Err(format!("{}\nexit code {:?}\n{output}", run::shown(&command), outcome.exit));
        }
    }
    Ok(())
}
