//! The watchdog (`oxv run --watchdog[=SECONDS]`): reports a CPU that does not get on, and takes the CPU back from a program that has turned
//! interrupts off.
//!
//! # Theory
//! Whoever is to notice that a CPU has its interrupts off must not need them. The PIT counts down once; its line is routed through the I/O APIC as an
//! NMI to the first CPU, which starts it again (its longest count is 55 ms) and now and then passes the NMI on to the others ([`ASKED`]
//! tells such an NMI from one that comes from outside). So every CPU, also the only one, looks at itself:
//! - *interrupts off*: at each look for the limit's length they were off, and no pass of the scheduler was made;
//! - *does not schedule*: the running thread runs for longer than the limit while others wait for its CPU.
//!
//! Both must be found at two looks in a row: a virtual CPU that the host had stopped catches up in between. Each is reported once, with registers and
//! backtrace, and the CPU goes on; it is reported again after it has recovered.
//!
//! *A program with interrupts off* (`cli` works in ring 0, and so does a `popf` of zero, which on Linux changes nothing) gets them back at once. Where
//! the instruction before is a `cli` or a `hlt`, the program gets the SIGSEGV that Linux would have sent: the handler cannot send it from
//! the NMI's stack, so it notes the thread and interrupts its own CPU; that interrupt arrives as soon as the program goes on.
//!
//! Off, nothing of this runs: the PIT is silent.

use crate::percpu::{self, MAX_CPUS};
use crate::trap::{self, Fault, FaultKind, RESCHEDULE_VECTOR};
use crate::{clock, interrupt, nmi, thread};
use addr::VirtAddr;
use arch_x86_64::{TrapFrame, apic, cpu};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use platform::clock::hw::OneShotPit;
use sync::OnceCell;

/// Without a number on the command line.
const DEFAULT_SECONDS: u64 = 10;
/// Looks of the first CPU for one of each other CPU: about a quarter of a second.
const LOOKS_PER_PASS: u64 = 5;
const PROTECTION: u64 = 13;
const CLI: u8 = 0xfa;
const HLT: u8 = 0xf4;

static PIT: OnceCell<OneShotPit> = OnceCell::new();
static LIMIT_NS: AtomicU64 = AtomicU64::new(0);
static LOOKS: AtomicU64 = AtomicU64::new(0);
/// CPUs whose next NMI is a look, bit N for CPU N.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// What a CPU has seen of itself; used by that CPU alone, in its NMIs.
#[repr(align(64))]
struct Watch {
    /// When it first found interrupts off, without an interruption since; 0: they are on.
    off_since_ns: AtomicU64,
    /// Looks in a row that found it stuck.
    stuck_looks: AtomicU8,
    reported: AtomicBool,
    /// The thread that has to answer for having turned interrupts off; 0: none.
    culprit: AtomicU64,
}

static WATCHES: [Watch; MAX_CPUS] = [const {
    Watch { off_since_ns: AtomicU64::new(0), stuck_looks: AtomicU8::new(0), reported: AtomicBool::new(false), culprit: AtomicU64::new(0) }
}; MAX_CPUS];

/// Starts it, if the command line says `watchdog` or `watchdog=SECONDS`. After the other CPUs have started.
pub(crate) fn init(command_line: &platform::cmdline::CommandLine<'_>, pit_gsi: u32) {
    if !command_line.is_set("watchdog") {
        return;
    }
    let seconds = command_line.number("watchdog").unwrap_or(DEFAULT_SECONDS).max(1);
    // SAFETY: the clock has been calibrated; from now on only the watchdog uses the PIT.
    #[expect(unsafe_code, reason = "claims the PIT")]
    let _first = PIT.set(unsafe { OneShotPit::claim() });
    LIMIT_NS.store(seconds * 1_000_000_000, Ordering::Relaxed);
    match (interrupt::route_nmi(pit_gsi, 0), PIT.get()) {
        (Ok(()), Some(pit)) => pit.start(),
        _ => log::error!("watchdog: no line for its timer; there will be no watchdog"),
    }
}

