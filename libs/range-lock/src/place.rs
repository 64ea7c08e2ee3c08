//! Places: where each fault in flight shows what it works on.

use core::ops::Range;
use lockfree::shim::atomic::{AtomicU64, Ordering};

/// Nobody.
const FREE: u64 = 0;
/// Added to a block: the structure is being read.
const LOOKING: u64 = 1 << 7;
/// The block's size as a power of two, below its address.
const SIZE: u64 = (1 << 7) - 1;
const ADDRESS: u64 = !0xfff;

/// Words that share a cache line.
#[cfg(not(loom))]
const PLACES: usize = 4;
#[cfg(loom)]
const PLACES: usize = 1;

/// An aligned power of two of addresses, at least a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block(u64);

impl Block {
    /// The block of 2^`log2_bytes` bytes (12 or more) around `address`.
    #[must_use]
    pub const fn around(address: u64, log2_bytes: u32) -> Self {
        debug_assert!(log2_bytes >= 12 && log2_bytes < 64);
        Self(address >> log2_bytes << log2_bytes | log2_bytes as u64)
    }

    /// Whether an address of the block lies in `range`.
    #[must_use]
    pub const fn touches(self, range: &Range<u64>) -> bool {
        let (start, last) = (self.0 & ADDRESS, (self.0 & ADDRESS) + ((1 << (self.0 & SIZE)) - 1));
        start < range.end && range.start <= last
    }
}

/// The places of one CPU.
#[repr(align(64))]
pub(crate) struct Group([AtomicU64; PLACES]);

impl Group {
    pub(crate) fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicU64::new(FREE)))
    }

    /// Takes a free place and shows in it that `block` is looked for. Sequentially consistent.
    #[inline]
    pub(crate) fn claim(&self, block: Block) -> Option<Place<'_>> {
        let claim = |word: &&AtomicU64| word.compare_exchange(FREE, block.0 | LOOKING, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        self.0.iter().find(claim).map(Place::Word)
    }

    /// Whether all places are free. Who comes after this sees the mode. Sequentially consistent.
    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.0.iter().fold(FREE, |any, word| any | word.load(Ordering::SeqCst)) == FREE
    }

    /// Whether `accept` holds for all places that are not free. Sequentially consistent.
    pub(crate) fn all(&self, mut accept: impl FnMut(Taken) -> bool) -> bool {
        self.0.iter().all(|word| match word.load(Ordering::SeqCst) {
            FREE => true,
            word => accept(Taken(word)),
        })
    }
}

/// What a place shows.
#[derive(Clone, Copy)]
pub(crate) struct Taken(u64);

impl Taken {
    pub(crate) const fn is_looking(self) -> bool {
        self.0 & LOOKING != 0
    }

    pub(crate) const fn block(self) -> Block {
        Block(self.0 & !LOOKING)
    }
}

/// Where a fault in flight is seen.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Word(&'a AtomicU64),
    /// Nowhere: it is counted.
    Crowd,
}

impl Place<'_> {
    /// Done with looking. Release: the look is over for who sees this.
    #[inline]
    pub(crate) fn has_looked(self) {
        if let Self::Word(word) = self {
            word.store(word.load(Ordering::Relaxed) & !LOOKING, Ordering::Release);
        }
    }

    #[inline]
    pub(crate) fn free(word: &AtomicU64) {
        word.store(FREE, Ordering::Release);
    }
}
