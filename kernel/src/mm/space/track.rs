//! Which pages were written, and which were used: soft-dirty bits, write tracking, the counts of `smaps`.
//!
//! **Theory.** A page that shall be noticed when it is written loses the right to be, and its entry gets a mark: [`Flags::SOFT_CLEAN`]
//! (`clear_refs`) or [`Flags::WRITE_WATCHED`] (`PAGEMAP_SCAN`). The write then faults; giving the right back drops the marks, since a fault
//! makes the flags of an entry anew. So a page was written exactly if it has no mark, and only entries that change cost anything: whoever
//! never asks pays nothing, and areas keep their shape.
//!
//! Marks mean something only where the area says that they are kept: [`AreaFlags::TRACKED`] since the first `clear_refs`, and
//! [`AreaFlags::WATCHED`] for registered ranges. New mappings have neither, so all of them counts as written, as on Linux. In such areas a
//! page that is only read is mapped without the right to be written, with the marks; pages are not joined to large ones, which are marked as
//! a whole.
//!
//! Marks are set with the range kept from faults, and the TLBs are flushed before it is given up: nobody writes unnoticed afterwards.

use super::backing::AreaBacking;
use super::explicit::{has_explicit, is_explicit};
use super::huge::is_transparent;
use super::info::{VmaInfo, describe};
use super::zero::{is_own, is_zero_page, references};
use super::{AddressSpace, Areas, PAGE};
use crate::tlb::Freed;
use addr::{VirtAddr, layout};
use bitflags::bitflags;
use core::ops::{ControlFlow, Range};
use core::sync::atomic::Ordering;
use linux_abi::Errno;
use page_table::{Entry, Flags, PageSize};
use vma::{Area, AreaFlags};

/// What `/proc/PID/clear_refs` clears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClearRefs {
    /// Whether pages were used.
    All,
    /// The same, of anonymous mappings.
    Anonymous,
    /// The same, of mappings of files.
    Mapped,
    /// Whether pages were written.
    SoftDirty,
    /// The most pages that were in memory at once.
    PeakResident,
}

bitflags! {
    /// What is known of a page.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PageFacts: u32 {
        /// It is in memory.
        const PRESENT = 1;
        /// No other mapping refers to it.
        const OWN = 1 << 1;
        /// It is a page of a file or of shared memory.
        const FROM_OBJECT = 1 << 2;
        /// It was written since `clear_refs`, or nobody wrote there.
        const SOFT_DIRTY = 1 << 3;
        /// It was written since it was watched.
        const WRITTEN = 1 << 4;
        /// Its area can be watched.
        const WATCHED = 1 << 5;
        /// The page of zeros that all share.
        const ZERO = 1 << 6;
        /// Part of a large page.
        const LARGE = 1 << 7;
    }
}

/// Whether a scan watches the pages that it is interested in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// It only looks.
    Not,
    /// Their next write will be noticed.
    Matching,
}

/// Whether writes to a range are noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watched {
    /// They are.
    Yes,
    /// They are not.
    No,
}

/// What a scan does with pages that it was told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// So many of them, from the first on, are of interest.
    pub matching: u64,
    /// Whether it goes on behind them.
    pub next: ControlFlow<()>,
}

/// What `smaps` tells of an area, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names are those of smaps")]
pub struct Usage {
    pub rss: u64,
    /// In 4096ths of a byte.
    pub pss_4096ths: u64,
    pub pss_dirty_4096ths: u64,
    pub pss_file_4096ths: u64,
    pub pss_shared_memory_4096ths: u64,
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    pub referenced: u64,
    pub anonymous: u64,
    pub lazy_free: u64,
    pub anonymous_large: u64,
    pub shared_explicit: u64,
    pub private_explicit: u64,
}

/// An area and what it uses.
#[derive(Clone, Debug)]
pub struct AreaUsage {
    /// The area.
    pub area: VmaInfo,
    /// What it uses.
    pub usage: Usage,
    /// Whether it may get large pages as it is.
    pub may_have_large_pages: bool,
}

