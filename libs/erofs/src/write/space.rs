//! Finds places for inodes in the metadata area, which begins right after the superblock.

use std::collections::BTreeSet;

use crate::BLOCK_SIZE;
use crate::layout::{INODE_SLOT, SUPER_OFFSET, SuperBlock};

/// The metadata area: blocks filled from their start. An inode with its attributes and inline data lies in one
/// block, the one with the least room that suffices; only one larger than a block takes several.
pub(super) struct MetaSpace {
    blocks: u64,
    /// The room at the end of blocks: bytes, block.
    room: BTreeSet<(usize, u64)>,
}

impl MetaSpace {
    pub(super) fn new() -> MetaSpace {
        let first = BLOCK_SIZE - SUPER_OFFSET - size_of::<SuperBlock>();
        MetaSpace {
            blocks: 1,
            room: BTreeSet::from([(first, 0)]),
        }
    }

    /// Takes `len` bytes; returns their offset in the image, a multiple of the inode slot.
    pub(super) fn take(&mut self, len: usize) -> u64 {
        let len = len.next_multiple_of(INODE_SLOT);
        let (room, block) = match self.room.range((len, 0)..).next() {
            Some(&best) => {
                self.room.remove(&best);
                best
            }
            None => self.append(len),
        };
        let offset = (block + 1) * BLOCK_SIZE as u64 - room as u64;
        if room >= len {
            self.give_back(room - len, block);
        }
        offset
    }

    /// Blocks in the area, the superblock's among them.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Adds as many blocks as `len` bytes need; returns the first, whole.
    fn append(&mut self, len: usize) -> (usize, u64) {
        let first = self.blocks;
        self.blocks += len.div_ceil(BLOCK_SIZE) as u64;
        if len > BLOCK_SIZE {
            self.give_back(len.next_multiple_of(BLOCK_SIZE) - len, self.blocks - 1);
        }
        (BLOCK_SIZE, first)
    }

    fn give_back(&mut self, room: usize, block: u64) {
        if room > 0 {
            self.room.insert((room, block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_things_fill_gaps_and_large_ones_take_whole_blocks() {
        let mut space = MetaSpace::new();
        assert_eq!(space.take(64), 1152);
        assert_eq!(space.take(4096), 4096);
        assert_eq!(space.take(5000), 8192);
        assert_eq!(space.blocks(), 4);
        // The room after the large thing, then that after the first one.
        assert_eq!(space.take(3000), 8192 + 5024);
        assert_eq!(space.take(2817), 1152 + 64);
        assert_eq!(space.take(2880), 4 * 4096);
    }
}
