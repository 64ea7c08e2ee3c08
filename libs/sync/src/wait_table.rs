//! [`WaitTable`]: threads that wait for a key, in hashed buckets; the base of futexes.
//!
//! # Theory
//! A bucket is a list of waiters in order of arrival, behind a mutex. A waiter lies on its thread's stack and says in
//! `bucket` which list it is in; `bucket` changes only under the lock of that list (of both, when it moves).
//!
//! - *wait*: under the lock, check the caller's condition and link. Whoever changes the condition before waking is thus
//!   seen, or sees the waiter. Then sleep until told.
//! - *wake*: under the lock, take waiters onto a list of the waker's own (`bucket` = `TAKEN`). They are told after the lock
//!   is released, so that a woken thread does not run into it.
//! - *move*: under both locks, the lower bucket's first.
//! - *withdraw* (time, signal): under the lock of the bucket it is in, unlink. A waiter that finds itself `TAKEN` was
//!   woken: it sleeps until it is told, for its record is on the waker's list till then.
#![expect(unsafe_code, reason = "waiters live on other threads' stacks")]

use alloc::vec::Vec;
use core::slice;
use lockfree::mutex::Told;
use lockfree::shim::atomic::{AtomicUsize, Ordering};

use crate::wait_list::{List, WaitList, Waiter};

/// The waiter is in no bucket but on the list of a thread that wakes it.
const TAKEN: usize = usize::MAX;

/// What threads wait for.
pub trait WaitKey: Copy + PartialEq {
    /// A number that is equal for equal keys, well spread in its low bits.
    fn hash(&self) -> usize;
}

struct Tag<K> {
    key: core::cell::Cell<K>,
    bits: u32,
    bucket: AtomicUsize,
}

// SAFETY: `key` changes under the lock of the list that the waiter is in, and is read only under that lock.
unsafe impl<K: Send> Sync for Tag<K> {}

type Entry<K> = Waiter<Tag<K>>;

/// What a waiter that sleeps looks at. See [`WaitTable::wait`].
pub struct Woken<'a, K>(&'a [Entry<K>]);

impl<K> Woken<'_, K> {
    /// Whether the wait is over.
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.0.iter().any(|waiter| waiter.record.told() != Told::Nothing)
    }
}

/// Waiting threads by key, in `N` buckets. See the module.
pub struct WaitTable<K, const N: usize> {
    buckets: [WaitList<Tag<K>>; N],
}

impl<K, const N: usize> Default for WaitTable<K, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, const N: usize> WaitTable<K, N> {
    /// A table in which nobody waits.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { buckets: [const { WaitList::new() }; N] }
    }

    /// A table in which nobody waits.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self { buckets: core::array::from_fn(|_| WaitList::new()) }
    }
}

impl<K: WaitKey, const N: usize> WaitTable<K, N> {
    fn waiter(key: K, bits: u32) -> Entry<K> {
        let bucket = AtomicUsize::new(key.hash() % N);
        Waiter::new(Tag { key: core::cell::Cell::new(key), bits, bucket })
    }

