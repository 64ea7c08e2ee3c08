//! The kernel's page tables: direct map, kernel image, and the kernel virtual area with device memory and stacks.
//!
//! Every address space shares the upper half by copying the top entries of the root table. All root entries that the kernel ever
//! uses (direct map, first 512 GiB of the kernel virtual area, image) exist after [`init`], so later mappings show up everywhere.
//!
//! Locking: [`AREA`] guards the free addresses of the kernel virtual area *and* all changes to its tables.
#![expect(unsafe_code, reason = "page tables and raw stacks")]

use super::boot::{BootCell, Frames};
use super::frames::{self, Pool};
use super::gather::{Gather, Item};
use crate::tlb::{self, Freed};
use crate::torture;
use addr::{PAGE_SIZE, PhysAddr, VirtAddr, layout};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use arch_x86_64::paging;
use core::arch::x86_64::__cpuid;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};
use frame::OutOfMemory;
use page_table::{Entry, Flags, OutOfTables, PageSize, PageTable, Removed, Table, TableSource};
use sync::Mutex;

static KERNEL: BootCell<PageTable<Tables>> = BootCell::new();
static TABLE_FRAMES: AtomicU64 = AtomicU64::new(0);
static STACK_FRAMES: AtomicU64 = AtomicU64::new(0);

/// Frames in use as page tables.
pub(super) fn table_frames() -> u64 {
    TABLE_FRAMES.load(Ordering::Relaxed)
}

/// Frames in use as kernel stacks, unused ones in stock included.
pub(super) fn stack_frames() -> u64 {
    STACK_FRAMES.load(Ordering::Relaxed)
}

/// Tables in the direct map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables(pub(super) Pool);

// SAFETY: frames come zeroed from the frame allocator, and the direct map reaches them all.
unsafe impl TableSource for Tables {
    fn alloc_table(&self) -> Option<PhysAddr> {
        alloc_table(self.0)
    }

    fn alloc_split_table(&self) -> Option<PhysAddr> {
        alloc_table(Pool::Kernel)
    }

    fn free_table(&self, table: PhysAddr) {
        TABLE_FRAMES.fetch_sub(1, Ordering::Relaxed);
        frames::free_frame(table.frame_number());
    }

    fn table(&self, table: PhysAddr) -> *const Table {
        table.to_virt().as_ptr()
    }
}

fn alloc_table(pool: Pool) -> Option<PhysAddr> {
    let frame = frames::alloc_zeroed(0, pool)?;
    TABLE_FRAMES.fetch_add(1, Ordering::Relaxed);
    Some(frames::address(frame))
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __kernel_end: u8;
}

fn kernel() -> &'static PageTable<Tables> {
    KERNEL.get().expect("mm::init has run")
}

/// Root of the kernel's own tables: for CPUs that start, and for kernel threads without an address space.
#[must_use]
pub fn kernel_cr3() -> PhysAddr {
    kernel().root()
}

/// Root tables of spaces that are gone.
static ROOTS: Mutex<Vec<PhysAddr>> = Mutex::new(Vec::new());

/// A tree with nothing in its lower half and the kernel in its upper one.
pub(super) fn new_tree() -> Result<PageTable<Tables>, OutOfTables> {
    let tables = Tables(Pool::Program);
    if let Some(root) = ROOTS.lock().pop() {
        // SAFETY: `retire_root` put it there: a complete root with an empty lower half.
        return Ok(unsafe { PageTable::from_root(root, tables) });
    }
    let tree = PageTable::new(tables)?;
    for index in 256..512 {
        let entry = kernel().root_entry(index);
        if !entry.is_empty() {
            tree.set_root_entry(index, entry);
        }
    }
    Ok(tree)
}

/// Keeps the root of a tree, whose lower half is empty and flushed, for the next space. Roots are never freed: a CPU that runs a
/// kernel thread keeps whatever root it had, even when the space is gone by then, so that going back needs no CR3 load.
pub(super) fn retire_root(root: PhysAddr) {
    let mut roots = ROOTS.lock();
    // Without memory to note it, the page is lost.
    if roots.try_reserve(1).is_ok() {
        roots.push(root);
    }
}

/// Builds the kernel's tables and switches to them.
pub(super) fn init(direct_map: &Frames) {
    let build = || -> Result<PageTable<Tables>, &'static str> {
        let tree = PageTable::new(Tables(Pool::Kernel)).map_err(|_| "no memory for page tables")?;
        map_direct(&tree, direct_map).map_err(|_| "direct map")?;
        map_image(&tree).map_err(|_| "kernel image")?;
        tree.ensure_root_entry(VirtAddr(layout::KERNEL_VIRT)).map_err(|_| "kernel virtual area")?;
        let low = Flags::READ_WRITE - Flags::NO_EXECUTE;
        tree.map_contiguous(VirtAddr(0), PhysAddr(0), LOW_BYTES, low, PageSize::Size4K).map_err(|_| "low memory")?;
        Ok(tree)
    };
    let tree = match build() {
        Ok(tree) => tree,
        Err(what) => panic!("cannot build the kernel page tables: {what}"),
    };
    // SAFETY: the new tables map the image, the boot stack (in .bss) and all RAM where the boot tables had them.
    unsafe { paging::write_cr3(tree.root()) };
    paging::flush_all_global();
    KERNEL.set(tree);
}

