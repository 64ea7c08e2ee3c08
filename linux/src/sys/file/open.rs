//! Descriptors: making, duplicating, closing and configuring them.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_abi::Errno;
use linux_abi::fs::OpenHow;
use linux_abi::raw;
use vfs::file::{Nonblocking, OpenFile};
use vfs::io::IoctlArg;
use vfs::pipe::{self, PipeEnd};
use vfs::types::{Access, FileKind, OpenFlags};
use vfs::walk::Resolve;

use super::{AT_FDCWD, dnotify, get, now, only, owner, with_base};
use crate::ctx::{Ctx, SysResult};
use crate::fdtable::{CloseOnExec, FdTable};
use crate::pty;
use crate::user_ptr::{self, StringBuffer, UserMemory, UserPtr};

/// Size of `struct open_how` as first published.
const OPEN_HOW_SIZE: usize = 24;
const PAGE_SIZE: usize = 4096;
const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

const F_DUPFD: u32 = 0;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const F_SETOWN: u32 = 8;
const F_GETOWN: u32 = 9;
const F_SETSIG: u32 = 10;
const F_GETSIG: u32 = 11;
const F_SETOWN_EX: u32 = 15;
const F_GETOWN_EX: u32 = 16;
const F_NOTIFY: u32 = 1026;
const F_DUPFD_QUERY: u32 = 1027;
const F_DUPFD_CLOEXEC: u32 = 1030;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;
const F_GET_RW_HINT: u32 = 1035;
const F_SET_RW_HINT: u32 = 1036;
const FD_CLOEXEC: usize = 1;

const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIONBIO: u32 = 0x5421;
const FIONREAD: u32 = 0x541b;
/// Opens the slave side of the pseudo terminal whose master this is.
const TIOCGPTPEER: u32 = 0x5441;
const FIOASYNC: u32 = 0x5452;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;

static NEXT_INO: AtomicU64 = AtomicU64::new(1);

/// A number for an inode without a file system: pipes and the like.
pub(crate) fn new_ino() -> u64 {
    NEXT_INO.fetch_add(1, Ordering::Relaxed)
}

/// How many descriptors the caller may have.
pub(crate) fn limit(ctx: &Ctx<'_>) -> usize {
    ctx.process().limit(raw::RLIMIT_NOFILE).map_or(0, |limit| limit.cur as usize)
}

/// Gives `file` the lowest free descriptor of the caller.
///
/// # Errors
/// `EMFILE`, `ENOMEM`.
pub(crate) fn install(ctx: &Ctx<'_>, file: Arc<OpenFile>, flags: OpenFlags) -> SysResult {
    let close = CloseOnExec::when(flags.contains(OpenFlags::CLOEXEC));
    ctx.files().insert(limit(ctx), file, close).map(|fd| fd as usize)
}

fn open_at(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, flags: OpenFlags, mode: u32, resolve: Resolve) -> SysResult {
    let mut buffer = StringBuffer::new();
    let path = path.read_path_into(&mut buffer)?;
    let mode = (mode & 0o7777) as u16;
    let absolute = path.first() == Some(&b'/') && !resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT);
    let file = with_base(ctx, dirfd, absolute, |context, start| context.open(start, &path, flags, mode, resolve))?;
    install(ctx, file, flags)
}

/// `open`.
///
/// # Errors
/// Those of `open(2)`.
pub fn open(ctx: &Ctx<'_>, path: UserPtr<u8>, flags: u32, mode: u32) -> SysResult {
    open_at(ctx, AT_FDCWD, path, OpenFlags::from_bits_retain(flags), mode, Resolve::empty())
}

/// `openat`.
///
/// # Errors
/// Those of `open(2)`.
pub fn openat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, flags: u32, mode: u32) -> SysResult {
    open_at(ctx, dirfd, path, OpenFlags::from_bits_retain(flags), mode, Resolve::empty())
}

/// `creat`.
///
/// # Errors
/// Those of `open(2)`.
pub fn creat(ctx: &Ctx<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    open_at(ctx, AT_FDCWD, path, flags, mode, Resolve::empty())
}

