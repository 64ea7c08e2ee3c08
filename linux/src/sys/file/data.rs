//! Moving data between a file and the program, and the file's size and position.

use linux_abi::Errno;
use linux_abi::fs::Iovec;
use linux_abi::signal::Signal;
use vfs::file::{OpenFile, SeekFrom};
use vfs::inode::Allocate;
use vfs::Location;
use vfs::ops::Context;
use vfs::io::{Sink, Source};
use vfs::types::{Access, FileKind, OpenFlags};

use super::{AT_FDCWD, careful, find, with_place};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::{UserIovecs, UserPtr, UserSlice};

/// `pwritev2`: append, whatever the offset.
const RWF_APPEND: u32 = 0x10;
/// `preadv2`/`pwritev2`: do not wait.
const RWF_NOWAIT: u32 = 0x8;
/// Hints and durability requests that need nothing here.
const RWF_HARMLESS: u32 = 0x1 | 0x2 | 0x4;
/// What may be asked of a read.
pub(super) const READ_FLAGS: u32 = RWF_HARMLESS | RWF_NOWAIT;
/// What may be asked of a write.
pub(super) const WRITE_FLAGS: u32 = READ_FLAGS | RWF_APPEND;
const FALLOC_KEEP_SIZE: u32 = 1;
const FALLOC_PUNCH_HOLE: u32 = 2;
const FALLOC_COLLAPSE_RANGE: u32 = 8;
const FALLOC_ZERO_RANGE: u32 = 0x10;
const FALLOC_INSERT_RANGE: u32 = 0x20;

/// A write to something without a reader raises `SIGPIPE` before it fails.
pub(super) fn wrote(ctx: &Ctx<'_>, result: SysResult) -> SysResult {
    if result == Err(Errno::EPIPE) {
        crate::signal::raise(ctx.task(), Signal::SIGPIPE);
    }
    result
}

pub(super) fn offset(value: i64) -> Result<u64, Errno> {
    u64::try_from(value).map_err(|_| Errno::EINVAL)
}

/// `read`.
///
/// # Errors
/// Those of `read(2)`.
pub fn read(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, count: usize) -> SysResult {
    find(ctx, fd)?.read(&mut UserSlice::new(buffer, count)?)
}

/// `write`.
///
/// # Errors
/// Those of `write(2)`.
pub fn write(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, count: usize) -> SysResult {
    let result = careful::write(ctx, &*find(ctx, fd)?, None, &mut UserSlice::new(buffer, count)?);
    wrote(ctx, result)
}

/// `pread64`.
///
/// # Errors
/// Those of `pread(2)`.
pub fn pread64(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, count: usize, at: i64) -> SysResult {
    find(ctx, fd)?.read_at(offset(at)?, &mut UserSlice::new(buffer, count)?)
}

/// `pwrite64`.
///
/// # Errors
/// Those of `pwrite(2)`.
pub fn pwrite64(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, count: usize, at: i64) -> SysResult {
    let result = careful::write(ctx, &*find(ctx, fd)?, Some(offset(at)?), &mut UserSlice::new(buffer, count)?);
    wrote(ctx, result)
}

/// `readv`.
///
/// # Errors
/// Those of `readv(2)`.
pub fn readv(ctx: &Ctx<'_>, fd: i32, vectors: UserPtr<Iovec>, count: usize) -> SysResult {
    read_vectors(&*find(ctx, fd)?, &mut UserIovecs::read(vectors, count)?, None)
}

/// `writev`.
///
/// # Errors
/// Those of `writev(2)`.
pub fn writev(ctx: &Ctx<'_>, fd: i32, vectors: UserPtr<Iovec>, count: usize) -> SysResult {
    let result = careful::write(ctx, &*find(ctx, fd)?, None, &mut UserIovecs::read(vectors, count)?);
    wrote(ctx, result)
}

