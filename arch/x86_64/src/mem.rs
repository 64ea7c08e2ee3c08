//! The memory routines that the compiler calls.
//!
//! `rep movsb` costs 75 times an SSE loop under QEMU's emulator (build.md A9), so plain loops are used.
//! Absent in host builds, where the C library has them.

use core::arch::asm;

/// Makes `pages` pages of 4 KiB zero: what most page faults spend most of their time on.
///
/// # Safety
/// `start` is page-aligned, and that much memory there is the caller's to write.
#[inline]
pub unsafe fn zero_pages(start: *mut u8, pages: usize) {
    if pages == 0 {
        return;
    }
    // SAFETY: writes exactly the pages (a kilobyte a turn), which the caller may write.
    unsafe {
        asm!(
            "xorps {zero}, {zero}",
            "2:",
            ".set zero_at, 0",
            ".rept 64",
            "movaps {zero}, zero_at({at})",
            ".set zero_at, zero_at + 16",
            ".endr",
            "add $1024, {at}",
            "cmp {end}, {at}",
            "jne 2b",
            at = inout(reg) start => _,
            end = in(reg) start.wrapping_add(pages << 12),
            zero = out(xmm_reg) _,
            options(nostack, att_syntax),
        );
    }
}

#[cfg(not(test))]
core::arch::global_asm!(
    r#"
.section .text.mem, "ax"
.weak memcpy
.weak memmove
.weak memset
.weak memcmp
.weak bcmp
.weak strlen
.balign 16
memmove:
    mov %rdi, %rax
    sub %rsi, %rax
    cmp %rdx, %rax
    jb 5f
.balign 16
memcpy:
    mov %rdi, %rax
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
    jb 3f
    mov (%rsi), %rcx
    mov %rcx, (%rdi)
    add $8, %rsi
    add $8, %rdi
    sub $8, %rdx
    jmp 2b
3:  test %rdx, %rdx
    je 4f
    movb (%rsi), %cl
    movb %cl, (%rdi)
    inc %rsi
    inc %rdi
    dec %rdx
    jmp 3b
4:  ret
// Overlapping with to > from: backwards.
5:  mov %rdi, %rax
6:  cmp $32, %rdx
    jb 7f
    movups -16(%rsi,%rdx), %xmm0
    movups -32(%rsi,%rdx), %xmm1
    movups %xmm0, -16(%rdi,%rdx)
    movups %xmm1, -32(%rdi,%rdx)
    sub $32, %rdx
    jmp 6b
7:  test %rdx, %rdx
    je 8f
    movb -1(%rsi,%rdx), %cl
    movb %cl, -1(%rdi,%rdx)
    dec %rdx
    jmp 7b
8:  ret

.balign 16
memset:
    mov %rdi, %rax
    movzbl %sil, %ecx
    mov $0x0101010101010101, %r8
    imul %r8, %rcx
    movq %rcx, %xmm0
    punpcklqdq %xmm0, %xmm0
    sub $256, %rdx
    jb 6f
5:  movups %xmm0, (%rdi)
    movups %xmm0, 16(%rdi)
    movups %xmm0, 32(%rdi)
    movups %xmm0, 48(%rdi)
    movups %xmm0, 64(%rdi)
    movups %xmm0, 80(%rdi)
    movups %xmm0, 96(%rdi)
    movups %xmm0, 112(%rdi)
    movups %xmm0, 128(%rdi)
    movups %xmm0, 144(%rdi)
    movups %xmm0, 160(%rdi)
    movups %xmm0, 176(%rdi)
    movups %xmm0, 192(%rdi)
    movups %xmm0, 208(%rdi)
    movups %xmm0, 224(%rdi)
    movups %xmm0, 240(%rdi)
    add $256, %rdi
    sub $256, %rdx
    jae 5b
6:  add $256, %rdx
1:  cmp $64, %rdx
    jb 2f
    movups %xmm0, (%rdi)
    movups %xmm0, 16(%rdi)
    movups %xmm0, 32(%rdi)
    movups %xmm0, 48(%rdi)
    add $64, %rdi
    sub $64, %rdx
    jmp 1b
2:  cmp $8, %rdx
    jb 3f
    mov %rcx, (%rdi)
    add $8, %rdi
    sub $8, %rdx
    jmp 2b
3:  test %rdx, %rdx
    je 4f
    movb %cl, (%rdi)
    inc %rdi
    dec %rdx
    jmp 3b
4:  ret

.balign 16
memcmp:
bcmp:
1:  cmp $8, %rdx
    jb 2f
    mov (%rsi), %rax
    cmp %rax, (%rdi)
    jne 2f
    add $8, %rsi
    add $8, %rdi
    sub $8, %rdx
    jmp 1b
2:  test %rdx, %rdx
    je 3f
    movzbl (%rdi), %eax
    movzbl (%rsi), %ecx
    sub %ecx, %eax
    jne 4f
    inc %rsi
    inc %rdi
    dec %rdx
    jmp 2b
3:  xor %eax, %eax
4:  ret

.balign 16
strlen:
    xor %eax, %eax
1:  cmpb $0, (%rdi,%rax)
    je 2f
    inc %rax
    jmp 1b
2:  ret
"#,
    options(att_syntax)
);

#[cfg(test)]
mod tests {
    #[repr(align(4096))]
    struct Pages([u8; 3 << 12]);

    #[test]
    fn the_pages_become_zero_and_nothing_else() {
        let mut pages = Box::new(Pages([7; 3 << 12]));
        // SAFETY: the middle one of three aligned pages.
        unsafe { super::zero_pages(pages.0.as_mut_ptr().wrapping_add(1 << 12), 1) };
        assert!(pages.0.chunks(1 << 12).map(|page| page.iter().all(|&byte| byte == 0)).eq([false, true, false]));
        assert!(pages.0.iter().filter(|&&byte| byte == 7).count() == 2 << 12);
        // SAFETY: all three.
        unsafe { super::zero_pages(pages.0.as_mut_ptr(), 3) };
        assert!(pages.0.iter().all(|&byte| byte == 0));
    }
}
