//! From reset to the first line of output: by the wall clock and in instructions.

use super::guest::Guest;
use super::machine::{Clock, Machine, result_line};
use super::programs;
use anyhow::Result;
use std::time::Duration;

/// Milliseconds from the start of the emulator to the program's line: the median of seven runs.
///
/// # Errors
/// When the line does not come.
pub(super) fn boot_to_output(guest: &dyn Guest) -> Result<f64> {
    let program = programs::compile("boot_to_output")?;
    let once = || -> Result<Duration> {
        let mut command = guest.command(&program, Machine::one_cpu(256, Clock::Real))?;
        Ok(result_line(&mut command, "boot_to_output", Duration::from_secs(120))?.after)
    };
    once()?; // fills the caches: the image, the host's page cache
    let mut times = (0..7).map(|_| once()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok((times[3].as_secs_f64() * 1000.0).round())
}

/// Instructions from reset to behind the program's first line.
///
/// # Errors
/// When the line does not come.
pub(super) fn reset_to_hello(guest: &dyn Guest) -> Result<f64> {
    let mut command = guest.command(&programs::compile("reset_to_hello")?, Machine::one_cpu(256, Clock::Instructions))?;
    Ok(result_line(&mut command, "reset_to_hello", Duration::from_secs(240))?.value)
}
