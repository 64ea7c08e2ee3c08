//! Access to the program's memory that survives a bad address.
//!
//! The program shares the kernel's address space, so its pointers are used in place; a bad one faults inside one of the
//! routines below, and the page-fault handler continues at the routine's landing pad ([`fixup`]) instead of panicking.
//! Only `linux/src/user_ptr.rs` calls these.

use core::arch::{asm, global_asm};

use crate::user_state;

global_asm!(
    r#"
.section .text.user_access, "ax"
// user_copy(rdi = to, rsi = from, rdx = bytes) -> rax = bytes not copied
.globl user_copy
user_copy:
    cmp $64, %rdx
    jb 3f
    cmp $512, %rdx
    jb 2f
    // Whole runs of 512 bytes: the pointers go behind them, RAX counts up to 0.
    mov %rdx, %rax
    and $-512, %rax
    and $511, %edx
    add %rax, %rsi
    add %rax, %rdi
    neg %rax
user_copy_runs:
    .set at, 0
    .rept 2
    movups at(%rsi,%rax), %xmm0
    movups at+16(%rsi,%rax), %xmm1
    movups at+32(%rsi,%rax), %xmm2
    movups at+48(%rsi,%rax), %xmm3
    movups at+64(%rsi,%rax), %xmm4
    movups at+80(%rsi,%rax), %xmm5
    movups at+96(%rsi,%rax), %xmm6
    movups at+112(%rsi,%rax), %xmm7
    movups at+128(%rsi,%rax), %xmm8
    movups at+144(%rsi,%rax), %xmm9
    movups at+160(%rsi,%rax), %xmm10
    movups at+176(%rsi,%rax), %xmm11
    movups at+192(%rsi,%rax), %xmm12
    movups at+208(%rsi,%rax), %xmm13
    movups at+224(%rsi,%rax), %xmm14
    movups at+240(%rsi,%rax), %xmm15
    movups %xmm0, at(%rdi,%rax)
    movups %xmm1, at+16(%rdi,%rax)
    movups %xmm2, at+32(%rdi,%rax)
    movups %xmm3, at+48(%rdi,%rax)
    movups %xmm4, at+64(%rdi,%rax)
    movups %xmm5, at+80(%rdi,%rax)
    movups %xmm6, at+96(%rdi,%rax)
    movups %xmm7, at+112(%rdi,%rax)
    movups %xmm8, at+128(%rdi,%rax)
    movups %xmm9, at+144(%rdi,%rax)
    movups %xmm10, at+160(%rdi,%rax)
    movups %xmm11, at+176(%rdi,%rax)
    movups %xmm12, at+192(%rdi,%rax)
    movups %xmm13, at+208(%rdi,%rax)
    movups %xmm14, at+224(%rdi,%rax)
    movups %xmm15, at+240(%rdi,%rax)
    .set at, 256
    .endr
    add $512, %rax
    jne user_copy_runs
user_copy_rest:
    cmp $64, %rdx
    jb 3f
2:  movups (%rsi), %xmm0
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
    jmp user_copy_rest
3:  cmp $16, %rdx
    jb 4f
    movups (%rsi), %xmm0
    movups %xmm0, (%rdi)
    add $16, %rsi
    add $16, %rdi
    sub $16, %rdx
    jmp 3b
    // One word, once, since others may change it meanwhile; or two that may overlap. After a fault among them, all is done again byte by byte.
4:  cmp $8, %rdx
    jb 6f
    mov (%rsi), %rax
    je 7f
    mov -8(%rsi,%rdx), %rcx
    mov %rax, (%rdi)
    mov %rcx, -8(%rdi,%rdx)
    xor %eax, %eax
    ret
7:  mov %rax, (%rdi)
    xor %eax, %eax
    ret
6:  cmp $4, %rdx
    jb user_copy_bytes
    mov (%rsi), %eax
    je 8f
    mov -4(%rsi,%rdx), %ecx
    mov %eax, (%rdi)
    mov %ecx, -4(%rdi,%rdx)
    xor %eax, %eax
    ret
8:  mov %eax, (%rdi)
    xor %eax, %eax
    ret
user_copy_bytes:
    test %rdx, %rdx
    je user_copy_end
5:  movb (%rsi), %al
    movb %al, (%rdi)
    inc %rsi
    inc %rdi
    dec %rdx
    jne 5b
user_copy_end:
    mov %rdx, %rax
    ret
// A fault among the runs: how far did it come?
user_copy_run_fault:
    add %rax, %rsi
    add %rax, %rdi
    sub %rax, %rdx
    jmp user_copy_bytes

// The same for a few bytes, without vector registers.
.globl user_copy_few
user_copy_few:
    cmp $48, %rdx
    jb 5f
6:  mov (%rsi), %rax
    mov 8(%rsi), %rcx
    mov 16(%rsi), %r8
    mov 24(%rsi), %r9
    mov 32(%rsi), %r10
    mov 40(%rsi), %r11
    mov %rax, (%rdi)
    mov %rcx, 8(%rdi)
    mov %r8, 16(%rdi)
    mov %r9, 24(%rdi)
    mov %r10, 32(%rdi)
    mov %r11, 40(%rdi)
    add $48, %rsi
    add $48, %rdi
    sub $48, %rdx
    cmp $48, %rdx
    jae 6b
5:  cmp $8, %rdx
    jb 2f
1:  mov (%rsi), %rax
    mov %rax, (%rdi)
    add $8, %rsi
    add $8, %rdi
    sub $8, %rdx
    cmp $8, %rdx
    jae 1b
2:  test %rdx, %rdx
    je 4f
3:  movb (%rsi), %al
    movb %al, (%rdi)
    inc %rsi
    inc %rdi
    dec %rdx
    jne 3b
4:  xor %eax, %eax
    ret
user_copy_few_fault:
    mov %rdx, %rax
    ret
// user_store_stat(rdi = to, rsi = fifteen words) -> rax = 0: stored, with the three unused words of a struct stat behind them
.globl user_store_stat
user_store_stat:
    .set at, 0
    .rept 15
    mov at(%rsi), %rax
    mov %rax, at(%rdi)
    .set at, at + 8
    .endr
    xor %eax, %eax
    mov %rax, 120(%rdi)
    mov %rax, 128(%rdi)
    mov %rax, 136(%rdi)
    ret
user_store_stat_fault:
    mov $1, %eax
    ret

// user_fill(rdi = to, sil = byte, rdx = bytes) -> rax = bytes not filled
.globl user_fill
user_fill:
    cmp $64, %rdx
    jb user_fill_bytes
    movzbl %sil, %eax
    movabs $0x0101010101010101, %rcx
    imul %rcx, %rax
    movq %rax, %xmm0
    punpcklqdq %xmm0, %xmm0
1:  movups %xmm0, (%rdi)
    movups %xmm0, 16(%rdi)
    movups %xmm0, 32(%rdi)
    movups %xmm0, 48(%rdi)
    add $64, %rdi
    sub $64, %rdx
    cmp $64, %rdx
    jae 1b
user_fill_bytes:
    test %rdx, %rdx
    je user_fill_end
2:  movb %sil, (%rdi)
    inc %rdi
    dec %rdx
    jne 2b
user_fill_end:
    mov %rdx, %rax
    ret

// user_copy_string(rdi = to, rsi = from, rdx = limit) -> rax = length, rdx = 0: copied with its NUL, 1: a fault, 2: no NUL within the limit
// A word is read only where it does not leave the page, so a fault means that the string's next byte is missing.
.globl user_copy_string
user_copy_string:
    xor %eax, %eax
    movabs $0x0101010101010101, %r8
    movabs $0x8080808080808080, %r9
1:  lea 8(%rax), %r10
    cmp %rdx, %r10
    ja 3f
    lea (%rsi,%rax), %rcx
    and $0xfff, %ecx
    cmp $0xff8, %ecx
    ja 3f
    mov (%rsi,%rax), %rcx
    mov %rcx, (%rdi,%rax)
    mov %rcx, %r11
    sub %r8, %rcx
    not %r11
    and %r11, %rcx
    and %r9, %rcx
    jnz 2f
    mov %r10, %rax
    jmp 1b
2:  bsf %rcx, %rcx
    shr $3, %ecx
    add %rcx, %rax
    xor %edx, %edx
    ret
3:  cmp %rdx, %rax
    jae 4f
    movzbl (%rsi,%rax), %ecx
    movb %cl, (%rdi,%rax)
    test %cl, %cl
    je 5f
    inc %rax
    jmp 1b
4:  mov $2, %edx
    ret
5:  xor %edx, %edx
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
.globl user_load_u8
user_load_u8:
    movzbl (%rdi), %eax
    xor %edx, %edx
    ret
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
    static user_copy_runs: u8;
    static user_copy_rest: u8;
    static user_copy_bytes: u8;
    static user_copy_run_fault: u8;
    static user_copy_few_fault: u8;
    static user_store_stat_fault: u8;
    static user_copy_end: u8;
    static user_fill_end: u8;
    static user_words_end: u8;
    static user_fault: u8;
    fn user_copy(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    fn user_store_stat(to: *mut u64, words: *const u64) -> usize;
    fn user_copy_few(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    fn user_fill(to: *mut u8, byte: u8, bytes: usize) -> usize;
    static user_fill_bytes: u8;
    fn user_copy_string(to: *mut u8, from: *const u8, limit: usize) -> Counted;
    fn user_strnlen(string: *const u8, limit: usize);
    fn user_load_u8(at: *const u8);
    fn user_load_u32(at: *const u32);
    fn user_load_u64(at: *const u64);
    fn user_store_u32(at: *mut u32, value: u32);
    fn user_store_u64(at: *mut u64, value: u64);
    fn user_cmpxchg_u32(at: *mut u32, expected: u32, new: u32);
}

/// A length, and how a string ended.
#[repr(C)]
struct Counted {
    len: usize,
    end: usize,
}

/// What [`copy_string`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StringEnd {
    /// The string's end, after so many bytes.
    Nul(usize),
    /// None within the limit.
    None,
}

/// An access to the program's memory failed: the address is not mapped, or not with that permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserFault;

/// Where to continue when an access at `rip` faults, if `rip` is inside one of the routines here or in
/// [`crate::user_state`].
#[must_use]
pub fn fixup(rip: u64) -> Option<u64> {
    let table: [(*const u8, *const u8, *const u8); 9] = [
        (user_store_stat as *const () as *const u8, &raw const user_store_stat_fault, &raw const user_store_stat_fault),
        (user_copy_few as *const () as *const u8, &raw const user_copy_few_fault, &raw const user_copy_few_fault),
        (user_copy as *const () as *const u8, &raw const user_copy_runs, &raw const user_copy_bytes),
        (&raw const user_copy_runs, &raw const user_copy_rest, &raw const user_copy_run_fault),
        (&raw const user_copy_rest, &raw const user_copy_bytes, &raw const user_copy_bytes),
        (&raw const user_copy_bytes, &raw const user_copy_end, &raw const user_copy_end),
        (user_fill as *const () as *const u8, &raw const user_fill_bytes, &raw const user_fill_bytes),
        (&raw const user_fill_bytes, &raw const user_fill_end, &raw const user_fill_end),
        (user_copy_string as *const () as *const u8, &raw const user_words_end, &raw const user_fault),
    ];
    let found = table.iter().find(|(start, end, _)| (*start as u64..*end as u64).contains(&rip)).map(|&(.., landing)| landing as u64);
    found.or_else(|| user_state::fixup(rip))
}

/// Copies `len` bytes from the program's memory at `from` to `to`.
///
/// # Errors
/// The number of bytes at the end that were not copied.
///
/// # Safety
/// `to..to + len` is writable kernel memory; `from..from + len` lies in the program's half.
#[inline]
pub unsafe fn copy_in(to: *mut u8, from: *const u8, len: usize) -> Result<(), usize> {
    // SAFETY: `to` is the caller's; faults on `from` are fixed up.
    match unsafe { user_copy(to, from, len) } {
        0 => Ok(()),
        left => Err(left),
    }
}

/// Copies the NUL-terminated string at `from`, with its NUL, but no more than `limit` bytes.
///
/// # Errors
/// [`UserFault`] if the string runs into unmapped memory.
///
/// # Safety
/// `to..to + limit` is writable kernel memory; `from..from + limit` lies in the program's half.
pub unsafe fn copy_string(to: *mut u8, from: *const u8, limit: usize) -> Result<StringEnd, UserFault> {
    // SAFETY: `to` is the caller's; faults on `from` are fixed up.
    match unsafe { user_copy_string(to, from, limit) } {
        Counted { len, end: 0 } => Ok(StringEnd::Nul(len)),
        Counted { end: 2, .. } => Ok(StringEnd::None),
        _ => Err(UserFault),
    }
}

/// Copies `len` bytes at `from` to the program's memory at `to`.
///
/// # Errors
/// The number of bytes at the end that were not copied.
///
/// # Safety
/// `from..from + len` is readable kernel memory; `to..to + len` lies in the program's half.
#[inline]
pub unsafe fn copy_out(to: *mut u8, from: *const u8, len: usize) -> Result<(), usize> {
    // SAFETY: `from` is the caller's; faults on `to` are fixed up.
    match unsafe { user_copy(to, from, len) } {
        0 => Ok(()),
        left => Err(left),
    }
}

/// Copies a few bytes, either way, without a vector register. False: not all were copied.
///
/// # Safety
/// Of the two runs of `len` bytes one lies in the program's half; the other is kernel memory that may be read or written.
#[inline]
#[must_use]
pub unsafe fn copy_few(to: *mut u8, from: *const u8, len: usize) -> bool {
    // SAFETY: per the contract; faults on the program's side are fixed up.
    unsafe { user_copy_few(to, from, len) == 0 }
}

/// Stores a `struct stat`: its words, and the unused ones behind them, as zeros. Without a vector register. False: not all were stored.
///
/// # Safety
/// The 144 bytes from `to` on lie in the program's half.
#[inline]
#[must_use]
pub unsafe fn store_stat(to: *mut u64, words: &[u64; 15]) -> bool {
    // SAFETY: per the contract; faults on `to` are fixed up.
    unsafe { user_store_stat(to, words.as_ptr()) == 0 }
}

/// Zeroes `len` bytes of the program's memory.
///
/// # Errors
/// The number of bytes at the end that were not zeroed.
///
/// # Safety
/// `to..to + len` lies in the program's half.
#[inline]
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

/// Reads a byte of the program's memory.
///
/// # Errors
/// [`UserFault`].
///
/// # Safety
/// `at` lies in the program's half.
#[inline]
pub unsafe fn load_u8(at: *const u8) -> Result<u8, UserFault> {
    word_call!(user_load_u8, at, 0u64, 0u64).map(|v| v as u8)
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
