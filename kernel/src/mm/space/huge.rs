//! Large pages of anonymous private memory: when they come, and when they become small ones again.
//!
//! **Policy** (doc/adr/0006). A large page that is not used is memory lost, and clearing it is time lost, so a first touch gets a
//! large page only where more touches are to be expected:
//!
//! - the program asked (`MADV_HUGEPAGE`), or
//! - the touch is at the beginning of 2 MiB, and the 2 MiB before are a large page: the program walks through its memory.
//!
//! Otherwise a touch gets 4 KiB, and where the pages before it are present, some pages behind it, too ([`ahead`]). Eight places in each 2 MiB
//! ([`is_sample`]) make the fault that comes by there count the pages; if an eighth is present, they are joined to a large page at once. No
//! thread searches for such ranges: what is used is touched, and what is touched is found by its faults. So memory used is at
//! most eight times what was touched, however sparse the touches are.
//!
//! **Joining** keeps faults out of the 2 MiB, because a table goes away. Pages that others refer to (after `fork`, or held as a
//! `Frame` by somebody) are left alone. **Splitting** needs no copy and no counting, see `mm/block.rs`. Where an area is cut, the large page
//! across the cut is split before ([`AddressSpace::cut`]), so a large page never lies in two areas.

use super::backing::AreaBacking;
use super::explicit::{has_explicit, is_explicit, size_in};
use super::fault::{FaultError, Step, snapshot};
use super::map::check_area_count;
use super::zero::{frame_of, is_own, is_zero_page, share_frame};
use super::{AddressSpace, Areas, InPlace, PAGE, leaf_flags};
use crate::mm::block::Block;
use crate::mm::frames::{self, Pool};
use crate::mm::kernel_space::Tables;
use crate::tlb::Freed;
use addr::{PhysAddr, VirtAddr};
use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use frame::{Fill, Frame};
use linux_abi::Errno;
use page_table::{Entry, Flags, MapError, PageSize, Split, Spot, TableSource};
use vma::{Area, AreaFlags, Prot};

pub(super) const LARGE: u64 = PageSize::Size2M.bytes();
const PAGES: u64 = PageSize::Size2M.pages();
/// So many pages of 2 MiB must be present to be joined at a fault.
const JOIN_AT: u64 = PAGES / 8;
/// Distance of the places where faults count pages, about.
const SAMPLE_EVERY: u64 = 64;
/// A touch among so many first pages of 2 MiB is at their beginning.
const BEGINNING: u64 = 8;
/// So many pages before a fault are looked at.
const RUN: u64 = 32;

/// Which memory gets large pages (`/sys/kernel/mm/transparent_hugepage/enabled`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LargePages {
    /// All.
    Always,
    /// What the program said so of.
    Advised,
    /// None.
    Never,
}

static MODE: AtomicU8 = AtomicU8::new(0);

impl LargePages {
    /// The setting now.
    #[must_use]
    pub fn current() -> Self {
        match MODE.load(Ordering::Relaxed) {
            0 => Self::Always,
            1 => Self::Advised,
            _ => Self::Never,
        }
    }

    /// Changes the setting, for later faults.
    pub fn set(self) {
        MODE.store(self as u8, Ordering::Relaxed);
    }
}

/// What happened to large pages since boot, as in `/proc/vmstat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LargePageCounts {
    /// Mapped now.
    pub mapped: u64,
    /// Given to a fault.
    pub at_fault: u64,
    /// Could not be given to a fault.
    pub fallback: u64,
    /// Made by joining small pages.
    pub joined: u64,
    /// Could not be had for joining.
    pub join_failed: u64,
    /// Split.
    pub split: u64,
}

static MAPPED: AtomicI64 = AtomicI64::new(0);
static AT_FAULT: AtomicU64 = AtomicU64::new(0);
static FALLBACK: AtomicU64 = AtomicU64::new(0);
static JOINED: AtomicU64 = AtomicU64::new(0);
static JOIN_FAILED: AtomicU64 = AtomicU64::new(0);
static SPLIT: AtomicU64 = AtomicU64::new(0);

