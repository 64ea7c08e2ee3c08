//! The report of a program that dies because the machine has no memory left: who has it.

use alloc::string::String;
use core::fmt::Write;

use kernel::mm::{MemoryInfo, memory_info};

use crate::process::{Process, Task, all_processes};

const KIB_PER_FRAME: u64 = 4;

/// Tells the host that the process of `task` is killed, and what the memory is used for.
pub(super) fn send(task: &Task) {
    let process = task.process();
    kernel::control::send_report(&render(&task.name(), process.pid(), &memory_info()));
}

fn render(name: &str, pid: u32, info: &MemoryInfo) -> String {
    let mut out = String::new();
    let _infallible = writeln!(out, "out of memory: {name} (pid {pid}) was killed");
    let programs = programs(&mut out);
    let image = kernel::boot_info().initrd.as_ref().map_or(0, |range| (range.end - range.start) / 1024);
    let kernel = (info.heap_frames + info.table_frames + info.stack_frames) * KIB_PER_FRAME;
    let used = (info.total_frames - info.free_frames) * KIB_PER_FRAME;
    let rows = [
        ("programs", programs),
        ("files in memory, shared memory", used.saturating_sub(programs + kernel)),
        ("kernel heap", info.heap_frames * KIB_PER_FRAME),
        ("page tables", info.table_frames * KIB_PER_FRAME),
        ("kernel stacks", info.stack_frames * KIB_PER_FRAME),
        ("free, kept for the kernel", info.free_frames * KIB_PER_FRAME),
        ("all of these", info.total_frames * KIB_PER_FRAME),
        ("the program's image, beside that", image),
    ];
    for (what, kib) in rows {
        let _infallible = writeln!(out, "{kib:>10} KiB  {what}");
    }
    out.push_str("give the machine more memory with --memory, or the program less to do\n");
    out
}

/// KiB of private memory of all processes. Lists them if there are several.
fn programs(out: &mut String) -> u64 {
    const MOST: usize = 20;
    let processes = all_processes();
    let kib = |process: &Process| process.space().own_frames() * KIB_PER_FRAME;
    if processes.len() > 1 {
        for process in processes.iter().take(MOST) {
            let _infallible = writeln!(out, "{:>10} KiB  {} (pid {})", kib(process), name(process), process.pid());
        }
    }
    processes.iter().map(|process| kib(process)).sum()
}

fn name(process: &Process) -> String {
    process.tasks().first().map_or_else(String::new, |task| task.name())
}
