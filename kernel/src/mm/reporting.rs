//! Memory between the guest and its host: frames lent to the balloon, and free blocks reported.
//!
//! **Theory.** The buddy allocator knows of each free block whether the host may have memory for it (`frame_alloc::Host`). When frees
//! have made blocks of 2 MiB and more that it may have, [`wait_for_unreported`] lets the reporting thread go on, after a delay so that
//! what is used again soon is not taken away for nothing. Blocks in a report are nobody's until the host is done: an allocation that
//! fails meanwhile waits for them ([`wait_until_returned`]), at most [`LONGEST_WAIT_NS`], as a host may never answer.

use super::frames::{self, Central};
use addr::PAGE_SHIFT;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use drivers::virtio_balloon::{GuestMemory, Segment, Statistics};
use sync::{Interrupt, WaitQueue};

/// Smallest block worth a report: 2 MiB.
const LEAST_ORDER: u32 = 9;
/// How long free blocks wait for being used again.
const DELAY_NS: u64 = 1_000_000_000;
const LONGEST_WAIT_NS: u64 = 1_000_000_000;
/// Frames that the balloon leaves to the guest: a 32nd of the memory, and no less than this.
const LEAST_LEFT: u64 = 1024;

/// Frames that the host has from the balloon.
static LENT: AtomicU64 = AtomicU64::new(0);
/// Frames in a report that is under way.
static IN_REPORT: AtomicU64 = AtomicU64::new(0);
static RETURNED: WaitQueue = WaitQueue::new();
/// The reporting thread sleeps and wants to know of backed blocks.
static WANTED: AtomicBool = AtomicBool::new(false);
static FOUND: WaitQueue = WaitQueue::new();

/// Frames that the host has from the balloon.
pub(super) fn lent() -> u64 {
    LENT.load(Ordering::Relaxed)
}

/// Frames in a report that is under way: free, but not at hand.
pub(super) fn in_report() -> u64 {
    IN_REPORT.load(Ordering::Relaxed)
}

/// Whether the reporting thread should look again, after frames became free. Called with the central pool's lock held, so cheap.
pub(super) fn is_wanted(central: &Central) -> bool {
    WANTED.load(Ordering::Relaxed) && central.buddy().has_backed(LEAST_ORDER)
}

/// Wakes the reporting thread. No lock held.
#[cold]
pub(super) fn wake() {
    if WANTED.swap(false, Ordering::Relaxed) {
        FOUND.wake_all();
    }
}

/// Sleeps until there are blocks to report, and then for a while.
///
/// Context: the reporting thread.
pub(crate) fn wait_for_unreported() {
    let found = || {
        // Before the look, so that a free after it wakes us.
        WANTED.store(true, Ordering::Relaxed);
        frames::with_central(|central| central.buddy().has_backed(LEAST_ORDER)).unwrap_or(false).then_some(())
    };
    // No deadline, no interruption: it returns when there are some.
    let _found = FOUND.wait_until(None, Interrupt::Ignored, found);
    WANTED.store(false, Ordering::Relaxed);
    let until = crate::clock::monotonic_ns() + DELAY_NS;
    while crate::clock::monotonic_ns() < until {
        crate::thread::park(until);
    }
}

/// Waits for the blocks of a report, if one is under way. Returns how many frames came back.
pub(super) fn wait_until_returned() -> u64 {
    let frames = in_report();
    if frames == 0 {
        return 0;
    }
    let until = crate::clock::monotonic_ns() + LONGEST_WAIT_NS;
    match RETURNED.wait_until(Some(until), Interrupt::Ignored, || (in_report() == 0).then_some(())) {
        Ok(()) => frames,
        Err(_) => 0,
    }
}

/// The frame allocator, as the balloon driver sees it.
pub(crate) struct Lender;

impl GuestMemory for Lender {
    fn take(&self, out: &mut [u32]) -> usize {
        let left = (frames::total() / 32).max(LEAST_LEFT);
        let taken = frames::with_central(|central| {
            let spare = central.free_frames().saturating_sub(left).min(out.len() as u64) as usize;
            let mut taken = 0;
            while taken < spare {
                let largest = (spare - taken).ilog2();
                let Some((block, order)) = central.alloc_smallest(largest) else { break };
                for frame in block..block + (1 << order) {
                    out[taken] = frame as u32;
                    taken += 1;
                }
            }
            taken
        });
        let taken = taken.unwrap_or(0);
        LENT.fetch_add(taken as u64, Ordering::Relaxed);
        taken
    }

    fn give_back(&self, lent: &[u32]) {
        frames::with_central(|central| lent.iter().for_each(|&frame| central.free_dropped(frame.into(), 0)));
        LENT.fetch_sub(lent.len() as u64, Ordering::Relaxed);
    }

    fn take_unreported(&self, blocks: &mut [Segment]) -> usize {
        if frames::is_below_limit() {
            return 0;
        }
        frames::with_central(|central| {
            // At most half of what is free is out of reach at a time, but for a single larger block.
            let most = central.free_frames() / 2;
            let (mut count, mut taken) = (0, 0);
            while count < blocks.len()
                && taken < most
                && let Some((block, order)) = central.take_backed(LEAST_ORDER)
            {
                blocks[count] = Segment { address: frames::address(block), len: 1 << (order + PAGE_SHIFT) };
                count += 1;
                taken += 1 << order;
            }
            IN_REPORT.fetch_add(taken, Ordering::Relaxed);
            count
        })
        .unwrap_or(0)
    }

    fn give_back_reported(&self, blocks: &[Segment]) {
        let frames_of = |block: &Segment| u64::from(block.len) >> PAGE_SHIFT;
        frames::with_central(|central| {
            for block in blocks {
                central.free_dropped(block.address.frame_number(), frames_of(block).ilog2());
            }
        });
        IN_REPORT.fetch_sub(blocks.iter().map(frames_of).sum(), Ordering::Relaxed);
        RETURNED.wake_all();
    }

    fn statistics(&self) -> Statistics {
        let info = frames::memory_info();
        Statistics {
            free_bytes: info.free_bytes(),
            total_bytes: info.total_bytes(),
            available_bytes: info.available_bytes(),
            ..Statistics::default()
        }
    }
}
