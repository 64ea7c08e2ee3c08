//! `madvise`, `mincore`, `msync`.

use super::change::aligned_range;
use super::{Access, AddressSpace, Areas, PAGE};
use addr::VirtAddr;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use frame::Mappable;
use linux_abi::Errno;
use vma::AreaFlags;

/// What `madvise` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// About access patterns: noted by nobody (`MADV_NORMAL`, `RANDOM`, `SEQUENTIAL`, `COLD`, `PAGEOUT`, `MERGEABLE`, …).
    Ignored,
    /// `MADV_WILLNEED`: brings pages in if that is cheap.
    WillNeed,
    /// `MADV_DONTNEED`: drops the pages; anonymous ones are zero afterwards.
    DontNeed,
    /// `MADV_DONTNEED_LOCKED`: also locked pages.
    DontNeedLocked,
    /// `MADV_FREE`: like [`Advice::DontNeed`], private anonymous memory only.
    Free,
    /// `MADV_POPULATE_READ`.
    PopulateRead,
    /// `MADV_POPULATE_WRITE`.
    PopulateWrite,
    /// `MADV_COLLAPSE`: large pages now.
    Collapse,
    /// Sets a flag of the areas (`MADV_DONTFORK`, `WIPEONFORK`, `DONTDUMP`, `HUGEPAGE`, …).
    Set(AreaFlags),
    /// Clears a flag of the areas (`MADV_DOFORK`, `KEEPONFORK`, `DODUMP`, …).
    Clear(AreaFlags),
}

impl Advice {
    /// The advice with Linux's number `value`.
    ///
    /// # Errors
    /// `EINVAL` for numbers that Linux does not have, or that are not supported here (`MADV_REMOVE`).
    pub const fn from_raw(value: i32) -> Result<Self, Errno> {
        Ok(match value {
            // NORMAL RANDOM SEQUENTIAL, MERGEABLE UNMERGEABLE, COLD PAGEOUT
            0..=2 | 12 | 13 | 20 | 21 => Self::Ignored,
            3 => Self::WillNeed,
            4 => Self::DontNeed,
            8 => Self::Free,
            10 => Self::Set(AreaFlags::DONT_FORK),
            11 => Self::Clear(AreaFlags::DONT_FORK),
            14 => Self::Set(AreaFlags::HUGE_PAGE),
            15 => Self::Set(AreaFlags::NO_HUGE_PAGE),
            16 => Self::Set(AreaFlags::DONT_DUMP),
            17 => Self::Clear(AreaFlags::DONT_DUMP),
            18 => Self::Set(AreaFlags::WIPE_ON_FORK),
            19 => Self::Clear(AreaFlags::WIPE_ON_FORK),
            22 => Self::PopulateRead,
            23 => Self::PopulateWrite,
            24 => Self::DontNeedLocked,
            25 => Self::Collapse,
            _ => return Err(Errno::EINVAL),
        })
    }
}

impl AddressSpace {
    /// Takes advice about a range. Holes give `ENOMEM`, after the rest was done.
    ///
    /// # Errors
    /// `EINVAL` (unaligned; pages that the advice does not apply to), `ENOMEM` (holes), `EFAULT`/`ENOMEM` (populate).
    pub fn advise(&self, start: VirtAddr, len: u64, advice: Advice) -> Result<(), Errno> {
        let Some(end) = aligned_range(start, len).map_err(|_| Errno::EINVAL)? else { return Ok(()) };
        match advice {
            Advice::Ignored => self.check_covered(start, end),
            Advice::WillNeed => self.will_need(start, end),
            Advice::DontNeed | Advice::DontNeedLocked | Advice::Free => self.drop_pages(start, end, advice),
            Advice::PopulateRead => self.populate_as(start, end, Access::Read).map_err(super::FaultError::to_errno),
            Advice::PopulateWrite => self.populate_as(start, end, Access::Write).map_err(super::FaultError::to_errno),
            Advice::Collapse => self.collapse(start, end),
            Advice::Set(flags) => self.change_flags(start, end, |area| set_flags(area, flags)),
            Advice::Clear(flags) => self.change_flags(start, end, |area| area.remove(flags)),
        }
    }

    fn check_covered(&self, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        covered(&self.areas.read(), start, end)
    }

