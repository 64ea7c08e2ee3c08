//! `mlock` and its relatives. There is nothing to be paged out to, so being locked means: brought in, and on record.

use super::change::aligned_range;
use super::map::check_area_count;
use super::{AddressSpace, PAGE};
use addr::VirtAddr;
use linux_abi::Errno;
use vma::{Area, AreaFlags};

/// What `mlock` and its relatives want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// `mlock`: bring all pages in now.
    Now,
    /// `mlock2(MLOCK_ONFAULT)`.
    OnFault,
    /// `munlock`.
    Unlock,
}

impl AddressSpace {
    /// Marks a range as locked in memory (and brings it in), or not.
    ///
    /// # Errors
    /// `EINVAL`, `ENOMEM` (a hole, pages without any right, or no memory for the pages).
    pub fn lock_pages(&self, start: VirtAddr, len: u64, lock: Lock) -> Result<(), Errno> {
        let from = start.align_down(PAGE);
        let len = len.checked_add(start - from).ok_or(Errno::EINVAL)?;
        from.0.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
        // What lies beyond the program's half is not mapped.
        let Some(end) = aligned_range(from, len)? else { return Ok(()) };
        let areas = self.areas.read();
        let covered = areas.map.is_covered(from, end);
        let inaccessible = areas.map.overlapping(from, end).any(|area| area.prot.is_empty());
        // Linux goes as far as the first hole.
        let mut areas = areas.change(from.0..end.0);
        self.cut(&mut areas, from, end)?;
        areas.map.modify(from, end, |area| area.flags.set(AreaFlags::LOCKED, lock != Lock::Unlock));
        drop(areas);
        if !covered || lock == Lock::Now && inaccessible {
            return Err(Errno::ENOMEM);
        }
        if lock == Lock::Now { self.populate(from, end).map_err(|_| Errno::ENOMEM) } else { Ok(()) }
    }

    /// Locks or unlocks all that is mapped. Pages that cannot be had are no error (mlockall(2) fails for limits only).
    ///
    /// # Errors
    /// `ENOMEM` (too many areas).
    pub fn lock_all(&self, lock: Lock) -> Result<(), Errno> {
        let areas = self.areas.read();
        check_area_count(&areas)?;
        let (start, end) = (VirtAddr(0), VirtAddr(addr::layout::USER_MAX));
        let mut areas = areas.change(0..0);
        areas.map.modify(start, end, |area| area.flags.set(AreaFlags::LOCKED, lock != Lock::Unlock));
        drop(areas);
        if lock != Lock::Now {
            return Ok(());
        }
        // One after the other: a program may have any number.
        let next = |at| self.areas.read().map.find_from(at).map(|area| (area.start, area.end));
        let mut at = start;
        while let Some((from, to)) = next(at) {
            let _best_effort = self.populate(from, to);
            at = to;
        }
        Ok(())
    }

    /// What later mappings are: `mlockall(MCL_FUTURE)`.
    pub fn lock_future(&self, lock: Lock) {
        self.areas.read().change(0..0).lock_future = lock;
    }

    /// Bytes locked (`VmLck`).
    #[must_use]
    pub fn locked_bytes(&self) -> u64 {
        self.areas.read().map.iter().filter(|area| is_locked(area)).map(Area::len).sum()
    }

    /// Bytes locked when `start..end` is, too.
    #[must_use]
    pub fn locked_bytes_with(&self, start: VirtAddr, end: VirtAddr) -> u64 {
        let areas = self.areas.read();
        let outside = areas.map.iter().filter(|area| is_locked(area)).map(|area| {
            let inside = area.end.min(end).0.saturating_sub(area.start.max(start).0);
            area.len() - inside
        });
        outside.sum::<u64>() + end.0.saturating_sub(start.0)
    }

    /// Whether a range has locked pages.
    #[must_use]
    pub fn has_locked(&self, start: VirtAddr, len: u64) -> bool {
        self.areas.read().map.overlapping(start, VirtAddr(start.0.saturating_add(len))).any(is_locked)
    }

    /// Whether a range has no holes.
    #[must_use]
    pub fn is_covered(&self, start: VirtAddr, len: u64) -> bool {
        let end = start.0.saturating_add(len).checked_next_multiple_of(PAGE);
        end.is_some_and(|end| self.areas.read().map.is_covered(start.align_down(PAGE), VirtAddr(end)))
    }
}

fn is_locked<B>(area: &Area<B>) -> bool {
    area.flags.contains(AreaFlags::LOCKED)
}
