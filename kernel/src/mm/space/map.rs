//! `mmap`, `munmap`, `brk`.

use super::backing::{AreaBacking, ObjectPart};
use super::explicit::{SetAside, count_entry, is_explicit};
use super::huge::{LARGE, is_transparent};
use super::large_memory::{self, LargeMemory};
use super::pool;
use super::zero::{block_of, free_page, free_table, is_zero_page};
use super::{Access, AddressSpace, Areas, Backing, FaultError, Lock, MapFlags, MapRequest, PAGE, Placement, Sharing, is_data, max_areas};
use crate::mm::frames;
use crate::mm::gather::{Gather, Item};
use crate::mm::release::FreedFrames;
use crate::mm::shared::SharedMemory;
use addr::{VirtAddr, layout};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use frame::Mappable;
use linux_abi::Errno;
use page_table::PageSize;
use vma::place::Window;
use vma::{Area, AreaFlags, Prot};

/// Areas that were removed; dropped after the lock.
pub(super) type Dropped = Vec<Area<AreaBacking>>;

type Turn<'a> = range_lock::Turn<'a, Areas>;

/// Mappings up to this size are never refused as an obvious overcommit.
const COMMIT_FLOOR: u64 = 1 << 30;

impl AddressSpace {
    /// Makes a mapping and returns its address.
    ///
    /// # Errors
    /// `EINVAL` (length 0, unaligned fixed address or offset), `ENOMEM` (no room, too many areas, obviously more than there is),
    /// `EEXIST` ([`Placement::FixedNoReplace`]), `EPERM` (fixed below the lowest address allowed), `EOVERFLOW` (file offset),
    /// `EACCES` (writable shared mapping of a file not open for writing).
    pub fn map(&self, request: MapRequest) -> Result<VirtAddr, Errno> {
        let len = checked_len(request.len)?.checked_next_multiple_of(request.page_size().bytes()).ok_or(Errno::ENOMEM)?;
        check_commit(&request, len)?;
        let (backing, flags) = area_parts(&request, len)?;
        large_memory::prepare(&backing, &request, len)?;
        let fixed = matches!(request.placement, Placement::Fixed | Placement::FixedNoReplace);
        if fixed && !request.hint.is_aligned(request.page_size().bytes()) {
            return Err(Errno::EINVAL);
        }
        if request.page_size() == PageSize::Size4K {
            return self.map_area(&request, len, backing, flags);
        }
        let set_aside = SetAside::for_request(&request, len)?;
        let at = self.map_area(&request, len, backing, flags)?;
        if let Err(error) = self.install_set_aside(at, set_aside) {
            self.unmap(at, len)?;
            return Err(error);
        }
        Ok(at)
    }

    /// Finds a place for an area, puts it there, and brings its pages in if that is wanted.
    fn map_area(&self, request: &MapRequest, len: u64, backing: AreaBacking, mut flags: AreaFlags) -> Result<VirtAddr, Errno> {
        let areas = self.areas.read();
        check_area_count(&areas)?;
        let hint = request.hint;
        let end = if request.placement == Placement::Fixed { VirtAddr(hint.0.saturating_add(len)) } else { hint };
        self.check_size(&areas, len, hint..end)?;
        if is_data(request.prot, flags) {
            self.check_data(&areas, len, hint..end)?;
        }
        self.register_with(&backing)?;
        flags.set(AreaFlags::LOCKED, areas.lock_future != Lock::Unlock || flags.contains(AreaFlags::LOCKED));
        let populate = request.flags.intersects(MapFlags::POPULATE | MapFlags::LOCKED) || areas.lock_future == Lock::Now;
        let prot = request.prot;
        let area = |at| Area { start: at, end: at + len, prot, flags, backing };
        let at = if request.placement == Placement::Fixed {
            self.replace(areas, request.hint, len, area)?
        } else {
            // Where nothing is, there is nothing that a fault could meet.
            let mut areas = areas.change(0..0);
            areas.reserve(1)?;
            let at = choose(&mut areas, request, len)?;
            areas.map.insert(area(at));
            at
        };
        if populate {
            // mmap(2): MAP_POPULATE does not fail when pages cannot be had.
            let _best_effort = self.populate(at, at + len);
        }
        Ok(at)
    }

