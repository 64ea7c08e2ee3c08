//! The frame allocator of the machine, and the back end of `frame::Frame`.
//!
//! **Theory.** Free frames are in the buddy allocator, behind a sleeping mutex, or in the stock of a CPU: a list through the frame
//! table that only that CPU touches, with preemption disabled. An allocation takes from the stock; when that is empty it fetches a
//! batch from the buddy allocator *with preemption enabled* and puts it into the stock of whatever CPU it then runs on. Frees mirror
//! that. So the mutex is taken once per batch, and nobody waits for another CPU with preemption disabled.
//!
//! Memory for the program ([`Pool::Program`]) stops a little above empty; the rest ([`reserve`]) is for the kernel's own small
//! allocations, which cannot fail gracefully everywhere.
//!
//! Context: everything here may sleep, except reading references and statistics.
#![expect(unsafe_code, reason = "hands out raw memory and defines the link-time back end of the frame crate")]

use super::boot::BootCell;
use crate::percpu::{MAX_CPUS, PerCpu};
use addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use core::cell::Cell;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use frame::{Fill, OutOfMemory};
use frame_alloc::{Buddy, FrameTable, LastReference};
use sync::Mutex;

static TABLE: BootCell<FrameTable<'static>> = BootCell::new();
static BUDDY: Mutex<Option<Buddy<'static>>> = Mutex::new(None);
/// Free frames in the buddy allocator, for those who do not hold its lock.
static FREE: AtomicU64 = AtomicU64::new(0);
/// Free frames in the stocks of all CPUs together.
static STOCKED: AtomicI64 = AtomicI64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Fewer free frames than this are few: see [`memory_is_scarce`].
static SCARCE: AtomicU64 = AtomicU64::new(0);
static STOCKS: PerCpu<Stock> = PerCpu::new([const { Stock::new() }; MAX_CPUS]);

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pool {
    /// The kernel: may use the reserve.
    Kernel,
    /// The program's pages and tables.
    Program,
}

/// The frames one CPU has at hand.
#[repr(align(64))]
struct Stock {
    head: Cell<Option<u64>>,
    count: Cell<u32>,
}

impl Stock {
    const fn new() -> Self {
        Self { head: Cell::new(None), count: Cell::new(0) }
    }

    fn pop(&self, table: &FrameTable<'_>) -> Option<u64> {
        let frame = self.head.get()?;
        self.head.set(table.link(frame));
        self.count.set(self.count.get() - 1);
        Some(frame)
    }

    fn push(&self, table: &FrameTable<'_>, frame: u64) {
        table.set_link(frame, self.head.get());
        self.head.set(Some(frame));
        self.count.set(self.count.get() + 1);
    }
}

/// Frames that move between a stock and the buddy allocator at once: fewer on small machines, where stocks are waste.
fn batch() -> u32 {
    if TOTAL.load(Ordering::Relaxed) < 16384 { 8 } else { 32 }
}

/// Frames that only the kernel may use: a 64th of the memory, at most 4 MiB.
fn reserve() -> u64 {
    (TOTAL.load(Ordering::Relaxed) / 64).min(1024)
}

fn table() -> Option<&'static FrameTable<'static>> {
    TABLE.get()
}

/// Starts the allocator with the frame table. No frame is free yet.
pub(super) fn install(table: FrameTable<'static>) {
    TABLE.set(table);
    *BUDDY.lock() = Some(Buddy::new(table));
}

/// Gives frames `start..end` of RAM to the allocator.
pub(super) fn add_range(start: u64, end: u64) {
    let mut guard = BUDDY.lock();
    if let Some(buddy) = guard.as_mut() {
        buddy.add_range(start, end);
        TOTAL.fetch_add(end - start, Ordering::Relaxed);
        SCARCE.store(2 * reserve(), Ordering::Relaxed);
        FREE.store(buddy.free_frames(), Ordering::Relaxed);
    }
}

/// One frame with stale contents and no reference counted.
pub(super) fn alloc_frame(pool: Pool) -> Option<u64> {
    let table = table()?;
    match STOCKS.with(|stock| stock.pop(table)) {
        Some(frame) => {
            STOCKED.fetch_sub(1, Ordering::Relaxed);
            Some(frame)
        }
        None => fetch_batch(table, pool).or_else(|| if super::heap::reclaim() { fetch_batch(table, pool) } else { None }),
    }
}

/// The table's word for a frame that is in use.
pub(super) fn link(frame: u64) -> u64 {
    table().and_then(|table| table.link(frame)).unwrap_or(0)
}

