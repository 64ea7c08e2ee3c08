//! Memory and file sizes.

use super::guest::Guest;
use super::machine::{Clock, Machine, result_line};
use super::programs;
use crate::run;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Smallest memory, in MiB, in which the program prints its line.
pub(super) fn min_memory(guest: &dyn Guest) -> Result<f64> {
    let program = programs::compile("boot_to_output")?;
    let boots = |mib: u64| -> Result<bool> {
        let mut command = guest.command(&program, Machine::one_cpu(mib, Clock::Real))?;
        Ok(result_line(&mut command, "boot_to_output", Duration::from_secs(40)).is_ok())
    };
    let (mut fails, mut works) = (1, 256);
    if !boots(works)? {
        bail!("it does not boot in {works} MiB");
    }
    while works - fails > 1 {
        let middle = (works + fails) / 2;
        if boots(middle)? { works = middle } else { fails = middle }
    }
    Ok(works as f64)
}

/// Size of the image with the program alone.
pub(super) fn image_size(guest: &dyn Guest) -> Result<f64> {
    guest.image_size(&programs::compile("boot_to_output")?)
}

/// Bytes of memory that an ELF file's loadable segments take.
pub(super) fn loadable(kernel: &Path) -> Result<f64> {
    let headers = run::output(Command::new("readelf").arg("-lW").arg(kernel))?;
    let mut total = 0;
    for line in headers.lines().filter(|line| line.trim_start().starts_with("LOAD")) {
        let size = line.split_whitespace().nth(5).and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        total += size.with_context(|| format!("readelf printed {line:?}"))?;
    }
    Ok(total as f64)
}
