//! Advisory locks: `flock`, record locks of a process, record locks of an open file description.
//!
//! The rules are in `vfs::locks`; here are the tables, one per family, and who counts as the owner. Of POSIX's record locks that is a table of
//! descriptors: the process's, unless a thread has one of its own, or processes have one in common.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use linux_abi::Errno;
use linux_abi::fs::Flock;
use vfs::file::OpenFile;
use vfs::locks::{FileId, Lock, LockKind, LockTable};
use vfs::types::Access;

use super::{dnotify, get};
use crate::ctx::{Ctx, SysResult};
use crate::fdtable::FdTable;
use crate::sys::ipc;
use crate::user_ptr::UserPtr;

const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

const LOCK_SH: u32 = 1;
const LOCK_EX: u32 = 2;
const LOCK_NB: u32 = 4;
const LOCK_UN: u32 = 8;

/// Record locks, of descriptor tables and of open file descriptions: they exclude each other.
static RECORDS: LockTable = LockTable::new();
/// `flock` locks: independent of record locks.
static WHOLE_FILES: LockTable = LockTable::new();

fn id(file: &OpenFile) -> FileId {
    let metadata = file.inode().metadata();
    (metadata.dev, metadata.ino)
}

/// An open file description as an owner: its address, which no table's number reaches.
fn description(file: &OpenFile) -> u64 {
    file.id() as u64
}

/// Has the locks that `table` holds for an open file description given up when its last descriptor is gone.
fn release_at_close(table: &'static LockTable, file: &OpenFile) {
    let id = id(file);
    file.on_close(Box::new(move |owner| table.unlock_all(id, owner as u64)));
}

/// Process `pid` has closed a descriptor of `table`: the table's record locks on the file end (POSIX), and the process hears no more of the message
/// queue or directory that it was.
pub(super) fn closed(pid: u32, table: &FdTable, file: &OpenFile) {
    ipc::queue_closed(pid, file);
    dnotify::closed(pid, file);
    if RECORDS.any() && file.content().is_some() {
        RECORDS.unlock_all(id(file), table.number());
    }
}

/// Many descriptors are gone at once.
pub(crate) fn closed_all(pid: u32, table: &FdTable, files: Vec<Arc<OpenFile>>) {
    files.iter().for_each(|file| closed(pid, table, file));
}

/// Nobody has `table` any more; a thread of process `pid` had it last.
pub(crate) fn close_table(pid: u32, table: &FdTable) {
    closed_all(pid, table, table.close_all());
}

/// A lock, for `/proc/locks`.
pub(crate) struct HeldLock {
    /// `FLOCK`, `POSIX` or `OFDLCK`.
    pub(crate) family: &'static str,
    /// `READ` or `WRITE`.
    pub(crate) kind: &'static str,
    /// Who took it.
    pub(crate) pid: i32,
    /// `st_dev` of the file.
    pub(crate) device: u64,
    /// Its inode number.
    pub(crate) inode: u64,
    /// First byte.
    pub(crate) start: u64,
    /// Last byte; none: the end of the file.
    pub(crate) last: Option<u64>,
}

/// All locks there are.
pub(crate) fn held_locks() -> Vec<HeldLock> {
    let mut all = Vec::new();
    for (table, family) in [(&WHOLE_FILES, "FLOCK"), (&RECORDS, "POSIX")] {
        table.visit(|(device, inode), lock| {
            let family = if lock.pid == -1 { "OFDLCK" } else { family };
            let kind = if lock.kind == LockKind::Shared { "READ" } else { "WRITE" };
            let last = (lock.last != u64::MAX).then_some(lock.last);
            all.push(HeldLock { family, kind, pid: lock.pid, device, inode, start: lock.start, last });
        });
    }
    all
}

/// `flock`.
///
/// # Errors
/// Those of `flock(2)`.
pub fn flock(ctx: &Ctx<'_>, fd: i32, operation: u32) -> SysResult {
    let file = get(ctx, fd)?;
    file.require_open()?;
    let owner = description(&file);
    let kind = match operation & !LOCK_NB {
        LOCK_SH => LockKind::Shared,
        LOCK_EX => LockKind::Exclusive,
        LOCK_UN => {
            WHOLE_FILES.unlock_all(id(&file), owner);
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL),
    };
    release_at_close(&WHOLE_FILES, &file);
    let wanted = Lock { owner, pid: ctx.process().pid() as i32, kind, start: 0, last: u64::MAX };
    if operation & LOCK_NB != 0 {
        WHOLE_FILES.try_lock(id(&file), wanted).map(|()| 0)
    } else {
        WHOLE_FILES.lock(id(&file), wanted).map(|()| 0)
    }
}

