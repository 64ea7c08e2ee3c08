//! [`WaitList`]: an intrusive list of on-stack waiters behind a short mutex; the base of the other primitives.
//!
//! # Theory
//! A [`Waiter`] is on its thread's stack. While linked, only the holder of the list's lock touches its links. Whoever
//! unlinks it must tell its record something (or is the waiter itself and goes away); the waiter returns only after
//! it was told, or after it unlinked itself under the lock. So a linked waiter is always alive.
//!
//! `head` may be looked at without the lock ([`WaitList::looks_empty`]): a waker that has changed what waiters look at and passed a
//! `SeqCst` fence either finds a waiter linked, or that waiter, which links itself before *its* fence and look, sees the change.
//! One that looks under the lock need not link itself for that ([`WaitList::with_fence`]): the lock itself says that somebody may be
//! about to ([`WaitList::looks_idle`]). The waker reads the lock first (Acquire): if it finds it free again, it also finds what its owner linked.
#![expect(unsafe_code, reason = "waiters live on other threads' stacks")]

use core::cell::Cell;
use core::marker::PhantomPinned;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr;
use lockfree::shim::atomic::{AtomicPtr, Ordering};
use lockfree::shim::fence_after_read_modify_write;

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

    /// Its thread's real-time priority; 0 without one. It is linked, and its list locked.
    fn urgency(&self) -> u32 {
        // SAFETY: linked waiters are armed, and their threads wait until they are told.
        unsafe { self.record.thread().urgency() }
    }
}

/// The waiters, in order of arrival, behind a lock.
pub(crate) struct WaitList<T = usize> {
    lock: RawMutex,
    list: List<T>,
}

// SAFETY: `list` is only touched under `lock`, but for its atomic head; waiters are told things through their records, which are Sync.
unsafe impl<T: Send + Sync> Sync for WaitList<T> {}
// SAFETY: a list that can be moved has no waiters.
unsafe impl<T: Send + Sync> Send for WaitList<T> {}

/// The list proper; but for its head, reachable only under the lock.
pub(crate) struct List<T = usize> {
    head: AtomicPtr<Waiter<T>>,
    tail: Cell<*const Waiter<T>>,
}

impl<T> WaitList<T> {
    const_unless_loom! {
        pub(crate) const fn new() -> Self {
            Self { lock: RawMutex::new(), list: List::new() }
        }
    }

    /// Locks the list.
    #[inline(always)]
    pub(crate) fn locked(&self) -> Locked<'_, T> {
        self.lock.lock();
        Locked(self)
    }

    /// Calls `f` with the list locked.
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&List<T>) -> R) -> R {
        f(&self.locked())
    }

    /// As [`WaitList::with`], for a waiter that looks whether it has to wait before it links itself: what `f` sees is what was there after
    /// the list stopped looking idle.
    #[inline(always)]
    pub(crate) fn with_fence<R>(&self, f: impl FnOnce(&List<T>) -> R) -> R {
        self.with(|list| {
            fence_after_read_modify_write();
            f(list)
        })
    }

    /// Whether no waiter is linked at this instant. Exact enough for a waker behind a fence; see the module.
    #[inline(always)]
    pub(crate) fn looks_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// As [`WaitList::looks_empty`], where waiters link themselves in [`WaitList::with_fence`].
    #[inline(always)]
    pub(crate) fn looks_idle(&self) -> bool {
        // The first look only saves the second in the ordinary case; the order of the other two matters.
        self.list.is_empty() && self.lock.is_idle() && self.list.is_empty()
    }
}

/// The list, locked until this is dropped.
pub(crate) struct Locked<'a, T>(&'a WaitList<T>);

impl<T> Deref for Locked<'_, T> {
    type Target = List<T>;

    #[inline(always)]
    fn deref(&self) -> &List<T> {
        &self.0.list
    }
}