    /// Puts an area at a fixed address instead of what is there.
    fn replace(&self, areas: Turn<'_>, at: VirtAddr, len: u64, area: impl FnOnce(VirtAddr) -> Area<AreaBacking>) -> Result<VirtAddr, Errno> {
        let end = fixed_range(at, len)?;
        let mut dropped = Dropped::new();
        let mut areas = areas.change(at.0..end.0);
        areas.reserve(2)?;
        self.split_borders(&areas, at, end)?;
        let taken = take_areas(&mut areas, at, end, &mut dropped);
        let room = if taken == Taken::Touched { areas.room_around(at) } else { at..at };
        areas.map.insert(area(at));
        let settled = areas.settle();
        if taken == Taken::Touched {
            self.remove_pages(at, end, &room);
        }
        drop(settled);
        Ok(at)
    }

    /// Removes all mappings in a range.
    ///
    /// # Errors
    /// `EINVAL` (unaligned, empty or outside the program's half), `ENOMEM` (cutting an area would make too many).
    pub fn unmap(&self, start: VirtAddr, len: u64) -> Result<(), Errno> {
        let len = checked_len(len).map_err(|_| Errno::EINVAL)?;
        let end = start.0.checked_add(len).filter(|end| *end <= layout::USER_MAX).ok_or(Errno::EINVAL)?;
        if !start.is_aligned(PAGE) {
            return Err(Errno::EINVAL);
        }
        let areas = self.areas.read();
        let middle = areas.map.find(start).is_some_and(|area| area.start < start && area.end.0 > end);
        if middle && !has_room_for_area(&areas) {
            return Err(Errno::ENOMEM);
        }
        self.remove_for_good(areas, start, VirtAddr(end), |_| {})
    }

    /// Removes areas and pages of a range, and calls `also` when the areas are gone. Keeps out nobody but faults in the range.
    ///
    /// # Errors
    /// `ENOMEM` (a large page could not be split); then nothing was removed.
    fn remove_for_good(&self, areas: Turn<'_>, start: VirtAddr, end: VirtAddr, also: impl FnOnce(&mut Areas)) -> Result<(), Errno> {
        // Declared first, so that it is dropped without the lock.
        let mut dropped = Dropped::new();
        let mut areas = areas.change(start.0..end.0);
        areas.reserve(1)?;
        self.split_borders(&areas, start, end)?;
        let taken = take_areas(&mut areas, start, end, &mut dropped);
        also(&mut areas);
        if taken == Taken::Touched {
            let room = areas.room_around(start);
            let settled = areas.settle();
            self.remove_pages(start, end, &room);
            drop(settled);
        }
        Ok(())
    }

    /// Removes areas and pages. The areas go to `dropped`, to be dropped without the lock, as far as there is memory to do so.
    ///
    /// # Errors
    /// `ENOMEM` (a large page could not be split); then nothing was removed.
    pub(super) fn remove(&self, areas: &mut Areas, start: VirtAddr, end: VirtAddr, dropped: &mut Dropped) -> Result<(), Errno> {
        areas.reserve(1)?;
        self.split_borders(areas, start, end)?;
        if take_areas(areas, start, end, dropped) == Taken::Touched {
            let room = areas.room_around(start);
            self.remove_pages(start, end, &room);
        }
        Ok(())
    }

    /// Removes all pages in a range and frees them after the flush, and the tables that lie as a whole in the range or in `room`, where no
    /// area is. The caller has the range to itself.
    pub(super) fn remove_pages(&self, start: VirtAddr, end: VirtAddr, room: &Range<VirtAddr>) {
        let mut gather = Gather::new(((end - start) / PAGE).try_into().unwrap_or(usize::MAX));
        let mut at = Some(start);
        while let Some(from) = at {
            // No large page lies across a border: none is split here, so it cannot fail.
            at = self.tables.unmap_range_in(from..end, room, &mut |item| gather.push(item)).unwrap_or(None);
            if gather.is_empty() {
                break;
            }
            self.flush(from, at.map_or(end, |next| next + PAGE), gather.freed());
            self.free_gathered(&mut gather, FreedFrames::new());
        }
    }

