//! x86-64 four-level page tables as pure logic over a source of table frames.
//!
//! Key types: [`PageTable`], [`Entry`], [`Flags`], [`PageSize`], [`TableSource`]. `kernel::mm` supplies frames and flushes
//! the TLB; host tests supply heap tables.
//!
//! **Theory.** Two kinds of operation, and the caller keeps them apart with a reader/writer lock:
//!
//! - *Filling* ([`PageTable::map_if_empty`], [`PageTable::compare_exchange`], [`PageTable::lookup`]) may run on many CPUs at once. A
//!   missing table is installed with a compare-exchange from empty; the loser frees its own. Tables never go away meanwhile.
//! - *Restructuring* (everything that takes a range to unmap, protect or move) needs the lock for writing: tables are
//!   freed. Large pages become tables, and tables large pages, by way of busy entries: see `large.rs`. A table that went out of use is handed to the caller like a page, who frees it after the TLB flush,
//!   because the processor caches references to tables, too.
//!
//! Stores are Release and loads Acquire: a table is zeroed, and a frame filled, before the entry that refers to it is seen.
//! Which flush is needed is the caller's to derive: none when an empty entry is filled, the range otherwise.
#![cfg_attr(not(test), no_std)]
#![expect(unsafe_code, reason = "tables are reached through raw pointers")]

mod entry;
mod large;
mod range;
#[cfg(test)]
mod tests;

use addr::{PhysAddr, VirtAddr};
use core::sync::atomic::{AtomicU64, Ordering};

pub use entry::{Entry, Flags, PageSize};
pub use large::{Flush, Split};
pub use range::Removed;

/// The 512 entries of a table.
pub type Table = [AtomicU64; 512];

/// No frame for a table could be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfTables;

/// Where tables live.
///
/// # Safety
/// `alloc_table` returns a page of zeros that nobody else uses until it is freed, and `table` its address.
pub unsafe trait TableSource {
    /// A zeroed frame.
    fn alloc_table(&self) -> Option<PhysAddr>;
    /// The same, to split a large page: what needs that (unmapping a part, say) should not fail for lack of memory.
    fn alloc_split_table(&self) -> Option<PhysAddr> {
        self.alloc_table()
    }
    /// Frees a table that nothing refers to.
    fn free_table(&self, table: PhysAddr);
    /// Where the table can be reached.
    fn table(&self, table: PhysAddr) -> *const Table;
}

/// Why a page could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame for a table.
    OutOfTables,
    /// The place is taken by this entry.
    Occupied(Entry),
}

/// Where an entry is: in which table. It stays valid as long as the tree is not restructured there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    table: PhysAddr,
    level: u32,
}

impl Spot {
    /// Size of the page that the entry is of, or of the hole that it is.
    #[must_use]
    pub const fn size(self) -> PageSize {
        PageSize::of_level(self.level)
    }

    /// The table, if it is one of 4 KiB pages.
    #[must_use]
    pub const fn small_table(self) -> Option<PhysAddr> {
        if self.level == 1 { Some(self.table) } else { None }
    }
}

/// A tree of tables. Dropping it frees nothing: see [`PageTable::unmap_range`] and [`PageTable::free_root`].
#[derive(Debug)]
pub struct PageTable<S> {
    root: PhysAddr,
    source: S,
}

