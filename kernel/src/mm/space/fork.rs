//! The child's copy of a space.

use super::map::check_area_count;
use super::explicit::{count_entry, is_explicit};
use super::huge::is_transparent;
use super::zero::{is_zero_page, share_page};
use super::{AddressSpace, Areas};
use crate::tlb::Freed;
use addr::{VirtAddr, layout};
use alloc::sync::Arc;
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;
use linux_abi::Errno;
use page_table::{Entry, Flags, PageSize};
use vma::{Area, AreaFlags};

impl AddressSpace {
    /// A copy for a child process: shared mappings are shared, private pages are copied when either side writes to them.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fork(&self) -> Result<Arc<Self>, Errno> {
        let child = Self::new()?;
        child.set_large_pages_off(self.large_pages_off());
        child.stack_limit.store(self.stack_limit.load(Ordering::Relaxed), Ordering::Relaxed);
        child.size_limit.store(self.size_limit.load(Ordering::Relaxed), Ordering::Relaxed);
        child.data_limit.store(self.data_limit.load(Ordering::Relaxed), Ordering::Relaxed);
        let areas = self.areas.write();
        {
            let mut copy = child.areas.write();
            (copy.brk_start, copy.brk, copy.mmap_base) = (areas.brk_start, areas.brk, areas.mmap_base);
            child.copy_areas(&areas, &mut copy)?;
        }
        let copied = self.copy_entries(&areas, &child);
        // Our own pages have become read-only, even if the copy failed half-way.
        self.flush(VirtAddr(layout::USER_MIN), VirtAddr(layout::USER_MAX), Freed::PagesOnly);
        drop(areas);
        copied.map(|()| child)
    }

    fn copy_entries(&self, areas: &Areas, child: &Self) -> Result<(), Errno> {
        for area in areas.map.iter().filter(|area| !area.flags.intersects(AreaFlags::DONT_FORK | AreaFlags::WIPE_ON_FORK)) {
            let shared = area.flags.contains(AreaFlags::SHARED);
            let mut failed = false;
            // First ours become read-only, then both get the same entry. No large page lies in two areas: none is split.
            let _never_fails = self.tables.update_range(area.start, area.end, |_, entry, _| {
                if shared { entry } else { entry.with_flags(entry.flags() - Flags::WRITABLE) }
            });
            let _ = self.tables.visit_range(area.start, area.end, &mut |va, entry, size| {
                failed = child.take_copy(va, entry, size).is_err();
                if failed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if failed {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }

    fn take_copy(&self, va: VirtAddr, entry: Entry, size: PageSize) -> Result<(), Errno> {
        if entry.flags().contains(Flags::UNTOUCHED) {
            return Ok(());
        }
        if !entry.has_page() {
            return self.tables.map_if_empty(va, entry, size).map_err(|_| Errno::ENOMEM);
        }
        let page = share_page(entry, size);
        self.tables.map_if_empty(va, entry, size).map_err(|_| Errno::ENOMEM)?;
        page.held_by_entry();
        self.count_large(i64::from(is_transparent(entry, size)));
        count_entry(entry, size, 1);
        if !is_zero_page(entry) && !is_explicit(entry) {
            self.count_resident(size.pages() as i64);
        }
        Ok(())
    }

    fn copy_areas(&self, from: &Areas, to: &mut Areas) -> Result<(), Errno> {
        for area in from.map.iter().filter(|area| !area.flags.contains(AreaFlags::DONT_FORK)) {
            check_area_count(to)?;
            self.register_with(&area.backing)?;
            to.reserve(1)?;
            to.map.insert(Area { flags: area.flags - AreaFlags::LOCKED - AreaFlags::WATCHED, ..area.clone() });
        }
        Ok(())
    }
}
