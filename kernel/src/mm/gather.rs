//! What was removed from a tree and waits for the TLB flush.

use crate::tlb::Freed;
use addr::PhysAddr;
use core::ops::ControlFlow;
use alloc::vec::Vec;
use page_table::{Entry, PageSize, Removed};

const INLINE: usize = 24;
const MOST: usize = 4096;

/// In the word of an item: it is a table.
const TABLE: u64 = 1 << 62;
/// In the word of a page: its size. Entries have nothing there.
const SIZE_SHIFT: u32 = 60;
const SIZES: [PageSize; 3] = [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G];

/// Something removed.
#[derive(Clone, Copy)]
pub(super) enum Item {
    /// A page, by its entry.
    Page(Entry, PageSize),
    /// A table.
    Table(PhysAddr),
}

impl Item {
    const fn to_word(self) -> u64 {
        match self {
            Self::Page(entry, size) => entry.0 | (size as u64) << SIZE_SHIFT,
            Self::Table(table) => table.0 | TABLE,
        }
    }

    const fn from_word(word: u64) -> Self {
        if word & TABLE != 0 {
            return Self::Table(PhysAddr(word & !TABLE));
        }
        Self::Page(Entry(word & !(3 << SIZE_SHIFT)), SIZES[(word >> SIZE_SHIFT & 3) as usize % SIZES.len()])
    }
}

/// Removed pages and tables. Works without memory, in smaller steps.
pub(super) struct Gather {
    inline: [u64; INLINE],
    used: usize,
    more: Vec<u64>,
    expected: usize,
    freed: Freed,
}

impl Gather {
    /// Room for about `expected` items, if memory allows: got when the first few have come. With 0 nothing is ever allocated.
    pub(super) const fn new(expected: usize) -> Self {
        Self { inline: [0; INLINE], used: 0, more: Vec::new(), expected, freed: Freed::PagesOnly }
    }

    /// Adds an item; breaks when there is no room for another one.
    #[inline]
    pub(super) fn push(&mut self, removed: Removed) -> ControlFlow<()> {
        let item = match removed {
            Removed::Page { entry, size, .. } => Item::Page(entry, size),
            Removed::Table(table) => Item::Table(table),
        };
        if matches!(item, Item::Table(_)) {
            self.freed = Freed::Tables;
        }
        if let Some(place) = self.inline.get_mut(self.used) {
            *place = item.to_word();
            self.used += 1;
            return if self.used < INLINE { ControlFlow::Continue(()) } else { self.find_room() };
        }
        self.more.push(item.to_word());
        if self.more.len() < self.more.capacity() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// The inline room is full: makes more, unless that is all that was expected.
    #[cold]
    fn find_room(&mut self) -> ControlFlow<()> {
        // Without memory the inline room does, with more flushes.
        let room = self.more.capacity() > 0 || self.expected > INLINE && self.more.try_reserve_exact(self.expected.min(MOST)).is_ok();
        if room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Whether anything was removed.
    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// What kind of things were removed.
    pub(super) const fn freed(&self) -> Freed {
        self.freed
    }

    /// Takes all items out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Item> + '_ {
        self.freed = Freed::PagesOnly;
        let used = core::mem::take(&mut self.used);
        self.inline[..used].iter().copied().chain(self.more.drain(..)).map(Item::from_word)
    }
}
