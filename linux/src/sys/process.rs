//! Processes: execve, wait, groups and sessions.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use kernel::thread::{self, Begin, ProgramThread, spawn_program};
use linux_abi::Errno;
use linux_abi::process::Rusage;
use linux_abi::raw::{RLIMIT_AS, RLIMIT_STACK};
use linux_abi::signal::{SigInfo, Signal};
use vfs::Location;
use vfs::ops::Context;

use crate::ctx::{Ctx, SysResult};
use crate::entry::Personality;
use crate::exec::{self, Loaded, Request, SetId};
use crate::exit;
use crate::family::{self, WaitOptions, Which};
use crate::jobs;
use crate::process::{self, ExitStatus, Ids, OwnId, Task};
use crate::signal::TaskSignals;
use crate::sys::{file, info, pidfd};
use crate::user_ptr::UserPtr;

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;

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
/// `EINVAL`, `ESRCH`, `EPERM`, `EACCES`.
pub fn setpgid(ctx: &Ctx<'_>, pid: u32, group: i32) -> SysResult {
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    jobs::set_group(ctx.process(), pid, group).map(|()| 0)
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
    jobs::new_session(ctx.process()).map(|session| session as usize)
}

/// `wait4`: waits for something to happen to a child, and takes the exit status of one that has ended.
///
/// # Errors
/// `ECHILD`, `EINTR`, `EINVAL`, `EFAULT`; `ESRCH` for a process group that cannot be.
pub fn wait4(ctx: &Ctx<'_>, pid: i32, status: UserPtr<i32>, options: u32, usage: UserPtr<Rusage>) -> SysResult {
    let known = WaitOptions::all().difference(WaitOptions::EXITED | WaitOptions::NOWAIT);
    let options = WaitOptions::from_bits(options).filter(|&options| known.contains(options)).ok_or(Errno::EINVAL)?;
    let which = match pid {
        -1 => Which::Any,
        0 => Which::Group(ctx.process().process_group()),
        1.. => Which::Child(pid as u32),
        i32::MIN => return Err(Errno::ESRCH),
        _ => Which::Group(pid.unsigned_abs()),
    };
    let Some(child) = family::wait(ctx.task(), which, options | WaitOptions::EXITED)? else { return Ok(0) };
    status.write_optional(&child.wait_status())?;
    usage.write_optional(&info::rusage(child.usage))?;
    Ok(child.pid as usize)
}

/// Whom `waitid` is about.
fn waitid_target(ctx: &Ctx<'_>, kind: u32, id: i32) -> Result<Which, Errno> {
    const P_ALL: u32 = 0;
    const P_PID: u32 = 1;
    const P_PGID: u32 = 2;
    const P_PIDFD: u32 = 3;
    match (kind, id) {
        (P_ALL, _) => Ok(Which::Any),
        (P_PID, 1..) => Ok(Which::Child(id as u32)),
        (P_PGID, 0) => Ok(Which::Group(ctx.process().process_group())),
        (P_PGID, 1..) => Ok(Which::Group(id as u32)),
        (P_PIDFD, 0..) => Ok(Which::Child(pidfd::process_of(ctx, id)?)),
        _ => Err(Errno::EINVAL),
    }
}

/// `waitid`.
///
/// # Errors
/// As `wait4`; `EBADF`; `EAGAIN` for a process whose descriptor is nonblocking.
pub fn waitid(ctx: &Ctx<'_>, kind: u32, id: i32, info: UserPtr<SigInfo>, options: u32, usage: UserPtr<Rusage>) -> SysResult {
    let options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return Err(Errno::EINVAL);
    }
    let which = waitid_target(ctx, kind, id)?;
    let nonblocking = kind == 3 && pidfd::is_nonblocking(ctx, id);
    let hurry = if nonblocking { WaitOptions::NOHANG } else { WaitOptions::empty() };
    let found = family::wait(ctx.task(), which, options | hurry)?;
    let Some(child) = found else {
        if nonblocking && !options.contains(WaitOptions::NOHANG) {
            return Err(Errno::EAGAIN);
        }
        info.write_optional(&SigInfo::zeroed())?;
        return Ok(0);
    };
    info.write_optional(&child.sig_info(Signal::SIGCHLD))?;
    usage.write_optional(&info::rusage(child.usage))?;
    Ok(0)
}

/// Longest single argument, and most pointers in an array.
const MAX_STRING: usize = 128 << 10;
const MAX_POINTERS: usize = 1 << 20;

/// Reads a null-terminated array of strings; a null array is an empty one, as on Linux.
fn read_strings(array: UserPtr<u64>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if array.is_null() {
        return Ok(strings);
    }
    for index in 0..MAX_POINTERS {
        match array.add(index).read()? {
            0 => return Ok(strings),
            string => strings.push(UserPtr::<u8>::new(string).read_string(MAX_STRING, Errno::E2BIG)?),
        }
    }
    Err(Errno::E2BIG)
}

/// `execve`.
///
/// # Errors
/// Those of execve(2).
pub fn execve(ctx: &Ctx<'_>, path: UserPtr<u8>, argv: UserPtr<u64>, envp: UserPtr<u64>) -> SysResult {
    let outcome = execute_at(ctx, AT_FDCWD, path.read_path()?, argv, envp, 0)?;
    leave_program(ctx, outcome)
}