/// `preadv`. The offset comes in two registers, of which the second is unused on x86-64.
///
/// # Errors
/// Those of `preadv(2)`.
pub fn preadv(ctx: &Ctx<'_>, fd: i32, vectors: UserPtr<Iovec>, count: usize, at: i64) -> SysResult {
    read_vectors(&*find(ctx, fd)?, &mut UserIovecs::read(vectors, count)?, Some(offset(at)?))
}

/// `pwritev`.
///
/// # Errors
/// Those of `pwritev(2)`.
pub fn pwritev(ctx: &Ctx<'_>, fd: i32, vectors: UserPtr<Iovec>, count: usize, at: i64) -> SysResult {
    let result = careful::write(ctx, &*find(ctx, fd)?, Some(offset(at)?), &mut UserIovecs::read(vectors, count)?);
    wrote(ctx, result)
}

/// `preadv2`; offset −1 means the file's position.
///
/// # Errors
/// Those of `preadv2(2)`; `EOPNOTSUPP` for unknown flags.
pub fn preadv2(
    ctx: &Ctx<'_>,
    fd: i32,
    vectors: UserPtr<Iovec>,
    count: usize,
    at: i64,
    _high: usize,
    flags: u32,
) -> SysResult {
    if flags & !READ_FLAGS != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let at = if at == -1 { None } else { Some(offset(at)?) };
    read_vectors(&*find(ctx, fd)?, &mut UserIovecs::read(vectors, count)?, at)
}

/// `pwritev2`; offset −1 means the file's position.
///
/// # Errors
/// Those of `pwritev2(2)`; `EOPNOTSUPP` for unknown flags.
pub fn pwritev2(
    ctx: &Ctx<'_>,
    fd: i32,
    vectors: UserPtr<Iovec>,
    count: usize,
    at: i64,
    _high: usize,
    flags: u32,
) -> SysResult {
    if flags & !WRITE_FLAGS != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let at = if at == -1 { None } else { Some(offset(at)?) };
    let file = find(ctx, fd)?;
    write_vectors(ctx, &file, &mut UserIovecs::read(vectors, count)?, at, flags)
}

/// Writes at `at` or at the file's position, or with `RWF_APPEND` in `flags` at its end.
pub(super) fn write_vectors(ctx: &Ctx<'_>, file: &OpenFile, mut source: &mut dyn Source, at: Option<u64>, flags: u32) -> SysResult {
    let result = if flags & RWF_APPEND != 0 {
        file.require(Access::WRITE).and_then(|()| {
            let mut position = 0;
            file.file().write(&mut position, source, file.flags() | OpenFlags::APPEND)
        })
    } else {
        careful::write(ctx, file, at, &mut source)
    };
    wrote(ctx, result)
}

/// Reads at `at` or at the file's position.
pub(super) fn read_vectors(file: &OpenFile, mut sink: &mut dyn Sink, at: Option<u64>) -> SysResult {
    match at {
        Some(at) => file.read_at(at, &mut sink),
        None => file.read(&mut sink),
    }
}

/// `lseek`.
///
/// # Errors
/// Those of `lseek(2)`.
pub fn lseek(ctx: &Ctx<'_>, fd: i32, offset: i64, whence: u32) -> SysResult {
    let from = match whence {
        0 => SeekFrom::Start(offset),
        1 => SeekFrom::Current(offset),
        2 => SeekFrom::End(offset),
        3 => SeekFrom::Data(offset),
        4 => SeekFrom::Hole(offset),
        _ => return Err(Errno::EINVAL),
    };
    find(ctx, fd)?.seek(from).map(|position| position as usize)
}

/// `fsync`.
///
/// # Errors
/// `EBADF`, `EINVAL`, `EIO`.
pub fn fsync(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    let file = find(ctx, fd)?;
    file.require_open()?;
    file.file().fsync().map(|()| 0)
}

/// `fdatasync`.
///
/// # Errors
/// As [`fsync`].
pub fn fdatasync(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    fsync(ctx, fd)
}

