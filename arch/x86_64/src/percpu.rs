//! The per-CPU block behind the GS base, and the thread fields that the entry code knows.
//!
//! GS always points to this CPU's block (no `swapgs`, ever). The fields here are the ones `entry.S` reads; everything
//! else per-CPU is in `kernel/src/percpu.rs`.

use crate::{FRAME_SIZE, msr, paging};
use addr::PhysAddr;
use core::arch::asm;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Bytes of every thread's kernel stack; a guard page lies below. `oxv run --torture --verbose` logs how much of one was used: 14 KiB are
/// the most that was seen.
pub const KERNEL_STACK_SIZE: usize = 24 << 10;

/// What the entry code needs to know of the current CPU. Written by its own CPU only.
#[repr(C, align(64))]
pub struct CpuBlock {
    this: *const CpuBlock,
    /// The running thread ([`ThreadBlock`] at its start).
    current: *const ThreadBlock,
    /// Where the entry code puts the frame of a thread that comes from program code: stack top − frame size.
    kernel_frame: u64,
    /// The root of the page tables that [`load_root`] loaded last; 0 before.
    root: u64,
    /// Above 0: this CPU must not switch threads.
    preempt_count: u32,
    /// Set to ask for a switch at the next point where that is allowed.
    need_resched: u32,
    cpu_id: u32,
    apic_id: u32,
    /// This CPU's part of the scheduler, for the kernel.
    scheduler: *const (),
    /// Where the frame of a trap goes that finds the thread's kernel stack used up.
    emergency_frame: u64,
    /// How many more `syscall` instructions before the personality looks at who executes them, by the last byte of the return address.
    site_counts: [u8; 256],
}

/// The first fields of every thread, at fixed offsets for the entry code.
#[repr(C)]
pub struct ThreadBlock {
    /// Non-zero: there is work ([`WORK_SIGNAL`], [`WORK_RESTORE`]) to do before returning to program code.
    pub work: AtomicU32,
    /// The CPU that the program was last told it runs on ([`ThreadBlock::note_rseq_cpu`]), or [`NO_RSEQ`].
    rseq_cpu: AtomicU32,
    /// What the personality's handlers of system calls get.
    task: AtomicPtr<()>,
}

/// Work bit: a signal or another request waits to be looked at.
pub const WORK_SIGNAL: u32 = 1;
/// Work bit: the frame was rewritten (sigreturn, execve); every register must be restored from it.
pub const WORK_RESTORE: u32 = 2;
/// Work bit: the program wants to know that it may have lost its CPU.
pub const WORK_RSEQ: u32 = 4;
/// Work bit: a system call was interrupted; how it ends is to be decided.
pub const WORK_INTERRUPTED: u32 = 8;
/// In place of a CPU's number: the program does not want to know it.
const NO_RSEQ: u32 = u32::MAX;
/// In place of a CPU's number: the program wants to know, and has not been told yet.
const RSEQ_UNTOLD: u32 = u32::MAX - 1;

/// Offset of the work word in a thread.
pub(crate) const THREAD_WORK: usize = offset_of!(ThreadBlock, work);
/// Offset of what handlers get in a thread.
pub const THREAD_TASK: usize = offset_of!(ThreadBlock, task);
pub(crate) const SITE_COUNTS: usize = offset_of!(CpuBlock, site_counts);
/// Offset of the running thread in the block.
pub const CURRENT: usize = offset_of!(CpuBlock, current);
pub(crate) const KERNEL_FRAME: usize = offset_of!(CpuBlock, kernel_frame);
const PREEMPT_COUNT: usize = offset_of!(CpuBlock, preempt_count);
const NEED_RESCHED: usize = offset_of!(CpuBlock, need_resched);
/// Offset of the CPU's number in its block: the vDSO reads it there.
pub const CPU_ID: usize = offset_of!(CpuBlock, cpu_id);
pub(crate) const EMERGENCY_FRAME: usize = offset_of!(CpuBlock, emergency_frame);
const APIC_ID: usize = offset_of!(CpuBlock, apic_id);
const ROOT: usize = offset_of!(CpuBlock, root);
const SCHEDULER: usize = offset_of!(CpuBlock, scheduler);

impl CpuBlock {
    /// A block for a CPU that has not started.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            this: core::ptr::null(),
            current: core::ptr::null(),
            kernel_frame: 0,
            preempt_count: 1,
            need_resched: 0,
            cpu_id: 0,
            apic_id: 0,
            root: 0,
            scheduler: core::ptr::null(),
            emergency_frame: 0,
            site_counts: [0; 256],
        }
    }
}

