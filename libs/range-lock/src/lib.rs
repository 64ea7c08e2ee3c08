//! [`RangeLock`]: a structure over addresses that many look up at once and one at a time changes.
//!
//! Made for the areas of an address space. A page fault looks an area up and then works on one [`Block`] of addresses, for as long
//! as that takes. Who changes areas keeps out faults in the range that it changes, and no others.
//!
//! # Theory
//! *Problem.* Under one reader/writer lock every `mmap` waits for all faults in flight, among them those that read from a disk, bars all
//! new ones while it works and flushes TLBs, and all faults write to one cache line. Linux (since 6.4) gives every area a lock of its
//! own and looks areas up under RCU in a tree whose nodes are replaced, not changed.
//!
//! *State.*
//! - `turn`: a mutex. Its owner, the only one who changes anything, is called the changer.
//! - `mode`: what the changer excludes; with a generation, which every exclusion increments.
//!   `OPEN`: nothing. `STRUCTURE`: every look at the structure, and work on blocks in `from..to`. `RANGE`: only the latter.
//! - `places`: one word for each fault in flight. `FREE`; a block and `LOOKING`: it reads the structure; a block: it works on that block,
//!   with a copy of what it found. Places lie in groups, one for each CPU in a cache line of its own; which group is taken is a
//!   matter of speed only.
//! - `crowd`: faults that found no place. Each counts as looking, and as working on every block, until it leaves.
//!
//! *A fault.* (1) `FREE` → block + `LOOKING`. (2) Reads `mode`. `OPEN`, or a `RANGE` that its block is not in: looks. Otherwise it
//! leaves its place and *queues*: it takes `turn`, so that there is no changer, and then takes a place, looks, and passes `turn` on.
//! (3) → block. (4) works; → `FREE`, and wakes a changer that waits.
//!
//! *A changer.* Owns `turn`. (a) `from`, `to`, then `mode` ← `STRUCTURE`. (b) Sleeps until no place is `LOOKING` and no place has a block
//! in `from..to`. (c) Changes the structure. (d) `mode` ← `RANGE`. (e) Takes away what the faults of its range had set up. (f) `mode` ← `OPEN`.
//! Who changes nothing of the structure begins with `RANGE`, and then (b) is about blocks only.
//!
//! *Why a look never meets a change.* (1) and (2) are a store and a load, (a) and (b) are, too, all sequentially consistent: either the
//! fault reads `STRUCTURE` and does not look, or the changer sees it looking and waits. A fault that reads `RANGE` and looks is seen by
//! the *next* `STRUCTURE`. `from` and `to` belong to the mode that was read before them if the same mode is read after them, as the
//! generation would have changed.
//!
//! *Why work on a block never meets the taking away.* By the same argument for the block instead of `LOOKING`: the place holds the block from
//! (1) to (4), `mode` holds the range from (a) to (f).
//!
//! *Why nobody sleeps for ever.* A changer waits only for faults that are in flight; those that come later see `mode` and queue behind it.
//! A fault waits only for `turn`. It must not wait for `turn` while it has a place (rule 1 of `doc/locking.md`: no recursion). (4) stores,
//! then wakes; the changer links itself, then looks ([`WaitQueue`]'s own argument). Step (3) wakes without a fence: if that is missed,
//! (4) does it.
//!
//! *Rejected.* A lock in each area: changes that split or join areas must lock several and find that they are still the same, and the look-up
//! needs a tree for lock-free readers, whose replaced nodes cost more than the look that they permit. A check of a sequence after the
//! page-table entry was set: another thread may have used the entry by then.
#![cfg_attr(not(any(test, loom)), no_std)]
#![expect(unsafe_code, reason = "those whom the protocol admits may touch the data")]

extern crate alloc;

#[cfg(all(test, loom))]
mod loom_tests;
mod place;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut, Range};

#[cfg(loom)]
use lockfree::shim::atomic::fence;
use lockfree::shim::atomic::{AtomicU64, AtomicUsize, Ordering};
use sync::{Mutex, MutexGuard, WaitQueue};

pub use place::Block;
use place::{Group, Place};

/// Kinds of `mode`, in its lowest bits; the generation is above.
const OPEN: u64 = 0;
const STRUCTURE: u64 = 1;
const RANGE: u64 = 2;
const KIND: u64 = 3;
const GENERATION: u64 = 4;

/// Everything.
const ALL: Range<u64> = 0..u64::MAX;

