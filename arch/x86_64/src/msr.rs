//! Model-specific registers.

use core::arch::asm;

/// Time-stamp counter adjust and friends are not named here; only what the kernel uses is.
pub const APIC_BASE: u32 = 0x1b;
/// One-shot timer deadline in TSC ticks (SDM vol. 3, 11.5.4.1).
pub const TSC_DEADLINE: u32 = 0x6e0;
/// Extended features: SCE, LME, NXE.
pub const EFER: u32 = 0xc000_0080;
/// Segment selectors for `syscall`.
pub const STAR: u32 = 0xc000_0081;
/// `syscall` target.
pub const LSTAR: u32 = 0xc000_0082;
/// RFLAGS bits cleared by `syscall`.
pub const SFMASK: u32 = 0xc000_0084;
/// FS segment base: the program's TLS pointer.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS segment base: this CPU's block.
pub const GS_BASE: u32 = 0xc000_0101;
/// Value returned by `rdtscp` and `rdpid`.
pub const TSC_AUX: u32 = 0xc000_0103;

/// Reads `msr`.
///
/// # Safety
/// The CPU must implement `msr`: #GP otherwise.
#[inline]
#[must_use]
pub unsafe fn read(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: per the contract the register exists.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes `msr`.
///
/// # Safety
/// The CPU must implement `msr` and the value must be valid for it; the effect is the register's.
#[inline]
pub unsafe fn write(msr: u32, value: u64) {
    // SAFETY: per the contract the register exists and takes this value.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags)) };
}
