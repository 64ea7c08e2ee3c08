//! Extended processor state: x87, upper halves of the vector registers, AVX-512.
//!
//! The kernel is compiled for SSE2 and contains no VEX instruction, so entries save only the low halves of xmm0–15
//! (in [`TrapFrame`](crate::TrapFrame)); everything else stays in the registers and belongs to the program thread that ran last.
//! At a thread switch it is saved only if it is live ([`is_live`]), and the registers are then put into their initial state,
//! so that a thread without saved state finds what it left: nothing.

use core::arch::{asm, naked_asm};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
/// Mask registers, upper halves of zmm0–15, zmm16–31.
const AVX512: u64 = 7 << 5;
/// Components the kernel enables when the CPU has them: x87, SSE, AVX, and the three of AVX-512.
const SUPPORTED: u64 = X87 | SSE | AVX | AVX512;
const CR4_OSXSAVE: u64 = 1 << 18;
const FXSAVE_SIZE: usize = 512;

/// Alignment of a save area.
pub const AREA_ALIGN: usize = 64;

static XCR0: AtomicU64 = AtomicU64::new(0);
static AREA_SIZE: AtomicUsize = AtomicUsize::new(FXSAVE_SIZE);

/// Enables the FPU and every supported state component on this CPU.
pub fn init() {
    if __cpuid(1).ecx & (1 << 26) != 0 {
        let wanted = u64::from(__cpuid_count(0xd, 0).eax) & SUPPORTED;
        // SAFETY: CPUID reports XSAVE, and XCR0 gets only components that leaf 0xD reports.
        unsafe {
            let mut cr4: u64;
            asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
            cr4 |= CR4_OSXSAVE;
            asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
            asm!("xsetbv", in("ecx") 0, in("eax") wanted as u32, in("edx") (wanted >> 32) as u32, options(nostack, preserves_flags));
        }
        XCR0.store(wanted, Ordering::Relaxed);
        AREA_SIZE.store(__cpuid_count(0xd, 0).ebx as usize, Ordering::Relaxed);
    }
    METHOD.store(best_method(xcr0()) as u8, Ordering::Relaxed);
    reset();
}

/// Enabled state components (XCR0), 0 if the CPU has no XSAVE.
#[inline]
#[must_use]
pub fn xcr0() -> u64 {
    XCR0.load(Ordering::Relaxed)
}

/// Bytes of a save area in the standard (non-compacted) format.
#[inline]
#[must_use]
pub fn xsave_size() -> usize {
    AREA_SIZE.load(Ordering::Relaxed)
}

/// How [`is_live`] finds out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Method {
    /// XGETBV(1).
    Ask,
    /// Look at x87 and the upper halves of ymm0–15.
    LookAtAvx,
    /// Look at x87: there are no upper halves.
    LookAtX87,
    /// Too much to look at.
    Assume,
}

static METHOD: AtomicU8 = AtomicU8::new(Method::Assume as u8);

/// XGETBV(1) tells which components are in use. QEMU's emulator claims all of them always.
fn best_method(xcr0: u64) -> Method {
    match xcr0 & !(X87 | SSE) {
        _ if xcr0 != 0 && __cpuid_count(0xd, 1).eax & 4 != 0 && !crate::cpu::is_tcg() => Method::Ask,
        0 => Method::LookAtX87,
        AVX => Method::LookAtAvx,
        _ => Method::Assume,
    }
}

/// Whether state beyond the low halves of xmm0–15 is in use and must be saved before another program thread runs.
/// Only valid at a system call, where the ABI leaves no x87 or MMX value live (a preempted thread is always saved).
/// Clobbers the low halves, as any call.
#[inline(always)]
#[must_use]
pub fn is_live() -> bool {
    // SAFETY: compares a static byte. (See `cpu::has_fsgsbase`.)
    unsafe {
        asm!(
            "cmp byte ptr [rip + {method}], {look_at_avx}",
            "jne {other}",
            method = sym METHOD,
            look_at_avx = const Method::LookAtAvx as u8,
            other = label { return is_live_by_other_means() },
            options(nostack, readonly)
        );
    }
    x87_used() || upper_halves_used()
}

#[inline(never)]
fn is_live_by_other_means() -> bool {
    const ASK: u8 = Method::Ask as u8;
    match METHOD.load(Ordering::Relaxed) {
        ASK => in_use(),
        other => other != Method::LookAtX87 as u8 || x87_used(),
    }
}

fn in_use() -> bool {
    let in_use: u32;
    // SAFETY: CPUID reports XGETBV with ECX = 1.
    unsafe { asm!("xgetbv", in("ecx") 1, out("eax") in_use, out("edx") _, options(nomem, nostack, preserves_flags)) };
    u64::from(in_use) & !SSE & xcr0() != 0
}

#[inline(always)]
fn x87_used() -> bool {
    let status: u16;
    // SAFETY: reads the x87 status word.
    unsafe { asm!("fnstsw ax", out("ax") status, options(nomem, nostack, preserves_flags)) };
    // The top of the stack, or exception flags: sticky ones (fetestexcept) or one that waits to be raised.
    status != 0
}

