//! Signal system calls.

use alloc::sync::Arc;

use linux_abi::Errno;
use linux_abi::raw::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK};
use linux_abi::signal::{
    MINSIGSTKSZ, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SigAction, SigInfo, SigSet, SigStack, Signal, code,
};
use linux_abi::time::Timespec;

use crate::ctx::{Ctx, SysResult};
use crate::jobs;
use crate::process::{self, Cred, OwnId, Process, Task};
use crate::signal::{deliver, frame};
use crate::table;
use crate::user_ptr::UserPtr;

const SIGSET_SIZE: usize = size_of::<SigSet>();

fn check_size(size: usize) -> Result<(), Errno> {
    if size == SIGSET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

fn signal(number: u32) -> Result<Signal, Errno> {
    Signal::new(number).ok_or(Errno::EINVAL)
}

/// `rt_sigaction`. Unknown flag bits are kept and ignored.
///
/// # Errors
/// `EINVAL` for a bad number, SIGKILL or SIGSTOP; `EFAULT`.
pub fn rt_sigaction(
    ctx: &Ctx<'_>,
    number: u32,
    new: UserPtr<SigAction>,
    old: UserPtr<SigAction>,
    size: usize,
) -> SysResult {
    check_size(size)?;
    let signal = signal(number)?;
    let previous = match new.non_null() {
        Some(_) if SigSet::UNBLOCKABLE.contains(signal) => return Err(Errno::EINVAL),
        Some(new) => {
            let mut action = new.read()?;
            action.mask = action.mask.without(SigSet::UNBLOCKABLE);
            ctx.process().change_action(signal, action)
        }
        None => ctx.process().signals.action(signal),
    };
    old.write_optional(&previous).map(|()| 0)
}

/// `rt_sigprocmask`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn rt_sigprocmask(
    ctx: &Ctx<'_>,
    how: u32,
    new: UserPtr<SigSet>,
    old: UserPtr<SigSet>,
    size: usize,
) -> SysResult {
    check_size(size)?;
    let task = ctx.task();
    let current = task.signals.mask();
    if let Some(new) = new.non_null() {
        let set = new.read()?;
        task.set_sigmask(match how {
            SIG_BLOCK => current.union(set),
            SIG_UNBLOCK => current.without(set),
            SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        });
    }
    old.write_optional(&current).map(|()| 0)
}

/// `rt_sigpending`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn rt_sigpending(ctx: &Ctx<'_>, out: UserPtr<SigSet>, size: usize) -> SysResult {
    check_size(size)?;
    let task = ctx.task();
    out.write(&task.pending_signals().intersection(task.signals.mask())).map(|()| 0)
}

/// `rt_sigreturn`: back to what a handler interrupted.
///
/// # Errors
/// None: a bad frame is SIGSEGV.
pub fn rt_sigreturn(ctx: &mut Ctx<'_>) -> SysResult {
    let popped = frame::pop(ctx);
    if popped.is_err() || !addr::VirtAddr(ctx.frame().rip).is_user() {
        deliver::force(ctx, Signal::SIGSEGV, SigInfo::new(Signal::SIGSEGV, code::SI_KERNEL));
    }
    Ok(ctx.frame().rax as usize)
}

/// `restart_syscall`: goes on with a wait that a stop interrupted.
///
/// # Errors
/// `EINTR` when there is none; else those of the call.
pub fn restart_syscall(ctx: &mut Ctx<'_>) -> SysResult {
    let Some(number) = ctx.task().continuation.go_on() else { return Err(Errno::EINTR) };
    ctx.frame_mut().orig_rax = number;
    let result = table::dispatch(ctx);
    ctx.task().continuation.returned();
    if result < 0 { Err(Errno(result.unsigned_abs() as u16)) } else { Ok(result as usize) }
}

/// `rt_sigsuspend`: waits with another mask until a handler has run.
///
/// # Errors
/// `EINTR` always; `EINVAL`, `EFAULT`.
pub fn rt_sigsuspend(ctx: &Ctx<'_>, mask: UserPtr<SigSet>, size: usize) -> SysResult {
    check_size(size)?;
    let mask = mask.read()?;
    ctx.task().set_temporary_sigmask(mask);
    wait_for_signal(ctx.task())
}

/// `pause`.
///
/// # Errors
/// `EINTR` always.
pub fn pause(ctx: &Ctx<'_>) -> SysResult {
    wait_for_signal(ctx.task())
}

fn wait_for_signal(task: &Task) -> SysResult {
    while !task.is_interrupted() {
        sync::park(None);
    }
    Err(Errno::ERESTARTNOHAND)
}

