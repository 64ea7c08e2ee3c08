//! The frame allocator of the machine, and the back end of `frame::Frame`.
//!
//! **Theory.** Free frames are in the [`Central`] pool, behind a sleeping mutex (the buddy allocator, and blocks that the idle loop
//! has zeroed, see `prezero.rs`), or in the [`Stock`] of a CPU: frame numbers that only that CPU touches, with preemption disabled.
//! An allocation takes from the stock; when that is empty it fetches a batch from the central pool *with preemption enabled* and
//! puts it into the stock of whatever CPU it then runs on. Frees mirror that. So the mutex is taken once per batch, and nobody waits
//! for another CPU with preemption disabled.
//!
//! Memory for the program ([`Pool::Program`]) stops a little above empty; the rest ([`reserve`]) is for the kernel's own small
//! allocations, which cannot fail gracefully everywhere.
//!
//! Context: everything here may sleep, except reading references and statistics.
#![expect(unsafe_code, reason = "hands out raw memory and defines the link-time back end of the frame crate")]

use super::boot::BootCell;
use super::prezero::{self, Zeroed};
use super::reporting;
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::torture;
use addr::{PAGE_SHIFT, PhysAddr};
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use frame::{Fill, OutOfMemory};
use frame_alloc::{Buddy, FrameTable, Host, LastReference, MAX_ORDER};
use sync::Mutex;

static TABLE: BootCell<FrameTable<'static>> = BootCell::new();
static CENTRAL: Mutex<Option<Central>> = Mutex::new(None);
/// Free frames in the central pool, for those who do not hold its lock.
static FREE: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Fewer free frames than this are few: see [`memory_is_scarce`].
static SCARCE: AtomicU64 = AtomicU64::new(0);
static STOCKS: PerCpu<Stocks> = PerCpu::new([const { Stocks { stale: Stock::new(), zeroed: Stock::new() } }; MAX_CPUS]);

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pool {
    /// The kernel: may use the reserve.
    Kernel,
    /// The program's pages and tables.
    Program,
}

/// Most frames that move between a stock and the central pool at once.
const BATCH: usize = 32;
const STOCK_MAX: usize = 2 * BATCH;

/// Frames on their way between a stock and the central pool.
struct Batch {
    frames: [u32; BATCH],
    len: usize,
}

impl Batch {
    const fn new() -> Self {
        Self { frames: [0; BATCH], len: 0 }
    }

    /// Adds a frame; there must be room.
    fn push(&mut self, frame: u64) {
        self.frames[self.len] = frame as u32;
        self.len += 1;
    }

    fn as_slice(&self) -> &[u32] {
        &self.frames[..self.len]
    }
}

/// Frames one CPU has at hand.
struct Stock {
    frames: [Cell<u32>; STOCK_MAX],
    /// Written by its own CPU only.
    len: AtomicU32,
}

impl Stock {
    const fn new() -> Self {
        Self { frames: [const { Cell::new(0) }; STOCK_MAX], len: AtomicU32::new(0) }
    }

    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    fn pop(&self) -> Option<u64> {
        let last = self.len().checked_sub(1)?;
        let frame = self.frames.get(last)?.get();
        self.len.store(last as u32, Ordering::Relaxed);
        Some(frame.into())
    }

    /// Adds a frame, or returns it if there is no room.
    fn push(&self, frame: u64) -> Option<u64> {
        let len = self.len();
        let Some(slot) = self.frames.get(len) else { return Some(frame) };
        slot.set(frame as u32);
        self.len.store(len as u32 + 1, Ordering::Relaxed);
        None
    }

    /// Takes up to `count` frames off.
    fn detach(&self, count: usize) -> Batch {
        let mut batch = Batch::new();
        while batch.len < count
            && let Some(frame) = self.pop()
        {
            batch.push(frame);
        }
        batch
    }
}

/// What one CPU has at hand.
#[repr(align(64))]
struct Stocks {
    /// With stale contents.
    stale: Stock,
    /// All zero.
    zeroed: Stock,
}

/// What the lock guards.
pub(super) struct Central {
    buddy: Buddy<'static>,
    pub(super) zeroed: Zeroed,
    table: FrameTable<'static>,
}

