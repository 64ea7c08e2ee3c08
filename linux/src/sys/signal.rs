//! Signal system calls.

use linux_abi::Errno;
use linux_abi::raw::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK};
use linux_abi::signal::{
    MINSIGSTKSZ, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, SigAction, SigInfo, SigSet, SigStack, Signal, code,
};
use linux_abi::time::Timespec;

use crate::ctx::{Ctx, SysResult};
use crate::process::{self, Process, Task};
use crate::signal::{deliver, frame};
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
    SigInfo::from_process(signal, code, ctx.process().pid(), ctx.process().ids().ruid)
}

/// Sends `number` to `process`; 0 only asks whether that would be possible.
fn send_to_process(process: &Process, number: u32, info: impl FnOnce(Signal) -> SigInfo) -> SysResult {
    if number != 0 {
        let signal = signal(number)?;
        process.send_signal(signal, info(signal))?;
    }
    Ok(0)
}

/// `kill`: a process, a process group, or all.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EAGAIN`.
pub fn kill(ctx: &Ctx<'_>, pid: i32, number: u32) -> SysResult {
    if number != 0 {
        signal(number)?;
    }
    let info = |s| sender_info(ctx, s, code::SI_USER);
    if pid > 0 {
        let target = process::find_process(pid as u32).ok_or(Errno::ESRCH)?;
        return send_to_process(&target, number, info);
    }
    let group = if pid == 0 { ctx.process().process_group() } else { pid.unsigned_abs() };
    let mut result = Err(Errno::ESRCH);
    for target in process::all_processes() {
        // -1 means everyone but the first process and the caller.
        let chosen = if pid == -1 { target.pid() != 1 && target.pid() != ctx.process().pid() } else { target.process_group() == group };
        if chosen {
            result = send_to_process(&target, number, info);
        }
    }
    result
}

fn send_to_thread(ctx: &Ctx<'_>, task: &Task, number: u32) -> SysResult {
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
    let task = if own { ctx.process().task(tid as u32) } else { find_in(tgid as u32, tid as u32) };
    send_to_thread(ctx, &*task.ok_or(Errno::ESRCH)?, number)
}

fn find_in(tgid: u32, tid: u32) -> Option<alloc::sync::Arc<Task>> {
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
fn queued_info(ctx: &Ctx<'_>, to: u32, signal: Signal, info: UserPtr<SigInfo>) -> Result<SigInfo, Errno> {
    let mut info = info.read()?;
    if (info.code >= 0 || info.code == code::SI_TKILL) && to != ctx.process().pid() {
        return Err(Errno::EPERM);
    }
    info.signo = signal.number() as i32;
    Ok(info)
}

/// `rt_sigqueueinfo`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EPERM`, `EAGAIN`, `EFAULT`.
pub fn rt_sigqueueinfo(ctx: &Ctx<'_>, pid: u32, number: u32, info: UserPtr<SigInfo>) -> SysResult {
    let target = process::find_process(pid).ok_or(Errno::ESRCH)?;
    let signal = signal(number)?;
    target.send_signal(signal, queued_info(ctx, pid, signal, info)?).map(|()| 0)
}

/// `rt_tgsigqueueinfo`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EPERM`, `EAGAIN`, `EFAULT`.
pub fn rt_tgsigqueueinfo(ctx: &Ctx<'_>, tgid: u32, tid: u32, number: u32, info: UserPtr<SigInfo>) -> SysResult {
    let task = find_in(tgid, tid).ok_or(Errno::ESRCH)?;
    let signal = signal(number)?;
    task.send_signal(signal, queued_info(ctx, tgid, signal, info)?).map(|()| 0)
}
