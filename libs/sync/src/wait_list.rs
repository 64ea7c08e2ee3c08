//! [`WaitList`]: an intrusive list of on-stack waiters behind a short mutex; the base of the other primitives.
//!
//! # Theory
//! A [`Waiter`] is on its thread's stack. While linked, only the holder of the list's lock touches its links. Whoever
//! unlinks it must tell its record something (or is the waiter itself and goes away); the waiter returns only after
//! it was told, or after it unlinked itself under the lock. So a linked waiter is always alive.
#![expect(unsafe_code, reason = "waiters live on other threads' stacks")]

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomPinned;
use core::ptr;

use crate::backend::{RawMutex, WaitRecord};

/// A waiting thread.
pub(crate) struct Waiter<T = usize> {
    prev: Cell<*const Self>,
    next: Cell<*const Self>,
    linked: Cell<bool>,
    /// What it waits for, as its primitive defines it.
    pub(crate) tag: T,
    pub(crate) record: WaitRecord,
    _pinned: PhantomPinned,
}

impl<T> Waiter<T> {
    pub(crate) fn new(tag: T) -> Self {
        Self {
            prev: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            linked: Cell::new(false),
            tag,
            record: WaitRecord::new(),
            _pinned: PhantomPinned,
        }
    }
}

/// The waiters, in order of arrival, behind a lock.
pub(crate) struct WaitList<T = usize> {
    lock: RawMutex,
    list: UnsafeCell<List<T>>,
}

// SAFETY: `list` is only touched under `lock`; waiters are told things through their records, which are Sync.
unsafe impl<T: Send + Sync> Sync for WaitList<T> {}
// SAFETY: a list that can be moved has no waiters.
unsafe impl<T: Send + Sync> Send for WaitList<T> {}

/// The list proper; reachable only under the lock.
pub(crate) struct List<T = usize> {
    head: *const Waiter<T>,
    tail: *const Waiter<T>,
}

impl<T> WaitList<T> {
    const_unless_loom! {
        pub(crate) const fn new() -> Self {
            Self { lock: RawMutex::new(), list: UnsafeCell::new(List::new()) }
        }
    }

    /// Calls `f` with the list locked.
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut List<T>) -> R) -> R {
        self.lock.lock();
        // SAFETY: we own the lock.
        let result = f(unsafe { &mut *self.list.get() });
        // SAFETY: we own the lock.
        unsafe { self.lock.unlock() };
        result
    }
}

impl List {
    /// The oldest waiter's tag.
    pub(crate) fn front_tag(&self) -> Option<usize> {
        // SAFETY: a linked waiter is alive.
        unsafe { self.head.as_ref() }.map(|waiter| waiter.tag)
    }

    /// All tags, oldest first.
    pub(crate) fn tags(&self) -> impl Iterator<Item = usize> {
        // SAFETY: linked waiters are alive.
        let first = unsafe { self.head.as_ref() };
        // SAFETY: as above.
        core::iter::successors(first, |waiter| unsafe { waiter.next.get().as_ref() })
            .map(|waiter| waiter.tag)
    }

    pub(crate) fn len(&self) -> usize {
        self.tags().count()
    }
}

impl<T> List<T> {
    pub(crate) const fn new() -> Self {
        Self { head: ptr::null(), tail: ptr::null() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// Arms the waiter and links it last.
    ///
    /// # Safety
    /// The waiter is the calling thread's, unlinked, and stays in place until it was told something or removed.
    pub(crate) unsafe fn push_back(&mut self, waiter: &Waiter<T>) {
        waiter.record.arm();
        self.link(waiter);
    }

    /// Links a waiter that is alive and linked nowhere.
    fn link(&mut self, waiter: &Waiter<T>) {
        waiter.prev.set(self.tail);
        waiter.next.set(ptr::null());
        waiter.linked.set(true);
        // SAFETY: a linked waiter is alive.
        match unsafe { self.tail.as_ref() } {
            Some(tail) => tail.next.set(waiter),
            None => self.head = waiter,
        }
        self.tail = waiter;
    }

    /// Unlinks a waiter; false if it is not linked any more.
    pub(crate) fn remove(&mut self, waiter: &Waiter<T>) -> bool {
        if !waiter.linked.replace(false) {
            return false;
        }
        // SAFETY: linked waiters are alive.
        let (prev, next) = unsafe { (waiter.prev.get().as_ref(), waiter.next.get().as_ref()) };
        match prev {
            Some(prev) => prev.next.set(waiter.next.get()),
            None => self.head = waiter.next.get(),
        }
        match next {
            Some(next) => next.prev.set(waiter.prev.get()),
            None => self.tail = waiter.prev.get(),
        }
        true
    }

    /// Unlinks the oldest waiter. It stays alive until told something, which the caller must do.
    pub(crate) fn pop_front(&mut self) -> Option<*const Waiter<T>> {
        // SAFETY: a linked waiter is alive.
        let waiter = unsafe { self.head.as_ref() }?;
        self.remove(waiter);
        Some(waiter)
    }

    /// Moves up to `count` waiters that `wanted` accepts to the end of `to`, in their order; returns how many.
    pub(crate) fn move_to(&mut self, to: &mut Self, count: usize, mut wanted: impl FnMut(&T) -> bool) -> usize {
        let (mut moved, mut at) = (0, self.head);
        // SAFETY: linked waiters are alive.
        while moved < count && let Some(waiter) = unsafe { at.as_ref() } {
            at = waiter.next.get();
            if wanted(&waiter.tag) {
                self.remove(waiter);
                to.link(waiter);
                moved += 1;
            }
        }
        moved
    }

    /// Unlinks the oldest waiter and gives it what it waits for.
    pub(crate) fn hand_front(&mut self) -> bool {
        let Some(waiter) = self.pop_front() else {
            return false;
        };
        // SAFETY: unlinked by us just now, so alive and ours to tell.
        unsafe { WaitRecord::hand(&raw const (*waiter).record) };
        true
    }
}
