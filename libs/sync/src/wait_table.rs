//! [`WaitTable`]: threads that wait for a key, in hashed buckets; the base of futexes.
//!
//! # Theory
//! A bucket is a list of waiters behind a mutex: real-time threads by their priority when the waiter came, all others after them, equals in order of arrival. A waiter lies on its thread's stack and says in
//! `bucket` which list it is in; `bucket` changes only under the lock of that list (of both, when it moves).
//!
//! - *wait*: under the lock, fence, check the caller's condition and link. Whoever changes the condition before waking is
//!   thus seen, or sees the lock or the waiter. Then sleep until told.
//! - *wake*: fence; a bucket that looks idle then needs no lock (store-load pair with *wait*). Otherwise, under the lock, take
//!   waiters onto a list of the waker's own (`bucket` = `TAKEN`). They are told after the lock is released, so that a woken thread
//!   does not run into it.
//! - *move*: under both locks, the lower bucket's first.
//! - *withdraw* (time, signal): under the lock of the bucket it is in, unlink. A waiter that finds itself `TAKEN` was
//!   woken: it sleeps until it is told, for its record is on the waker's list till then.
#![expect(unsafe_code, reason = "waiters live on other threads' stacks")]

use alloc::vec::Vec;
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::slice;
use lockfree::mutex::Told;
use lockfree::shim::atomic::{AtomicUsize, Ordering, fence};

use crate::backend::WaitRecord;
use crate::wait_list::{List, WaitList, Waiter};

/// The waiter is in no bucket but on the list of a thread that wakes it.
const TAKEN: usize = usize::MAX;

/// What threads wait for.
pub trait WaitKey: Copy + PartialEq {
    /// A number that is equal for equal keys, well spread in its low bits.
    fn hash(&self) -> usize;
}

struct Tag<K> {
    key: Cell<K>,
    bits: u32,
    bucket: AtomicUsize,
}

// SAFETY: `key` changes under the lock of the list that the waiter is in, and is read only under that lock.
unsafe impl<K: Send> Sync for Tag<K> {}

type Entry<K> = Waiter<Tag<K>>;

