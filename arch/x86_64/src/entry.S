// Ways into the kernel: `syscall`, and the 256 vectors of the IDT.
//
// Rules (architecture.md §3): the program's stack is never touched, because it has a red zone and may not even be
// mapped; GS is ours, FS is the program's; interrupts stay enabled through `syscall`.
// F_* are offsets in TrapFrame, G_* in CpuBlock, T_* in ThreadBlock; idt.rs passes them in.

.section .text.entry, "ax"

.macro SAVE_XMM
    movaps %xmm0, 0(%rsp)
    movaps %xmm1, 16(%rsp)
    movaps %xmm2, 32(%rsp)
    movaps %xmm3, 48(%rsp)
    movaps %xmm4, 64(%rsp)
    movaps %xmm5, 80(%rsp)
    movaps %xmm6, 96(%rsp)
    movaps %xmm7, 112(%rsp)
    movaps %xmm8, 128(%rsp)
    movaps %xmm9, 144(%rsp)
    movaps %xmm10, 160(%rsp)
    movaps %xmm11, 176(%rsp)
    movaps %xmm12, 192(%rsp)
    movaps %xmm13, 208(%rsp)
    movaps %xmm14, 224(%rsp)
    movaps %xmm15, 240(%rsp)
.endm

.macro RESTORE_XMM
    movaps 0(%rsp), %xmm0
    movaps 16(%rsp), %xmm1
    movaps 32(%rsp), %xmm2
    movaps 48(%rsp), %xmm3
    movaps 64(%rsp), %xmm4
    movaps 80(%rsp), %xmm5
    movaps 96(%rsp), %xmm6
    movaps 112(%rsp), %xmm7
    movaps 128(%rsp), %xmm8
    movaps 144(%rsp), %xmm9
    movaps 160(%rsp), %xmm10
    movaps 176(%rsp), %xmm11
    movaps 192(%rsp), %xmm12
    movaps 208(%rsp), %xmm13
    movaps 224(%rsp), %xmm14
    movaps 240(%rsp), %xmm15
.endm

// Moves what the CPU and the stub pushed, and RAX and RCX above it, from the stack into the frame at RAX, which becomes
// the stack; then saves the other registers there.
.macro MOVE_FRAME
    pop %rcx
    mov %rcx, F_RCX(%rax)
    pop %rcx
    mov %rcx, F_RAX(%rax)
    pop %rcx
    mov %rcx, F_ORIG_RAX(%rax)
    pop %rcx
    mov %rcx, F_ERROR(%rax)
    pop %rcx
    mov %rcx, F_RIP(%rax)
    pop %rcx
    mov %rcx, F_CS(%rax)
    pop %rcx
    mov %rcx, F_RFLAGS(%rax)
    pop %rcx
    mov %rcx, F_RSP(%rax)
    pop %rcx
    mov %rcx, F_SS(%rax)
    mov %rax, %rsp
    call save_registers
.endm

// What a handler may look at, and what a system call preserves and compiled code does not: on the kernel stack from here on.
// RBX, RBP and R12 to R15 stay in the registers, since handlers preserve them; whoever needs the whole frame has them saved.
.macro ENTER
    mov %rsp, %r11
    mov %gs:G_KERNEL_FRAME, %rsp
    mov %r11, F_RSP(%rsp)
    mov %rcx, F_RIP(%rsp)
    mov %rax, F_ORIG_RAX(%rsp)
    mov %rdi, F_RDI(%rsp)
    mov %rsi, F_RSI(%rsp)
    mov %rdx, F_RDX(%rsp)
    mov %r10, F_R10(%rsp)
    mov %r8, F_R8(%rsp)
    mov %r9, F_R9(%rsp)
.endm

// Calls the handler of the number in RAX, which is in range; its result is in RAX.
.macro CALL_HANDLER
    mov %gs:G_CURRENT, %rdi
    mov T_TASK(%rdi), %rdi
    mov %rsp, %rsi
    call *linux_handlers(,%rax,8)
.endm

.macro RESTORE_ARGUMENTS
    mov F_RDI(%rsp), %rdi
    mov F_RSI(%rsp), %rsi
    mov F_RDX(%rsp), %rdx
    mov F_R10(%rsp), %r10
    mov F_R8(%rsp), %r8
    mov F_R9(%rsp), %r9
    mov F_RIP(%rsp), %rcx
    mov F_RSP(%rsp), %rsp
