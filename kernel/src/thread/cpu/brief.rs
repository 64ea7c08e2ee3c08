//! Waking, waiting and yielding: what threads do most, and the short ways through it while turns are brief (see the module above).
//!
//! The short way of a wake-up is for a thread that the queue knows and that goes before all others
//! ([`runqueue::RunQueue::enqueue_in_front`]): it ran here in this epoch.
//! A full pass begins a new epoch. So whoever changes what a thread may do (affinity, policy) only has to see to it that its CPU makes
//! a full pass, and nothing of that is looked at here.
#![expect(unsafe_code, reason = "state that belongs to one CPU by discipline")]

use super::placement::{IDLE, send, wake_target};
use super::{Local, NEVER, Shared, Why, accept, arm_timer, count_switch, end_ready, let_in, publish_load, schedule, this_cpu};
use crate::interrupt::send_ipi;
use crate::percpu;
use crate::thread::sleep;
use crate::thread::switch::{self, Departure, Leaving};
use crate::thread::{self, Thread, ThreadRef};
use crate::trap::RESCHEDULE_VECTOR;
use arch_x86_64::cpu as processor;
use arch_x86_64::percpu as block;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use runqueue::Unpark;

/// See [`Thread::unpark`]. Interrupts are off from before the thread is woken until it is in a queue or on a list, so that it never
/// waits for a preempted waker.
pub(in crate::thread) fn unpark(thread: &Thread) {
    let in_thread = processor::interrupts_enabled();
    processor::disable_interrupts();
    if !in_thread {
        return unpark_inside(thread);
    }
    if IDLE.load(Ordering::Relaxed) != 0 || !thread.state.wake() {
        return unpark_anywhere(thread);
    }
    // SAFETY: the transition gave us the scheduler reference.
    take_in(unsafe { ThreadRef::from_ptr(NonNull::from(thread)) });
}

/// Stores `status` in `word` and wakes the thread that waits for that.
///
/// A thread that sleeps is won before the store: it cannot end, since it is the caller's to make runnable, and needs no reference
/// counted.
///
/// # Safety
/// Thread and word are alive until the store.
#[inline]
pub(in crate::thread) unsafe fn tell(thread: NonNull<Thread>, word: *const AtomicU32, status: u32) {
    let in_thread = processor::interrupts_enabled();
    processor::disable_interrupts();
    // SAFETY: per the contract, up to the store.
    unsafe {
        if !in_thread || IDLE.load(Ordering::Relaxed) != 0 || !thread.as_ref().state.wake() {
            return tell_anywhere(thread.as_ref(), word, status, in_thread);
        }
        (*word).store(status, Ordering::Release);
        // The transition gave us the scheduler reference.
        take_in(ThreadRef::from_ptr(thread));
    }
}

/// [`tell`], if there is a choice where the thread goes, or if it was seen awake: then it may end at the store.
///
/// # Safety
/// As for [`tell`].
#[inline(never)]
unsafe fn tell_anywhere(thread: &Thread, word: *const AtomicU32, status: u32, in_thread: bool) {
    let thread = ThreadRef::share(thread);
    // SAFETY: per the contract.
    unsafe { &*word }.store(status, Ordering::Release);
    if in_thread {
        processor::enable_interrupts();
    }
    unpark(&thread);
}

/// [`unpark`], by a handler or the scheduler itself. Context: interrupts off, before and after.
#[inline(never)]
fn unpark_inside(thread: &Thread) {
    if thread.state.unpark() == Unpark::MustEnqueue {
        // SAFETY: the transition gave us the scheduler reference.
        let thread = unsafe { ThreadRef::from_ptr(NonNull::from(thread)) };
        send(wake_target(&thread), thread);
    }
}

/// [`unpark`], if there is a choice, or if the thread was seen awake. Context: interrupts off; on when this returns.
#[inline(never)]
fn unpark_anywhere(thread: &Thread) {
    match thread.state.unpark() {
        // SAFETY: the transition gave us the scheduler reference.
        Unpark::MustEnqueue => make_runnable(unsafe { ThreadRef::from_ptr(NonNull::from(thread)) }),
        Unpark::TokenSet | Unpark::Exited => leave_scheduler(),
    }
}