/// Data over addresses. See the theory at the head of the crate.
pub struct RangeLock<T> {
    turn: Mutex<()>,
    mode: AtomicU64,
    from: AtomicU64,
    to: AtomicU64,
    crowd: AtomicUsize,
    /// The changer waits here.
    drained: WaitQueue,
    groups: Box<[Group]>,
    data: UnsafeCell<T>,
}

// SAFETY: those who look share the data, a changer has it alone.
unsafe impl<T: Send + Sync> Sync for RangeLock<T> {}
// SAFETY: a lock that can be moved is not in use.
unsafe impl<T: Send> Send for RangeLock<T> {}

impl<T> RangeLock<T> {
    /// A lock with `groups` groups of places, at least one.
    #[must_use]
    pub fn new(data: T, groups: usize) -> Self {
        Self {
            turn: Mutex::new(()),
            mode: AtomicU64::new(OPEN),
            from: AtomicU64::new(0),
            to: AtomicU64::new(0),
            crowd: AtomicUsize::new(0),
            drained: WaitQueue::new(),
            groups: (0..groups.max(1)).map(|_| Group::new()).collect(),
            data: UnsafeCell::new(data),
        }
    }

    /// Looks at the data, and then holds `block`: until the result is dropped, no change of a range with an address of the block
    /// goes beyond waiting. `look` must not sleep. `group` is best the number of the CPU.
    ///
    /// Context: may sleep; not while holding a block, nor with the lock.
    pub fn enter<R>(&self, group: usize, block: Block, look: impl FnOnce(&T) -> R) -> (R, Held<'_, T>) {
        let group = &self.groups[group % self.groups.len()];
        let place = match group.claim(block) {
            Some(place) if self.admits(block) => place,
            claimed => {
                if let Some(place) = claimed {
                    self.leave(place);
                }
                return self.queue(block, look);
            }
        };
        // SAFETY: our place shows that we look, and `mode` was seen to permit it afterwards.
        let found = look(unsafe { &*self.data.get() });
        (found, self.hold(place))
    }

    /// Whether a fault that has shown its block may look.
    #[inline]
    fn admits(&self, block: Block) -> bool {
        #[cfg(loom)]
        fence(Ordering::SeqCst);
        let mode = self.mode.load(Ordering::SeqCst);
        mode & KIND == OPEN || mode & KIND == RANGE && self.is_outside(block, mode)
    }

    /// Whether a block is outside the range that belongs to `mode`.
    fn is_outside(&self, block: Block, mode: u64) -> bool {
        let range = self.from.load(Ordering::Acquire)..self.to.load(Ordering::Acquire);
        !block.touches(&range) && self.mode.load(Ordering::Relaxed) == mode
    }

    #[cold]
    fn queue<R>(&self, block: Block, look: impl FnOnce(&T) -> R) -> (R, Held<'_, T>) {
        let turn = self.turn.lock();
        let place = self.groups.iter().find_map(|group| group.claim(block)).unwrap_or_else(|| {
            self.crowd.fetch_add(1, Ordering::SeqCst);
            Place::Crowd
        });
        // SAFETY: with `turn` nobody changes anything.
        let found = look(unsafe { &*self.data.get() });
        let held = self.hold(place);
        drop(turn);
        (found, held)
    }

    /// From looking to working.
    #[inline]
    fn hold<'a>(&'a self, place: Place<'a>) -> Held<'a, T> {
        place.has_looked();
        if self.mode.load(Ordering::Relaxed) & KIND != OPEN {
            self.drained.wake_one();
        }
        Held { lock: self, place, not_send: PhantomData }
    }

    #[inline]
    fn leave(&self, place: Place<'_>) {
        match place {
            Place::Word(word) => Place::free(word),
            Place::Crowd => _ = self.crowd.fetch_sub(1, Ordering::Release),
        }
        self.drained.wake_one();
    }

