//! Signal frames: what the program finds on its stack when a handler starts, and what `rt_sigreturn` reads back.
//!
//! Layout as Linux x86-64's `struct rt_sigframe`: return address, ucontext, siginfo, then the XSAVE area with its magic
//! numbers, 64-byte aligned. Built in kernel memory and copied out in one go.

#![expect(unsafe_code, reason = "saves and loads the extended processor state")]

use alloc::vec::Vec;
use core::mem::size_of;

use addr::VirtAddr;
use arch_x86_64::percpu::WORK_RESTORE;
use arch_x86_64::{TrapFrame, cpu, fpu};
use linux_abi::Errno;
use linux_abi::signal::{
    FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2, FPX_SW_OFFSET, FpxSwBytes, RtSigFrame, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK,
    SigAction, SigContext, SigInfo, SigSet, SigStack, Signal, UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS,
    Ucontext, sa,
};
use signal::{FrameLayout, alternate_stack_holds};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::ctx::Ctx;
use crate::user_ptr::{self, UserPtr};

const MAGIC2_LEN: usize = 4;
/// Where the XSAVE area keeps the low halves of xmm0–15, MXCSR, and the component bit map.
const XMM_OFFSET: usize = 160;
const XMM_LEN: usize = 256;
const FCW_OFFSET: usize = 0;
const MXCSR_OFFSET: usize = 24;
const XSTATE_BV_OFFSET: usize = 512;
const XCOMP_BV_OFFSET: usize = 520;
const XSAVE_HEADER_END: usize = 576;
const LEGACY_LEN: usize = 512;
const XSTATE_SSE: u64 = 1 << 1;
const MXCSR_DEFAULT: u32 = 0x1f80;
const MXCSR_VALID: u32 = 0xffff;
const FCW_DEFAULT: u16 = 0x37f;
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

/// An XSAVE area in kernel memory, aligned as the instructions want it.
struct Area(Vec<Line>);

#[derive(Clone, Copy, FromBytes, IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Area {
    fn zeroed() -> Result<Self, Errno> {
        let lines = fpu::xsave_size().max(XSAVE_HEADER_END).div_ceil(64);
        let mut area = Vec::new();
        area.try_reserve_exact(lines).map_err(|_| Errno::ENOMEM)?;
        area.resize_with(lines, Line::new_zeroed);
        Ok(Self(area))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::read_from_bytes(&self.bytes()[at..at + 8]).expect("eight bytes")
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The program's state: what is in the processor, and the low xmm halves that the entry code saved.
    fn save(frame: &TrapFrame) -> Result<Self, Errno> {
        let mut area = Self::zeroed()?;
        // SAFETY: the area is aligned, zero, and `xsave_size` bytes long.
        unsafe { fpu::save(area.0.as_mut_ptr().cast()) };
        area.put(XMM_OFFSET, frame.xmm.as_bytes());
        if fpu::xcr0() != 0 {
            let components = area.u64_at(XSTATE_BV_OFFSET) | XSTATE_SSE;
            area.put(XSTATE_BV_OFFSET, components.as_bytes());
            area.put(FPX_SW_OFFSET, sw_bytes().as_bytes());
        }
        Ok(area)
    }

    /// Puts the processor into the state of a new program, as Linux does before a handler.
    fn load_initial() {
        // SAFETY: a valid area whose component map is empty: everything gets its initial value, and nothing behind the header is read.
        unsafe { fpu::restore((&raw const INITIAL).cast()) };
    }

    /// Loads what a program hands back, after making it harmless.
    fn load(mut self, frame: &mut TrapFrame, extended: bool) {
        let mxcsr = u32::read_from_bytes(&self.bytes()[MXCSR_OFFSET..MXCSR_OFFSET + 4]).expect("four bytes");
        self.put(MXCSR_OFFSET, (mxcsr & MXCSR_VALID).as_bytes());
        if fpu::xcr0() != 0 {
            let components = if extended { self.u64_at(XSTATE_BV_OFFSET) & fpu::xcr0() } else { 3 };
            self.put(XSTATE_BV_OFFSET, components.as_bytes());
            self.bytes_mut()[XCOMP_BV_OFFSET..XSAVE_HEADER_END].fill(0);
        }
        frame.xmm.as_mut_bytes().copy_from_slice(&self.bytes()[XMM_OFFSET..XMM_OFFSET + XMM_LEN]);
        // SAFETY: reserved bits are clear and only enabled components are named.
        unsafe { fpu::restore(self.0.as_ptr().cast()) };
    }
}