/// The locking commands of `fcntl`.
///
/// # Errors
/// Those of `fcntl(2)`; `EINVAL` for a command that is none of them.
pub(super) fn fcntl(ctx: &Ctx<'_>, fd: i32, file: &Arc<OpenFile>, command: u32, argument: usize) -> SysResult {
    let by_description = matches!(command, F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW);
    if !by_description && !matches!(command, F_GETLK | F_SETLK | F_SETLKW) {
        return Err(Errno::EINVAL);
    }
    file.require_open()?;
    let pointer = UserPtr::<Flock>::new(argument as u64);
    let flock = pointer.read()?;
    if by_description && flock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let owner = if by_description { description(file) } else { ctx.files().number() };
    let pid = if by_description { -1 } else { ctx.process().pid() as i32 };
    let (start, last) = range(file, &flock)?;
    let lock = |kind| Lock { owner, pid, kind, start, last };
    if by_description && command != F_OFD_GETLK && flock.kind != F_UNLCK {
        release_at_close(&RECORDS, file);
    }
    match (command, flock.kind) {
        (F_GETLK | F_OFD_GETLK, F_RDLCK) => report(file, &flock, &lock(LockKind::Shared), pointer),
        (F_GETLK | F_OFD_GETLK, F_WRLCK) => report(file, &flock, &lock(LockKind::Exclusive), pointer),
        (F_SETLK | F_OFD_SETLK | F_SETLKW | F_OFD_SETLKW, F_UNLCK) => {
            RECORDS.unlock(id(file), owner, start, last);
            Ok(0)
        }
        (F_SETLK, kind) => RECORDS.try_lock(id(file), lock(kind_of(file, kind)?)).and_then(|()| keep(ctx, fd, file, start..=last)),
        (F_SETLKW, kind) => {
            RECORDS.lock_unless_deadlock(id(file), lock(kind_of(file, kind)?)).and_then(|()| keep(ctx, fd, file, start..=last))
        }
        (F_OFD_SETLK, kind) => RECORDS.try_lock(id(file), lock(kind_of(file, kind)?)).map(|()| 0),
        (F_OFD_SETLKW, kind) => RECORDS.lock(id(file), lock(kind_of(file, kind)?)).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

/// A lock that was got is kept unless another thread has closed the descriptor meanwhile: nobody would end it then.
fn keep(ctx: &Ctx<'_>, fd: i32, file: &Arc<OpenFile>, range: RangeInclusive<u64>) -> SysResult {
    if ctx.files().get_of_other(fd).is_ok_and(|now| Arc::ptr_eq(&now, file)) {
        return Ok(0);
    }
    RECORDS.unlock(id(file), ctx.files().number(), *range.start(), *range.end());
    Err(Errno::EBADF)
}

fn kind_of(file: &OpenFile, kind: i16) -> Result<LockKind, Errno> {
    match kind {
        F_RDLCK => file.require(Access::READ).map(|()| LockKind::Shared),
        F_WRLCK => file.require(Access::WRITE).map(|()| LockKind::Exclusive),
        _ => Err(Errno::EINVAL),
    }
}

/// First and last byte of a `struct flock`; a negative length counts backwards from the start.
fn range(file: &OpenFile, flock: &Flock) -> Result<(u64, u64), Errno> {
    let base = match flock.whence {
        0 => 0,
        1 => file.position() as i64,
        2 => file.inode().metadata().size as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(flock.start).ok_or(Errno::EOVERFLOW)?;
    let (first, end) = match flock.len {
        0 => (start, None),
        len if len > 0 => (start, Some(start.checked_add(len).ok_or(Errno::EOVERFLOW)?)),
        len => (start.checked_add(len).ok_or(Errno::EINVAL)?, Some(start)),
    };
    let first = u64::try_from(first).map_err(|_| Errno::EINVAL)?;
    Ok((first, end.map_or(u64::MAX, |end| end as u64 - 1)))
}

/// `F_GETLK`: describes a lock in the way of `wanted`, or says that there is none.
fn report(file: &OpenFile, asked: &Flock, wanted: &Lock, out: UserPtr<Flock>) -> SysResult {
    let answer = match RECORDS.conflict(id(file), wanted) {
        None => Flock { kind: F_UNLCK, ..*asked },
        Some(found) => Flock {
            kind: if found.kind == LockKind::Shared { F_RDLCK } else { F_WRLCK },
            whence: 0,
            start: found.start as i64,
            len: if found.last == u64::MAX { 0 } else { (found.last - found.start + 1) as i64 },
            pid: found.pid,
            ..*asked
        },
    };
    out.write(&answer).map(|()| 0)
}
