//! Large pages: into tables of smaller ones, and tables into large pages.
//!
//! **Theory.** An entry changes its page size only by way of [`Entry::BUSY`], which is not present, and a flush of everything that it
//! spans: so no processor ever holds translations of two sizes for one address (SDM volume 3, 4.10.2.2 and 4.11.2, and errata of
//! processors that meet both in their instruction TLB). Who is about to change a size has what excludes others from doing so (in
//! `kernel::mm`: the areas locked for writing, or, in a page fault, the lock of busy entries); the processor's own changes (accessed
//! and dirty) are what the compare-exchange to `BUSY` waits out: the entry that it removed is the one that counts.
//!
//! - *split* ([`PageTable::split_page`]): page → `BUSY` → table. The table is got first, so the only failure leaves the page as it
//!   was. A filling operation: tables appear, none goes away.
//! - *join*: table → `BUSY` ([`PageTable::hide_table`]), the caller flushes, makes the large page, and sets it
//!   ([`PageTable::show_large`]). A restructuring operation, because the table goes away.

use crate::entry::level_span;
use crate::{Entry, Flags, OutOfTables, PageSize, PageTable, TableSource};
use addr::{PhysAddr, VirtAddr};
use core::sync::atomic::{AtomicU64, Ordering};

/// Whether a page was split.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// It was, into pages of the next smaller size.
    Done,
    /// There is no large page at the address (any more).
    NotLarge,
}

/// Makes the processors forget the translations from one address up to another.
pub type Flush<'a> = &'a mut dyn FnMut(VirtAddr, VirtAddr);

/// Flags of the parts of a large page of `level`.
fn part_flags(flags: Flags, level: u32) -> Flags {
    if level == 2 { flags - Flags::LARGE } else { flags }
}

impl Entry {
    /// What the 4 KiB at `va` are, in a page of `size` with this entry: the entry that a small page there would have.
    #[must_use]
    pub const fn part_at(self, va: VirtAddr, size: PageSize) -> Self {
        match size {
            PageSize::Size4K => self,
            _ if !self.has_page() => self,
            _ => {
                let offset = va.0 & (size.bytes() - 1) & !(PageSize::Size4K.bytes() - 1);
                Self::new(PhysAddr(self.address().0 + offset), self.flags().difference(Flags::LARGE))
            }
        }
    }
}

impl<S: TableSource> PageTable<S> {
    /// Replaces the large page that contains `va` by a table of the next smaller ones with the same rights. `flush` is called with what
    /// the page spans while the entry is busy.
    ///
    /// # Errors
    /// [`OutOfTables`]; then nothing has changed.
    pub fn split_page(&self, va: VirtAddr, flush: Flush<'_>) -> Result<Split, OutOfTables> {
        let Some((slot, level)) = self.large_slot(va) else { return Ok(Split::NotLarge) };
        let table = self.source.alloc_split_table().ok_or(OutOfTables)?;
        let Some(old) = hide_page(slot, level) else {
            self.source.free_table(table);
            return Ok(Split::NotLarge);
        };
        let span = level_span(level);
        let start = va.align_down(span);
        flush(start, start + span);
        self.fill_with_parts(table, old, level);
        slot.store(Entry::new(table, Flags::TABLE).0, Ordering::Release);
        Ok(Split::Done)
    }

    /// Splits until no large page contains both `va` and the address before it.
    ///
    /// # Errors
    /// [`OutOfTables`]; pages that were split stay split.
    pub fn split_at(&self, va: VirtAddr, flush: Flush<'_>) -> Result<(), OutOfTables> {
        loop {
            let (entry, size) = self.lookup(va);
            if entry.is_empty() || size == PageSize::Size4K || va.is_aligned(size.bytes()) {
                return Ok(());
            }
            if self.split_page(va, flush)? == Split::NotLarge {
                return Ok(());
            }
        }
    }

    /// Splits every large page that touches `start..end` down to 4 KiB.
    ///
    /// # Errors
    /// [`OutOfTables`]; pages that were split stay split.
    pub fn split_all(&self, start: VirtAddr, end: VirtAddr, flush: Flush<'_>) -> Result<(), OutOfTables> {
        let mut from = start;
        while let Some(large) = self.first_large(from, end) {
            from = large;
            let _split_or_gone = self.split_page(large, flush)?;
        }
        Ok(())
    }

