//! [`AddressSpace`]: what a program sees of memory.
//!
//! Two structures say what is mapped: the areas (`vma` crate: what *should* be there) and the page tables (what *is* there so far).
//! Pages come at the first touch (`fault.rs`).
//!
//! **Theory.** `areas` is a [`RangeLock`] over both. Who changes areas, removes or protects pages, or moves them, has its *turn* and the
//! range *to itself*, flushes the TLBs before giving it up, and frees frames and tables only after the flush. A page fault *holds the block*
//! of 2 MiB around its address, so that it meets no change of entries there (neighbours that it fills and large pages lie in the same
//! block), and works with a copy of the area that it found; the structure may change meanwhile. Faults run in parallel and
//! change single entries with compare-exchange from what they saw:
//!
//! - empty → page: no translation is cached for an empty entry, so nothing is flushed. The loser of a race drops its frame.
//! - read-only → writable, same frame (a private page that nobody shares any more): no flush either; a stale read-only translation
//!   only costs another CPU a fault that finds nothing to do.
//! - page → other page (copy on write): while any CPU may still read the old page, no CPU may write the new one. So the entry goes
//!   to `BUSY` (not present), the TLBs are flushed, then the new page is set. Whoever meets `BUSY` sleeps on the page's lock
//!   (`replacing`), which the replacing thread holds from before `BUSY` until after the new entry.
//!
//! - table ↔ large page, and large page → table, also by way of `BUSY`: see `huge.rs`. Large pages never lie in two areas.
//!
//! Tables are freed where no area is left: [`AddressSpace::remove_pages`] gets the *room* between the areas around what was removed, and frees
//! the tables that lie in it as a whole. A fault's block may share a table with the removed range, but then its area is there, too, and the
//! table is not in the room. Without an area a fault walks no table.
//!
//! Pages that a file loses leave the spaces that map it: see [`frame::Mappers`] and `truncate.rs`.
//!
//! Lock order: `areas`, then `replacing`, then what a [`frame::Mappable`] takes inside. Objects are dropped outside `areas`, as their drop
//! may do anything.
//!
//! Neighbours: `linux/src/sys/mm.rs` translates system calls to these methods, `kernel/src/trap.rs` calls [`AddressSpace::handle_fault`].

mod advise;
mod backing;
mod change;
mod explicit;
mod fault;
mod fork;
mod guard;
mod huge;
mod info;
mod large_memory;
mod lazy;
mod lock;
mod map;
mod pool;
mod remap;
mod track;
mod truncate;
mod zero;

use crate::personality::Part;
use crate::percpu;
use crate::tlb::{self, Freed};
use super::kernel_space::{Tables, new_tree, retire_root};
use addr::{PAGE_SIZE, PhysAddr, VirtAddr, layout};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use linux_abi::Errno;
use page_table::{Entry, Flags, PageTable};
use range_lock::{Block, RangeLock};
use sync::{Mutex, OnceCell};
use vma::AreaMap;

pub use advise::Advice;
pub use backing::{Backing, MapFlags, MapRequest, Name, Placement, Sharing};
pub use fault::{Access, FaultError};
pub use explicit::{ExplicitPages, explicit_pages, has_huge_pages};
pub use huge::{LargePageCounts, LargePages, LargePagesOff, large_page_counts};
pub use info::{SharedKey, VmaInfo};
pub use large_memory::LargeMemory;
pub use lock::Lock;
pub use pool::set_explicit_pool;
pub use remap::{RemapRequest, RemapTarget};
pub use track::{AreaUsage, ClearRefs, PageFacts, Usage, Verdict, Watch, Watched};
pub use page_table::PageSize;
pub use vma::{AreaFlags, Prot};

use backing::AreaBacking;

const PAGE: u64 = PAGE_SIZE as u64;
/// `vm.max_map_count`: how many areas a space may have; Linux's default.
static MAX_AREAS: AtomicUsize = AtomicUsize::new(65530);
const REPLACE_LOCKS: usize = 16;
/// What a fault keeps to itself and its like: 2 MiB.
const BLOCK_SHIFT: u32 = 21;

/// How many areas an address space may have.
#[must_use]
pub fn max_areas() -> usize {
    MAX_AREAS.load(Ordering::Relaxed)
}

/// Changes how many areas an address space may have; spaces with more keep what they have.
pub fn set_max_areas(most: usize) {
    MAX_AREAS.store(most, Ordering::Relaxed);
}

