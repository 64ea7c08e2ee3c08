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
pub(crate) struct Waiter {
    prev: Cell<*const Waiter>,
    next: Cell<*const Waiter>,
    linked: Cell<bool>,
    /// What it waits for, as its primitive defines it.
    pub(crate) tag: usize,
    pub(crate) record: WaitRecord,
    _pinned: PhantomPinned,
}

impl Waiter {
    pub(crate) fn new(tag: usize) -> Self {
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
pub(crate) struct WaitList {
    lock: RawMutex,
    list: UnsafeCell<List>,
}

// SAFETY: `list` is only touched under `lock`; waiters are told things through their records, which are Sync.
unsafe impl Sync for WaitList {}
// SAFETY: a list that can be moved has no waiters.
unsafe impl Send for WaitList {}

/// The list proper; reachable only under the lock.
pub(crate) struct List {
    head: *const Waiter,
    tail: *const Waiter,
}

impl WaitList {
    const_unless_loom! {
        pub(crate) const fn new() -> Self {
            Self {
                lock: RawMutex::new(),
                list: UnsafeCell::new(List { head: ptr::null(), tail: ptr::null() }),
            }
        }
    }

    /// Calls `f` with the list locked.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut List) -> R) -> R {
        self.lock.lock();
        // SAFETY: we own the lock.
        let result = f(unsafe { &mut *self.list.get() });
        // SAFETY: we own the lock.
        unsafe { self.lock.unlock() };
        result
    }
}

impl List {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_null()
    }

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

    /// Arms the waiter and links it last.
    ///
    /// # Safety
    /// The waiter is the calling thread's, unlinked, and stays in place until it was told something or removed.
    pub(crate) unsafe fn push_back(&mut self, waiter: &Waiter) {
        waiter.record.arm();
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
    pub(crate) fn remove(&mut self, waiter: &Waiter) -> bool {
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
    pub(crate) fn pop_front(&mut self) -> Option<*const Waiter> {
        // SAFETY: a linked waiter is alive.
        let waiter = unsafe { self.head.as_ref() }?;
        self.remove(waiter);
        Some(waiter)
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
