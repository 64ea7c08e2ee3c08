//! Restructuring operations: unmap, protect, move and visit ranges of a tree.

use crate::entry::level_span;
use crate::{Entry, Flags, OutOfTables, PageSize, PageTable, TableSource};
use addr::{PhysAddr, VirtAddr};
use core::ops::{ControlFlow, Range};
use core::sync::atomic::{AtomicU64, Ordering};

/// Something that is no longer part of the tree. The caller frees it after flushing the TLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// A page.
    Page {
        /// Where it was.
        va: VirtAddr,
        /// Its entry.
        entry: Entry,
        /// Its size.
        size: PageSize,
    },
    /// A table.
    Table(PhysAddr),
}

/// Why a walk ended early.
enum Stop {
    /// The sink is full; go on from here.
    Full(u64),
    OutOfTables,
}

/// The part of a range that one entry spans.
struct Step {
    index: usize,
    from: u64,
    to: u64,
    whole: bool,
}

/// Cuts `start..end`, which lies within one table of `level`, at the entries' borders.
fn steps(level: u32, start: u64, end: u64) -> impl Iterator<Item = Step> {
    let span = level_span(level);
    let mut at = start;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let from = at;
        let border = (from & !(span - 1)).wrapping_add(span);
        // At the very top of the address space the border wraps to zero.
        let to = if border == 0 { end } else { border.min(end) };
        at = to;
        let whole = from & (span - 1) == 0 && to.wrapping_sub(from) == span;
        Some(Step { index: VirtAddr(from).table_index(level), from, to, whole })
    })
}

/// Whether all that an entry of a table of `level` spans, the one for `at`, lies in `room`.
fn spans(level: u32, at: u64, room: &Range<u64>) -> bool {
    let start = at & !(level_span(level) - 1);
    room.start <= start && start.checked_add(level_span(level)).is_some_and(|end| end <= room.end)
}