const LOW_BYTES: u64 = 1 << 20;

/// The largest pages that the processor has.
pub(super) fn largest_page() -> PageSize {
    // CPUID 0x8000_0001 EDX bit 26: 1 GiB pages.
    let has_1g = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).edx & (1 << 26) != 0;
    if has_1g { PageSize::Size1G } else { PageSize::Size2M }
}

fn map_direct(tree: &PageTable<Tables>, shown: &Frames) -> Result<(), page_table::MapError> {
    let largest = largest_page();
    for range in shown.iter() {
        let (start, end) = (frames::address(range.start), frames::address(range.end));
        tree.map_contiguous(start.to_virt(), start, end - start, Flags::READ_WRITE | Flags::GLOBAL, largest)?;
    }
    Ok(())
}

/// Maps the kernel image with the rights its sections need and no more.
fn map_image(tree: &PageTable<Tables>) -> Result<(), page_table::MapError> {
    let parts = [
        (&raw const __text_start, &raw const __text_end, Flags::READ_EXECUTE),
        (&raw const __rodata_start, &raw const __rodata_end, Flags::READ),
        (&raw const __data_start, &raw const __kernel_end, Flags::READ_WRITE),
    ];
    for (start, end, flags) in parts {
        let start = VirtAddr(start as u64).align_down(PAGE_SIZE as u64);
        let end = VirtAddr(end as u64).align_up(PAGE_SIZE as u64);
        let pa = PhysAddr(start.0 - layout::KERNEL_OFFSET);
        tree.map_contiguous(start, pa, end - start, flags | Flags::GLOBAL, PageSize::Size4K)?;
    }
    Ok(())
}

/// Unmaps the low megabyte at its physical addresses.
pub(super) fn drop_identity_map() {
    let _area = AREA.lock();
    let mut tables = Vec::new();
    let (low, lower_half) = (VirtAddr(0)..VirtAddr(LOW_BYTES), VirtAddr(0)..VirtAddr(layout::DIRECT_MAP));
    let rest = kernel().unmap_range_in(low, &lower_half, &mut |removed| {
        if let Removed::Table(table) = removed {
            tables.push(table);
        }
        ControlFlow::Continue(())
    });
    debug_assert_eq!(rest, Ok(None));
    tlb::shootdown_in(None, VirtAddr(0), VirtAddr(LOW_BYTES), Freed::Tables);
    for table in tables {
        Tables(Pool::Kernel).free_table(table);
    }
}

/// Free addresses of the kernel virtual area: above `next` all, below it those given back, by number of pages.
struct Area {
    next: u64,
    free: BTreeMap<usize, Vec<u64>>,
}

static AREA: Mutex<Area> = Mutex::new(Area { next: layout::KERNEL_VIRT, free: BTreeMap::new() });
/// The area uses one root entry.
const AREA_END: u64 = layout::KERNEL_VIRT + (1 << 39);

impl Area {
    fn alloc(&mut self, pages: usize) -> Option<VirtAddr> {
        if let Some(at) = self.free.get_mut(&pages).and_then(Vec::pop) {
            return Some(VirtAddr(at));
        }
        let end = self.next.checked_add((pages * PAGE_SIZE) as u64).filter(|end| *end <= AREA_END)?;
        Some(VirtAddr(core::mem::replace(&mut self.next, end)))
    }

    /// Addresses that cannot be noted for lack of memory are lost, which 512 GiB can bear.
    fn free(&mut self, at: VirtAddr, pages: usize) {
        let list = self.free.entry(pages).or_default();
        if list.try_reserve(1).is_ok() {
            list.push(at.0);
        }
    }
}

/// Maps device registers, uncached, for ever.
///
/// Context: may sleep; for driver start-up.
///
/// # Panics
/// If there is no memory for page tables.
#[must_use]
pub fn map_mmio(pa: PhysAddr, len: usize) -> VirtAddr {
    let start = pa.align_down(PAGE_SIZE as u64);
    let bytes = (pa + len as u64).align_up(PAGE_SIZE as u64) - start;
    let mut area = AREA.lock();
    let va = area.alloc(bytes as usize / PAGE_SIZE).expect("the kernel virtual area is large");
    kernel()
        .map_contiguous(va, start, bytes, Flags::DEVICE | Flags::GLOBAL, PageSize::Size4K)
        .unwrap_or_else(|error| panic!("cannot map device memory at {pa}: {error:?}"));
    va + pa.page_offset() as u64
}

/// A kernel stack with a guard page below.
///
/// Stacks of ended threads are kept, mapped, for the next ones: neither page tables nor TLBs change then.
///
/// Context: allocating and dropping may sleep.
#[derive(Debug)]
pub struct KernelStack {
    bottom: VirtAddr,
    pages: usize,
}

