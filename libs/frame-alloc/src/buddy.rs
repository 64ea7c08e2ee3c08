//! The buddy allocator: free physical memory in blocks of 2^order frames, aligned to their size.
//!
//! Each order has a doubly linked list through the [`FrameTable`]; a bit per order says which lists are not empty, so an
//! allocation finds its block without a search and splits it at most [`MAX_ORDER`] times, and a free merges as often.
//! The caller brings the lock.

use crate::table::FrameTable;

/// log2 of the frames in the largest block: 1 GiB.
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;

/// All free frames of a machine.
#[derive(Debug)]
pub struct Buddy<'a> {
    table: FrameTable<'a>,
    heads: [Option<u64>; ORDERS],
    /// Bit k: `heads[k]` is not empty.
    nonempty: u32,
    free: u64,
}

impl<'a> Buddy<'a> {
    /// An allocator with no free frame.
    #[must_use]
    pub const fn new(table: FrameTable<'a>) -> Self {
        Self { table, heads: [None; ORDERS], nonempty: 0, free: 0 }
    }

    /// Number of free frames.
    #[must_use]
    pub const fn free_frames(&self) -> u64 {
        self.free
    }

    /// The order of the largest free block.
    #[must_use]
    pub const fn largest_order(&self) -> Option<u32> {
        self.nonempty.checked_ilog2()
    }

    /// Makes frames `start..end` of RAM, not known until now, free. Parts outside the frame table are ignored.
    pub fn add_range(&mut self, start: u64, end: u64) {
        let covered = self.table.frames();
        let (start, end) = (start.max(covered.start), end.min(covered.end));
        for frame in start..end {
            self.table.mark_plain(frame);
        }
        self.free_range(start, end.saturating_sub(start));
    }

    /// Takes a block of 2^`order` frames and returns its first frame number, a multiple of 2^`order`.
    pub fn alloc(&mut self, order: u32) -> Option<u64> {
        if order > MAX_ORDER {
            return None;
        }
        let fitting = self.nonempty >> order << order;
        if fitting == 0 {
            return None;
        }
        let mut have = fitting.trailing_zeros();
        let block = self.heads[have as usize]?;
        self.unlink(block, have);
        while have > order {
            have -= 1;
            self.push(block + (1 << have), have);
        }
        self.table.mark_plain(block);
        self.free -= 1 << order;
        Some(block)
    }

    /// Takes the smallest free block, or of a larger one a part of 2^`largest` frames; returns its first frame number and its
    /// order. For taking many frames at once: large blocks stay whole as long as by taking single frames.
    pub fn alloc_smallest(&mut self, largest: u32) -> Option<(u64, u32)> {
        let order = self.nonempty.trailing_zeros().min(largest).min(MAX_ORDER);
        Some((self.alloc(order)?, order))
    }

    /// Takes `count` contiguous frames, aligned to the power of two that holds them; what that block has beyond `count` stays free.
    pub fn alloc_contiguous(&mut self, count: u64) -> Option<u64> {
        let order = count.checked_next_power_of_two()?.ilog2();
        let block = self.alloc(order)?;
        self.free_range(block + count, (1 << order) - count);
        Some(block)
    }

    /// Gives back a block of 2^`order` frames.
    pub fn free(&mut self, block: u64, order: u32) {
        self.free += 1 << order;
        let (mut block, mut order) = (block, order);
        self.table.mark_plain(block);
        while order < MAX_ORDER {
            let buddy = block ^ (1 << order);
            if !self.table.is_free_block(buddy, order) {
                break;
            }
            self.unlink(buddy, order);
            self.table.mark_plain(buddy);
            block = block.min(buddy);
            order += 1;
        }
        self.push(block, order);
    }

    /// Gives back any `count` contiguous frames.
    pub fn free_range(&mut self, start: u64, count: u64) {
        let (mut at, end) = (start, start + count);
        while at < end {
            let order = at.trailing_zeros().min((end - at).ilog2()).min(MAX_ORDER);
            self.free(at, order);
            at += 1 << order;
        }
    }

    fn push(&mut self, block: u64, order: u32) {
        let slot = &mut self.heads[order as usize];
        self.table.set_link(block, *slot);
        self.table.set_prev(block, None);
        if let Some(next) = *slot {
            self.table.set_prev(next, Some(block));
        }
        *slot = Some(block);
        self.table.mark_free(block, order);
        self.nonempty |= 1 << order;
    }