impl Central {
    /// The free blocks.
    pub(super) const fn buddy(&self) -> &Buddy<'static> {
        &self.buddy
    }

    /// All free frames.
    pub(super) fn free_frames(&self) -> u64 {
        self.buddy.free_frames() + self.zeroed.frames()
    }

    /// How many frames `pool` may have.
    fn available(&self, pool: Pool) -> u64 {
        if pool == Pool::Program && torture::fails_allocation() {
            return 0;
        }
        let kept = if pool == Pool::Program { reserve() } else { 0 };
        self.free_frames().saturating_sub(kept)
    }

    /// A block with stale contents; zeroed blocks become stale for it if need be.
    pub(super) fn alloc(&mut self, order: u32) -> Option<u64> {
        self.buddy.alloc(order).or_else(|| if self.give_up_zeroed() { self.buddy.alloc(order) } else { None })
    }

    /// As [`Central::alloc`], from the smallest free block and not larger than 2^`largest`.
    pub(super) fn alloc_smallest(&mut self, largest: u32) -> Option<(u64, u32)> {
        self.buddy.alloc_smallest(largest).or_else(|| if self.give_up_zeroed() { self.buddy.alloc_smallest(largest) } else { None })
    }

    /// As [`Buddy::take_backed`].
    pub(super) fn take_backed(&mut self, least: u32) -> Option<(u64, u32)> {
        self.buddy.take_backed(least)
    }

    /// Frees a block that the host has no memory for any more.
    pub(super) fn free_dropped(&mut self, block: u64, order: u32) {
        self.buddy.free_as(block, order, Host::Dropped);
    }

    /// Makes the zeroed blocks ordinary free ones. Returns whether there were any.
    fn give_up_zeroed(&mut self) -> bool {
        let Self { buddy, zeroed, table } = self;
        zeroed.drain(table, |block, order| buddy.free(block, order))
    }

    /// A block to zero, which does not make other zeroed blocks stale.
    pub(super) fn take_dirty(&mut self, order: u32) -> Option<(u64, u32)> {
        Some((self.buddy.alloc(order)?, order))
    }

    /// As [`Central::take_dirty`], from the smallest free block, of at most 2^`largest` frames.
    pub(super) fn take_dirty_small(&mut self, largest: u32) -> Option<(u64, u32)> {
        self.buddy.alloc_smallest(largest)
    }

    /// Puts a block that is all zero at hand, or just frees it if there are enough.
    pub(super) fn put_zeroed(&mut self, block: u64, order: u32) {
        if !self.zeroed.put(&self.table, block, order) {
            self.buddy.free(block, order);
        }
    }
}

/// Frames that move between a stock and the central pool at once: fewer on small machines, where stocks are waste.
fn batch() -> usize {
    if TOTAL.load(Ordering::Relaxed) < 16384 { 8 } else { BATCH }
}

/// Frames that only the kernel may use: a 64th of the memory, at most 4 MiB.
fn reserve() -> u64 {
    (TOTAL.load(Ordering::Relaxed) / 64).min(1024)
}

/// All frames that the allocator manages.
pub(super) fn total() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

pub(super) fn table() -> Option<&'static FrameTable<'static>> {
    TABLE.get()
}

/// Starts the allocator with the frame table. No frame is free yet.
pub(super) fn install(table: FrameTable<'static>) {
    TABLE.set(table);
    *CENTRAL.lock() = Some(Central { buddy: Buddy::new(table), zeroed: Zeroed::EMPTY, table });
}

/// Runs `f` on the central pool, sleeping for its lock.
pub(super) fn with_central<R>(f: impl FnOnce(&mut Central) -> R) -> Option<R> {
    let mut guard = CENTRAL.lock();
    let central = guard.as_mut()?;
    let result = f(central);
    FREE.store(central.free_frames(), Ordering::Relaxed);
    Some(result)
}

