//! [`RwLock`]: many readers or one writer, strictly in order of arrival once somebody has to wait.
//!
//! # Theory
//! `state` counts readers in steps of `READER` and has two flags: `WRITER` (a writer owns the lock) and `QUEUED`
//! (somebody waits, so nobody may overtake). `QUEUED` is only changed under the list's lock.
//!
//! - *read*: no flag → +READER. *write*: 0 → WRITER. Both one CAS (Acquire).
//! - *enqueue*: under the list's lock, set `QUEUED` unless the lock can be had after all, then link.
//! - *release*: −READER, or WRITER → 0 if nothing waits (Release). The release that leaves no owner while `QUEUED` is
//!   set has the duty to *grant*: nobody else can get in, so it has all the time it needs.
//! - *grant*: under the list's lock, the oldest waiter, and if that is a reader all readers directly behind it, own
//!   the lock from then on; they are told so.
//!
//! A stream of readers cannot starve a writer (its arrival sets `QUEUED`), nor the reverse (arrival order).
#![expect(unsafe_code, reason = "the lock's owners may touch the data")]

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use lockfree::shim::atomic::{AtomicUsize, Ordering};

use crate::wait_list::{List, WaitList, Waiter};

const WRITER: usize = 1;
const QUEUED: usize = 2;
const READER: usize = 4;

struct RawRwLock {
    state: AtomicUsize,
    list: WaitList,
}

impl RawRwLock {
    const_unless_loom! {
        const fn new() -> Self {
            Self { state: AtomicUsize::new(0), list: WaitList::new() }
        }
    }

    /// The state after `want` (READER or WRITER) got in, or None if it must wait.
    fn admitted(state: usize, want: usize) -> Option<usize> {
        let free = if want == READER {
            state & (WRITER | QUEUED) == 0
        } else {
            state == 0
        };
        free.then_some(state + want)
    }

    #[inline]
    fn try_enter(&self, want: usize) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while let Some(next) = Self::admitted(state, want) {
            match self.change(state, next, Ordering::Acquire) {
                Ok(()) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    #[inline]
    fn enter(&self, want: usize) {
        if !self.try_enter(want) {
            self.enter_contended(want);
        }
    }

    #[cold]
    fn enter_contended(&self, want: usize) {
        let waiter = Waiter::new(want);
        let entered = self.list.with(|list| self.enter_or_enqueue(list, &waiter));
        if !entered {
            let _ = waiter.record.wait();
        }
    }

    fn enter_or_enqueue(&self, list: &List, waiter: &Waiter) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let admitted = Self::admitted(state, waiter.tag);
            let next = admitted.unwrap_or(state | QUEUED);
            match self.change(state, next, Ordering::Acquire) {
                Ok(()) if admitted.is_some() => return true,
                Ok(()) => break,
                Err(now) => state = now,
            }
        }
        // SAFETY: the waiter is on the caller's stack, and the caller waits until it was told.
        unsafe { list.push_back(waiter) };
        false
    }

    #[inline]
    fn leave_read(&self) {
        let before = self.state.fetch_sub(READER, Ordering::Release);
        if before == READER | QUEUED && !mistaken!(RwLockIsNotPassedOn) {
            self.grant();
        }
    }

    #[inline]
    fn leave_write(&self) {
        if self.change(WRITER, 0, Ordering::Release).is_err() {
            self.state.fetch_sub(WRITER, Ordering::Release);
            self.grant();
        }
    }

    /// The lock has no owner and `QUEUED` is set: passes it on. The duty of the release that left it so.
    #[cold]
    fn grant(&self) {
        self.list.with(|list| {
            let (count, want) = (Self::batch(list), list.front_tag().unwrap_or(0));
            let rest = if list.len() > count { QUEUED } else { 0 };
            // Acquire: the new owners' view of what the old ones did passes through us.
            self.state.swap((count * want) | rest, Ordering::AcqRel);
            for _ in 0..count {
                list.hand_front();
            }
        });
    }

    /// How many waiters at the front can own the lock together.
    fn batch(list: &List) -> usize {
        let readers = list.tags().take_while(|tag| *tag == READER).count();
        readers.max(usize::from(!list.is_empty()))
    }

    fn change(&self, from: usize, to: usize, order: Ordering) -> Result<(), usize> {
        self.state
            .compare_exchange(from, to, order, Ordering::Relaxed)
            .map(drop)
    }
}

/// Many readers or one writer, by sleeping. Not recursive, not even for reading (a waiting writer bars new readers).
pub struct RwLock<T: ?Sized> {
    raw: RawRwLock,
    data: UnsafeCell<T>,
}

// SAFETY: readers share the data, a writer has it alone.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}
// SAFETY: a lock that can be moved is free.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}

impl<T> RwLock<T> {
    const_unless_loom! {
        /// A free lock.
        #[must_use]
        pub const fn new(data: T) -> Self {
            Self { raw: RawRwLock::new(), data: UnsafeCell::new(data) }
        }
    }

    /// The data.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// The data, without entering.
    ///
    /// # Safety
    /// As long as the reference is used, nobody enters for writing.
    #[inline]
    #[must_use]
    pub unsafe fn peek(&self) -> &T {
        // SAFETY: nobody writes.
        unsafe { &*self.data.get() }
    }

    /// Enters for reading.
    ///
    /// Context: may sleep; not with preemption disabled, not in interrupt handlers.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.raw.enter(READER);
        RwLockReadGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Enters for writing.
    ///
    /// Context: may sleep; not with preemption disabled, not in interrupt handlers.
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.raw.enter(WRITER);
        RwLockWriteGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// Enters for reading if that needs no wait.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.raw.try_enter(READER).then(|| RwLockReadGuard {
            lock: self,
            not_send: PhantomData,
        })
    }

    /// Enters for writing if that needs no wait.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.raw.try_enter(WRITER).then(|| RwLockWriteGuard {
            lock: self,
            not_send: PhantomData,
        })
    }

    /// The data, without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_read() {
            Some(guard) => f.debug_tuple("RwLock").field(&&*guard).finish(),
            None => f.write_str("RwLock(<locked>)"),
        }
    }
}

/// The right to read; dropping it leaves.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    not_send: PhantomData<*const ()>,
}

/// The right to write; dropping it leaves.
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    not_send: PhantomData<*const ()>,
}

// SAFETY: sharing the guard shares the data only.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}
// SAFETY: sharing the guard shares the data only.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: we read-own the lock.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: we own the lock.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: we own the lock, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.leave_read();
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.raw.leave_write();
    }
}
