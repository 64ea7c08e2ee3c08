//! What keeps dentries that nobody uses, and names that do not exist, for the next walk.
//!
//! A ring of places for each of a few groups, with a hand that goes round (the *clock* scheme): who is found on a walk gets a mark; the
//! hand takes marks away, and what has none and no user loses its place when a new one needs it. Which names are kept and which
//! are not changes nothing but time.
//!
//! Locks: a group's, a leaf; what loses its place is dropped after it is released. So it may be found in the table of names for a while longer.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use dcache::Inserted;
use sync::Mutex;

use crate::dentry::{Dentry, Known, NAMES};

const GROUPS: usize = 8;
/// How far the hand goes at once for one who needs a place.
const STEPS: usize = 8;

/// Most that is kept.
static LIMIT: AtomicUsize = AtomicUsize::new(8192);

/// How many are kept; to be read while any lock is held.
static TOTAL: AtomicUsize = AtomicUsize::new(0);

static RINGS: [Mutex<Ring>; GROUPS] = [const { Mutex::new(Ring::new()) }; GROUPS];

/// Sets how many dentries and missing names are kept at most.
pub fn set_limit(most: usize) {
    LIMIT.store(most, Ordering::Relaxed);
}

/// How many are kept.
#[must_use]
pub fn count() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

/// Drops all that nobody uses; returns how many there were. For when memory is short: it allocates nothing itself.
pub fn drop_unused() -> usize {
    let mut dropped = 0;
    for ring in &RINGS {
        let mut at = 0;
        loop {
            let Some(unused) = ring.lock().take_unused(&mut at) else { break };
            unused.end();
            dropped += 1;
        }
    }
    dropped
}

/// Where something is kept, as it knows itself.
pub(crate) struct Place {
    /// Group and index, plus one; zero: nowhere. Changes under the group's lock.
    position: AtomicU32,
    used: AtomicBool,
}

impl Place {
    pub(crate) const fn new() -> Self {
        Self { position: AtomicU32::new(0), used: AtomicBool::new(false) }
    }

    /// Notes that a walk found it. Writes only if that is news.
    #[inline]
    pub(crate) fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn position(&self) -> u32 {
        self.position.load(Ordering::Relaxed)
    }
}

/// What has a place.
enum Kept {
    Dentry(Arc<Dentry>),
    Absent(Inserted<Known>),
}

impl Kept {
    fn place(&self) -> &Place {
        match self {
            Self::Dentry(dentry) => &dentry.kept,
            Self::Absent(entry) => &entry.kept,
        }
    }

    fn is_in_use(&self) -> bool {
        match self {
            Self::Dentry(dentry) => Arc::strong_count(dentry) > 1,
            Self::Absent(_) => false,
        }
    }

    fn end(self) {
        match self {
            Self::Dentry(dentry) => drop(dentry),
            Self::Absent(entry) => NAMES.remove(entry),
        }
    }
}

/// One group.
struct Ring {
    places: Vec<Option<Kept>>,
    free: Vec<u32>,
    used: usize,
    hand: usize,
}

impl Ring {
    const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), used: 0, hand: 0 }
    }

    fn put(&mut self, group: usize, kept: Kept) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            // Room for all: giving a place back does not allocate.
            self.free.reserve(self.places.len() - self.free.len());
            self.places.len() as u32 - 1
        });
        kept.place().position.store(index * GROUPS as u32 + group as u32 + 1, Ordering::Relaxed);
        self.places[index as usize] = Some(kept);
        self.used += 1;
        TOTAL.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&mut self, index: usize) -> Option<Kept> {
        let kept = self.places.get_mut(index)?.take()?;
        kept.place().position.store(0, Ordering::Relaxed);
        self.free.push(index as u32);
        self.used -= 1;
        TOTAL.fetch_sub(1, Ordering::Relaxed);
        Some(kept)
    }

    /// Moves the hand until it finds one that can go.
    fn evict(&mut self) -> Option<Kept> {
        for _ in 0..STEPS.min(self.places.len()) {
            self.hand = (self.hand + 1) % self.places.len();
            let Some(kept) = &self.places[self.hand] else { continue };
            let marked = kept.place().used.swap(false, Ordering::Relaxed);
            if !marked && !kept.is_in_use() {
                return self.take(self.hand);
            }
        }
        None
    }

    /// Takes the next one from place `at` on that nobody uses, and moves `at` behind it.
    fn take_unused(&mut self, at: &mut usize) -> Option<Kept> {
        while let Some(place) = self.places.get(*at) {
            let unused = place.as_ref().is_some_and(|kept| !kept.is_in_use());
            *at += 1;
            if unused {
                return self.take(*at - 1);
            }
        }
        None
    }
}

fn put(group: usize, kept: Kept) {
    let evicted = {
        let mut ring = RINGS[group].lock();
        let full = ring.used >= LIMIT.load(Ordering::Relaxed) / GROUPS;
        let evicted = if full { ring.evict() } else { None };
        ring.put(group, kept);
        evicted
    };
    if let Some(evicted) = evicted {
        evicted.end();
    }
}

/// Keeps a dentry that is not kept yet.
pub(crate) fn keep(dentry: &Arc<Dentry>) {
    put(dentry.id() as usize % GROUPS, Kept::Dentry(dentry.clone()));
}

/// Keeps the knowledge that a name does not exist.
pub(crate) fn keep_absent(entry: Inserted<Known>) {
    put(core::ptr::from_ref(&*entry).addr() / 64 % GROUPS, Kept::Absent(entry));
}

fn take_if(position: u32, is_it: impl FnOnce(&Kept) -> bool) -> Option<Kept> {
    let at = position.checked_sub(1)? as usize;
    let mut ring = RINGS[at % GROUPS].lock();
    let kept = ring.places.get(at / GROUPS)?.as_ref()?;
    if is_it(kept) { ring.take(at / GROUPS) } else { None }
}

/// Keeps `dentry` no longer.
pub(crate) fn let_go(dentry: &Dentry) {
    let taken = take_if(dentry.kept.position(), |kept| matches!(kept, Kept::Dentry(held) if core::ptr::eq(&raw const **held, dentry)));
    if let Some(taken) = taken {
        taken.end();
    }
}

/// Removes the knowledge that a name does not exist: the entry at this place, with this address, unless it has gone by itself.
pub(crate) fn forget_absent((position, address): (u32, usize)) {
    let taken = take_if(position, |kept| matches!(kept, Kept::Absent(entry) if core::ptr::from_ref::<dcache::Entry<Known>>(entry).addr() == address));
    if let Some(taken) = taken {
        taken.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    #[test]
    fn a_name_that_comes_into_being_while_its_absence_ends_is_found() {
        let tree = Tree::empty();
        assert!(tree.at("/new").is_err());
        // Another thread has taken these and stands just before their end.
        let taken: Vec<_> = RINGS.iter().flat_map(|ring| {
            let (mut ring, mut at) = (ring.lock(), 0);
            core::iter::from_fn(move || ring.take_unused(&mut at)).collect::<Vec<_>>()
        }).collect();
        tree.write("/new", b"x").unwrap();
        drop_unused();
        assert_eq!(tree.read("/new").unwrap(), b"x");
        drop_unused();
        assert!(tree.at("/new").is_ok());
        taken.into_iter().for_each(Kept::end);
        tree.unlink("/new").unwrap();
        assert!(tree.at("/new").is_err());
    }
}
