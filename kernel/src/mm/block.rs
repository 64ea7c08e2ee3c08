//! [`Block`]: counted references to all frames of a large page.
//!
//! A block has no count of its own: each of its frames has one, as any frame has. So a large page can be cut into small ones, and each of
//! those lives on alone, without a word about it here; and a [`Frame`](frame::Frame) can refer to a part of a large page.
//! Neighbours: `frames.rs` has the memory, `space/huge.rs` maps blocks.
#![expect(unsafe_code, reason = "copies into memory by its physical address")]

use super::frames::{self, Pool};
use addr::{PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use core::mem::ManuallyDrop;
use frame::{Fill, Frame, OutOfMemory};
use frame_alloc::LastReference;
use page_table::PageSize;

/// A reference to each frame of a 2 MiB or 1 GiB block.
///
/// Context: creating and dropping one may sleep.
pub(super) struct Block {
    first: PhysAddr,
    size: PageSize,
}

impl Block {
    /// A new block with stale contents, which the caller overwrites before the program can see it.
    pub(super) fn alloc_stale(size: PageSize) -> Result<Self, OutOfMemory> {
        frames::alloc_contiguous(size.pages(), Pool::Program).map(|first| Self::fresh(first, size)).ok_or(OutOfMemory)
    }

    /// A new block to be filled: full of zeros if one is at hand that was cleared beforehand, else with stale contents.
    pub(super) fn alloc_to_fill(size: PageSize) -> Result<(Self, Fill), OutOfMemory> {
        match frames::take_prezeroed(size.pages().ilog2()) {
            Some(first) => Ok((Self::fresh(first, size), Fill::Zero)),
            None => Ok((Self::alloc_stale(size)?, Fill::Stale)),
        }
    }

    /// A new block full of zeros.
    pub(super) fn alloc_zeroed(size: PageSize) -> Result<Self, OutOfMemory> {
        frames::alloc_zeroed(size.pages().ilog2(), Pool::Program).map(|first| Self::fresh(first, size)).ok_or(OutOfMemory)
    }

    fn fresh(first: u64, size: PageSize) -> Self {
        if let Some(table) = frames::table() {
            table.set_first_references(first, size.pages());
        }
        Self { first: frames::address(first), size }
    }

    /// Takes over the references that [`Block::into_raw`] gave away.
    ///
    /// # Safety
    /// They came from `into_raw` of a block of this size (or from 512 blocks or frames that lie in a row), and are taken over once.
    pub(super) const unsafe fn from_raw(first: PhysAddr, size: PageSize) -> Self {
        Self { first, size }
    }

    /// Gives the references away as an address, for a page-table entry.
    #[must_use]
    pub(super) const fn into_raw(self) -> PhysAddr {
        let first = self.first;
        core::mem::forget(self);
        first
    }

    /// Physical address.
    pub(super) const fn phys(&self) -> PhysAddr {
        self.first
    }

    const fn number(&self) -> u64 {
        self.first.frame_number()
    }

    /// Whether nobody else refers to any of the frames.
    pub(super) fn is_sole_owner(&self) -> bool {
        frames::table().is_some_and(|table| table.is_sole_owner(self.number(), self.size.pages()))
    }

    /// Further references to the same frames.
    pub(super) fn share(&self) -> Self {
        if let Some(table) = frames::table() {
            table.add_references(self.number(), self.size.pages());
        }
        Self { first: self.first, size: self.size }
    }

    /// A further reference to the 4 KiB with this index.
    pub(super) fn part(&self, index: u64) -> Frame {
        assert!(index < self.size.pages(), "outside the block");
        // SAFETY: our reference keeps the frame alive, and is not given up: what is taken over here is forgotten.
        let held = ManuallyDrop::new(unsafe { Frame::from_raw(self.first + (index << PAGE_SHIFT)) });
        Frame::clone(&held)
    }

    /// Makes the contents zero. For blocks that nobody else can see.
    pub(super) fn clear(&mut self) {
        frames::zero_range(self.number(), self.size.pages());
    }

    /// Makes the 4 KiB with this index zero. For blocks that nobody else can see.
    pub(super) fn clear_page(&mut self, index: u64) {
        assert!(index < self.size.pages(), "outside the block");
        frames::zero(self.number() + index);
    }

    /// Makes the 4 KiB with this index a copy of `from`. For blocks that nobody else can see.
    pub(super) fn copy_page(&mut self, index: u64, from: &Frame) {
        assert!(index < self.size.pages(), "outside the block");
        let to = (self.first + (index << PAGE_SHIFT)).to_virt().as_mut_ptr::<u8>();
        // SAFETY: inside the block (checked), which is ours alone; the other frame is alive and another one.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), PAGE_SIZE) };
    }

    /// Makes the contents those of another block of the same size. For blocks that nobody else can see.
    pub(super) fn copy_from(&mut self, other: &Self) {
        assert!(self.size == other.size && self.first != other.first, "copies between like blocks");
        let (to, from) = (self.first.to_virt().as_mut_ptr::<u8>(), other.first.to_virt().as_ptr::<u8>());
        // SAFETY: both blocks are alive, distinct and of this size; the program may change the other one meanwhile, which only mixes bytes.
        unsafe { to.copy_from_nonoverlapping(from, self.size.bytes() as usize) };
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(table) = frames::table() else { return };
        let count = self.size.pages();
        if table.drop_references(self.number(), count, frames::free_frame) == LastReference::Yes {
            frames::free_contiguous(self.number(), count);
        }
    }
}