/// Sets that word.
pub(super) fn set_link(frame: u64, value: u64) {
    if let Some(table) = table() {
        table.set_link(frame, Some(value));
    }
}

/// Takes a batch from the buddy allocator, returns one frame of it and stocks the rest.
#[cold]
fn fetch_batch(table: &FrameTable<'_>, pool: Pool) -> Option<u64> {
    let mut guard = BUDDY.lock();
    let buddy = guard.as_mut()?;
    let kept = if pool == Pool::Program { reserve() } else { 0 };
    let available = buddy.free_frames().saturating_sub(kept);
    let wanted = available.min(u64::from(batch()));
    let first = if wanted == 0 { None } else { buddy.alloc(0) }?;
    let mut rest = None;
    let mut more = 0;
    while more + 1 < wanted {
        let Some((block, order)) = buddy.alloc_smallest((wanted - more - 1).ilog2()) else { break };
        for frame in block..block + (1 << order) {
            table.set_link(frame, rest);
            rest = Some(frame);
        }
        more += 1 << order;
    }
    FREE.store(buddy.free_frames(), Ordering::Relaxed);
    drop(guard);
    STOCKED.fetch_add(more as i64, Ordering::Relaxed);
    STOCKS.with(|stock| {
        while let Some(frame) = rest {
            rest = table.link(frame);
            stock.push(table, frame);
        }
    });
    Some(first)
}

/// Gives one frame back.
pub(super) fn free_frame(frame: u64) {
    let Some(table) = table() else { return };
    STOCKED.fetch_add(1, Ordering::Relaxed);
    let surplus = STOCKS.with(|stock| {
        stock.push(table, frame);
        (stock.count.get() > 2 * batch()).then(|| detach(table, stock, batch()))
    });
    if let Some(list) = surplus {
        return_list(table, list);
    }
}

/// Takes `count` frames off a stock, as a list.
fn detach(table: &FrameTable<'_>, stock: &Stock, count: u32) -> Option<u64> {
    let mut list = None;
    for _ in 0..count {
        let Some(frame) = stock.pop(table) else { break };
        table.set_link(frame, list);
        list = Some(frame);
    }
    list
}

#[cold]
fn return_list(table: &FrameTable<'_>, mut list: Option<u64>) {
    let mut guard = BUDDY.lock();
    let Some(buddy) = guard.as_mut() else { return };
    let mut count = 0;
    while let Some(frame) = list {
        list = table.link(frame);
        buddy.free(frame, 0);
        count += 1;
    }
    FREE.store(buddy.free_frames(), Ordering::Relaxed);
    STOCKED.fetch_sub(count, Ordering::Relaxed);
}

/// `count` contiguous frames with stale contents, aligned to the power of two that holds them.
pub(super) fn alloc_contiguous(count: u64, pool: Pool) -> Option<u64> {
    if count == 1 {
        return alloc_frame(pool);
    }
    let mut guard = BUDDY.lock();
    let buddy = guard.as_mut()?;
    let kept = if pool == Pool::Program { reserve() } else { 0 };
    if buddy.free_frames() < kept.checked_add(count)? {
        return None;
    }
    let block = buddy.alloc_contiguous(count);
    FREE.store(buddy.free_frames(), Ordering::Relaxed);
    block
}

/// Gives contiguous frames back.
pub(super) fn free_contiguous(frame: u64, count: u64) {
    if count == 1 {
        return free_frame(frame);
    }
    let mut guard = BUDDY.lock();
    if let Some(buddy) = guard.as_mut() {
        buddy.free_range(frame, count);
        FREE.store(buddy.free_frames(), Ordering::Relaxed);
    }
}

/// Where a frame number begins.
pub(super) const fn address(frame: u64) -> PhysAddr {
    PhysAddr(frame << PAGE_SHIFT)
}

/// Makes a frame all zero.
pub(super) fn zero(frame: u64) {
    // SAFETY: the frame was just allocated, so it is RAM that nobody else uses, and the direct map has it.
    unsafe { address(frame).to_virt().as_mut_ptr::<u8>().write_bytes(0, PAGE_SIZE) };
}

/// Whether so little is free that the kernel should make no new objects for the program: the rest is for the pages that the program
/// needs to notice that ([`Pool::Program`] still gets some) and for what the kernel needs to end things.
#[inline]
#[must_use]
pub fn memory_is_scarce() -> bool {
    is_below_limit() && stays_scarce()
}

fn is_below_limit() -> bool {
    FREE.load(Ordering::Relaxed) < SCARCE.load(Ordering::Relaxed)
}

#[cold]
fn stays_scarce() -> bool {
    super::heap::reclaim();
    is_below_limit()
}

