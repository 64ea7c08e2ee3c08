//! The report of a program that dies by a fault: signal, address, registers, where in which file, who called whom.
//!
//! Sent through the control port; the host adds symbol names to `OBJECT+0xOFFSET`.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;

use addr::VirtAddr;
use arch_x86_64::TrapFrame;
use linux_abi::signal::{SigInfo, Signal, code};

use crate::ctx::Ctx;
use crate::user_ptr::UserPtr;

const MAX_FRAMES: usize = 32;

/// Tells the host that the program is about to die of `signal`.
pub(super) fn crash(ctx: &Ctx<'_>, signal: Signal, info: &SigInfo) {
    let text = render(ctx, signal, info);
    kernel::control::send_report(&text);
}

fn render(ctx: &Ctx<'_>, signal: Signal, info: &SigInfo) -> String {
    let f = ctx.frame();
    let mut out = String::new();
    let _infallible = writeln!(
        out,
        "{} (pid {}, thread {} \"{}\") was killed by {signal:?}{}\nat {}",
        program_name(ctx),
        ctx.process().pid(),
        ctx.task().tid(),
        ctx.task().name(),
        reason(signal, info),
        place(ctx, f.rip),
    );
    // Registers explain faults; a program that aborted has said why itself.
    if signal.is_synchronous() {
        registers(f, &mut out);
    }
    backtrace(ctx, &mut out);
    out
}

fn registers(f: &TrapFrame, out: &mut String) {
    let rows = [
        [("rax", f.rax), ("rbx", f.rbx), ("rcx", f.rcx), ("rdx", f.rdx)],
        [("rsi", f.rsi), ("rdi", f.rdi), ("rbp", f.rbp), ("rsp", f.rsp)],
        [("r8 ", f.r8), ("r9 ", f.r9), ("r10", f.r10), ("r11", f.r11)],
        [("r12", f.r12), ("r13", f.r13), ("r14", f.r14), ("r15", f.r15)],
    ];
    for row in rows {
        let [a, b, c, d] = row.map(|(name, value)| format!("{name} {value:016x}"));
        let _infallible = writeln!(out, "{a}  {b}  {c}  {d}");
    }
    let _infallible = writeln!(out, "rip {:016x}  flags {:08x}", f.rip, f.rflags);
}

fn program_name(ctx: &Ctx<'_>) -> String {
    let location = ctx.process().executable.read().location.clone();
    let root = ctx.fs().root.read().clone();
    location.map_or_else(|| ctx.task().name(), |l| String::from_utf8_lossy(&l.path_from(&root)).into_owned())
}

/// Why, in words.
fn reason(signal: Signal, info: &SigInfo) -> String {
    let address = info.address();
    match (signal, info.code) {
        (Signal::SIGSEGV, code::SEGV_MAPERR) => format!(": nothing is mapped at {address:#x}"),
        (Signal::SIGSEGV, code::SEGV_ACCERR) => format!(": no permission for the access to {address:#x}"),
        (Signal::SIGBUS, code::BUS_ADRERR) => format!(": {address:#x} lies beyond the end of the mapped file"),
        (Signal::SIGFPE, code::FPE_INTDIV) => String::from(": integer division by zero"),
        (Signal::SIGILL, _) => String::from(": invalid instruction"),
        (Signal::SIGSEGV, code::SI_KERNEL) => {
            String::from(": general protection (a privileged instruction or a wild address)")
        }
        (Signal::SIGABRT, code::SI_TKILL) => String::from(" (abort)"),
        (_, code::SI_TKILL | code::SI_USER) => String::from(" (sent by a process)"),
        _ => String::new(),
    }
}

/// `OBJECT+0xOFFSET` for an address in a mapped file, counted from where its first page is mapped; else the address.
fn place(ctx: &Ctx<'_>, address: u64) -> String {
    let space = ctx.process().space();
    let Some(name) = space.find(VirtAddr(address)).and_then(|vma| vma.name) else { return format!("{address:#x}") };
    let areas = space.areas();
    let base = areas.iter().find(|a| a.name.as_ref() == Some(&name)).map_or(address, |a| a.start.0);
    format!("{}+{:#x} ({address:#x})", String::from_utf8_lossy(&name), address - base)
}

/// Follows frame pointers as long as they make sense.
fn backtrace(ctx: &Ctx<'_>, out: &mut String) {
    let mut rbp = ctx.frame().rbp;
    let _infallible = writeln!(out, " #0 {}", place(ctx, ctx.frame().rip));
    for number in 1..MAX_FRAMES {
        let Ok([next, return_address]) = UserPtr::<[u64; 2]>::new(rbp).read() else { return };
        if return_address == 0 || !VirtAddr(return_address).is_user() {
            return;
        }
        let _infallible = writeln!(out, " #{number} {}", place(ctx, return_address));
        if next <= rbp {
            return;
        }
        rbp = next;
    }
}
