//! Frames zeroed while a CPU has nothing else to do.
//!
//! **Theory.** A page fault that finds a zeroed frame saves most of its cost; the idle loop has the time. What it zeroes follows
//! from what was asked for: every zeroed block that is taken adds to the *demand* of its order, every block that is zeroed takes
//! from it. So an idle machine zeroes what its program has used up, once, and then halts; a program that never asks costs nothing.
//! The first [`FREE_OF_CHARGE`] frames do not count: short programs end before it pays.
//!
//! The idle loop calls [`idle_work`] as long as [`has_idle_work`]. Each call zeroes one frame with interrupts on and preemption
//! allowed, so a thread that becomes runnable gets the CPU at once. A block in progress belongs to the idle thread of its CPU (the
//! [`Job`]); it takes and gives blocks with the central pool's lock, with preemption disabled and only if the lock is free: the idle
//! thread cannot sleep, and must not be switched away from while it holds a lock.
//!
//! Zeroed blocks count as free memory; when the buddy allocator runs dry they become ordinary blocks again.

use super::frames;
use crate::percpu::{MAX_CPUS, PerCpu, PreemptGuard};
use core::cell::Cell;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use frame_alloc::{FrameList, FrameTable};

/// The sizes kept: 4 KiB and 2 MiB.
const ORDERS: [u32; 2] = [0, 9];
const LARGE_ORDER: u32 = ORDERS[1];
/// Small frames are zeroed in blocks of at most 2^`SMALL_BLOCK`.
const SMALL_BLOCK: u32 = 5;
/// Frames that are zeroed by those who need them before the idle loop begins.
const FREE_OF_CHARGE: i32 = 256;

/// Blocks of each order that were used and not replaced yet.
static DEMAND: [AtomicI32; ORDERS.len()] = [AtomicI32::new(-FREE_OF_CHARGE), AtomicI32::new(0)];
/// Blocks of each order at hand in the central pool.
static AT_HAND: [AtomicU32; ORDERS.len()] = [const { AtomicU32::new(0) }; ORDERS.len()];
/// Frames of blocks being zeroed.
static IN_PROGRESS: AtomicU64 = AtomicU64::new(0);
static JOBS: PerCpu<Job> = PerCpu::new([const { Job::new() }; MAX_CPUS]);

fn class_of(order: u32) -> Option<usize> {
    ORDERS.iter().position(|&kept| kept == order)
}

/// Most blocks of each class kept.
static LIMITS: [AtomicI32; ORDERS.len()] = [const { AtomicI32::new(0) }; ORDERS.len()];

/// The memory has `total` frames now: at most 1/64 of it is kept in small frames (8 MiB at most), 1/32 in large ones (64 MiB at most).
pub(super) fn set_limits(total: u64) {
    LIMITS[0].store((total / 64).min(2048) as i32, Ordering::Relaxed);
    LIMITS[1].store(((total / 32) >> LARGE_ORDER).min(32) as i32, Ordering::Relaxed);
}

fn limit(class: usize) -> u64 {
    LIMITS[class].load(Ordering::Relaxed) as u64
}

/// Notes that `count` zeroed blocks of `order` were asked for.
pub(super) fn note_demand(order: u32, count: u32) {
    if let Some(class) = class_of(order)
        // No more than fits: what was used long ago in masses is not to be replaced.
        && DEMAND[class].load(Ordering::Relaxed) < LIMITS[class].load(Ordering::Relaxed)
    {
        DEMAND[class].fetch_add(count as i32, Ordering::Relaxed);
    }
}

/// About how many zeroed blocks of `order` the central pool has.
pub(super) fn at_hand(order: u32) -> u32 {
    class_of(order).map_or(0, |class| AT_HAND[class].load(Ordering::Relaxed))
}

/// About how many frames the zeroed blocks of the central pool have.
pub(super) fn frames_at_hand() -> u64 {
    AT_HAND.iter().zip(ORDERS).map(|(blocks, order)| u64::from(blocks.load(Ordering::Relaxed)) << order).sum()
}

/// Frames of blocks that are being zeroed: neither in use nor in a pool.
pub(super) fn in_progress() -> u64 {
    IN_PROGRESS.load(Ordering::Relaxed)
}

/// The zeroed blocks of the central pool, under its lock.
pub(super) struct Zeroed {
    lists: [FrameList; ORDERS.len()],
}

