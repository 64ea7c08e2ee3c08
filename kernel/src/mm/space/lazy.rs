//! `MADV_FREE`: pages whose contents the program does not need, and that go when memory is.
//!
//! **Theory.** Such an entry keeps its page and its rights, gets [`Flags::LAZY_FREE`] and loses [`Flags::DIRTY`], which the processor sets
//! when it writes to the page: that takes the page back, without a fault and without a word here. Marking flushes, so that no processor
//! writes without looking at the entry. Reclaim removes an entry with a compare-exchange against one that is not dirty, then flushes, then frees
//! the page. A processor that has the translation cached as clean must set the bit in the entry before its first write, finds the
//! entry gone, and faults; a write that was faster makes the compare-exchange fail.
//!
//! Reclaim is a [`Shrinker`]: it may run in a thread that is in a page fault of the very space, so it waits for no lock. It tries the turn of
//! the areas, then each 2 MiB with such pages; where a fault is at work it leaves the pages alone. It reaches spaces by their addresses,
//! under the lock of the list that they leave at the beginning of their end: so it never has the last reference to one.
#![expect(unsafe_code, reason = "the list of spaces does not keep them")]

use super::huge::LARGE;
use super::track::is_lazy;
use super::zero::is_own;
use super::{AddressSpace, Areas, PAGE};
use crate::mm::gather::Gather;
use crate::mm::release::FreedFrames;
use crate::mm::shrink::{self, Shrinker};
use crate::tlb::Freed;
use addr::VirtAddr;
use alloc::vec::Vec;
use core::ops::{ControlFlow, Range};
use core::sync::atomic::{AtomicU64, Ordering};
use linux_abi::Errno;
use page_table::{Entry, Flags, Removed};
use sync::{Mutex, Once};
use vma::AreaFlags;

/// Spaces that ever used `MADV_FREE`. Who holds the lock may look at them.
static SPACES: Mutex<Vec<Listed>> = Mutex::new(Vec::new());
/// Pages that were given up since they were last looked for.
static GIVEN_UP: AtomicU64 = AtomicU64::new(0);
static REGISTERED: Once = Once::new();

struct Listed(*const AddressSpace);

// SAFETY: an address; what is there may be used from any thread.
unsafe impl Send for Listed {}

struct LazyPages;

impl Shrinker for LazyPages {
    fn name(&self) -> &'static str {
        "MADV_FREE"
    }

    fn count(&self) -> u64 {
        GIVEN_UP.load(Ordering::Relaxed)
    }

    fn scan(&self, frames: u64) -> u64 {
        let Some(spaces) = SPACES.try_lock() else { return 0 };
        let before = GIVEN_UP.swap(0, Ordering::Relaxed);
        let mut freed = 0;
        for space in spaces.iter() {
            // SAFETY: a space leaves the list, under this lock, before anything of it is taken apart.
            freed += unsafe { &*space.0 }.free_lazy_pages(frames.saturating_sub(freed));
        }
        if freed >= frames {
            // There may be more.
            GIVEN_UP.fetch_add(before.saturating_sub(freed), Ordering::Relaxed);
        }
        freed
    }
}

impl AddressSpace {
    /// Gives the pages of private anonymous memory up until they are written again. Others stay as they are. The caller keeps faults out of
    /// the range, across whose borders no large page lies.
    ///
    /// # Errors
    /// `ENOMEM`; then nothing has changed.
    pub(super) fn give_up_pages(&self, areas: &Areas, range: &Range<VirtAddr>) -> Result<(), Errno> {
        self.list_as_lazy()?;
        let mut pages = 0;
        for area in areas.map.overlapping(range.start, range.end).filter(|area| area.backing.is_touched()) {
            area.backing.note_lazy();
            let _never_fails = self.tables.update_range(area.start.max(range.start), area.end.min(range.end), |_, entry, size| {
                if !entry.has_page() || !is_own(entry, size) {
                    return entry;
                }
                pages += size.pages();
                entry.with_flags((entry.flags() | Flags::LAZY_FREE) - Flags::DIRTY)
            });
        }
        if pages != 0 {
            self.flush(range.start, range.end, Freed::PagesOnly);
            GIVEN_UP.fetch_add(pages, Ordering::Relaxed);
        }
        Ok(())
    }

    fn list_as_lazy(&self) -> Result<(), Errno> {
        REGISTERED.call_once(|| shrink::register(&LazyPages));
        if self.lazy_listed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut spaces = SPACES.lock();
        // Reclaim tries the lock only: allocating under it is permitted.
        spaces.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        if !self.lazy_listed.swap(true, Ordering::Relaxed) {
            spaces.push(Listed(self));
        }
        Ok(())
    }

    /// The space is about to end.
    pub(super) fn leave_lazy_list(&self) {
        if !self.lazy_listed.load(Ordering::Relaxed) {
            return;
        }
        let this: *const Self = self;
        SPACES.lock().retain(|space| space.0 != this);
    }

    /// Frees up to about `wanted` pages that were given up; returns how many.
    ///
    /// Context: that of a shrinker.
    fn free_lazy_pages(&self, wanted: u64) -> u64 {
        let (mut freed, mut at) = (0, VirtAddr(0));
        while freed < wanted
            && let Some(areas) = self.areas.try_read()
            && let Some(found) = self.next_lazy(&areas, at)
        {
            let block = found.align_down(LARGE);
            let range = block.max(at)..block + LARGE;
            at = range.end;
            if let Some(_ours) = areas.try_keep_out(range.start.0..range.end.0) {
                freed += self.free_lazy_in(&range);
            }
        }
        freed
    }

    /// The first page from `from` on that may go.
    fn next_lazy(&self, areas: &Areas, from: VirtAddr) -> Option<VirtAddr> {
        let mut found = None;
        for area in areas.map.overlapping(from, VirtAddr(u64::MAX)).filter(|area| area.backing.has_lazy() && !area.flags.contains(AreaFlags::LOCKED)) {
            let _until_found = self.tables.visit_range(area.start.max(from), area.end, &mut |va, entry, _| {
                if !is_lazy(entry) {
                    return ControlFlow::Continue(());
                }
                found = Some(va.max(from));
                ControlFlow::Break(())
            });
            if found.is_some() {
                break;
            }
        }
        found
    }

    /// Frees the pages of a range, which the caller has to itself, that were given up.
    fn free_lazy_in(&self, range: &Range<VirtAddr>) -> u64 {
        let (mut freed, mut from) = (0, Some(range.start));
        while let Some(start) = from {
            // Inline room only: nothing is allocated.
            let mut gather = Gather::new(0);
            from = None;
            let _until_full = self.tables.visit_range(start, range.end, &mut |va, entry, size| {
                if !is_lazy(entry) || va < range.start || self.tables.compare_exchange(va, size, entry, Entry::EMPTY).is_err() {
                    return ControlFlow::Continue(());
                }
                freed += size.pages();
                let full = gather.push(Removed::Page { va, entry, size });
                from = full.is_break().then_some(va + PAGE);
                full
            });
            if !gather.is_empty() {
                self.flush(range.start, range.end, Freed::PagesOnly);
                self.free_gathered(&mut gather, FreedFrames::for_all());
            }
        }
        freed
    }
}
