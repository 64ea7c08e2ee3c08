//! `MADV_GUARD_INSTALL`: pages that may not be touched, without an area of their own (Linux 6.13).
//!
//! A guard is an entry without a page, [`Flags::GUARD`]: a touch is SIGSEGV whatever the area permits. It stays when pages are dropped, moves
//! with its mapping, is inherited by `fork`, and goes with its area or by `MADV_GUARD_REMOVE`.

use super::{AddressSpace, Areas, PAGE};
use addr::VirtAddr;
use core::ops::{ControlFlow, Range};
use linux_abi::Errno;
use page_table::{Entry, Flags, MapError, PageSize};

pub(super) const GUARD: Entry = Entry(Flags::GUARD.bits());

/// Whether an entry is a guard.
pub(super) fn is_guard(entry: Entry) -> bool {
    entry == GUARD
}

impl AddressSpace {
    /// Puts guards into a range instead of what is there. The caller has it to itself, and no large page lies across its borders.
    ///
    /// # Errors
    /// `ENOMEM` (no memory for tables); then there are guards in a part of it.
    pub(super) fn install_guards(&self, areas: &Areas, range: &Range<VirtAddr>) -> Result<(), Errno> {
        self.remove_pages(range.start, range.end, &(range.start..range.start));
        for area in areas.map.overlapping(range.start, range.end) {
            area.backing.touch();
            area.backing.note_guards();
            let (mut at, end) = (area.start.max(range.start), area.end.min(range.end));
            while at < end {
                match self.tables.map_if_empty(at, GUARD, PageSize::Size4K) {
                    Ok(()) | Err(MapError::Occupied(_)) => at = at + PAGE,
                    Err(MapError::OutOfTables) => return Err(Errno::ENOMEM),
                }
            }
        }
        Ok(())
    }

    /// Takes the guards of a range away; pages stay. The caller has it to itself.
    pub(super) fn remove_guards(&self, areas: &Areas, range: &Range<VirtAddr>) {
        for area in areas.map.overlapping(range.start, range.end).filter(|area| area.backing.has_guards()) {
            let _all = self.tables.visit_range(area.start.max(range.start), area.end.min(range.end), &mut |va, entry, size| {
                if is_guard(entry) {
                    let removed = self.tables.compare_exchange(va, size, GUARD, Entry::EMPTY);
                    debug_assert!(removed.is_ok(), "the range is ours");
                }
                ControlFlow::Continue(())
            });
        }
    }

    /// Removes the pages of a range, but no guards. The caller has it to itself, and no large page lies across its borders.
    pub(super) fn remove_pages_between_guards(&self, range: &Range<VirtAddr>) {
        let mut from = range.start;
        while from < range.end {
            let mut guard = range.end;
            let _until_found = self.tables.visit_range(from, range.end, &mut |va, entry, _| {
                if !is_guard(entry) {
                    return ControlFlow::Continue(());
                }
                guard = va;
                ControlFlow::Break(())
            });
            if from < guard {
                self.remove_pages(from, guard, &(from..from));
            }
            from = guard + PAGE;
        }
    }
}
