//! Signal frames: what the program finds on its stack when a handler starts, and what `rt_sigreturn` reads back.
//!
//! Layout as Linux x86-64's `struct rt_sigframe`: return address, ucontext, siginfo, then the XSAVE area with its magic
//! numbers, 64-byte aligned. The processor stores the area where it belongs, and loads it from there: whatever the program has made of it,
//! the processor takes it or raises a fault, which is the program's SIGSEGV, as on Linux.
//!
//! What has only the 512 bytes of FXSAVE goes through a copy ([`Legacy`]): areas without the magic numbers, and all of them on a processor without XSAVE.

#![expect(unsafe_code, reason = "saves and loads the extended processor state")]

use core::mem::{offset_of, size_of};

use addr::VirtAddr;
use arch_x86_64::percpu::WORK_RESTORE;
use arch_x86_64::{TrapFrame, cpu, fpu, user_state};
use linux_abi::Errno;
use linux_abi::signal::{
    FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2, FPX_SW_OFFSET, FpxSwBytes, RtSigFrame, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK,
    SigAction, SigContext, SigInfo, SigSet, SigStack, Signal, UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS,
    Ucontext, sa,
};
use signal::{FrameLayout, alternate_stack_holds};
use zerocopy::{FromBytes, IntoBytes};

use crate::ctx::Ctx;
use crate::user_ptr::{self, UserPtr};

const MAGIC2_LEN: usize = 4;
/// Where the XSAVE area keeps the low halves of xmm0–15, MXCSR, and the component bit map.
const XMM_OFFSET: usize = 160;
const XMM_LEN: usize = 256;
const MXCSR_OFFSET: usize = 24;
const XSTATE_BV_OFFSET: usize = 512;
const XSAVE_HEADER_END: usize = 576;
const LEGACY_LEN: usize = 512;
/// What FXRSTOR would refuse is refused.
const FXSAVE_ALIGN: u64 = 16;
/// x87 and SSE.
const LEGACY_COMPONENTS: u64 = 3;
const MXCSR_VALID: u32 = 0xffff;
const _: () = assert!(FPX_SW_OFFSET as u64 == user_state::NOTE_OFFSET);
/// Selectors a program sees on Linux.
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
/// RFLAGS a program may set by `rt_sigreturn`: CF PF AF ZF SF TF DF OF RF AC.
const RFLAGS_RESTORABLE: u64 = 0x0005_0dd5;
const RFLAGS_CLEARED_FOR_HANDLER: u64 = 1 << 8 | 1 << 10 | 1 << 16;

/// Bytes of the extended state in a frame, with its trailing magic.
fn xstate_len() -> usize {
    fpu::xsave_size() + if fpu::xcr0() != 0 { MAGIC2_LEN } else { 0 }
}

/// AT_MINSIGSTKSZ: the largest frame, with everything alignment may cost.
#[must_use]
pub fn min_stack_size() -> u64 {
    (size_of::<RtSigFrame>() + xstate_len() + 64 + 16 + 8) as u64
}

/// What FXSAVE stores, and an XSAVE header behind it, in kernel memory.
#[repr(C, align(64))]
struct Legacy([u8; XSAVE_HEADER_END]);

impl Legacy {
    /// Stores the program's state at `address`: the processor has no XSAVE.
    fn save(address: u64, frame: &TrapFrame) -> Result<(), Errno> {
        let mut area = Self([0; XSAVE_HEADER_END]);
        // SAFETY: the area is aligned, zero, and large enough for FXSAVE.
        unsafe { fpu::save(area.0.as_mut_ptr()) };
        area.0[XMM_OFFSET..XMM_OFFSET + XMM_LEN].copy_from_slice(frame.xmm.as_bytes());
        user_ptr::copy_out(address, &area.0[..LEGACY_LEN])
    }