impl<K: WaitKey> Tag<K> {
    /// Whether a wake of `key` with `bits` means this waiter; if so it counts as taken from now on. Under its bucket's lock.
    #[inline(always)]
    fn taken_by(&self, key: K, bits: u32) -> bool {
        let meant = self.key.get() == key && self.bits & bits != 0;
        if meant {
            self.bucket.store(TAKEN, Ordering::Release);
        }
        meant
    }
}

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
        let mut place = MaybeUninit::uninit();
        // SAFETY: the waiter stays here, and this function returns only after it was told or withdrew.
        let waiter = unsafe { self.link(&mut place, key, bits, check) }?;
        match sleep(&Woken(slice::from_ref(waiter))) {
            Err(error) if !self.withdraw(waiter) => Err(error),
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
        let mut places: Vec<_> = keys.iter().map(|_| MaybeUninit::uninit()).collect();
        let mut linked = 0;
        let mut result = places.iter_mut().zip(keys).try_for_each(|(place, &key)| {
            // SAFETY: the vector does not change, and all that are linked withdraw below.
            unsafe { self.link(place, key, bits, || check(linked)) }?;
            linked += 1;
            Ok(())
        });
        // SAFETY: so many were linked, in this order.
        let waiters: &[Entry<K>] = unsafe { slice::from_raw_parts(places.as_ptr().cast(), linked) };
        if result.is_ok() {
            result = sleep(&Woken(waiters));
        }
        let mut woken = None;
        for (index, waiter) in waiters.iter().enumerate() {
            if self.withdraw(waiter) {
                woken = woken.or(Some(index));
            }
        }
        match (woken, result) {
            (Some(index), _) => Ok(index),
            (None, result) => result.map(|()| 0),
        }
    }

    /// Links a waiter at `place`, if `check` agrees.
    ///
    /// # Safety
    /// If this returns `Ok`, the waiter stays alive and in place until it was told or [`WaitTable::withdraw`] has returned.
    #[inline(always)]
    unsafe fn link<'a, E>(
        &self,
        place: &'a mut MaybeUninit<Entry<K>>,
        key: K,
        bits: u32,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<&'a Entry<K>, E> {
        let index = key.hash() % N;
        let tag = || Tag { key: Cell::new(key), bits, bucket: AtomicUsize::new(index) };
        if mistaken!(TableLooksTooEarly) {
            check()?;
            // SAFETY: the caller's promise.
            return Ok(self.buckets[index].with(|list| unsafe { list.push_new_in_order(place, tag()) }));
        }
        // Its fence pairs with the one in `wake`: the bucket does not look idle, or we see what was changed before.
        self.buckets[index].with_fence(|list| {
            check()?;
            // SAFETY: the caller's promise.
            Ok(unsafe { list.push_new_in_order(place, tag()) })
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

    /// Wakes up to `count` threads that wait for `key`, the most urgent first, of equals the longest waiting; returns how many.
    ///
    /// Context: may sleep.
    pub fn wake(&self, key: K, count: usize, bits: u32) -> usize {
        let Some(bucket) = self.busy_bucket(key) else { return 0 };
        let taken = List::new();
        bucket.with(|list| take(list, &taken, key, count, bits));
        tell(&taken)
    }

    /// Wakes the first thread that waits for `key`: the ordinary case, without a list. Returns whether there was one.
    ///
    /// Context: may sleep.
    #[inline(always)]
    pub fn wake_one(&self, key: K, bits: u32) -> bool {
        let Some(bucket) = self.busy_bucket(key) else { return false };
        let list = bucket.locked();
        let first = list.take_first(|tag| tag.taken_by(key, bits));
        drop(list);
        let Some(waiter) = first else { return false };
        // SAFETY: unlinked by us just now, so alive and ours to tell.
        unsafe { WaitRecord::hand(&raw const (*waiter).record) };
        true
    }

    /// The bucket of `key`, for a waker that has changed what waiters look at; `None` if nobody waits there who may have missed that.
    #[inline(always)]
    fn busy_bucket(&self, key: K) -> Option<&WaitList<Tag<K>>> {
        let bucket = &self.buckets[key.hash() % N];
        // Pairs with the fence of `with_fence` in `link`.
        fence(Ordering::SeqCst);
        (!bucket.looks_idle()).then_some(bucket)
    }

    /// Shows `choose` the bits of those who wait for `key`, the first to be woken first, and wakes the one whose position it names.
    /// Returns whether it named one.
    ///
    /// Context: may sleep; `choose` is called with the bucket locked.
    ///
    /// # Errors
    /// What `choose` returns; nobody is woken then.
    pub fn wake_chosen<E>(
        &self,
        key: K,
        choose: impl FnOnce(&mut dyn Iterator<Item = u32>) -> Result<Option<usize>, E>,
    ) -> Result<bool, E> {
        let waiter = self.buckets[key.hash() % N].with(|list| {
            let mut bits = list.iter().filter(|tag| tag.key.get() == key).map(|tag| tag.bits);
            let Some(mut before) = choose(&mut bits)? else { return Ok(None) };
            Ok(list.take_first(|tag| {
                if before > 0 && tag.key.get() == key {
                    before -= 1;
                    return false;
                }
                tag.taken_by(key, u32::MAX)
            }))
        })?;
        if let Some(waiter) = waiter {
            // SAFETY: unlinked by us just now, so alive and ours to tell.
            unsafe { WaitRecord::hand(&raw const (*waiter).record) };
        }
        Ok(waiter.is_some())
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
        let taken = List::new();
        self.with_two(first, second, |a, b| {
            let also = also()?;
            take(a, &taken, first, counts[0], bits);
            if also {
                take(b, &taken, second, counts[1], bits);
            }
            Ok(())
        })?;
        Ok(tell(&taken))
    }

    /// Wakes as many threads that wait for `from` as `check` says, and makes others wait for `to`: in all at most `most`. Returns how
    /// many were woken and how many moved. `check` sees the bits of those who wait for `from`, the first to be woken first.
    ///
    /// Context: may sleep; `check` is called with both buckets locked.
    ///
    /// # Errors
    /// What `check` returns.
    pub fn requeue<E>(
        &self,
        from: K,
        to: K,
        most: usize,
        check: impl FnOnce(&mut dyn Iterator<Item = u32>) -> Result<usize, E>,
    ) -> Result<(usize, usize), E> {
        let taken = List::new();
        let moved = self.with_two(from, to, |source, target| {
            let wake = check(&mut source.iter().filter(|tag| tag.key.get() == from).map(|tag| tag.bits))?;
            let woken = take(source, &taken, from, wake.min(most), u32::MAX);
            let moving = List::new();
            let moved = source.move_to(&moving, most - woken, |tag| tag.key.get() == from);
            moving.move_in_order(target, moved, |tag| {
                tag.key.set(to);
                tag.bucket.store(to.hash() % N, Ordering::Release);
                true
            });
            Ok(moved)
        })?;
        Ok((tell(&taken), moved))
    }

    /// Calls `f` with the buckets of two keys, which may be one, locked, the lower one first.
    fn with_two<R>(&self, a: K, b: K, f: impl FnOnce(&List<Tag<K>>, &List<Tag<K>>) -> R) -> R {
        let (a, b) = (a.hash() % N, b.hash() % N);
        match a.cmp(&b) {
            core::cmp::Ordering::Equal => self.buckets[a].with(|list| f(list, list)),
            core::cmp::Ordering::Less => self.buckets[a].with(|x| self.buckets[b].with(|y| f(x, y))),
            core::cmp::Ordering::Greater => self.buckets[b].with(|y| self.buckets[a].with(|x| f(x, y))),
        }
    }
}

/// Takes the waiters of `key` out of their bucket, to be told later; returns how many.
#[inline]
fn take<K: WaitKey>(bucket: &List<Tag<K>>, taken: &List<Tag<K>>, key: K, count: usize, bits: u32) -> usize {
    bucket.move_to(taken, count, |tag| tag.taken_by(key, bits))
}

/// Tells the waiters that were taken; returns how many.
#[inline]
fn tell<K>(taken: &List<Tag<K>>) -> usize {
    core::iter::from_fn(|| taken.hand_front().then_some(())).count()
}
