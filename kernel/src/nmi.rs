//! Non-maskable interrupts and machine checks: reports that need no lock, no memory and no cooperation.
//!
//! # Theory
//! An NMI from outside (QEMU's `inject-nmi`) asks what the machine is doing: every CPU reports where it is, and goes on; `panic_on_nmi` on the
//! kernel's command line makes it a panic. Some machines give the NMI to one CPU only, QEMU to all. So the first CPU of a round, which wins the
//! exchange on [`LAST_ROUND`], sets [`WANTED`] for the others and sends each an NMI of its own; whoever finds its bit set reports, any other NMI of
//! that round means nothing. The watchdog asks in the same way (see `watchdog.rs`).
//!
//! Each CPU writes its report into a buffer of its own, which nobody else writes: NMIs do not nest. Then it marks it
//! full and tries to become the printer ([`PRINTING`]). If another CPU is that already, it leaves: the printer looks for full reports once more
//! after it has given the role up, and all four accesses are sequentially consistent, so either it sees the report or the reporter finds the
//! role free. Nobody waits, and reports do not mix. A CPU whose last report is not printed yet drops the new one.
//!
//! Context of everything here: on the NMI's own stack, anywhere in the kernel or the program, also in the middle of the scheduler. So it reads
//! atomics, its own CPU's block, and the running thread's stack; it never sleeps, wakes or switches.
#![expect(unsafe_code, reason = "buffers that belong to one CPU at a time")]

use crate::percpu::{self, MAX_CPUS};
use crate::{clock, panic, thread, watchdog};
use alloc::boxed::Box;
use arch_x86_64::percpu as block;
use arch_x86_64::{TrapFrame, apic, cpu, machine_check};
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use sync::OnceCell;

/// Bytes of a CPU's report; the rest of a longer one is cut off.
const REPORT_SIZE: usize = 1536;
/// NMIs that come closer together than this are one question.
const ROUND_NS: u64 = 500_000_000;

struct Report {
    text: UnsafeCell<[u8; REPORT_SIZE]>,
    len: AtomicUsize,
    is_full: AtomicBool,
}

// SAFETY: the text is written by its CPU while not full, and read by the one printer while full.
unsafe impl Sync for Report {}

static REPORTS: [OnceCell<Box<Report>>; MAX_CPUS] = [const { OnceCell::new() }; MAX_CPUS];
static PRINTING: AtomicBool = AtomicBool::new(false);
/// CPUs that are to report, bit N for CPU N.
static WANTED: AtomicU64 = AtomicU64::new(0);
static LAST_ROUND: AtomicU64 = AtomicU64::new(0);
static PANICS: AtomicBool = AtomicBool::new(false);

/// Makes reports possible on every CPU.
pub(crate) fn init(panics: bool) {
    for report in &REPORTS[..percpu::cpu_count()] {
        let empty = Report { text: UnsafeCell::new([0; REPORT_SIZE]), len: AtomicUsize::new(0), is_full: AtomicBool::new(false) };
        let _first = report.set(Box::new(empty));
    }
    PANICS.store(panics, Ordering::Relaxed);
}

/// An NMI arrived.
pub(crate) fn arrived(frame: &mut TrapFrame) {
    if panic::is_stopping() {
        cpu::halt_forever();
    }
    let this = percpu::cpu_id();
    if WANTED.fetch_and(!(1 << this), Ordering::AcqRel) & 1 << this != 0 {
        return report(frame, format_args!("NMI"));
    }
    if watchdog::nmi(frame) || !begins_round() {
        return;
    }
    if PANICS.load(Ordering::Relaxed) {
        panic::die(frame, format_args!("NMI"));
    }
    ask_others();
    report(frame, format_args!("NMI"));
}

