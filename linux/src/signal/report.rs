//! The report of a program that dies by a fault: signal, address, registers, where in which file, who called whom.
//!
//! Sent through the control port; the host adds symbol names to `OBJECT+0xOFFSET`.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;

use addr::VirtAddr;
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
    let _infallible = write!(
        out,
        "{} (pid {}, thread {} \"{}\") was killed by {signal:?}{}\n\
         at {}\n\
         rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}\n\
         rsi {:016x}  rdi {:016x}  rbp {:016x}  rsp {:016x}\n\
         r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}\n\
         r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}\n\
         rip {:016x}  flags {:08x}\n",
        program_name(ctx),
        ctx.process().pid(),
        ctx.task().tid(),
        ctx.task().name(),
        reason(signal, info),
        place(ctx, f.rip),
        f.rax,
        f.rbx,
        f.rcx,
        f.rdx,
        f.rsi,
        f.rdi,
        f.rbp,
        f.rsp,
        f.r8,
        f.r9,
        f.r10,
        f.r11,
        f.r12,
        f.r13,
        f.r14,
        f.r15,
        f.rip,
        f.rflags,
    );
    backtrace(ctx, &mut out);
    out
}

fn program_name(ctx: &Ctx<'_>) -> String {
    let location = ctx.process().executable.read().location.clone();
    let root = ctx.process().fs.root.read().clone();
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
        (_, code::SI_KERNEL) if signal == Signal::SIGSEGV => String::from(": general protection (a privileged instruction or a wild address)"),
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
