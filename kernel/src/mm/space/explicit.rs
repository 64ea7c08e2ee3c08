//! `MAP_HUGETLB`: mappings of 2 MiB or 1 GiB pages that the program asked for as such.
//!
//! The pages come from the pool that somebody filled beforehand (`pool.rs`), or else from the ordinary allocator, when the mapping is made,
//! all of them, so that a touch never lacks one. In Linux's words the limit for surplus pages is the memory. They are cleared when
//! they are first touched: until then the entry is not present and says so ([`Flags::UNTOUCHED`]). With `MAP_NORESERVE` they come at the
//! touch, and a touch that gets none is SIGBUS.
//!
//! Such a page is never split ([`Flags::EXPLICIT`]): what would cut one is `EINVAL`, and `fork` has it copied whole at the first write. Shared
//! ones, and those of files, belong to a [`LargeMemory`], which has them set aside and cleared.
//!
//! First touch of a page: untouched → present, by the thread that holds the lock of busy entries (`replacing`); others wait for
//! that. Nothing is flushed, as nothing was present.

use super::backing::{AreaBacking, ObjectPart};
use super::fault::{Access, FaultError, Step};
use super::large_memory::LargeMemory;
use super::pool;
use super::zero::{block_of, borrow_block, is_own};
use super::{AddressSpace, Areas, Backing, InPlace, MapFlags, MapRequest, PAGE, leaf_flags};
use crate::mm::block::Block;
use crate::mm::kernel_space;
use crate::tlb::Freed;
use addr::{PhysAddr, VirtAddr};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, Ordering};
use linux_abi::Errno;
use page_table::{Entry, Flags, MapError, PageSize};
use vma::{Area, AreaFlags};

/// Pages of one size that somebody has asked for by name. A private page that processes share after `fork` counts for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExplicitPages {
    /// All, in mappings, objects and the pool.
    pub total: u64,
    /// In mappings and objects, and not touched yet.
    pub untouched: u64,
    /// In the pool.
    pub pooled: u64,
    /// More than were set aside.
    pub surplus: u64,
}

struct Counts {
    total: AtomicI64,
    untouched: AtomicI64,
}

static COUNTS: [Counts; 2] = [const { Counts { total: AtomicI64::new(0), untouched: AtomicI64::new(0) } }; 2];

fn counts(size: PageSize) -> &'static Counts {
    &COUNTS[usize::from(size == PageSize::Size1G)]
}

/// How many pages of a size there are by name.
#[must_use]
pub fn explicit_pages(size: PageSize) -> ExplicitPages {
    let get = |count: &AtomicI64| u64::try_from(count.load(Ordering::Relaxed)).unwrap_or(0);
    let (pooled, kept) = pool::counts(size);
    let total = get(&counts(size).total) + pooled;
    ExplicitPages { total, untouched: get(&counts(size).untouched), pooled, surplus: total.saturating_sub(kept) }
}

/// Pages of a size in mappings and objects.
pub(super) fn explicit_in_use(size: PageSize) -> u64 {
    u64::try_from(counts(size).total.load(Ordering::Relaxed)).unwrap_or(0)
}

/// Whether the processor has pages of 1 GiB.
#[must_use]
pub fn has_huge_pages() -> bool {
    kernel_space::largest_page() == PageSize::Size1G
}

impl MapRequest {
    /// Size of the pages that were asked for, or that the object has.
    pub(super) fn page_size(&self) -> PageSize {
        if let Backing::File { object, .. } = &self.backing {
            return LargeMemory::of(&**object).map_or(PageSize::Size4K, LargeMemory::size_of_pages);
        }
        if self.flags.contains(MapFlags::PAGES_1G) {
            PageSize::Size1G
        } else if self.flags.contains(MapFlags::PAGES_2M) {
            PageSize::Size2M
        } else {
            PageSize::Size4K
        }
    }
}

/// Size of an area's pages as far as it was asked for.
pub(super) const fn size_in(area: &Area<AreaBacking>) -> PageSize {
    if area.flags.contains(AreaFlags::PAGES_1G) {
        PageSize::Size1G
    } else if area.flags.contains(AreaFlags::PAGES_2M) {
        PageSize::Size2M
    } else {
        PageSize::Size4K
    }
}

const fn is_untouched(entry: Entry) -> bool {
    entry.flags().contains(Flags::UNTOUCHED)
}

/// Whether the entry is one of a page of `MAP_HUGETLB`.
pub(super) const fn is_explicit(entry: Entry) -> bool {
    entry.flags().contains(Flags::EXPLICIT)
}

/// The entry with the rights in `flags`, as far as its page's marks permit. Pages that nobody has touched stay invisible, and guards guards.
#[inline]
pub(super) const fn with_rights(entry: Entry, flags: Flags) -> Entry {
    const MARKS: Flags = Flags::SOFT_CLEAN.union(Flags::WRITE_WATCHED).union(Flags::LAZY_FREE).union(Flags::EXPLICIT).union(Flags::OBJECT);
    let old = entry.flags();
    if old.intersects(MARKS.union(Flags::UNTOUCHED).union(Flags::GUARD)) {
        return with_rights_and_marks(entry, flags, old.intersection(MARKS));
    }
    entry.with_flags(flags)
}