/// `rt_sigtimedwait`: takes one of the signals in `set`, waiting for it.
///
/// # Errors
/// `EAGAIN` after the time, `EINTR`, `EINVAL`, `EFAULT`.
pub fn rt_sigtimedwait(
    ctx: &Ctx<'_>,
    set: UserPtr<SigSet>,
    info: UserPtr<SigInfo>,
    timeout: UserPtr<Timespec>,
    size: usize,
) -> SysResult {
    check_size(size)?;
    let set = set.read()?.without(SigSet::UNBLOCKABLE);
    let deadline = match timeout.non_null() {
        Some(t) => Some(sync::monotonic_ns().saturating_add(t.read()?.to_ns().ok_or(Errno::EINVAL)?)),
        None => None,
    };
    let task = ctx.task();
    task.await_signals(set);
    let taken = await_signal(task, set, deadline);
    task.await_signals(SigSet::EMPTY);
    let (signal, what) = taken?;
    info.write_optional(&what)?;
    Ok(signal.number() as usize)
}

fn await_signal(task: &Task, set: SigSet, deadline: Option<u64>) -> Result<(Signal, SigInfo), Errno> {
    loop {
        if let Some(taken) = task.take_signal(set) {
            return Ok(taken);
        }
        if task.is_interrupted() {
            return Err(Errno::EINTR);
        }
        if deadline.is_some_and(|d| sync::monotonic_ns() >= d) {
            return Err(Errno::EAGAIN);
        }
        sync::park(deadline);
    }
}

/// `sigaltstack`.
///
/// # Errors
/// `EPERM` while running on it, `ENOMEM` when too small, `EINVAL`, `EFAULT`.
pub fn sigaltstack(ctx: &Ctx<'_>, new: UserPtr<SigStack>, old: UserPtr<SigStack>) -> SysResult {
    let task = ctx.task();
    let current = frame::shown_altstack(&task.signals.altstack(), ctx.frame().rsp);
    let wanted = match new.non_null() {
        Some(new) => Some(new.read()?),
        None => None,
    };
    if let Some(stack) = wanted {
        if current.flags & SS_ONSTACK != 0 {
            return Err(Errno::EPERM);
        }
        task.signals.set_altstack(checked_altstack(stack)?);
    }
    old.write_optional(&current).map(|()| 0)
}

fn checked_altstack(stack: SigStack) -> Result<SigStack, Errno> {
    match stack.flags & !SS_AUTODISARM {
        SS_DISABLE => Ok(SigStack { sp: 0, flags: stack.flags, pad0: 0, size: 0 }),
        // SS_ONSTACK is accepted on input and means nothing (Linux compatibility).
        0 | SS_ONSTACK if stack.size < MINSIGSTKSZ => Err(Errno::ENOMEM),
        0 | SS_ONSTACK => Ok(SigStack { flags: stack.flags & SS_AUTODISARM, ..stack }),
        _ => Err(Errno::EINVAL),
    }
}

fn sender_info(ctx: &Ctx<'_>, signal: Signal, code: i32) -> SigInfo {
    SigInfo::from_process(signal, code, ctx.process().pid(), ctx.task().own_id(OwnId::Uid))
}

/// Whether the caller may send signal `number` to `target`, which acts on behalf of `other` (kill(2)): the privileged to all, others to their own
/// processes, and SIGCONT to those of their session.
///
/// # Errors
/// `EPERM`.
pub(crate) fn require_permission(ctx: &Ctx<'_>, target: &Process, other: &Cred, number: u32) -> Result<(), Errno> {
    let caller = ctx.process();
    if caller.pid() == target.pid() {
        return Ok(());
    }
    let own = ctx.cred();
    let same = [own.euid, own.ruid].iter().any(|uid| [other.ruid, other.suid].contains(uid));
    let continues = number == Signal::SIGCONT.number() && caller.session() == target.session();
    if own.euid == 0 || same || continues { Ok(()) } else { Err(Errno::EPERM) }
}

/// Sends `number` to `process`; 0 only asks whether that would be possible.
fn send_to_process(ctx: &Ctx<'_>, process: &Process, number: u32) -> Result<(), Errno> {
    require_permission(ctx, process, &process.cred(), number)?;
    match Signal::new(number) {
        Some(signal) => process.send_signal(signal, sender_info(ctx, signal, code::SI_USER)),
        None => Ok(()),
    }
}