/// Whether this is the first NMI in a while, on any CPU.
fn begins_round() -> bool {
    let (now, last) = (clock::monotonic_ns(), LAST_ROUND.load(Ordering::Relaxed));
    (last == 0 || now.saturating_sub(last) > ROUND_NS) && LAST_ROUND.compare_exchange(last, now, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Makes every other CPU report where it is.
pub(crate) fn ask_others() {
    let this = percpu::cpu_id();
    for cpu in (0..percpu::cpu_count()).filter(|&cpu| cpu != this) {
        WANTED.fetch_or(1 << cpu, Ordering::AcqRel);
        apic::send_nmi(percpu::apic_id_of(cpu));
    }
}

/// Reports where this CPU was interrupted, and why that is asked.
pub(crate) fn report(frame: &TrapFrame, why: fmt::Arguments<'_>) {
    let Some(report) = REPORTS[percpu::cpu_id()].get() else { return };
    if report.is_full.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: it is this CPU's and not full, and NMIs do not nest.
    let mut text = Text { bytes: unsafe { &mut *report.text.get() }, used: 0 };
    let _cut_off = describe(&mut text, frame, why);
    report.len.store(text.used, Ordering::Relaxed);
    report.is_full.store(true, Ordering::SeqCst);
    while REPORTS.iter().filter_map(OnceCell::get).any(|report| report.is_full.load(Ordering::SeqCst)) {
        if PRINTING.swap(true, Ordering::SeqCst) {
            return;
        }
        print_full();
        PRINTING.store(false, Ordering::SeqCst);
    }
}

/// Prints what is full. The caller is the printer.
fn print_full() {
    for report in REPORTS.iter().filter_map(OnceCell::get).filter(|report| report.is_full.load(Ordering::SeqCst)) {
        // SAFETY: while it is full, only the printer touches it.
        let text = unsafe { &(&*report.text.get())[..report.len.load(Ordering::Relaxed)] };
        crate::console::write_emergency(core::str::from_utf8(text).unwrap_or("\na report that is no text\n"));
        report.is_full.store(false, Ordering::Release);
    }
}

fn describe(out: &mut Text<'_>, frame: &TrapFrame, why: fmt::Arguments<'_>) -> fmt::Result {
    let place = match (frame.is_user(), thread::runs_idle()) {
        (true, _) => "in the program",
        (false, true) => "idle",
        (false, false) => "in the kernel",
    };
    let interrupts = if frame.interrupts_enabled() { "on" } else { "off" };
    let due = if block::need_resched() { ", a switch is due" } else { "" };
    writeln!(out, "\n{why} on CPU {}: thread {} {place}", percpu::cpu_id(), thread::current_name())?;
    writeln!(out, " interrupts {interrupts}, preemption count {}{due}, {} runnable", block::preempt_count(), thread::runnable_here())?;
    write_registers(out, frame)?;
    writeln!(out, " #0 {:#018x}", frame.rip)?;
    if !frame.is_user() {
        panic::backtrace(out, frame.rsp);
    }
    Ok(())
}

/// All general registers.
pub(crate) fn write_registers(out: &mut dyn Write, r: &TrapFrame) -> fmt::Result {
    writeln!(out, " rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
    writeln!(out, " rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}", r.rsi, r.rdi, r.rbp, r.rsp)?;
    writeln!(out, " r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}", r.r8, r.r9, r.r10, r.r11)?;
    writeln!(out, " r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}", r.r12, r.r13, r.r14, r.r15)?;
    writeln!(out, " rip {:016x} flags {:x}", r.rip, r.rflags)
}

/// A text that is cut off where its room ends.
struct Text<'a> {
    bytes: &'a mut [u8; REPORT_SIZE],
    used: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Bytes beyond ASCII would be cut in the middle; reports have none but in thread names.
        let room = self.bytes.len() - self.used;
        if text.len() > room {
            return Err(fmt::Error);
        }
        self.bytes[self.used..self.used + text.len()].copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}

/// A machine check: reports what the banks hold. One that is corrected, or that can be survived, is noted and forgotten (SDM vol. 3, 16.8).
pub(crate) fn machine_check(frame: &TrapFrame) {
    let state = machine_check::state();
    let mut banks = arrayvec::ArrayVec::<machine_check::Bank, 8>::new();
    banks.extend(machine_check::banks().take(8));
    let list = Banks(&banks);
    if !state.can_go_on() || banks.iter().any(machine_check::Bank::is_fatal) {
        panic::die(frame, format_args!("machine check, state {:#x}{list}", state.0));
    }
    report(frame, format_args!("machine check, survived, state {:#x}{list}", state.0));
    machine_check::clear();
}

struct Banks<'a>(&'a [machine_check::Bank]);

impl fmt::Display for Banks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |bank: &machine_check::Bank| write!(f, ", bank {} status {:#x} address {:#x}", bank.number, bank.status, bank.address);
        self.0.iter().try_for_each(write)
    }
}
