//! `mremap`: moves page-table entries, not bytes.

use super::backing::{AreaBacking, ObjectPart};
use super::explicit::has_explicit;
use super::huge::LARGE;
use super::map::{Dropped, Taken, check_area_count, checked_len, fixed_range, take_areas};
use super::zero::free_table;
use super::{AddressSpace, Areas, PAGE, is_data};
use crate::mm::gather::{Gather, Item};
use crate::tlb::Freed;
use addr::{VirtAddr, layout};
use core::ops::Range;
use linux_abi::Errno;
use page_table::Removed;
use vma::{Area, AreaFlags, Backing as _};

/// A moved mapping does not grow, and all of it counts as written (Linux: Documentation/admin-guide/mm/soft-dirty.rst).
const GONE_WHEN_MOVED: AreaFlags = AreaFlags::GROWS_DOWN.union(AreaFlags::TRACKED).union(AreaFlags::WATCHED);

/// Where a grown mapping may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemapTarget {
    /// It stays where it is.
    InPlace,
    /// `MREMAP_MAYMOVE`.
    MayMove,
    /// `MREMAP_MAYMOVE | MREMAP_FIXED`: exactly there.
    Fixed(VirtAddr),
}

/// What `mremap` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemapRequest {
    /// The old mapping; page-aligned.
    pub old: VirtAddr,
    /// Its length; 0 makes a second mapping of a shared one.
    pub old_len: u64,
    /// The wanted length.
    pub new_len: u64,
    /// Where.
    pub target: RemapTarget,
    /// `MREMAP_DONTUNMAP`: the old mapping stays, without its pages.
    pub keep_old: bool,
}

impl AddressSpace {
    /// Resizes or moves a mapping; returns its address.
    ///
    /// # Errors
    /// `EINVAL` (alignment, lengths, overlapping target, flags that do not fit), `EFAULT` (the old range is not one mapping),
    /// `ENOMEM` (no room, no memory).
    pub fn remap(&self, request: RemapRequest) -> Result<VirtAddr, Errno> {
        let old = request.old;
        let new_len = checked_len(request.new_len)?;
        let old_len = if request.old_len == 0 { 0 } else { checked_len(request.old_len).map_err(|_| Errno::EINVAL)? };
        if !old.is_aligned(PAGE) || old.0.checked_add(old_len).is_none_or(|end| end > layout::USER_MAX) {
            return Err(Errno::EINVAL);
        }
        if request.keep_old && (request.target == RemapTarget::InPlace || old_len != new_len) {
            return Err(Errno::EINVAL);
        }
        let mut dropped = Dropped::new();
        let mut areas = self.areas.write();
        let area = areas.map.find(old).ok_or(Errno::EFAULT)?.clone();
        if has_explicit(&area) && (request.target != RemapTarget::InPlace || new_len > old_len) {
            return Err(Errno::EINVAL);
        }
        let more = if request.keep_old { new_len } else { new_len.saturating_sub(old_len) };
        self.check_size(&areas, more, old..old)?;
        if is_data(area.prot, area.flags) {
            self.check_data(&areas, more, old..old)?;
        }
        if old_len == 0 {
            return self.duplicate(&mut areas, &area, new_len, request, &mut dropped);
        }
        if area.end < old + old_len {
            return Err(Errno::EFAULT);
        }
        if let (RemapTarget::InPlace | RemapTarget::MayMove, false) = (request.target, request.keep_old) {
            if new_len <= old_len {
                self.remove(&mut areas, old + new_len, old + old_len, &mut dropped)?;
                return Ok(old);
            }
            if grows_in_place(&areas, &area, old + old_len, old + new_len) {
                areas.map.grow_up(old + old_len, old + new_len);
                return Ok(old);
            }
        }
        if request.target == RemapTarget::InPlace {
            return Err(Errno::ENOMEM);
        }
        self.move_area(&mut areas, &area, Lengths { old: old_len, new: new_len }, request, &mut dropped)
    }

    /// The new place; a fixed one is emptied.
    fn target(&self, areas: &mut Areas, new_len: u64, old: (VirtAddr, u64), target: RemapTarget, dropped: &mut Dropped) -> Result<VirtAddr, Errno> {
        let RemapTarget::Fixed(at) = target else {
            return areas.place_alike(new_len, old.0).ok_or(Errno::ENOMEM);
        };
        let end = fixed_range(at, new_len).map_err(|_| Errno::EINVAL)?;
        if at < old.0 + old.1 && old.0 < end {
            return Err(Errno::EINVAL);
        }
        self.remove(areas, at, end, dropped)?;
        Ok(at)
    }