    /// Loads what a program hands back at `address`, after making it harmless; all other components get their initial values.
    fn load(address: u64, frame: &mut TrapFrame) -> Result<(), Errno> {
        if !address.is_multiple_of(FXSAVE_ALIGN) {
            return Err(Errno::EFAULT);
        }
        let mut area = Self([0; XSAVE_HEADER_END]);
        user_ptr::copy_in(address, &mut area.0[..LEGACY_LEN])?;
        let mxcsr = u32::read_from_bytes(&area.0[MXCSR_OFFSET..MXCSR_OFFSET + 4]).expect("four bytes");
        area.0[MXCSR_OFFSET..MXCSR_OFFSET + 4].copy_from_slice((mxcsr & MXCSR_VALID).as_bytes());
        area.0[XSTATE_BV_OFFSET..XSTATE_BV_OFFSET + 8].copy_from_slice(LEGACY_COMPONENTS.as_bytes());
        frame.xmm.as_mut_bytes().copy_from_slice(&area.0[XMM_OFFSET..XMM_OFFSET + XMM_LEN]);
        // SAFETY: reserved bits are clear, and only components are named that every processor has; nothing behind the header is read.
        unsafe { fpu::restore(area.0.as_ptr()) };
        Ok(())
    }
}

/// Stores the extended state at `address`.
fn save_state(address: u64, frame: &TrapFrame) -> Result<(), Errno> {
    if fpu::xcr0() == 0 {
        return Legacy::save(address, frame);
    }
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let note = [pair(FP_XSTATE_MAGIC1, xstate_len() as u32), fpu::xcr0(), fpu::xsave_size() as u64];
    user_ptr::save_state(address, frame, note, FP_XSTATE_MAGIC2)
}

/// Loads the extended state at `address`, or only its 512 legacy bytes if it does not say that there is more.
fn load_state(address: u64, frame: &mut TrapFrame) -> Result<(), Errno> {
    let sw: FpxSwBytes = UserPtr::new(address.wrapping_add(FPX_SW_OFFSET as u64)).read()?;
    let extended = fpu::xcr0() != 0 && sw.magic1 == FP_XSTATE_MAGIC1 && sw.xstate_size as usize == fpu::xsave_size();
    if extended { user_ptr::load_state(address, frame) } else { Legacy::load(address, frame) }
}

/// Puts the processor into the state of a new program, as Linux does before a handler.
fn load_initial(frame: &mut TrapFrame) {
    fpu::reset_for_exec();
    frame.xmm = [[0; 2]; 16];
}

/// Pushes a frame and points the registers at the handler.
///
/// # Errors
/// `EFAULT` when the stack cannot hold the frame, or no handler can be where the action says.
pub(super) fn push(
    ctx: &mut Ctx<'_>,
    signal: Signal,
    info: &SigInfo,
    action: &SigAction,
    mask: SigSet,
) -> Result<(), Errno> {
    // `iretq` to an address that is not canonical would fault in the kernel.
    if !VirtAddr(action.handler).is_user() {
        return Err(Errno::EFAULT);
    }
    let task = ctx.task();
    let alt = task.signals.altstack();
    let wanted = (action.flags & sa::ONSTACK != 0).then_some(&alt);
    let layout = FrameLayout::new(ctx.frame().rsp, wanted, xstate_len() as u64).ok_or(Errno::EFAULT)?;
    let frame = RtSigFrame {
        pretcode: action.restorer,
        uc: ucontext(ctx, &alt, layout.fpstate, mask),
        info: *info,
    };
    UserPtr::new(layout.frame).write(&frame)?;
    save_state(layout.fpstate, ctx.frame())?;
    if alt.flags & SS_AUTODISARM != 0 {
        task.signals.set_altstack(super::NO_STACK);
    }
    load_initial(ctx.frame_mut());
    enter_handler(ctx.frame_mut(), layout.frame, signal, action.handler);
    mark_restore();
    Ok(())
}

fn ucontext(ctx: &Ctx<'_>, alt: &SigStack, fpstate: u64, mask: SigSet) -> Ucontext {
    let xsave = if fpu::xcr0() != 0 { UC_FP_XSTATE } else { 0 };
    Ucontext {
        flags: xsave | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
        link: 0,
        stack: shown_altstack(alt, ctx.frame().rsp),
        mcontext: sigcontext(ctx, fpstate, mask),
        sigmask: mask,
    }
}

