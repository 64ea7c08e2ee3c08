//! One area and what it is made of.

use addr::VirtAddr;
use bitflags::bitflags;
use core::ops::Range;

bitflags! {
    /// What the program may do with the pages (`PROT_*`, same bits).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Prot: u32 {
        /// `PROT_READ`.
        const READ = 1;
        /// `PROT_WRITE`.
        const WRITE = 2;
        /// `PROT_EXEC`.
        const EXEC = 4;
    }
}

bitflags! {
    /// Other properties of an area.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct AreaFlags: u32 {
        /// Writes reach the object and are seen by others (`MAP_SHARED`).
        const SHARED = 1;
        /// Grows towards lower addresses on faults below it (`MAP_GROWSDOWN`).
        const GROWS_DOWN = 1 << 1;
        /// Stays in memory (`MAP_LOCKED`, `mlock`).
        const LOCKED = 1 << 2;
        /// Not accounted (`MAP_NORESERVE`).
        const NO_RESERVE = 1 << 3;
        /// Not in children (`MADV_DONTFORK`).
        const DONT_FORK = 1 << 4;
        /// Zero in children (`MADV_WIPEONFORK`).
        const WIPE_ON_FORK = 1 << 5;
        /// Not in core dumps (`MADV_DONTDUMP`).
        const DONT_DUMP = 1 << 6;
        /// Large pages wanted (`MADV_HUGEPAGE`).
        const HUGE_PAGE = 1 << 7;
        /// Large pages not wanted (`MADV_NOHUGEPAGE`).
        const NO_HUGE_PAGE = 1 << 8;
        /// May never become writable: shared, and the file is not open for writing.
        const NEVER_WRITABLE = 1 << 9;
        /// Pages that were not written since the bits were cleared are marked (`clear_refs`).
        const TRACKED = 1 << 10;
        /// Pages that were not written since they were watched are marked (`PAGEMAP_SCAN`).
        const WATCHED = 1 << 11;
        /// Pages of 2 MiB, by name (`MAP_HUGETLB`).
        const PAGES_2M = 1 << 16;
        /// Pages of 1 GiB, by name (`MAP_HUGETLB`).
        const PAGES_1G = 1 << 17;
    }
}

/// What an area's pages come from. Areas are cut and joined, so a backing knows how it continues.
pub trait Backing: Clone {
    /// The backing of the part that begins `bytes` into the area.
    #[must_use]
    fn advanced(&self, bytes: u64) -> Self;

    /// The backing of an area that begins `bytes` earlier and grew downwards to there.
    #[must_use]
    fn extended_down(&self, bytes: u64) -> Self {
        let _ = bytes;
        self.clone()
    }

    /// The area becomes one with another that has this backing, and goes on with `self`: notes what is to be remembered of it.
    #[inline]
    fn absorb(&mut self, other: &Self) {
        let _ = other;
    }

    /// Whether `next`, `bytes` behind the start of this one, is this backing continued.
    fn continues_as(&self, bytes: u64, next: &Self) -> bool;
}

/// A range of pages with the same protection, flags and (continued) backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area<B> {
    /// First byte; page-aligned.
    pub start: VirtAddr,
    /// One past the last byte; page-aligned.
    pub end: VirtAddr,
    /// Protection.
    pub prot: Prot,
    /// Other properties.
    pub flags: AreaFlags,
    /// Where its pages come from.
    pub backing: B,
}

impl<B> Area<B> {
    /// In bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an area is never empty")]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// The addresses.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.start.0..self.end.0
    }

    /// Whether `addr` lies inside.
    #[must_use]
    pub const fn contains(&self, addr: VirtAddr) -> bool {
        self.start.0 <= addr.0 && addr.0 < self.end.0
    }

    /// Lowest address that must stay free: the guard gap of a growing stack counts.
    #[must_use]
    pub const fn guarded_start(&self) -> u64 {
        if self.flags.contains(AreaFlags::GROWS_DOWN) {
            self.start.0.saturating_sub(crate::place::STACK_GUARD_GAP)
        } else {
            self.start.0
        }
    }
}

impl<B: Backing> Area<B> {
    /// Whether `next` begins where this area ends and is the same in everything.
    #[must_use]
    pub fn merges_with(&self, next: &Self) -> bool {
        self.end == next.start
            && self.prot == next.prot
            && self.flags == next.flags
            && !self.flags.contains(AreaFlags::GROWS_DOWN)
            && self.backing.continues_as(self.len(), &next.backing)
    }

    /// Cuts the area at `at`, which lies strictly inside, and returns the upper part.
    #[must_use]
    pub fn cut_off(&mut self, at: VirtAddr) -> Self {
        let mut upper = self.clone();
        upper.start = at;
        upper.backing = self.backing.advanced(at - self.start);
        // Only the lowest part of a stack grows.
        upper.flags.remove(AreaFlags::GROWS_DOWN);
        self.end = at;
        upper
    }
}
