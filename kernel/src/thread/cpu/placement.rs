//! Placement: which CPU a thread goes to when it is woken, new, or not allowed where it is.
//!
//! A woken or new thread goes home if that CPU is idle, else to an idle CPU, else home (a new one: to the least loaded). [`IDLE`] has a
//! bit for every CPU that is idle *and not promised a thread*: whoever sends a thread there takes the bit, so that a burst of
//! threads spreads. The CPU puts it back before it halts again.
#![expect(unsafe_code, reason = "threads travel by their scheduler reference")]

use super::brief::place;
use super::{mischief, shared};
use crate::interrupt::send_ipi;
use crate::percpu::{self, PreemptGuard};
use crate::thread::sleep;
use crate::thread::{self, Thread, ThreadRef};
use crate::torture;
use crate::trap::RESCHEDULE_VECTOR;
use arch_x86_64::cpu as processor;
use arch_x86_64::percpu as block;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use lockfree::mpsc::Push;

/// CPUs that are idle and not promised a thread, bit N for CPU N. A CPU sets its own bit; whoever sends it a thread clears it.
pub(super) static IDLE: AtomicU64 = AtomicU64::new(0);

/// This CPU is idle: whoever has a thread for it may take it. Context: interrupts off.
pub(in crate::thread) fn offer_this_cpu() {
    let bit = 1 << percpu::cpu_id();
    if IDLE.load(Ordering::Relaxed) & bit == 0 {
        IDLE.fetch_or(bit, Ordering::Relaxed);
    }
}

#[inline(always)]
pub(super) fn allows(thread: &Thread, cpu: usize) -> bool {
    thread.affinity.load(Ordering::Relaxed) & 1 << cpu != 0
}

/// The least loaded CPU that the thread may run on.
pub(super) fn allowed_cpu(thread: &Thread) -> usize {
    if torture::is_on() {
        return mischief::any_of(thread.affinity() & u64::MAX >> (64 - percpu::cpu_count()));
    }
    (0..percpu::cpu_count())
        .filter(|&cpu| allows(thread, cpu))
        .min_by_key(|&cpu| shared(cpu).load.load(Ordering::Relaxed))
        .unwrap_or(0)
}

/// Puts a thread on `target`'s incoming list and makes that CPU look.
#[inline(never)]
pub(super) fn send(target: usize, thread: ThreadRef) {
    let _here = PreemptGuard::new();
    if torture::is_on() {
        mischief::check_saved(&thread);
    }
    if thread.timers.cpu().is_some_and(|cpu| cpu != target)
        && let Some((cpu, timer)) = sleep::abandon(&thread)
    {
        // SAFETY: `abandon` gives each timer out once until it is given back.
        let _seen_in_its_next_pass = unsafe { shared(cpu).abandoned.push(timer) };
    }
    // SAFETY: whoever calls holds the scheduler reference of a thread that is nowhere.
    unsafe { thread.go_to(target) };
    thread.ready_tsc.store(processor::rdtsc(), Ordering::Relaxed);
    // SAFETY: whoever calls holds the scheduler reference of a thread that is nowhere else, and so alone may link it.
    let push = unsafe { shared(target).incoming.push(thread) };
    if target == percpu::cpu_id() {
        block::set_need_resched(true);
    } else if push == Push::WasEmpty && shared(target).poll.needs_interrupt() {
        send_ipi(target, RESCHEDULE_VECTOR);
    }
}

/// Sends a thread that is nowhere to a CPU that it may run on.
pub(in crate::thread) fn send_elsewhere(thread: ThreadRef) {
    send(allowed_cpu(&thread), thread);
}

/// Keeps a thread runnable here that was woken while it fell asleep. Context: interrupts off.
pub(in crate::thread) fn stay(thread: ThreadRef) {
    send(percpu::cpu_id(), thread);
}

/// Takes an idle CPU that the thread may run on: `home` if it can be had.
pub(super) fn claim_idle(thread: &Thread, home: usize) -> Option<usize> {
    let mut idle = IDLE.load(Ordering::Relaxed) & thread.affinity();
    while idle != 0 {
        let cpu = if idle & 1 << home != 0 { home } else { idle.trailing_zeros() as usize };
        if IDLE.fetch_and(!(1 << cpu), Ordering::Relaxed) & 1 << cpu != 0 {
            return Some(cpu);
        }
        idle &= !(1 << cpu);
    }
    None
}

/// Where a woken thread goes: home if that CPU is idle, else to an idle CPU, else home.
pub(super) fn wake_target(thread: &Thread) -> usize {
    let home = thread.cpu();
    if torture::is_on() && mischief::misplaces() {
        return allowed_cpu(thread);
    }
    claim_idle(thread, home).unwrap_or_else(|| if allows(thread, home) { home } else { allowed_cpu(thread) })
}

/// Puts a new thread on an idle CPU, or else the least loaded one.
pub(in crate::thread) fn start(thread: ThreadRef) {
    if block::current().is_null() {
        return send(0, thread);
    }
    let home = thread::with_current(|creator| {
        thread.entity.inherit(&creator.entity);
        creator.cpu()
    });
    let in_thread = processor::interrupts_enabled();
    processor::disable_interrupts();
    let target = claim_idle(&thread, home).unwrap_or_else(|| allowed_cpu(&thread));
    if target != percpu::cpu_id() {
        // Until the target looks itself, so that the next of a burst of new threads goes elsewhere.
        shared(target).load.fetch_add(1, Ordering::Relaxed);
    }
    if in_thread { place(target, thread) } else { send(target, thread) }
}

/// Makes the CPU that `thread` runs on, or will run on next, pass through the exit path of a trap.
///
/// A thread that comes to run elsewhere meanwhile travelled there by read-modify-writes that came after the caller's own, on
/// the word that says what it is kicked for; so it sees that word.
pub(in crate::thread) fn kick(thread: &Thread) {
    let _here = PreemptGuard::new();
    let cpu = thread.cpu();
    if cpu == percpu::cpu_id() {
        block::set_need_resched(true);
    } else if !thread.state.is_sleeping() {
        send_ipi(cpu, RESCHEDULE_VECTOR);
    }
}

/// Has the thread's CPU look whether it may still run there. Also if it sleeps: the full pass ends the epoch in which it would be woken
/// without a look.
pub(in crate::thread) fn affinity_changed(thread: &Thread) {
    let _here = PreemptGuard::new();
    // Whoever puts the thread on another CPU's list meanwhile says so before that CPU looks at the new mask; this is the other half.
    fence(Ordering::SeqCst);
    review(thread.cpu());
}

/// Has every CPU look at what holds for all of them.
pub(in crate::thread) fn review_all() {
    let _here = PreemptGuard::new();
    (0..percpu::cpu_count()).for_each(review);
}

/// Has a CPU look at its queue. Context: preemption disabled.
fn review(cpu: usize) {
    shared(cpu).review.store(true, Ordering::Release);
    if cpu == percpu::cpu_id() {
        block::set_need_resched(true);
    } else {
        send_ipi(cpu, RESCHEDULE_VECTOR);
    }
}

/// Has the thread's CPU look where the thread now belongs.
pub(in crate::thread) fn policy_changed(thread: &Thread) {
    affinity_changed(thread);
}
