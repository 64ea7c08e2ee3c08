//! A thread's timers: a wait with a deadline may begin on one CPU and end on another.
//!
//! # Theory
//! A timer is linked in the queue of the CPU on which its thread began to wait, and only that CPU unlinks it. But whoever wakes
//! the thread may put it anywhere, and does not wait for that CPU. So a thread has two timers, each in one of four states:
//!
//! | state | means | who leaves it, to |
//! |---|---|---|
//! | `FREE` | linked nowhere | the thread, when it waits, to `SET` |
//! | `SET` | in the queue of `cpu`, or just popped from it | whoever wins the thread's wake-up: `cpu` itself to `FREE`, others to `ABANDONED` |
//! | `ABANDONED` | on `cpu`'s list of abandoned timers | `cpu` to `FREE`; the thread to `WANTED` |
//! | `WANTED` | as `ABANDONED`, and the thread waits for it | `cpu` to `FREE`, and it unparks the thread |
//!
//! The list holds a reference to the thread, so that timers outlive their place in a queue. A CPU empties its list in every full
//! pass of the scheduler. The second timer is for the thread that waits again before that; only if both are abandoned must it
//! wait for one. An abandoned timer may expire before its CPU has looked at the list: then the wake-up it causes may be that of a later wait,
//! whose timer is set elsewhere. `armed` says which timer is set; like the timer it belongs to the thread while it runs and, from its falling
//! asleep on, to the winner of its wake-up.
#![expect(unsafe_code, reason = "timers are linked in place")]

use super::{Thread, ThreadRef};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};
use lockfree::mpsc::{MpscLink, MpscNode, OwningPtr};
use timer::{Timed, TimerNode, TimerQueue};

const FREE: u8 = 0;
const SET: u8 = 1;
const ABANDONED: u8 = 2;
const WANTED: u8 = 3;
const TIMERS: usize = 2;

/// One timer.
pub(super) struct SleepTimer {
    node: TimerNode,
    link: MpscLink,
    state: AtomicU8,
    /// In whose queue or on whose list it is.
    cpu: AtomicU32,
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
        Self {
            node: TimerNode::new(),
            link: MpscLink::new(),
            state: AtomicU8::new(FREE),
            cpu: AtomicU32::new(0),
            thread: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

/// A thread's timers.
pub(super) struct SleepTimers {
    timers: [SleepTimer; TIMERS],
    /// One more than the index of the one that is set; 0: none.
    armed: AtomicU8,
}

impl SleepTimers {
    pub(super) const fn new() -> Self {
        Self { timers: [const { SleepTimer::new() }; TIMERS], armed: AtomicU8::new(0) }
    }

    /// Whether one is set. Context: the thread, or the winner of its wake-up.
    #[inline(always)]
    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed) != 0
    }

    fn armed(&self) -> Option<&SleepTimer> {
        self.timers.get(usize::from(self.armed.load(Ordering::Relaxed)).wrapping_sub(1))
    }

    /// The CPU whose queue the one that is set is in.
    pub(super) fn cpu(&self) -> Option<usize> {
        self.armed().map(|timer| timer.cpu.load(Ordering::Relaxed) as usize)
    }
}

/// Sets a timer of the running thread. False if all are abandoned.
///
/// # Safety
/// `queue` is that of `cpu`, which runs the thread, with interrupts off.
pub(super) unsafe fn set(queue: &mut TimerQueue<SleepTimer>, cpu: usize, thread: &Thread, deadline_ns: u64) -> bool {
    let timers = &thread.timers;
    let Some(index) = timers.timers.iter().position(|timer| timer.state.load(Ordering::Acquire) == FREE) else { return false };
    let timer = &timers.timers[index];
    timer.state.store(SET, Ordering::Relaxed);
    timer.cpu.store(cpu as u32, Ordering::Relaxed);
    timer.thread.store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    timers.armed.store(index as u8 + 1, Ordering::Relaxed);
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
    if let Some(timer) = thread.timers.armed() {
        // SAFETY: the caller's promise.
        unsafe { queue.remove(timer) };
        timer.state.store(FREE, Ordering::Release);
        thread.timers.armed.store(0, Ordering::Relaxed);
    }
}

/// Leaves the timer that is set to its CPU. To be pushed on that CPU's list.
///
/// Context: any; the caller has won the thread's wake-up.
pub(super) fn abandon(thread: &Thread) -> Option<(usize, AbandonedTimer)> {
    let timer = thread.timers.armed()?;
    timer.state.store(ABANDONED, Ordering::Release);
    thread.timers.armed.store(0, Ordering::Relaxed);
    let _counted = ThreadRef::share(thread).into_ptr();
    Some((timer.cpu.load(Ordering::Relaxed) as usize, AbandonedTimer(NonNull::from(timer))))
}

/// Asks for an abandoned timer. `Some`: the thread is unparked when the CPU named has given it back. `None`: one is free by now.
pub(super) fn want(thread: &Thread) -> Option<usize> {
    let timer = &thread.timers.timers[0];
    match timer.state.compare_exchange(ABANDONED, WANTED, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) | Err(WANTED) => Some(timer.cpu.load(Ordering::Relaxed) as usize),
        Err(_) => None,
    }
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
        // SAFETY: the caller's promise.
        unsafe { queue.remove(timer) };
        if timer.state.swap(FREE, Ordering::AcqRel) == WANTED {
            // SAFETY: as above.
            unsafe { &*timer.thread.load(Ordering::Relaxed) }.unpark();
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
