//! The frame table: twelve bytes for each frame of RAM.
//!
//! **Theory.** A frame is in one of three states, kept in `tag`:
//!
//! - *permanent* (0, what a fresh table holds): reserved memory, the boot image, or no memory at all. Counting does nothing.
//! - *free block of order k*: the first frame of a block on a free list of the buddy allocator, and whether the host has memory for it; `word` and
//!   `prev` are its links.
//! - *plain*: handed out, or an inner frame of a block. `word` is the reference count of a handed-out frame, or the link of a
//!   private list while somebody (a per-CPU cache) holds the frame in stock.
//!
//! `tag` and the links of free blocks change only under the buddy allocator's lock. `word` of a handed-out frame is changed by
//! whoever holds references, with atomic operations; the one that takes the count to zero owns the frame alone. The decrement is
//! a Release and the last one adds an Acquire fence, so all uses of the frame happen before its next life.
//! Everything is atomic because buddies look at each other's `tag` without owning each other, and Relaxed because the lock orders it.

use crate::buddy::Host;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// No frame, in a link.
pub(crate) const NONE: u32 = u32::MAX;

const PERMANENT: u32 = 0;
const PLAIN: u32 = 1;
const FREE: u32 = 0x100;
/// With `FREE`: the host has no memory for the block.
const DROPPED: u32 = 0x200;

/// The entry of one frame.
#[derive(Debug, Default)]
#[repr(C)]
pub struct FrameMeta {
    word: AtomicU32,
    prev: AtomicU32,
    tag: AtomicU32,
}

/// Whether a reference that was taken away was the last one.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastReference {
    /// The caller owns the frame alone and frees it.
    Yes,
    /// Others remain, or the frame is permanent.
    No,
}

/// The entries of all frames from `first` on. Copies refer to the same table.
#[derive(Clone, Copy, Debug)]
pub struct FrameTable<'a> {
    entries: &'a [FrameMeta],
    first: u64,
}

impl<'a> FrameTable<'a> {
    /// A table whose first entry is that of frame number `first`. The entries hold anything; all frames become permanent.
    ///
    /// # Panics
    /// If there are more than `u32::MAX - 1` entries.
    #[must_use]
    pub fn new(entries: &'a [FrameMeta], first: u64) -> Self {
        assert!(entries.len() < NONE as usize, "more frames than links can name");
        for entry in entries {
            entry.tag.store(PERMANENT, Ordering::Relaxed);
            entry.word.store(0, Ordering::Relaxed);
        }
        Self { entries, first }
    }

    /// Frame numbers that the table covers.
    #[must_use]
    pub fn frames(&self) -> Range<u64> {
        self.first..self.first + self.entries.len() as u64
    }

