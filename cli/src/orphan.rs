//! Ties a child's life to ours: an emulator must not outlive an `oxv` that was killed.
#![expect(unsafe_code, reason = "pre_exec is the only way to set a child's parent-death signal")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Lets the kernel kill the child when the thread that starts it, which must be the main one, ends.
pub(crate) fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes one prctl(2) call: no allocation, no lock.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) }
}
