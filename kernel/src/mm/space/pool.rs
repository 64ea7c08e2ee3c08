//! The pool of `MAP_HUGETLB`: large pages that somebody set aside beforehand (`nr_hugepages`), so that they can be had when memory is cut up.
//!
//! A mapping takes pages of the pool first, then others: in Linux's words those are surplus. What a mapping gives back goes to the pool
//! while that has fewer than were set aside. The lock is held for single blocks only; blocks are freed without it.

use super::explicit::explicit_in_use;
use crate::mm::block::Block;
use crate::mm::frames;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use frame::OutOfMemory;
use page_table::PageSize;
use sync::Mutex;

struct Pool {
    free: Mutex<Vec<Block>>,
    /// For those who do not hold the lock.
    free_count: AtomicU64,
    /// How many pages there are at least, free or in use.
    kept: AtomicU64,
}

static POOLS: [Pool; 2] = [const { Pool { free: Mutex::new(Vec::new()), free_count: AtomicU64::new(0), kept: AtomicU64::new(0) } }; 2];

fn pool(size: PageSize) -> &'static Pool {
    &POOLS[usize::from(size == PageSize::Size1G)]
}

/// Free pages in the pool, and how many pages were set aside, free or in use.
pub(super) fn counts(size: PageSize) -> (u64, u64) {
    (pool(size).free_count.load(Ordering::Relaxed), pool(size).kept.load(Ordering::Relaxed))
}

/// Sets pages aside so that there are `pages`, in use and free, or as many as can be had; or gives free ones back.
pub fn set_explicit_pool(size: PageSize, pages: u64) {
    let pool = pool(size);
    let in_use = explicit_in_use(size);
    let wanted = pages.saturating_sub(in_use);
    let mut free = pool.free.lock();
    while (free.len() as u64) < wanted && frames::is_plentiful(size.pages()) && free.try_reserve(1).is_ok() {
        let Ok(block) = Block::alloc_stale(size) else { break };
        free.push(block);
    }
    let kept = free.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
    let surplus = free.split_off(kept);
    let count = free.len() as u64;
    // Room for those in use, so that taking them back never needs memory.
    let room = free.try_reserve(usize::try_from(in_use.min(pages)).unwrap_or(usize::MAX)).is_ok();
    pool.free_count.store(count, Ordering::Relaxed);
    pool.kept.store(if room { count + in_use.min(pages) } else { count }, Ordering::Relaxed);
    drop(free);
    drop(surplus);
}

/// A page with stale contents, of the pool if that has any.
pub(super) fn take(size: PageSize) -> Result<Block, OutOfMemory> {
    let pool = pool(size);
    if pool.free_count.load(Ordering::Relaxed) != 0 {
        let mut free = pool.free.lock();
        if let Some(block) = free.pop() {
            pool.free_count.store(free.len() as u64, Ordering::Relaxed);
            return Ok(block);
        }
    }
    Block::alloc_stale(size)
}

/// Gives a page back that no mapping counts any more.
pub(super) fn give_back(block: Block, size: PageSize) {
    let pool = pool(size);
    if pool.kept.load(Ordering::Relaxed) == 0 || !block.is_sole_owner() {
        return;
    }
    let mut free = pool.free.lock();
    let is_missing = free.len() as u64 + explicit_in_use(size) < pool.kept.load(Ordering::Relaxed);
    if is_missing && free.len() < free.capacity() {
        free.push(block);
        pool.free_count.store(free.len() as u64, Ordering::Relaxed);
    } else {
        drop(free);
        drop(block);
    }
}
