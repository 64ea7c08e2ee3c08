//! Fixed number of places from which anybody takes and into which anybody puts: a depot of batches.
//!
//! # Theory
//! Problem: any CPU leaves things that any other may take, in any order, without waiting, and without reading memory that another
//! CPU may have taken (which a stack with `pop` does, hence its ABA problem).
//!
//! Each place is in one of four states: *empty* (its bit is set in `empty`), *being filled*, *full* (bit set in `full`), *being
//! emptied*. Transitions: *claim to fill* (clear the bit in `empty`, Acquire: pairs with the Release of whoever emptied it),
//! *publish* (set the bit in `full`, Release: publishes the value), *claim to empty* (clear the bit in `full`, Acquire: pairs with
//! the publication), *give back* (set the bit in `empty`, Release: the value has been read). Between a claim and the next transition
//! the place is the claimer's alone. A claim that finds its bit taken tries another; each such failure is another's success.
//!
//! A CPU that is stopped between claim and transition keeps one place out of use and stops nobody.
//!
//! Rejected: a Treiber stack emptied as a whole (what is not wanted must be walked to be put back: linear in what is in stock);
//! a stack with version counters (reads nodes that are another's by then, a data race); a lock.
#![expect(unsafe_code, reason = "places are initialised and emptied by hand")]

use core::mem::MaybeUninit;

use crate::shim::atomic::{AtomicU64, Ordering};
use crate::shim::cell::UnsafeCell;

/// Up to `N` (at most 64) values.
pub struct Bag<T, const N: usize> {
    empty: AtomicU64,
    full: AtomicU64,
    places: [UnsafeCell<MaybeUninit<T>>; N],
}

// SAFETY: a place is touched only by the thread that claimed it, as the bits say.
unsafe impl<T: Send, const N: usize> Sync for Bag<T, N> {}
// SAFETY: as above.
unsafe impl<T: Send, const N: usize> Send for Bag<T, N> {}

impl<T, const N: usize> Bag<T, N> {
    const ALL: u64 = {
        assert!(N >= 1 && N <= 64, "one bit for each place");
        u64::MAX >> (64 - N)
    };

    /// An empty bag.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        let places = [const { UnsafeCell::new(MaybeUninit::uninit()) }; N];
        Self { empty: AtomicU64::new(Self::ALL), full: AtomicU64::new(0), places }
    }

    /// An empty bag.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        let places = core::array::from_fn(|_| UnsafeCell::new(MaybeUninit::uninit()));
        Self { empty: AtomicU64::new(Self::ALL), full: AtomicU64::new(0), places }
    }

    /// Puts a value in.
    ///
    /// # Errors
    /// The value, if there is no empty place.
    #[inline]
    pub fn put(&self, value: T) -> Result<(), T> {
        let Some(place) = claim(&self.empty) else { return Err(value) };
        // SAFETY: the claim made the place ours, and it is empty.
        self.places[place].with_mut(|place| unsafe {
            (*place).write(value);
        });
        self.full.fetch_or(1 << place, Ordering::Release);
        Ok(())
    }

    /// Takes some value out.
    #[inline]
    pub fn take(&self) -> Option<T> {
        let place = claim(&self.full)?;
        // SAFETY: the claim made the place ours, and it is full; it is empty from now on.
        let value = self.places[place].with(|place| unsafe { (*place).assume_init_read() });
        self.empty.fetch_or(1 << place, Ordering::Release);
        Some(value)
    }

    /// How many values there are, about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full.load(Ordering::Relaxed).count_ones() as usize
    }

    /// Whether there is no value, about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Clears a bit of `set` that was set, and returns its number.
#[inline]
fn claim(set: &AtomicU64) -> Option<usize> {
    // A look first: an empty set then costs no write to the shared line.
    let mut seen = set.load(Ordering::Relaxed);
    while seen != 0 {
        let bit = seen & seen.wrapping_neg();
        let before = set.fetch_and(!bit, Ordering::Acquire);
        if before & bit != 0 {
            return Some(bit.trailing_zeros() as usize);
        }
        seen = before;
    }
    None
}

impl<T, const N: usize> Default for Bag<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> Drop for Bag<T, N> {
    fn drop(&mut self) {
        core::iter::from_fn(|| self.take()).for_each(drop);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_full_bag_refuses_and_an_empty_one_has_nothing() {
        let bag = Bag::<Box<u32>, 3>::new();
        assert!((0..3).all(|value| bag.put(Box::new(value)).is_ok()));
        assert_eq!((bag.put(Box::new(3)), bag.len()), (Err(Box::new(3)), 3));
        let mut got: Vec<u32> = core::iter::from_fn(|| bag.take()).map(|value| *value).collect();
        got.sort_unstable();
        assert_eq!((got, bag.is_empty()), (vec![0, 1, 2], true));
    }

    #[test]
    fn what_is_left_is_dropped_with_the_bag() {
        let value = Arc::new(());
        let bag = Bag::<Arc<()>, 64>::new();
        assert!(bag.put(value.clone()).is_ok() && bag.put(value.clone()).is_ok());
        drop(bag);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn nothing_is_lost_or_doubled_between_threads() {
        const EACH: usize = 20_000;
        let bag = Arc::new(Bag::<usize, 4>::new());
        let workers: Vec<_> = (0..4)
            .map(|thread| {
                let bag = bag.clone();
                thread::spawn(move || {
                    let mut got = Vec::new();
                    for i in 0..EACH {
                        let mut value = thread * EACH + i;
                        while let Err(back) = bag.put(value) {
                            value = back;
                            got.extend(bag.take());
                        }
                        got.extend(bag.take());
                    }
                    got
                })
            })
            .collect();
        let mut got: Vec<usize> = workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect();
        got.extend(core::iter::from_fn(|| bag.take()));
        got.sort_unstable();
        assert!(got.iter().copied().eq(0..4 * EACH));
    }
}