const fn with_rights_and_marks(entry: Entry, flags: Flags, kept: Flags) -> Entry {
    let old = entry.flags();
    if old.intersects(Flags::UNTOUCHED.union(Flags::GUARD)) {
        return entry;
    }
    let mut flags = flags.union(kept);
    if kept.intersects(Flags::SOFT_CLEAN.union(Flags::WRITE_WATCHED)) {
        flags = flags.difference(Flags::WRITABLE);
    }
    if kept.contains(Flags::LAZY_FREE) {
        flags = flags.difference(Flags::DIRTY).union(old.intersection(Flags::DIRTY));
    }
    entry.with_flags(flags)
}

/// Notes that an entry of an explicit page came or (`-1`) went. Objects count their pages themselves.
pub(super) fn count_entry(entry: Entry, size: PageSize, change: i64) {
    if is_explicit(entry) && !entry.flags().contains(Flags::OBJECT) {
        count_page(size, is_untouched(entry), change);
    }
}

/// Notes that a page came or (`-1`) went.
pub(super) fn count_page(size: PageSize, untouched: bool, change: i64) {
    counts(size).total.fetch_add(change, Ordering::Relaxed);
    if untouched {
        counts(size).untouched.fetch_add(change, Ordering::Relaxed);
    }
}

/// Notes that a page was touched for the first time.
pub(super) fn count_touch(size: PageSize) {
    counts(size).untouched.fetch_sub(1, Ordering::Relaxed);
}

/// Pages that were set aside for a mapping.
pub(super) struct SetAside {
    blocks: Vec<Block>,
    size: PageSize,
}

impl SetAside {
    /// The pages of a request of `len` bytes; none if it is not for explicit pages of its own, or does not reserve them.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn for_request(request: &MapRequest, len: u64) -> Result<Self, Errno> {
        let size = request.page_size();
        let mut blocks = Vec::new();
        let own = matches!(request.backing, Backing::Anonymous);
        if own && size != PageSize::Size4K && !request.flags.contains(MapFlags::NO_RESERVE) {
            let count = len / size.bytes();
            blocks.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
            for _ in 0..count {
                let Ok(block) = pool::take(size) else {
                    drop(Self { blocks, size });
                    return Err(Errno::ENOMEM);
                };
                blocks.push(block);
            }
        }
        Ok(Self { blocks, size })
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        self.blocks.drain(..).for_each(|block| pool::give_back(block, self.size));
    }
}

impl AddressSpace {
    /// Puts the pages that were set aside into a new mapping at `start`.
    ///
    /// # Errors
    /// `ENOMEM` (no memory for tables).
    pub(super) fn install_set_aside(&self, start: VirtAddr, mut pages: SetAside) -> Result<(), Errno> {
        // A turn keeps changes away; faults may come first here and there, which is as good.
        let areas = self.areas.read();
        let mut va = start;
        let size = pages.size;
        // In any order: one like the other.
        while let Some(block) = pages.blocks.pop() {
            let still_ours = areas.map.find(va).is_some_and(|area| size_in(area) == size);
            let entry = Entry::new(block.phys(), Flags::RESIDENT | Flags::UNTOUCHED | Flags::EXPLICIT | Flags::NO_EXECUTE);
            match still_ours.then(|| self.tables.map_if_empty(va, entry, size)) {
                Some(Ok(())) => {
                    let _held_by_entry: PhysAddr = block.into_raw();
                    count_entry(entry, size, 1);
                }
                Some(Err(MapError::OutOfTables)) => {
                    pages.blocks.push(block);
                    return Err(Errno::ENOMEM);
                }
                Some(Err(MapError::Occupied(_))) | None => pool::give_back(block, size),
            }
            va = va + size.bytes();
        }
        Ok(())
    }

    /// A fault in an area of explicit pages; `entry` of `size` is what the tables have there.
    pub(super) fn resolve_explicit(&self, area: &Area<AreaBacking>, va: VirtAddr, access: Access, found: (Entry, PageSize)) -> Result<Step, FaultError> {
        let ((entry, _), size) = (found, size_in(area));
        let start = va.align_down(size.bytes());
        if start < area.start || area.end - start < size.bytes() {
            return Err(FaultError::BusError);
        }
        if entry.is_empty() {
            return match &area.backing.part {
                Some(part) => self.fill_from_large(area, part, start, size),
                None => self.fill_explicit(area, start, size),
            };
        }
        if entry == Entry::BUSY || is_untouched(entry) {
            let _replacing = self.replace_lock(start, size).lock();
            let (entry, _) = self.tables.lookup(start);
            return Ok(if is_untouched(entry) { self.touch(area, start, entry, size) } else { Step::Again });
        }
        if access != Access::Write || entry.is_writable() {
            return Ok(Step::Done);
        }
        if area.flags.contains(AreaFlags::SHARED) || is_own(entry, size) {
            return Ok(self.exchange(start, size, entry, shown(area, entry)));
        }
        self.copy_explicit(area, start, entry, size)
    }