type Held<'a> = range_lock::Held<'a, Areas>;

/// The low half of a page-table tree and what belongs there. The upper half is the kernel's, the same in all spaces.
pub struct AddressSpace {
    /// For the lists of those who map an object.
    this: Weak<Self>,
    tables: PageTable<Tables>,
    areas: RangeLock<Areas>,
    replacing: [Mutex<()>; REPLACE_LOCKS],
    /// Pages mapped, but for the zero page.
    resident: AtomicI64,
    peak: AtomicI64,
    /// `RLIMIT_STACK`: how long a growing area may become.
    stack_limit: AtomicU64,
    /// `RLIMIT_AS`: how many bytes all areas together may have.
    size_limit: AtomicU64,
    /// `RLIMIT_DATA`: how many bytes of private memory that can be written to it may have.
    data_limit: AtomicU64,
    large_pages_off: AtomicBool,
    personality: OnceCell<Part>,
    /// It is on the list of spaces with pages that were given up.
    lazy_listed: AtomicBool,
}

/// What the lock guards besides the tables.
struct Areas {
    map: AreaMap<AreaBacking>,
    /// Where the heap begins; zero when the program has none.
    brk_start: VirtAddr,
    brk: VirtAddr,
    /// Mappings without a hint go below this.
    mmap_base: VirtAddr,
    /// How later mappings are locked.
    lock_future: Lock,
}

