//! The zero page, and taking page-table entries apart into what they own.
#![expect(unsafe_code, reason = "turns entries back into the frame references they hold")]

use super::super::frames::Pool;
use super::super::kernel_space::Tables;
use addr::{PAGE_SIZE, PhysAddr, layout};
use frame::Frame;
use page_table::{Entry, Removed, TableSource};

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

/// The reference that an entry, no longer in any table, held.
pub(super) fn frame_of(entry: Entry) -> Frame {
    // SAFETY: entries with a page are made from `Frame::into_raw`; this one left its table, so its reference is ours, once.
    unsafe { Frame::from_raw(entry.address()) }
}

/// A further reference to the frame of an entry that stays in its table.
pub(super) fn share_frame(entry: Entry) -> Frame {
    let held = core::mem::ManuallyDrop::new(frame_of(entry));
    Frame::clone(&held)
}

/// Number of references to the frame of an entry in a table; `usize::MAX` for permanent frames.
pub(super) fn references(entry: Entry) -> usize {
    core::mem::ManuallyDrop::new(frame_of(entry)).ref_count()
}

/// Frees what was removed from a tree. After the TLB flush.
pub(super) fn free_removed(removed: Removed) {
    match removed {
        Removed::Page { entry, .. } if entry.has_page() => drop(frame_of(entry)),
        Removed::Page { .. } => {}
        Removed::Table(table) => Tables(Pool::Program).free_table(table),
    }
}
