// The vDSO as one ELF image: headers, symbol tables and code, written out by hand so that nothing but the assembler
// makes it. It is copied to a page of its own; the data page (struct Data in lib.rs) is mapped right before it.
//
// All addresses are offsets from vdso_start. One hash bucket each, so the tables need no arithmetic; the hash values are
// those of the gABI (SysV hash) and of the GNU hash section.
.section .rodata.vdso, "a"
.balign 4096
.globl vdso_start
vdso_start:
    .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
    .short 3, 62
    .long 1
    .quad 0
    .quad vdso_phdrs - vdso_start
    .quad 0
    .long 0
    .short 64, 56, 3, 64, 0, 0
vdso_phdrs:
    .long 1, 5                               // PT_LOAD, R+X
    .quad 0, 0, 0
    .quad vdso_end - vdso_start, vdso_end - vdso_start
    .quad 4096
    .long 2, 4                               // PT_DYNAMIC
    .quad vdso_dynamic - vdso_start, vdso_dynamic - vdso_start, vdso_dynamic - vdso_start
    .quad vdso_dynamic_end - vdso_dynamic, vdso_dynamic_end - vdso_dynamic
    .quad 8
    .long 0x6474e551, 4                      // PT_GNU_STACK
    .quad 0, 0, 0, 0, 0, 16

.balign 8
vdso_hash:                                   // DT_HASH: nbucket, nchain, bucket, chain
    .long 1, 6
    .long 1
    .long 0, 2, 3, 4, 5, 0

.balign 8
vdso_gnu_hash:                               // DT_GNU_HASH: nbuckets, first symbol, bloom words, bloom shift
    .long 1, 1, 1, 6
    .quad -1                                 // bloom filter: everything may be here
    .long 1
    .long 0x6e43a318, 0xb01bca00, 0x821e8e0c, 0x6562b026, 0x68308f53

.balign 8
vdso_dynsym:                                 // name, FUNC GLOBAL, default visibility, a section, value, size
    .quad 0, 0, 0
    .long clock_gettime_name - vdso_dynstr
    .byte 0x12, 0
    .short 1
    .quad vdso_clock_gettime - vdso_start, vdso_clock_gettime_end - vdso_clock_gettime
    .long gettimeofday_name - vdso_dynstr
    .byte 0x12, 0
    .short 1
    .quad vdso_gettimeofday - vdso_start, vdso_gettimeofday_end - vdso_gettimeofday
    .long time_name - vdso_dynstr
    .byte 0x12, 0
    .short 1
    .quad vdso_time - vdso_start, vdso_time_end - vdso_time
    .long getcpu_name - vdso_dynstr
    .byte 0x12, 0
    .short 1
    .quad vdso_getcpu - vdso_start, vdso_getcpu_end - vdso_getcpu
    .long clock_getres_name - vdso_dynstr
    .byte 0x12, 0
    .short 1
    .quad vdso_clock_getres - vdso_start, vdso_clock_getres_end - vdso_clock_getres

vdso_dynstr:
    .byte 0
soname: .asciz "linux-vdso.so.1"
version: .asciz "LINUX_2.6"
clock_gettime_name: .asciz "__vdso_clock_gettime"
gettimeofday_name: .asciz "__vdso_gettimeofday"
time_name: .asciz "__vdso_time"
getcpu_name: .asciz "__vdso_getcpu"
clock_getres_name: .asciz "__vdso_clock_getres"
vdso_dynstr_end:

.balign 2
vdso_versym:
    .short 0, 2, 2, 2, 2, 2

.balign 8
vdso_verdef:                                 // version, flags, index, count, hash, aux, next; then the name
    .short 1, 1, 1, 1
    .long 0xdeebfa1, 20, 28
    .long soname - vdso_dynstr, 0
    .short 1, 0, 2, 1
    .long 0x3ae75f6, 20, 0
    .long version - vdso_dynstr, 0

.balign 8
vdso_dynamic:
    .quad 14, soname - vdso_dynstr           // DT_SONAME
    .quad 4, vdso_hash - vdso_start          // DT_HASH
    .quad 0x6ffffef5, vdso_gnu_hash - vdso_start
    .quad 5, vdso_dynstr - vdso_start        // DT_STRTAB
    .quad 6, vdso_dynsym - vdso_start        // DT_SYMTAB
    .quad 10, vdso_dynstr_end - vdso_dynstr  // DT_STRSZ
    .quad 11, 24                             // DT_SYMENT
    .quad 0x6ffffffc, vdso_verdef - vdso_start
    .quad 0x6ffffffd, 2                      // DT_VERDEFNUM
    .quad 0x6ffffff0, vdso_versym - vdso_start
    .quad 0, 0