/// The state of a new program: the legacy part, and a header without components.
static INITIAL: [Line; XSAVE_HEADER_END / 64] = {
    let mut lines = [Line([0; 64]); XSAVE_HEADER_END / 64];
    let fcw = FCW_DEFAULT.to_le_bytes();
    lines[0].0[FCW_OFFSET] = fcw[0];
    lines[0].0[FCW_OFFSET + 1] = fcw[1];
    let mxcsr = MXCSR_DEFAULT.to_le_bytes();
    lines[0].0[MXCSR_OFFSET] = mxcsr[0];
    lines[0].0[MXCSR_OFFSET + 1] = mxcsr[1];
    lines
};

fn sw_bytes() -> FpxSwBytes {
    FpxSwBytes {
        magic1: FP_XSTATE_MAGIC1,
        extended_size: xstate_len() as u32,
        xfeatures: fpu::xcr0(),
        xstate_size: fpu::xsave_size() as u32,
        padding: [0; 7],
    }
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
    let xstate = xstate_len();
    let layout = FrameLayout::new(ctx.frame().rsp, wanted, xstate as u64).ok_or(Errno::EFAULT)?;
    let area = Area::save(ctx.frame())?;
    let frame = RtSigFrame {
        pretcode: action.restorer,
        uc: ucontext(ctx, &alt, layout.fpstate, mask),
        info: *info,
    };
    write_frame(&layout, &frame, &area, xstate)?;
    Area::load_initial();
    if alt.flags & SS_AUTODISARM != 0 {
        task.signals.set_altstack(super::NO_STACK);
    }
    enter_handler(ctx.frame_mut(), layout.frame, signal, action.handler);
    mark_restore(ctx);
    Ok(())
}

fn write_frame(layout: &FrameLayout, frame: &RtSigFrame, area: &Area, xstate: usize) -> Result<(), Errno> {
    let mut bytes = Vec::new();
    let len = layout.len(xstate as u64) as usize;
    bytes.try_reserve_exact(len).map_err(|_| Errno::EFAULT)?;
    bytes.extend_from_slice(frame.as_bytes());
    bytes.resize((layout.fpstate - layout.frame) as usize, 0);
    bytes.extend_from_slice(&area.bytes()[..fpu::xsave_size()]);
    if xstate > fpu::xsave_size() {
        bytes.extend_from_slice(FP_XSTATE_MAGIC2.as_bytes());
    }
    user_ptr::copy_out(layout.frame, &bytes)
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
    f.rsi = at + core::mem::offset_of!(RtSigFrame, info) as u64;
    f.rdx = at + core::mem::offset_of!(RtSigFrame, uc) as u64;
    f.rax = 0;
    f.rflags &= !RFLAGS_CLEARED_FOR_HANDLER;
    f.xmm = [[0; 2]; 16];
}

/// `rt_sigreturn`: registers, mask and alternate stack from the frame at RSP − 8.
///
/// # Errors
/// `EFAULT` when the frame cannot be read: the caller sends SIGSEGV.
pub(crate) fn pop(ctx: &mut Ctx<'_>) -> Result<(), Errno> {
    let frame = UserPtr::<RtSigFrame>::new(ctx.frame().rsp.wrapping_sub(8)).read()?;
    let context = &frame.uc.mcontext;
    let state = read_xstate(context.fpstate)?;
    let task = ctx.task();
    task.set_sigmask(frame.uc.sigmask);
    task.signals.set_altstack(SigStack { flags: frame.uc.stack.flags & !SS_ONSTACK, ..frame.uc.stack });
    restore_registers(ctx.frame_mut(), context);
    mark_restore(ctx);
    if let Some((area, extended)) = state {
        area.load(ctx.frame_mut(), extended);
    } else {
        Area::load_initial();
    }
    Ok(())
}

/// The extended state at `address`, and whether it is more than the 512 legacy bytes.
fn read_xstate(address: u64) -> Result<Option<(Area, bool)>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let mut area = Area::zeroed()?;
    user_ptr::copy_in(address, &mut area.bytes_mut()[..LEGACY_LEN])?;
    let sw = FpxSwBytes::read_from_bytes(&area.bytes()[FPX_SW_OFFSET..FPX_SW_OFFSET + size_of::<FpxSwBytes>()])
        .expect("48 bytes");
    let size = fpu::xsave_size();
    let extended = fpu::xcr0() != 0 && sw.magic1 == FP_XSTATE_MAGIC1 && sw.xstate_size as usize == size;
    if extended {
        user_ptr::copy_in(address + LEGACY_LEN as u64, &mut area.bytes_mut()[LEGACY_LEN..size])?;
    }
    Ok(Some((area, extended)))
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
fn mark_restore(_ctx: &Ctx<'_>) {
    kernel::thread::with_current(|t| t.work().add_work(WORK_RESTORE));
}