    /// Frees what was removed from the tables. After the flush.
    pub(super) fn free_gathered(&self, gather: &mut Gather, mut freed: FreedFrames) {
        let (mut pages, mut large) = (0, 0);
        for item in gather.drain() {
            match item {
                Item::Page(entry, _) if !entry.has_page() || is_zero_page(entry) => {}
                Item::Page(entry, PageSize::Size4K) => {
                    pages += 1;
                    free_page(entry, &mut freed);
                }
                Item::Page(entry, size) => {
                    pages += if is_explicit(entry) { 0 } else { size.pages() as i64 };
                    large += i64::from(is_transparent(entry, size));
                    count_entry(entry, size, -1);
                    if is_explicit(entry) {
                        pool::give_back(block_of(entry, size), size);
                    } else {
                        drop(block_of(entry, size));
                    }
                }
                Item::Table(table) => free_table(table),
            }
        }
        self.count_resident(-pages);
        self.count_large(-large);
    }

    /// Touches every page of a range, writing where that is allowed.
    pub(super) fn populate(&self, start: VirtAddr, end: VirtAddr) -> Result<(), FaultError> {
        let mut at = start;
        while at < end {
            let Some(area) = self.find(at) else { return Err(FaultError::NoMapping) };
            let access = if area.prot.contains(Prot::WRITE) { Access::Write } else { Access::Read };
            if area.prot.is_empty() {
                at = area.end;
                continue;
            }
            self.populate_as(at, end.min(area.end), access)?;
            at = area.end;
        }
        Ok(())
    }

    /// Touches every page of a range.
    pub(super) fn populate_as(&self, start: VirtAddr, end: VirtAddr, access: Access) -> Result<(), FaultError> {
        let mut at = start;
        while at < end {
            if access == Access::Write && self.populate_large(at, end) {
                at = at + LARGE;
                continue;
            }
            self.handle_fault(at, access)?;
            at = at + PAGE;
        }
        Ok(())
    }

    /// Says where the heap begins (exec: behind the program's last segment).
    pub fn set_brk_start(&self, start: VirtAddr) {
        let start = start.align_up(PAGE);
        let mut areas = self.areas.write();
        (areas.brk_start, areas.brk) = (start, start);
    }

    /// Moves the end of the heap, if that is possible, and returns where it is then: Linux's `brk`, which reports failure by returning
    /// the old value.
    #[must_use]
    pub fn set_brk(&self, wanted: VirtAddr) -> VirtAddr {
        let areas = self.areas.read();
        let old = areas.brk;
        if wanted < areas.brk_start || areas.brk_start.0 == 0 || wanted.0 > layout::USER_MAX {
            return old;
        }
        let (old_end, new_end) = (old.align_up(PAGE), wanted.align_up(PAGE));
        if new_end < old_end {
            return if self.remove_for_good(areas, new_end, old_end, |areas| areas.brk = wanted).is_ok() { wanted } else { old };
        }
        let more = new_end.0.saturating_sub(old_end.0);
        if self.check_size(&areas, more, old..old).and_then(|()| self.check_data(&areas, more, old..old)).is_err() {
            return old;
        }
        let mut areas = areas.change(0..0);
        if new_end > old_end && extend_heap(&mut areas, old_end, new_end).is_err() {
            return old;
        }
        areas.brk = wanted;
        wanted
    }
}

