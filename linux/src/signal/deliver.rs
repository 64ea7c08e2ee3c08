//! Delivery: what a thread does about its pending signals on the way back to program code.

use linux_abi::Errno;
use linux_abi::raw::RLIMIT_CORE;
use linux_abi::signal::{DefaultAction, SIG_DFL, SIG_IGN, SigAction, SigInfo, SigSet, Signal, sa};
use signal::{Outcome, Resume, resume};
use syscalls::Sysno;

use super::{frame, report};
use crate::calls;
use crate::ctx::Ctx;
use crate::exit;
use crate::jobs;
use crate::process::ExitStatus;
use crate::rseq;

/// Delivers every unblocked pending signal. `interrupted` is the internal error of the system call that is just ending, if it
/// was interrupted: the call is restarted or fails as the first delivered signal says.
pub(crate) fn deliver(ctx: &mut Ctx<'_>, mut interrupted: Option<Errno>) {
    let task = ctx.task();
    let mut handled = false;
    loop {
        if task.must_end() {
            exit::end_thread(task);
        }
        if task.process().job.is_stopping() {
            jobs::stand_still(task);
            continue;
        }
        let continuations = task.process().job.continuations();
        let Some((signal, info)) = task.take_signal(SigSet(u64::MAX).without(task.signals.mask())) else { break };
        let action = task.process().signals.action_for_delivery(signal);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL if signal.default_action() == DefaultAction::Stop => task.process().stop(signal, continuations),
            SIG_DFL => default_action(ctx, signal, &info),
            _ => {
                if let Some(error) = interrupted.take() {
                    apply(ctx, resume(error, Outcome::Handler(&action)));
                }
                run_handler(ctx, signal, &info, &action);
                handled = true;
            }
        }
    }
    if let Some(error) = interrupted {
        apply(ctx, resume(error, Outcome::NoHandler));
    }
    if !handled {
        task.restore_sigmask();
    }
}

/// Bytes of `syscall`.
const SYSCALL_LEN: u64 = 2;

fn apply(ctx: &mut Ctx<'_>, resume: Resume) {
    let frame = ctx.frame_mut();
    // What a rewritten call returns to lies behind a `syscall`, or behind the jump in its place: either makes the call again.
    let again = frame.rip - SYSCALL_LEN;
    match resume {
        Resume::Restart => (frame.rip, frame.rax) = (again, frame.orig_rax),
        Resume::GoOn => (frame.rip, frame.rax) = (again, Sysno::restart_syscall as u64),
        Resume::Fail(error) => frame.rax = error.to_ret() as u64,
    }
}

fn default_action(ctx: &Ctx<'_>, signal: Signal, info: &SigInfo) {
    match signal.default_action() {
        DefaultAction::Ignore | DefaultAction::Continue | DefaultAction::Stop => {}
        DefaultAction::Terminate | DefaultAction::Core => kill(ctx, signal, info),
    }
}

/// Ends the process by `signal`.
pub(crate) fn kill(ctx: &Ctx<'_>, signal: Signal, info: &SigInfo) -> ! {
    if signal.default_action() == DefaultAction::Core && ctx.process().exit_status().is_none() {
        report::crash(ctx, signal, info);
    }
    let core_limit = ctx.process().limit(RLIMIT_CORE).map_or(0, |limit| limit.cur);
    exit::end_process(ctx.task(), ExitStatus::by_signal(signal, core_limit))
}

/// Makes the handler run next.
fn run_handler(ctx: &mut Ctx<'_>, signal: Signal, info: &SigInfo, action: &SigAction) {
    calls::with_space(|space| calls::leave_stub(space, ctx.frame_mut()));
    let task = ctx.task();
    // What the handler calls is not the continuation of what it interrupted, nor is what comes after it.
    task.continuation.forget();
    let old_mask = task.signals.saved_mask().unwrap_or_else(|| task.signals.mask());
    if !rseq::before_handler(ctx) || frame::push(ctx, signal, info, action, old_mask).is_err() {
        // No room for the frame: SIGSEGV, and if that is what is being delivered, the end.
        let segv = SigInfo::new(Signal::SIGSEGV, linux_abi::signal::code::SI_KERNEL);
        if signal == Signal::SIGSEGV {
            kill(ctx, Signal::SIGSEGV, &segv);
        }
        return force(ctx, Signal::SIGSEGV, segv);
    }
    task.signals.forget_saved_mask();
    let own = if action.flags & sa::NODEFER != 0 { SigSet::EMPTY } else { SigSet::of(signal) };
    task.set_sigmask(task.signals.mask().union(action.mask).union(own));
}

/// Sends a signal that cannot be put off: blocked or ignored, it gets its default action (so it kills).
pub(crate) fn force(ctx: &Ctx<'_>, signal: Signal, info: SigInfo) {
    let task = ctx.task();
    let blocked = task.signals.mask().contains(signal);
    let action = task.process().signals.action(signal);
    if blocked || action.handler == SIG_IGN {
        task.process().signals.set_action(signal, SigAction { handler: SIG_DFL, ..action });
        task.set_sigmask(task.signals.mask().without(SigSet::of(signal)));
    }
    // A standard signal is never refused.
    let _merged = task.send_signal(signal, info);
}
