//! The zero page, and taking page-table entries apart into what they own.
#![expect(unsafe_code, reason = "turns entries back into the frame references they hold")]

use super::super::block::Block;
use super::super::frames::Pool;
use super::super::release::FreedFrames;
use super::super::kernel_space::Tables;
use addr::{PAGE_SIZE, PhysAddr, layout};
use core::mem::ManuallyDrop;
use frame::Frame;
use page_table::{Entry, PageSize, TableSource};

#[repr(align(4096))]
struct ZeroPage(#[expect(dead_code, reason = "only its address is used")] [u8; PAGE_SIZE]);

/// Mapped read-only wherever anonymous memory is read before it is written.
static ZERO: ZeroPage = ZeroPage([0; PAGE_SIZE]);

/// Physical address of the zero page: part of the kernel image, so never counted.
pub(super) fn zero_page() -> PhysAddr {
    PhysAddr((&raw const ZERO) as u64 - layout::KERNEL_OFFSET)
}

/// Whether the entry maps the zero page.
pub(super) fn is_zero_page(entry: Entry) -> bool {
    entry.address() == zero_page()
}

/// The reference that an entry of a small page, no longer in any table, held.
pub(super) fn frame_of(entry: Entry) -> Frame {
    // SAFETY: entries with a page are made from `Frame::into_raw`; this one left its table, so its reference is ours, once.
    unsafe { Frame::from_raw(entry.address()) }
}

/// The references that an entry of a large page, no longer in any table, held.
pub(super) const fn block_of(entry: Entry, size: PageSize) -> Block {
    // SAFETY: entries of large pages are made from `Block::into_raw`; this one left its table, so its references are ours, once.
    unsafe { Block::from_raw(entry.address(), size) }
}

/// The block of an entry that stays in its table, to look at.
pub(super) const fn borrow_block(entry: Entry, size: PageSize) -> ManuallyDrop<Block> {
    ManuallyDrop::new(block_of(entry, size))
}

/// A further reference to the frame of an entry that stays in its table: of a small page, or of a part of a large one.
pub(super) fn share_frame(entry: Entry) -> Frame {
    let held = ManuallyDrop::new(frame_of(entry));
    Frame::clone(&held)
}

/// Further references for a second entry that is like this one, which stays in its table.
pub(super) fn share_page(entry: Entry, size: PageSize) -> SharedPage {
    match size {
        PageSize::Size4K => SharedPage::Frame(share_frame(entry)),
        _ => SharedPage::Block(borrow_block(entry, size).share()),
    }
}

/// References for an entry that is about to be made.
pub(super) enum SharedPage {
    /// Of a small page.
    Frame(Frame),
    /// Of a large one.
    Block(Block),
}

impl SharedPage {
    /// The entry has them now.
    pub(super) fn held_by_entry(self) {
        let _address: PhysAddr = match self {
            Self::Frame(frame) => frame.into_raw(),
            Self::Block(block) => block.into_raw(),
        };
    }
}

/// Number of references to the frame of an entry in a table; `usize::MAX` for permanent frames.
pub(super) fn references(entry: Entry) -> usize {
    ManuallyDrop::new(frame_of(entry)).ref_count()
}

/// Whether this entry in a table is the only one that refers to its page, or to any part of it.
pub(super) fn is_own(entry: Entry, size: PageSize) -> bool {
    if !entry.has_page() {
        return false;
    }
    match size {
        PageSize::Size4K => !is_zero_page(entry) && references(entry) == 1,
        // Most pages that others have, too, they have whole.
        _ => references(entry) == 1 && borrow_block(entry, size).is_sole_owner(),
    }
}

/// Gives back the reference that an entry of a small page, no longer in any table, held.
pub(super) fn free_page(entry: Entry, freed: &mut FreedFrames) {
    let frame = ManuallyDrop::new(frame_of(entry));
    // SAFETY: the reference is ours, and is not used again.
    unsafe { freed.drop_reference(frame.phys()) };
}

/// Frees a table that is no longer in any tree. After the TLB flush.
pub(super) fn free_table(table: PhysAddr) {
    Tables(Pool::Program).free_table(table);
}