    /// A page that was not reserved.
    fn fill_explicit(&self, area: &Area<AreaBacking>, start: VirtAddr, size: PageSize) -> Result<Step, FaultError> {
        let mut block = pool::take(size).map_err(|_| FaultError::BusError)?;
        block.clear();
        let entry = Entry::new(block.phys(), leaf_flags(area.prot, InPlace::Writable) | Flags::EXPLICIT);
        match self.tables.map_if_empty(start, entry, size) {
            Ok(()) => {
                let _held_by_entry: PhysAddr = block.into_raw();
                count_entry(entry, size, 1);
                Ok(Step::Done)
            }
            Err(error) => {
                pool::give_back(block, size);
                if error == MapError::OutOfTables { Err(FaultError::OutOfMemory) } else { Ok(Step::Again) }
            }
        }
    }

    /// A page of an object: of a private mapping it is copied before the first write.
    fn fill_from_large(&self, area: &Area<AreaBacking>, part: &ObjectPart, start: VirtAddr, size: PageSize) -> Result<Step, FaultError> {
        let memory = LargeMemory::of(&*part.object).ok_or(FaultError::BusError)?;
        let block = memory.page((part.offset + (start - area.start)) / size.bytes()).map_err(|_| FaultError::BusError)?;
        let in_place = if area.flags.contains(AreaFlags::SHARED) { InPlace::Writable } else { InPlace::CopyFirst };
        let entry = Entry::new(block.phys(), leaf_flags(area.prot, in_place) | Flags::EXPLICIT | Flags::OBJECT);
        match self.tables.map_if_empty(start, entry, size) {
            Ok(()) => {
                let _held_by_entry: PhysAddr = block.into_raw();
                Ok(Step::Again)
            }
            Err(MapError::OutOfTables) => Err(FaultError::OutOfMemory),
            Err(MapError::Occupied(_)) => Ok(Step::Again),
        }
    }

    /// First touch of a page that was set aside. The caller has the lock of its entry.
    fn touch(&self, area: &Area<AreaBacking>, start: VirtAddr, entry: Entry, size: PageSize) -> Step {
        borrow_block(entry, size).clear();
        let step = self.exchange(start, size, entry, shown(area, entry));
        if matches!(step, Step::Done) {
            count_touch(size);
        }
        step
    }

    /// Copy on write of a whole page. See the theory statement in `mod.rs`.
    pub(super) fn copy_explicit(&self, area: &Area<AreaBacking>, start: VirtAddr, old: Entry, size: PageSize) -> Result<Step, FaultError> {
        let _replacing = self.replace_lock(start, size).lock();
        let mut fresh = pool::take(size).map_err(|_| FaultError::BusError)?;
        if self.tables.compare_exchange(start, size, old, Entry::BUSY).is_err() {
            pool::give_back(fresh, size);
            return Ok(Step::Again);
        }
        self.flush(start, start + size.bytes(), Freed::PagesOnly);
        fresh.copy_from(&borrow_block(old, size));
        let new = shown(area, Entry::new(fresh.phys(), Flags::EXPLICIT));
        let set = self.tables.compare_exchange(start, size, Entry::BUSY, new);
        debug_assert!(set.is_ok(), "nobody replaces a busy entry");
        let _held_by_entry: PhysAddr = fresh.into_raw();
        count_entry(new, size, 1);
        count_entry(old, size, -1);
        drop(block_of(old, size));
        Ok(Step::Done)
    }
}

/// The entry of a page, with all rights.
fn shown(area: &Area<AreaBacking>, entry: Entry) -> Entry {
    entry.with_flags(leaf_flags(area.prot, InPlace::Writable) | Flags::EXPLICIT | entry.flags() & Flags::OBJECT)
}

/// Whether an area has explicit pages.
pub(super) const fn has_explicit(area: &Area<AreaBacking>) -> bool {
    area.flags.intersects(AreaFlags::PAGES_2M.union(AreaFlags::PAGES_1G))
}

impl Areas {
    /// A place for `len` bytes of pages of `size`, as near to the hint as may be.
    pub(super) fn place_explicit(&mut self, hint: VirtAddr, len: u64, size: PageSize) -> Option<VirtAddr> {
        let aligned = hint.align_up(size.bytes());
        let free = hint.0 != 0 && aligned.0.checked_add(len).is_some_and(|end| end <= addr::layout::USER_MAX && self.map.is_placeable(aligned, VirtAddr(end)));
        if free {
            return Some(aligned);
        }
        let base = self.mmap_base;
        let roomy = self.map.place(VirtAddr(0), len + size.bytes() - PAGE, vma::place::Window::Anywhere, base)?;
        Some((roomy + (size.bytes() - PAGE)).align_down(size.bytes()))
    }
}