vdso_dynamic_end:

// The data page: a generation, then four slots; the kernel writes the slot after that in use and then counts up by a slot's size. So the
// generation's lowest byte is the offset of the slot in use.
.set vdso_data, vdso_start - 4096
.set SLOTS, 16
.set BASE_TSC, 0
.set MULT, 8
.set BASES, 16                               // wall clock, monotonic clock: clocks 0 and 1
.set SHIFT, 32
.set NANOS, 1000000000
// Clock ids served here: REALTIME MONOTONIC MONOTONIC_RAW REALTIME_COARSE MONOTONIC_COARSE BOOTTIME TAI.
.set CLOCKS, 0x8f3
.set REALTIME_CLOCKS, 0x821
.set COARSE_CLOCKS, 0x60
.set COARSE_RESOLUTION, 4000000

// rax = nanoseconds of the clock whose base is at \base, relative to the slot r10. Clobbers rcx, rdx, r8, r9, r10. No stack.
.macro READ_CLOCK base:vararg
10: mov vdso_data(%rip), %r8d
    movzbl %r8b, %r9d
    lea vdso_data + SLOTS(%rip), %r10
    add %r9, %r10
    lfence                                   // the time stamp is not read before the generation
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    sub BASE_TSC(%r10), %rax                 // 2^SHIFT and more, see Slot
    mulq MULT(%r10)
    mov SHIFT(%r10), %ecx
    shrd %cl, %rdx, %rax
    add \base, %rax
    cmp %r8d, vdso_data(%rip)
    jne 10b
.endm

// rax = seconds, rdx = nanoseconds.
.macro SPLIT
    xor %edx, %edx
    mov $NANOS, %ecx
    div %rcx
.endm

.balign 16
vdso_clock_gettime:                          // (edi = clock, rsi = timespec)
    cmp $1, %edi
    ja 3f
1:  mov %edi, %edi
    READ_CLOCK BASES(%r10, %rdi, 8)
    SPLIT
    mov %rax, (%rsi)
    mov %rdx, 8(%rsi)
    xor %eax, %eax
    ret
2:  mov $228, %eax
    syscall
    ret
3:  cmp $32, %edi                            // another clock: like one of the first two, or none of ours
    jae 2b
    mov $CLOCKS, %eax
    bt %edi, %eax
    jnc 2b
    mov $REALTIME_CLOCKS, %eax
    bt %edi, %eax
    setnc %dil
    movzbl %dil, %edi
    jmp 1b
vdso_clock_gettime_end:

.balign 16
vdso_gettimeofday:                           // (rdi = timeval, rsi = timezone)
    test %rdi, %rdi
    jz 1f
    READ_CLOCK BASES(%r10)
    SPLIT
    mov %rax, (%rdi)
    mov %rdx, %rax
    xor %edx, %edx
    mov $1000, %ecx
    div %rcx
    mov %rax, 8(%rdi)
1:  test %rsi, %rsi
    jz 2f
    movq $0, (%rsi)
2:  xor %eax, %eax
    ret
vdso_gettimeofday_end:

.balign 16
vdso_time:                                   // (rdi = time_t or null)
    READ_CLOCK BASES(%r10)
    SPLIT
    test %rdi, %rdi
    jz 1f
    mov %rax, (%rdi)
1:  ret
vdso_time_end:

.balign 16
vdso_getcpu:                                 // (rdi = cpu or null, rsi = node or null)
    mov %gs:{cpu_id}, %eax                   // program and kernel share ring 0, and GS is the kernel's
    test %rdi, %rdi
    jz 1f
    mov %eax, (%rdi)
1:  test %rsi, %rsi
    jz 2f
    movl $0, (%rsi)
2:  xor %eax, %eax
    ret
vdso_getcpu_end:

.balign 16
vdso_clock_getres:                           // (edi = clock, rsi = timespec or null)
    cmp $32, %edi
    jae 2f
    mov $CLOCKS, %eax
    bt %edi, %eax
    jnc 2f
    test %rsi, %rsi
    jz 3f
    mov $1, %edx
    mov $COARSE_CLOCKS, %eax
    bt %edi, %eax
    jnc 1f
    mov $COARSE_RESOLUTION, %edx
1:  movq $0, (%rsi)
    mov %rdx, 8(%rsi)
3:  xor %eax, %eax
    ret
2:  mov $229, %eax
    syscall
    ret
vdso_clock_getres_end:
vdso_end:
.text