.endm

// The rest of what a program's frame holds. CS and SS are right since `switch::prepare`; RCX and R11 are left to
// `TrapFrame::set_syscall_clobbers`.
.macro SAVE_PRESERVED
    mov %rbx, F_RBX(%rsp)
    mov %rbp, F_RBP(%rsp)
    mov %r12, F_R12(%rsp)
    mov %r13, F_R13(%rsp)
    mov %r14, F_R14(%rsp)
    mov %r15, F_R15(%rsp)
    movq $0x202, F_RFLAGS(%rsp)
.endm

// System call. rax = number, rcx = return address, r11 = the program's RFLAGS (dead by the ABI), everything else as the program left it.
// Preemption-safe with interrupts on at every instruction: an interrupt before the stack switch sees a program stack
// pointer and starts at the top of the (empty) kernel stack; after it, the stack pointer lies inside the kernel stack.
// Here come those of the `syscall` instruction, which are counted by the return address's last byte: who comes often is looked at.
.balign 16
.globl syscall_entry
syscall_entry:
    ENTER
    movzbl %cl, %edx
    decb %gs:G_SITE_COUNTS(%rdx)
    jz syscall_site_is_hot
syscall_dispatch:
    cmp $SYSCALL_COUNT, %rax
    jae syscall_number_unknown
    jmp *linux_routes(,%rax,8)

// Handlers that look at the whole frame.
.globl syscall_route_whole
syscall_route_whole:
    SAVE_PRESERVED
    jmp syscall_route_full
// All others. A patched call site comes in front: a stub beside the program's code has put the number into RAX, which is in range,
// and the return address into RCX.
.balign 16
.globl syscall_patched_full
syscall_patched_full:
    ENTER
.globl syscall_route_full
syscall_route_full:
    SAVE_XMM
    CALL_HANDLER
// From here to the final jump the path can be started over: a trap that finds work for this thread while RIP is in
// [syscall_exit, syscall_exit_jump) sets RIP back to syscall_exit; at the jump itself it treats rcx as the program's RIP.
.globl syscall_exit
syscall_exit:
    mov %gs:G_CURRENT, %r11
    cmpl $0, T_WORK(%r11)
    jne syscall_work
    RESTORE_XMM
    RESTORE_ARGUMENTS
.globl syscall_exit_jump
syscall_exit_jump:
    jmp *%rcx

// Handlers that touch no vector register and never wait, as `cargo xtask lint` proves: the registers keep the program's values.
.balign 16
.globl syscall_patched_quiet
syscall_patched_quiet:
    ENTER
.globl syscall_route_quiet
syscall_route_quiet:
    CALL_HANDLER
.globl syscall_quiet_exit
syscall_quiet_exit:
    mov %gs:G_CURRENT, %r11
    cmpl $0, T_WORK(%r11)
    jne syscall_quiet_work
    RESTORE_ARGUMENTS
.globl syscall_quiet_exit_jump
syscall_quiet_exit_jump:
    jmp *%rcx

// Calls with a handler for the usual case, which is quiet like those above; if the case is another one, it has done nothing, and the call
// starts over with its other handler.
.balign 16
.globl syscall_patched_brief
syscall_patched_brief:
    ENTER
.globl syscall_route_brief
syscall_route_brief:
    mov %gs:G_CURRENT, %rdi
    mov T_TASK(%rdi), %rdi
    mov %rsp, %rsi
    call *linux_brief_handlers(,%rax,8)
    cmp $NOT_BRIEF, %rax
    jne syscall_quiet_exit
    mov F_ORIG_RAX(%rsp), %rax
    jmp syscall_route_full

// call_loudly(rdi = function, rsi = its argument): calls it with the vector registers saved, so that quiet code may.
.globl call_loudly
call_loudly:
    push %rbp
    mov %rsp, %rbp
    sub $256, %rsp
    and $-16, %rsp
    SAVE_XMM
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    RESTORE_XMM
    leave
    ret

// Patched call sites of the rarer kinds.
.globl syscall_patched_whole
syscall_patched_whole:
    ENTER
    jmp syscall_route_whole
// The number may be any.
.globl syscall_patched_any
syscall_patched_any:
    ENTER
    jmp syscall_dispatch

syscall_quiet_work:
    SAVE_XMM
