//! Traps: what every vector means, and the way back to the program.
//!
//! Called by `trap_common` in arch/x86_64/src/entry.S with interrupts off, on the interrupted thread's kernel stack; so a
//! handler may enable interrupts, sleep, be preempted and migrate. Interrupt handlers only wake threads; a switch that
//! this makes due happens in [`leave`]. Faults of program code go to the Linux personality (`linux_fault`).
#![expect(unsafe_code, reason = "entry points called from assembly")]

use crate::mm::{Access, FaultError};
use crate::percpu::PreemptGuard;
use crate::panic::die;
use crate::thread::Mode;
use crate::{interrupt, nmi, thread, tlb, watchdog};
use addr::{VirtAddr, layout};
use arch_x86_64::idt::{self, Idt, SyscallExit};
use arch_x86_64::percpu::WORK_RESTORE;
use arch_x86_64::{TrapFrame, apic, cpu, paging, percpu as block, user};
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

const DIVIDE: u64 = 0;
const DEBUG: u64 = 1;
const NMI: u64 = 2;
const BREAKPOINT: u64 = 3;
const OVERFLOW: u64 = 4;
const BOUND: u64 = 5;
const INVALID_OPCODE: u64 = 6;
const DOUBLE_FAULT: u64 = 8;
const STACK_SEGMENT: u64 = 12;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const X87: u64 = 16;
const ALIGNMENT: u64 = 17;
const SIMD: u64 = 19;

const RFLAGS_TF: u64 = 1 << 8;

const ERROR_WRITE: u64 = 1 << 1;
const ERROR_FETCH: u64 = 1 << 4;

/// Vector of the local timer.
pub(crate) const TIMER_VECTOR: u8 = 0xf0;
/// Vector that asks a CPU to look at its incoming wake-ups.
pub(crate) const RESCHEDULE_VECTOR: u8 = 0xf1;
/// Vector that asks a CPU to flush translations.
pub(crate) const FLUSH_VECTOR: u8 = 0xf2;
/// Vector that makes a CPU pass a memory barrier.
pub(crate) const BARRIER_VECTOR: u8 = 0xf3;

/// What went wrong in program code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// #PF that the address space could not resolve.
    Page(FaultError),
    /// #DE: integer division by zero or overflow.
    Divide,
    /// #DB: single step or hardware breakpoint.
    Debug,
    /// #BP: `int3`.
    Breakpoint,
    /// #OF or #BR.
    Bounds,
    /// #UD: no such instruction.
    InvalidOpcode,
    /// #GP: also what a non-canonical address raises.
    Protection,
    /// #SS: a non-canonical stack address.
    StackSegment,
    /// #MF: unmasked x87 exception.
    X87,
    /// #AC.
    Alignment,
    /// #XM: unmasked SSE exception.
    Simd,
    /// `hlt`, which user mode would not be allowed to execute.
    Halt,
}

/// A fault of program code.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The address that was accessed ([`FaultKind::Page`]), else that of the instruction.
    pub address: VirtAddr,
    /// x86 vector, for `REG_TRAPNO` of a signal frame.
    pub vector: u64,
    /// Hardware error code, for `REG_ERR`.
    pub error: u64,
}

unsafe extern "Rust" {
    /// Defined by the `linux` crate: turns a fault of program code into a signal.
    pub(crate) safe fn linux_fault(frame: &mut TrapFrame, fault: Fault);
    /// Defined by the `linux` crate: delivers signals and the like before program code goes on.
    safe fn linux_exit_work(frame: &mut TrapFrame);
    /// Defined by the `linux` crate: there is no page for the running program; whether to try again, since another one dies for it.
    safe fn linux_make_room() -> bool;
    /// Defined by the `linux` crate: a page that the kernel wanted for the running program could not be had; the program must die.
    safe fn linux_out_of_memory();
}

struct Table(UnsafeCell<Idt>);
// SAFETY: written once, by `init` on the first CPU before the others start.
unsafe impl Sync for Table {}
static IDT: Table = Table(UnsafeCell::new(Idt::new()));