/// Runs `f` on the central pool if its lock is free.
///
/// Context: never sleeps; preemption disabled (which is allowed here, as the unlocking at most makes another thread runnable), so
/// that the idle thread is not switched away from while others wait for the lock.
pub(super) fn try_with_central<R>(f: impl FnOnce(&mut Central) -> R) -> Option<R> {
    let mut guard = CENTRAL.try_lock()?;
    let central = guard.as_mut()?;
    let result = f(central);
    FREE.store(central.free_frames(), Ordering::Relaxed);
    Some(result)
}

/// Gives frames `start..end` of RAM to the allocator.
pub(super) fn add_range(start: u64, end: u64) {
    with_central(|central| {
        central.buddy.add_range(start, end);
        let total = TOTAL.fetch_add(end - start, Ordering::Relaxed) + end - start;
        prezero::set_limits(total);
        SCARCE.store(2 * reserve(), Ordering::Relaxed);
    });
}

/// One frame with stale contents and no reference counted.
pub(super) fn alloc_frame(pool: Pool) -> Option<u64> {
    STOCKS.with(|stocks| stocks.stale.pop()).or_else(|| refill_stale(pool))
}

/// A block of 2^`order` frames (0 ..= 18) with stale contents and no reference counted, aligned to its size.
pub(super) fn alloc_block(order: u32, pool: Pool) -> Option<u64> {
    if order == 0 {
        return alloc_frame(pool);
    }
    or_reclaim(1 << order, || with_central(|central| if central.available(pool) < 1 << order { None } else { central.alloc(order) }).flatten())
}

/// As [`alloc_block`], with all bytes zero: from the blocks zeroed beforehand, else zeroed here.
pub(super) fn alloc_zeroed(order: u32, pool: Pool) -> Option<u64> {
    if order == 0 {
        return alloc_zeroed_frame(pool);
    }
    take_prezeroed(order).or_else(|| {
        let block = alloc_block(order, pool)?;
        zero_range(block, 1 << order);
        Some(block)
    })
}

/// One frame, all zero, with one look at what this CPU has at hand: every page fault comes here.
fn alloc_zeroed_frame(pool: Pool) -> Option<u64> {
    let found = STOCKS.with(|stocks| {
        let zeroed = stocks.zeroed.pop().map(|frame| (frame, Fill::Zero));
        zeroed.or_else(|| if prezero::at_hand(0) == 0 { stocks.stale.pop().map(|frame| (frame, Fill::Stale)) } else { None })
    });
    let stale = match found {
        Some((frame, Fill::Zero)) => return Some(frame),
        Some((frame, Fill::Stale)) => {
            prezero::note_demand(0, 1);
            frame
        }
        None => match refill_zeroed() {
            Some(frame) => return Some(frame),
            None => alloc_frame(pool)?,
        },
    };
    zero(stale);
    Some(stale)
}