/// Chooses an address where nothing is.
fn choose(areas: &mut Areas, request: &MapRequest, len: u64) -> Result<VirtAddr, Errno> {
    let base = areas.mmap_base;
    match request.placement {
        Placement::Hint if request.page_size() != PageSize::Size4K => areas.place_explicit(request.hint, len, request.page_size()).ok_or(Errno::ENOMEM),
        Placement::Below2G if request.page_size() != PageSize::Size4K => Err(Errno::ENOMEM),
        Placement::Hint if request.hint.0 == 0 => areas.place_anywhere(len, &request.backing).ok_or(Errno::ENOMEM),
        Placement::Hint => areas.map.place(request.hint, len, Window::Anywhere, base).ok_or(Errno::ENOMEM),
        Placement::Below2G => areas.map.place(request.hint, len, Window::Low, base).ok_or(Errno::ENOMEM),
        Placement::Fixed | Placement::FixedNoReplace => {
            let end = fixed_range(request.hint, len)?;
            if areas.map.is_free(request.hint, end) { Ok(request.hint) } else { Err(Errno::EEXIST) }
        }
    }
}

/// Whether areas that were taken out may have left something in the page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Untouched,
    Touched,
}

/// Takes the areas of a range out. Those that hold an object go to `dropped`, to be dropped without the lock, as far as there is memory
/// to do so.
pub(super) fn take_areas(areas: &mut Areas, start: VirtAddr, end: VirtAddr, dropped: &mut Dropped) -> Taken {
    let mut taken = Taken::Untouched;
    areas.map.remove(start, end, |area| {
        if area.backing.is_touched() {
            taken = Taken::Touched;
        }
        if area.backing.part.is_some() && dropped.try_reserve(1).is_ok() {
            dropped.push(area);
        }
    });
    taken
}

impl Areas {
    /// Makes sure that changes find memory for `count` more areas.
    ///
    /// # Errors
    /// `ENOMEM`.
    #[inline]
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), Errno> {
        self.map.reserve(count).map_err(|_| Errno::ENOMEM)
    }

    /// The addresses around `at` where no area is any more, after one with pages was there. Tables at its borders that stay for the sake of
    /// the neighbours are theirs to remove from now on, even if those were never touched themselves.
    pub(super) fn room_around(&self, at: VirtAddr) -> Range<VirtAddr> {
        let room = self.map.room_at(at);
        for neighbour in [room.start.0.checked_sub(PAGE).map(VirtAddr), Some(room.end)] {
            if let Some(area) = neighbour.and_then(|address| self.map.find(address)) {
                area.backing.touch();
            }
        }
        room
    }

    /// A place for a mapping without a hint. One that large pages may fill begins where they do.
    fn place_anywhere(&mut self, len: u64, backing: &Backing) -> Option<VirtAddr> {
        match backing {
            Backing::Anonymous => self.place_alike(len, VirtAddr(0)),
            _ => self.map.place(VirtAddr(0), len, Window::Anywhere, self.mmap_base),
        }
    }

    /// A place for `len` bytes that lies in its 2 MiB as `like` lies in its own, if there is that much.
    pub(super) fn place_alike(&mut self, len: u64, like: VirtAddr) -> Option<VirtAddr> {
        let base = self.mmap_base;
        if len >= LARGE
            && let Some(roomy) = self.map.place(VirtAddr(0), len + LARGE - PAGE, Window::Anywhere, base)
        {
            let last = roomy + (LARGE - PAGE);
            return Some(last - (last.0.wrapping_sub(like.0) & (LARGE - 1)));
        }
        self.map.place(VirtAddr(0), len, Window::Anywhere, base)
    }
}

fn extend_heap(areas: &mut Areas, from: VirtAddr, to: VirtAddr) -> Result<(), Errno> {
    let (len, prot) = (to - from, Prot::READ | Prot::WRITE);
    check_commit(&MapRequest::anonymous(len, prot), len)?;
    check_area_count(areas)?;
    if !areas.map.is_placeable(from, to) {
        return Err(Errno::ENOMEM);
    }
    areas.reserve(1)?;
    let backing = AreaBacking::new(None, Some(heap_name(areas)));
    areas.map.insert(Area { start: from, end: to, prot, flags: AreaFlags::empty(), backing });
    Ok(())
}

/// The name of the heap, shared with the part that exists.
fn heap_name(areas: &Areas) -> super::Name {
    areas.map.find(areas.brk_start).and_then(|area| area.backing.name.clone()).unwrap_or_else(|| Arc::from(&b"[heap]"[..]))
}

