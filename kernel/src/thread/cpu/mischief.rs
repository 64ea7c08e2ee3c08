//! What torture does to the scheduler. Every function is called with torture on, in the scheduler's context: interrupts off.
//!
//! Promises kept: a thread that is held back is as on its way through an incoming list, owned by the list it is on; each
//! pass of the scheduler lets it go with even chance, and [`rearm_timer`](super::rearm_timer) makes a pass happen within milliseconds.

use super::{Local, accept, unpark};
use crate::percpu::MAX_CPUS;
use crate::thread::{Thread, ThreadRef};
use crate::torture::{below, once_in, send_owed};
use arch_x86_64::percpu as block;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};
use lockfree::mpsc::MpscList;

struct Mischief {
    held: MpscList<ThreadRef>,
    /// A thread that ran here, counted; it is woken now and then, wherever it is.
    victim: AtomicPtr<Thread>,
}

static MISCHIEF: [Mischief; MAX_CPUS] = [const { Mischief { held: MpscList::new(), victim: AtomicPtr::new(ptr::null_mut()) } }; MAX_CPUS];

/// A pass of the scheduler of CPU `cpu`: lets go what was held back, and wakes threads without reason.
#[cold]
pub(super) fn pass(local: &mut Local, current: &Thread) {
    let (cpu, is_idle) = (local.cpu, local.is_idle(current));
    send_owed();
    for thread in MISCHIEF[cpu].held.take_all() {
        if once_in(2) {
            accept(local, thread);
        } else {
            hold(cpu, thread);
        }
    }
    if !is_idle && once_in(8) {
        unpark(current);
    }
    wake_victim(cpu, current, is_idle);
}

fn wake_victim(cpu: usize, current: &Thread, is_idle: bool) {
    let slot = &MISCHIEF[cpu].victim;
    let Some(victim) = NonNull::new(slot.load(Ordering::Relaxed)) else {
        if !is_idle {
            slot.store(ThreadRef::share(current).into_ptr().as_ptr(), Ordering::Relaxed);
        }
        return;
    };
    if once_in(4) {
        // SAFETY: the slot, which only this CPU changes, holds a reference.
        unpark(unsafe { victim.as_ref() });
    }
    if once_in(16) {
        slot.store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: the slot's reference, taken out above.
        drop(unsafe { ThreadRef::from_ptr(victim) });
    }
}

/// Holds a woken thread back, sometimes; otherwise returns it.
#[cold]
pub(super) fn sift(cpu: usize, thread: ThreadRef) -> Option<ThreadRef> {
    if !once_in(4) {
        return Some(thread);
    }
    hold(cpu, thread);
    None
}

fn hold(cpu: usize, thread: ThreadRef) {
    // It will run here, as if it had been sent here.
    // SAFETY: a woken thread belongs to whoever has its scheduler reference.
    unsafe { thread.go_to(cpu) };
    // SAFETY: a woken thread, and with it its link, belongs to whoever has it.
    let _ = unsafe { MISCHIEF[cpu].held.push(thread) };
}

/// A thread that is sent may run elsewhere at once: so its registers are saved, and it does not run here.
#[cold]
pub(super) fn check_saved(sent: &Thread) {
    let runs = block::current().cast() == ptr::from_ref(sent).cast_mut();
    assert!(!runs, "thread {} is sent away while it runs", sent.id);
}

/// What becomes of a thread that could go on running.
pub(super) enum Fate {
    Stays,
    Preempted,
    Migrates,
}

/// Decides about a running thread.
#[cold]
pub(super) fn fate() -> Fate {
    match below(16) {
        0..8 => Fate::Preempted,
        8 => Fate::Migrates,
        _ => Fate::Stays,
    }
}

/// Whether turns are not to be brief, though they could.
#[cold]
pub(super) fn disturbs() -> bool {
    once_in(2)
}

/// Whether a thread that may run anywhere is sent somewhere by chance.
#[cold]
pub(super) fn misplaces() -> bool {
    once_in(4)
}

/// One of the CPUs of a mask that is not empty.
#[cold]
pub(super) fn any_of(mask: u64) -> usize {
    let skipped = below(u64::from(mask.count_ones()));
    (0..skipped).fold(mask, |mask, _| mask & (mask - 1)).trailing_zeros() as usize
}
