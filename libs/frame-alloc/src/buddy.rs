//! The buddy allocator: free physical memory in blocks of 2^order frames, aligned to their size.
//!
//! Each order has a doubly linked list through the [`FrameTable`]; a bit per order says which lists are not empty, so an
//! allocation finds its block without a search and splits it at most [`MAX_ORDER`] times, and a free merges as often.
//! The caller brings the lock.
//!
//! The host behind a virtual machine can be told of free blocks, so that it takes their memory until they are touched again. So there
//! are two lists of each order, by [`Host`]: allocations take memory that the host backs already where they have the choice. A block
//! merged of both kinds counts as backed.

use crate::table::FrameTable;

/// log2 of the frames in the largest block: 1 GiB.
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;

/// What a free block costs the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    /// It has memory for the block, or may have.
    Backs,
    /// It was told that the block is free, or nobody ever touched it.
    Dropped,
}

/// The blocks of one [`Host`] kind.
#[derive(Debug)]
struct Lists {
    heads: [Option<u64>; ORDERS],
    /// Bit k: `heads[k]` is not empty.
    nonempty: u32,
}

/// All free frames of a machine.
#[derive(Debug)]
pub struct Buddy<'a> {
    table: FrameTable<'a>,
    /// By `Host as usize`.
    lists: [Lists; 2],
    free: u64,
    /// Free blocks of each order, both kinds.
    counts: [u64; ORDERS],
}

impl<'a> Buddy<'a> {
    /// An allocator with no free frame.
    #[must_use]
    pub const fn new(table: FrameTable<'a>) -> Self {
        Self { table, lists: [const { Lists { heads: [None; ORDERS], nonempty: 0 } }; 2], free: 0, counts: [0; ORDERS] }
    }

    /// Number of free frames.
    #[must_use]
    pub const fn free_frames(&self) -> u64 {
        self.free
    }

    /// The order of the largest free block.
    #[must_use]
    pub const fn largest_order(&self) -> Option<u32> {
        self.nonempty().checked_ilog2()
    }

    /// Free blocks of each order.
    #[must_use]
    pub const fn counts(&self) -> [u64; ORDERS] {
        self.counts
    }

    const fn nonempty(&self) -> u32 {
        self.lists[0].nonempty | self.lists[1].nonempty
    }

    /// Makes frames `start..end` of RAM, not known until now, free. Parts outside the frame table are ignored.
    pub fn add_range(&mut self, start: u64, end: u64) {
        let covered = self.table.frames();
        let (start, end) = (start.max(covered.start), end.min(covered.end));
        for frame in start..end {
            self.table.mark_plain(frame);
        }
        self.free_range_as(start, end.saturating_sub(start), Host::Dropped);
    }

    /// Takes a block of 2^`order` frames and returns its first frame number, a multiple of 2^`order`.
    pub fn alloc(&mut self, order: u32) -> Option<u64> {
        if order > MAX_ORDER {
            return None;
        }
        let fitting = self.nonempty() >> order << order;
        if fitting == 0 {
            return None;
        }
        let mut have = fitting.trailing_zeros();
        let host = if self.lists[Host::Backs as usize].nonempty & 1 << have != 0 { Host::Backs } else { Host::Dropped };
        let block = self.lists[host as usize].heads[have as usize]?;
        self.unlink(block, have);
        while have > order {
            have -= 1;
            self.push(block + (1 << have), have, host);
        }
        self.table.mark_plain(block);
        self.free -= 1 << order;
        Some(block)
    }

    /// Takes a block of at least 2^`least` frames that the host backs, the largest there is, to tell the host of it. It comes back by
    /// [`Buddy::free_as`] with [`Host::Dropped`]. Returns its first frame and its order.
    pub fn take_backed(&mut self, least: u32) -> Option<(u64, u32)> {
        let order = self.lists[Host::Backs as usize].nonempty.checked_ilog2().filter(|order| *order >= least)?;
        let block = self.lists[Host::Backs as usize].heads[order as usize]?;
        self.unlink(block, order);
        self.table.mark_plain(block);
        self.free -= 1 << order;
        Some((block, order))
    }

    /// Whether [`Buddy::take_backed`] would find a block.
    #[must_use]
    pub const fn has_backed(&self, least: u32) -> bool {
        self.lists[Host::Backs as usize].nonempty >> least != 0
    }

    /// Takes the smallest free block, or of a larger one a part of 2^`largest` frames; returns its first frame number and its
    /// order. For taking many frames at once: large blocks stay whole as long as by taking single frames.
    pub fn alloc_smallest(&mut self, largest: u32) -> Option<(u64, u32)> {
        let order = self.nonempty().trailing_zeros().min(largest).min(MAX_ORDER);
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
        self.free_as(block, order, Host::Backs);
    }