/// Makes a thread runnable that is nowhere, where it is best. Context: interrupts off, not in the scheduler; on when this returns.
#[inline(never)]
fn make_runnable(thread: ThreadRef) {
    place(wake_target(&thread), thread);
}

/// Makes a thread runnable that is nowhere, while no CPU is idle. Context: as for [`make_runnable`].
#[inline(always)]
fn take_in(thread: ThreadRef) {
    // SAFETY: interrupts are off. They were on, so no pass of the scheduler is under way.
    match unsafe { accept_briefly(thread) } {
        Ok(()) => leave_scheduler(),
        Err(thread) => make_runnable(thread),
    }
}

/// Makes a thread that is nowhere runnable on `target`. Context: as for [`make_runnable`].
pub(super) fn place(target: usize, thread: ThreadRef) {
    if target == percpu::cpu_id() {
        accept_now(thread);
    } else {
        send(target, thread);
    }
    leave_scheduler();
}

/// Interrupts on again, and the switch that became due meanwhile.
#[inline(always)]
fn leave_scheduler() {
    processor::enable_interrupts();
    if block::need_resched() {
        thread::reschedule();
    }
}

/// Makes a woken thread runnable here in the simplest case: turns are brief, and the queue knows the thread, which is to be the first.
/// Else nothing has happened.
///
/// # Safety
/// Interrupts are off, and no pass of the scheduler is under way.
#[inline(always)]
unsafe fn accept_briefly(thread: ThreadRef) -> Result<(), ThreadRef> {
    // SAFETY: per the contract.
    let (local, shared) = unsafe { this_cpu() };
    let tsc = processor::rdtsc();
    if tsc >= local.brief_until_tsc || thread.timers.is_armed() {
        return Err(thread);
    }
    let woken = thread.as_ptr();
    // SAFETY: the scheduler reference of a woken thread makes it this CPU's to link.
    unsafe { local.queue.enqueue_in_front(thread) }?;
    // SAFETY: it is in the queue.
    let woken = unsafe { woken.as_ref() };
    woken.ready_tsc.store(tsc, Ordering::Relaxed);
    shared.load.store(shared.load.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    thread::with_current(|current| {
        if local.queue.wake_preempts(woken, current) {
            block::set_need_resched(true);
        }
    });
    Ok(())
}

/// Makes a thread runnable on this CPU, and asks for a switch if it should run at once.
/// Context: interrupts off, not in the scheduler.
fn accept_now(thread: ThreadRef) {
    // SAFETY: interrupts are off, and no pass of the scheduler is under way.
    let (local, shared) = unsafe { this_cpu() };
    if thread.timers.cpu().is_some_and(|cpu| cpu != local.cpu) {
        return send(local.cpu, thread);
    }
    let Some(thread) = let_in(local, thread) else { return };
    thread::with_current(|current| {
        let tsc = processor::rdtsc();
        thread.ready_tsc.store(tsc, Ordering::Relaxed);
        // SAFETY: the thread was woken or is new, and its scheduler reference is ours.
        unsafe { thread.go_to(local.cpu) };
        if tsc >= local.brief_until_tsc {
            return accept_late(local, shared, current, thread);
        }
        let woken = thread.as_ptr();
        accept(local, thread);
        publish_load(local, shared);
        if local.preempted_by(woken, current) {
            block::set_need_resched(true);
        }
    });
}

/// [`accept_now`] when turns are not brief.
#[inline(never)]
fn accept_late(local: &mut Local, shared: &Shared, current: &Thread, thread: ThreadRef) {
    let now = local.account(shared, current);
    let woken = thread.as_ptr();
    accept(local, thread);
    publish_load(local, shared);
    if local.is_idle(current) || local.preempted_by(woken, current) {
        block::set_need_resched(true);
    } else {
        arm_timer(local, current, now);
    }
}

/// Waits; `thread` is the running one. Context: thread, preemption count 0.
#[inline(always)]
pub(in crate::thread) fn wait(thread: &Thread, deadline_ns: u64) {
    processor::disable_interrupts();
    if !thread.state.take_token() {
        // SAFETY: interrupts are off; the borrow ends before the switch.
        let next = if deadline_ns == NEVER || set_timer(thread, deadline_ns) { unsafe { next_at_once(thread) } } else { None };
        match next {
            Some(next) => {
                count_switch(thread, Departure::Parked);
                // SAFETY: as required; the queue has given the scheduler reference of `next` to this CPU.
                unsafe { switch::switch_to(thread, next.as_ref(), Leaving::Voluntarily, Departure::Parked) };
            }
            None => schedule(thread, Why::Parking),
        }
    }
    leave_scheduler();
}

/// The thread that runs after `current`, which waits or ends, if turns are brief and one is ready. Whether a switch is due is not looked
/// at: whoever comes to run does that first of all.
///
/// # Safety
/// Interrupts are off and no pass of the scheduler is under way.
#[inline(always)]
pub(super) unsafe fn next_at_once(current: &Thread) -> Option<NonNull<Thread>> {
    // SAFETY: per the contract.
    let (local, shared) = unsafe { this_cpu() };
    let tsc = processor::rdtsc();
    if tsc >= local.brief_until_tsc {
        return None;
    }
    debug_assert!(!local.is_idle(current), "the idle thread would sleep");
    let next = match local.queue.pick_front() {
        Some(next) => {
            shared.load.store(shared.load.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
            next
        }
        None => next_of_several(local, shared)?,
    };
    local.charge_briefly(shared, current, tsc);
    end_ready(&next, tsc);
    Some(next.into_ptr())
}

/// The first of a queue.
#[inline(never)]
fn next_of_several(local: &mut Local, shared: &Shared) -> Option<ThreadRef> {
    let next = local.queue.pick_another()?;
    shared.load.store(local.queue.load(), Ordering::Relaxed);
    Some(next)
}

/// Sets a timer for the running thread. Returns whether the hardware timer fires in time for it. Context: interrupts off.
#[inline(never)]
fn set_timer(thread: &Thread, deadline_ns: u64) -> bool {
    // SAFETY: interrupts are off.
    let (local, _) = unsafe { this_cpu() };
    // SAFETY: this is the thread's CPU, with interrupts off.
    if unsafe { sleep::set(&mut local.timers, local.cpu, thread, deadline_ns) } {
        return deadline_ns >= local.armed_ns;
    }
    // Both timers are still in queues of other CPUs. Rather than without one the thread waits for one to come back; whoever
    // waits tolerates being woken for nothing.
    match sleep::want(thread) {
        Some(cpu) => send_ipi(cpu, RESCHEDULE_VECTOR),
        None => thread.unpark(),
    }
    false
}

/// See [`thread::yield_now`].
pub(in crate::thread) fn yield_now() {
    processor::disable_interrupts();
    thread::with_current(|current| {
        // SAFETY: interrupts are off; the borrow ends before the switch.
        let (local, shared) = unsafe { this_cpu() };
        let tsc = processor::rdtsc();
        if tsc >= local.brief_until_tsc {
            return yield_late(current, local, shared);
        }
        if local.queue.is_empty() {
            return;
        }
        local.charge_briefly(shared, current, tsc);
        // SAFETY: the running thread's scheduler reference is this CPU's, so it is ours to link.
        let next = match unsafe { local.queue.exchange(ThreadRef::from_ptr(NonNull::from(current))) } {
            Ok(next) => next.into_ptr(),
            Err(current) => {
                // It goes on, with the reference it had.
                let _running = current.into_ptr();
                return;
            }
        };
        count_switch(current, Departure::Queued);
        current.ready_tsc.store(tsc, Ordering::Relaxed);
        // SAFETY: it is this CPU's.
        end_ready(unsafe { next.as_ref() }, tsc);
        // SAFETY: as required; the queue has given the scheduler reference of `next` to this CPU.
        unsafe { switch::switch_to(current, next.as_ref(), Leaving::Voluntarily, Departure::Queued) };
    });
    leave_scheduler();
}

/// Yields when turns are not brief. Context: interrupts off.
#[inline(never)]
fn yield_late(current: &Thread, local: &Local, shared: &Shared) {
    if !local.queue.is_empty() || !shared.incoming.is_empty() || block::need_resched() {
        schedule(current, Why::Yielded);
    }
}