/// The alternate stack as the program sees it: with SS_ONSTACK while `rsp` is on it.
#[must_use]
pub(crate) fn shown_altstack(alt: &SigStack, rsp: u64) -> SigStack {
    let on = alt.flags & (SS_AUTODISARM | SS_DISABLE) == 0 && alternate_stack_holds(alt, rsp);
    SigStack { flags: alt.flags | if on { SS_ONSTACK } else { 0 }, ..*alt }
}

fn sigcontext(ctx: &Ctx<'_>, fpstate: u64, mask: SigSet) -> SigContext {
    let f = ctx.frame();
    let [trapno, err, cr2] = ctx.task().signals.last_fault();
    SigContext {
        r8: f.r8,
        r9: f.r9,
        r10: f.r10,
        r11: f.r11,
        r12: f.r12,
        r13: f.r13,
        r14: f.r14,
        r15: f.r15,
        rdi: f.rdi,
        rsi: f.rsi,
        rbp: f.rbp,
        rbx: f.rbx,
        rdx: f.rdx,
        rax: f.rax,
        rcx: f.rcx,
        rsp: f.rsp,
        rip: f.rip,
        eflags: f.rflags,
        cs: USER_CS,
        gs: 0,
        fs: 0,
        ss: USER_SS,
        err,
        trapno,
        oldmask: mask.0,
        cr2,
        fpstate,
        reserved: [0; 8],
    }
}

fn enter_handler(f: &mut TrapFrame, at: u64, signal: Signal, handler: u64) {
    f.rip = handler;
    f.rsp = at;
    f.rdi = u64::from(signal.number());
    f.rsi = at + offset_of!(RtSigFrame, info) as u64;
    f.rdx = at + offset_of!(RtSigFrame, uc) as u64;
    f.rax = 0;
    f.rflags &= !RFLAGS_CLEARED_FOR_HANDLER;
}

/// `rt_sigreturn`: registers, mask and alternate stack from the frame at RSP − 8.
///
/// # Errors
/// `EFAULT` when the frame cannot be read, or the processor refuses its extended state: the caller sends SIGSEGV.
pub(crate) fn pop(ctx: &mut Ctx<'_>) -> Result<(), Errno> {
    let at = ctx.frame().rsp.wrapping_sub(8).wrapping_add(offset_of!(RtSigFrame, uc) as u64);
    let uc = UserPtr::<Ucontext>::new(at).read()?;
    let task = ctx.task();
    task.set_sigmask(uc.sigmask);
    task.signals.set_altstack(SigStack { flags: uc.stack.flags & !SS_ONSTACK, ..uc.stack });
    restore_registers(ctx.frame_mut(), &uc.mcontext);
    mark_restore();
    kernel::thread::keep_all_registers();
    match uc.mcontext.fpstate {
        0 => load_initial(ctx.frame_mut()),
        address => return load_state(address, ctx.frame_mut()),
    }
    Ok(())
}

fn restore_registers(f: &mut TrapFrame, c: &SigContext) {
    f.r8 = c.r8;
    f.r9 = c.r9;
    f.r10 = c.r10;
    f.r11 = c.r11;
    f.r12 = c.r12;
    f.r13 = c.r13;
    f.r14 = c.r14;
    f.r15 = c.r15;
    f.rdi = c.rdi;
    f.rsi = c.rsi;
    f.rbp = c.rbp;
    f.rbx = c.rbx;
    f.rdx = c.rdx;
    f.rax = c.rax;
    f.rcx = c.rcx;
    f.rsp = c.rsp;
    f.rip = c.rip;
    f.rflags = c.eflags & RFLAGS_RESTORABLE | cpu::RFLAGS_IF | 2;
}

/// The whole frame counts on the way out, not only what a system call changes.
fn mark_restore() {
    kernel::thread::with_current(|t| t.work().add_work(WORK_RESTORE));
}
