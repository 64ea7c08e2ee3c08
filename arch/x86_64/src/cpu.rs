//! Processor features, interrupt flag, halting, segment bases.

use crate::msr;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering};

/// RFLAGS.IF.
pub const RFLAGS_IF: u64 = 1 << 9;

const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_FSGSBASE: u64 = 1 << 16;

static FSGSBASE: AtomicBool = AtomicBool::new(false);

/// Whether `rdfsbase`/`wrfsbase` are enabled (CR4.FSGSBASE): what HWCAP2 bit 1 tells the program.
#[inline(always)]
#[must_use]
pub fn has_fsgsbase() -> bool {
    // SAFETY: compares a static byte. (Written out because every switch asks twice, and the compiler does not fold the load of an atomic.)
    unsafe { asm!("cmp byte ptr [rip + {flag}], 0", "je {absent}", flag = sym FSGSBASE, absent = label { return false }, options(nostack, readonly)) };
    true
}

/// Whether the CPU is QEMU's emulator (hypervisor leaf signature "TCGTCGTCGTCG").
#[must_use]
pub fn is_tcg() -> bool {
    let leaf = __cpuid(0x4000_0000);
    [leaf.ebx, leaf.ecx, leaf.edx] == [u32::from_le_bytes(*b"TCGT"), u32::from_le_bytes(*b"CGTC"), u32::from_le_bytes(*b"GTCG")]
}

/// Enables what the kernel relies on in CR4 of this CPU, and machine-check exceptions. FPU state components are enabled by [`crate::fpu::init`].
pub fn init() {
    let fsgsbase = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 != 0;
    // SAFETY: only features that CPUID reports are switched on; SSE is required by the compiler's target.
    unsafe {
        let mut cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
        cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | crate::paging::CR4_PGE;
        if fsgsbase {
            cr4 |= CR4_FSGSBASE;
        }
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
    }
    FSGSBASE.store(fsgsbase, Ordering::Relaxed);
    crate::machine_check::init();
}

/// The program's TLS pointer as it is in the CPU now (the program may have written it itself).
#[inline(always)]
#[must_use]
pub fn fs_base() -> u64 {
    if has_fsgsbase() {
        // SAFETY: asked.
        unsafe { fs_base_at_once() }
    } else {
        fs_base_register()
    }
}

/// [`fs_base`] where [`has_fsgsbase`].
///
/// # Safety
/// It is so.
#[inline(always)]
#[must_use]
pub unsafe fn fs_base_at_once() -> u64 {
    let base: u64;
    // SAFETY: CR4.FSGSBASE is on.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

#[cold]
#[inline(never)]
fn fs_base_register() -> u64 {
    // SAFETY: FS_BASE exists on every x86-64 CPU.
    unsafe { msr::read(msr::FS_BASE) }
}

/// Sets the program's TLS pointer. `base` must be canonical.
#[inline(always)]
pub fn set_fs_base(base: u64) {
    if has_fsgsbase() {
        // SAFETY: asked.
        unsafe { set_fs_base_at_once(base) };
    } else {
        set_fs_base_register(base);
    }
}

/// [`set_fs_base`] where [`has_fsgsbase`].
///
/// # Safety
/// It is so.
#[inline(always)]
pub unsafe fn set_fs_base_at_once(base: u64) {
    // SAFETY: CR4.FSGSBASE is on; the kernel itself never uses FS.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) };
}

#[cold]
#[inline(never)]
fn set_fs_base_register(base: u64) {
    // SAFETY: FS_BASE exists on every x86-64 CPU; the kernel itself never uses FS.
    unsafe { msr::write(msr::FS_BASE, base) };
}

/// Serialises the instruction stream: what follows is fetched anew (SDM vol. 3, 9.3: a move to CR2 does that).
#[inline]
pub fn serialise() {
    // SAFETY: CR2 gets the value it has. Who wants that of a fault has read it before anything else.
    unsafe { asm!("mov {0}, cr2", "mov cr2, {0}", out(reg) _, options(nostack, preserves_flags)) };
}

/// Enables interrupts.
#[inline]
pub fn enable_interrupts() {
    // SAFETY: every vector has a handler from the moment the IDT is loaded.
    unsafe { asm!("sti", options(nostack)) };
}

/// Disables interrupts on this CPU.
#[inline]
pub fn disable_interrupts() {
    // SAFETY: delaying interrupts breaks no memory-safety rule.
    unsafe { asm!("cli", options(nostack)) };
}

/// Whether interrupts are enabled on this CPU.
#[inline]
#[must_use]
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: reads RFLAGS through the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & RFLAGS_IF != 0
}

/// Runs `f` with interrupts disabled on this CPU, then restores the flag.
#[inline]
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let enabled = interrupts_enabled();
    disable_interrupts();
    let result = f();
    if enabled {
        enable_interrupts();
    }
    result
}

/// Enables interrupts and waits for one. `sti; hlt` are adjacent: an interrupt that was pending wakes the `hlt`
/// (SDM vol. 2, STI: recognition is delayed by one instruction).
#[inline]
pub fn enable_and_halt() {
    // SAFETY: every vector has a handler.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops this CPU for ever.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing more is to run here.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}

/// The time-stamp counter.
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: `rdtsc` exists on every x86-64 CPU and reads no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// One random 64-bit value from RDRAND, if the CPU has it and delivers within ten tries (Intel DRNG guide §5.2.1).
#[must_use]
pub fn rdrand() -> Option<u64> {
    if __cpuid(1).ecx & (1 << 30) == 0 {
        return None;
    }
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: CPUID reports RDRAND.
        unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
        if ok != 0 {
            return Some(value);
        }
    }
    None
}
