//! Control registers of the paging unit.

use addr::{PhysAddr, VirtAddr};
use core::arch::asm;

/// CR0.WP: read-only pages are read-only in ring 0 too. Copy-on-write depends on it.
pub const CR0_WP: u64 = 1 << 16;
/// CR4.PGE: global pages survive a CR3 load.
pub const CR4_PGE: u64 = 1 << 7;

/// The physical address of the current PML4.
#[inline]
#[must_use]
pub fn read_cr3() -> PhysAddr {
    let value: u64;
    // SAFETY: reading CR3 has no side effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    PhysAddr(value & 0x000f_ffff_ffff_f000)
}

/// Switches to the page tables at `pml4`, flushing non-global translations.
///
/// # Safety
/// The tables must map the running code, its stack and everything it refers to.
#[inline]
pub unsafe fn write_cr3(pml4: PhysAddr) {
    // SAFETY: per the contract the new tables map what is running.
    unsafe { asm!("mov cr3, {}", in(reg) pml4.0, options(nostack, preserves_flags)) };
}

/// Drops this CPU's translation of the page at `addr`, global ones too.
#[inline]
pub fn invlpg(addr: VirtAddr) {
    // SAFETY: dropping a cached translation never changes what memory holds.
    unsafe { asm!("invlpg [{}]", in(reg) addr.0, options(nostack, preserves_flags)) };
}

/// Drops all of this CPU's translations except global ones.
#[inline]
pub fn flush_all() {
    // SAFETY: rewriting CR3 with its own value changes no mapping.
    unsafe { write_cr3(read_cr3()) };
}

/// Drops all of this CPU's translations, global ones too.
pub fn flush_all_global() {
    // SAFETY: toggling CR4.PGE flushes the TLB (SDM vol. 3, 4.10.4.1) and is put back at once.
    unsafe {
        let cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4 & !CR4_PGE, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
    }
}

/// The address that caused the last page fault on this CPU. Only meaningful before interrupts are enabled in the handler.
#[inline]
#[must_use]
pub fn read_cr2() -> VirtAddr {
    let value: u64;
    // SAFETY: reading CR2 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    VirtAddr(value)
}