impl Usage {
    /// Adds what another area uses.
    pub fn add(&mut self, other: &Self) {
        self.rss += other.rss;
        self.pss_4096ths += other.pss_4096ths;
        self.pss_dirty_4096ths += other.pss_dirty_4096ths;
        self.pss_file_4096ths += other.pss_file_4096ths;
        self.pss_shared_memory_4096ths += other.pss_shared_memory_4096ths;
        self.shared_clean += other.shared_clean;
        self.shared_dirty += other.shared_dirty;
        self.private_clean += other.private_clean;
        self.private_dirty += other.private_dirty;
        self.referenced += other.referenced;
        self.anonymous += other.anonymous;
        self.lazy_free += other.lazy_free;
        self.anonymous_large += other.anonymous_large;
        self.shared_explicit += other.shared_explicit;
        self.private_explicit += other.private_explicit;
    }

    fn count(&mut self, area: &Area<AreaBacking>, entry: Entry, size: PageSize) {
        let flags = entry.flags();
        let refs = references(entry);
        let shared_area = area.flags.contains(AreaFlags::SHARED);
        let of_object = area.backing.part.is_some() && (shared_area || refs != 1);
        // The object has a reference of its own; frames of the image are not counted.
        let mappings = if refs == usize::MAX { 1 } else { (refs - usize::from(of_object && refs > 1)) as u64 };
        let bytes = size.bytes();
        if is_explicit(entry) {
            *(if mappings > 1 { &mut self.shared_explicit } else { &mut self.private_explicit }) += bytes;
            return;
        }
        let lazy = is_lazy(entry);
        let dirty = if of_object { shared_area && flags.contains(Flags::DIRTY) } else { !lazy };
        let share = bytes * 4096 / mappings;
        self.rss += bytes;
        self.pss_4096ths += share;
        self.pss_dirty_4096ths += if dirty { share } else { 0 };
        if of_object {
            *(if shared_area { &mut self.pss_shared_memory_4096ths } else { &mut self.pss_file_4096ths }) += share;
        } else {
            self.anonymous += bytes;
        }
        let place = match (mappings > 1, dirty) {
            (true, true) => &mut self.shared_dirty,
            (true, false) => &mut self.shared_clean,
            (false, true) => &mut self.private_dirty,
            (false, false) => &mut self.private_clean,
        };
        *place += bytes;
        self.referenced += if flags.contains(Flags::ACCESSED) { bytes } else { 0 };
        self.lazy_free += if lazy { bytes } else { 0 };
        self.anonymous_large += if is_transparent(entry, size) { bytes } else { 0 };
    }
}

/// Whether a page was given up with `MADV_FREE` and not written since.
pub(super) const fn is_lazy(entry: Entry) -> bool {
    let flags = entry.flags();
    flags.contains(Flags::LAZY_FREE) && !flags.contains(Flags::DIRTY)
}

/// The marks of a page that comes into being without being written.
pub(super) const fn unwritten(area: &Area<AreaBacking>) -> Flags {
    if area.flags.contains(AreaFlags::WATCHED) { Flags::SOFT_CLEAN.union(Flags::WRITE_WATCHED) } else { Flags::SOFT_CLEAN }
}

/// Whether writes to pages of the area are to be noticed.
pub(super) const fn notices_writes(area: &Area<AreaBacking>) -> bool {
    area.flags.intersects(AreaFlags::TRACKED.union(AreaFlags::WATCHED))
}

/// What is known of a page, or, with an empty entry, of a place without one.
fn facts(area: &Area<AreaBacking>, entry: Entry, size: PageSize) -> PageFacts {
    let marked = |mark| entry.flags().contains(mark);
    let watched = area.flags.contains(AreaFlags::WATCHED);
    let tracked = area.flags.contains(AreaFlags::TRACKED);
    let present = entry.has_page();
    let mut facts = PageFacts::empty();
    facts.set(PageFacts::WATCHED, watched);
    facts.set(PageFacts::SOFT_DIRTY, !tracked || present && !marked(Flags::SOFT_CLEAN));
    facts.set(PageFacts::WRITTEN, !watched || present && !marked(Flags::WRITE_WATCHED));
    if present {
        let own = is_own(entry, size);
        let zero = is_zero_page(entry);
        facts.insert(PageFacts::PRESENT);
        facts.set(PageFacts::OWN, own);
        facts.set(PageFacts::ZERO, zero);
        facts.set(PageFacts::LARGE, size != PageSize::Size4K);
        let object = area.backing.part.is_some();
        facts.set(PageFacts::FROM_OBJECT, object && (area.flags.contains(AreaFlags::SHARED) || !own) && !zero);
    }
    facts
}