    fn get(&self, frame: u64) -> Option<&'a FrameMeta> {
        self.entries.get(usize::try_from(frame.checked_sub(self.first)?).ok()?)
    }

    fn counted(&self, frame: u64) -> Option<&'a FrameMeta> {
        self.get(frame).filter(|entry| entry.tag.load(Ordering::Relaxed) != PERMANENT)
    }

    /// Whether references to the frame are counted. Frames outside the table are permanent.
    #[must_use]
    pub fn is_counted(&self, frame: u64) -> bool {
        self.counted(frame).is_some()
    }

    /// Gives a frame that was just handed out its first reference.
    pub fn set_first_reference(&self, frame: u64) {
        if let Some(entry) = self.counted(frame) {
            entry.word.store(1, Ordering::Relaxed);
        }
    }

    /// Adds a reference; the caller has one.
    pub fn add_reference(&self, frame: u64) {
        if let Some(entry) = self.counted(frame) {
            entry.word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a reference away.
    pub fn drop_reference(&self, frame: u64) -> LastReference {
        let Some(entry) = self.counted(frame) else { return LastReference::No };
        let before = entry.word.fetch_sub(1, Ordering::Release);
        debug_assert!(before != 0, "frame {frame:#x} had no reference to drop");
        if before != 1 {
            return LastReference::No;
        }
        fence(Ordering::Acquire);
        LastReference::Yes
    }

    /// Number of references, or `None` for a permanent frame.
    ///
    /// A count of one, seen by the holder of that reference, stays one until the holder shares it.
    #[must_use]
    pub fn references(&self, frame: u64) -> Option<u32> {
        self.counted(frame).map(|entry| entry.word.load(Ordering::Acquire))
    }

    /// The entries of a block, which lies wholly inside the table or wholly outside.
    fn block(&self, block: u64, count: u64) -> &'a [FrameMeta] {
        let entries = block.checked_sub(self.first).zip(usize::try_from(count).ok()).and_then(|(start, count)| {
            let start = usize::try_from(start).ok()?;
            self.entries.get(start..start.checked_add(count)?)
        });
        entries.unwrap_or(&[])
    }

    /// Gives every frame of a block that was just handed out its first reference.
    ///
    /// There is no count for a block as a whole: every frame has its own, so that cutting a block up needs nothing. What this costs
    /// is a store for each frame, a two-hundredth of what clearing the block costs.
    pub fn set_first_references(&self, block: u64, count: u64) {
        for entry in self.block(block, count) {
            entry.word.store(1, Ordering::Relaxed);
        }
    }

    /// Adds a reference to every frame of a block; the caller has one to each. The frames are counted ones.
    pub fn add_references(&self, block: u64, count: u64) {
        for entry in self.block(block, count) {
            entry.word.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the caller, who has a reference to every frame of a block, has the only ones.
    #[must_use]
    pub fn is_sole_owner(&self, block: u64, count: u64) -> bool {
        let others = self.block(block, count).iter().fold(0, |others, entry| others | (entry.word.load(Ordering::Relaxed) ^ 1));
        // Pairs with the Release of whoever gave a reference back.
        fence(Ordering::Acquire);
        others == 0
    }

    /// Takes a reference to every frame of a block away. If the caller was the only owner of all of them, it owns the block then and
    /// frees it; otherwise `free` gets every single frame whose last reference this was.
    pub fn drop_references(&self, block: u64, count: u64, mut free: impl FnMut(u64)) -> LastReference {
        if self.is_sole_owner(block, count) {
            return LastReference::Yes;
        }
        for frame in block..block + count {
            if self.drop_reference(frame) == LastReference::Yes {
                free(frame);
            }
        }
        LastReference::No
    }

    /// The private link of a frame that the caller holds in stock.
    #[must_use]
    pub fn link(&self, frame: u64) -> Option<u64> {
        let raw = self.get(frame)?.word.load(Ordering::Relaxed);
        (raw != NONE).then(|| self.first + u64::from(raw))
    }

    /// Sets the private link of a frame that the caller holds in stock.
    pub fn set_link(&self, frame: u64, next: Option<u64>) {
        if let Some(entry) = self.get(frame) {
            entry.word.store(next.map_or(NONE, |n| self.index(n)), Ordering::Relaxed);
        }
    }

    /// The 32-bit name of a frame, for lists.
    #[expect(clippy::cast_possible_truncation, reason = "the table has fewer than 2^32 entries")]
    pub(crate) fn index(&self, frame: u64) -> u32 {
        (frame - self.first) as u32
    }

    pub(crate) fn prev(&self, frame: u64) -> Option<u64> {
        let raw = self.get(frame)?.prev.load(Ordering::Relaxed);
        (raw != NONE).then(|| self.first + u64::from(raw))
    }

    pub(crate) fn set_prev(&self, frame: u64, prev: Option<u64>) {
        if let Some(entry) = self.get(frame) {
            entry.prev.store(prev.map_or(NONE, |p| self.index(p)), Ordering::Relaxed);
        }
    }

    /// Of which kind the free block of that order is that begins at `frame`, if one does.
    pub(crate) fn free_block(&self, frame: u64, order: u32) -> Option<Host> {
        let tag = self.get(frame)?.tag.load(Ordering::Relaxed);
        match tag ^ (FREE | order) {
            0 => Some(Host::Backs),
            DROPPED => Some(Host::Dropped),
            _ => None,
        }
    }

    pub(crate) fn mark_free(&self, frame: u64, order: u32, host: Host) {
        if let Some(entry) = self.get(frame) {
            let kind = if host == Host::Dropped { DROPPED } else { 0 };
            entry.tag.store(FREE | kind | order, Ordering::Relaxed);
        }
    }

    pub(crate) fn mark_plain(&self, frame: u64) {
        if let Some(entry) = self.get(frame) {
            entry.tag.store(PLAIN, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(n: usize) -> Vec<FrameMeta> {
        (0..n).map(|_| FrameMeta::default()).collect()
    }

    #[test]
    fn frames_nobody_added_are_permanent() {
        let store = entries(4);
        let table = FrameTable::new(&store, 100);
        for frame in [0, 99, 100, 103, 104, u64::MAX] {
            table.add_reference(frame);
            assert_eq!(table.drop_reference(frame), LastReference::No);
            assert_eq!(table.references(frame), None);
        }
    }

    #[test]
    fn the_last_reference_is_reported_once() {
        let store = entries(4);
        let table = FrameTable::new(&store, 100);
        table.mark_plain(101);
        table.set_first_reference(101);
        table.add_reference(101);
        assert_eq!(table.drop_reference(101), LastReference::No);
        assert_eq!(table.references(101), Some(1));
        assert_eq!(table.drop_reference(101), LastReference::Yes);
    }

    #[test]
    fn a_block_is_counted_frame_by_frame() {
        let store = entries(16);
        let table = FrameTable::new(&store, 100);
        (100..116).for_each(|frame| table.mark_plain(frame));
        table.set_first_references(104, 8);
        assert!(table.is_sole_owner(104, 8));
        table.add_references(104, 8);
        assert!(!table.is_sole_owner(104, 8));
        assert_eq!(table.drop_references(104, 8, |frame| panic!("{frame} is still referred to")), LastReference::No);
        table.add_reference(107);
        let mut freed = Vec::new();
        assert_eq!(table.drop_references(104, 8, |frame| freed.push(frame)), LastReference::No);
        assert_eq!(freed, [104, 105, 106, 108, 109, 110, 111]);
        assert_eq!(table.drop_reference(107), LastReference::Yes);
        table.set_first_references(104, 8);
        assert_eq!(table.drop_references(104, 8, |frame| panic!("{frame} is freed with its block")), LastReference::Yes);
    }

    #[test]
    fn a_block_outside_the_table_has_no_counts() {
        let store = entries(4);
        let table = FrameTable::new(&store, 100);
        table.set_first_references(102, 4);
        assert_eq!(table.references(102), None);
        assert!(store.iter().all(|entry| entry.word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn links_name_any_frame_of_the_table() {
        let store = entries(4);
        let table = FrameTable::new(&store, 1 << 40);
        table.set_link(1 << 40, Some((1 << 40) + 3));
        assert_eq!(table.link(1 << 40), Some((1 << 40) + 3));
        table.set_link(1 << 40, None);
        assert_eq!(table.link(1 << 40), None);
    }
}