/// `openat2`.
///
/// # Errors
/// Those of `openat2(2)`.
pub fn openat2(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, how: UserPtr<OpenHow>, size: usize) -> SysResult {
    if size < OPEN_HOW_SIZE {
        return Err(Errno::EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let mut newer = alloc::vec![0; size - OPEN_HOW_SIZE];
    user_ptr::copy_in(how.address().wrapping_add(OPEN_HOW_SIZE as u64), &mut newer)?;
    if newer.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let how = how.read()?;
    let flags = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    let flags = OpenFlags::from_bits_retain(flags);
    let resolve = Resolve::from_bits(how.resolve).ok_or(Errno::EINVAL)?;
    let makes_file = flags.contains(OpenFlags::CREAT) || flags.contains(OpenFlags::TMPFILE_BIT);
    if how.mode & !0o7777 != 0 || (how.mode != 0 && !makes_file) || resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    open_at(ctx, dirfd, path, flags, how.mode as u32, resolve)
}

/// `close`.
///
/// # Errors
/// `EBADF`.
pub fn close(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    let file = ctx.files().remove(fd)?;
    super::locks::closed(ctx.process().pid(), ctx.files(), &file);
    drop(file);
    Ok(0)
}

/// `close_range`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`.
pub fn close_range(ctx: &Ctx<'_>, first: u32, last: u32, flags: u32) -> SysResult {
    only(flags, CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)?;
    if first > last {
        return Err(Errno::EINVAL);
    }
    let (first, last) = (first as usize, last as usize);
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        own_files(ctx)?;
    }
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        ctx.files().mark_range(first, last);
    } else {
        super::locks::closed_all(ctx.process().pid(), ctx.files(), ctx.files().close_range(first, last));
    }
    Ok(0)
}

/// Gives the calling thread descriptors of its own, if it has them in common with others.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn own_files(ctx: &Ctx<'_>) -> Result<(), Errno> {
    if let Some(files) = ctx.task().files.part(FdTable::duplicate)? {
        super::locks::close_table(ctx.process().pid(), &files);
    }
    Ok(())
}

/// `dup`.
///
/// # Errors
/// `EBADF`, `EMFILE`.
pub fn dup(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    install(ctx, get(ctx, fd)?, OpenFlags::empty())
}

/// `dup2`.
///
/// # Errors
/// `EBADF`.
pub fn dup2(ctx: &Ctx<'_>, old: i32, new: i32) -> SysResult {
    if old == new {
        return get(ctx, old).map(|_| new as usize);
    }
    dup_to(ctx, old, new, CloseOnExec::No)
}

/// `dup3`.
///
/// # Errors
/// `EBADF`, `EINVAL`.
pub fn dup3(ctx: &Ctx<'_>, old: i32, new: i32, flags: u32) -> SysResult {
    only(flags, OpenFlags::CLOEXEC.bits())?;
    if old == new {
        return Err(Errno::EINVAL);
    }
    dup_to(ctx, old, new, CloseOnExec::when(flags != 0))
}

fn dup_to(ctx: &Ctx<'_>, old: i32, new: i32, close: CloseOnExec) -> SysResult {
    let file = get(ctx, old)?;
    let replaced = ctx.files().replace(new, limit(ctx), file, close)?;
    if let Some(replaced) = replaced {
        super::locks::closed(ctx.process().pid(), ctx.files(), &replaced);
    }
    Ok(new as usize)
}

/// `fcntl`.
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn fcntl(ctx: &Ctx<'_>, fd: i32, command: u32, argument: usize) -> SysResult {
    let file = get(ctx, fd)?;
    let files = ctx.files();
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let from = usize::try_from(argument as i32).map_err(|_| Errno::EINVAL)?;
            let close = CloseOnExec::when(command == F_DUPFD_CLOEXEC);
            let limit = limit(ctx);
            if from >= limit {
                return Err(Errno::EINVAL);
            }
            files.insert_from(from, limit, file, close).map(|fd| fd as usize)
        }
        F_GETFD => files.descriptor_flag(fd).map(|close| usize::from(close == CloseOnExec::Yes)),
        F_SETFD => files.set_descriptor_flag(fd, CloseOnExec::when(argument & FD_CLOEXEC != 0)).map(|()| 0),
        F_GETFL if file.flags().contains(OpenFlags::PATH) => Ok(file.flags().bits() as usize),
        F_GETFL => Ok((file.flags() | OpenFlags::LARGEFILE).bits() as usize),
        F_SETFL => {
            file.require_open()?;
            set_status(&file, fd, OpenFlags::from_bits_retain(argument as u32))
        }
        F_DUPFD_QUERY => get(ctx, argument as i32).map(|other| usize::from(Arc::ptr_eq(&file, &other))),
        F_GETOWN => Ok(owner::owner(&file) as isize as usize),
        F_SETOWN => owner::set_owner(&file, argument as i32).map(|()| 0),
        F_GETOWN_EX => owner::owner_ex(&file, UserPtr::new(argument as u64)),
        F_SETOWN_EX => owner::set_owner_ex(&file, UserPtr::new(argument as u64)),
        F_GETSIG => Ok(owner::signal(&file) as usize),
        F_SETSIG => owner::set_signal(&file, argument).map(|()| 0),
        F_NOTIFY => dnotify::notify(ctx, &file, fd, argument),
        F_GET_RW_HINT => UserPtr::<u64>::new(argument as u64).write(&file.inode().write_hint()?).map(|()| 0),
        F_SET_RW_HINT => file.inode().set_write_hint(UserPtr::<u64>::new(argument as u64).read()?).map(|()| 0),
        F_SETPIPE_SZ => pipe_of(&file)?.set_capacity(argument),
        F_GETPIPE_SZ => Ok(pipe_of(&file)?.capacity()),
        F_ADD_SEALS => {
            file.require(Access::WRITE).map_err(|_| Errno::EPERM)?;
            file.inode().add_seals(argument as u32).map(|()| 0)
        }
        F_GET_SEALS => file.inode().seals().map(|seals| seals as usize),
        _ => super::locks::fcntl(ctx, fd, &file, command, argument),
    }
}

