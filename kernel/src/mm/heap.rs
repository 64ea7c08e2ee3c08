//! The kernel heap.
//!
//! Small objects come from per-CPU caches of size classes (`frame_alloc::slab`): about twenty instructions with preemption disabled,
//! no atomic operation. Objects freed on another CPU than the one that allocated them stay there until that cache runs over; batches
//! travel through a lock-free depot. New slabs are single frames; larger objects are whole frames in the direct map.
//!
//! What is free stays bounded: when the depots hold more than [`idle_limit`], or frames are short, [`reclaim`] looks for slabs of
//! which every object is free and gives them back. The limit doubles with what could not be given back, so that the searches cost
//! each freed object a constant.
//!
//! Context: allocating and freeing may sleep (the frame allocator's mutex), so neither is allowed in interrupt handlers, nor
//! with preemption disabled.
#![expect(unsafe_code, reason = "implements GlobalAlloc")]

use super::frames::{self, Pool};
use crate::percpu::{MAX_CPUS, PerCpu};
use addr::{PAGE_SIZE, PhysAddr, VirtAddr, layout, pages_for};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use frame_alloc::slab::{CLASS_SIZES, CLASSES, Cache, Depot, List, SlabCounts, cache_limit, class_for, sweep};
use sync::Mutex;

#[repr(align(64))]
struct Caches([Cache; CLASSES]);

static CACHES: PerCpu<Caches> = PerCpu::new([const { Caches([const { Cache::new() }; CLASSES]) }; MAX_CPUS]);

/// What all CPUs share of a class.
struct Class {
    depot: Depot,
    /// Free objects that the depot had no room for.
    overflow: Mutex<List>,
    /// Free objects in both.
    idle: AtomicU64,
    /// Slabs in existence.
    slabs: AtomicU64,
}

static SHARED: [Class; CLASSES] = [const {
    Class { depot: Depot::new(), overflow: Mutex::new(List::EMPTY), idle: AtomicU64::new(0), slabs: AtomicU64::new(0) }
}; CLASSES];

/// Frames of objects that are larger than any class.
static LARGE_FRAMES: AtomicU64 = AtomicU64::new(0);
/// Bytes of free objects in the depots.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// Bytes that [`reclaim`] could not free the last time.
static STUCK: AtomicU64 = AtomicU64::new(0);
/// Held by whoever reclaims.
static RECLAIMING: Mutex<()> = Mutex::new(());
/// Less than this, freed since, is not worth a search.
const WORTH_A_SEARCH: u64 = 64 << 10;

/// Frames that the heap has taken.
pub(super) fn frames_used() -> u64 {
    SHARED.iter().map(|class| class.slabs.load(Ordering::Relaxed)).sum::<u64>() + large_frames()
}

/// Frames of objects that are larger than any class.
pub(super) fn large_frames() -> u64 {
    LARGE_FRAMES.load(Ordering::Relaxed)
}

/// One size class, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlabInfo {
    /// Bytes of an object.
    pub object_size: usize,
    /// Objects in use.
    pub active: u64,
    /// Objects in all slabs.
    pub objects: u64,
    /// Slabs, of one frame each.
    pub slabs: u64,
}

/// The size classes of the kernel heap.
#[must_use]
pub fn slab_info() -> [SlabInfo; CLASSES] {
    core::array::from_fn(|index| {
        let (class, size) = (&SHARED[index], CLASS_SIZES[index]);
        let slabs = class.slabs.load(Ordering::Relaxed);
        let objects = slabs * (PAGE_SIZE / size) as u64;
        // SAFETY: only the lengths are read, which are atomic.
        let cached = (0..crate::percpu::cpu_count()).map(|cpu| unsafe { CACHES.of(cpu) }.0[index].len() as u64).sum::<u64>();
        let active = objects.saturating_sub(cached + class.idle.load(Ordering::Relaxed));
        SlabInfo { object_size: size, active, objects, slabs }
    })
}

struct KernelHeap;

#[global_allocator]
static HEAP: KernelHeap = KernelHeap;

// SAFETY: objects come from slabs or frames that are handed out once, with the size and alignment of their class or more.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_for(layout.size(), layout.align()) {
            Some(class) => alloc_small(class),
            None => alloc_frames(frames_of(layout)),
        }
        .unwrap_or(ptr::null_mut())
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        match class_for(layout.size(), layout.align()) {
            // SAFETY: the object came from `alloc` with this layout, so it is an object of this class.
            Some(class) => unsafe { free_small(class, object) },
            None => free_frames(object, frames_of(layout)),
        }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else { return ptr::null_mut() };
        if same_place(layout, new_layout) {
            return object;
        }
        // SAFETY: plain reallocation: the caller's object is live with `layout`.
        unsafe {
            let new = self.alloc(new_layout);
            if !new.is_null() {
                new.copy_from_nonoverlapping(object, layout.size().min(new_size));
                self.dealloc(object, layout);
            }
            new
        }
    }
}

/// Whether both layouts get an object of the same class or the same number of frames.
fn same_place(a: Layout, b: Layout) -> bool {
    match (class_for(a.size(), a.align()), class_for(b.size(), b.align())) {
        (Some(a), Some(b)) => a == b,
        (None, None) => frames_of(a) == frames_of(b),
        _ => false,
    }
}

/// Whole frames for a large layout; blocks are aligned to their size rounded up to a power of two.
fn frames_of(layout: Layout) -> usize {
    pages_for(layout.size().max(1)).max(layout.align() / PAGE_SIZE)
}

