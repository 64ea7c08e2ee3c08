//! Memory pressure: whoever keeps memory that it could do without registers a [`Shrinker`].
//!
//! **Theory.** An allocation that finds no frame reclaims and tries again (*direct reclaim*), and so does [`super::memory_is_scarce`]
//! before system calls are refused. Reclaim runs in a thread that may hold any lock, so it must wait for nobody who could be waiting
//! for that thread. Hence the rules for [`Shrinker::scan`]: it takes locks by `try_lock`, or such under which nothing is allocated and
//! no other lock is taken; and it allocates nothing. One thread reclaims at a time; another one that finds it busy may sleep for
//! it, since by these rules it comes to an end. A shrinker that allocates in spite of them gets nothing by reclaim ([`RECLAIMER`]).
//!
//! Order: first what costs nothing to have again (free slabs of the heap), then the registered ones in the order of registration.

use super::{heap, reporting};
use arch_x86_64::percpu as block;
use core::sync::atomic::{AtomicUsize, Ordering};
use sync::{Mutex, OnceCell};

/// Somebody who keeps memory only because there is enough.
pub trait Shrinker: Send + Sync {
    /// For reports.
    fn name(&self) -> &'static str;

    /// About how many frames [`Shrinker::scan`] could give back now. Must be cheap.
    fn count(&self) -> u64;

    /// Gives back about `frames` frames, and says how many they were.
    ///
    /// Context: may sleep only as the module says; any lock may be held.
    fn scan(&self, frames: u64) -> u64;
}

const MOST: usize = 16;
static SHRINKERS: [OnceCell<&'static dyn Shrinker>; MOST] = [const { OnceCell::new() }; MOST];
static RECLAIM: Mutex<()> = Mutex::new(());
/// The thread that has [`RECLAIM`], as an address.
static RECLAIMER: AtomicUsize = AtomicUsize::new(0);

/// Adds a shrinker, for ever.
///
/// # Panics
/// If there are more than 16.
pub fn register(shrinker: &'static dyn Shrinker) {
    let added = SHRINKERS.iter().any(|place| place.get().is_none() && place.set(shrinker).is_ok());
    assert!(added, "more shrinkers than places");
}

/// Tries to make `frames` frames free; returns about how many became so.
///
/// Context: thread, preemption enabled; any lock but the allocator's own may be held.
#[cold]
pub(super) fn reclaim(frames: u64) -> u64 {
    let this = block::current() as usize;
    if RECLAIMER.load(Ordering::Relaxed) == this && this != 0 {
        return 0;
    }
    let _one_at_a_time = RECLAIM.lock();
    RECLAIMER.store(this, Ordering::Relaxed);
    let mut freed = heap::reclaim() + reporting::wait_until_returned();
    for shrinker in SHRINKERS.iter().filter_map(OnceCell::get) {
        if freed < frames && shrinker.count() > 0 {
            freed += shrinker.scan(frames - freed);
        }
    }
    RECLAIMER.store(0, Ordering::Relaxed);
    freed
}