/// A block of 2^`order` frames, all zero, if one is at hand (orders 0 and 9). Not counted; costs next to nothing either way.
pub(super) fn take_prezeroed(order: u32) -> Option<u64> {
    if order == 0 {
        return STOCKS.with(|stocks| stocks.zeroed.pop()).or_else(refill_zeroed);
    }
    prezero::note_demand(order, 1);
    if prezero::at_hand(order) == 0 {
        return None;
    }
    with_central(|central| if central.available(Pool::Program) < 1 << order { None } else { central.zeroed.take(&central.table, order) })
        .flatten()
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

/// What `alloc` gives, if need be after `frames` frames were reclaimed.
fn or_reclaim(frames: u64, alloc: impl Fn() -> Option<u64>) -> Option<u64> {
    alloc().or_else(|| reclaim_and_retry(frames, &alloc))
}

#[cold]
fn reclaim_and_retry(frames: u64, alloc: &dyn Fn() -> Option<u64>) -> Option<u64> {
    // Others may be faster to take what was reclaimed.
    const TRIES: usize = 3;
    (0..TRIES).find_map(|_| if super::shrink::reclaim(frames) > 0 { alloc() } else { None })
}

/// Takes a batch from the central pool, returns one frame of it and stocks the rest.
#[cold]
fn refill_stale(pool: Pool) -> Option<u64> {
    or_reclaim(1, || {
        let fetched = with_central(|central| fetch_stale(central, pool))?;
        stock(&fetched, |stocks| &stocks.stale)
    })
}

fn fetch_stale(central: &mut Central, pool: Pool) -> Batch {
    let wanted = central.available(pool).min(batch() as u64) as usize;
    let mut fetched = Batch::new();
    // The first one alone, so that the batch does not cut a large block if there is any smaller.
    let mut largest = 0;
    while fetched.len < wanted {
        let Some((block, order)) = central.alloc_smallest(largest) else { break };
        (block..block + (1 << order)).for_each(|frame| fetched.push(frame));
        largest = (wanted - fetched.len).checked_ilog2().unwrap_or(0);
    }
    fetched
}

/// As [`refill_stale`], from what the idle loop has zeroed.
#[cold]
fn refill_zeroed() -> Option<u64> {
    if prezero::at_hand(0) == 0 {
        prezero::note_demand(0, 1);
        return None;
    }
    let fetched = with_central(|central| {
        let wanted = central.available(Pool::Program).min(batch() as u64) as usize;
        let mut fetched = Batch::new();
        while fetched.len < wanted
            && let Some(frame) = central.zeroed.take(&central.table, 0)
        {
            fetched.push(frame);
        }
        fetched
    })?;
    prezero::note_demand(0, fetched.len as u32);
    stock(&fetched, |stocks| &stocks.zeroed)
}

/// Returns one frame of a batch and stocks the rest on this CPU.
fn stock(fetched: &Batch, which: impl Fn(&Stocks) -> &Stock) -> Option<u64> {
    let (&first, rest) = fetched.as_slice().split_first()?;
    let mut surplus = Batch::new();
    STOCKS.with(|stocks| {
        for &frame in rest {
            // Full only if this CPU is another one than at first, or was refilled meanwhile.
            if let Some(frame) = which(stocks).push(frame.into()) {
                surplus.push(frame);
            }
        }
    });
    return_batch(&surplus);
    Some(first.into())
}

/// Gives one frame back.
pub(super) fn free_frame(frame: u64) {
    let surplus = STOCKS.with(|stocks| {
        let stock = &stocks.stale;
        let full = stock.len() >= 2 * batch();
        let surplus = if full { stock.detach(batch()) } else { Batch::new() };
        let _fits = stock.push(frame);
        surplus
    });
    return_batch(&surplus);
}

fn return_batch(batch: &Batch) {
    if batch.len > 0 {
        give_back(|central| batch.as_slice().iter().for_each(|&frame| central.buddy.free(frame.into(), 0)));
    }
}

/// `count` contiguous frames with stale contents, aligned to the power of two that holds them.
pub(super) fn alloc_contiguous(count: u64, pool: Pool) -> Option<u64> {
    if count == 1 {
        return alloc_frame(pool);
    }
    or_reclaim(count, || {
        with_central(|central| {
            if central.available(pool) < count {
                return None;
            }
            let block = central.buddy.alloc_contiguous(count);
            block.or_else(|| if central.give_up_zeroed() { central.buddy.alloc_contiguous(count) } else { None })
        })
        .flatten()
    })
}

/// Whether large pages may be handed out that nobody asked for: at least an eighth of the memory stays free, and more than what
/// counts as scarce.
pub(super) fn is_plentiful(frames: u64) -> bool {
    let kept = (TOTAL.load(Ordering::Relaxed) / 8).max(SCARCE.load(Ordering::Relaxed));
    FREE.load(Ordering::Relaxed) >= kept + frames
}

/// Gives contiguous frames back.
pub(super) fn free_contiguous(frame: u64, count: u64) {
    if count == 1 {
        return free_frame(frame);
    }
    free_run(frame, count);
}

/// Gives contiguous frames back to the central pool.
pub(super) fn free_run(frame: u64, count: u64) {
    give_back(|central| central.buddy.free_range(frame, count));
}

/// Runs `free` on the central pool, and lets the host know if that made blocks worth telling it of.
fn give_back(free: impl FnOnce(&mut Central)) {
    let wanted = with_central(|central| {
        free(central);
        reporting::is_wanted(central)
    });
    if wanted == Some(true) {
        reporting::wake();
    }
}

/// Where a frame number begins.
pub(super) const fn address(frame: u64) -> PhysAddr {
    PhysAddr(frame << PAGE_SHIFT)
}

/// Makes a frame all zero.
pub(super) fn zero(frame: u64) {
    zero_range(frame, 1);
}

/// Makes contiguous frames all zero.
pub(super) fn zero_range(first: u64, count: u64) {
    // SAFETY: the frames were just allocated, so they are RAM that nobody else uses, and the direct map has them.
    unsafe { arch_x86_64::zero_pages(address(first).to_virt().as_mut_ptr(), count as usize) };
}

/// Whether so little is free that the kernel should make no new objects for the program: the rest is for the pages that the program
/// needs to notice that ([`Pool::Program`] still gets some) and for what the kernel needs to end things.
#[inline]
#[must_use]
pub fn memory_is_scarce() -> bool {
    is_below_limit() && stays_scarce()
}

/// Whether the central pool has fewer frames than it should keep.
pub(super) fn is_below_limit() -> bool {
    FREE.load(Ordering::Relaxed) < SCARCE.load(Ordering::Relaxed)
}

#[cold]
fn stays_scarce() -> bool {
    if torture::refuses_memory() {
        return torture::fails_allocation();
    }
    super::shrink::reclaim(SCARCE.load(Ordering::Relaxed).saturating_sub(FREE.load(Ordering::Relaxed)));
    is_below_limit()
}

/// Lets torture decide whenever [`memory_is_scarce`] or [`has_memory_for`] is asked.
pub(crate) fn let_torture_decide() {
    SCARCE.store(u64::MAX / 2, Ordering::Relaxed);
}

/// Whether the kernel may take `bytes` for a temporary or permanent object of the program's.
#[must_use]
pub fn has_memory_for(bytes: usize) -> bool {
    let frames = addr::pages_for(bytes) as u64;
    if torture::refuses_memory() {
        return !torture::fails_allocation();
    }
    FREE.load(Ordering::Relaxed) >= SCARCE.load(Ordering::Relaxed).saturating_add(frames)
}

/// Whether a program that just could not have a frame can have one now, because another has ended.
#[must_use]
pub fn has_frame_for_program() -> bool {
    // Where failures are invented there always is one.
    !torture::refuses_memory() && FREE.load(Ordering::Relaxed) > reserve()
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
    /// Zeroed and at hand, those in the stocks of CPUs not counted; part of `free_frames`.
    pub zeroed_frames: u64,
    /// Lent to the host.
    pub lent_frames: u64,
    /// In use by the kernel heap for objects larger than its size classes; part of `heap_frames`.
    pub large_heap_frames: u64,
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

/// Frames in the stocks of all CPUs together.
fn stocked() -> u64 {
    // SAFETY: only the lengths are read, which are atomic.
    let stocks = (0..crate::percpu::cpu_count()).map(|cpu| unsafe { STOCKS.of(cpu) });
    stocks.map(|stocks| (stocks.stale.len() + stocks.zeroed.len()) as u64).sum()
}

/// Free blocks of 2^n frames, for each n.
#[must_use]
pub fn free_blocks() -> [u64; MAX_ORDER as usize + 1] {
    with_central(|central| central.buddy.counts()).unwrap_or_default()
}

/// How much memory there is and what it is used for.
#[must_use]
pub fn memory_info() -> MemoryInfo {
    let free = FREE.load(Ordering::Relaxed) + stocked() + prezero::in_progress() + reporting::in_report();
    MemoryInfo {
        total_frames: TOTAL.load(Ordering::Relaxed),
        free_frames: free,
        available_frames: free.saturating_sub(reserve()),
        heap_frames: super::heap::frames_used(),
        table_frames: super::kernel_space::table_frames(),
        stack_frames: super::kernel_space::stack_frames(),
        zeroed_frames: prezero::frames_at_hand(),
        lent_frames: reporting::lent(),
        large_heap_frames: super::heap::large_frames(),
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
    let frame = match fill {
        Fill::Zero => alloc_zeroed_frame(Pool::Program),
        Fill::Stale => alloc_frame(Pool::Program),
    }?;
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