/// `sync_file_range`.
///
/// # Errors
/// `EBADF`, `EINVAL`, `ESPIPE`.
pub fn sync_file_range(ctx: &Ctx<'_>, fd: i32, at: i64, count: i64, flags: u32) -> SysResult {
    super::only(flags, 7)?;
    let file = find(ctx, fd)?;
    if at < 0 || count < 0 {
        return Err(Errno::EINVAL);
    }
    file.require_seekable()?;
    file.file().fsync().map(|()| 0)
}

/// `sync`: nothing is buffered that would have to be written.
///
/// # Errors
/// None.
pub fn sync(_ctx: &Ctx<'_>) -> SysResult {
    Ok(0)
}

/// `syncfs`.
///
/// # Errors
/// `EBADF`.
pub fn syncfs(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    find(ctx, fd)?.require_open().map(|()| 0)
}

/// `truncate`.
///
/// # Errors
/// Those of `truncate(2)`.
pub fn truncate(ctx: &Ctx<'_>, path: UserPtr<u8>, size: i64) -> SysResult {
    let size = offset(size)?;
    let truncate = |context: Context<'_>, place: &Location| {
        context.check_truncate(place)?;
        careful::before_resize(ctx, place.inode(), size)?;
        context.truncate(place, size)
    };
    with_place(ctx, AT_FDCWD, path, 0, truncate).map(|()| 0)
}

/// `ftruncate`.
///
/// # Errors
/// Those of `ftruncate(2)`.
pub fn ftruncate(ctx: &Ctx<'_>, fd: i32, size: i64) -> SysResult {
    let (file, size) = (find(ctx, fd)?, offset(size)?);
    if let Some(content) = file.content().filter(|_| file.flags().can_write()) {
        careful::before_resize(ctx, content, size)?;
    }
    file.truncate(size).map(|()| 0)
}

/// `fallocate`.
///
/// # Errors
/// Those of `fallocate(2)`.
pub fn fallocate(ctx: &Ctx<'_>, fd: i32, mode: u32, at: i64, len: i64) -> SysResult {
    let how = match mode {
        0 => Allocate::Grow,
        FALLOC_KEEP_SIZE => Allocate::KeepSize,
        m if m == FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE => Allocate::PunchHole,
        FALLOC_ZERO_RANGE => Allocate::ZeroRange,
        m if m == FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE => Allocate::ZeroRangeKeepSize,
        FALLOC_COLLAPSE_RANGE => Allocate::Collapse,
        FALLOC_INSERT_RANGE => Allocate::Insert,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let file = find(ctx, fd)?;
    if at < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    file.require(Access::WRITE)?;
    let end = at.checked_add(len).ok_or(Errno::EFBIG)?;
    debug_assert!(end > at);
    let content = file.content().ok_or(Errno::ENODEV)?;
    match content.kind() {
        FileKind::Regular => {
            if matches!(how, Allocate::Grow | Allocate::ZeroRange) {
                careful::before_resize(ctx, content, end as u64)?;
            }
            file.allocate(how, at as u64, len as u64).map(|()| 0)
        }
        FileKind::Directory => Err(Errno::EISDIR),
        FileKind::Fifo => Err(Errno::ESPIPE),
        _ => Err(Errno::ENODEV),
    }
}

/// `fadvise64`: everything is in memory already.
///
/// # Errors
/// `EBADF`, `EINVAL`, `ESPIPE`.
pub fn fadvise64(ctx: &Ctx<'_>, fd: i32, _at: i64, len: i64, advice: u32) -> SysResult {
    let file = find(ctx, fd)?;
    file.require_open()?;
    if file.inode().kind() == FileKind::Fifo {
        return Err(Errno::ESPIPE);
    }
    if len < 0 || advice > 5 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// `readahead`: everything is in memory already.
///
/// # Errors
/// `EBADF`, `EINVAL`.
pub fn readahead(ctx: &Ctx<'_>, fd: i32, _at: i64, _count: usize) -> SysResult {
    let file = find(ctx, fd)?;
    file.require(Access::READ)?;
    if file.inode().kind() == FileKind::Regular { Ok(0) } else { Err(Errno::EINVAL) }
}