impl<T> Drop for Locked<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `locked` took the lock.
        unsafe { self.0.lock.unlock() }
    }
}

impl List {
    /// The oldest waiter's tag.
    pub(crate) fn front_tag(&self) -> Option<usize> {
        self.iter().next().copied()
    }

    /// All tags, oldest first.
    pub(crate) fn tags(&self) -> impl Iterator<Item = usize> {
        self.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.tags().count()
    }
}

impl<T> List<T> {
    const_unless_loom! {
        pub(crate) const fn new() -> Self {
            Self { head: AtomicPtr::new(ptr::null_mut()), tail: Cell::new(ptr::null()) }
        }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.head().is_null()
    }

    #[inline(always)]
    fn head(&self) -> *const Waiter<T> {
        self.head.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn set_head(&self, waiter: *const Waiter<T>) {
        self.head.store(waiter.cast_mut(), Ordering::Relaxed);
    }

    /// All tags, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiters().map(|waiter| &waiter.tag)
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter<T>> {
        // SAFETY: linked waiters are alive, and stay linked while the list is locked.
        let first = unsafe { self.head().as_ref() };
        // SAFETY: as above.
        core::iter::successors(first, |waiter| unsafe { waiter.next.get().as_ref() })
    }

    /// Arms the waiter and links it last.
    ///
    /// # Safety
    /// The waiter is the calling thread's, unlinked, and stays in place until it was told something or removed.
    #[inline(always)]
    pub(crate) unsafe fn push_back(&self, waiter: &Waiter<T>) {
        waiter.record.arm();
        self.link(waiter);
    }

    /// Makes `place` a waiter of the calling thread and links it last.
    ///
    /// # Safety
    /// What `place` holds stays there until it was told something or removed.
    #[inline(always)]
    pub(crate) unsafe fn push_new<'a>(&self, place: &'a mut MaybeUninit<Waiter<T>>, tag: T) -> &'a Waiter<T> {
        let waiter = place.write(Waiter {
            prev: Cell::new(self.tail.get()),
            next: Cell::new(ptr::null()),
            linked: Cell::new(true),
            tag,
            record: WaitRecord::armed(),
            _pinned: PhantomPinned,
        });
        self.append(waiter);
        waiter
    }

    /// As [`List::push_new`], but before those whose threads are less urgent.
    ///
    /// # Safety
    /// As for [`List::push_new`].
    #[inline(always)]
    pub(crate) unsafe fn push_new_in_order<'a>(&self, place: &'a mut MaybeUninit<Waiter<T>>, tag: T) -> &'a Waiter<T> {
        // SAFETY: the caller's promise.
        let waiter = unsafe { self.push_new(place, tag) };
        if !waiter.prev.get().is_null() {
            self.advance(waiter);
        }
        waiter
    }

    /// Moves the last waiter before those whose threads are less urgent: for ordinary threads there are none.
    #[inline(never)]
    fn advance(&self, last: &Waiter<T>) {
        let urgency = last.urgency();
        if urgency == 0 {
            return;
        }
        // SAFETY: linked waiters are alive, and the last one is not less urgent than itself.
        let less_urgent = self.waiters().find(|waiter| ptr::eq(*waiter, last) || waiter.urgency() < urgency);
        if let Some(next) = less_urgent.filter(|next| !ptr::eq(*next, last)) {
            self.unlink(last);
            self.link_before(last, next);
        }
    }

    /// Links a waiter that is alive and linked nowhere before one that is linked here.
    fn link_before(&self, waiter: &Waiter<T>, next: &Waiter<T>) {
        waiter.prev.set(next.prev.get());
        waiter.next.set(next);
        waiter.linked.set(true);
        // SAFETY: linked waiters are alive.
        match unsafe { next.prev.get().as_ref() } {
            Some(prev) => prev.next.set(waiter),
            None => self.set_head(waiter),
        }
        next.prev.set(waiter);
    }

    /// Links a waiter that is alive and linked nowhere.
    #[inline(always)]
    fn link(&self, waiter: &Waiter<T>) {
        waiter.prev.set(self.tail.get());
        waiter.next.set(ptr::null());
        waiter.linked.set(true);
        self.append(waiter);
    }

    /// The list's half of linking a waiter last.
    #[inline(always)]
    fn append(&self, waiter: &Waiter<T>) {
        // SAFETY: a linked waiter is alive.
        match unsafe { self.tail.get().as_ref() } {
            Some(tail) => tail.next.set(waiter),
            None => self.set_head(waiter),
        }
        self.tail.set(waiter);
    }

    /// Unlinks a waiter; false if it is not linked any more.
    pub(crate) fn remove(&self, waiter: &Waiter<T>) -> bool {
        let linked = waiter.linked.get();
        if linked {
            self.unlink(waiter);
        }
        linked
    }

    /// Unlinks a waiter that is linked here.
    #[inline(always)]
    fn unlink(&self, waiter: &Waiter<T>) {
        waiter.linked.set(false);
        // SAFETY: linked waiters are alive.
        let (prev, next) = unsafe { (waiter.prev.get().as_ref(), waiter.next.get().as_ref()) };
        match prev {
            Some(prev) => prev.next.set(waiter.next.get()),
            None => self.set_head(waiter.next.get()),
        }
        match next {
            Some(next) => next.prev.set(waiter.prev.get()),
            None => self.tail.set(waiter.prev.get()),
        }
    }

    /// Unlinks the oldest waiter. It stays alive until told something, which the caller must do.
    pub(crate) fn pop_front(&self) -> Option<*const Waiter<T>> {
        self.take_first(|_| true)
    }

    /// Unlinks the oldest waiter that `wanted` accepts. It stays alive until told something, which the caller must do.
    #[inline(always)]
    pub(crate) fn take_first(&self, mut wanted: impl FnMut(&T) -> bool) -> Option<*const Waiter<T>> {
        let mut at = self.head();
        loop {
            // SAFETY: linked waiters are alive.
            let waiter = unsafe { at.as_ref() }?;
            if wanted(&waiter.tag) {
                self.unlink(waiter);
                return Some(waiter);
            }
            at = waiter.next.get();
        }
    }

    /// Moves up to `count` waiters that `wanted` accepts to the end of `to`, in their order; returns how many.
    pub(crate) fn move_to(&self, to: &Self, count: usize, wanted: impl FnMut(&T) -> bool) -> usize {
        self.take_some(count, wanted, |waiter| to.link(waiter))
    }

    /// As [`List::move_to`], but each before those in `to` whose threads are less urgent.
    pub(crate) fn move_in_order(&self, to: &Self, count: usize, wanted: impl FnMut(&T) -> bool) -> usize {
        self.take_some(count, wanted, |waiter| {
            to.link(waiter);
            to.advance(waiter);
        })
    }

    /// Unlinks up to `count` waiters that `wanted` accepts, and links each elsewhere by `link`; returns how many.
    #[inline(always)]
    fn take_some(&self, count: usize, mut wanted: impl FnMut(&T) -> bool, link: impl Fn(&Waiter<T>)) -> usize {
        let (mut moved, mut at) = (0, self.head());
        // SAFETY: linked waiters are alive.
        while moved < count && let Some(waiter) = unsafe { at.as_ref() } {
            at = waiter.next.get();
            if wanted(&waiter.tag) {
                self.unlink(waiter);
                link(waiter);
                moved += 1;
            }
        }
        moved
    }

    /// Unlinks the oldest waiter and gives it what it waits for.
    pub(crate) fn hand_front(&self) -> bool {
        let Some(waiter) = self.pop_front() else {
            return false;
        };
        // SAFETY: unlinked by us just now, so alive and ours to tell.
        unsafe { WaitRecord::hand(&raw const (*waiter).record) };
        true
    }
}