    fn change_flags(&self, start: VirtAddr, end: VirtAddr, change: impl Fn(&mut AreaFlags)) -> Result<(), Errno> {
        let mut areas = self.areas.write();
        self.cut(&mut areas, start, end)?;
        areas.map.modify(start, end, |area| change(&mut area.flags));
        covered(&areas, start, end)
    }

    /// Files only; pages that cannot be had are no error.
    fn will_need(&self, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        let files: Vec<(VirtAddr, VirtAddr)> = {
            let areas = self.areas.read();
            covered(&areas, start, end)?;
            let backed = areas.map.overlapping(start, end).filter(|area| area.backing.part.is_some() && !area.prot.is_empty());
            backed.map(|area| (area.start.max(start), area.end.min(end))).collect()
        };
        for (start, end) in files {
            let _best_effort = self.populate_as(start, end, Access::Read);
        }
        Ok(())
    }

    fn drop_pages(&self, start: VirtAddr, end: VirtAddr, advice: Advice) -> Result<(), Errno> {
        let areas = self.areas.read();
        for area in areas.map.overlapping(start, end) {
            let private = area.backing.part.is_none();
            if (area.flags.contains(AreaFlags::LOCKED) && advice != Advice::DontNeedLocked) || (advice == Advice::Free && !private) {
                return Err(Errno::EINVAL);
            }
        }
        let areas = areas.keep_out(start.0..end.0);
        self.split_borders(&areas, start, end)?;
        if areas.map.overlapping(start, end).any(|area| area.backing.is_touched()) {
            self.remove_pages(start, end, &(start..start));
        }
        covered(&areas, start, end)
    }

    /// Calls `report` with whether each page of the range is in memory, in order. `report` runs with the areas locked: it must not touch
    /// the program's memory.
    ///
    /// # Errors
    /// `EINVAL` (unaligned), `ENOMEM` (holes).
    pub fn mincore(&self, start: VirtAddr, len: u64, mut report: impl FnMut(bool)) -> Result<(), Errno> {
        let Some(end) = aligned_range(start, len)? else { return Ok(()) };
        let areas = self.areas.read();
        covered(&areas, start, end)?;
        for area in areas.map.overlapping(start, end) {
            let mut at = area.start.max(start);
            while at < area.end.min(end) {
                let index = |offset: u64| (offset + (at - area.start)) / PAGE;
                let part = area.backing.part.as_ref();
                report(self.tables.lookup(at).0.has_page() || part.is_some_and(|p| p.object.ready_frame(index(p.offset)).is_some()));
                at = at + PAGE;
            }
        }
        Ok(())
    }

    /// `msync`: brings shared pages of a range to their objects' storage.
    ///
    /// # Errors
    /// `EINVAL` (unaligned), `ENOMEM` (holes), `EIO`.
    pub fn sync(&self, start: VirtAddr, len: u64) -> Result<(), Errno> {
        let Some(end) = aligned_range(start, len)? else { return Ok(()) };
        let mut parts: Vec<(Arc<dyn Mappable>, u64, u64)> = Vec::new();
        let result = {
            let areas = self.areas.read();
            for area in areas.map.overlapping(start, end).filter(|area| area.flags.contains(AreaFlags::SHARED)) {
                if let Some(part) = &area.backing.part {
                    let from = part.offset + (area.start.max(start) - area.start);
                    parts.push((part.object.clone(), from, from + (area.end.min(end) - area.start.max(start))));
                }
            }
            covered(&areas, start, end)
        };
        for (object, from, to) in parts {
            object.sync_range(from, to)?;
        }
        result
    }
}

/// `HUGEPAGE` and `NOHUGEPAGE` exclude each other.
fn set_flags(area: &mut AreaFlags, flags: AreaFlags) {
    let huge = AreaFlags::HUGE_PAGE | AreaFlags::NO_HUGE_PAGE;
    if flags.intersects(huge) {
        area.remove(huge);
    }
    area.insert(flags);
}

fn covered(areas: &Areas, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
    if areas.map.is_covered(start, end) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// Pages that are in memory, counted by walking the tables.
pub(super) fn count_pages(space: &AddressSpace, start: VirtAddr, end: VirtAddr) -> u64 {
    let mut pages = 0;
    let _ = space.tables.visit_range(start, end, &mut |_, entry, size| {
        pages += if entry.has_page() && !super::zero::is_zero_page(entry) && !super::explicit::is_explicit(entry) { size.pages() } else { 0 };
        ControlFlow::Continue(())
    });
    pages
}