/// Whether the kernel may take `bytes` for a temporary or permanent object of the program's.
#[must_use]
pub fn has_memory_for(bytes: usize) -> bool {
    let frames = addr::pages_for(bytes) as u64;
    FREE.load(Ordering::Relaxed) >= SCARCE.load(Ordering::Relaxed).saturating_add(frames)
}

/// How much memory there is, in frames of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryInfo {
    /// All RAM that the allocator manages.
    pub total_frames: u64,
    /// Free.
    pub free_frames: u64,
    /// Free and not reserved for the kernel.
    pub available_frames: u64,
    /// In use by the kernel heap.
    pub heap_frames: u64,
    /// In use by page tables.
    pub table_frames: u64,
    /// In use by kernel stacks.
    pub stack_frames: u64,
}

impl MemoryInfo {
    /// All RAM that the allocator manages, in bytes.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_frames << PAGE_SHIFT
    }

    /// Free memory in bytes.
    #[must_use]
    pub const fn free_bytes(&self) -> u64 {
        self.free_frames << PAGE_SHIFT
    }

    /// Memory that the program can still get, in bytes.
    #[must_use]
    pub const fn available_bytes(&self) -> u64 {
        self.available_frames << PAGE_SHIFT
    }
}

/// How much memory there is and what it is used for.
#[must_use]
pub fn memory_info() -> MemoryInfo {
    let stocked = u64::try_from(STOCKED.load(Ordering::Relaxed)).unwrap_or(0);
    let free = FREE.load(Ordering::Relaxed) + stocked;
    MemoryInfo {
        total_frames: TOTAL.load(Ordering::Relaxed),
        free_frames: free,
        available_frames: free.saturating_sub(reserve()),
        heap_frames: super::heap::frames_used(),
        table_frames: super::kernel_space::table_frames(),
        stack_frames: super::kernel_space::stack_frames(),
    }
}

/// Physically contiguous, zeroed memory for devices and large kernel objects. Freed on drop.
#[derive(Debug)]
pub struct ContiguousFrames {
    first: u64,
    count: u64,
}

impl ContiguousFrames {
    /// `pages` frames in a row.
    ///
    /// # Errors
    /// [`OutOfMemory`], also for zero pages.
    pub fn alloc_zeroed(pages: usize) -> Result<Self, OutOfMemory> {
        let count = pages as u64;
        let first = if pages == 0 { None } else { alloc_contiguous(count, Pool::Kernel) }.ok_or(OutOfMemory)?;
        for frame in first..first + count {
            zero(frame);
        }
        Ok(Self { first, count })
    }

    /// Physical address of the first byte.
    #[must_use]
    pub const fn phys(&self) -> PhysAddr {
        address(self.first)
    }

    /// The memory in the direct map.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.phys().to_virt().as_mut_ptr()
    }

    /// Number of frames.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.count as usize
    }

    /// Gives the memory away for ever (or until [`ContiguousFrames::from_raw`]).
    #[must_use]
    pub const fn into_raw(self) -> PhysAddr {
        let pa = self.phys();
        core::mem::forget(self);
        pa
    }

    /// Takes back what [`ContiguousFrames::into_raw`] gave away.
    ///
    /// # Safety
    /// `phys` came from `into_raw` of `pages` frames, and is taken back once.
    #[must_use]
    pub const unsafe fn from_raw(phys: PhysAddr, pages: usize) -> Self {
        Self { first: phys.frame_number(), count: pages as u64 }
    }
}

impl Drop for ContiguousFrames {
    fn drop(&mut self) {
        free_contiguous(self.first, self.count);
    }
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_alloc(fill: Fill) -> Option<PhysAddr> {
    let frame = alloc_frame(Pool::Program)?;
    if fill == Fill::Zero {
        zero(frame);
    }
    table()?.set_first_reference(frame);
    Some(address(frame))
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_ref(frame: PhysAddr) {
    if let Some(table) = table() {
        table.add_reference(frame.frame_number());
    }
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_unref(frame: PhysAddr) {
    let Some(table) = table() else { return };
    if table.drop_reference(frame.frame_number()) == LastReference::Yes {
        free_frame(frame.frame_number());
    }
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_ref_count(frame: PhysAddr) -> usize {
    table().and_then(|t| t.references(frame.frame_number())).map_or(usize::MAX, |n| n as usize)
}

#[unsafe(no_mangle)]
extern "Rust" fn frame_backend_permanent(frame: PhysAddr) {
    let counted = table().is_some_and(|t| t.is_counted(frame.frame_number()));
    assert!(!counted, "{frame} belongs to the frame allocator and cannot be permanent");
}