impl AddressSpace {
    /// Calls `tell` with runs of pages, mapped or not, of all areas in a range, in order. `tell` runs with the areas locked: it must not
    /// touch the program's memory.
    pub fn page_facts(&self, range: Range<VirtAddr>, mut tell: impl FnMut(Range<VirtAddr>, PageFacts)) {
        let areas = self.areas.read();
        let _all = self.walk(&areas, &range, &mut |run, _, facts| {
            tell(run, facts);
            ControlFlow::Continue(())
        });
    }

    fn walk(&self, areas: &Areas, range: &Range<VirtAddr>, tell: &mut dyn FnMut(Range<VirtAddr>, PageSize, PageFacts) -> ControlFlow<()>) -> ControlFlow<()> {
        for area in areas.map.overlapping(range.start, range.end) {
            let (from, to) = (area.start.max(range.start), area.end.min(range.end));
            let hole = facts(area, Entry::EMPTY, PageSize::Size4K);
            let mut at = from;
            if area.backing.is_touched() {
                self.tables.visit_range(from, to, &mut |va, entry, size| {
                    if !entry.has_page() {
                        return ControlFlow::Continue(());
                    }
                    let (first, last) = (va.max(from), (va + size.bytes()).min(to));
                    if at < first {
                        tell(at..first, PageSize::Size4K, hole)?;
                    }
                    at = last;
                    tell(first..last, size, facts(area, entry, size))
                })?;
            }
            if at < to {
                tell(at..to, PageSize::Size4K, hole)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells `judge` of the pages of a range, as [`AddressSpace::page_facts`] does, and watches those of interest if that is wanted and their
    /// area permits it: what `judge` was told of them and that they are watched from then on is one step for all who write to them.
    ///
    /// # Errors
    /// `ENOMEM` (a large page could not be split).
    pub fn scan(&self, range: Range<VirtAddr>, watch: Watch, judge: &mut dyn FnMut(Range<VirtAddr>, PageFacts) -> Verdict) -> Result<(), Errno> {
        let areas = self.areas.read();
        if watch == Watch::Not {
            let _ended = self.walk(&areas, &range, &mut |run, _, facts| judge(run, facts).next);
            return Ok(());
        }
        let areas = areas.keep_out(range.start.0..range.end.0);
        let (mut result, mut watched) = (Ok(()), false);
        let _ended = self.walk(&areas, &range, &mut |run, size, facts| {
            let verdict = judge(run.clone(), facts);
            if verdict.matching != 0 && facts.contains(PageFacts::WATCHED | PageFacts::PRESENT) {
                watched = true;
                result = self.watch_pages(run.start..run.start + verdict.matching * PAGE, size);
                if result.is_err() {
                    return ControlFlow::Break(());
                }
            }
            verdict.next
        });
        if watched {
            self.flush(range.start, range.end, Freed::PagesOnly);
        }
        result
    }

    /// Marks pages, of one entry of `size`, as watched. The caller has them to itself, and flushes.
    fn watch_pages(&self, range: Range<VirtAddr>, size: PageSize) -> Result<(), Errno> {
        if size != PageSize::Size4K {
            for border in [range.start, range.end] {
                let mut flush = |from, to| self.flush(from, to, Freed::PagesOnly);
                self.tables.split_at(border, &mut flush).map_err(|_| Errno::ENOMEM)?;
            }
        }
        let mark = |_, entry: Entry, _| if entry.has_page() { entry.with_flags((entry.flags() | Flags::WRITE_WATCHED) - Flags::WRITABLE) } else { entry };
        let _never_fails = self.tables.update_range(range.start, range.end, mark);
        Ok(())
    }

    /// Lets the pages of a range be watched by [`AddressSpace::scan`] and [`AddressSpace::protect_watched`], or no longer.
    ///
    /// # Errors
    /// `EINVAL` (nothing is mapped there), `ENOMEM` (too many areas).
    pub fn set_watched(&self, range: Range<VirtAddr>, watched: Watched) -> Result<(), Errno> {
        let mut areas = self.areas.write();
        // Pages of MAP_HUGETLB cannot be split.
        if areas.map.is_free(range.start, range.end) || areas.map.overlapping(range.start, range.end).any(has_explicit) {
            return Err(Errno::EINVAL);
        }
        self.cut(&mut areas, range.start, range.end)?;
        areas.map.modify(range.start, range.end, |area| area.flags.set(AreaFlags::WATCHED, watched == Watched::Yes));
        Ok(())
    }

    /// Watches the pages of a range, all of which lets itself be watched, or makes them count as written.
    ///
    /// # Errors
    /// `ENOENT` (it does not), `ENOMEM` (a large page could not be split).
    pub fn protect_watched(&self, range: Range<VirtAddr>, watched: Watched) -> Result<(), Errno> {
        let areas = self.areas.read();
        let refused = |area: &Area<AreaBacking>| !area.flags.contains(AreaFlags::WATCHED);
        if !areas.map.is_covered(range.start, range.end) || areas.map.overlapping(range.start, range.end).any(refused) {
            return Err(Errno::ENOENT);
        }
        let _ours = areas.keep_out(range.start.0..range.end.0);
        for border in [range.start, range.end] {
            let mut flush = |from, to| self.flush(from, to, Freed::PagesOnly);
            self.tables.split_at(border, &mut flush).map_err(|_| Errno::ENOMEM)?;
        }
        let _never_fails = self.tables.update_range(range.start, range.end, |_, entry, _| match watched {
            _ if !entry.has_page() => entry,
            Watched::Yes => entry.with_flags((entry.flags() | Flags::WRITE_WATCHED) - Flags::WRITABLE),
            Watched::No => entry.with_flags(entry.flags() - Flags::WRITE_WATCHED),
        });
        self.flush(range.start, range.end, Freed::PagesOnly);
        Ok(())
    }

    /// Forgets whether pages were written, or used.
    pub fn clear_refs(&self, what: ClearRefs) {
        match what {
            ClearRefs::PeakResident => self.peak.store(self.resident.load(Ordering::Relaxed), Ordering::Relaxed),
            ClearRefs::SoftDirty => {
                let mut areas = self.areas.write();
                areas.map.modify(VirtAddr(0), VirtAddr(layout::USER_MAX), |area| area.flags.insert(AreaFlags::TRACKED));
                self.mark_all(&areas, |_| true, |flags| (flags | Flags::SOFT_CLEAN) - Flags::WRITABLE);
            }
            ClearRefs::All | ClearRefs::Anonymous | ClearRefs::Mapped => {
                let areas = self.areas.write();
                let concerned = |area: &Area<AreaBacking>| what == ClearRefs::All || area.backing.part.is_some() == (what == ClearRefs::Mapped);
                self.mark_all(&areas, concerned, |flags| flags - Flags::ACCESSED);
            }
        }
    }

    /// Changes the flags of all pages of some areas, and flushes. The caller has everything to itself.
    fn mark_all(&self, areas: &Areas, concerned: impl Fn(&Area<AreaBacking>) -> bool, change: impl Fn(Flags) -> Flags) {
        for area in areas.map.iter().filter(|area| area.backing.is_touched() && concerned(area)) {
            // No large page lies across a border: none is split here, so it cannot fail.
            let _never_fails = self.tables.update_range(area.start, area.end, |_, entry, _| {
                if entry.is_present() { entry.with_flags(change(entry.flags())) } else { entry }
            });
        }
        self.flush(VirtAddr(layout::USER_MIN), VirtAddr(layout::USER_MAX), Freed::PagesOnly);
    }

    /// The lowest area that ends above `addr`, and what it uses.
    #[must_use]
    pub fn usage_from(&self, addr: VirtAddr) -> Option<AreaUsage> {
        let areas = self.areas.read();
        let area = areas.map.find_from(addr)?;
        let mut usage = Usage::default();
        if area.backing.is_touched() {
            let _all = self.tables.visit_range(area.start, area.end, &mut |_, entry, size| {
                if entry.has_page() && !is_zero_page(entry) {
                    usage.count(area, entry, size);
                }
                ControlFlow::Continue(())
            });
        }
        let large = |at: VirtAddr| self.large_place(area, at).is_some();
        let may_have_large_pages = large((area.end - 1).max(area.start)) || large(area.start.align_up(super::huge::LARGE));
        Some(AreaUsage { area: describe(area), usage, may_have_large_pages })
    }
}
