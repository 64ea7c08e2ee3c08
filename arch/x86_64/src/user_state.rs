//! The extended processor state in signal frames: stored in the program's memory and loaded from it where it is, without a copy in between.
//!
//! As the routines of [`crate::user`], these survive a bad address: [`fixup`] says where they go on. So does a load of what the
//! processor refuses (a malformed header, reserved bits of MXCSR), which is its general protection fault.

use core::arch::global_asm;

use crate::TrapFrame;
use crate::fpu;
use crate::user::UserFault;

/// Alignment of the area.
pub const ALIGN: u64 = fpu::AREA_ALIGN as u64;
/// Where the area has room for whoever makes it (SDM vol. 1, 10.5.1): three words are used, and three more are zero.
pub const NOTE_OFFSET: u64 = 464;

global_asm!(
    r#"
.section .text.user_access, "ax"
// user_save_state(rdi = area, rsi = low vector halves, rdx, rcx, r8 = note, r9d = what follows the area) -> rax = 0: stored
// What follows lies where the third word of the note says. A fault half-way is served, and the instruction made again.
.globl user_save_state
user_save_state:
    .set at, 0
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps at(%rsi), %xmm\register
    .set at, at + 16
    .endr
    mov %rdx, 464(%rdi)
    mov %rcx, 472(%rdi)
    mov %r8, 480(%rdi)
    xor %eax, %eax
    .set at, 488
    .rept 3
    mov %rax, at(%rdi)
    .set at, at + 8
    .endr
    // The header: of the components only those are named that the processor will name (SDM vol. 1, 13.4.2).
    .set at, 512
    .rept 8
    mov %rax, at(%rdi)
    .set at, at + 8
    .endr
    mov %r9d, (%rdi,%r8)
    mov $-1, %eax
    mov %eax, %edx
    xsave64 (%rdi)
    xor %eax, %eax
    ret
// user_load_state(rdi = area, rsi = where the low vector halves go) -> rax = 0: loaded
.globl user_load_state
user_load_state:
    mov $-1, %eax
    mov %eax, %edx
    xrstor64 (%rdi)
    .set at, 0
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps %xmm\register, at(%rsi)
    .set at, at + 16
    .endr
    xor %eax, %eax
    ret
user_state_fault:
    mov $1, %eax
    ret
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static user_state_fault: u8;
    fn user_save_state(area: u64, low: *const [[u64; 2]; 16], first: u64, second: u64, third: u64, end: u32) -> usize;
    fn user_load_state(area: u64, low: *mut [[u64; 2]; 16]) -> usize;
}

/// Where to continue when an instruction at `rip` faults, if that is in one of this module's routines.
pub(crate) fn fixup(rip: u64) -> Option<u64> {
    let end = &raw const user_state_fault as u64;
    (user_save_state as *const () as u64..end).contains(&rip).then_some(end)
}

/// Stores the extended state, and the low vector halves of `frame`, at `area`, with a note in three words for whoever loads it. `end` is stored where the
/// third says, counted from the start of the area. The processor has XSAVE.
///
/// # Errors
/// [`UserFault`]; a part may be stored.
///
/// # Safety
/// `area` is a multiple of [`ALIGN`], and the [`fpu::xsave_size`] bytes from there on, and the four that the note names, lie in the program's half.
pub unsafe fn save(area: u64, frame: &TrapFrame, note: [u64; 3], end: u32) -> Result<(), UserFault> {
    let [first, second, third] = note;
    // SAFETY: per the contract; faults are fixed up.
    if unsafe { user_save_state(area, &frame.xmm, first, second, third, end) } == 0 { Ok(()) } else { Err(UserFault) }
}

/// Loads the extended state at `area`, whatever the program has put there; the low vector halves go to `frame`. The processor has XSAVE.
///
/// # Errors
/// [`UserFault`]: it cannot be read, or the processor refuses it.
///
/// # Safety
/// The [`fpu::xsave_size`] bytes from `area` on lie in the program's half. What is in the registers is of no use to anybody.
pub unsafe fn load(area: u64, frame: &mut TrapFrame) -> Result<(), UserFault> {
    // SAFETY: per the contract; faults are fixed up.
    if unsafe { user_load_state(area, &mut frame.xmm) } == 0 { Ok(()) } else { Err(UserFault) }
}
