//! Segment descriptors and the task-state segment of one CPU.
//!
//! Everything runs at CPL 0 with two flat segments. The TSS exists for its interrupt stack table: the program's code
//! uses the red zone and may fault on its own stack, so no vector may push on the interrupted stack (build.md A4).

use core::arch::asm;

/// Selector of the 64-bit code segment.
pub const CODE: u16 = 0x08;
/// Selector of the data segment; `syscall` loads SS with `CODE + 8`.
pub const DATA: u16 = 0x10;
const TSS: u16 = 0x18;

/// IST index of the bounce stack: all interrupts and ordinary exceptions.
pub const IST_BOUNCE: u8 = 1;
/// IST index of the NMI stack.
pub const IST_NMI: u8 = 2;
/// IST index of the double-fault stack.
pub const IST_DOUBLE_FAULT: u8 = 3;
/// IST index of the machine-check stack.
pub const IST_MACHINE_CHECK: u8 = 4;

const IST_STACKS: usize = 4;
const BOUNCE_SIZE: usize = 512;
const FATAL_SIZE: usize = 4096 * 2;

#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: [u64; 1],
    reserved3: u16,
    iomap_base: u16,
}

#[repr(C, align(16))]
struct Stack<const N: usize>([u8; N]);

/// Descriptor tables and interrupt stacks of one CPU. Lives as long as the CPU runs.
#[repr(C, align(16))]
pub struct CpuTables {
    gdt: [u64; 5],
    tss: TaskState,
    bounce: Stack<BOUNCE_SIZE>,
    nmi: Stack<FATAL_SIZE>,
    double_fault: Stack<FATAL_SIZE>,
    machine_check: Stack<FATAL_SIZE>,
}

impl CpuTables {
    /// Tables with nothing in them; [`CpuTables::load`] fills them in.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            gdt: [0; 5],
            tss: TaskState {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: [0],
                reserved3: 0,
                iomap_base: size_of::<TaskState>() as u16,
            },
            bounce: Stack([0; BOUNCE_SIZE]),
            nmi: Stack([0; FATAL_SIZE]),
            double_fault: Stack([0; FATAL_SIZE]),
            machine_check: Stack([0; FATAL_SIZE]),
        }
    }

    /// Where the stack for double faults begins; the entry code also uses it when a thread's kernel stack is used up.
    #[must_use]
    pub fn emergency_stack(&self) -> u64 {
        top(&self.double_fault)
    }

    /// Loads GDT, segment registers and TSS on this CPU.
    ///
    /// # Safety
    /// Called once per CPU, by that CPU, with interrupts disabled. Clears the GS base: [`crate::percpu::install`] follows.
    pub unsafe fn load(&'static mut self) {
        self.tss.ist[IST_BOUNCE as usize - 1] = top(&self.bounce);
        self.tss.ist[IST_NMI as usize - 1] = top(&self.nmi);
        self.tss.ist[IST_DOUBLE_FAULT as usize - 1] = top(&self.double_fault);
        self.tss.ist[IST_MACHINE_CHECK as usize - 1] = top(&self.machine_check);
        const { assert!(IST_STACKS == IST_MACHINE_CHECK as usize) };
        let tss = &raw const self.tss as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        self.gdt = [
            0,
            0x00af_9b00_0000_ffff, // code: long mode, present, ring 0, accessed
            0x00cf_9300_0000_ffff, // data: present, ring 0, writable, accessed
            limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56,
            tss >> 32,
        ];
        #[repr(C, packed)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let pointer = Pointer { limit: size_of::<[u64; 5]>() as u16 - 1, base: &raw const self.gdt as u64 };
        // SAFETY: the table just built holds the flat segments in use and lives for ever.
        unsafe {
            asm!(
                "lgdt [{pointer}]",
                "push {code}",
                "lea {tmp}, [rip + 2f]",
                "push {tmp}",
                "retfq",
                "2:",
                "mov ss, {data:e}",
                "mov ds, {data:e}",
                "mov es, {data:e}",
                "xor {tmp:e}, {tmp:e}",
                "mov fs, {tmp:e}",
                "mov gs, {tmp:e}",
                "ltr {tss:x}",
                pointer = in(reg) &raw const pointer,
                code = in(reg) u64::from(CODE),
                data = in(reg) u64::from(DATA),
                tss = in(reg) u64::from(TSS),
                tmp = out(reg) _,
            );
        }
    }
}

impl Default for CpuTables {
    fn default() -> Self {
        Self::new()
    }
}

fn top<const N: usize>(stack: &Stack<N>) -> u64 {
    (&raw const *stack as u64) + N as u64
}