impl Default for CpuBlock {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes `block` this CPU's block, with the stack that ends at `emergency_stack` for the worst case. Preemption starts disabled (count 1).
///
/// # Safety
/// Once per CPU, by that CPU, before anything uses GS; `block` is used by no one else and lives for ever.
pub unsafe fn install(block: *mut CpuBlock, cpu_id: u32, apic_id: u32, emergency_stack: u64) {
    let emergency_frame = emergency_stack - FRAME_SIZE as u64;
    // SAFETY: the caller gives the block to this CPU alone; GS_BASE exists on every x86-64 CPU.
    unsafe {
        block.write(CpuBlock { this: block, cpu_id, apic_id, emergency_frame, ..CpuBlock::new() });
        msr::write(msr::GS_BASE, block as u64);
    }
}

macro_rules! gs_load {
    ($offset:expr, $t:ty, $width:literal) => {{
        let value: $t;
        // SAFETY: GS points to this CPU's block from `install` on. One instruction: preemption cannot split it.
        unsafe { asm!(concat!("mov {0", $width, "}, gs:[{1}]"), out(reg) value, const $offset, options(nostack, preserves_flags, readonly)) };
        value
    }};
}

/// This CPU's number, 0..cpu_count. Stable only while preemption is disabled.
#[inline]
#[must_use]
pub fn cpu_id() -> usize {
    gs_load!(CPU_ID, u32, ":e") as usize
}

/// This CPU's APIC id. Stable only while preemption is disabled.
#[inline]
#[must_use]
pub fn apic_id() -> u32 {
    gs_load!(APIC_ID, u32, ":e")
}

/// The running thread's block; null before threads exist.
#[inline]
#[must_use]
pub fn current() -> *const ThreadBlock {
    let value: *const ThreadBlock;
    // SAFETY: as in `gs_load`; the pointer is the same on whatever CPU the thread is.
    unsafe { asm!("mov {}, gs:[{}]", out(reg) value, const CURRENT, options(nostack, preserves_flags, pure, readonly)) };
    value
}

/// Where the entry code puts the frame of a thread with the kernel stack `stack..stack + KERNEL_STACK_SIZE`: what [`set_current`] is given.
#[must_use]
pub const fn frame_place(stack: u64) -> u64 {
    stack + KERNEL_STACK_SIZE as u64 - FRAME_SIZE as u64
}

/// Makes `thread` with the [`frame_place`] `frame` the running thread in the eyes of the entry code.
///
/// # Safety
/// Interrupts are disabled and the CPU is about to be, or just was, switched to that stack.
#[inline]
pub unsafe fn set_current(thread: *const ThreadBlock, frame: u64) {
    // SAFETY: with interrupts disabled nothing reads the fields in between.
    unsafe {
        asm!("mov gs:[{}], {}", const CURRENT, in(reg) thread, options(nostack, preserves_flags));
        asm!("mov gs:[{}], {}", const KERNEL_FRAME, in(reg) frame, options(nostack, preserves_flags));
    }
}

/// The thread that the CPU of `block` runs at this instant, for comparison only: it may be gone when this returns.
///
/// # Safety
/// `block` is the block of a CPU.
#[must_use]
pub unsafe fn current_of(block: *const CpuBlock) -> *const ThreadBlock {
    // SAFETY: the field is aligned and changed by single instructions of its CPU.
    unsafe { (&raw const (*block).current).read_volatile() }
}

/// The root of the page tables that are loaded; 0 before the first [`load_root`].
#[inline(always)]
#[must_use]
pub fn root() -> u64 {
    gs_load!(ROOT, u64, "")
}

/// Loads the page tables at `root`. Context: interrupts disabled.
///
/// # Safety
/// As for [`paging::write_cr3`]; nobody else loads page tables that do without the program's half.
pub unsafe fn load_root(root: u64) {
    // SAFETY: with interrupts disabled this stays this CPU's field.
    unsafe { asm!("mov gs:[{}], {}", const ROOT, in(reg) root, options(nostack, preserves_flags)) };
    // SAFETY: per the contract.
    unsafe { paging::write_cr3(PhysAddr(root)) };
}

/// Sets how many `syscall` instructions with the return address `rip`, or one that ends in the same byte, pass on this CPU until the
/// personality looks at them again; 0 stands for 256.
#[inline]
pub fn set_site_count(rip: u64, count: u8) {
    // SAFETY: one instruction on this CPU's own counters.
    unsafe { asm!("mov gs:[{} + {}], {}", in(reg) rip & 0xff, const SITE_COUNTS, in(reg_byte) count, options(nostack, preserves_flags)) };
}

/// What [`set_scheduler`] was given, null before.
#[inline]
#[must_use]
pub fn scheduler() -> *const () {
    gs_load!(SCHEDULER, *const (), "")
}

/// Sets this CPU's part of the scheduler.
pub fn set_scheduler(scheduler: *const ()) {
    // SAFETY: one instruction on this CPU's own field.
    unsafe { asm!("mov gs:[{}], {}", const SCHEDULER, in(reg) scheduler, options(nostack, preserves_flags)) };
}

/// Forbids switching away from the running thread; nests.
#[inline]
pub fn preempt_disable() {
    // SAFETY: one instruction on this CPU's own counter.
    unsafe { asm!("inc dword ptr gs:[{}]", const PREEMPT_COUNT, options(nostack)) };
}

/// Undoes one [`preempt_disable`] without looking at [`need_resched`]; returns whether a switch is now due.
#[inline(always)]
#[must_use]
pub fn preempt_enable() -> bool {
    // SAFETY: one instruction on this CPU's own counter.
    unsafe { asm!("dec dword ptr gs:[{}]", "jnz {nested}", const PREEMPT_COUNT, nested = label { return false }, options(nostack)) };
    need_resched()
}

/// How many [`preempt_disable`] are open.
#[inline]
#[must_use]
pub fn preempt_count() -> u32 {
    gs_load!(PREEMPT_COUNT, u32, ":e")
}

/// Whether a switch has been asked for on this CPU.
#[inline(always)]
#[must_use]
pub fn need_resched() -> bool {
    // SAFETY: GS points to this CPU's block from `install` on; one instruction reads it.
    unsafe { asm!("cmp dword ptr gs:[{}], 0", "jne {}", const NEED_RESCHED, label { return true }, options(nostack, readonly)) };
    false
}

/// Asks for (or withdraws the wish for) a switch on this CPU.
#[inline]
pub fn set_need_resched(wanted: bool) {
    // SAFETY: one instruction on this CPU's own flag.
    unsafe { asm!("mov dword ptr gs:[{}], {:e}", const NEED_RESCHED, in(reg) u32::from(wanted), options(nostack, preserves_flags)) };
}

impl ThreadBlock {
    /// A block with no work pending.
    #[must_use]
    pub const fn new() -> Self {
        Self { work: AtomicU32::new(0), rseq_cpu: AtomicU32::new(NO_RSEQ), task: AtomicPtr::new(ptr::null_mut()) }
    }