    /// As [`Buddy::free`], with what the host thinks of the block.
    pub fn free_as(&mut self, block: u64, order: u32, host: Host) {
        self.free += 1 << order;
        let (mut block, mut order, mut host) = (block, order, host);
        self.table.mark_plain(block);
        while order < MAX_ORDER {
            let buddy = block ^ (1 << order);
            let Some(other) = self.table.free_block(buddy, order) else { break };
            if other == Host::Backs {
                host = Host::Backs;
            }
            self.unlink(buddy, order);
            self.table.mark_plain(buddy);
            block = block.min(buddy);
            order += 1;
        }
        self.push(block, order, host);
    }

    /// Gives back any `count` contiguous frames.
    pub fn free_range(&mut self, start: u64, count: u64) {
        self.free_range_as(start, count, Host::Backs);
    }

    fn free_range_as(&mut self, start: u64, count: u64, host: Host) {
        let (mut at, end) = (start, start + count);
        while at < end {
            let order = at.trailing_zeros().min((end - at).ilog2()).min(MAX_ORDER);
            self.free_as(at, order, host);
            at += 1 << order;
        }
    }

    fn push(&mut self, block: u64, order: u32, host: Host) {
        let lists = &mut self.lists[host as usize];
        let slot = &mut lists.heads[order as usize];
        self.table.set_link(block, *slot);
        self.table.set_prev(block, None);
        if let Some(next) = *slot {
            self.table.set_prev(next, Some(block));
        }
        *slot = Some(block);
        lists.nonempty |= 1 << order;
        self.counts[order as usize] += 1;
        self.table.mark_free(block, order, host);
    }

    /// Takes a block, which is still marked free, off its list.
    fn unlink(&mut self, block: u64, order: u32) {
        let host = self.table.free_block(block, order).unwrap_or(Host::Backs);
        let lists = &mut self.lists[host as usize];
        let (next, prev) = (self.table.link(block), self.table.prev(block));
        if let Some(next) = next {
            self.table.set_prev(next, prev);
        }
        match prev {
            Some(prev) => self.table.set_link(prev, next),
            None => lists.heads[order as usize] = next,
        }
        if lists.heads[order as usize].is_none() {
            lists.nonempty &= !(1 << order);
        }
        self.counts[order as usize] -= 1;
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

    #[test]
    fn memory_that_the_host_backs_is_taken_first() {
        let store = entries(64);
        let mut buddy = Buddy::new(FrameTable::new(&store, 0));
        buddy.add_range(0, 64);
        assert!(!buddy.has_backed(0), "nobody touched it");
        let (a, b) = (buddy.alloc(3).unwrap(), buddy.alloc(3).unwrap());
        buddy.free(b, 3);
        assert_eq!((buddy.has_backed(3), buddy.has_backed(4)), (true, false));
        assert_eq!(buddy.alloc(3), Some(b));
        buddy.free(b, 3);
        assert_eq!(buddy.take_backed(4), None);
        assert_eq!((buddy.take_backed(2), buddy.free_frames()), (Some((b, 3)), 48));
        buddy.free_as(b, 3, Host::Dropped);
        assert!(!buddy.has_backed(0));
        buddy.free(a, 3);
        assert_eq!(buddy.take_backed(0), Some((0, 6)), "merged with what was reported, it counts as backed");
    }

    #[test]
    fn counts_are_of_both_kinds() {
        let store = entries(64);
        let mut buddy = Buddy::new(FrameTable::new(&store, 0));
        buddy.add_range(0, 48);
        let a = buddy.alloc(4).unwrap();
        let b = buddy.alloc(2).unwrap();
        buddy.free(b + 1, 0);
        let counts = buddy.counts();
        let frames: u64 = counts.iter().enumerate().map(|(order, count)| count << order).sum();
        assert_eq!((a, frames, counts[0]), (32, buddy.free_frames(), 1));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Report(u32),
        Alloc(u32),
        AllocContiguous(u64),
        Free(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![(0..8u32).prop_map(Op::Report), (0..8u32).prop_map(Op::Alloc), (1..40u64).prop_map(Op::AllocContiguous), any::<usize>().prop_map(Op::Free)]
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
                    Op::Report(least) => if let Some((b, order)) = buddy.take_backed(least) {
                        model.take(b, 1 << order, 1 << order);
                        let (block, count) = model.blocks.pop().unwrap();
                        buddy.free_as(b, order, Host::Dropped);
                        model.taken[block as usize..(block + count) as usize].fill(false);
                        model.usable += count;
                    },
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
