//! The interrupt descriptor table, and the entry code in `entry.S`.

use crate::gdt;
use crate::percpu;
use crate::trap_frame::{FRAME_SIZE, TrapFrame};
use core::arch::{asm, global_asm};
use core::mem::offset_of;

/// First vector that is not an exception.
pub const FIRST_IRQ: u8 = 0x20;

macro_rules! entry_asm {
    ($($constant:ident = $value:expr),* $(,)?) => {
        global_asm!(
            $(concat!(".set ", stringify!($constant), ", {", stringify!($constant), "}"),)*
            include_str!("entry.S"),
            $($constant = const $value,)*
            options(att_syntax)
        );
    };
}

entry_asm! {
    FRAME_SIZE = FRAME_SIZE,
    KERNEL_STACK_SIZE = percpu::KERNEL_STACK_SIZE,
    G_CURRENT = percpu::CURRENT,
    G_KERNEL_FRAME = percpu::KERNEL_FRAME,
    G_EMERGENCY_FRAME = percpu::EMERGENCY_FRAME,
    GUARD_SIZE = addr::PAGE_SIZE,
    G_SITE_COUNTS = percpu::SITE_COUNTS,
    T_WORK = percpu::THREAD_WORK,
    T_TASK = percpu::THREAD_TASK,
    WORK_RESTORE = percpu::WORK_RESTORE,
    SYSCALL_COUNT = crate::syscall::COUNT,
    NOT_BRIEF = crate::syscall::NOT_BRIEF,
    F_R15 = offset_of!(TrapFrame, r15),
    F_R14 = offset_of!(TrapFrame, r14),
    F_R13 = offset_of!(TrapFrame, r13),
    F_R12 = offset_of!(TrapFrame, r12),
    F_RBP = offset_of!(TrapFrame, rbp),
    F_RBX = offset_of!(TrapFrame, rbx),
    F_R11 = offset_of!(TrapFrame, r11),
    F_R10 = offset_of!(TrapFrame, r10),
    F_R9 = offset_of!(TrapFrame, r9),
    F_R8 = offset_of!(TrapFrame, r8),
    F_RAX = offset_of!(TrapFrame, rax),
    F_RCX = offset_of!(TrapFrame, rcx),
    F_RDX = offset_of!(TrapFrame, rdx),
    F_RSI = offset_of!(TrapFrame, rsi),
    F_RDI = offset_of!(TrapFrame, rdi),
    F_ORIG_RAX = offset_of!(TrapFrame, orig_rax),
    F_ERROR = offset_of!(TrapFrame, error),
    F_RIP = offset_of!(TrapFrame, rip),
    F_CS = offset_of!(TrapFrame, cs),
    F_RFLAGS = offset_of!(TrapFrame, rflags),
    F_RSP = offset_of!(TrapFrame, rsp),
    F_SS = offset_of!(TrapFrame, ss),
}

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; 256];
    static syscall_exit: u8;
    static syscall_exit_jump: u8;
    static syscall_quiet_exit: u8;
    static syscall_quiet_exit_jump: u8;
    /// Defined by the personality: calls that need no kernel stack. Each only loads, into R11 and at last into RAX, and ends in `jmp *%rcx`.
    static leaf_calls_start: u8;
    static leaf_calls_end: u8;
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

/// The table: one for all CPUs, filled once before the first is loaded.
#[repr(C, align(4096))]
pub struct Idt([Gate; 256]);

const INTERRUPT_GATE: u8 = 0x8e;

impl Idt {
    /// A table whose gates are all absent.
    #[must_use]
    pub const fn new() -> Self {
        Self([Gate { offset_low: 0, selector: 0, ist: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 }; 256])
    }

    /// Points every gate at its stub, each on an IST stack (the red zone forbids pushing on the interrupted stack).
    pub fn fill(&mut self) {
        for (vector, gate) in self.0.iter_mut().enumerate() {
            // SAFETY: only the address of the stub is taken.
            let stub = unsafe { &raw const trap_stubs[vector] } as u64;
            let ist = match vector {
                2 => gdt::IST_NMI,
                8 => gdt::IST_DOUBLE_FAULT,
                18 => gdt::IST_MACHINE_CHECK,
                _ => gdt::IST_BOUNCE,
            };
            *gate = Gate {
                offset_low: stub as u16,
                selector: gdt::CODE,
                ist,
                kind: INTERRUPT_GATE,
                offset_middle: (stub >> 16) as u16,
                offset_high: (stub >> 32) as u32,
                reserved: 0,
            };
        }
    }

    /// A table that has only the gate of double faults: with it, any other trap becomes one.
    #[must_use]
    pub fn broken(&self) -> Self {
        const DOUBLE_FAULT: usize = 8;
        let mut table = Self::new();
        table.0[DOUBLE_FAULT] = self.0[DOUBLE_FAULT];
        table
    }

    /// Loads the table on this CPU.
    pub fn load(&'static self) {
        #[repr(C, packed)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let pointer = Pointer { limit: size_of::<Self>() as u16 - 1, base: &raw const *self as u64 };
        // SAFETY: the table is filled, lives for ever, and is never written again.
        unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, preserves_flags)) };
    }
}

impl Default for Idt {
    fn default() -> Self {
        Self::new()
    }
}

/// Where in the last instructions of a system call a frame was interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyscallExit {
    /// Anywhere else.
    Outside,
    /// Between the look at the work word and the jump: the sequence can be started over, here.
    Restartable(u64),
    /// At the jump back: every register already holds the program's value, RCX the program's RIP.
    AtJump,
    /// In a leaf call, which has changed nothing but R11: the program's `syscall` instruction is right before where RCX points.
    InLeaf,
}

/// Whether `frame` was interrupted in the exit sequence of `syscall`, or in a leaf call.
#[must_use]
pub fn syscall_exit_position(frame: &TrapFrame) -> SyscallExit {
    const JMP_RCX: [u8; 2] = [0xff, 0xe1];
    const EXITS: [(*const u8, *const u8); 2] =
        [(&raw const syscall_exit, &raw const syscall_exit_jump), (&raw const syscall_quiet_exit, &raw const syscall_quiet_exit_jump)];
    for (start, jump) in EXITS {
        match frame.rip {
            rip if rip == jump as u64 => return SyscallExit::AtJump,
            rip if (start as u64..jump as u64).contains(&rip) => return SyscallExit::Restartable(start as u64),
            _ => {}
        }
    }
    if !(&raw const leaf_calls_start as u64..&raw const leaf_calls_end as u64).contains(&frame.rip) {
        return SyscallExit::Outside;
    }
    // SAFETY: kernel code, with another instruction behind it or the two bytes of this one.
    let at_jump = unsafe { (frame.rip as *const [u8; 2]).read() } == JMP_RCX;
    if at_jump { SyscallExit::AtJump } else { SyscallExit::InLeaf }
}
