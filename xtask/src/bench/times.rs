//! Boot time, by the wall clock.

use super::guest::{Clock, Guest, result_line};
use super::program;
use anyhow::Result;
use std::time::Duration;

/// Milliseconds from the start of the emulator to the program's line: the median of seven runs.
pub(super) fn boot_to_output(guest: &dyn Guest) -> Result<f64> {
    let program = program("boot_to_output")?;
    let once = || -> Result<Duration> {
        let mut command = guest.command(&program, 256, Clock::Real)?;
        Ok(result_line(&mut command, "boot_to_output", Duration::from_secs(120))?.after)
    };
    once()?; // fills the caches: the image, the host's page cache
    let mut times = (0..7).map(|_| once()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok((times[3].as_secs_f64() * 1000.0).round())
}