/// What happened to large pages since boot.
#[must_use]
pub fn large_page_counts() -> LargePageCounts {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    LargePageCounts {
        mapped: u64::try_from(MAPPED.load(Ordering::Relaxed)).unwrap_or(0),
        at_fault: get(&AT_FAULT),
        fallback: get(&FALLBACK),
        joined: get(&JOINED),
        join_failed: get(&JOIN_FAILED),
        split: get(&SPLIT),
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How many pages behind a fault to map with it, when `run` pages before it are present: half as many, in powers of two.
const fn ahead(run: u64) -> u64 {
    match run / 2 {
        0 => 0,
        half => 1 << half.ilog2(),
    }
}

/// Whether a fault at page `index` of 2 MiB counts them: one in 64, at a different place in each 64, so that regular strides meet some.
const fn is_sample(index: u64) -> bool {
    let group = index / SAMPLE_EVERY;
    index % SAMPLE_EVERY == (SAMPLE_EVERY - 1 + 9 * group) % SAMPLE_EVERY
}

impl AddressSpace {
    /// The 2 MiB around `va`, if a large page may be there.
    pub(super) fn large_place(&self, area: &Area<AreaBacking>, va: VirtAddr) -> Option<VirtAddr> {
        let start = va.align_down(LARGE);
        (start >= area.start && area.end.0 - start.0 >= LARGE && self.may_be_large(area)).then_some(start)
    }

    fn may_be_large(&self, area: &Area<AreaBacking>) -> bool {
        let refused = AreaFlags::NO_HUGE_PAGE | AreaFlags::SHARED | AreaFlags::GROWS_DOWN | AreaFlags::PAGES_2M | AreaFlags::PAGES_1G | AreaFlags::TRACKED | AreaFlags::WATCHED;
        let wanted = match LargePages::current() {
            LargePages::Always => true,
            LargePages::Advised => area.flags.contains(AreaFlags::HUGE_PAGE),
            LargePages::Never => false,
        };
        wanted && area.backing.part.is_none() && !area.flags.intersects(refused) && !self.large_pages_off.load(Ordering::Relaxed)
    }

    /// First write to a page of an area where a large page may be, at `place`. `spot` is the hole in the tables.
    pub(super) fn fill_or_enlarge(&self, area: &Area<AreaBacking>, va: VirtAddr, place: VirtAddr, spot: Spot) -> Result<Step, FaultError> {
        let flags = leaf_flags(area.prot, InPlace::Writable);
        if spot.size() != PageSize::Size4K
            && self.expects_more(area, va, place)
            && let Some(step) = self.install_large(place, flags)
        {
            return Ok(step);
        }
        let step = self.install(spot, va, Frame::alloc_zeroed()?, flags)?;
        if !matches!(step, Step::Done) || !frames::is_plentiful(PAGES) {
            return Ok(step);
        }
        // The first page of a table made one.
        let spot = if spot.small_table().is_some() { spot } else { self.tables.find(va).1 };
        Ok(self.after_touch(area, va, place, spot))
    }

    /// Brings in the 2 MiB at `at` as a large page, if they are part of `at..end` and nothing is there yet: all of it will be touched. Returns whether
    /// they need no more touches.
    pub(super) fn populate_large(&self, at: VirtAddr, end: VirtAddr) -> bool {
        if !at.is_aligned(LARGE) || end - at < LARGE {
            return false;
        }
        let (area, _held) = self.enter(at, |areas| areas.map.find(at).map(snapshot));
        let Some(area) = area.filter(|area| area.prot.contains(Prot::WRITE) && self.large_place(area, at) == Some(at)) else { return false };
        let entry = self.tables.middle_entry(at);
        let wanted = entry.is_empty() && frames::is_plentiful(PAGES);
        entry.is_large() && entry.is_writable()
            || wanted && matches!(self.install_large(at, leaf_flags(area.prot, InPlace::Writable)), Some(Step::Done))
    }

    /// Whether a first touch should get a large page at once.
    fn expects_more(&self, area: &Area<AreaBacking>, va: VirtAddr, place: VirtAddr) -> bool {
        if area.flags.contains(AreaFlags::HUGE_PAGE) {
            return true;
        }
        // The fault holds its own 2 MiB only. The table with the entry of the 2 MiB before is there as long as it is the same table.
        let same_table = !place.is_aligned(PageSize::Size1G.bytes());
        let walks = (va - place) / PAGE < BEGINNING && place.0 >= area.start.0 + LARGE && same_table;
        walks && self.tables.middle_entry(place - PAGE).is_large() && frames::is_plentiful(PAGES)
    }

    /// Maps a large page of zeros where no table is. `None` if there is no block.
    fn install_large(&self, place: VirtAddr, flags: Flags) -> Option<Step> {
        let Ok(block) = Block::alloc_zeroed(PageSize::Size2M) else {
            count(&FALLBACK);
            return None;
        };
        match self.tables.map_if_empty(place, Entry::new(block.phys(), flags), PageSize::Size2M) {
            Ok(()) => {
                let _held_by_entry: PhysAddr = block.into_raw();
                self.count_large(1);
                self.count_resident(PAGES as i64);
                count(&AT_FAULT);
                Some(Step::Done)
            }
            Err(MapError::Occupied(_)) => Some(Step::Again),
            Err(MapError::OutOfTables) => None,
        }
    }

    /// After a touch got a small page: maps some behind it, and finds out whether it is time for a large page.
    fn after_touch(&self, area: &Area<AreaBacking>, va: VirtAddr, place: VirtAddr, spot: Spot) -> Step {
        let Some(table) = spot.small_table() else { return Step::Done };
        let flags = leaf_flags(area.prot, InPlace::Writable);
        let index = (va - place) / PAGE;
        let run = (index.saturating_sub(RUN)..index).rev().take_while(|&before| self.tables.entry(table, before).is_writable()).count();
        let end = (index + 1 + ahead(run as u64)).min(PAGES);
        let mut next = index + 1;
        while next < end && self.tables.entry(table, next).is_empty() {
            let Ok(frame) = Frame::alloc_zeroed() else { break };
            let Ok(Step::Done) = self.install(spot, place + next * PAGE, frame, flags) else { break };
            next += 1;
        }
        if (index..next).any(is_sample) && self.is_dense(table) {
            return Step::Join(place);
        }
        if index < SAMPLE_EVERY && (index..next).any(is_sample) { self.look_behind(area, place) } else { Step::Done }
    }

    /// Areas that grow page by page (heaps) hold the 2 MiB around a fault only later: looks at those before.
    pub(super) fn look_behind(&self, area: &Area<AreaBacking>, va: VirtAddr) -> Step {
        let here = va.align_down(LARGE);
        let before = VirtAddr(here.0.saturating_sub(LARGE));
        let same_table = !here.is_aligned(PageSize::Size1G.bytes());
        if same_table && self.large_place(area, before).is_some() && self.tables.middle_entry(before).is_present_table() {
            return Step::Join(before);
        }
        Step::Done
    }

    /// Whether a fault at `va`, where no large page may be yet, is one that looks behind.
    pub(super) fn passes_sample(va: VirtAddr) -> bool {
        let index = (va - va.align_down(LARGE)) / PAGE;
        index < SAMPLE_EVERY && is_sample(index)
    }

    fn is_dense(&self, table: PhysAddr) -> bool {
        let present = self.tables.entries(table).filter(|entry| entry.is_present() && !is_zero_page(*entry)).count();
        present as u64 >= JOIN_AT
    }

    /// Joins the small pages of the 2 MiB at `place` after a fault found them dense. Does nothing if that is not possible any more.
    pub(super) fn join_dense(&self, place: VirtAddr) {
        let areas = self.areas.read();
        let still_wanted = areas.map.find(place).is_some_and(|area| self.large_place(area, place) == Some(place));
        if !still_wanted || !frames::is_plentiful(PAGES) {
            return;
        }
        let areas = areas.keep_out(place.0..place.0 + LARGE);
        if self.tables.small_table(place).is_none_or(|table| !self.is_dense(table)) {
            return;
        }
        match Block::alloc_to_fill(PageSize::Size2M) {
            Ok(block) => _ = self.join(&areas, place, block, JOIN_AT),
            Err(_) => count(&JOIN_FAILED),
        }
    }

    /// `MADV_COLLAPSE`: joins what there is in each 2 MiB of the range, which areas cover, and brings the rest in.
    ///
    /// # Errors
    /// `EINVAL` (memory that can have no large pages), `ENOMEM` (no block), `EAGAIN` (pages that others refer to).
    pub(super) fn collapse(&self, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        let mut place = start.align_up(LARGE);
        while place + LARGE <= end {
            let areas = self.areas.read().keep_out(place.0..place.0 + LARGE);
            let area = areas.map.find(place).ok_or(Errno::ENOMEM)?;
            // As on Linux, the system's setting does not count; the area's does.
            area.backing.touch();
            if area.end < place + LARGE || area.backing.part.is_some() || area.flags.intersects(AreaFlags::SHARED | AreaFlags::NO_HUGE_PAGE) || has_explicit(area) {
                return Err(Errno::EINVAL);
            }
            if !self.tables.middle_entry(place).is_large() {
                let block = Block::alloc_to_fill(PageSize::Size2M).map_err(|_| Errno::ENOMEM)?;
                if !self.join(&areas, place, block, 0) {
                    return Err(Errno::EAGAIN);
                }
            }
            place = place + LARGE;
        }
        Ok(())
    }

    /// Puts `block` in the place of the small pages at `place`, with their contents, if at least `least` are present and all are this
    /// space's alone. The caller has the 2 MiB to itself.
    fn join(&self, areas: &Areas, place: VirtAddr, (mut block, contents): (Block, Fill), least: u64) -> bool {
        let Some(area) = areas.map.find(place).filter(|area| !area.prot.is_empty()) else { return false };
        let flags = leaf_flags(area.prot, InPlace::Writable);
        let Some(table) = self.tables.small_table(place) else {
            return least == 0 && {
                if contents == Fill::Stale {
                    block.clear();
                }
                self.set_joined(place, block, flags, 0)
            };
        };
        let joinable = |entry: &Entry| entry.is_empty() || is_zero_page(*entry) || is_own(*entry, PageSize::Size4K);
        let present = self.tables.entries(table).filter(|entry| !entry.is_empty() && !is_zero_page(*entry)).count() as u64;
        if present < least || !self.tables.entries(table).all(|entry| joinable(&entry)) || self.tables.hide_table(place).is_none() {
            return false;
        }
        self.flush(place, place + LARGE, Freed::Tables);
        for (index, entry) in (0..).zip(self.tables.entries(table)) {
            if !entry.is_empty() && !is_zero_page(entry) {
                block.copy_page(index, &share_frame(entry));
            } else if contents == Fill::Stale {
                block.clear_page(index);
            }
        }
        self.tables.show_large(place, Entry::new(block.into_raw(), flags));
        self.count_joined(PAGES as i64 - present as i64);
        self.tables.entries(table).filter(|entry| !entry.is_empty()).for_each(|entry| drop(frame_of(entry)));
        Tables(Pool::Program).free_table(table);
        true
    }

    fn set_joined(&self, place: VirtAddr, block: Block, flags: Flags, present: u64) -> bool {
        if self.tables.map_if_empty(place, Entry::new(block.phys(), flags), PageSize::Size2M).is_err() {
            return false;
        }
        let _held_by_entry: PhysAddr = block.into_raw();
        self.count_joined(PAGES as i64 - present as i64);
        true
    }

    fn count_joined(&self, pages: i64) {
        self.count_large(1);
        self.count_resident(pages);
        count(&JOINED);
    }

    /// A write to a large page that may not be written in place: made writable if nobody else has any of it any more, split otherwise.
    pub(super) fn write_large(&self, area: &Area<AreaBacking>, va: VirtAddr, entry: Entry, size: PageSize) -> Result<Step, FaultError> {
        if is_own(entry, size) {
            let writable = entry.with_flags(leaf_flags(area.prot, InPlace::Writable) | entry.flags() & Flags::EXPLICIT);
            return Ok(self.exchange(va, size, entry, writable));
        }
        if is_explicit(entry) {
            return self.copy_explicit(area, va.align_down(size.bytes()), entry, size);
        }
        let _replacing = self.replace_lock(va, size).lock();
        self.split_busy(va).map_err(|_| FaultError::OutOfMemory)?;
        Ok(Step::Again)
    }

    fn split_busy(&self, va: VirtAddr) -> Result<(), page_table::OutOfTables> {
        if self.tables.split_page(va, &mut |from, to| self.flush(from, to, Freed::PagesOnly))? == Split::Done {
            self.count_split();
        }
        Ok(())
    }

    /// Prepares a change of `start..end` that may cut areas: there may be more areas then, and no large page lies across either border.
    /// The caller has the range to itself.
    ///
    /// # Errors
    /// `ENOMEM`; then nothing has changed that the program could see.
    pub(super) fn cut(&self, areas: &mut Areas, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        check_area_count(areas)?;
        areas.reserve(2)?;
        self.split_borders(areas, start, end)
    }

    /// Splits the large pages that lie across `start` and `end`. The caller has the range between to itself.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` (pages of `MAP_HUGETLB`).
    pub(super) fn split_borders(&self, areas: &Areas, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        for at in [start, end] {
            // No large page lies in two areas.
            let Some(area) = areas.map.find_before(at).filter(|area| area.end > at) else { continue };
            if has_explicit(area) && !at.is_aligned(size_in(area).bytes()) {
                return Err(Errno::EINVAL);
            }
            if at.is_aligned(LARGE) || !area.backing.is_touched() || !self.tables.lookup(at).0.is_large() {
                continue;
            }
            self.tables
                .split_at(at, &mut |from, to| {
                    self.flush(from, to, Freed::PagesOnly);
                    self.count_split();
                })
                .map_err(|_| Errno::ENOMEM)?;
        }
        Ok(())
    }

    /// Splits every large page in `start..end`. The caller has the range to itself.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn split_everything(&self, start: VirtAddr, end: VirtAddr) -> Result<(), Errno> {
        self.tables
            .split_all(start, end, &mut |from, to| {
                self.flush(from, to, Freed::PagesOnly);
                self.count_split();
            })
            .map_err(|_| Errno::ENOMEM)
    }

    fn count_split(&self) {
        self.count_large(-1);
        count(&SPLIT);
    }

    /// Counts transparent large pages as mapped, or no longer.
    pub(super) fn count_large(&self, pages: i64) {
        if pages != 0 {
            MAPPED.fetch_add(pages, Ordering::Relaxed);
        }
    }

    /// Turns large pages off or on for this space (`PR_SET_THP_DISABLE`). Those that are there stay.
    pub fn set_large_pages_off(&self, off: LargePagesOff) {
        self.large_pages_off.store(off == LargePagesOff::Yes, Ordering::Relaxed);
    }

    /// Whether large pages are turned off for this space.
    #[must_use]
    pub fn large_pages_off(&self) -> LargePagesOff {
        if self.large_pages_off.load(Ordering::Relaxed) { LargePagesOff::Yes } else { LargePagesOff::No }
    }
}

/// Whether a space gets no large pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LargePagesOff {
    /// None.
    Yes,
    /// As everybody.
    No,
}

/// Whether an entry is one of a transparent large page.
pub(super) const fn is_transparent(entry: Entry, size: PageSize) -> bool {
    matches!(size, PageSize::Size2M) && entry.has_page() && !entry.flags().contains(Flags::EXPLICIT)
}