/// Fills the interrupt descriptor table. Once, on the first CPU.
pub(crate) fn init() {
    // SAFETY: only the first CPU runs.
    unsafe { (*IDT.0.get()).fill() };
    load();
}

/// Causes a double fault, for a test of its report.
pub(crate) fn double_fault() -> ! {
    // SAFETY: the table is complete; nobody writes to it any more.
    let broken = alloc::boxed::Box::leak(alloc::boxed::Box::new(unsafe { &*IDT.0.get() }.broken()));
    broken.load();
    // SAFETY: a breakpoint that has no gate, and whose fault has none.
    unsafe { core::arch::asm!("int3") };
    cpu::halt_forever()
}

/// Loads the interrupt descriptor table on this CPU.
pub(crate) fn load() {
    // SAFETY: the table is complete.
    unsafe { (*IDT.0.get()).load() };
}

#[unsafe(no_mangle)]
extern "C" fn trap_handler(frame: &mut TrapFrame) {
    match frame.orig_rax as u8 {
        vector if vector < idt::FIRST_IRQ => exception(frame),
        TIMER_VECTOR => {
            apic::end_of_interrupt();
            thread::timer_fired(if is_program(frame) { Mode::User } else { Mode::System });
        }
        RESCHEDULE_VECTOR => {
            apic::end_of_interrupt();
            block::set_need_resched(true);
        }
        FLUSH_VECTOR => {
            apic::end_of_interrupt();
            tlb::flush_requested();
        }
        BARRIER_VECTOR => {
            apic::end_of_interrupt();
            crate::barrier::requested();
        }
        apic::SPURIOUS_VECTOR => {}
        vector if interrupt::raise(vector) => apic::end_of_interrupt(),
        vector => unexpected(frame, vector),
    }
    if frame.orig_rax >= u64::from(idt::FIRST_IRQ) && frame.is_user() {
        check_halted(frame);
        watchdog::check_program(frame);
    }
    leave(frame);
}

/// A vector that no device has. Program code can raise it (`int n` works in ring 0) and gets the fault of user mode.
fn unexpected(frame: &mut TrapFrame, vector: u8) {
    const INT: u8 = 0xcd;
    if !frame.is_user() || code_before::<2>(frame.rip) != Some([INT, vector]) {
        return apic::end_of_interrupt();
    }
    frame.rip -= 2;
    let fault = Fault { kind: FaultKind::Protection, address: VirtAddr(frame.rip), vector: PROTECTION, error: selector_error(vector) };
    cpu::enable_interrupts();
    fault_of_program(frame, fault);
}

/// The error code of a #GP for a gate of the interrupt descriptor table (SDM vol. 3, 6.13).
fn selector_error(vector: u8) -> u64 {
    u64::from(vector) << 3 | 2
}

/// The last part of every trap: preempt if due, then do the work that waits for the thread if program code is next.
fn leave(frame: &mut TrapFrame) {
    cpu::disable_interrupts();
    if frame.interrupts_enabled() {
        preempt_while_due();
    }
    if !work_pending() || !frame.interrupts_enabled() {
        return;
    }
    if !frame.is_user() {
        match idt::syscall_exit_position(frame) {
            SyscallExit::Outside => return,
            SyscallExit::Restartable(start) => return frame.rip = start,
            SyscallExit::AtJump => frame.rip = frame.rcx,
            // The call is not made, and made again by its `syscall`; the number is still in RAX.
            SyscallExit::InLeaf => frame.rip = frame.rcx - 2,
        }
    }
    exit_to_program(frame);
}

/// Switches as long as that is due: a switch may itself make another one due (the thread that it wakes runs here).
fn preempt_while_due() {
    while block::need_resched() && block::preempt_count() == 0 {
        thread::preempt();
    }
}

fn work_pending() -> bool {
    thread::current_block().is_some_and(|block| block.work.load(Ordering::Acquire) != 0)
}

