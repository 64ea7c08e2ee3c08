//! Starting the other CPUs: INIT, SIPI (MultiProcessor Specification 1.4, B.4), through a page of real-mode code.

use addr::{PhysAddr, VirtAddr};
use core::ptr;

/// The page below 1 MiB that holds the start-up code. The memory map must not give it to anyone else.
pub const TRAMPOLINE: PhysAddr = PhysAddr(0x8000);

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static ap_slot_cr3: u8;
    static ap_slot_stack: u8;
    static ap_slot_argument: u8;
    static ap_slot_entry: u8;
}

/// What a starting CPU needs: page tables, a stack, and where to go.
pub struct ApStart {
    /// Page tables to run on; they must map the trampoline's page at its own address.
    pub cr3: PhysAddr,
    /// Top of the stack.
    pub stack_top: VirtAddr,
    /// Where to go, in long mode with interrupts off.
    pub entry: extern "C" fn(usize) -> !,
    /// Argument of `entry`.
    pub argument: usize,
}

/// Puts the start-up code and `start` into the trampoline page. The SIPI vector is the page's number.
///
/// # Safety
/// No CPU may be starting through the page; the direct map must reach it.
pub unsafe fn prepare_trampoline(start: &ApStart) {
    let base = &raw const ap_trampoline;
    let page = TRAMPOLINE.to_virt().as_mut_ptr::<u8>();
    let slot = |symbol: *const u8| page.wrapping_add(symbol as usize - base as usize).cast::<u64>();
    // SAFETY: the page is reserved for this; the symbols delimit the code and its slots.
    unsafe {
        ptr::copy_nonoverlapping(base, page, &raw const ap_trampoline_end as usize - base as usize);
        slot(&raw const ap_slot_cr3).write_volatile(start.cr3.0);
        slot(&raw const ap_slot_stack).write_volatile(start.stack_top.0);
        slot(&raw const ap_slot_argument).write_volatile(start.argument as u64);
        slot(&raw const ap_slot_entry).write_volatile(start.entry as usize as u64);
    }
}
