//! Faults of program code as signals (linux-abi.md §4): which one, with which code and address.

#![expect(unsafe_code, reason = "reads the floating-point status registers")]

use core::arch::asm;

use kernel::mm::FaultError;
use kernel::trap::{Fault, FaultKind};
use linux_abi::signal::{SigInfo, Signal, code};

use super::deliver;
use crate::ctx::Ctx;
use crate::oom;

/// Unmasked exceptions that the SSE or the x87 unit reports now. Kernel code computes with neither, so they are the program's.
fn float_exceptions(kind: FaultKind) -> u32 {
    const ALL: u32 = 0x3f;
    if kind == FaultKind::Simd {
        let mut mxcsr = 0_u32;
        // SAFETY: stores MXCSR in a local variable.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack, preserves_flags)) };
        const MASKS_SHIFT: u32 = 7;
        return mxcsr & !(mxcsr >> MASKS_SHIFT) & ALL;
    }
    let status: u16;
    let mut control = 0_u16;
    // SAFETY: reads the x87 status and control words without waiting for exceptions.
    unsafe { asm!("fnstsw ax", "fnstcw [{}]", in(reg) &raw mut control, out("ax") status, options(nostack, preserves_flags)) };
    u32::from(status & !control) & ALL
}

/// SIGFPE codes by the exception bits of MXCSR or the x87 status word.
fn float_code(exceptions: u32) -> i32 {
    match exceptions {
        s if s & 1 != 0 => code::FPE_FLTINV,
        s if s & 4 != 0 => code::FPE_FLTDIV,
        s if s & 8 != 0 => code::FPE_FLTOVF,
        s if s & 0x12 != 0 => code::FPE_FLTUND,
        s if s & 0x20 != 0 => code::FPE_FLTRES,
        _ => code::SI_KERNEL,
    }
}

/// Signal and si_code; the address is `si_addr` unless the code is `SI_KERNEL`.
fn classify(fault: &Fault) -> (Signal, i32) {
    match fault.kind {
        FaultKind::Page(FaultError::NoMapping) => (Signal::SIGSEGV, code::SEGV_MAPERR),
        FaultKind::Page(FaultError::NoPermission) => (Signal::SIGSEGV, code::SEGV_ACCERR),
        FaultKind::Page(FaultError::BusError) => (Signal::SIGBUS, code::BUS_ADRERR),
        FaultKind::Page(FaultError::OutOfMemory) => (Signal::SIGKILL, code::SI_KERNEL),
        FaultKind::Divide => (Signal::SIGFPE, code::FPE_INTDIV),
        FaultKind::X87 | FaultKind::Simd => (Signal::SIGFPE, float_code(float_exceptions(fault.kind))),
        FaultKind::Debug => (Signal::SIGTRAP, code::TRAP_TRACE),
        FaultKind::Breakpoint => (Signal::SIGTRAP, code::SI_KERNEL),
        FaultKind::InvalidOpcode => (Signal::SIGILL, code::ILL_ILLOPN),
        FaultKind::Alignment => (Signal::SIGBUS, code::BUS_ADRALN),
        FaultKind::StackSegment => (Signal::SIGBUS, code::SI_KERNEL),
        FaultKind::Bounds | FaultKind::Protection | FaultKind::Halt => (Signal::SIGSEGV, code::SI_KERNEL),
    }
}

/// Bit of a page fault's error code (SDM vol. 3, 4.7) that programs see set on Linux, though here the processor knows no user mode.
const USER_ACCESS: u64 = 4;

/// Turns a fault into a signal and delivers it at once.
pub(crate) fn raise(ctx: &mut Ctx<'_>, fault: Fault) {
    let (signal, code) = classify(&fault);
    let page = matches!(fault.kind, FaultKind::Page(_));
    let (error, cr2) = if page { (fault.error | USER_ACCESS, fault.address.0) } else { (fault.error, 0) };
    ctx.task().signals.record_fault(fault.vector, error, cr2);
    if signal == Signal::SIGKILL {
        oom::report(ctx.task());
    }
    let address = if code == code::SI_KERNEL { 0 } else { fault.address.0 };
    deliver::force(ctx, signal, SigInfo::fault(signal, code, address));
    deliver::deliver(ctx, None);
}