    /// Waits for `key`, as one whom wakers with a common bit in `bits` mean, if `check` agrees. No wake-up that comes after
    /// `check` is lost. `sleep` returns when [`Woken::is_woken`], or with an error to give up; it must not panic.
    ///
    /// Context: may sleep; `check` is called with a bucket locked.
    ///
    /// # Errors
    /// What `check` returns; what `sleep` returns, unless the thread was woken after all.
    #[inline(always)]
    pub fn wait<E>(
        &self,
        key: K,
        bits: u32,
        check: impl FnOnce() -> Result<(), E>,
        sleep: impl FnOnce(&Woken<'_, K>) -> Result<(), E>,
    ) -> Result<(), E> {
        let waiter = Self::waiter(key, bits);
        // SAFETY: the waiter stays here, and this function returns only after it was told or withdrew.
        unsafe { self.link(&waiter, check) }?;
        match sleep(&Woken(slice::from_ref(&waiter))) {
            Err(error) if !self.withdraw(&waiter) => Err(error),
            _ => {
                let _told = waiter.record.wait();
                Ok(())
            }
        }
    }

    /// Waits for any of `keys`, if `check` agrees to each index; returns the first index that was woken.
    ///
    /// Context: as for [`WaitTable::wait`].
    ///
    /// # Errors
    /// As for [`WaitTable::wait`].
    pub fn wait_any<E>(
        &self,
        keys: &[K],
        bits: u32,
        mut check: impl FnMut(usize) -> Result<(), E>,
        sleep: impl FnOnce(&Woken<'_, K>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let waiters: Vec<_> = keys.iter().map(|&key| Self::waiter(key, bits)).collect();
        let mut linked = 0;
        let mut result = waiters.iter().enumerate().try_for_each(|(index, waiter)| {
            // SAFETY: the vector does not change, and all that are linked withdraw below.
            unsafe { self.link(waiter, || check(index)) }?;
            linked += 1;
            Ok(())
        });
        if result.is_ok() {
            result = sleep(&Woken(&waiters));
        }
        let mut woken = None;
        for (index, waiter) in waiters[..linked].iter().enumerate() {
            if self.withdraw(waiter) {
                woken = woken.or(Some(index));
            }
        }
        match (woken, result) {
            (Some(index), _) => Ok(index),
            (None, result) => result.map(|()| 0),
        }
    }

    /// # Safety
    /// If this returns `Ok`, the waiter stays alive and in place until it was told or [`WaitTable::withdraw`] has returned.
    unsafe fn link<E>(&self, waiter: &Entry<K>, check: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let index = waiter.tag.bucket.load(Ordering::Relaxed);
        self.buckets[index].with(|list| {
            check()?;
            // SAFETY: the caller's promise.
            unsafe { list.push_back(waiter) };
            Ok(())
        })
    }

    /// Ends a wait that the thread has given up: takes the waiter out, unless it was woken. Returns whether it was.
    fn withdraw(&self, waiter: &Entry<K>) -> bool {
        loop {
            let index = waiter.tag.bucket.load(Ordering::Acquire);
            if index == TAKEN {
                let _told = waiter.record.wait();
                return true;
            }
            let unlinked = self.buckets[index].with(|list| {
                // It cannot be moved or taken while this bucket is locked.
                waiter.tag.bucket.load(Ordering::Relaxed) == index && list.remove(waiter)
            });
            if unlinked {
                return false;
            }
        }
    }

    /// Wakes up to `count` threads that wait for `key`, the longest waiting first; returns how many.
    ///
    /// Context: may sleep.
    #[inline(always)]
    pub fn wake(&self, key: K, count: usize, bits: u32) -> usize {
        let mut taken = List::new();
        self.buckets[key.hash() % N].with(|list| take(list, &mut taken, key, count, bits));
        tell(taken)
    }

    /// Wakes up to `counts[0]` threads that wait for `first` and, if `also` says so, up to `counts[1]` that wait for `second`.
    ///
    /// Context: may sleep; `also` is called with both buckets locked.
    ///
    /// # Errors
    /// What `also` returns; nobody is woken then.
    pub fn wake_two<E>(
        &self,
        first: K,
        second: K,
        counts: [usize; 2],
        bits: u32,
        also: impl FnOnce() -> Result<bool, E>,
    ) -> Result<usize, E> {
        let mut taken = List::new();
        self.with_two(first, second, |a, b| {
            let also = also()?;
            take(a, &mut taken, first, counts[0], bits);
            if also {
                take(b.unwrap_or(a), &mut taken, second, counts[1], bits);
            }
            Ok(())
        })?;
        Ok(tell(taken))
    }

    /// Wakes up to `wake` threads that wait for `from` and makes up to `limit` others wait for `to`, if `check` agrees.
    /// Returns how many were woken and how many moved.
    ///
    /// Context: may sleep; `check` is called with both buckets locked.
    ///
    /// # Errors
    /// What `check` returns.
    pub fn requeue<E>(
        &self,
        from: K,
        to: K,
        wake: usize,
        limit: usize,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<(usize, usize), E> {
        let mut taken = List::new();
        let moved = self.with_two(from, to, |source, target| {
            check()?;
            take(source, &mut taken, from, wake, u32::MAX);
            let mut moving = List::new();
            let moved = source.move_to(&mut moving, limit, |tag| tag.key.get() == from);
            moving.move_to(target.unwrap_or(source), moved, |tag| {
                tag.key.set(to);
                tag.bucket.store(to.hash() % N, Ordering::Release);
                true
            });
            Ok(moved)
        })?;
        Ok((tell(taken), moved))
    }

    /// Calls `f` with the buckets of two keys locked, the lower one first; the second is `None` when both are the same.
    fn with_two<R>(&self, a: K, b: K, f: impl FnOnce(&mut List<Tag<K>>, Option<&mut List<Tag<K>>>) -> R) -> R {
        let (a, b) = (a.hash() % N, b.hash() % N);
        match a.cmp(&b) {
            core::cmp::Ordering::Equal => self.buckets[a].with(|list| f(list, None)),
            core::cmp::Ordering::Less => self.buckets[a].with(|x| self.buckets[b].with(|y| f(x, Some(y)))),
            core::cmp::Ordering::Greater => self.buckets[b].with(|y| self.buckets[a].with(|x| f(x, Some(y)))),
        }
    }
}

/// Takes the waiters of `key` out of their bucket, to be told later.
#[inline]
fn take<K: WaitKey>(bucket: &mut List<Tag<K>>, taken: &mut List<Tag<K>>, key: K, count: usize, bits: u32) {
    bucket.move_to(taken, count, |tag| {
        let meant = tag.key.get() == key && tag.bits & bits != 0;
        if meant {
            tag.bucket.store(TAKEN, Ordering::Release);
        }
        meant
    });
}

/// Tells the waiters that were taken; returns how many.
#[inline]
fn tell<K>(mut taken: List<Tag<K>>) -> usize {
    core::iter::from_fn(|| taken.hand_front().then_some(())).count()
}