// Work to do on the way out. What is in the registers goes to the frame, unless the handler has put other values there.
syscall_work:
    testl $WORK_RESTORE, T_WORK(%r11)
    jnz 1f
    SAVE_PRESERVED
    mov %rax, F_RAX(%rsp)
1:  mov %rsp, %rdi
    xor %ebp, %ebp
    call trap_exit_to_program
    jmp trap_return

syscall_number_unknown:
    mov $(SYSCALL_COUNT - 1), %eax
    jmp syscall_route_full

syscall_site_is_hot:
    SAVE_XMM
    mov %rsp, %rdi
    call linux_site_is_hot
    RESTORE_XMM
    mov F_ORIG_RAX(%rsp), %rax
    jmp syscall_dispatch

// Common part of all vectors but NMI, #DF and #MC. On the CPU's bounce stack, interrupts off:
//   0 vector, 8 error code, 16 rip, 24 cs, 32 rflags, 40 rsp, 48 ss
// Moves the frame to the thread's kernel stack: below the red zone of RSP if RSP already lies there, at its top otherwise.
// A kernel stack without room for the frame, or left at its lower end, is used up: that is reported from the emergency stack.
trap_common:
    push %rax
    push %rcx
    mov 56(%rsp), %rax
    mov %rax, %rcx
    sub %gs:G_KERNEL_FRAME, %rcx
    add $(KERNEL_STACK_SIZE - FRAME_SIZE), %rcx
    cmp $KERNEL_STACK_SIZE, %rcx
    jbe 1f
    cmp $-GUARD_SIZE, %rcx
    jae trap_stack_overflow
    mov %gs:G_KERNEL_FRAME, %rax
    jmp 2f
1:  cmp $(FRAME_SIZE + 128 + 16), %rcx
    jb trap_stack_overflow
    sub $(FRAME_SIZE + 128), %rax
    and $-16, %rax
2:  MOVE_FRAME
    mov %rsp, %rdi
    cld
    xor %ebp, %ebp
    call trap_handler

// Restores every register from the frame at RSP.
.globl trap_return
trap_return:
    cli
    RESTORE_XMM
    mov F_R15(%rsp), %r15
    mov F_R14(%rsp), %r14
    mov F_R13(%rsp), %r13
    mov F_R12(%rsp), %r12
    mov F_RBP(%rsp), %rbp
    mov F_RBX(%rsp), %rbx
    mov F_R11(%rsp), %r11
    mov F_R10(%rsp), %r10
    mov F_R9(%rsp), %r9
    mov F_R8(%rsp), %r8
    mov F_RAX(%rsp), %rax
    mov F_RCX(%rsp), %rcx
    mov F_RDX(%rsp), %rdx
    mov F_RSI(%rsp), %rsi
    mov F_RDI(%rsp), %rdi
    add $F_RIP, %rsp
    iretq

// Saves the registers that trap_common has not saved yet; the frame is above the return address.
save_registers:
    pop %rcx
    mov %rdx, F_RDX(%rsp)
    mov %rsi, F_RSI(%rsp)
    mov %rdi, F_RDI(%rsp)
    mov %r8, F_R8(%rsp)
    mov %r9, F_R9(%rsp)
    mov %r10, F_R10(%rsp)
    mov %r11, F_R11(%rsp)
    mov %rbx, F_RBX(%rsp)
    mov %rbp, F_RBP(%rsp)
    mov %r12, F_R12(%rsp)
    mov %r13, F_R13(%rsp)
    mov %r14, F_R14(%rsp)
    mov %r15, F_R15(%rsp)
    SAVE_XMM
    jmp *%rcx

// NMI, #DF and #MC: a frame on their own stack, no scheduling. Entered with vector and error code pushed.
trap_fatal:
    push %rax
    push %rcx
    lea -(FRAME_SIZE)(%rsp), %rax
    and $-16, %rax
    MOVE_FRAME
    mov %rsp, %rdi
    cld
    call trap_handler_fatal
    jmp trap_return

trap_stack_overflow:
    mov %gs:G_EMERGENCY_FRAME, %rax
    MOVE_FRAME
    mov %rsp, %rdi
    cld
    call trap_stack_used_up
    ud2

// The vectors: 16 bytes apart. A vector without a hardware error code pushes 0 in its place.
.balign 16
.globl trap_stubs
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    .if (vector == 2) || (vector == 8) || (vector == 18)
    jmp trap_fatal
    .else
    jmp trap_common
    .endif
    .set vector, vector + 1
.endr
