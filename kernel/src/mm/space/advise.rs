//! `madvise`, `mincore`, `msync`.

use super::backing::AreaBacking;
use super::change::aligned_range;
use super::explicit::has_explicit;
use super::{Access, AddressSpace, Areas, PAGE};
use addr::VirtAddr;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use frame::Mappable;
use linux_abi::Errno;
use vma::{Area, AreaFlags};

/// What `madvise` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// About access patterns: noted by nobody (`MADV_NORMAL`, `RANDOM`, `SEQUENTIAL`, `MERGEABLE`, …).
    Ignored,
    /// `MADV_WILLNEED`: brings pages in if that is cheap.
    WillNeed,
    /// `MADV_DONTNEED`: drops the pages; anonymous ones are zero afterwards.
    DontNeed,
    /// `MADV_DONTNEED_LOCKED`: also locked pages.
    DontNeedLocked,
    /// `MADV_FREE`: private anonymous pages may go until they are written again.
    Free,
    /// `MADV_COLD`, `MADV_PAGEOUT`: there is nothing to page out to, so only the errors are.
    PageOut,
    /// `MADV_REMOVE`: makes a hole in the object behind a shared mapping.
    Remove,
    /// `MADV_GUARD_INSTALL`.
    GuardInstall,
    /// `MADV_GUARD_REMOVE`.
    GuardRemove,
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
    /// `EINVAL` for numbers that Linux does not have.
    pub const fn from_raw(value: i32) -> Result<Self, Errno> {
        Ok(match value {
            // NORMAL RANDOM SEQUENTIAL, MERGEABLE UNMERGEABLE
            0..=2 | 12 | 13 => Self::Ignored,
            20 | 21 => Self::PageOut,
            9 => Self::Remove,
            102 => Self::GuardInstall,
            103 => Self::GuardRemove,
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
            Advice::PageOut => self.page_out(start, end),
            Advice::Remove => self.punch_objects(start, end),
            Advice::GuardInstall | Advice::GuardRemove => self.guard(start, end, advice),
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
        self.check_covered(start, end)?;
        let mut at = start;
        while at < end {
            // One after the other: a program may have any number.
            let backed = |area: &&Area<AreaBacking>| area.backing.part.is_some() && !area.prot.is_empty();
            let next = self.areas.read().map.overlapping(at, end).find(backed).map(|area| (area.start.max(at), area.end.min(end)));
            let Some((from, to)) = next else { break };
            let _best_effort = self.populate_as(from, to, Access::Read);
            at = to;
        }
        Ok(())
    }

    fn drop_pages(&self, start: VirtAddr, end: VirtAddr, advice: Advice) -> Result<(), Errno> {
        let areas = self.areas.read();
        for area in areas.map.overlapping(start, end) {
            let anonymous = area.backing.part.is_none() && !has_explicit(area);
            let locked = area.flags.contains(AreaFlags::LOCKED) && !matches!(advice, Advice::DontNeedLocked | Advice::Free);
            if locked || advice == Advice::Free && !anonymous {
                return Err(Errno::EINVAL);
            }
        }
        let touched = |area: &Area<AreaBacking>| area.backing.is_touched();
        if !areas.map.overlapping(start, end).any(touched) {
            return covered(&areas, start, end);
        }
        let areas = areas.keep_out(start.0..end.0);
        self.split_borders(&areas, start, end)?;
        if advice == Advice::Free {
            self.give_up_pages(&areas, &(start..end))?;
        } else if areas.map.overlapping(start, end).any(|area| area.backing.has_guards()) {
            self.remove_pages_between_guards(&(start..end));
        } else {
            self.remove_pages(start, end, &(start..start));
        }
        covered(&areas, start, end)
    }

    fn page_out(&self, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        let areas = self.areas.read();
        let refused = |area: &Area<AreaBacking>| area.flags.contains(AreaFlags::LOCKED) || has_explicit(area);
        if areas.map.overlapping(start, end).any(refused) { Err(Errno::EINVAL) } else { covered(&areas, start, end) }
    }

    /// Makes holes in the objects of shared mappings; their pages leave all mappings.
    fn punch_objects(&self, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        let mut parts: Vec<(Arc<dyn Mappable>, u64, u64)> = Vec::new();
        let result = {
            let areas = self.areas.read();
            for area in areas.map.overlapping(start, end) {
                if area.flags.contains(AreaFlags::LOCKED) {
                    return Err(Errno::EINVAL);
                }
                let part = area.backing.part.as_ref().ok_or(Errno::EINVAL)?;
                if !area.flags.contains(AreaFlags::SHARED) || area.flags.contains(AreaFlags::NEVER_WRITABLE) {
                    return Err(Errno::EACCES);
                }
                let from = part.offset + (area.start.max(start) - area.start);
                parts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                parts.push((part.object.clone(), from, from + (area.end.min(end) - area.start.max(start))));
            }
            covered(&areas, start, end)
        };
        for (object, from, to) in parts {
            object.punch_hole(from, to)?;
        }
        result
    }

    fn guard(&self, start: VirtAddr, end: VirtAddr, advice: Advice) -> Result<(), Errno> {
        let areas = self.areas.read();
        let refused = |area: &Area<AreaBacking>| has_explicit(area) || advice == Advice::GuardInstall && area.flags.contains(AreaFlags::LOCKED);
        if areas.map.overlapping(start, end).any(refused) {
            return Err(Errno::EINVAL);
        }
        let areas = areas.keep_out(start.0..end.0);
        if advice == Advice::GuardRemove {
            self.remove_guards(&areas, &(start..end));
        } else {
            self.split_borders(&areas, start, end)?;
            self.install_guards(&areas, &(start..end))?;
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
                    parts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
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
