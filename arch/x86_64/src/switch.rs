//! Switching kernel stacks.
//!
//! A switch is a function call: only callee-saved registers and the control words of SSE and x87 are saved
//! (System V ABI, figure 3.4). FS base and live upper vector state are the caller's business (kernel/src/thread).

use crate::trap_frame::{FRAME_SIZE, TrapFrame};
use crate::percpu::KERNEL_STACK_SIZE;
use core::arch::naked_asm;

/// Saves this context's stack pointer in `*save` and continues the one whose stack pointer is `next`.
/// Returns when somebody switches back.
///
/// # Safety
/// Interrupts are disabled; `next` was made by this function or by [`prepare`], is not running anywhere, and its stack
/// is mapped.
#[unsafe(naked)]
pub unsafe extern "C" fn switch_stack(save: *mut u64, next: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// First instructions of a new context: calls `rbx(r12)`, then goes to program code with the frame at the top of the stack.
/// A signal may have been sent since the thread was made, which found it not running: so it looks for work first.
#[unsafe(naked)]
unsafe extern "C" fn context_start() {
    naked_asm!("mov rdi, r12", "call rbx", "mov rdi, rsp", "call trap_exit_to_program", "jmp trap_return")
}

/// Lays out a new context on the kernel stack at `stack`: it will call `start(argument)` and, when that returns,
/// go on in program code with the registers of `frame` and the control words `control` ([`crate::fpu::control_words`]).
/// Returns the stack pointer for [`switch_stack`].
///
/// # Safety
/// `stack..stack + KERNEL_STACK_SIZE` is mapped, writable, and used by nothing else.
#[must_use]
pub unsafe fn prepare(stack: u64, frame: &TrapFrame, control: u64, start: extern "C" fn(usize), argument: usize) -> u64 {
    let frame_at = stack + (KERNEL_STACK_SIZE - FRAME_SIZE) as u64;
    let words: [u64; 8] = [
        control,
        0,
        0,
        0,
        argument as u64,
        start as usize as u64,
        0,
        context_start as *const () as usize as u64,
    ];
    let sp = frame_at - size_of_val(&words) as u64;
    // SAFETY: both places lie inside the stack, which is ours.
    unsafe {
        (frame_at as *mut TrapFrame).write(frame.clone());
        (sp as *mut [u64; 8]).write(words);
    }
    sp
}