/// An NMI that was not asked for otherwise; returns whether it was the watchdog's.
pub(crate) fn nmi(frame: &mut TrapFrame) -> bool {
    let Some(pit) = PIT.get() else { return false };
    let this = percpu::cpu_id();
    let is_asked = ASKED.fetch_and(!(1 << this), Ordering::AcqRel) & 1 << this != 0;
    let is_tick = this == 0 && pit.has_ended();
    if is_tick {
        pit.start();
        if LOOKS.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKS_PER_PASS) {
            pass_on();
        }
    }
    if is_tick || is_asked {
        look(frame, &WATCHES[this]);
    }
    is_tick || is_asked
}

fn pass_on() {
    for cpu in 1..percpu::cpu_count() {
        ASKED.fetch_or(1 << cpu, Ordering::AcqRel);
        apic::send_nmi(percpu::apic_id_of(cpu));
    }
}

fn look(frame: &mut TrapFrame, watch: &Watch) {
    if frame.is_user() && !frame.interrupts_enabled() {
        return give_back(frame, watch);
    }
    let (since, others_wait) = thread::last_pass_ns();
    let now = clock::monotonic_ns();
    let limit = LIMIT_NS.load(Ordering::Relaxed);
    let off_since = watch.off_since_ns.load(Ordering::Relaxed);
    let off_since = match (frame.interrupts_enabled(), off_since) {
        (true, _) => 0,
        (false, 0) => now,
        // A switch in between: they were on.
        (false, off_since) => if off_since < since { now } else { off_since },
    };
    watch.off_since_ns.store(off_since, Ordering::Relaxed);
    let seconds = |from: u64| now.saturating_sub(from) / 1_000_000_000;
    if off_since != 0 && now - off_since > limit {
        found(frame, watch, format_args!("watchdog: interrupts off for {} s", seconds(off_since)));
    } else if others_wait && now.saturating_sub(since) > limit {
        found(frame, watch, format_args!("watchdog: no switch for {} s while threads wait", seconds(since)));
    } else {
        watch.stuck_looks.store(0, Ordering::Relaxed);
        watch.reported.store(false, Ordering::Relaxed);
    }
}

fn found(frame: &TrapFrame, watch: &Watch, what: core::fmt::Arguments<'_>) {
    let looks = watch.stuck_looks.load(Ordering::Relaxed);
    watch.stuck_looks.store(looks.saturating_add(1), Ordering::Relaxed);
    if looks > 0 && !watch.reported.swap(true, Ordering::Relaxed) {
        nmi::report(frame, what);
    }
}

/// Turns a program's interrupts on again, and makes it answer for that.
fn give_back(frame: &mut TrapFrame, watch: &Watch) {
    frame.rflags |= cpu::RFLAGS_IF;
    watch.culprit.store(thread::current_id(), Ordering::Relaxed);
    apic::send_to_self(RESCHEDULE_VECTOR);
}

/// An interrupt came out of program code: if the running thread had turned interrupts off by `cli`, or halted so, it gets the fault that user mode
/// would have raised.
pub(crate) fn check_program(frame: &mut TrapFrame) {
    let culprit = &WATCHES[percpu::cpu_id()].culprit;
    if culprit.load(Ordering::Relaxed) == 0 || culprit.swap(0, Ordering::Relaxed) != thread::current_id() {
        return;
    }
    let last = trap::code_before::<1>(frame.rip);
    cpu::enable_interrupts();
    if !matches!(last, Some([CLI | HLT])) {
        return log::warn!("the program had turned interrupts off; they are on again at {:#x}", frame.rip);
    }
    frame.rip -= 1;
    let fault = Fault { kind: FaultKind::Protection, address: VirtAddr(frame.rip), vector: PROTECTION, error: 0 };
    trap::fault_of_program(frame, fault);
}
