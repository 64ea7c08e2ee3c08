//! When memory has run out and nothing could be reclaimed: which process dies, and the report of who has the memory.
//!
//! As Linux does, the process with the most memory dies, with `oom_score_adj` as a handicap: a thousandth of the memory per point,
//! and -1000 to be left alone. If that is another one than the process that needs a page, the latter waits for its end and goes on.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use kernel::clock::monotonic_ns;
use kernel::mm::{MemoryInfo, has_frame_for_program, memory_info, slab_info};
use linux_abi::signal::{SigInfo, Signal, code};
use sync::Mutex;

use crate::process::{Process, Task, all_processes};

const KIB_PER_FRAME: u64 = 4;
/// Value of `oom_score_adj` that exempts a process.
const EXEMPT: i32 = -1000;
/// How long a killed process may take to end before another one is chosen.
const PATIENCE_NS: u64 = 5_000_000_000;
/// How long those who need memory sleep between two looks.
const PAUSE_NS: u64 = 5_000_000;

/// Who was killed last, and when.
static DYING: Mutex<Option<(u32, u64)>> = Mutex::new(None);

/// How much would be won by killing a process, in frames; none if it must not be.
fn points(process: &Process, total: u64) -> Option<i64> {
    let adjustment = process.oom_score_adj.load(Ordering::Relaxed);
    if adjustment <= EXEMPT || process.thread_count() == 0 {
        return None;
    }
    Some(process.space().resident_pages() as i64 + i64::from(adjustment) * total as i64 / 1000)
}

/// `/proc/PID/oom_score`: thousandths of the memory.
pub(crate) fn score(process: &Process) -> u64 {
    let total = memory_info().total_frames.max(1);
    points(process, total).map_or(0, |points| u64::try_from(points * 1000 / total as i64).unwrap_or(0))
}

/// The running program needs a page and there is none. Returns whether it should try again, since another process is ending for it.
pub(crate) fn make_room(task: &Task) -> bool {
    if task.pending_signals().contains(Signal::SIGKILL) {
        return false;
    }
    let Some((pid, since_ns)) = *DYING.lock() else { return kill_another(task) };
    // Its memory goes after its last thread.
    let has_memory = |process: Arc<Process>| process.thread_count() > 0 || process.space().resident_pages() > 0;
    let dying = crate::process::find_process(pid).is_some_and(has_memory);
    if dying && pid != task.process().pid() && monotonic_ns() < since_ns + PATIENCE_NS {
        pause();
        return true;
    }
    kill_another(task)
}

fn pause() {
    // May return early; then the look comes early.
    kernel::thread::park(monotonic_ns() + PAUSE_NS);
}

/// Kills the process with the most memory, unless that is the caller's own, or memory has come free since the caller asked for it.
fn kill_another(task: &Task) -> bool {
    if has_frame_for_program() {
        return true;
    }
    let total = memory_info().total_frames;
    let Some(victim) = all_processes().into_iter().filter_map(|process| Some((points(&process, total)?, process))).max_by_key(|(points, _)| *points) else {
        return false;
    };
    let victim = victim.1;
    if victim.pid() == task.process().pid() {
        return false;
    }
    let Some(last) = victim.tasks().into_iter().next() else { return false };
    {
        let mut dying = DYING.lock();
        // Another thread was faster; its choice counts for a while.
        if dying.is_some_and(|(pid, since_ns)| pid == victim.pid() && monotonic_ns() < since_ns + PATIENCE_NS) {
            return true;
        }
        *dying = Some((victim.pid(), monotonic_ns()));
    }
    kill(&last);
    pause();
    true
}

/// Kills the process of `task`, which dies on its way out of the kernel, and reports.
pub(crate) fn kill(task: &Task) {
    if task.pending_signals().contains(Signal::SIGKILL) {
        return;
    }
    report(task);
    // SIGKILL is never refused.
    let _sent = task.process().send_signal(Signal::SIGKILL, SigInfo::fault(Signal::SIGKILL, code::SI_KERNEL, 0));
}

/// Tells the host that the process of `task` is killed, and what the memory is used for.
pub(crate) fn report(task: &Task) {
    kernel::control::send_report(&render(&task.name(), task.process().pid(), &memory_info()));
}

fn render(name: &str, pid: u32, info: &MemoryInfo) -> String {
    let mut out = String::new();
    let _infallible = writeln!(out, "out of memory: {name} (pid {pid}) was killed");
    let programs = programs(&mut out);
    let image = kernel::boot_info().initrd.as_ref().map_or(0, |range| (range.end - range.start) / 1024);
    let kib = |frames: u64| frames * KIB_PER_FRAME;
    let kernel = info.heap_frames + info.table_frames + info.stack_frames + info.lent_frames;
    let used = info.total_frames - info.free_frames;
    let rows = [
        ("anonymous memory of programs", kib(programs)),
        ("files in memory, shared memory", kib(used.saturating_sub(programs + kernel))),
        ("kernel heap", kib(info.heap_frames)),
        ("page tables", kib(info.table_frames)),
        ("kernel stacks", kib(info.stack_frames)),
        ("lent to the host", kib(info.lent_frames)),
        ("free, kept for the kernel", kib(info.free_frames)),
        ("all of these", kib(info.total_frames)),
        ("the program's image, beside that", image),
    ];
    for (what, kib) in rows {
        let _infallible = writeln!(out, "{kib:>10} KiB  {what}");
    }
    largest_slabs(&mut out, info);
    out.push_str("give the machine more memory with --memory, or the program less to do\n");
    out
}

/// Frames of private memory of all processes. Lists them if there are several.
fn programs(out: &mut String) -> u64 {
    const MOST: usize = 20;
    let mut processes: Vec<(u64, Arc<Process>)> =
        all_processes().into_iter().map(|process| (process.space().own_frames(), process)).collect();
    processes.sort_unstable_by_key(|(frames, _)| core::cmp::Reverse(*frames));
    if processes.len() > 1 {
        for (frames, process) in processes.iter().take(MOST).filter(|(frames, _)| *frames > 0) {
            let (kib, name, threads) = (frames * KIB_PER_FRAME, name(process), process.thread_count());
            let _infallible = writeln!(out, "{kib:>10} KiB  {name} (pid {}, {threads} threads)", process.pid());
        }
    }
    processes.iter().map(|(frames, _)| frames).sum()
}

/// What the kernel heap consists of, if that is much: a program that makes many objects in the kernel is found by their size.
fn largest_slabs(out: &mut String, info: &MemoryInfo) {
    const MOST: usize = 4;
    if info.heap_frames * 16 < info.total_frames {
        return;
    }
    let mut classes = slab_info();
    classes.sort_unstable_by_key(|class| core::cmp::Reverse(class.slabs));
    let _infallible = writeln!(out, "kernel heap: {} KiB in objects above 2 KiB", info.large_heap_frames * KIB_PER_FRAME);
    for class in classes.iter().take(MOST).filter(|class| class.slabs > 0) {
        let (kib, size) = (class.slabs * KIB_PER_FRAME, class.object_size);
        let _infallible = writeln!(out, "kernel heap: {kib} KiB in {} objects of up to {size} bytes", class.active);
    }
}

fn name(process: &Process) -> String {
    process.tasks().first().map_or_else(String::new, |task| task.name())
}
