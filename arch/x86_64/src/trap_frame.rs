//! The register frame that every entry into the kernel builds on the thread's kernel stack.

use addr::VirtAddr;

/// Bytes of a [`TrapFrame`]; the entry code in `entry.S` lays it out by hand with the same offsets.
pub const FRAME_SIZE: usize = 256 + 22 * 8;

/// The interrupted or calling program's registers. Built by interrupts, exceptions and `syscall` alike, so that
/// signal delivery, `clone` and crash reports treat all entries the same way.
///
/// The upper halves of the vector registers and the x87 state are not here: they stay in the CPU (see [`crate::fpu`]).
#[derive(Clone)]
#[repr(C, align(16))]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct TrapFrame {
    /// Low 128 bits of xmm0–15.
    pub xmm: [[u64; 2]; 16],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// System call number at entry, or the trap's vector.
    pub orig_rax: u64,
    /// Hardware error code, 0 where the vector has none.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == FRAME_SIZE);

impl TrapFrame {
    /// A frame with every register zero except what Linux gives a new program: RFLAGS = IF, and the flat segments.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            xmm: [[0; 2]; 16],
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            orig_rax: u64::MAX,
            error: 0,
            rip: 0,
            cs: crate::gdt::CODE as u64,
            rflags: crate::cpu::RFLAGS_IF | 2,
            rsp: 0,
            ss: crate::gdt::DATA as u64,
        }
    }

    /// Whether the frame interrupts program code (as opposed to the kernel).
    #[must_use]
    pub const fn is_user(&self) -> bool {
        VirtAddr(self.rip).is_user()
    }

    /// Gives RCX and R11 what `syscall` leaves in them. The entry path does not, as only signal frames and the slow exit look.
    pub const fn set_syscall_clobbers(&mut self) {
        self.rcx = self.rip;
        self.r11 = self.rflags;
    }

    /// Whether interrupts were enabled in the interrupted code.
    #[must_use]
    pub const fn interrupts_enabled(&self) -> bool {
        self.rflags & crate::cpu::RFLAGS_IF != 0
    }
}

impl Default for TrapFrame {
    fn default() -> Self {
        Self::new()
    }
}
