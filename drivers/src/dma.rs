//! Memory for devices, provided by the kernel.
#![expect(unsafe_code, reason = "turns the kernel's promise about DMA memory into regions")]

use crate::Error;
use addr::{PAGE_SIZE, PhysAddr};
use core::ptr::NonNull;
use virtqueue::Region;

/// Where drivers get memory that devices can reach.
///
/// # Safety
/// What `alloc` returns is physically contiguous, mapped readable and writable at the pointer, page-aligned, used by
/// nobody else, and stays so for ever: drivers never give memory back, since a device may write to it at any time.
pub unsafe trait DmaMemory {
    /// `pages` pages of 4 KiB, or `None` when there is no such stretch of memory.
    fn alloc(&self, pages: usize) -> Option<(PhysAddr, *mut u8)>;
}

/// A zeroed region of at least `bytes`.
pub(crate) fn region(memory: &dyn DmaMemory, bytes: usize) -> Result<Region, Error> {
    let pages = addr::pages_for(bytes);
    let (phys, ptr) = memory.alloc(pages).ok_or(Error::OutOfMemory)?;
    let ptr = NonNull::new(ptr).ok_or(Error::OutOfMemory)?;
    // SAFETY: the allocator promises exactly this.
    let region = unsafe { Region::new(phys, ptr, pages * PAGE_SIZE) };
    region.clear();
    Ok(region)
}