/// `kill`: a process, a process group, or all.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EPERM`, `EAGAIN`.
pub fn kill(ctx: &Ctx<'_>, pid: i32, number: u32) -> SysResult {
    if number != 0 {
        signal(number)?;
    }
    if pid > 0 && pid as u32 == ctx.process().pid() {
        return send_to_process(ctx, ctx.process(), number).map(|()| 0);
    }
    if pid > 0 {
        // A thread's number stands for its process, as on Linux.
        let target = process::find_process(pid as u32)
            .or_else(|| process::find_task(pid as u32).map(|task| task.process_ref().clone()))
            .ok_or(Errno::ESRCH)?;
        return send_to_process(ctx, &target, number).map(|()| 0);
    }
    if pid == -1 {
        // Everyone but the first process and the caller.
        let others = process::all_processes();
        let others = others.into_iter().filter(|p| p.pid() != 1 && p.pid() != ctx.process().pid());
        return send_to_all(ctx, others, number);
    }
    let group = if pid == 0 { ctx.process().process_group() } else { pid.unsigned_abs() };
    send_to_all(ctx, jobs::members(group), number)
}

/// Sends to all of `targets`: a success if it was one with any of them, else the last error.
fn send_to_all(ctx: &Ctx<'_>, targets: impl Iterator<Item = Arc<Process>>, number: u32) -> SysResult {
    let mut result = Err(Errno::ESRCH);
    for target in targets {
        let sent = send_to_process(ctx, &target, number);
        if result.is_err() {
            result = sent;
        }
    }
    result.map(|()| 0)
}

fn send_to_thread(ctx: &Ctx<'_>, task: &Task, number: u32) -> SysResult {
    require_permission(ctx, task.process(), &task.cred(), number)?;
    if number != 0 {
        let signal = signal(number)?;
        task.send_signal(signal, sender_info(ctx, signal, code::SI_TKILL))?;
    }
    Ok(0)
}

/// `tgkill`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EAGAIN`.
pub fn tgkill(ctx: &Ctx<'_>, tgid: i32, tid: i32, number: u32) -> SysResult {
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let own = ctx.process().pid() == tgid as u32;
    if own && ctx.task().tid() == tid as u32 {
        return send_to_thread(ctx, ctx.task(), number);
    }
    let task = if own { ctx.process().task(tid as u32) } else { find_in(tgid as u32, tid as u32) };
    send_to_thread(ctx, &*task.ok_or(Errno::ESRCH)?, number)
}

fn find_in(tgid: u32, tid: u32) -> Option<Arc<Task>> {
    process::find_process(tgid)?.task(tid)
}

/// `tkill`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EAGAIN`.
pub fn tkill(ctx: &Ctx<'_>, tid: i32, number: u32) -> SysResult {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let task = process::find_task(tid as u32).ok_or(Errno::ESRCH)?;
    send_to_thread(ctx, &task, number)
}

/// What a program may claim about a signal it queues: only to itself may it look like the kernel or `kill`.
///
/// # Errors
/// `EPERM`.
pub(crate) fn claim(ctx: &Ctx<'_>, to: u32, signal: Signal, mut info: SigInfo) -> Result<SigInfo, Errno> {
    if (info.code >= 0 || info.code == code::SI_TKILL) && to != ctx.process().pid() {
        return Err(Errno::EPERM);
    }
    info.signo = signal.number() as i32;
    Ok(info)
}

/// `rt_sigqueueinfo`; signal 0 asks whether one could be sent.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EPERM`, `EAGAIN`, `EFAULT`.
pub fn rt_sigqueueinfo(ctx: &Ctx<'_>, pid: u32, number: u32, info: UserPtr<SigInfo>) -> SysResult {
    let info = info.read()?;
    // What it claims is looked at before the number is.
    claim(ctx, pid, Signal::SIGHUP, info)?;
    let target = process::find_process(pid).ok_or(Errno::ESRCH)?;
    if number == 0 {
        return require_permission(ctx, &target, &target.cred(), number).map(|()| 0);
    }
    let signal = signal(number)?;
    require_permission(ctx, &target, &target.cred(), number)?;
    target.send_signal(signal, claim(ctx, pid, signal, info)?).map(|()| 0)
}

/// `rt_tgsigqueueinfo`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EPERM`, `EAGAIN`, `EFAULT`.
pub fn rt_tgsigqueueinfo(ctx: &Ctx<'_>, tgid: i32, tid: i32, number: u32, info: UserPtr<SigInfo>) -> SysResult {
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let (tgid, tid) = (tgid as u32, tid as u32);
    let info = info.read()?;
    claim(ctx, tgid, Signal::SIGHUP, info)?;
    let task = find_in(tgid, tid).ok_or(Errno::ESRCH)?;
    require_permission(ctx, task.process(), &task.cred(), number)?;
    if number == 0 {
        return Ok(0);
    }
    let signal = signal(number)?;
    task.send_signal(signal, claim(ctx, tgid, signal, info)?).map(|()| 0)
}
