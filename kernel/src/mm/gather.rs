//! What was removed from a tree and waits for the TLB flush.

use crate::tlb::Freed;
use core::ops::ControlFlow;
use alloc::vec::Vec;
use page_table::Removed;

const INLINE: usize = 16;
const MOST: usize = 4096;

/// Removed pages and tables. Works without memory, in smaller steps.
pub(super) struct Gather {
    inline: [Option<Removed>; INLINE],
    used: usize,
    more: Vec<Removed>,
    freed: Freed,
}

impl Gather {
    /// Room for about `expected` items, if memory allows.
    pub(super) fn new(expected: usize) -> Self {
        let mut more = Vec::new();
        if expected > INLINE {
            // Without memory the inline room does, with more flushes.
            let _ = more.try_reserve_exact(expected.min(MOST));
        }
        Self { inline: [None; INLINE], used: 0, more, freed: Freed::PagesOnly }
    }

    /// Adds an item; breaks when there is no room for another one.
    pub(super) fn push(&mut self, item: Removed) -> ControlFlow<()> {
        if matches!(item, Removed::Table(_)) {
            self.freed = Freed::Tables;
        }
        if self.used < INLINE {
            self.inline[self.used] = Some(item);
            self.used += 1;
        } else {
            self.more.push(item);
        }
        let full = self.used == INLINE && self.more.len() == self.more.capacity();
        if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Removed> + '_ {
        self.freed = Freed::PagesOnly;
        let used = core::mem::take(&mut self.used);
        self.inline[..used].iter_mut().filter_map(Option::take).chain(self.more.drain(..))
    }
}
