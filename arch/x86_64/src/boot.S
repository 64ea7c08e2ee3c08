// PVH entry (Xen's x86/HVM direct boot ABI): 32-bit protected mode, paging off, EBX = physical address of hvm_start_info.
// Builds the first page tables (2 MiB pages: identity and direct map of 0–4 GiB, the kernel image at its link address),
// enters long mode and calls kernel_main(start_info) in kernel/src/boot.rs. Also the start-up code of the other CPUs.

.set KOFF, 0xffffffff80000000

.section .note.Xen, "a", @note
.p2align 2
    .long 4, 8, 18              // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start - KOFF

.section .boot.text, "ax"
.code32
.globl pvh_start
pvh_start:
    cli
    cld
    mov $(boot_stack_top - KOFF), %esp
    mov %ebx, %esi

    // boot_pd[0..2048]: 4 GiB in 2 MiB pages.
    mov $(boot_pd - KOFF), %edi
    mov $0x183, %eax            // present, writable, 2 MiB, global
    mov $2048, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    dec %ecx
    jnz 1b
    // boot_pdpt[0..4] -> the four directories.
    mov $(boot_pdpt - KOFF), %edi
    mov $(boot_pd - KOFF + 3), %eax
    mov $4, %ecx
2:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    dec %ecx
    jnz 2b
    movl $(boot_pd - KOFF + 3), boot_pdpt_kernel - KOFF + 510 * 8
    movl $(boot_pdpt - KOFF + 3), boot_pml4 - KOFF
    movl $(boot_pdpt - KOFF + 3), boot_pml4 - KOFF + 256 * 8
    movl $(boot_pdpt_kernel - KOFF + 3), boot_pml4 - KOFF + 511 * 8

    mov $0x6a0, %eax            // PAE, PGE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $(boot_pml4 - KOFF), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx       // EFER: SCE, LME, NXE
    rdmsr
    or $0x901, %eax
    wrmsr
    mov $0x80010033, %eax       // PG, WP, NE, ET, MP, PE
    mov %eax, %cr0
    lgdt boot_gdt_pointer - KOFF
    ljmp $8, $(3f - KOFF)
.code64
3:  mov $4f, %rax
    jmp *%rax
4:  mov $boot_stack_top, %rsp
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    xor %ebp, %ebp
    mov %esi, %edi
    call kernel_main
5:  cli
    hlt
    jmp 5b

.p2align 3
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdt_pointer:
    .word 23
    .long boot_gdt - KOFF

// Start-up of the other CPUs: copied to AP_TRAMPOLINE, a page below 1 MiB. Real mode, CS = AP_TRAMPOLINE >> 4.
// Goes straight to long mode on the boot tables, then loads the kernel's tables and the stack that smp.rs left in the slots.
.set AP_TRAMPOLINE, 0x8000
.p2align 4
.code16
.globl ap_trampoline
ap_trampoline:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdt_pointer - ap_trampoline
    mov $0x6a0, %eax
    mov %eax, %cr4
    mov ap_slot_boot_cr3 - ap_trampoline, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    ljmpl $8, $(AP_TRAMPOLINE + 1f - ap_trampoline)
.code64
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov AP_TRAMPOLINE + ap_slot_cr3 - ap_trampoline, %rax
    mov %rax, %cr3
    mov AP_TRAMPOLINE + ap_slot_stack - ap_trampoline, %rsp
    mov AP_TRAMPOLINE + ap_slot_argument - ap_trampoline, %rdi
    mov AP_TRAMPOLINE + ap_slot_entry - ap_trampoline, %rax
    xor %ebp, %ebp
    call *%rax
2:  cli
    hlt
    jmp 2b
.p2align 3
ap_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
ap_gdt_pointer:
    .word 23
    .long AP_TRAMPOLINE + ap_gdt - ap_trampoline
.p2align 3
.globl ap_slot_boot_cr3
ap_slot_boot_cr3: .quad boot_pml4 - KOFF
.globl ap_slot_cr3
ap_slot_cr3:      .quad 0
.globl ap_slot_stack
ap_slot_stack:    .quad 0
.globl ap_slot_argument
ap_slot_argument: .quad 0
.globl ap_slot_entry
ap_slot_entry:    .quad 0
.globl ap_trampoline_end
ap_trampoline_end:

.section .bss
.p2align 12
boot_pml4:        .skip 4096
boot_pdpt:        .skip 4096
boot_pdpt_kernel: .skip 4096
boot_pd:          .skip 4 * 4096
.globl boot_stack_bottom
boot_stack_bottom: .skip 65536
.globl boot_stack_top
boot_stack_top:
