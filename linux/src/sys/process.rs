//! Processes: execve, wait, groups and sessions.

use linux_abi::Errno;
use linux_abi::process::Rusage;

use crate::ctx::{Ctx, SysResult};
use crate::process;
use crate::user_ptr::UserPtr;

/// `getpid`.
///
/// # Errors
/// None.
pub fn getpid(ctx: &Ctx<'_>) -> SysResult {
    Ok(ctx.process().pid() as usize)
}

/// `getppid`.
///
/// # Errors
/// None.
pub fn getppid(ctx: &Ctx<'_>) -> SysResult {
    Ok(ctx.process().parent_pid() as usize)
}

fn target(ctx: &Ctx<'_>, pid: u32) -> Result<alloc::sync::Arc<process::Process>, Errno> {
    if pid == 0 { Ok(ctx.task().process_ref().clone()) } else { process::find_process(pid).ok_or(Errno::ESRCH) }
}

/// `getpgid`.
///
/// # Errors
/// `ESRCH`.
pub fn getpgid(ctx: &Ctx<'_>, pid: u32) -> SysResult {
    Ok(target(ctx, pid)?.process_group() as usize)
}

/// `getpgrp`.
///
/// # Errors
/// None.
pub fn getpgrp(ctx: &Ctx<'_>) -> SysResult {
    Ok(ctx.process().process_group() as usize)
}

/// `setpgid`.
///
/// # Errors
/// `EINVAL`, `ESRCH`; `EPERM` for a session leader.
pub fn setpgid(ctx: &Ctx<'_>, pid: u32, group: i32) -> SysResult {
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(ctx, pid)?;
    if target.session() == target.pid() {
        return Err(Errno::EPERM);
    }
    target.set_process_group(if group == 0 { target.pid() } else { group as u32 });
    Ok(0)
}

/// `getsid`.
///
/// # Errors
/// `ESRCH`.
pub fn getsid(ctx: &Ctx<'_>, pid: u32) -> SysResult {
    Ok(target(ctx, pid)?.session() as usize)
}

/// `setsid`.
///
/// # Errors
/// `EPERM` for the leader of a process group.
pub fn setsid(ctx: &Ctx<'_>) -> SysResult {
    let process = ctx.process();
    if process.process_group() == process.pid() {
        return Err(Errno::EPERM);
    }
    process.set_process_group(process.pid());
    process.set_session(process.pid());
    Ok(process.pid() as usize)
}

/// `wait4`: there are no children yet.
///
/// # Errors
/// `ECHILD` always.
pub fn wait4(_ctx: &Ctx<'_>, _pid: i32, _status: UserPtr<i32>, _options: u32, _usage: UserPtr<Rusage>) -> SysResult {
    Err(Errno::ECHILD)
}

/// `waitid`: there are no children yet.
///
/// # Errors
/// `ECHILD` always.
pub fn waitid(_ctx: &Ctx<'_>, _kind: u32, _id: u32, _info: u64, _options: u32, _usage: u64) -> SysResult {
    Err(Errno::ECHILD)
}

/// `execve`: not from a running program yet.
///
/// # Errors
/// `ENOSYS`.
pub fn execve(_ctx: &Ctx<'_>, _path: UserPtr<u8>, _argv: UserPtr<u64>, _envp: UserPtr<u64>) -> SysResult {
    log::debug!("execve by a running program is not supported yet: ENOSYS");
    Err(Errno::ENOSYS)
}
