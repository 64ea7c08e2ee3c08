//! Descriptors of processes: pidfd_open, pidfd_send_signal, pidfd_getfd, and what `clone` and `waitid` need of them.

use alloc::sync::Arc;

use linux_abi::Errno;
use linux_abi::raw;
use linux_abi::signal::{SigInfo, Signal, code};
use sync::WaitQueue;
use vfs::anon::open_anonymous;
use vfs::io::{Sink, Source};
use vfs::{Events, File, OpenFile, OpenFlags};

use crate::ctx::{Ctx, SysResult};
use crate::fdtable::CloseOnExec;
use crate::process::{self, Process};
use crate::procfs;
use crate::sys::file::{limit, new_ino};
use crate::sys::signal;
use crate::user_ptr::UserPtr;

/// An open process. It keeps the process's number from meaning another one: who is gone is not found by it.
pub(crate) struct PidFd {
    process: Arc<Process>,
}

impl PidFd {
    /// The process; `None` once its parent has taken the exit status.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        still_there(&self.process)
    }
}

fn still_there(process: &Arc<Process>) -> Option<Arc<Process>> {
    process::find_process(process.pid()).filter(|found| Arc::ptr_eq(found, process))
}

impl File for PidFd {
    fn read(&self, _position: &mut u64, _sink: &mut dyn Sink, _flags: OpenFlags) -> SysResult {
        Err(Errno::EINVAL)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> SysResult {
        Err(Errno::EINVAL)
    }

    /// Readable when the process has ended, hung up when nothing is left of it.
    fn poll(&self) -> Events {
        let mut events = Events::empty();
        events.set(Events::READABLE, self.process.family.has_ended());
        events.set(Events::HUP, self.process().is_none());
        events
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.process.family.end);
    }
}

/// Opens `process` under a new descriptor.
///
/// # Errors
/// `EMFILE`.
pub(crate) fn install(ctx: &Ctx<'_>, process: Arc<Process>, nonblocking: bool) -> Result<i32, Errno> {
    let flags = if nonblocking { OpenFlags::RDWR | OpenFlags::NONBLOCK } else { OpenFlags::RDWR };
    let file = open_anonymous(Arc::new(PidFd { process }), "anon_inode:[pidfd]", new_ino(), flags);
    ctx.files().insert(limit(ctx), file, CloseOnExec::Yes)
}

fn with<R>(ctx: &Ctx<'_>, fd: i32, f: impl FnOnce(&OpenFile, &PidFd) -> Result<R, Errno>) -> Result<R, Errno> {
    let file = ctx.files().get(fd)?;
    f(&file, file.downcast::<PidFd>().ok_or(Errno::EBADF)?)
}

/// The number of the process that `fd` stands for, whether it still lives or not.
///
/// # Errors
/// `EBADF`.
pub(crate) fn process_of(ctx: &Ctx<'_>, fd: i32) -> Result<u32, Errno> {
    with(ctx, fd, |_, pidfd| Ok(pidfd.process.pid()))
}

/// Whether waiting for `fd` would not block.
pub(crate) fn is_nonblocking(ctx: &Ctx<'_>, fd: i32) -> bool {
    with(ctx, fd, |file, _| Ok(file.flags().nonblocking())).unwrap_or(false)
}

/// `pidfd_open`.
///
/// # Errors
/// `EINVAL` for unknown flags, numbers that cannot be, and threads; `ESRCH`, `EMFILE`.
pub fn pidfd_open(ctx: &Ctx<'_>, pid: i32, flags: u32) -> SysResult {
    if flags & !raw::O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let Some(process) = process::find_process(pid as u32) else {
        return Err(if process::find_task(pid as u32).is_some() { Errno::EINVAL } else { Errno::ESRCH });
    };
    install(ctx, process, flags & raw::O_NONBLOCK != 0).map(|fd| fd as usize)
}

/// The process that `fd` stands for, which may also be a process's directory in /proc.
fn target(ctx: &Ctx<'_>, fd: i32) -> Result<Arc<Process>, Errno> {
    let file = ctx.files().get(fd)?;
    let process = match file.downcast::<PidFd>() {
        Some(pidfd) => &pidfd.process,
        None => procfs::process_of(&file).ok_or(Errno::EBADF)?,
    };
    still_there(process).ok_or(Errno::ESRCH)
}

/// `pidfd_send_signal`.
///
/// # Errors
/// `EBADF`, `EINVAL`, `ESRCH`, `EPERM`, `EFAULT`, `EAGAIN`.
pub fn pidfd_send_signal(ctx: &Ctx<'_>, fd: i32, number: u32, info: UserPtr<SigInfo>, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(ctx, fd)?;
    let claimed = match info.non_null() {
        Some(info) => Some(info.read()?),
        None => None,
    };
    let make = |sent: Signal| match claimed {
        None => Ok(SigInfo::from_process(sent, code::SI_USER, ctx.process().pid(), ctx.cred().ruid)),
        Some(info) if info.signo != sent.number() as i32 => Err(Errno::EINVAL),
        Some(info) => signal::claim(ctx, target.pid(), sent, info),
    };
    signal::require_permission(ctx, &target, &target.cred(), number)?;
    match number {
        0 => Ok(0),
        _ => {
            let sent = Signal::new(number).ok_or(Errno::EINVAL)?;
            target.send_signal(sent, make(sent)?).map(|()| 0)
        }
    }
}

/// `pidfd_getfd`.
///
/// # Errors
/// `EBADF`, `EINVAL`, `ESRCH`, `EPERM`, `EMFILE`.
pub fn pidfd_getfd(ctx: &Ctx<'_>, fd: i32, wanted: i32, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let target = with(ctx, fd, |_, pidfd| pidfd.process().filter(|p| !p.family.has_ended()).ok_or(Errno::ESRCH))?;
    let (own, other) = (ctx.cred(), target.cred());
    if own.euid != 0 && own.euid != other.ruid {
        return Err(Errno::EPERM);
    }
    let files = target.task(target.pid()).and_then(|task| task.files.get()).ok_or(Errno::ESRCH)?;
    let file = files.get_of_other(wanted)?;
    ctx.files().insert(limit(ctx), file, CloseOnExec::Yes).map(|fd| fd as usize)
}