/// Does the work that waits for the thread. Returns with interrupts off and none left, so that nothing can be missed.
///
/// The program may have been interrupted anywhere, or get the registers of a signal frame back: vector and x87 registers
/// count, whatever a system call's ABI says.
fn exit_to_program(frame: &mut TrapFrame) {
    thread::set_trapped(true);
    while work_pending() {
        cpu::enable_interrupts();
        linux_exit_work(frame);
        cpu::disable_interrupts();
    }
    thread::set_trapped(false);
}

/// The slow way out of a system call (there is work to do, or the whole frame must be restored), and a new thread's way in.
#[unsafe(no_mangle)]
extern "C" fn trap_exit_to_program(frame: &mut TrapFrame) {
    cpu::disable_interrupts();
    if thread::current_block().is_some_and(|block| block.work.load(Ordering::Acquire) & WORK_RESTORE == 0) {
        frame.set_syscall_clobbers();
    }
    preempt_while_due();
    exit_to_program(frame);
}

/// Whether `frame` is of program code, which may have jumped to where no program can be: a null or wild function pointer,
/// also a non-canonical one. Kernel code that has gone astray is still on its kernel stack.
fn is_program(frame: &TrapFrame) -> bool {
    let wild = || {
        let (image, stack) = (crate::smp::kernel_image(), thread::current_stack());
        let in_kernel = (layout::KERNEL_OFFSET + image.start.0..layout::KERNEL_OFFSET + image.end.0).contains(&frame.rip);
        !in_kernel && thread::current_space().is_some() && stack.is_some_and(|stack| !(stack.start..=stack.end).contains(&frame.rsp))
    };
    frame.is_user() || wild()
}

/// `int n` in program code pushes no error code, also where the exception has one: then every field is one too far down.
/// Undoes that and makes it the fault of user mode.
fn undo_int(frame: &mut TrapFrame) {
    if frame.cs == u64::from(arch_x86_64::gdt::CODE) {
        return;
    }
    (frame.rip, frame.cs, frame.rflags, frame.rsp, frame.ss) = (frame.error, frame.rip, frame.cs, frame.rflags, frame.rsp);
    frame.error = selector_error(frame.orig_rax as u8);
    frame.orig_rax = PROTECTION;
}

fn exception(frame: &mut TrapFrame) {
    let cr2 = paging::read_cr2();
    undo_int(frame);
    let address = if frame.orig_rax == PAGE_FAULT { cr2 } else { VirtAddr(frame.rip) };
    let from_program = is_program(frame);
    if from_program {
        thread::set_trapped(true);
    }
    // A program's `popf` can clear the interrupt flag, which on Linux it cannot: set it again at the first fault, in the program
    // or in a system call that touches its memory.
    if from_program || block::preempt_count() == 0 && user::fixup(frame.rip).is_some() {
        frame.rflags |= cpu::RFLAGS_IF;
    }
    if frame.interrupts_enabled() {
        cpu::enable_interrupts();
    }
    handle_exception(frame, address, from_program);
    if from_program {
        thread::set_trapped(false);
    }
}

fn handle_exception(frame: &mut TrapFrame, address: VirtAddr, from_program: bool) {
    let kind = match frame.orig_rax {
        PAGE_FAULT => match page_fault(frame, address) {
            Ok(()) => return,
            Err(error) => FaultKind::Page(error),
        },
        DIVIDE => FaultKind::Divide,
        // The program's single step, carried into the kernel past the instruction after a `mov ss` (SDM vol. 3, 6.8.3).
        DEBUG if !from_program => return frame.rflags &= !RFLAGS_TF,
        DEBUG => FaultKind::Debug,
        BREAKPOINT => FaultKind::Breakpoint,
        OVERFLOW | BOUND => FaultKind::Bounds,
        INVALID_OPCODE => FaultKind::InvalidOpcode,
        STACK_SEGMENT => FaultKind::StackSegment,
        PROTECTION => FaultKind::Protection,
        X87 => FaultKind::X87,
        ALIGNMENT => FaultKind::Alignment,
        SIMD => FaultKind::Simd,
        vector => die(frame, format_args!("unexpected exception {vector}")),
    };
    if from_program {
        linux_fault(frame, Fault { kind, address, vector: frame.orig_rax, error: frame.error });
    } else if let Some(landing) = user::fixup(frame.rip) {
        frame.rip = landing;
        if kind == FaultKind::Page(FaultError::OutOfMemory) {
            linux_out_of_memory();
        }
    } else {
        die(frame, format_args!("{kind:?} at {:#x}, address {address:#x}, error {:#x}", frame.rip, frame.error));
    }
}

