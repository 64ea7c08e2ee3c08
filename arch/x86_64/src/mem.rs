//! The memory routines that the compiler calls.
//!
//! `rep movsb` costs 75 times an SSE loop under QEMU's emulator (build.md A9), so plain loops are used.
//! Absent in host builds, where the C library has them.

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
