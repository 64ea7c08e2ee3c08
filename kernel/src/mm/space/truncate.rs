//! Pages that an object loses (truncation, holes) leave the mappings. The protocol is described at [`frame::Mappers`].

use super::backing::{AreaBacking, ObjectPart};
use super::explicit::size_in;
use super::{AddressSpace, PAGE};
use addr::{PhysAddr, VirtAddr};
use alloc::sync::Weak;
use core::ops::{ControlFlow, Range};
use frame::{Lost, LostPrivate, Mapped, Mapper};
use linux_abi::Errno;
use vma::{Area, AreaFlags};

impl AddressSpace {
    /// Has the object tell this space about pages that it loses. With the areas locked for writing, before the area is there.
    pub(super) fn register_with(&self, backing: &AreaBacking) -> Result<(), Errno> {
        let Some(mappers) = backing.part.as_ref().and_then(|part| part.object.mappers()) else { return Ok(()) };
        let this: Weak<dyn Mapper> = self.this.clone();
        mappers.register(&this)
    }

    /// Removes entries of a private area for unchanged pages of the object, of `size` bytes. Rare, so each has its own flush.
    fn remove_unchanged(&self, range: Range<VirtAddr>, size: u64, index: impl Fn(VirtAddr) -> u64, was_ours: &dyn Fn(u64, PhysAddr) -> bool) {
        let mut from = range.start;
        while from < range.end {
            let mut found = None;
            let _ = self.tables.visit_range(from, range.end, &mut |va, entry, _| {
                if entry.has_page() && was_ours(index(va), entry.address()) {
                    found = Some(va);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            let Some(va) = found else { return };
            self.remove_pages(va, va + size, &(va..va));
            from = va + size;
        }
    }

    fn forget_in(&self, area: &Area<AreaBacking>, part: &ObjectPart, lost: &Lost<'_>) {
        let address = |index: u64| area.start.0 + index.saturating_mul(PAGE).saturating_sub(part.offset).min(area.len());
        let (start, end) = (VirtAddr(address(lost.pages.start)), VirtAddr(address(lost.pages.end)));
        if start >= end || !area.backing.is_touched() {
            return;
        }
        match lost.private {
            LostPrivate::Unchanged(was_ours) if !area.flags.contains(AreaFlags::SHARED) => {
                self.remove_unchanged(start..end, size_in(area).bytes(), |va| (part.offset + (va - area.start)) / PAGE, was_ours);
            }
            _ => self.remove_pages(start, end, &(start..start)),
        }
    }
}

impl Mapper for AddressSpace {
    fn forget(&self, lost: &Lost<'_>, leave: &dyn Fn()) -> Mapped {
        let areas = self.areas.write();
        let mut mapped = Mapped::NoMore;
        for area in areas.map.iter() {
            if let Some(part) = area.backing.part.as_ref().filter(|part| part.object.mapping_id() == lost.object) {
                mapped = Mapped::Still;
                self.forget_in(area, part, lost);
            }
        }
        if mapped == Mapped::NoMore {
            leave();
        }
        mapped
    }
}