impl Zeroed {
    pub(super) const EMPTY: Self = Self { lists: [FrameList::EMPTY; ORDERS.len()] };

    /// Number of frames in all blocks.
    pub(super) fn frames(&self) -> u64 {
        self.lists.iter().zip(ORDERS).map(|(list, order)| list.len() << order).sum()
    }

    /// Takes a block.
    pub(super) fn take(&mut self, table: &FrameTable<'_>, order: u32) -> Option<u64> {
        let class = class_of(order)?;
        let block = self.lists[class].pop(table)?;
        self.publish(class);
        Some(block)
    }

    /// Adds a block of frames that are all zero. Returns whether there was room.
    pub(super) fn put(&mut self, table: &FrameTable<'_>, block: u64, order: u32) -> bool {
        let class = usize::from(order == LARGE_ORDER);
        let blocks = 1 << (order - ORDERS[class]);
        if self.lists[class].len() + blocks > limit(class) {
            return false;
        }
        for first in (block..block + (1 << order)).step_by(1 << ORDERS[class]) {
            self.lists[class].push(table, first);
        }
        self.publish(class);
        true
    }

    /// Passes all blocks to `free`. Returns whether there were any.
    pub(super) fn drain(&mut self, table: &FrameTable<'_>, mut free: impl FnMut(u64, u32)) -> bool {
        let mut any = false;
        for (class, order) in ORDERS.into_iter().enumerate() {
            while let Some(block) = self.lists[class].pop(table) {
                free(block, order);
                any = true;
            }
            self.publish(class);
        }
        any
    }

    fn publish(&self, class: usize) {
        AT_HAND[class].store(self.lists[class].len() as u32, Ordering::Relaxed);
    }
}

/// A block that the idle thread of a CPU is zeroing. Only that thread touches it.
struct Job {
    block: Cell<Option<u64>>,
    order: Cell<u32>,
    done: Cell<u64>,
}

impl Job {
    const fn new() -> Self {
        Self { block: Cell::new(None), order: Cell::new(0), done: Cell::new(0) }
    }
}

/// The class whose demand is to be met next. None while memory is short.
fn wanted() -> Option<usize> {
    let class = DEMAND.iter().position(|demand| demand.load(Ordering::Relaxed) > 0)?;
    (u64::from(AT_HAND[class].load(Ordering::Relaxed)) < limit(class) && !frames::is_below_limit()).then_some(class)
}

/// Whether the idle loop should call [`idle_work`] before it halts.
///
/// Context: idle thread.
#[inline]
pub(crate) fn has_idle_work() -> bool {
    wanted().is_some() || JOBS.with(|job| job.block.get().is_some())
}

/// Zeroes one frame, or takes or finishes a block.  Returns whether it came any further: if not, another CPU has the lock, and the
/// next time will do.
///
/// Context: idle thread, interrupts on, preemption enabled; never sleeps.
pub(crate) fn idle_work() -> bool {
    let Some((block, order, done)) = JOBS.with(|job| job.block.get().map(|block| (block, job.order.get(), job.done.get()))) else {
        return begin();
    };
    if done < 1 << order {
        frames::zero(block + done);
        JOBS.with(|job| job.done.set(done + 1));
        return true;
    }
    finish(block, order)
}

fn begin() -> bool {
    let Some(class) = wanted() else { return false };
    let _not_switched = PreemptGuard::new();
    let taken = frames::try_with_central(|central| {
        if ORDERS[class] == 0 { central.take_dirty_small(SMALL_BLOCK) } else { central.take_dirty(LARGE_ORDER) }
    });
    let Some(taken) = taken else { return false };
    let Some((block, order)) = taken else {
        // No such block: whoever needs one next time asks again.
        DEMAND[class].store(0, Ordering::Relaxed);
        return false;
    };
    DEMAND[class].fetch_sub(1 << (order - ORDERS[class]), Ordering::Relaxed);
    IN_PROGRESS.fetch_add(1 << order, Ordering::Relaxed);
    JOBS.with(|job| {
        job.block.set(Some(block));
        job.order.set(order);
        job.done.set(0);
    });
    true
}

fn finish(block: u64, order: u32) -> bool {
    let _not_switched = PreemptGuard::new();
    if frames::try_with_central(|central| central.put_zeroed(block, order)).is_none() {
        return false;
    }
    IN_PROGRESS.fetch_sub(1 << order, Ordering::Relaxed);
    JOBS.with(|job| job.block.set(None));
    true
}