    fn move_area(&self, areas: &mut Areas, area: &Area<AreaBacking>, len: Lengths, request: RemapRequest, dropped: &mut Dropped) -> Result<VirtAddr, Errno> {
        let old = request.old;
        check_area_count(areas)?;
        areas.reserve(3)?;
        let moved = len.old.min(len.new);
        self.split_borders(areas, old, old + len.old)?;
        if moved < len.old {
            self.split_borders(areas, old + moved, old + moved)?;
        }
        let to = self.target(areas, len.new, (old, len.old), request.target, dropped)?;
        areas.reserve(2)?;
        if area.backing.is_touched() {
            self.move_pages(old, to, moved)?;
        }
        let backing = area.backing.advanced(old - area.start);
        areas.map.insert(Area { start: to, end: to + len.new, prot: area.prot, flags: area.flags - GONE_WHEN_MOVED, backing });
        if !request.keep_old && take_areas(areas, old, old + len.old, dropped) == Taken::Touched {
            let room = areas.room_around(old);
            for rest in left_behind(old, to, len) {
                self.remove_pages(rest.start, rest.end, &room);
            }
        }
        Ok(to)
    }

    /// Moves the pages of `len` bytes, across whose borders no large page lies, to a place where nothing is mapped, and flushes.
    ///
    /// # Errors
    /// `ENOMEM`; then nothing has moved.
    fn move_pages(&self, old: VirtAddr, to: VirtAddr, len: u64) -> Result<(), Errno> {
        if (old.0 ^ to.0) & (LARGE - 1) != 0 {
            self.split_everything(old, old + len)?;
        }
        let mut in_the_way: Option<Gather> = None;
        let moved = self.tables.move_range(old, to, len, &mut |table| {
            // Without room to note it, the empty table is lost.
            let gather = in_the_way.get_or_insert_with(|| Gather::new((len / LARGE) as usize));
            let _break_when_full = gather.push(Removed::Table(table));
        });
        moved.map_err(|_| Errno::ENOMEM)?;
        self.flush(old, old + len, Freed::PagesOnly);
        if let Some(mut in_the_way) = in_the_way {
            self.flush(to, to + len, Freed::Tables);
            for item in in_the_way.drain() {
                if let Item::Table(table) = item {
                    free_table(table);
                }
            }
        }
        Ok(())
    }

    /// `old_len` 0: a further mapping of the same shared pages.
    fn duplicate(&self, areas: &mut Areas, area: &Area<AreaBacking>, new_len: u64, request: RemapRequest, dropped: &mut Dropped) -> Result<VirtAddr, Errno> {
        let (true, Some(part)) = (area.flags.contains(AreaFlags::SHARED), &area.backing.part) else { return Err(Errno::EINVAL) };
        if request.target == RemapTarget::InPlace {
            return Err(Errno::ENOMEM);
        }
        check_area_count(areas)?;
        areas.reserve(2)?;
        let part = ObjectPart { object: part.object.clone(), offset: part.offset + (request.old - area.start) };
        let at = self.target(areas, new_len, (request.old, 0), request.target, dropped)?;
        areas.reserve(1)?;
        let backing = AreaBacking::new(Some(part), area.backing.name.clone());
        areas.map.insert(Area { start: at, end: at + new_len, prot: area.prot, flags: area.flags, backing });
        Ok(at)
    }
}

/// The parts of the old range where pages or tables may be left: what did not move with whole tables.
fn left_behind(old: VirtAddr, to: VirtAddr, len: Lengths) -> impl Iterator<Item = Range<VirtAddr>> {
    let (end, moved) = (old + len.old, old + len.old.min(len.new));
    let alike = (old.0 ^ to.0) & (LARGE - 1) == 0;
    let first_whole = if alike { old.align_up(LARGE).min(end) } else { end };
    let last_whole = moved.align_down(LARGE).max(first_whole);
    [old..first_whole, last_whole..end].into_iter().filter(|part| part.start < part.end)
}

#[derive(Clone, Copy)]
struct Lengths {
    old: u64,
    new: u64,
}

fn grows_in_place(areas: &Areas, area: &Area<AreaBacking>, old_end: VirtAddr, new_end: VirtAddr) -> bool {
    area.end == old_end && new_end.0 <= layout::USER_MAX && areas.map.is_placeable(old_end, new_end)
}
