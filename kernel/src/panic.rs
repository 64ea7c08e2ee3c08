//! Kernel panics: message, CPU, backtrace, then power off with a status that says so.
//!
//! The host program turns the addresses into names (it has the kernel's symbols).
//!
//! The kernel keeps no frame pointers: three instructions and a register in every function. A backtrace is all words of the stack that can be return addresses,
//! those that a `call` stands before; so it may also name calls that have returned.
#![expect(unsafe_code, reason = "reads the stack and the text")]

use addr::PAGE_SIZE;
use arch_x86_64::TrapFrame;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

const MAX_FRAMES: usize = 32;

const NOBODY: usize = usize::MAX;
/// The CPU that reports.
static REPORTER: AtomicUsize = AtomicUsize::new(NOBODY);

/// Writes to the serial port, whoever else may be writing: a panicking CPU owns it.
struct Emergency;

impl Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        crate::console::write_emergency(text);
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    if is_out_of_memory(info) {
        end_without_memory(format_args!("{}", info.message()), rsp);
    }
    stop(format_args!("{info}"), rsp)
}

/// Whether `alloc`'s handler for failed allocations panicked: its message, which has arguments, is all that tells.
fn is_out_of_memory(info: &PanicInfo<'_>) -> bool {
    let mut start = Start { bytes: [0; FAILED_ALLOCATION.len()], used: 0 };
    let _full = write!(start, "{}", info.message());
    start.bytes == FAILED_ALLOCATION
}

/// How that message begins.
const FAILED_ALLOCATION: [u8; 20] = *b"memory allocation of";

/// The first bytes of a text.
struct Start {
    bytes: [u8; FAILED_ALLOCATION.len()],
    used: usize,
}

impl Write for Start {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let n = text.len().min(self.bytes.len() - self.used);
        self.bytes[self.used..self.used + n].copy_from_slice(&text.as_bytes()[..n]);
        self.used += n;
        Ok(())
    }
}

/// The kernel needed memory for the program where it cannot do without, and all is used. That is the program's end, not a defect of the
/// kernel's state, but what the running thread holds cannot be let go: so the machine ends, and the host reports it as SIGKILL.
fn end_without_memory(message: fmt::Arguments<'_>, rsp: u64) -> ! {
    arch_x86_64::cpu::disable_interrupts();
    let cpu = crate::percpu::cpu_id();
    if REPORTER.compare_exchange(NOBODY, cpu, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        arch_x86_64::cpu::halt_forever();
    }
    stop_others(cpu);
    let mut out = Emergency;
    let info = crate::mm::memory_info();
    let kib = |frames: u64| frames * 4;
    let _infallible = writeln!(
        out,
        "\nout of memory in the kernel (thread {}): {message}; {} KiB in all, {} KiB free, {} KiB kernel heap, {} KiB page tables, {} KiB kernel stacks",
        crate::thread::current_name(),
        kib(info.total_frames),
        kib(info.free_frames),
        kib(info.heap_frames),
        kib(info.table_frames),
        kib(info.stack_frames),
    );
    backtrace(&mut out, rsp);
    crate::power::off_without_memory()
}

/// Reports a trap that the kernel cannot go on from.
pub(crate) fn die(frame: &TrapFrame, message: fmt::Arguments<'_>) -> ! {
    stop(format_args!("{message}\n{}", Registers(frame)), frame.rsp)
}

struct Registers<'a>(&'a TrapFrame);

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::nmi::write_registers(f, self.0)?;
        write!(f, " #0 {:#018x}", self.0.rip)
    }
}

/// Reports a fatal error with a backtrace that starts at the stack pointer `rsp`, and powers off.
pub(crate) fn stop(message: fmt::Arguments<'_>, rsp: u64) -> ! {
    arch_x86_64::cpu::disable_interrupts();
    let cpu = crate::percpu::cpu_id();
    match REPORTER.compare_exchange(NOBODY, cpu, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => stop_others(cpu),
        // The report itself failed.
        Err(reporter) if reporter == cpu => crate::power::off_after_panic(),
        // Another CPU is reporting; it will power off.
        Err(_) => arch_x86_64::cpu::halt_forever(),
    }
    let mut out = Emergency;
    let thread = crate::thread::current_name();
    let _infallible = writeln!(out, "\nkernel panic on CPU {} in thread {thread}: {message}", crate::percpu::cpu_id());
    backtrace(&mut out, rsp);
    if let Some(seed) = crate::torture::seed() {
        let _infallible = writeln!(out, "torture seed {seed:#x}");
    }
    crate::power::off_after_panic()
}

/// Whether some CPU reports a fatal error, so that the others must halt.
pub(crate) fn is_stopping() -> bool {
    REPORTER.load(Ordering::SeqCst) != NOBODY
}

/// Makes the other CPUs halt, so that the report is not disturbed.
fn stop_others(this: usize) {
    for cpu in (0..crate::percpu::cpu_count()).filter(|&cpu| cpu != this) {
        // Not an ordinary interrupt: a CPU that has them off must stop, too. `nmi::arrived` halts it.
        arch_x86_64::apic::send_nmi(crate::percpu::apic_id_of(cpu));
    }
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

/// Whether a `call` may end at `address`: near ones, and those through a register or memory (SDM vol. 2, CALL).
fn is_behind_call(address: u64) -> bool {
    const LONGEST: u64 = 7;
    let text = &raw const __text_start as u64 + LONGEST..&raw const __text_end as u64;
    if !text.contains(&address) {
        return false;
    }
    // SAFETY: so many bytes before an address in the kernel's text, behind the first few.
    let before: [u8; LONGEST as usize] = unsafe { ((address - LONGEST) as *const [u8; LONGEST as usize]).read() };
    let through = |length: usize, forms: [u8; 2]| {
        let [opcode, form] = [before[before.len() - length], before[before.len() - length + 1]];
        opcode == 0xff && forms.contains(&(form & 0xf8))
    };
    // By length: a register or its memory; with a byte; near; with four bytes; with an index and four bytes.
    through(2, [0xd0, 0x10]) || through(3, [0x50, 0x10]) || through(4, [0x50, 0x10]) || before[2] == 0xe8 || through(6, [0x90, 0x10]) || through(7, [0x90, 0x10])
}

/// Writes what may be return addresses in the running thread's stack from `rsp` on, the youngest first.
pub(crate) fn backtrace(out: &mut dyn Write, rsp: u64) {
    let Some(stack) = crate::thread::current_stack() else { return };
    // In the guard page below it, the stack is used up.
    if !(stack.start - PAGE_SIZE as u64..stack.end).contains(&rsp) {
        return;
    }
    let words = (rsp.next_multiple_of(8).max(stack.start)..stack.end).step_by(8);
    // SAFETY: all lie in the running thread's stack.
    let addresses = words.map(|at| unsafe { *(at as *const u64) }).filter(|&word| is_behind_call(word));
    for (number, address) in addresses.take(MAX_FRAMES).enumerate() {
        let _infallible = writeln!(out, " #{number} {address:#018x}");
    }
}