#[inline]
fn alloc_small(class: usize) -> Option<*mut u8> {
    CACHES.with(|caches| caches.0[class].alloc()).or_else(|| refill(class))
}

#[cold]
#[inline(never)]
fn refill(class: usize) -> Option<*mut u8> {
    let mut list = match take_batch(class) {
        Some(batch) => batch,
        None => new_slab(class)?,
    };
    let object = list.pop();
    CACHES.with(|caches| caches.0[class].refill(list));
    object
}

fn take_batch(class: usize) -> Option<List> {
    let shared = &SHARED[class];
    if shared.idle.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let batch = shared.depot.take().unwrap_or_else(|| shared.overflow.lock().split_off(cache_limit(class).div_ceil(2)));
    count_idle(class, -(batch.len() as i64));
    (!batch.is_empty()).then_some(batch)
}

fn count_idle(class: usize, objects: i64) {
    SHARED[class].idle.fetch_add(objects as u64, Ordering::Relaxed);
    IDLE.fetch_add((objects * CLASS_SIZES[class] as i64) as u64, Ordering::Relaxed);
}

fn new_slab(class: usize) -> Option<List> {
    let frame = frames::alloc_frame(Pool::Kernel)?;
    SHARED[class].slabs.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the frame is ours alone, and page-aligned.
    Some(unsafe { List::carve(frames::address(frame).to_virt().as_mut_ptr(), PAGE_SIZE, CLASS_SIZES[class]) })
}

/// # Safety
/// `object` is a live object of `class`.
#[inline]
unsafe fn free_small(class: usize, object: *mut u8) {
    // SAFETY: the caller gives the object up.
    let kept = CACHES.with(|caches| unsafe { caches.0[class].free(object) });
    if kept > cache_limit(class) {
        send_batch(class);
    }
}

/// Half of what this CPU has of a class goes to the depot.
#[cold]
#[inline(never)]
fn send_batch(class: usize) {
    let batch = CACHES.with(|caches| caches.0[class].split_off(cache_limit(class).div_ceil(2)));
    store(class, batch);
    if IDLE.load(Ordering::Relaxed) > idle_limit() {
        reclaim();
    }
}

fn store(class: usize, batch: List) {
    count_idle(class, batch.len() as i64);
    if let Err(batch) = SHARED[class].depot.put(batch) {
        SHARED[class].overflow.lock().append(batch);
    }
}

/// Bytes of free objects in depots from which on [`reclaim`] is worth it though frames are not short: 1/64 of the memory, and
/// twice what it could not free the last time.
fn idle_limit() -> u64 {
    let floor = (frames::total() * PAGE_SIZE as u64 / 64).max(WORTH_A_SEARCH);
    floor.max(2 * STUCK.load(Ordering::Relaxed))
}

/// Free objects per slab, in the frame table: a frame in use by the heap has no other use for its link.
struct Counts;

impl Counts {
    fn frame(slab: usize) -> u64 {
        frame_at(slab as *mut u8)
    }
}

impl SlabCounts for Counts {
    fn reset(&self, slab: usize) {
        frames::set_link(Self::frame(slab), 0);
    }

    fn add(&self, slab: usize) {
        frames::set_link(Self::frame(slab), self.get(slab) as u64 + 1);
    }

    fn get(&self, slab: usize) -> usize {
        frames::link(Self::frame(slab)) as usize
    }
}

/// Gives slabs without objects in use back to the frame allocator. Returns the number of frames.
///
/// Context: may sleep; the frame allocator's lock not held. Takes only locks under which nothing is allocated.
pub(super) fn reclaim() -> u64 {
    // Whoever finds it taken gets by without: the other one is freeing.
    let Some(_reclaiming) = RECLAIMING.try_lock() else { return 0 };
    if IDLE.load(Ordering::Relaxed) < STUCK.load(Ordering::Relaxed) + WORTH_A_SEARCH {
        return 0;
    }
    let freed = (0..CLASSES).map(reclaim_class).sum();
    STUCK.store(IDLE.load(Ordering::Relaxed), Ordering::Relaxed);
    freed
}

fn reclaim_class(class: usize) -> u64 {
    let mut all = core::mem::replace(&mut *SHARED[class].overflow.lock(), List::EMPTY);
    while let Some(batch) = SHARED[class].depot.take() {
        all.append(batch);
    }
    count_idle(class, -(all.len() as i64));
    let mut slabs = sweep(all, class, PAGE_SIZE, &Counts, |batch| store(class, batch));
    let freed = slabs.len() as u64;
    while let Some(slab) = slabs.pop() {
        frames::free_frame(frame_at(slab));
    }
    SHARED[class].slabs.fetch_sub(freed, Ordering::Relaxed);
    freed
}

fn frame_at(object: *mut u8) -> u64 {
    PhysAddr(VirtAddr(object as u64) - VirtAddr(layout::DIRECT_MAP)).frame_number()
}

#[cold]
fn alloc_frames(count: usize) -> Option<*mut u8> {
    let first = frames::alloc_contiguous(count as u64, Pool::Kernel)?;
    LARGE_FRAMES.fetch_add(count as u64, Ordering::Relaxed);
    Some(frames::address(first).to_virt().as_mut_ptr())
}

#[cold]
fn free_frames(object: *mut u8, count: usize) {
    LARGE_FRAMES.fetch_sub(count as u64, Ordering::Relaxed);
    frames::free_contiguous(frame_at(object), count as u64);
}
