//! [`FreedFrames`]: many frames that lose a reference, one after the other.
//!
//! Frames that are used in a row are mostly a row of memory, too, up or down, because allocations take whole blocks apart. So those whose
//! last reference goes are collected as runs: long ones go to the central pool as ranges, which costs it a fraction of what single
//! frames cost and leaves it large blocks; the others go to the CPU's stock like any frame.
#![expect(unsafe_code, reason = "takes references away that are no objects any more")]

use super::frames;
use addr::PhysAddr;
use frame_alloc::LastReference;

/// Runs this long go to the central pool.
const LONG: u64 = 16;

/// A run of frames that are nobody's.
pub(super) struct FreedFrames {
    first: u64,
    count: u64,
    /// Runs this long go to the central pool.
    long: u64,
}

impl FreedFrames {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self { first: 0, count: 0, long: LONG }
    }

    /// None yet; all go to the central pool, where every CPU finds them.
    pub(super) const fn for_all() -> Self {
        Self { first: 0, count: 0, long: 1 }
    }

    /// Takes one reference to a frame away.
    ///
    /// # Safety
    /// The caller has the reference, and does not use it again.
    #[inline]
    pub(super) unsafe fn drop_reference(&mut self, frame: PhysAddr) {
        let frame = frame.frame_number();
        if frames::table().is_some_and(|table| table.drop_reference(frame) == LastReference::Yes) {
            self.add(frame);
        }
    }

    #[inline]
    fn add(&mut self, frame: u64) {
        if frame == self.first + self.count && self.count != 0 {
            self.count += 1;
        } else if frame + 1 == self.first && self.count != 0 {
            (self.first, self.count) = (frame, self.count + 1);
        } else {
            self.give_back();
            (self.first, self.count) = (frame, 1);
        }
    }

    fn give_back(&mut self) {
        if self.count >= self.long {
            frames::free_run(self.first, self.count);
        } else {
            (self.first..self.first + self.count).for_each(frames::free_frame);
        }
        self.count = 0;
    }
}

impl Drop for FreedFrames {
    fn drop(&mut self) {
        self.give_back();
    }
}