    fn first_large(&self, start: VirtAddr, end: VirtAddr) -> Option<VirtAddr> {
        let mut found = None;
        let _ = self.visit_range(start, end, &mut |va, entry, size| {
            if size == PageSize::Size4K || !entry.has_page() {
                return core::ops::ControlFlow::Continue(());
            }
            found = Some(va.max(start));
            core::ops::ControlFlow::Break(())
        });
        found
    }

    /// The slot of the large page that contains `va`, and its level.
    fn large_slot(&self, va: VirtAddr) -> Option<(&AtomicU64, u32)> {
        let (mut table, mut level) = (self.root(), 4);
        while level > 1 {
            let slot = self.slot(table, va.table_index(level));
            let entry = Entry(slot.load(Ordering::Acquire));
            if !entry.is_table(level) {
                return entry.has_page().then_some((slot, level));
            }
            table = entry.address();
            level -= 1;
        }
        None
    }

    pub(crate) fn fill_with_parts(&self, table: PhysAddr, page: Entry, level: u32) {
        let flags = part_flags(page.flags(), level);
        for i in 0..512 {
            let part = Entry::new(page.address() + i as u64 * level_span(level - 1), flags);
            self.slot(table, i).store(part.0, Ordering::Relaxed);
        }
    }

    /// The table with the 4 KiB pages of the 2 MiB around `va`. It stays as long as the tree is not restructured.
    #[must_use]
    pub fn small_table(&self, va: VirtAddr) -> Option<PhysAddr> {
        self.find(va).1.small_table()
    }

    /// The entry of the 2 MiB around `va`, whether it refers to a page or to a table; an empty one when a table above is missing.
    #[must_use]
    pub fn middle_entry(&self, va: VirtAddr) -> Entry {
        self.middle(va).map_or(Entry::EMPTY, |slot| Entry(slot.load(Ordering::Acquire)))
    }

    /// Entry `index` of a table.
    #[must_use]
    pub fn entry(&self, table: PhysAddr, index: u64) -> Entry {
        self.entry_at(table, index as usize)
    }

    /// The 512 entries of a table, in order.
    pub fn entries(&self, table: PhysAddr) -> impl Iterator<Item = Entry> + '_ {
        (0..512).map(move |index| self.entry_at(table, index))
    }

    /// Makes the entry that refers to the table with the pages of the 2 MiB around `va` busy, and returns the table, which still holds the
    /// pages. The caller flushes, then calls [`PageTable::show_large`]. Restructuring operation.
    #[must_use]
    pub fn hide_table(&self, va: VirtAddr) -> Option<PhysAddr> {
        let table = self.small_table(va)?;
        self.set_middle(va, Entry::new(table, Flags::TABLE), Entry::BUSY).then_some(table)
    }

    /// Sets the 2 MiB page at `va`, whose entry is busy.
    ///
    /// # Panics
    /// If it is not.
    pub fn show_large(&self, va: VirtAddr, page: Entry) {
        let shown = self.set_middle(va, Entry::BUSY, Entry(page.0 | Flags::LARGE.bits()));
        assert!(shown, "nobody replaces a busy entry");
    }

    /// Replaces the entry of level 2 for `va`, looking at the address alone: the processor may have set accessed.
    fn set_middle(&self, va: VirtAddr, old: Entry, new: Entry) -> bool {
        let Ok(slot) = self.leaf(va, PageSize::Size2M) else { return false };
        let found = Entry(slot.load(Ordering::Acquire));
        found.address() == old.address()
            && found.is_present() == old.is_present()
            && slot.compare_exchange(found.0, new.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Large page → busy; returns what it was. `None` if it is no large page.
fn hide_page(slot: &AtomicU64, level: u32) -> Option<Entry> {
    let mut entry = Entry(slot.load(Ordering::Acquire));
    while entry.has_page() && !entry.is_table(level) {
        match slot.compare_exchange(entry.0, Entry::BUSY.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(entry),
            Err(found) => entry = Entry(found),
        }
    }
    None
}