/// `execveat`.
///
/// # Errors
/// Those of execveat(2).
pub fn execveat(
    ctx: &Ctx<'_>,
    directory: i32,
    path: UserPtr<u8>,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
    flags: u32,
) -> SysResult {
    let path = path.read_path()?;
    let outcome = execute_at(ctx, directory, path, argv, envp, flags)?;
    leave_program(ctx, outcome)
}

/// Whether the new program runs, when there is no way back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Runs,
    /// The process is being ended, or there was no memory any more.
    CannotRun,
}

/// The last of the thread that was in `execve`. It holds no reference any more.
fn leave_program(ctx: &Ctx<'_>, outcome: Outcome) -> ! {
    match outcome {
        Outcome::Runs => thread::exit(),
        Outcome::CannotRun => exit::end_process(ctx.task(), ExitStatus::Signalled(Signal::SIGKILL)),
    }
}

fn execute_at(
    ctx: &Ctx<'_>,
    directory: i32,
    path: Vec<u8>,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
    flags: u32,
) -> Result<Outcome, Errno> {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let start = match directory {
        AT_FDCWD => ctx.fs().cwd.read().clone(),
        fd => ctx.files().get(fd)?.location().clone(),
    };
    if !path.is_empty() {
        return replace_program(ctx, &start, path, None, argv, envp);
    }
    if flags & AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT);
    }
    replace_program(ctx, &start.clone(), format!("/dev/fd/{directory}").into_bytes(), Some(start), argv, envp)
}

/// Replaces the calling process's program. When this returns `Ok`, the caller has nothing left to do but end, whatever became of the new program.
fn replace_program(
    ctx: &Ctx<'_>,
    start: &Location,
    path: Vec<u8>,
    file: Option<Location>,
    argv: UserPtr<u64>,
    envp: UserPtr<u64>,
) -> Result<Outcome, Errno> {
    let (process, cred) = (ctx.process(), ctx.cred());
    ctx.task().check_place()?;
    let limit = |resource| process.limit(resource).map_or(u64::MAX, |limit| limit.cur);
    let mut argv = read_strings(argv)?;
    if argv.is_empty() {
        // As Linux since 5.18: a program may rely on argv[0].
        argv.push(Vec::new());
    }
    let request = Request {
        path,
        file,
        argv,
        envp: read_strings(envp)?,
        ids: Ids::clone(&cred),
        set_id: set_id_for(ctx),
        stack_limit: limit(RLIMIT_STACK),
        size_limit: limit(RLIMIT_AS),
        data_limit: process.data_limit(),
    };
    let view = ctx.view();
    let loaded = exec::load(&Context { viewer: view.viewer(), umask: 0 }, start, request).map_err(|e| e.errno())?;
    drop(view);
    process.begin_exec(ctx.task())?;
    // No way back from here.
    exit::leave_memory(ctx.task());
    let old_space = process.space();
    let started = start_program(ctx, loaded);
    exit::leave_space(process, old_space);
    Ok(if started.is_ok() { Outcome::Runs } else { Outcome::CannotRun })
}

/// What set-id bits do for a program that the caller executes. Other processes that could change the directories under its feet (`CLONE_FS`) take their
/// effect away, as `PR_SET_NO_NEW_PRIVS` does.
fn set_id_for(ctx: &Ctx<'_>) -> SetId {
    let task = ctx.task();
    let own = task.fs.address();
    let holders = ctx.process().tasks().iter().filter(|task| task.fs.address() == own).count();
    let is_watched = ctx.fs().holders() > holders && task.own_id(OwnId::Euid) != 0;
    if is_watched || task.no_new_privileges.load(Ordering::Relaxed) { SetId::Ignored } else { SetId::Lends }
}

/// The new program takes over the process, under the process's own number.
fn start_program(ctx: &Ctx<'_>, loaded: Loaded) -> Result<(), Errno> {
    let process = ctx.task().process_ref();
    process.signals.own();
    file::own_files(ctx)?;
    file::closed_all(process.pid(), ctx.files(), ctx.files().close_on_exec());
    process.signals.reset_handlers();
    process.timers.delete_all();
    process.membarrier.store(0, Ordering::Relaxed);
    process.set_space(loaded.space.clone());
    *process.executable.write() = loaded.executable;
    let name: Arc<str> = Arc::from(&*String::from_utf8_lossy(&loaded.name[..loaded.name.len().min(15)]));
    let signals = TaskSignals::new(ctx.task().signals.mask());
    let cred = process.finish_exec(ctx.task(), loaded.ids, loaded.rights);
    let task = Task::new(process.pid(), process.clone(), name.clone(), signals, ctx.task().hand_on(cred));
    task.keep_sched(ctx.task());
    let program = ProgramThread {
        name,
        frame: &loaded.frame,
        begin: Begin::Program,
        fs_base: 0,
        space: loaded.space,
        policy: task.sched().policy(),
        personality: Box::new(Personality(task.clone())),
        wants_rseq: false,
    };
    process.family.pass_children(ctx.task().tid(), process.pid());
    // The new thread starts with its maker's control words, and a new program with the initial ones.
    arch_x86_64::fpu::reset_for_exec();
    // If it never begins, what it was handed ends here.
    process.replace_task(ctx.task(), &task, || spawn_program(program)).inspect_err(|_| exit::leave_belongings(&task))
}
