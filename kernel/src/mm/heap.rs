//! The kernel heap.
//!
//! Small objects come from per-CPU caches of size classes (`frame_alloc::slab`): two dozen instructions with preemption disabled, no
//! atomic operation. Objects freed on another CPU than the one that allocated them stay there until that cache runs over; batches
//! travel through a lock-free depot. New slabs are single frames; larger objects are whole frames in the direct map. When frames
//! are short, [`reclaim`] looks for slabs in the depots of which every object is free.
//!
//! Context: allocating and freeing may sleep (the buddy allocator's mutex), so neither is allowed in interrupt handlers, nor
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
static DEPOTS: [Depot; CLASSES] = [const { Depot::new() }; CLASSES];
static FRAMES: AtomicU64 = AtomicU64::new(0);
/// Bytes of free objects in the depots.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// Bytes that [`reclaim`] could not free the last time.
static STUCK: Mutex<u64> = Mutex::new(0);
/// Less than this, freed since, is not worth a search.
const WORTH_A_SEARCH: u64 = 64 << 10;

/// Frames that the heap has taken.
pub(super) fn frames_used() -> u64 {
    FRAMES.load(Ordering::Relaxed)
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

fn alloc_small(class: usize) -> Option<*mut u8> {
    if let Some(object) = CACHES.with(|caches| caches.0[class].alloc()) {
        return Some(object);
    }
    let mut list = match DEPOTS[class].take() {
        Some(batch) => {
            IDLE.fetch_sub(size_of_list(&batch, class), Ordering::Relaxed);
            batch
        }
        None => new_slab(class)?,
    };
    let object = list.pop();
    CACHES.with(|caches| caches.0[class].refill(list));
    object
}

fn new_slab(class: usize) -> Option<List> {
    let memory = alloc_frames(1)?;
    // SAFETY: the frame is ours alone, and page-aligned.
    Some(unsafe { List::carve(memory, PAGE_SIZE, CLASS_SIZES[class]) })
}

/// # Safety
/// `object` is a live object of `class`.
unsafe fn free_small(class: usize, object: *mut u8) {
    // SAFETY: the caller gives the object up.
    let batch = CACHES.with(|caches| unsafe { caches.0[class].free(object, cache_limit(class)) });
    store(class, batch);
}

fn store(class: usize, batch: List) {
    if !batch.is_empty() {
        IDLE.fetch_add(size_of_list(&batch, class), Ordering::Relaxed);
        DEPOTS[class].push(batch);
    }
}

const fn size_of_list(list: &List, class: usize) -> u64 {
    (list.len() * CLASS_SIZES[class]) as u64
}

/// Free objects per slab, in the frame table: a frame in use by the heap has no other use for its link.
struct Counts;

impl Counts {
    fn frame(slab: usize) -> u64 {
        PhysAddr(VirtAddr(slab as u64) - VirtAddr(layout::DIRECT_MAP)).frame_number()
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

/// Gives slabs without objects in use back to the frame allocator. Returns whether there were any.
///
/// Context: may sleep; the frame allocator's lock not held.
pub(super) fn reclaim() -> bool {
    // Whoever finds it taken gets by without: the other one is freeing.
    let Some(mut stuck) = STUCK.try_lock() else { return false };
    if IDLE.load(Ordering::Relaxed) < *stuck + WORTH_A_SEARCH {
        return false;
    }
    let mut freed = false;
    for (class, depot) in DEPOTS.iter().enumerate() {
        let all = depot.take_all();
        IDLE.fetch_sub(size_of_list(&all, class), Ordering::Relaxed);
        let mut slabs = sweep(all, class, PAGE_SIZE, &Counts, |batch| store(class, batch));
        while let Some(slab) = slabs.pop() {
            free_frames(slab, 1);
            freed = true;
        }
    }
    *stuck = IDLE.load(Ordering::Relaxed);
    freed
}

fn alloc_frames(count: usize) -> Option<*mut u8> {
    let alloc = || frames::alloc_contiguous(count as u64, Pool::Kernel);
    let first = alloc().or_else(|| if reclaim() { alloc() } else { None })?;
    FRAMES.fetch_add(count as u64, Ordering::Relaxed);
    Some(frames::address(first).to_virt().as_mut_ptr())
}

fn free_frames(object: *mut u8, count: usize) {
    let pa = PhysAddr(VirtAddr(object as u64) - VirtAddr(layout::DIRECT_MAP));
    FRAMES.fetch_sub(count as u64, Ordering::Relaxed);
    frames::free_contiguous(pa.frame_number(), count as u64);
}