impl AddressSpace {
    /// An empty space.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>, Errno> {
        let tables = new_tree().map_err(|_| Errno::ENOMEM)?;
        // 128 MiB for the stack at the top, as Linux keeps at least.
        let mmap_base = VirtAddr(layout::USER_MAX - (128 << 20)).align_down(PAGE);
        let none = VirtAddr(0);
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            tables,
            areas: RangeLock::new(Areas { map: AreaMap::new(), brk_start: none, brk: none, mmap_base, lock_future: Lock::Unlock }, percpu::cpu_count()),
            replacing: [const { Mutex::new(()) }; REPLACE_LOCKS],
            resident: AtomicI64::new(0),
            peak: AtomicI64::new(0),
            stack_limit: AtomicU64::new(8 << 20),
            size_limit: AtomicU64::new(u64::MAX),
            data_limit: AtomicU64::new(u64::MAX),
            large_pages_off: AtomicBool::new(false),
            personality: OnceCell::new(),
            lazy_listed: AtomicBool::new(false),
        }))
    }

    /// Has the space carry something of the personality's, once.
    pub fn set_personality<T: Any + Send + Sync>(&self, part: T) {
        let _first = self.personality.set(Part::of(Box::new(part)));
    }

    /// What [`AddressSpace::set_personality`] was given, if it is a `T`.
    #[must_use]
    pub fn personality<T: Any>(&self) -> Option<&T> {
        self.personality.get()?.get()
    }

    /// The value for CR3. A CPU may leave it loaded while it runs kernel threads, even after the space is gone.
    #[must_use]
    pub const fn cr3(&self) -> PhysAddr {
        self.tables.root()
    }

    /// Sets the address below which mappings without a hint go (address-space randomisation: by exec, before the first mapping).
    pub fn set_mmap_base(&self, base: VirtAddr) {
        self.areas.write().mmap_base = base.align_down(PAGE);
    }

    /// Sets how many bytes a growing stack may have (`RLIMIT_STACK`).
    pub fn set_stack_limit(&self, bytes: u64) {
        self.stack_limit.store(bytes, Ordering::Relaxed);
    }

    /// Sets how many bytes all mappings together may have (`RLIMIT_AS`). What there is stays.
    pub fn set_size_limit(&self, bytes: u64) {
        self.size_limit.store(bytes, Ordering::Relaxed);
    }

    /// Sets how many bytes of private memory that can be written to there may be, but for stacks (`RLIMIT_DATA`). What there is stays.
    pub fn set_data_limit(&self, bytes: u64) {
        self.data_limit.store(bytes, Ordering::Relaxed);
    }

    fn limits_data(&self) -> bool {
        self.data_limit.load(Ordering::Relaxed) != u64::MAX
    }

    /// Fails where `more` bytes of such memory, but for what is there in `instead_of`, would be more than allowed. Counts only where there is a limit.
    #[inline(always)]
    fn check_data(&self, areas: &Areas, more: u64, instead_of: Range<VirtAddr>) -> Result<(), Errno> {
        if self.limits_data() { self.count_data(areas, more, instead_of) } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn count_data(&self, areas: &Areas, more: u64, instead_of: Range<VirtAddr>) -> Result<(), Errno> {
        let limit = self.data_limit.load(Ordering::Relaxed);
        if more == 0 {
            return Ok(());
        }
        let data = |start, end| -> u64 {
            let counted = areas.map.overlapping(start, end).filter(|area| is_data(area.prot, area.flags));
            counted.map(|area| area.end.min(end) - area.start.max(start)).sum()
        };
        let all = data(VirtAddr(0), VirtAddr(layout::USER_MAX)) - data(instead_of.start, instead_of.end);
        if all.saturating_add(more) <= limit { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Fails where `more` bytes in areas, but for what is there in `instead_of`, would be more than allowed.
    #[inline(always)]
    fn check_size(&self, areas: &Areas, more: u64, instead_of: Range<VirtAddr>) -> Result<(), Errno> {
        if self.size_limit.load(Ordering::Relaxed) == u64::MAX { Ok(()) } else { self.count_size(areas, more, instead_of) }
    }

    #[cold]
    #[inline(never)]
    fn count_size(&self, areas: &Areas, more: u64, instead_of: Range<VirtAddr>) -> Result<(), Errno> {
        let limit = self.size_limit.load(Ordering::Relaxed);
        let Range { start, end } = instead_of;
        let replaced: u64 = areas.map.overlapping(start, end).map(|area| area.end.min(end) - area.start.max(start)).sum();
        if (areas.map.bytes() - replaced).saturating_add(more) <= limit { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Looks at the areas, and then holds the block around `addr`.
    fn enter<R>(&self, addr: VirtAddr, look: impl FnOnce(&Areas) -> R) -> (R, Held<'_>) {
        self.areas.enter(percpu::cpu_id(), Block::around(addr.0, BLOCK_SHIFT), look)
    }

    /// Makes all CPUs forget translations of a range, after entries were changed.
    fn flush(&self, start: VirtAddr, end: VirtAddr, freed: Freed) {
        tlb::shootdown_in(Some(self.cr3()), start, end, freed);
    }

    /// Counts pages that came or went. The peak is looked for when pages go, and when somebody asks.
    fn count_resident(&self, pages: i64) {
        let before = self.resident.fetch_add(pages, Ordering::Relaxed);
        if pages < 0 {
            self.peak.fetch_max(before, Ordering::Relaxed);
        }
    }
}

impl Drop for AddressSpace {
    /// Context: may sleep.
    fn drop(&mut self) {
        self.leave_lazy_list();
        // CPUs that now run kernel threads may still have these tables loaded, so this flushes like any other unmapping.
        self.remove_pages(VirtAddr(0), VirtAddr(layout::USER_MAX), &(VirtAddr(0)..VirtAddr(u64::MAX)));
        retire_root(self.tables.root());
    }
}

/// Whether an area counts as data: private, can be written to, no stack.
fn is_data(prot: Prot, flags: AreaFlags) -> bool {
    prot.contains(Prot::WRITE) && !flags.intersects(AreaFlags::SHARED | AreaFlags::GROWS_DOWN)
}

/// Flags of the entry of a page. `WRITABLE` only when `prot` has it and the page may be written in place.
fn leaf_flags(prot: Prot, in_place: InPlace) -> Flags {
    let mut flags = Flags::PRESENT | Flags::ACCESSED;
    if prot.is_empty() {
        return Flags::RESIDENT | Flags::NO_EXECUTE;
    }
    if !prot.contains(Prot::EXEC) {
        flags |= Flags::NO_EXECUTE;
    }
    if prot.contains(Prot::WRITE) && in_place == InPlace::Writable {
        flags |= Flags::WRITABLE | Flags::DIRTY;
    }
    flags
}

/// Whether a page may be written where it is, or is somebody else's, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InPlace {
    Writable,
    CopyFirst,
}

/// Whether going from one entry to another takes a right away, so that cached translations must go.
fn takes_rights(old: Entry, new: Entry) -> bool {
    let (old, new) = (old.flags(), new.flags());
    let lost = |flag| old.contains(flag) && !new.contains(flag);
    old.contains(Flags::PRESENT) && (lost(Flags::PRESENT) || lost(Flags::WRITABLE) || (new - old).contains(Flags::NO_EXECUTE))
}
