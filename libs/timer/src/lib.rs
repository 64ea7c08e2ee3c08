//! The per-CPU timer queue: deadlines in order, nothing allocated.
//!
//! [`TimerQueue`] belongs to one CPU, which touches it with interrupts disabled. A timer is a field ([`TimerNode`]) of
//! whatever wants to be woken, normally a thread. Most timers are cancelled before they fire, soon after they were
//! set: insertion is O(1), and so is the removal of a young timer; the first deadline is O(1) to read, O(log n)
//! amortised to take. The queue knows no clock: time comes in as an argument, and the owner programs the hardware
//! with [`TimerQueue::next_deadline`].
//!
//! Neighbours: `pairing-heap` keeps the order; `kernel::thread` sets a timer when a thread parks with a deadline.
#![cfg_attr(not(test), no_std)]
#![expect(unsafe_code, reason = "timers are linked in place")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use pairing_heap::{HeapLink, HeapNode, PairingHeap};

/// The field that makes a type a timer.
pub struct TimerNode {
    /// Changed only while unlinked.
    deadline_ns: AtomicU64,
    link: HeapLink,
}

impl Default for TimerNode {
    fn default() -> Self {
        Self::new()
    }
}

impl TimerNode {
    /// A timer that is not set.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            deadline_ns: AtomicU64::new(0),
            link: HeapLink::new(),
        }
    }

    /// Whether the timer is in a queue. Exact for the queue's CPU, a hint elsewhere.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.link.is_linked()
    }

    /// The deadline it was last set to.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns.load(Ordering::Relaxed)
    }
}

/// A type with a [`TimerNode`].
///
/// # Safety
/// `timer_node` always returns the same field of `self`.
pub unsafe trait Timed {
    /// The timer.
    fn timer_node(&self) -> &TimerNode;
}

/// `T` as the heap sees it.
#[repr(transparent)]
struct ByDeadline<T>(T);

// SAFETY: always the same field, by the contract of `Timed`; the heap is private, so nobody else uses the link.
unsafe impl<T: Timed> HeapNode for ByDeadline<T> {
    fn heap_link(&self) -> &HeapLink {
        &self.0.timer_node().link
    }

    fn before(&self, other: &Self) -> bool {
        self.0.timer_node().deadline_ns() < other.0.timer_node().deadline_ns()
    }
}

/// The timers of one CPU.
pub struct TimerQueue<T: Timed> {
    heap: PairingHeap<ByDeadline<T>>,
}

impl<T: Timed> Default for TimerQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Timed> TimerQueue<T> {
    /// No timers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            heap: PairingHeap::new(),
        }
    }

    /// How many timers are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The earliest deadline: when the hardware must fire.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.heap
            .first()
            .map(|first| first.0.timer_node().deadline_ns())
    }

    /// Sets a timer.
    ///
    /// # Safety
    /// The timer is in no queue, and stays alive and in place until it was removed or popped.
    ///
    /// # Panics
    /// If the timer is set.
    pub unsafe fn insert(&mut self, deadline_ns: u64, timer: NonNull<T>) {
        // SAFETY: alive, by the caller's promise.
        let node = unsafe { timer.as_ref() }.timer_node();
        assert!(!node.is_set(), "a timer is set once at a time");
        node.deadline_ns.store(deadline_ns, Ordering::Relaxed);
        // SAFETY: the caller's promise; the wrapper is transparent.
        unsafe { self.heap.insert(timer.as_ptr().cast::<ByDeadline<T>>()) };
    }

    /// Cancels a timer; false if it was not set (it may have been popped).
    ///
    /// # Safety
    /// If the timer is set, it is in this queue.
    pub unsafe fn remove(&mut self, timer: &T) -> bool {
        // SAFETY: the wrapper is transparent.
        let timer = unsafe { &*core::ptr::from_ref(timer).cast::<ByDeadline<T>>() };
        // SAFETY: the caller's promise.
        unsafe { self.heap.remove(timer) }
    }

    /// Takes a timer whose deadline is not after `now_ns`, earliest first. It is alive at least until whoever waits
    /// for it is told.
    pub fn pop_expired(&mut self, now_ns: u64) -> Option<NonNull<T>> {
        if self.next_deadline()? > now_ns {
            return None;
        }
        let timer = self.heap.pop()?;
        NonNull::new(timer.cast::<T>().cast_mut())
    }
}

#[cfg(test)]
mod tests;