    fn unlink(&mut self, block: u64, order: u32) {
        let (next, prev) = (self.table.link(block), self.table.prev(block));
        if let Some(next) = next {
            self.table.set_prev(next, prev);
        }
        match prev {
            Some(prev) => self.table.set_link(prev, next),
            None => self.heads[order as usize] = next,
        }
        if self.heads[order as usize].is_none() {
            self.nonempty &= !(1 << order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::FrameMeta;
    use proptest::prelude::*;

    fn entries(n: usize) -> Vec<FrameMeta> {
        (0..n).map(|_| FrameMeta::default()).collect()
    }

    #[test]
    fn split_blocks_merge_again() {
        let store = entries(4096);
        let mut buddy = Buddy::new(FrameTable::new(&store, 0));
        buddy.add_range(0, 4096);
        let frames: Vec<u64> = (0..4096).map(|_| buddy.alloc(0).unwrap()).collect();
        assert_eq!((buddy.alloc(0), buddy.free_frames(), buddy.largest_order()), (None, 0, None));
        for frame in frames {
            buddy.free(frame, 0);
        }
        assert_eq!((buddy.free_frames(), buddy.largest_order()), (4096, Some(12)));
    }

    #[test]
    fn many_frames_come_from_the_smallest_blocks() {
        let store = entries(64);
        let mut buddy = Buddy::new(FrameTable::new(&store, 0));
        buddy.add_range(0, 7);
        buddy.add_range(32, 64);
        assert_eq!(buddy.alloc_smallest(2), Some((6, 0)));
        assert_eq!(buddy.alloc_smallest(2), Some((4, 1)));
        assert_eq!(buddy.alloc_smallest(1), Some((0, 1)));
        assert_eq!(buddy.alloc_smallest(5), Some((2, 1)));
        assert_eq!(buddy.alloc_smallest(9), Some((32, 5)));
        assert_eq!(buddy.alloc_smallest(9), None);
    }

    #[test]
    fn ranges_with_holes_never_merge_across_the_hole() {
        let store = entries(64);
        let mut buddy = Buddy::new(FrameTable::new(&store, 16));
        buddy.add_range(0, 24);
        buddy.add_range(32, 1000);
        assert_eq!(buddy.free_frames(), 8 + 48);
        assert_eq!(buddy.alloc(5), Some(32));
        assert_eq!(buddy.alloc(4), Some(64));
        assert_eq!(buddy.alloc(4), None);
        assert_eq!(buddy.alloc(3), Some(16));
    }

    #[test]
    fn contiguous_allocations_waste_nothing() {
        let store = entries(64);
        let mut buddy = Buddy::new(FrameTable::new(&store, 0));
        buddy.add_range(0, 64);
        let block = buddy.alloc_contiguous(5).unwrap();
        assert_eq!(buddy.free_frames(), 59);
        buddy.free_range(block, 5);
        assert_eq!(buddy.largest_order(), Some(6));
        assert_eq!(buddy.alloc_contiguous(u64::MAX), None);
        assert_eq!(buddy.alloc(MAX_ORDER + 1), None);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Alloc(u32),
        AllocContiguous(u64),
        Free(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![(0..8u32).prop_map(Op::Alloc), (1..40u64).prop_map(Op::AllocContiguous), any::<usize>().prop_map(Op::Free)]
    }

    /// Which frames are handed out, by the model.
    struct Model {
        taken: Vec<bool>,
        blocks: Vec<(u64, u64)>,
        usable: u64,
    }

    impl Model {
        fn take(&mut self, block: u64, count: u64, align: u64) {
            assert_eq!(block % align, 0, "misaligned block");
            for frame in block..block + count {
                assert!(!std::mem::replace(&mut self.taken[frame as usize], true), "frame {frame} handed out twice");
            }
            self.blocks.push((block, count));
            self.usable -= count;
        }
    }

    proptest! {
        #[test]
        fn behaves_like_the_model(ops in prop::collection::vec(op(), 1..200), hole in 50..150u64) {
            let store = entries(512);
            let mut buddy = Buddy::new(FrameTable::new(&store, 0));
            buddy.add_range(0, hole);
            buddy.add_range(hole + 10, 500);
            let mut taken = vec![false; 512];
            taken[hole as usize..hole as usize + 10].fill(true);
            taken[500..].fill(true);
            let mut model = Model { taken, blocks: Vec::new(), usable: 490 };
            for op in ops {
                match op {
                    Op::Alloc(order) => if let Some(b) = buddy.alloc(order) { model.take(b, 1 << order, 1 << order) },
                    Op::AllocContiguous(n) => if let Some(b) = buddy.alloc_contiguous(n) { model.take(b, n, n.next_power_of_two()) },
                    Op::Free(which) if !model.blocks.is_empty() => {
                        let (block, count) = model.blocks.swap_remove(which % model.blocks.len());
                        buddy.free_range(block, count);
                        model.taken[block as usize..(block + count) as usize].fill(false);
                        model.usable += count;
                    }
                    Op::Free(_) => {}
                }
                prop_assert_eq!(buddy.free_frames(), model.usable);
            }
            for (block, count) in std::mem::take(&mut model.blocks) {
                buddy.free_range(block, count);
            }
            let mut fresh_store = Buddy::new(FrameTable::new(&store, 0));
            std::mem::swap(&mut fresh_store, &mut buddy);
            prop_assert_eq!(fresh_store.free_frames(), 490);
        }

        #[test]
        fn everything_freed_coalesces_fully(sizes in prop::collection::vec(1..30u64, 1..40)) {
            let store = entries(1024);
            let mut buddy = Buddy::new(FrameTable::new(&store, 0));
            buddy.add_range(0, 1024);
            let blocks: Vec<_> = sizes.iter().filter_map(|&n| buddy.alloc_contiguous(n).map(|b| (b, n))).collect();
            for (block, n) in blocks {
                buddy.free_range(block, n);
            }
            prop_assert_eq!(buddy.largest_order(), Some(10));
        }
    }
}