impl<S: TableSource> PageTable<S> {
    /// As [`steps`], without the entries that are empty. Most are, above all in a small program that ends.
    fn filled_steps(&self, table: PhysAddr, level: u32, start: u64, end: u64) -> impl Iterator<Item = Step> {
        let slots = self.slots(table);
        let mut at = start;
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (index, last) = (VirtAddr(at).table_index(level), VirtAddr(end - 1).table_index(level));
            let empty = slots[index..=last].iter().position(|slot| slot.load(Ordering::Relaxed) != 0)?;
            if empty > 0 {
                at = (at & !(level_span(level) - 1)) + empty as u64 * level_span(level);
            }
            let step = steps(level, at, end).next()?;
            at = step.to;
            Some(step)
        })
    }

    /// Removes all pages of `start..end` and the tables that lie in it as a whole; large pages that stick out are split.
    /// See [`PageTable::unmap_range_in`].
    ///
    /// # Errors
    /// [`OutOfTables`] when a large page could not be split; everything before it was removed.
    pub fn unmap_range(&self, start: VirtAddr, end: VirtAddr, sink: &mut impl FnMut(Removed) -> ControlFlow<()>) -> Result<Option<VirtAddr>, OutOfTables> {
        self.unmap_range_in(start..end, &(start..end), sink)
    }

    /// Removes all pages of `range`, and the tables for addresses that lie as a whole in it or in `room`; large pages that stick out
    /// are split. Nothing but what is removed is mapped in `room`.
    ///
    /// `sink` gets everything removed, pages before the tables that held them. When it breaks, the walk ends, and the address to go
    /// on from is returned.
    ///
    /// # Errors
    /// [`OutOfTables`] when a large page could not be split; everything before it was removed.
    pub fn unmap_range_in(
        &self,
        range: Range<VirtAddr>,
        room: &Range<VirtAddr>,
        sink: &mut impl FnMut(Removed) -> ControlFlow<()>,
    ) -> Result<Option<VirtAddr>, OutOfTables> {
        let (range, room) = (range.start.0..range.end.0, room.start.0..room.end.0);
        let ended = match self.single_table(&range) {
            // Most ranges are small: no need for the walk that the whole tree needs.
            Some(table) if !spans(2, range.start, &room) => self.unmap_pages(table, &range, sink),
            _ => self.unmap_level(self.root(), 4, &range, &room, sink),
        };
        match ended {
            Ok(()) => Ok(None),
            Err(Stop::Full(at)) => Ok(Some(VirtAddr(at))),
            Err(Stop::OutOfTables) => Err(OutOfTables),
        }
    }

    /// The table of level 1 for all of a range that is not empty, if it lies in one and that exists.
    #[inline]
    fn single_table(&self, range: &Range<u64>) -> Option<PhysAddr> {
        if range.start >= range.end || (range.start ^ (range.end - 1)) >= level_span(2) {
            return None;
        }
        self.find(VirtAddr(range.start)).1.small_table()
    }

    /// Removes the pages of a range that lies in one table of level 1.
    #[inline]
    fn unmap_pages(&self, table: PhysAddr, range: &Range<u64>, sink: &mut impl FnMut(Removed) -> ControlFlow<()>) -> Result<(), Stop> {
        let first = VirtAddr(range.start).table_index(1);
        let count = (range.end - range.start).div_ceil(4096) as usize;
        for (step, slot) in self.slots(table)[first..].iter().take(count).enumerate() {
            let entry = Entry(slot.load(Ordering::Acquire));
            if entry.is_empty() {
                continue;
            }
            slot.store(0, Ordering::Release);
            let va = VirtAddr(range.start + step as u64 * 4096);
            if sink(Removed::Page { va, entry, size: PageSize::Size4K }).is_break() {
                return Err(Stop::Full(va.0));
            }
        }
        Ok(())
    }

    fn unmap_level(
        &self,
        table: PhysAddr,
        level: u32,
        range: &Range<u64>,
        room: &Range<u64>,
        sink: &mut impl FnMut(Removed) -> ControlFlow<()>,
    ) -> Result<(), Stop> {
        if level == 1 {
            return self.unmap_pages(table, range, sink);
        }
        for step in self.filled_steps(table, level, range.start, range.end) {
            let mut entry = self.entry_at(table, step.index);
            if entry.is_empty() {
                continue;
            }
            if !entry.is_table(level) && !step.whole {
                entry = self.split(table, step.index, level).map_err(|OutOfTables| Stop::OutOfTables)?;
            }
            let removed = if entry.is_table(level) {
                self.unmap_level(entry.address(), level - 1, &(step.from..step.to), room, sink)?;
                if !step.whole && !spans(level, step.from, room) {
                    continue;
                }
                Removed::Table(entry.address())
            } else {
                Removed::Page { va: VirtAddr(step.from), entry, size: PageSize::of_level(level) }
            };
            self.slot(table, step.index).store(0, Ordering::Release);
            if sink(removed).is_break() {
                // The next call must look again at the tables that held this entry, so it starts inside what the entry spanned.
                return Err(Stop::Full(step.to - 4096));
            }
        }
        Ok(())
    }

    /// Replaces a large page by a table of the next smaller ones with the same rights, without a flush between: for kernel
    /// mappings that nobody uses now. Program pages are split beforehand ([`PageTable::split_at`]).
    fn split(&self, table: PhysAddr, index: usize, level: u32) -> Result<Entry, OutOfTables> {
        let old = self.entry_at(table, index);
        let fresh = self.source.alloc_table().ok_or(OutOfTables)?;
        self.fill_with_parts(fresh, old, level);
        let new = Entry::new(fresh, Flags::TABLE);
        self.slot(table, index).store(new.0, Ordering::Release);
        Ok(new)
    }

    /// Calls `change` with every page in `start..end` and stores what it returns (never an empty entry). Large pages that stick out
    /// are split first. Returns whether any entry changed, that is whether the TLB must be flushed.
    ///
    /// # Errors
    /// [`OutOfTables`] when a large page could not be split; everything before it was changed.
    pub fn update_range(&self, start: VirtAddr, end: VirtAddr, change: impl FnMut(VirtAddr, Entry, PageSize) -> Entry) -> Result<bool, OutOfTables> {
        match self.single_table(&(start.0..end.0)) {
            // Most ranges are small. What the closure holds need not be in memory here, since it is the walk's own copy that has an address.
            Some(table) => Ok(self.update_pages(table, start.0, end.0, change)),
            None => self.update_level(self.root(), 4, start.0, end.0, &mut { change }),
        }
    }

    /// Changes the pages of a range that lies in one table of level 1.
    #[inline(always)]
    fn update_pages(&self, table: PhysAddr, start: u64, end: u64, mut change: impl FnMut(VirtAddr, Entry, PageSize) -> Entry) -> bool {
        let mut changed = false;
        let count = (end - start).div_ceil(4096) as usize;
        for (step, slot) in self.slots(table)[VirtAddr(start).table_index(1)..].iter().take(count).enumerate() {
            let entry = Entry(slot.load(Ordering::Acquire));
            if !entry.is_empty() {
                changed |= replace(slot, entry, change(VirtAddr(start + step as u64 * 4096), entry, PageSize::Size4K));
            }
        }
        changed
    }

    fn update_level(
        &self,
        table: PhysAddr,
        level: u32,
        start: u64,
        end: u64,
        change: &mut impl FnMut(VirtAddr, Entry, PageSize) -> Entry,
    ) -> Result<bool, OutOfTables> {
        if level == 1 {
            return Ok(self.update_pages(table, start, end, change));
        }
        let mut changed = false;
        for step in steps(level, start, end) {
            let mut entry = self.entry_at(table, step.index);
            if entry.is_empty() {
                continue;
            }
            if !entry.is_table(level) && !step.whole {
                entry = self.split(table, step.index, level)?;
                changed = true;
            }
            if entry.is_table(level) {
                changed |= self.update_level(entry.address(), level - 1, step.from, step.to, change)?;
                continue;
            }
            let new = change(VirtAddr(step.from), entry, PageSize::of_level(level)).at_level(level);
            changed |= replace(self.slot(table, step.index), entry, new);
        }
        Ok(changed)
    }

    /// Calls `visit` with every page that touches `start..end`, in order, changing nothing.
    pub fn visit_range(&self, start: VirtAddr, end: VirtAddr, visit: &mut dyn FnMut(VirtAddr, Entry, PageSize) -> ControlFlow<()>) -> ControlFlow<()> {
        self.visit_level(self.root(), 4, start.0, end.0, visit)
    }

    fn visit_level(
        &self,
        table: PhysAddr,
        level: u32,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(VirtAddr, Entry, PageSize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for step in self.filled_steps(table, level, start, end) {
            let entry = self.entry_at(table, step.index);
            if entry.is_table(level) {
                self.visit_level(entry.address(), level - 1, step.from, step.to, visit)?;
            } else if !entry.is_empty() {
                visit(VirtAddr(step.from & !(level_span(level) - 1)), entry, PageSize::of_level(level))?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Moves all pages of `from .. from + len` to `to ..`, where nothing is mapped; the ranges do not overlap. No contents are copied.
    /// Where both addresses lie alike in their 2 MiB, large pages and whole tables move with one entry each; elsewhere pages are 4 KiB ones
    /// already ([`PageTable::split_all`]). Empty tables in the way go to `in_the_way`, to be freed after a flush of the new range.
    /// Tables of the old range that held single pages stay until it is unmapped, which the caller does next.
    ///
    /// # Errors
    /// [`OutOfTables`]; then nothing has moved.
    pub fn move_range(&self, from: VirtAddr, to: VirtAddr, len: u64, in_the_way: &mut dyn FnMut(PhysAddr)) -> Result<(), OutOfTables> {
        // First all tables, so that the second pass cannot fail half-way.
        for part in parts(from, to, len) {
            self.make_room(part, to + (part.at - from))?;
        }
        for part in parts(from, to, len) {
            let target = to + (part.at - from);
            match part.size {
                PageSize::Size4K => self.move_pages(part, target),
                _ => self.move_middles(part, target, in_the_way),
            }
        }
        Ok(())
    }

    /// Makes the tables that a part needs at its new place.
    fn make_room(&self, part: Part, to: VirtAddr) -> Result<(), OutOfTables> {
        if part.size != PageSize::Size4K {
            return if self.middle(part.at).is_some() { self.leaf(to, part.size).map(drop).map_err(|_| OutOfTables) } else { Ok(()) };
        }
        let mut result = Ok(());
        let _ = self.visit_range(part.at, part.at + part.len, &mut |va, _, _| {
            result = self.leaf(to + (va - part.at), PageSize::Size4K).map(drop).map_err(|_| OutOfTables);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        result
    }

    fn move_pages(&self, part: Part, to: VirtAddr) {
        let _ = self.visit_range(part.at, part.at + part.len, &mut |va, _, _| {
            let (Ok(source), Ok(target)) = (self.leaf(va, PageSize::Size4K), self.leaf(to + (va - part.at), PageSize::Size4K)) else {
                return ControlFlow::Break(());
            };
            target.store(source.swap(0, Ordering::AcqRel), Ordering::Release);
            ControlFlow::Continue(())
        });
    }

    /// Moves entries of level 2, whatever they are, from one table to one other.
    fn move_middles(&self, part: Part, to: VirtAddr, in_the_way: &mut dyn FnMut(PhysAddr)) {
        let (Some(source), Some(target)) = (self.middle_table(part.at), self.middle_table(to)) else { return };
        let (from, to) = (part.at.table_index(2), to.table_index(2));
        for i in 0..(part.len / part.size.bytes()) as usize {
            let slot = self.slot(source, from + i);
            if slot.load(Ordering::Acquire) == 0 {
                continue;
            }
            let before = Entry(self.slot(target, to + i).swap(slot.swap(0, Ordering::AcqRel), Ordering::AcqRel));
            if before.is_table(2) {
                debug_assert!(self.entries(before.address()).all(Entry::is_empty), "something is mapped at the target");
                in_the_way(before.address());
            }
        }
    }

    /// The slot of level 2 for `va`, if its table exists.
    pub(crate) fn middle(&self, va: VirtAddr) -> Option<&AtomicU64> {
        Some(self.slot(self.middle_table(va)?, va.table_index(2)))
    }

    /// The table of level 2 for `va`, if it exists.
    fn middle_table(&self, va: VirtAddr) -> Option<PhysAddr> {
        let mut table = self.root();
        for level in [4, 3] {
            let entry = self.entry_at(table, va.table_index(level));
            if !entry.is_table(level) {
                return None;
            }
            table = entry.address();
        }
        Some(table)
    }
}

/// Stores a changed entry; returns whether it is another one.
#[inline]
fn replace(slot: &AtomicU64, entry: Entry, new: Entry) -> bool {
    if new == entry {
        return false;
    }
    // The processor may set accessed and dirty meanwhile: keep what it set.
    let raced = slot.swap(new.0, Ordering::AcqRel) & !entry.0;
    let kept = raced & (Flags::ACCESSED | Flags::DIRTY).bits();
    if kept != 0 {
        slot.fetch_or(kept, Ordering::AcqRel);
    }
    true
}

/// A piece of a range that moves: entries of one table of level 2, or pages of one table.
#[derive(Clone, Copy)]
struct Part {
    at: VirtAddr,
    len: u64,
    size: PageSize,
}

/// Cuts a range that moves into runs of whole 2 MiB that have one table at either place, and what is left.
fn parts(from: VirtAddr, to: VirtAddr, len: u64) -> impl Iterator<Item = Part> {
    let span = PageSize::Size2M.bytes();
    let alike = (from.0 ^ to.0) & (span - 1) == 0;
    let end = from + len;
    let mut at = from;
    core::iter::from_fn(move || {
        let start = at;
        let left = (end - start).min(to_border(start, PageSize::Size1G)).min(to_border(to + (start - from), PageSize::Size1G));
        let whole = left & !(span - 1);
        let (len, size) = if alike && start.is_aligned(span) && whole != 0 {
            (whole, PageSize::Size2M)
        } else {
            ((end - start).min(to_border(start, PageSize::Size2M)), PageSize::Size4K)
        };
        at = start + len;
        (len != 0).then_some(Part { at: start, len, size })
    })
}

/// Bytes from `va` to the next border of pages of `size`.
fn to_border(va: VirtAddr, size: PageSize) -> u64 {
    size.bytes() - (va.0 & (size.bytes() - 1))
}