impl<S: TableSource> PageTable<S> {
    /// A new, empty tree.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub fn new(source: S) -> Result<Self, OutOfTables> {
        let root = source.alloc_table().ok_or(OutOfTables)?;
        Ok(Self { root, source })
    }

    /// The tree that the processor uses when CR3 is `root`.
    ///
    /// # Safety
    /// `root` is the root of a well-formed tree whose tables `source` can reach.
    #[must_use]
    pub const unsafe fn from_root(root: PhysAddr, source: S) -> Self {
        Self { root, source }
    }

    /// Physical address of the root table: the value for CR3.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// The entry of the root table at `index`, for sharing whole parts between trees.
    #[must_use]
    pub fn root_entry(&self, index: usize) -> Entry {
        Entry(self.slot(self.root, index).load(Ordering::Acquire))
    }

    /// Sets an entry of the root table, which was empty.
    pub fn set_root_entry(&self, index: usize, entry: Entry) {
        self.slot(self.root, index).store(entry.0, Ordering::Release);
    }

    /// Makes sure that the root entry of `va` has a table, so that trees that copy it later share all changes below.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub fn ensure_root_entry(&self, va: VirtAddr) -> Result<(), OutOfTables> {
        self.next_table(self.root, 4, va).map(drop).map_err(|_| OutOfTables)
    }

    /// Frees the root table after its last use.
    pub fn free_root(self) {
        self.source.free_table(self.root);
    }

    /// The entries of a table.
    #[inline]
    pub(crate) fn slots(&self, table: PhysAddr) -> &Table {
        // SAFETY: as in `slot`.
        unsafe { &*self.source.table(table) }
    }

    #[inline]
    pub(crate) fn slot(&self, table: PhysAddr, index: usize) -> &AtomicU64 {
        // SAFETY: `table` is a table of this tree, alive as long as the tree is not restructured, which excludes this call.
        unsafe { &(*self.source.table(table))[index] }
    }

    pub(crate) fn entry_at(&self, table: PhysAddr, index: usize) -> Entry {
        Entry(self.slot(table, index).load(Ordering::Acquire))
    }

    /// The table below `table` (of `level`) on the way to `va`, made when missing.
    #[inline]
    pub(crate) fn next_table(&self, table: PhysAddr, level: u32, va: VirtAddr) -> Result<PhysAddr, MapError> {
        let slot = self.slot(table, va.table_index(level));
        let mut entry = Entry(slot.load(Ordering::Acquire));
        if entry.is_empty() {
            entry = self.add_table(slot)?;
        }
        if entry.is_table(level) { Ok(entry.address()) } else { Err(MapError::Occupied(entry)) }
    }

    /// Makes a table for an empty entry; returns what the entry is then.
    #[cold]
    fn add_table(&self, slot: &AtomicU64) -> Result<Entry, MapError> {
        let fresh = self.source.alloc_table().ok_or(MapError::OutOfTables)?;
        let new = Entry::new(fresh, Flags::TABLE);
        match slot.compare_exchange(0, new.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(new),
            Err(winner) => {
                self.source.free_table(fresh);
                Ok(Entry(winner))
            }
        }
    }

    /// The entry for `va` and the size of page it stands for; an empty entry when a table is missing.
    #[must_use]
    pub fn lookup(&self, va: VirtAddr) -> (Entry, PageSize) {
        let (entry, spot) = self.find(va);
        (entry, spot.size())
    }

    /// As [`PageTable::lookup`], with where the entry is.
    #[must_use]
    #[inline]
    pub fn find(&self, va: VirtAddr) -> (Entry, Spot) {
        let (mut table, mut level) = (self.root, 4);
        loop {
            let entry = self.entry_at(table, va.table_index(level));
            if !entry.is_table(level) {
                return (entry, Spot { table, level });
            }
            table = entry.address();
            level -= 1;
        }
    }

    /// Maps a page of 4 KiB where nothing is mapped, as [`PageTable::map_if_empty`], but without a walk if `spot`, found for an address
    /// with the same table, is one of such a page. Filling operation.
    ///
    /// # Errors
    /// [`MapError`].
    #[inline]
    pub fn map_at(&self, spot: Spot, va: VirtAddr, entry: Entry) -> Result<(), MapError> {
        if spot.level != 1 {
            return self.map_if_empty(va, entry, PageSize::Size4K);
        }
        self.slot(spot.table, va.table_index(1))
            .compare_exchange(0, entry.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|found| MapError::Occupied(Entry(found)))
    }

    /// The physical address behind `va`, when present.
    #[must_use]
    pub fn translate(&self, va: VirtAddr) -> Option<PhysAddr> {
        let (entry, size) = self.lookup(va);
        entry.is_present().then(|| PhysAddr(entry.address().0 + (va.0 & (size.bytes() - 1))))
    }

    pub(crate) fn leaf(&self, va: VirtAddr, size: PageSize) -> Result<&AtomicU64, MapError> {
        let mut table = self.root;
        for level in (size.level() + 1..=4).rev() {
            table = self.next_table(table, level, va)?;
        }
        Ok(self.slot(table, va.table_index(size.level())))
    }

    /// Maps a page where nothing is mapped. Filling operation.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map_if_empty(&self, va: VirtAddr, entry: Entry, size: PageSize) -> Result<(), MapError> {
        self.compare_exchange(va, size, Entry::EMPTY, entry)
    }

    /// Replaces the entry of the page at `va` if it still is `old`. Filling operation.
    ///
    /// # Errors
    /// [`MapError::Occupied`] with the entry found, [`MapError::OutOfTables`].
    pub fn compare_exchange(&self, va: VirtAddr, size: PageSize, old: Entry, new: Entry) -> Result<(), MapError> {
        self.leaf(va, size)?
            .compare_exchange(old.0, new.at_level(size.level()).0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(|found| MapError::Occupied(Entry(found)))
    }

    /// Maps `len` bytes of contiguous memory with the largest pages that fit, none larger than `largest`.
    ///
    /// # Errors
    /// [`MapError`]; what was mapped before the error stays.
    pub fn map_contiguous(&self, va: VirtAddr, pa: PhysAddr, len: u64, flags: Flags, largest: PageSize) -> Result<(), MapError> {
        let mut done = 0;
        while done < len {
            let (at, from) = (va + done, pa + done);
            let size = [PageSize::Size1G, PageSize::Size2M]
                .into_iter()
                .find(|s| *s <= largest && (at.0 | from.0) & (s.bytes() - 1) == 0 && len - done >= s.bytes())
                .unwrap_or(PageSize::Size4K);
            self.map_if_empty(at, Entry::new(from, flags), size)?;
            done += size.bytes();
        }
        Ok(())
    }
}