/// What torture writes into unused stacks.
const PAINT: u64 = 0x5041_494e_5450_4149;

/// Unused stacks, mapped.
static STOCK: Mutex<Vec<KernelStack>> = Mutex::new(Vec::new());
const STOCK_MAX: usize = 32;

impl KernelStack {
    /// A stack of `pages` pages. Its contents are anything.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn alloc(pages: usize) -> Result<Self, OutOfMemory> {
        if let Some(stack) = take_stocked(pages) {
            stack.paint();
            return Ok(stack);
        }
        if frames::memory_is_scarce() {
            return Err(OutOfMemory);
        }
        let mut area = AREA.lock();
        let guard = area.alloc(pages + 1).ok_or(OutOfMemory)?;
        let bottom = guard + PAGE_SIZE as u64;
        for page in 0..pages {
            if map_stack_page(bottom + (page * PAGE_SIZE) as u64).is_err() {
                release(&mut area, bottom, pages);
                return Err(OutOfMemory);
            }
        }
        let stack = Self { bottom, pages };
        stack.paint();
        Ok(stack)
    }

    fn words(&self) -> *mut [u64] {
        core::ptr::slice_from_raw_parts_mut(self.bottom.as_mut_ptr(), self.pages * PAGE_SIZE / size_of::<u64>())
    }

    /// Fills an unused stack, with torture on, so that [`Self::note_depth`] sees how far it was used.
    fn paint(&self) {
        if torture::is_on() {
            // SAFETY: mapped and, but for this, unused.
            unsafe { &mut *self.words() }.fill(PAINT);
        }
    }

    /// Logs how much of a stack was used, if none was used more.
    fn note_depth(&self) {
        static DEEPEST: AtomicU64 = AtomicU64::new(0);
        // SAFETY: mapped, and nothing runs on it any more.
        let words = unsafe { &*self.words() };
        let depth = size_of_val(words) as u64 - (words.iter().take_while(|word| **word == PAINT).count() * size_of::<u64>()) as u64;
        if DEEPEST.fetch_max(depth, Ordering::Relaxed) < depth {
            log::info!("kernel stacks: at most {depth} of {} bytes were used", size_of_val(words));
        }
    }

    /// One past the highest address; 16-byte aligned.
    #[must_use]
    pub fn top(&self) -> VirtAddr {
        self.bottom + (self.pages * PAGE_SIZE) as u64
    }

    /// Lowest usable address; the guard page is right below.
    #[must_use]
    pub const fn bottom(&self) -> VirtAddr {
        self.bottom
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        if torture::is_on() {
            self.note_depth();
        }
        let stack = Self { bottom: self.bottom, pages: self.pages };
        if let Some(surplus) = stock(stack) {
            let mut area = AREA.lock();
            release(&mut area, surplus.bottom, surplus.pages);
            core::mem::forget(surplus);
        }
    }
}

fn take_stocked(pages: usize) -> Option<KernelStack> {
    let mut stock = STOCK.lock();
    let at = stock.iter().rposition(|stack| stack.pages == pages)?;
    Some(stock.swap_remove(at))
}

/// Keeps the stack, or returns it when there are enough.
fn stock(stack: KernelStack) -> Option<KernelStack> {
    let mut stock = STOCK.lock();
    if stock.len() >= STOCK_MAX || stock.try_reserve(1).is_err() {
        return Some(stack);
    }
    stock.push(stack);
    None
}

fn map_stack_page(va: VirtAddr) -> Result<(), OutOfMemory> {
    let frame = frames::alloc_frame(Pool::Program).ok_or(OutOfMemory)?;
    let entry = Entry::new(frames::address(frame), Flags::READ_WRITE | Flags::GLOBAL);
    if kernel().map_if_empty(va, entry, PageSize::Size4K).is_err() {
        frames::free_frame(frame);
        return Err(OutOfMemory);
    }
    STACK_FRAMES.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Unmaps a stack and frees its frames after the flush.
fn release(area: &mut Area, bottom: VirtAddr, pages: usize) {
    let end = bottom + (pages * PAGE_SIZE) as u64;
    let mut gather = Gather::new(pages + 1);
    let mut at = Some(bottom);
    while let Some(from) = at {
        // Never splits: stacks are mapped with small pages. So it cannot fail.
        at = kernel().unmap_range(from, end, &mut |item| gather.push(item)).unwrap_or(None);
        tlb::shootdown_in(None, from, end, gather.freed());
        gather.drain().for_each(free_removed);
    }
    area.free(bottom - PAGE_SIZE as u64, pages + 1);
}

fn free_removed(item: Item) {
    match item {
        Item::Page(entry, _) => {
            STACK_FRAMES.fetch_sub(1, Ordering::Relaxed);
            frames::free_frame(entry.address().frame_number());
        }
        Item::Table(table) => Tables(Pool::Kernel).free_table(table),
    }
}