/// `F_SETFL`.
fn set_status(file: &Arc<OpenFile>, fd: i32, new: OpenFlags) -> SysResult {
    let old = file.flags();
    file.set_status(new);
    if (old ^ new).contains(OpenFlags::ASYNC) {
        owner::async_changed(file, fd);
    }
    Ok(0)
}

fn pipe_of(file: &OpenFile) -> Result<&Arc<pipe::Pipe>, Errno> {
    file.downcast::<PipeEnd>().map(PipeEnd::pipe).ok_or(Errno::EBADF)
}

/// `ioctl`.
///
/// # Errors
/// `EBADF`, `ENOTTY`, and what the file says.
pub fn ioctl(ctx: &Ctx<'_>, fd: i32, request: u32, argument: usize) -> SysResult {
    let file = get(ctx, fd)?;
    file.require_open()?;
    let files = ctx.files();
    let argument = IoctlArg::new(argument, &UserMemory);
    match request {
        FIOCLEX => files.set_descriptor_flag(fd, CloseOnExec::Yes).map(|()| 0),
        FIONCLEX => files.set_descriptor_flag(fd, CloseOnExec::No).map(|()| 0),
        FIONBIO => {
            file.set_nonblocking(if argument.load_i32()? != 0 { Nonblocking::On } else { Nonblocking::Off });
            Ok(0)
        }
        TIOCGPTPEER => pty::open_peer(ctx, &file, argument.value as u32),
        FIOASYNC => {
            let wanted = if argument.load_i32()? != 0 { OpenFlags::ASYNC } else { OpenFlags::empty() };
            set_status(&file, fd, (file.flags() - OpenFlags::ASYNC) | wanted)
        }
        FIOSETOWN | SIOCSPGRP if file.inode().kind() == FileKind::Socket => {
            owner::set_owner(&file, argument.load_i32()?).map(|()| 0)
        }
        FIOGETOWN | SIOCGPGRP if file.inode().kind() == FileKind::Socket => {
            argument.store_i32(owner::owner(&file)).map(|()| 0)
        }
        FIONREAD if file.inode().kind() == FileKind::Regular => {
            let left = file.inode().metadata().size.saturating_sub(file.position());
            argument.store_i32(left.min(i32::MAX as u64) as i32).map(|()| 0)
        }
        _ => file.file().ioctl(request, argument),
    }
}

/// `pipe2`.
///
/// # Errors
/// `EINVAL`, `EMFILE`, `EFAULT`.
pub fn pipe2(ctx: &Ctx<'_>, ends: UserPtr<[i32; 2]>, flags: u32) -> SysResult {
    let flags = OpenFlags::from_bits_retain(flags);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = pipe::create(new_ino(), now, flags);
    install_pair(ctx, [reader, writer], flags, ends)
}

/// Gives two files descriptors and stores these; neither stays open if that fails.
///
/// # Errors
/// `EMFILE`, `ENOMEM`, `EFAULT`.
pub(crate) fn install_pair(
    ctx: &Ctx<'_>,
    [first, second]: [Arc<OpenFile>; 2],
    flags: OpenFlags,
    ends: UserPtr<[i32; 2]>,
) -> SysResult {
    let a = install(ctx, first, flags)? as i32;
    let outcome = install(ctx, second, flags).and_then(|b| {
        let written = ends.write(&[a, b as i32]);
        written.inspect_err(|_| drop(ctx.files().remove(b as i32)))
    });
    match outcome {
        Ok(()) => Ok(0),
        Err(error) => {
            drop(ctx.files().remove(a));
            Err(error)
        }
    }
}

/// `pipe`.
///
/// # Errors
/// As [`pipe2`].
pub fn pipe(ctx: &Ctx<'_>, ends: UserPtr<[i32; 2]>) -> SysResult {
    pipe2(ctx, ends, 0)
}