    /// What the handlers of the thread's system calls get. Before the thread first runs.
    pub fn set_task(&self, task: *const ()) {
        self.task.store(task.cast_mut(), Ordering::Relaxed);
    }

    /// What [`ThreadBlock::set_task`] was given, null before.
    #[inline]
    #[must_use]
    pub fn task(&self) -> *const () {
        self.task.load(Ordering::Relaxed)
    }

    /// Adds work bits.
    pub fn add_work(&self, bits: u32) {
        self.work.fetch_or(bits, Ordering::Release);
    }

    /// The thread wants to be told which CPU it runs on, and when it loses that CPU.
    pub fn begin_rseq(&self) {
        self.rseq_cpu.store(RSEQ_UNTOLD, Ordering::Relaxed);
        self.add_work(WORK_RSEQ);
    }

    /// Ends [`ThreadBlock::begin_rseq`].
    pub fn forget_rseq(&self) {
        self.rseq_cpu.store(NO_RSEQ, Ordering::Relaxed);
        self.take_work(WORK_RSEQ);
    }

    /// This CPU's number, which the program is now told. Only for the running thread.
    pub fn note_rseq_cpu(&self) -> u32 {
        let cpu = cpu_id() as u32;
        self.rseq_cpu.store(cpu, Ordering::Relaxed);
        cpu
    }

    /// The thread comes to run on this CPU: if that is not the one that the program knows, there is work to do.
    pub fn came_to_cpu(&self) {
        if self.rseq_cpu.load(Ordering::Relaxed) != cpu_id() as u32 {
            self.lost_cpu();
        }
    }

    /// The program must be told that it may have lost its CPU, if it wants to know.
    pub fn lost_cpu(&self) {
        if self.rseq_cpu.load(Ordering::Relaxed) != NO_RSEQ {
            self.add_work(WORK_RSEQ);
        }
    }

    /// Takes away work bits and returns those that were set among them.
    pub fn take_work(&self, bits: u32) -> u32 {
        self.work.fetch_and(!bits, Ordering::AcqRel) & bits
    }
}

impl Default for ThreadBlock {
    fn default() -> Self {
        Self::new()
    }
}
