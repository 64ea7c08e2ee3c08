//! What others may ask about a space: `/proc/self/maps`, futex keys, crash reports, statistics.

use super::advise::count_pages;
use super::backing::{AreaBacking, Name};
use super::{Access, AddressSpace, FaultError};
use addr::VirtAddr;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use frame::{Frame, MappingId};
use vma::{Area, AreaFlags, Prot};

/// One line of `/proc/self/maps`.
#[derive(Clone, Debug)]
pub struct VmaInfo {
    /// First byte.
    pub start: VirtAddr,
    /// One past the last byte.
    pub end: VirtAddr,
    /// Protection.
    pub prot: Prot,
    /// Shared, growing, locked, …
    pub flags: AreaFlags,
    /// Byte offset in the object of the first byte; 0 for anonymous memory.
    pub offset: u64,
    /// The object, `None` for anonymous memory.
    pub id: Option<MappingId>,
    /// Path of the file, or a name in brackets.
    pub name: Option<Name>,
}

/// Names a word of memory across address spaces: what a shared futex waits on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SharedKey {
    /// In a shared mapping: the object and the byte offset in it.
    Object(MappingId, u64),
    /// In private memory: only this space sees it.
    Private(VirtAddr),
}

impl AddressSpace {
    /// The area that contains `addr`.
    #[must_use]
    pub fn find(&self, addr: VirtAddr) -> Option<VmaInfo> {
        self.areas.read().map.find(addr).map(describe)
    }

    /// The lowest area that ends above `addr`.
    #[must_use]
    pub fn area_from(&self, addr: VirtAddr) -> Option<VmaInfo> {
        self.areas.read().map.find_from(addr).map(describe)
    }

    /// All areas in ascending order.
    #[must_use]
    pub fn areas(&self) -> Vec<VmaInfo> {
        self.areas.read().map.iter().map(describe).collect()
    }

    /// How a futex at `addr` is named.
    ///
    /// # Errors
    /// [`FaultError::NoMapping`].
    pub fn shared_key(&self, addr: VirtAddr) -> Result<SharedKey, FaultError> {
        let key = |area: &Area<AreaBacking>| match &area.backing.part {
            Some(part) if area.flags.contains(AreaFlags::SHARED) => SharedKey::Object(part.object.mapping_id(), part.offset + (addr - area.start)),
            _ => SharedKey::Private(addr),
        };
        self.enter(addr, |areas| areas.map.find(addr).map(key)).0.ok_or(FaultError::NoMapping)
    }

    /// The frame behind `addr`, brought in for `access`, held so that it stays even if it is unmapped.
    ///
    /// # Errors
    /// As [`AddressSpace::handle_fault`].
    pub fn frame_at(&self, addr: VirtAddr, access: Access) -> Result<Frame, FaultError> {
        loop {
            self.handle_fault(addr, access)?;
            // The block keeps the entry's frame from being freed before it is counted; a replacing fault may still swap the entry,
            // so it is looked at again after counting.
            let (mapped, _held) = self.enter(addr, |areas| areas.map.find(addr).is_some());
            if !mapped {
                continue;
            }
            let (entry, size) = self.tables.lookup(addr);
            if entry.is_present() && (access != Access::Write || entry.is_writable()) {
                let _not_replaced = self.replace_lock(addr, size).lock();
                if self.tables.lookup(addr) == (entry, size) {
                    return Ok(super::zero::share_frame(entry.part_at(addr, size)));
                }
            }
        }
    }

    /// Pages in memory (`VmRSS`).
    #[must_use]
    pub fn resident_pages(&self) -> u64 {
        u64::try_from(self.resident.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The most pages that were in memory at once (`VmHWM`).
    #[must_use]
    pub fn peak_resident_pages(&self) -> u64 {
        let peak = self.peak.load(Ordering::Relaxed).max(self.resident.load(Ordering::Relaxed));
        u64::try_from(peak).unwrap_or(0)
    }

    /// Frames that this space alone has: its private pages, without files and the image.
    #[must_use]
    pub fn own_frames(&self) -> u64 {
        let areas = self.areas.read();
        let private = areas.map.iter().filter(|area| !area.flags.contains(AreaFlags::SHARED));
        private.map(|area| count_own(self, area.start, area.end)).sum()
    }

    /// Pages in memory within a range (`Rss` of `/proc/self/smaps`).
    #[must_use]
    pub fn resident_pages_in(&self, start: VirtAddr, end: VirtAddr) -> u64 {
        let _areas = self.areas.read();
        count_pages(self, start, end)
    }

    /// Bytes in all areas (`VmSize`).
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.areas.read().map.bytes()
    }

    /// Where the heap begins and ends now.
    #[must_use]
    pub fn brk_range(&self) -> (VirtAddr, VirtAddr) {
        let areas = self.areas.read();
        (areas.brk_start, areas.brk)
    }
}

/// Pages of a range whose frames nobody else refers to.
fn count_own(space: &AddressSpace, start: VirtAddr, end: VirtAddr) -> u64 {
    let mut pages = 0;
    let _ = space.tables.visit_range(start, end, &mut |_, entry, size| {
        pages += if entry.has_page() && super::zero::is_own(entry, size) { size.pages() } else { 0 };
        ControlFlow::Continue(())
    });
    pages
}

pub(super) fn describe(area: &Area<AreaBacking>) -> VmaInfo {
    let part = area.backing.part.as_ref();
    VmaInfo {
        start: area.start,
        end: area.end,
        prot: area.prot,
        flags: area.flags,
        offset: part.map_or(0, |part| part.offset),
        id: part.map(|part| part.object.mapping_id()),
        name: area.backing.name.clone(),
    }
}
