//! Access to the program's memory that survives a bad address.
//!
//! The program shares the kernel's address space, so its pointers are used in place; a bad one faults inside one of the
//! routines below, and the page-fault handler continues at the routine's landing pad ([`fixup`]) instead of panicking.
//! Only `linux/src/user_ptr.rs` calls these.

use core::arch::{asm, global_asm};

global_asm!(
    r#"
.section .text.user_access, "ax"
// user_copy(rdi = to, rsi = from, rdx = bytes) -> rax = bytes not copied
.globl user_copy
user_copy:
1:  cmp $64, %rdx
    jb 2f
    movups (%rsi), %xmm0
    movups 16(%rsi), %xmm1
    movups 32(%rsi), %xmm2
    movups 48(%rsi), %xmm3
    movups %xmm0, (%rdi)
    movups %xmm1, 16(%rdi)
    movups %xmm2, 32(%rdi)
    movups %xmm3, 48(%rdi)
    add $64, %rsi
    add $64, %rdi
    sub $64, %rdx
    jmp 1b
2:  cmp $8, %rdx
    jb user_copy_bytes
    mov (%rsi), %rax
    mov %rax, (%rdi)
    add $8, %rsi
    add $8, %rdi
    sub $8, %rdx
    jmp 2b
user_copy_bytes:
    test %rdx, %rdx
    je user_copy_end
    movb (%rsi), %al
    movb %al, (%rdi)
    inc %rsi
    inc %rdi
    dec %rdx
    jmp user_copy_bytes
user_copy_end:
    mov %rdx, %rax
    ret

// user_fill(rdi = to, sil = byte, rdx = bytes) -> rax = bytes not filled
.globl user_fill
user_fill:
    test %rdx, %rdx
    je user_fill_end
    movb %sil, (%rdi)
    inc %rdi
    dec %rdx
    jmp user_fill
user_fill_end:
    mov %rdx, %rax
    ret

// user_strnlen(rdi = string, rsi = limit) -> rax = length (limit if no NUL), rdx = 1 on a fault
.globl user_strnlen
user_strnlen:
    xor %eax, %eax
    xor %edx, %edx
1:  cmp %rsi, %rax
    jae 2f
    cmpb $0, (%rdi,%rax)
    je 2f
    inc %rax
    jmp 1b
2:  ret
user_strnlen_end:

// The rest: rax = value, rdx = 1 on a fault.
.globl user_load_u32
user_load_u32:
    mov (%rdi), %eax
    xor %edx, %edx
    ret
.globl user_load_u64
user_load_u64:
    mov (%rdi), %rax
    xor %edx, %edx
    ret
.globl user_store_u32
user_store_u32:
    mov %esi, (%rdi)
    xor %edx, %edx
    ret
.globl user_store_u64
user_store_u64:
    mov %rsi, (%rdi)
    xor %edx, %edx
    ret
// user_cmpxchg_u32(rdi = at, esi = expected, edx = new) -> eax = value found
.globl user_cmpxchg_u32
user_cmpxchg_u32:
    mov %esi, %eax
    lock cmpxchg %edx, (%rdi)
    xor %edx, %edx
    ret
user_words_end:
user_fault:
    mov $1, %edx
    ret
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static user_copy_bytes: u8;
    static user_copy_end: u8;
    static user_fill_end: u8;
    static user_words_end: u8;
    static user_fault: u8;
    fn user_copy(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    fn user_fill(to: *mut u8, byte: u8, bytes: usize) -> usize;
    fn user_strnlen(string: *const u8, limit: usize);
    fn user_load_u32(at: *const u32);
    fn user_load_u64(at: *const u64);
    fn user_store_u32(at: *mut u32, value: u32);
    fn user_store_u64(at: *mut u64, value: u64);
    fn user_cmpxchg_u32(at: *mut u32, expected: u32, new: u32);
}

/// An access to the program's memory failed: the address is not mapped, or not with that permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserFault;

/// Where to continue when an access at `rip` faults, if `rip` is inside one of this module's routines.
#[must_use]
pub fn fixup(rip: u64) -> Option<u64> {
    let table: [(*const u8, *const u8, *const u8); 4] = [
        (user_copy as *const () as *const u8, &raw const user_copy_bytes, &raw const user_copy_bytes),
        (&raw const user_copy_bytes, &raw const user_copy_end, &raw const user_copy_end),
        (user_fill as *const () as *const u8, &raw const user_fill_end, &raw const user_fill_end),
        (user_strnlen as *const () as *const u8, &raw const user_words_end, &raw const user_fault),
    ];
    table.iter().find(|(start, end, _)| (*start as u64..*end as u64).contains(&rip)).map(|&(.., landing)| landing as u64)
}

/// Copies `len` bytes from the program's memory at `from` to `to`.
///
/// # Errors
/// The number of bytes at the end that were not copied.
///
/// # Safety
/// `to..to + len` is writable kernel memory; `from..from + len` lies in the program's half.
pub unsafe fn copy_in(to: *mut u8, from: *const u8, len: usize) -> Result<(), usize> {
    // SAFETY: `to` is the caller's; faults on `from` are fixed up.
    match unsafe { user_copy(to, from, len) } {
        0 => Ok(()),
        left => Err(left),
    }
}

/// Copies `len` bytes at `from` to the program's memory at `to`.
///
/// # Errors
/// The number of bytes at the end that were not copied.
///
/// # Safety
/// `from..from + len` is readable kernel memory; `to..to + len` lies in the program's half.
pub unsafe fn copy_out(to: *mut u8, from: *const u8, len: usize) -> Result<(), usize> {
    // SAFETY: `from` is the caller's; faults on `to` are fixed up.
    match unsafe { user_copy(to, from, len) } {
        0 => Ok(()),
        left => Err(left),
    }
}

/// Zeroes `len` bytes of the program's memory.
///
/// # Errors
/// The number of bytes at the end that were not zeroed.
///
/// # Safety
/// `to..to + len` lies in the program's half.
pub unsafe fn zero(to: *mut u8, len: usize) -> Result<(), usize> {
    // SAFETY: faults on `to` are fixed up.
    match unsafe { user_fill(to, 0, len) } {
        0 => Ok(()),
        left => Err(left),
    }
}

/// Calls one of the word routines with up to three arguments; they return rax and a fault flag in rdx.
macro_rules! word_call {
    ($routine:ident, $a:expr, $b:expr, $c:expr) => {{
        let (value, fault): (u64, u64);
        // SAFETY: the routines touch only the given address, with faults fixed up, and change no other register than RAX and RDX.
        unsafe {
            asm!("call {}", sym $routine, in("rdi") $a, in("rsi") $b, inout("rdx") $c => fault, out("rax") value);
        }
        if fault == 0 { Ok(value) } else { Err(UserFault) }
    }};
}

/// Length of the NUL-terminated string at `string`, `limit` if there is no NUL within it.
///
/// # Errors
/// [`UserFault`] if the string runs into unmapped memory.
///
/// # Safety
/// `string..string + limit` lies in the program's half.
pub unsafe fn strnlen(string: *const u8, limit: usize) -> Result<usize, UserFault> {
    word_call!(user_strnlen, string, limit, 0u64).map(|v| v as usize)
}

/// Reads a 32-bit word of the program's memory in one access.
///
/// # Errors
/// [`UserFault`].
///
/// # Safety
/// `at` lies in the program's half.
pub unsafe fn load_u32(at: *const u32) -> Result<u32, UserFault> {
    word_call!(user_load_u32, at, 0u64, 0u64).map(|v| v as u32)
}

/// Reads a 64-bit word of the program's memory in one access.
///
/// # Errors
/// [`UserFault`].
///
/// # Safety
/// `at` lies in the program's half.
pub unsafe fn load_u64(at: *const u64) -> Result<u64, UserFault> {
    word_call!(user_load_u64, at, 0u64, 0u64)
}

/// Writes a 32-bit word of the program's memory in one access.
///
/// # Errors
/// [`UserFault`].
///
/// # Safety
/// `at` lies in the program's half.
pub unsafe fn store_u32(at: *mut u32, value: u32) -> Result<(), UserFault> {
    word_call!(user_store_u32, at, u64::from(value), 0u64).map(|_| ())
}

/// Writes a 64-bit word of the program's memory in one access.
///
/// # Errors
/// [`UserFault`].
///
/// # Safety
/// `at` lies in the program's half.
pub unsafe fn store_u64(at: *mut u64, value: u64) -> Result<(), UserFault> {
    word_call!(user_store_u64, at, value, 0u64).map(|_| ())
}

/// Atomically replaces `expected` by `new` at `at`; returns the value found there.
///
/// # Errors
/// [`UserFault`].
///
/// # Safety
/// `at` lies in the program's half and is a multiple of 4.
pub unsafe fn cmpxchg_u32(at: *mut u32, expected: u32, new: u32) -> Result<u32, UserFault> {
    word_call!(user_cmpxchg_u32, at, u64::from(expected), u64::from(new)).map(|v| v as u32)
}
