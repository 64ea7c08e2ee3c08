//! Metrics in guest instructions: exact and independent of the host's load.

use super::guest::{Clock, Guest, result_line};
use super::program;
use anyhow::Result;
use std::time::Duration;

/// Runs `bench/NAME` with the instruction clock on one CPU.
pub(super) fn instructions(guest: &dyn Guest, name: &str) -> Result<f64> {
    let mut command = guest.command(&program(name)?, 256, Clock::Instructions)?;
    Ok(result_line(&mut command, name, Duration::from_secs(240))?.value)
}