/// Resolves a page fault through the running thread's address space.
fn page_fault(frame: &TrapFrame, address: VirtAddr) -> Result<(), FaultError> {
    let may_sleep = frame.interrupts_enabled() && block::preempt_count() == 0;
    if !address.is_user() || !may_sleep {
        return Err(FaultError::NoMapping);
    }
    let access = match frame.error {
        error if error & ERROR_FETCH != 0 => Access::Execute,
        error if error & ERROR_WRITE != 0 => Access::Write,
        _ => Access::Read,
    };
    let space = thread::current_space().ok_or(FaultError::NoMapping)?;
    loop {
        match space.handle_fault(address, access) {
            Err(FaultError::OutOfMemory) if linux_make_room() => {}
            outcome => return outcome,
        }
    }
}

/// NMI, double fault and machine check: on a stack of their own; nothing may be scheduled.
#[unsafe(no_mangle)]
extern "C" fn trap_handler_fatal(frame: &mut TrapFrame) {
    match frame.orig_rax {
        NMI => nmi::arrived(frame),
        DOUBLE_FAULT => die(frame, format_args!("double fault at {:#x}, stack {:#x}", frame.rip, frame.rsp)),
        _ => nmi::machine_check(frame),
    }
}

/// A trap found no room on the running thread's kernel stack. On the emergency stack, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn trap_stack_used_up(frame: &TrapFrame) -> ! {
    let vector = frame.orig_rax;
    die(frame, format_args!("kernel stack overflow of thread {} (trap {vector} at {:#x}, stack {:#x})", thread::current_name(), frame.rip, frame.rsp))
}

/// A `hlt` in program code really halts, since the program runs in ring 0. Every interrupt out of program code asks
/// whether the CPU was halted, and if so the program gets the fault that user mode would have raised.
fn check_halted(frame: &mut TrapFrame) {
    const HLT: u8 = 0xf4;
    if code_before::<1>(frame.rip) != Some([HLT]) {
        return;
    }
    let mut after = [0; insn::WINDOW];
    let no_sleep = PreemptGuard::new();
    // SAFETY: program code is interrupted, so RIP lies in the program's half.
    let left = unsafe { user::copy_in(after.as_mut_ptr(), frame.rip as *const u8, after.len()) }.err().unwrap_or(0);
    drop(no_sleep);
    let halted = match (code_before::<{ insn::WINDOW }>(frame.rip), code_before::<32>(frame.rip)) {
        (Some(before), _) => insn::after_hlt(&before, &after[..after.len() - left], frame.rflags),
        (None, Some(before)) => insn::after_hlt(&before, &after[..after.len() - left], frame.rflags),
        (None, None) => false,
    };
    if halted {
        frame.rip -= 1;
        cpu::enable_interrupts();
        let fault = Fault { kind: FaultKind::Halt, address: VirtAddr(frame.rip), vector: PROTECTION, error: 0 };
        fault_of_program(frame, fault);
    }
}

/// Hands a fault of program code over that no exception told of; all of the program's registers count meanwhile.
pub(crate) fn fault_of_program(frame: &mut TrapFrame, fault: Fault) {
    thread::set_trapped(true);
    linux_fault(frame, fault);
    thread::set_trapped(false);
}

/// The `N` bytes before `rip`, if they can be read without sleeping.
pub(crate) fn code_before<const N: usize>(rip: u64) -> Option<[u8; N]> {
    let start = rip.checked_sub(N as u64)?;
    let mut bytes = [0; N];
    let _no_sleep = PreemptGuard::new();
    // SAFETY: below RIP, which lies in the program's half; preemption is off, so a page that is not there is a failed copy.
    unsafe { user::copy_in(bytes.as_mut_ptr(), start as *const u8, N) }.ok()?;
    Some(bytes)
}
