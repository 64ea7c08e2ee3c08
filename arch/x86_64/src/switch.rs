//! Switching kernel stacks.
//!
//! A switch is a function call to the compiler: it keeps what it needs, and only RBX, RBP and the control words of SSE and
//! x87 (System V ABI, figure 3.4) are saved here. FS base and live upper vector state are the caller's business
//! (kernel/src/thread). A context goes on by a jump, not by a return: the processor would predict a return to the place that the
//! context before it was called from.

use crate::trap_frame::{FRAME_SIZE, TrapFrame};
use crate::percpu::KERNEL_STACK_SIZE;
use core::arch::{asm, naked_asm};

/// What a context learns when it comes to run: who ran before it, as given to [`switch_stack`].
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// The context that was switched away from.
    pub from: usize,
    /// What its scheduler wants to know of it.
    pub departure: usize,
}

/// Where a context that does not run goes on.
#[repr(C)]
#[derive(Debug)]
pub struct Saved {
    stack_pointer: u64,
    /// The control words, as [`crate::fpu::control_words`] gives them.
    control: u64,
    instruction: u64,
}

impl Saved {
    /// Of a context that runs.
    #[must_use]
    pub const fn none() -> Self {
        Self { stack_pointer: 0, control: 0, instruction: 0 }
    }
}

/// Saves this context in `*save` and continues the one in `*next`. Returns when somebody switches back, with what that caller passed in
/// `before`.
///
/// # Safety
/// Interrupts are disabled; `next` was saved by this function or made by [`prepare`], is not running anywhere, and its stack
/// is mapped.
#[inline(always)]
pub unsafe fn switch_stack(save: *mut Saved, next: *const Saved, before: Before) -> Before {
    let (from, departure);
    // SAFETY: everything that a call may clobber is declared clobbered, and RBX and RBP, which cannot be, are saved. FROM and
    // DEPARTURE stay in registers while the stack changes.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "lea rbp, [rip + 2f]",
            "mov [rdi], rsp",
            "stmxcsr [rdi + 8]",
            "fnstcw [rdi + 12]",
            "mov [rdi + 16], rbp",
            "mov rsp, [rsi]",
            "ldmxcsr [rsi + 8]",
            "fldcw [rsi + 12]",
            "jmp [rsi + 16]",
            "2:",
            "pop rbx",
            "pop rbp",
            inout("rdi") save => _,
            inout("rsi") next => _,
            inout("rax") before.from => from,
            inout("rdx") before.departure => departure,
            out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    Before { from, departure }
}

/// First instructions of a new context, whose stack holds a function, its argument and a trap frame: calls the function with
/// who ran before and the argument, then goes to program code with the frame.
/// A signal may have been sent since the thread was made, which found it not running: so it looks for work first.
#[unsafe(naked)]
unsafe extern "C" fn context_start() {
    naked_asm!(
        "pop rbx",
        "pop r12",
        "mov rdi, rax",
        "mov rsi, rdx",
        "mov rdx, r12",
        "xor ebp, ebp",
        "call rbx",
        "mov rdi, rsp",
        "call trap_exit_to_program",
        "jmp trap_return"
    )
}

/// How a new context begins: it gets what [`Before`] says, and the argument of [`prepare`].
pub type Start = extern "C" fn(from: usize, departure: usize, argument: usize);

/// Lays out a new context on the kernel stack at `stack`: it will call `start` with `argument` and, when that returns,
/// go on in program code with the registers of `frame`, as `change` leaves them, and the control words `control` ([`crate::fpu::control_words`]).
/// Returns it for [`switch_stack`].
///
/// # Safety
/// `stack..stack + KERNEL_STACK_SIZE` is mapped, writable, and used by nothing else.
#[must_use]
pub unsafe fn prepare(
    stack: u64,
    frame: &TrapFrame,
    change: impl FnOnce(&mut TrapFrame),
    control: u64,
    start: Start,
    argument: usize,
) -> Saved {
    let frame_at = stack + (KERNEL_STACK_SIZE - FRAME_SIZE) as u64;
    let words: [u64; 2] = [start as usize as u64, argument as u64];
    let stack_pointer = frame_at - size_of_val(&words) as u64;
    // SAFETY: both places lie inside the stack, which is ours.
    unsafe {
        let copy = frame_at as *mut TrapFrame;
        copy.write(frame.clone());
        change(&mut *copy);
        (stack_pointer as *mut [u64; 2]).write(words);
    }
    Saved { stack_pointer, control, instruction: context_start as *const () as usize as u64 }
}