/// A mask of the upper half of a ymm register.
#[repr(align(32))]
struct Mask(#[expect(dead_code, reason = "read by the code below")] [u64; 4]);
static UPPER: Mask = Mask([0, 0, u64::MAX, u64::MAX]);

/// Whether an upper half of ymm0–15 is in use.
#[inline(always)]
fn upper_halves_used() -> bool {
    // SAFETY: a call that leaves every register as it is, but for flags; the CPU has AVX, else nobody asks.
    unsafe { asm!("call {look}", "jnz {used}", look = sym look_at_upper_halves, used = label { return true }) };
    false
}

/// Tests the upper halves of ymm0–15: all of them, or'ed together in ymm0, which is then put back. It waits below the stack
/// pointer meanwhile, where nothing comes: traps leave 128 bytes there. The result is the zero flag.
#[unsafe(naked)]
extern "C" fn look_at_upper_halves() {
    naked_asm!(
        "vmovups [rsp - 48], ymm0",
        "vorps ymm0, ymm0, ymm1",
        "vorps ymm0, ymm0, ymm2",
        "vorps ymm0, ymm0, ymm3",
        "vorps ymm0, ymm0, ymm4",
        "vorps ymm0, ymm0, ymm5",
        "vorps ymm0, ymm0, ymm6",
        "vorps ymm0, ymm0, ymm7",
        "vorps ymm0, ymm0, ymm8",
        "vorps ymm0, ymm0, ymm9",
        "vorps ymm0, ymm0, ymm10",
        "vorps ymm0, ymm0, ymm11",
        "vorps ymm0, ymm0, ymm12",
        "vorps ymm0, ymm0, ymm13",
        "vorps ymm0, ymm0, ymm14",
        "vorps ymm0, ymm0, ymm15",
        "vptest ymm0, [rip + {mask}]",
        "vmovups ymm0, [rsp - 48]",
        "ret",
        mask = sym UPPER,
    )
}

/// MXCSR (bits 0–31) and the x87 control word (bits 32–47) as Linux gives them to a new program.
pub const INITIAL_CONTROL: u64 = 0x1f80 | 0x37f << 32;

/// MXCSR (bits 0–31) and the x87 control word (bits 32–47) as they are: rounding modes, exception masks.
#[must_use]
pub fn control_words() -> u64 {
    let mut words = 0u64;
    // SAFETY: both instructions store into the local variable.
    unsafe { asm!("stmxcsr [{0}]", "fnstcw [{0} + 4]", in(reg) &raw mut words, options(nostack, preserves_flags)) };
    words
}

/// Puts x87, MXCSR and the upper halves into the state of a new program.
pub fn reset_for_exec() {
    reset();
    let mxcsr = INITIAL_CONTROL as u32;
    // SAFETY: the value has no reserved bit.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack, preserves_flags, readonly)) };
}

/// Puts x87, the upper halves and what AVX-512 added into their initial state.
pub fn reset() {
    #[repr(align(64))]
    struct Initial(#[expect(dead_code, reason = "read by the asm below")] [u64; 72]);
    /// An XSAVE area whose header names no component: each that is asked for gets its initial value.
    static INITIAL: Initial = Initial([0; 72]);
    // SAFETY: the caller has saved, or does not need, the state. `vzeroupper` needs AVX, which is tested.
    unsafe {
        asm!("fninit", options(nomem, nostack));
        if xcr0() & AVX != 0 {
            asm!("vzeroupper", options(nomem, nostack));
        }
        // `vzeroupper` leaves the mask registers and zmm16–31. MXCSR is not loaded without the SSE and AVX components.
        if xcr0() & AVX512 != 0 {
            asm!("xrstor64 [{}]", in(reg) &raw const INITIAL, in("eax") AVX512 as u32, in("edx") 0, options(nostack, preserves_flags, readonly));
        }
    }
}

/// Makes memory of any content a save area for [`save`]: what the header does not name is never loaded.
///
/// # Safety
/// `area` is 64-byte aligned, writable, and [`xsave_size`] bytes long.
pub unsafe fn prepare_area(area: *mut u8) {
    const HEADER_SIZE: usize = 64;
    if xsave_size() >= FXSAVE_SIZE + HEADER_SIZE {
        // SAFETY: the header lies in the area (SDM vol. 1, 13.4.2).
        unsafe { area.add(FXSAVE_SIZE).write_bytes(0, HEADER_SIZE) };
    }
}

/// Saves every enabled component into the area at `area`, in the standard format that signal frames use.
///
/// # Safety
/// `area` is 64-byte aligned, writable, [`xsave_size`] bytes long, and its XSAVE header (bytes 512..576) is zero or was
/// written by this function. A bad address faults like any other store.
pub unsafe fn save(area: *mut u8) {
    // SAFETY: per the contract.
    unsafe {
        if xcr0() != 0 {
            asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags));
        } else {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
        }
    }
}

/// Loads every enabled component from the area at `area`, the low halves of xmm0–15 included.
///
/// # Safety
/// `area` was written by [`save`], or has been checked: a malformed header or reserved MXCSR bit raises #GP.
pub unsafe fn restore(area: *const u8) {
    // SAFETY: per the contract.
    unsafe {
        if xcr0() != 0 {
            asm!(
                "xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, preserves_flags, readonly)
            );
        } else {
            asm!(
                "fxrstor64 [{}]", in(reg) area,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
}
