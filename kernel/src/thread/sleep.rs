//! A thread's timers: the queues and lists that [`runqueue::SleepTimers`], whose theory statement has the protocol, speaks of.
#![expect(unsafe_code, reason = "timers are linked in place")]

use super::{Thread, ThreadRef};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};
use lockfree::mpsc::{MpscLink, MpscNode, OwningPtr};
use runqueue::{GivenBack, SleepTimers, TIMERS, TimerPlace};
use timer::{Timed, TimerNode, TimerQueue};

/// One timer, as queues and lists know it.
pub(super) struct SleepTimer {
    node: TimerNode,
    link: MpscLink,
    thread: AtomicPtr<Thread>,
}

// SAFETY: always the same field.
unsafe impl Timed for SleepTimer {
    fn timer_node(&self) -> &TimerNode {
        &self.node
    }
}

// SAFETY: always the same field, used by lists of abandoned timers alone.
unsafe impl MpscNode for SleepTimer {
    fn mpsc_link(&self) -> &MpscLink {
        &self.link
    }
}

impl SleepTimer {
    const fn new() -> Self {
        Self { node: TimerNode::new(), link: MpscLink::new(), thread: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Which of its thread's timers it is.
    fn index_in(&self, thread: &Thread) -> usize {
        thread.timers.timers.iter().position(|timer| ptr::eq(timer, self)).expect("a timer is one of its thread's")
    }
}

/// A thread's timers.
pub(super) struct Timers {
    timers: [SleepTimer; TIMERS],
    places: SleepTimers,
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self { timers: [const { SleepTimer::new() }; TIMERS], places: SleepTimers::new() }
    }

    /// Whether one is set. Context: the thread, or the winner of its wake-up.
    #[inline(always)]
    pub(super) fn is_armed(&self) -> bool {
        self.places.is_armed()
    }

    /// The CPU whose queue the one that is set is in. Context: as above.
    pub(super) fn cpu(&self) -> Option<usize> {
        self.places.armed().map(|place| place.cpu)
    }
}

/// Sets a timer of the running thread. False if all are abandoned.
///
/// # Safety
/// `queue` is that of `cpu`, which runs the thread, with interrupts off.
pub(super) unsafe fn set(queue: &mut TimerQueue<SleepTimer>, cpu: usize, thread: &Thread, deadline_ns: u64) -> bool {
    let Some(index) = thread.timers.places.set(cpu) else { return false };
    let timer = &thread.timers.timers[index];
    timer.thread.store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    // SAFETY: a free timer is in no queue; the thread stays alive while it waits, and then by the list's reference.
    unsafe { queue.insert(deadline_ns, NonNull::from(timer)) };
    true
}

/// Takes the timer that is set out of its queue, if one is set.
///
/// # Safety
/// `queue` is that of the CPU it was set on, with interrupts off; the caller has won the thread's wake-up.
#[inline]
pub(super) unsafe fn clear(queue: &mut TimerQueue<SleepTimer>, thread: &Thread) {
    thread.timers.places.clear(|index| {
        // SAFETY: the caller's promise.
        unsafe { queue.remove(&thread.timers.timers[index]) };
    });
}

/// Leaves the timer that is set to its CPU. To be pushed on that CPU's list.
///
/// Context: any; the caller has won the thread's wake-up.
pub(super) fn abandon(thread: &Thread) -> Option<(usize, AbandonedTimer)> {
    let TimerPlace { index, cpu } = thread.timers.places.abandon()?;
    let _counted = ThreadRef::share(thread).into_ptr();
    Some((cpu, AbandonedTimer(NonNull::from(&thread.timers.timers[index]))))
}

/// Asks for an abandoned timer. `Some`: the thread is unparked when the CPU named has given it back. `None`: one is free by now.
pub(super) fn want(thread: &Thread) -> Option<usize> {
    thread.timers.places.want()
}

/// Pops a timer that has expired. What becomes of the thread is its wake-up's business.
pub(super) fn pop_expired(queue: &mut TimerQueue<SleepTimer>, now: u64) -> Option<NonNull<Thread>> {
    // SAFETY: a linked timer's thread waits, or the list that the timer is on keeps it alive: until this CPU has looked there.
    let timer = unsafe { queue.pop_expired(now)?.as_ref() };
    NonNull::new(timer.thread.load(Ordering::Relaxed))
}

/// A timer on a list of abandoned ones, with the reference to its thread.
pub(super) struct AbandonedTimer(NonNull<SleepTimer>);

// SAFETY: a timer is a part of a thread, and the reference may be dropped anywhere.
unsafe impl Send for AbandonedTimer {}

// SAFETY: the pointer is valid by the reference that goes with it.
unsafe impl OwningPtr for AbandonedTimer {
    type Target = SleepTimer;
    fn into_raw(self) -> *const SleepTimer {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }
    unsafe fn from_raw(raw: *const SleepTimer) -> Self {
        // SAFETY: the caller's promise: it came from `into_raw`.
        Self(unsafe { NonNull::new_unchecked(raw.cast_mut()) })
    }
}

impl AbandonedTimer {
    /// Gives the timer back to its thread.
    ///
    /// # Safety
    /// `queue` is that of the CPU it was abandoned to, with interrupts off.
    pub(super) unsafe fn give_back(self, queue: &mut TimerQueue<SleepTimer>) {
        // SAFETY: valid by the reference.
        let timer = unsafe { self.0.as_ref() };
        // SAFETY: valid by the reference; set when the timer was.
        let thread = unsafe { &*timer.thread.load(Ordering::Relaxed) };
        // SAFETY: the caller's promise.
        unsafe { queue.remove(timer) };
        if thread.timers.places.give_back(timer.index_in(thread)) == GivenBack::Wanted {
            thread.unpark();
        }
    }
}

impl Drop for AbandonedTimer {
    fn drop(&mut self) {
        // SAFETY: valid by the reference, which was counted in `abandon` and ends here.
        let thread = unsafe { self.0.as_ref() }.thread.load(Ordering::Relaxed);
        if let Some(thread) = NonNull::new(thread) {
            // SAFETY: as above.
            drop(unsafe { ThreadRef::from_ptr(thread) });
        }
    }
}
