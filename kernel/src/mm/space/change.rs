//! `mprotect`.

use super::explicit::with_rights;
use super::map::check_area_count;
use super::zero::is_own;
use crate::tlb::Freed;
use super::{AddressSpace, Areas, InPlace, PAGE, leaf_flags, takes_rights};
use addr::{VirtAddr, layout};
use linux_abi::Errno;
use vma::{AreaFlags, Prot};

impl AddressSpace {
    /// Changes the protection of a range.
    ///
    /// # Errors
    /// `EINVAL` (unaligned), `ENOMEM` (a hole in the range, too many areas), `EACCES` (write access to a shared mapping of a file that is not
    /// open for writing).
    pub fn protect(&self, start: VirtAddr, len: u64, prot: Prot) -> Result<(), Errno> {
        let Some(end) = aligned_range(start, len)? else { return Ok(()) };
        let areas = self.areas.read();
        check_area_count(&areas)?;
        check_protect(&areas, start, end, prot)?;
        let mut areas = areas.change(start.0..end.0);
        self.split_borders(start, end)?;
        areas.map.modify(start, end, |area| area.prot = prot);
        self.apply_protection(&areas.settle(), start, end);
        Ok(())
    }

    /// Brings the entries of a range in line with their areas, and flushes if that takes rights away.
    fn apply_protection(&self, areas: &Areas, start: VirtAddr, end: VirtAddr) {
        let mut flush = false;
        for area in areas.map.overlapping(start, end) {
            let shared = area.flags.contains(AreaFlags::SHARED);
            // No large page lies across a border: none is split here, so it cannot fail.
            let _never_fails = self.tables.update_range(area.start.max(start), area.end.min(end), &mut |_, entry, size| {
                let in_place = if shared || is_own(entry, size) { InPlace::Writable } else { InPlace::CopyFirst };
                let new = with_rights(entry, leaf_flags(area.prot, in_place));
                flush |= takes_rights(entry, new);
                new
            });
        }
        if flush {
            self.flush(start, end, Freed::PagesOnly);
        }
    }
}

/// The end of a range given by a system call, `None` when it is empty.
pub(super) fn aligned_range(start: VirtAddr, len: u64) -> Result<Option<VirtAddr>, Errno> {
    if !start.is_aligned(PAGE) {
        return Err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
    let end = start.0.checked_add(len).filter(|end| *end <= layout::USER_MAX).ok_or(Errno::ENOMEM)?;
    Ok((len != 0).then_some(VirtAddr(end)))
}

fn check_protect(areas: &Areas, start: VirtAddr, end: VirtAddr, prot: Prot) -> Result<(), Errno> {
    if let Some(area) = areas.map.find(start).filter(|area| area.end >= end) {
        let refused = prot.contains(Prot::WRITE) && area.flags.contains(AreaFlags::NEVER_WRITABLE);
        return if refused { Err(Errno::EACCES) } else { Ok(()) };
    }
    if !areas.map.is_covered(start, end) {
        return Err(Errno::ENOMEM);
    }
    let refused = prot.contains(Prot::WRITE) && areas.map.overlapping(start, end).any(|area| area.flags.contains(AreaFlags::NEVER_WRITABLE));
    if refused { Err(Errno::EACCES) } else { Ok(()) }
}
