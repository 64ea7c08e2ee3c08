//! Machines with PCI: interrupts that move, the balloon, the watchdog, the power switch.

use crate::bad_input::{Check, Entry};
use crate::machine::{Door, Monitor};
use crate::mishaps::{Dialogue, expect, oxv, watchdog_on};
use crate::{memory, paths};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// Lines that are passed through a program while its devices' interrupts move.
const ROUNDS: usize = 60;

/// Every check of this file.
#[must_use]
pub fn all() -> Vec<Check> {
    let checks: [Entry; 7] = [
        ("machine/microvm/moving-interrupts", || moving_interrupts("microvm")),
        ("machine/q35/moving-interrupts", || moving_interrupts("q35")),
        ("machine/q35/balloon", || memory::balloon("q35")),
        ("machine/microvm-pcie/balloon", || memory::balloon("microvm-pcie")),
        ("machine/q35/watchdog", || watchdog_on("q35", "cli", 139, "SIGSEGV")),
        ("machine/q35/power-off", || power_off("q35")),
        ("machine/pc/power-off", || power_off("pc")),
    ];
    checks.into_iter().map(|(name, run)| Check { name, run }).collect()
}

/// A program that answers each line, and has the threads of all devices go to another CPU, their interrupts with them, before each answer. One lost
/// interrupt, and it gets no further line.
fn moving_interrupts(machine: &str) -> Result<(), String> {
    const SCRIPT: &str = "n=0; while read line; do echo move-interrupts $((n % 4)) > /dev/oxv-torture; n=$((n+1)); echo got $line; done; echo end";
    let guest = oxv(4, &["--machine", machine, "--append", "torture=device"], &["/bin/busybox", "sh", "-c", SCRIPT]);
    let mut command = Command::new("timeout");
    command.arg("100").arg(guest.get_program()).args(guest.get_args());
    let door = Door::open(&mut command, "");
    let mut dialogue = Dialogue::start(&mut command)?;
    for round in 0..ROUNDS {
        let line = format!("{round} {}", "x".repeat(1 + round * 50));
        dialogue.say(&line)?;
        dialogue.hear(&format!("got {round} "))?;
    }
    if machine == "microvm" {
        lines_go_to(&mut door.enter(LIMIT)?, (ROUNDS - 1) % 4)?;
    }
    dialogue.close_input();
    dialogue.hear("end").map(drop)
}

/// Waits until the lines in use go to that CPU; the emulator shows lines, but no messages.
fn lines_go_to(monitor: &mut Monitor, cpu: usize) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    loop {
        let shown = monitor.human("info pic")?.as_str().unwrap_or_default().to_owned();
        let mut used = shown.lines().filter(|line| line.contains(" pin ") && !line.contains("masked")).peekable();
        if used.peek().is_some() && used.all(|line| line.contains(&format!("dest={cpu} "))) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("the interrupts have not moved to CPU {cpu}:\n{shown}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Without the emulator's exit device the machine is switched off through ACPI, and the program's exit code is known all the same.
fn power_off(machine: &str) -> Result<(), String> {
    let script = paths::guest_dir("machine").join(format!("qemu-without-exit-{machine}"));
    // Another device in the place of that one.
    let text = "#!/bin/sh\nfor word do\n\tshift\n\tcase $word in isa-debug-exit*) word=virtio-rng-pci;; esac\n\tset -- \"$@\" \"$word\"\ndone\nexec qemu-system-x86_64 \"$@\"\n";
    std::fs::write(&script, text)
        .and_then(|()| std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)))
        .map_err(|error| format!("{}: {error}", script.display()))?;
    let mut command = oxv(2, &["--machine", machine], &["/bin/busybox", "sh", "-c", "exit 7"]);
    expect(command.env("OXV_QEMU", script), 7, &[]).map(drop)
}