/// Whole pages.
pub(super) fn checked_len(len: u64) -> Result<u64, Errno> {
    match len {
        0 => Err(Errno::EINVAL),
        len => len.checked_next_multiple_of(PAGE).filter(|len| *len <= layout::USER_MAX).ok_or(Errno::ENOMEM),
    }
}

pub(super) fn check_area_count(areas: &Areas) -> Result<(), Errno> {
    if has_room_for_area(areas) && !frames::memory_is_scarce() { Ok(()) } else { Err(Errno::ENOMEM) }
}

fn has_room_for_area(areas: &Areas) -> bool {
    areas.map.len() < max_areas()
}

/// The end of a fixed mapping.
pub(super) fn fixed_range(at: VirtAddr, len: u64) -> Result<VirtAddr, Errno> {
    if !at.is_aligned(PAGE) {
        return Err(Errno::EINVAL);
    }
    let end = at.0.checked_add(len).filter(|end| *end <= layout::USER_MAX).ok_or(Errno::ENOMEM)?;
    // mmap(2), security: below mmap_min_addr only with CAP_SYS_RAWIO, which nobody has here.
    if at.0 < layout::USER_MIN { Err(Errno::EPERM) } else { Ok(VirtAddr(end)) }
}

/// Linux's heuristic overcommit: refuses what obviously cannot be used (proc(5), overcommit_memory 0).
fn check_commit(request: &MapRequest, len: u64) -> Result<(), Errno> {
    let counted = request.prot.contains(Prot::WRITE) && matches!(request.backing, Backing::Anonymous) && !request.flags.contains(MapFlags::NO_RESERVE);
    let most = (frames::total() * PAGE).max(COMMIT_FLOOR);
    if counted && len > most { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// What the area remembers of the request.
fn area_parts(request: &MapRequest, len: u64) -> Result<(AreaBacking, AreaFlags), Errno> {
    let mut flags = AreaFlags::empty();
    flags.set(AreaFlags::GROWS_DOWN, request.flags.contains(MapFlags::GROWS_DOWN));
    flags.set(AreaFlags::LOCKED, request.flags.contains(MapFlags::LOCKED));
    flags.set(AreaFlags::NO_RESERVE, request.flags.contains(MapFlags::NO_RESERVE));
    flags.set(AreaFlags::PAGES_2M, request.page_size() == PageSize::Size2M);
    flags.set(AreaFlags::PAGES_1G, request.page_size() == PageSize::Size1G);
    let part = match &request.backing {
        Backing::Anonymous => None,
        Backing::SharedAnonymous => {
            flags |= AreaFlags::SHARED;
            let object: Arc<dyn Mappable> = match request.page_size() {
                PageSize::Size4K => SharedMemory::new(len),
                size => LargeMemory::new(len, size),
            };
            Some(ObjectPart { object, offset: 0 })
        }
        Backing::File { object, offset, sharing } => {
            check_file(*offset, len, object.page_size(), *sharing, request.prot)?;
            flags.set(AreaFlags::SHARED, *sharing != Sharing::Private);
            flags.set(AreaFlags::NEVER_WRITABLE, *sharing == Sharing::SharedReadOnly);
            Some(ObjectPart { object: object.clone(), offset: *offset })
        }
    };
    let backing = AreaBacking::new(part, request.name.clone());
    if request.page_size() != PageSize::Size4K {
        // Its pages are there from the beginning.
        backing.touch();
    }
    Ok((backing, flags))
}

fn check_file(offset: u64, len: u64, page_size: u64, sharing: Sharing, prot: Prot) -> Result<(), Errno> {
    if !offset.is_multiple_of(page_size) {
        return Err(Errno::EINVAL);
    }
    if offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Errno::EOVERFLOW);
    }
    if sharing == Sharing::SharedReadOnly && prot.contains(Prot::WRITE) {
        return Err(Errno::EACCES);
    }
    Ok(())
}
