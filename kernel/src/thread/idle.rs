//! The idle threads: what a CPU does that has nothing to do.
//!
//! It asks a loaded CPU for a thread, and waits for an interrupt. Before it halts it may look for work for a while, if it has
//! learnt that work comes soon ([`runqueue::PollWindow`]): then neither the halt nor the interrupt that ends it is needed. One of
//! the waits that doc/locking.md lists: at most [`runqueue::PollWindow::LONGEST_NS`], never with a single CPU, and not at all on a
//! machine that is really idle.

use super::cpu::{self, shared};
use super::reference;
use crate::interrupt::send_ipi;
use crate::percpu;
use crate::trap::RESCHEDULE_VECTOR;
use crate::{clock, mm};
use arch_x86_64::percpu as block;
use arch_x86_64::cpu as processor;
use core::sync::atomic::Ordering;
use runqueue::IMBALANCE;

/// The idle thread's life.
pub(crate) fn run_idle() -> ! {
    processor::disable_interrupts();
    let _due = block::preempt_enable();
    loop {
        if work_is_there() {
            cpu::reschedule_voluntarily();
            continue;
        }
        ask_for_work();
        reference::reap_when_idle();
        if work_is_there() {
            continue;
        }
        if mm::has_idle_work() && do_idle_work() || poll() {
            continue;
        }
        cpu::offer_this_cpu();
        processor::enable_and_halt();
    }
}

/// Does a bit of the memory's work, with interrupts on. Whether there was any progress.
fn do_idle_work() -> bool {
    cpu::offer_this_cpu();
    processor::enable_interrupts();
    let progress = mm::idle_work();
    processor::disable_interrupts();
    progress
}

/// Whether the scheduler has something to look at. Context: interrupts off.
fn work_is_there() -> bool {
    block::need_resched() || !shared(percpu::cpu_id()).incoming.is_empty()
}

/// Looks for work as long as that has paid lately. Whether some came. Context: interrupts off (on meanwhile).
fn poll() -> bool {
    let shared = shared(percpu::cpu_id());
    let window_ns = shared.poll_window_ns.load(Ordering::Relaxed);
    if window_ns == 0 || percpu::cpu_count() == 1 {
        return false;
    }
    cpu::offer_this_cpu();
    let until = clock::monotonic_ns() + window_ns;
    shared.poll.begin();
    processor::enable_interrupts();
    let mut found = work_is_there();
    while !found && clock::monotonic_ns() < until {
        core::hint::spin_loop();
        found = work_is_there();
    }
    processor::disable_interrupts();
    // Whoever pushed while the flag was up sent no interrupt: so the caller must look once more.
    shared.poll.end();
    found || work_is_there()
}

fn ask_for_work() {
    let this = percpu::cpu_id();
    let loads = (0..percpu::cpu_count()).filter(|&cpu| cpu != this).map(|cpu| (shared(cpu).load.load(Ordering::Relaxed), cpu));
    let Some((load, victim)) = loads.max() else { return };
    if load >= IMBALANCE && shared(victim).wanted_by.fetch_or(1 << this, Ordering::Release) & 1 << this == 0 {
        send_ipi(victim, RESCHEDULE_VECTOR);
    }
}