    /// Takes the lock for reading as much as one likes. Blocks can still be entered; changes wait.
    ///
    /// Context: may sleep; not while holding a block.
    pub fn read(&self) -> Turn<'_, T> {
        Turn { lock: self, turn: self.turn.lock() }
    }

    /// As [`RangeLock::read`] if nobody else has the lock. Never sleeps.
    ///
    /// Context: any thread, also one that holds a block.
    pub fn try_read(&self) -> Option<Turn<'_, T>> {
        Some(Turn { lock: self, turn: self.turn.try_lock()? })
    }

    /// Takes the lock to change anything.
    ///
    /// Context: may sleep; not while holding a block.
    pub fn write(&self) -> Changing<'_, T> {
        self.read().change(ALL)
    }

    #[inline]
    fn exclude(&self, kind: u64, range: Range<u64>) {
        self.show(kind, &range);
        if !self.is_unused() {
            self.wait_until_drained(kind, &range);
        }
    }

    /// Lets faults see what is excluded from now on.
    #[inline]
    fn show(&self, kind: u64, range: &Range<u64>) {
        let generation = (self.mode.load(Ordering::Relaxed) & !KIND).wrapping_add(GENERATION);
        // Release: who reads these sees the mode before them gone.
        self.from.store(range.start, Ordering::Release);
        self.to.store(range.end, Ordering::Release);
        self.mode.swap(generation | kind, Ordering::SeqCst);
        #[cfg(loom)]
        fence(Ordering::SeqCst);
    }

    /// Whether no fault is in flight at all, which is the common case.
    #[inline]
    fn is_unused(&self) -> bool {
        self.crowd.load(Ordering::SeqCst) == 0 && self.groups.iter().all(Group::is_free)
    }

    #[cold]
    fn wait_until_drained(&self, kind: u64, range: &Range<u64>) {
        self.drained.wait(|| self.is_drained(kind, range).then_some(()));
    }

    fn is_drained(&self, kind: u64, range: &Range<u64>) -> bool {
        let clear = |group: &Group| group.all(|place| (kind == RANGE || !place.is_looking()) && !place.block().touches(range));
        self.crowd.load(Ordering::SeqCst) == 0 && self.groups.iter().all(clear)
    }

    fn set_kind(&self, kind: u64) {
        let generation = self.mode.load(Ordering::Relaxed) & !KIND;
        self.mode.store(generation | kind, Ordering::Release);
    }
}

/// A block is held, and nothing else of the lock.
#[must_use = "the block is given up when this is dropped"]
pub struct Held<'a, T> {
    lock: &'a RangeLock<T>,
    place: Place<'a>,
    not_send: PhantomData<*const ()>,
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.leave(self.place);
    }
}

/// The lock, for reading.
#[must_use = "the lock is released when this is dropped"]
pub struct Turn<'a, T> {
    lock: &'a RangeLock<T>,
    turn: MutexGuard<'a, ()>,
}

impl<'a, T> Turn<'a, T> {
    /// Goes on to change what belongs to addresses of `range`. Sleeps until nobody looks, and nobody holds a block in the range.
    pub fn change(self, range: Range<u64>) -> Changing<'a, T> {
        self.exclude(STRUCTURE, range)
    }

    /// Keeps `range` to oneself, without a change of the data. Sleeps until nobody holds a block in the range.
    pub fn keep_out(self, range: Range<u64>) -> Settled<'a, T> {
        Settled(self.exclude(RANGE, range))
    }

    /// As [`Turn::keep_out`] if nobody holds a block in the range; never sleeps.
    pub fn try_keep_out(self, range: Range<u64>) -> Option<Settled<'a, T>> {
        self.lock.show(RANGE, &range);
        let ours = Changing { lock: self.lock, _open: Open(self.lock), _turn: self.turn };
        self.lock.is_drained(RANGE, &range).then(|| Settled(ours))
    }

    fn exclude(self, kind: u64, range: Range<u64>) -> Changing<'a, T> {
        self.lock.exclude(kind, range);
        Changing { lock: self.lock, _open: Open(self.lock), _turn: self.turn }
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: with `turn` nobody changes the data.
        unsafe { &*self.lock.data.get() }
    }
}

/// Ends an exclusion.
struct Open<'a, T>(&'a RangeLock<T>);

impl<T> Drop for Open<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.set_kind(OPEN);
    }
}

/// The lock, to change the data. The mode opens before the turn is passed on: fields are dropped in order.
#[must_use = "the lock is released when this is dropped"]
pub struct Changing<'a, T> {
    lock: &'a RangeLock<T>,
    _open: Open<'a, T>,
    _turn: MutexGuard<'a, ()>,
}

impl<'a, T> Changing<'a, T> {
    /// The data are as they shall be: from here on only the range is kept to oneself.
    pub fn settle(self) -> Settled<'a, T> {
        self.lock.set_kind(RANGE);
        Settled(self)
    }
}

impl<T> Deref for Changing<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: only we change the data.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for Changing<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: nobody looks: those who did were waited for, new ones see the mode.
        unsafe { &mut *self.lock.data.get() }
    }
}

/// The lock, with the data as they shall be, and a range for oneself.
#[must_use = "the lock is released when this is dropped"]
pub struct Settled<'a, T>(Changing<'a, T>);

impl<T> Deref for Settled<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}
