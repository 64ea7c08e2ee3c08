//! `mprotect`.

use super::explicit::with_rights;
use super::zero::is_own;
use crate::tlb::Freed;
use super::{AddressSpace, Areas, InPlace, PAGE, is_data, leaf_flags, takes_rights};
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
        let cuts = check_protect(&areas, start, end, prot)?;
        self.check_new_data(&areas, start, end, prot)?;
        let mut areas = areas.change(start.0..end.0);
        if cuts == Cuts::Some {
            self.cut(&mut areas, start, end)?;
        }
        let (mut touched, mut flags) = (false, AreaFlags::empty());
        areas.map.modify(start, end, |area| {
            area.prot = prot;
            flags = area.flags;
            touched |= area.backing.is_touched();
        });
        let settled = areas.settle();
        if touched {
            let takes_rights = match cuts {
                Cuts::None => self.apply_protection(prot, flags, start, end),
                Cuts::Some => self.apply_protections(&settled, start, end),
            };
            if takes_rights {
                self.flush(start, end, Freed::PagesOnly);
            }
        }
        Ok(())
    }

    /// Fails where memory that becomes data would be more than allowed.
    fn check_new_data(&self, areas: &Areas, start: VirtAddr, end: VirtAddr, prot: Prot) -> Result<(), Errno> {
        if !prot.contains(Prot::WRITE) || !self.limits_data() {
            return Ok(());
        }
        let becomes = areas.map.overlapping(start, end).filter(|area| is_data(prot, area.flags) && !is_data(area.prot, area.flags));
        let more = becomes.map(|area| area.end.min(end) - area.start.max(start)).sum();
        self.check_data(areas, more, start..start)
    }

    /// Brings the entries of a range in line with its areas. Returns whether that takes rights away.
    fn apply_protections(&self, areas: &Areas, start: VirtAddr, end: VirtAddr) -> bool {
        let touched = areas.map.overlapping(start, end).filter(|area| area.backing.is_touched());
        touched.fold(false, |lost, area| lost | self.apply_protection(area.prot, area.flags, area.start.max(start), area.end.min(end)))
    }

    /// Brings the entries of a range in line with its area's protection and flags. Returns whether that takes rights away.
    fn apply_protection(&self, prot: Prot, flags: AreaFlags, start: VirtAddr, end: VirtAddr) -> bool {
        let mut rights_lost = false;
        let lost = &mut rights_lost;
        let shared = flags.contains(AreaFlags::SHARED);
        let may_write = prot.contains(Prot::WRITE);
        let read_only = leaf_flags(prot, InPlace::CopyFirst);
        let all_rights = leaf_flags(prot, InPlace::Writable);
        // No large page lies across a border: none is split here, so it cannot fail.
        let _never_fails = self.tables.update_range(start, end, move |_, entry, size| {
            let writable = may_write && (shared || is_own(entry, size));
            let new = with_rights(entry, if writable { all_rights } else { read_only });
            *lost |= takes_rights(entry, new);
            new
        });
        rights_lost
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

/// Whether a change may cut areas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cuts {
    None,
    Some,
}

fn check_protect(areas: &Areas, start: VirtAddr, end: VirtAddr, prot: Prot) -> Result<Cuts, Errno> {
    if let Some(area) = areas.map.find(start).filter(|area| area.end >= end) {
        let refused = prot.contains(Prot::WRITE) && area.flags.contains(AreaFlags::NEVER_WRITABLE);
        let cuts = if area.start == start && area.end == end { Cuts::None } else { Cuts::Some };
        return if refused { Err(Errno::EACCES) } else { Ok(cuts) };
    }
    if !areas.map.is_covered(start, end) {
        return Err(Errno::ENOMEM);
    }
    let refused = prot.contains(Prot::WRITE) && areas.map.overlapping(start, end).any(|area| area.flags.contains(AreaFlags::NEVER_WRITABLE));
    if refused { Err(Errno::EACCES) } else { Ok(Cuts::Some) }
}
