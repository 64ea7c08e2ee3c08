//! Moving data from one file to another.

use alloc::sync::Arc;
use alloc::vec;

use linux_abi::Errno;
use linux_abi::fs::Iovec;
use vfs::file::OpenFile;
use vfs::io::SliceSink;
use vfs::pipe::{Pipe, PipeEnd};
use vfs::types::{Access, Events, FileKind, OpenFlags};

use super::{get, only};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::{UserIovecs, UserPtr};

/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;
/// Most bytes one call moves, as for `read`.
const MAX_COUNT: usize = 0x7fff_f000;
const SPLICE_FLAGS: u32 = 0xf;
const SPLICE_NONBLOCK: u32 = 2;

/// One side of a transfer: at an offset of the program's, or at the file's own position.
enum Place<'a> {
    Offset(u64),
    Position(&'a OpenFile),
}

impl<'a> Place<'a> {
    fn new(file: &'a OpenFile, at: UserPtr<u64>) -> Result<Self, Errno> {
        if at.is_null() {
            return Ok(Self::Position(file));
        }
        file.require_seekable()?;
        let offset = at.read()?;
        if offset > i64::MAX as u64 { Err(Errno::EINVAL) } else { Ok(Self::Offset(offset)) }
    }

    /// Where the next byte is.
    fn current(&self) -> u64 {
        match self {
            Self::Offset(offset) => *offset,
            Self::Position(file) => file.position(),
        }
    }

    fn store(&self, at: UserPtr<u64>) -> Result<(), Errno> {
        match self {
            Self::Offset(offset) => at.write(offset),
            Self::Position(_) => Ok(()),
        }
    }
}

fn read(file: &OpenFile, place: &Place<'_>, buffer: &mut [u8]) -> SysResult {
    let mut sink = SliceSink::new(buffer);
    match place {
        Place::Offset(offset) => file.read_at(*offset, &mut sink),
        Place::Position(file) => file.read(&mut sink),
    }
}

fn write(ctx: &Ctx<'_>, file: &OpenFile, place: &Place<'_>, mut data: &[u8]) -> SysResult {
    let at = if let Place::Offset(offset) = place { Some(*offset) } else { None };
    super::data::wrote(ctx, super::careful::write(ctx, file, at, &mut data))
}

/// Takes back what was read from the source but not written to the destination.
fn give_back(place: &Place<'_>, count: usize) -> Result<(), Errno> {
    match place {
        Place::Position(file) if file.file().seekable() => {
            file.seek(vfs::file::SeekFrom::Current(-(count as i64))).map(drop)
        }
        _ => Ok(()),
    }
}

/// Moves up to `count` bytes; stops at the end, or when a side would block after something has been moved.
fn transfer<'a>(
    ctx: &Ctx<'_>,
    (input, from): (&'a OpenFile, &mut Place<'a>),
    (output, to): (&'a OpenFile, &mut Place<'a>),
    count: usize,
) -> SysResult {
    let count = count.min(MAX_COUNT);
    let mut buffer = vec![0; CHUNK.min(count)];
    let mut done = 0;
    while done < count {
        let want = buffer.len().min(count - done);
        let got = match read(input, from, &mut buffer[..want]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        let put = write(ctx, output, to, &buffer[..got]);
        let moved = *put.as_ref().unwrap_or(&0);
        give_back(from, got - moved)?;
        for place in [&mut *from, &mut *to] {
            if let Place::Offset(offset) = place {
                *offset += moved as u64;
            }
        }
        done += moved;
        match put {
            Err(error) if done == 0 => return Err(error),
            Ok(put) if put == got => {}
            _ => break,
        }
        // A stream gives what it has; waiting for more would hold back what was moved.
        if !input.file().seekable() {
            break;
        }
    }
    Ok(done)
}

/// `sendfile`.
///
/// # Errors
/// Those of `sendfile(2)`.
pub fn sendfile(ctx: &Ctx<'_>, out_fd: i32, in_fd: i32, offset: UserPtr<u64>, count: usize) -> SysResult {
    let (input, output) = (get(ctx, in_fd)?, get(ctx, out_fd)?);
    input.require(Access::READ)?;
    output.require(Access::WRITE)?;
    if output.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut from = Place::new(&input, offset)?;
    let mut to = Place::Position(&output);
    let done = transfer(ctx, (&input, &mut from), (&output, &mut to), count)?;
    from.store(offset)?;
    Ok(done)
}

/// `copy_file_range`.
///
/// # Errors
/// Those of `copy_file_range(2)`.
pub fn copy_file_range(
    ctx: &Ctx<'_>,
    in_fd: i32,
    in_offset: UserPtr<u64>,
    out_fd: i32,
    out_offset: UserPtr<u64>,
    count: usize,
    flags: u32,
) -> SysResult {
    only(flags, 0)?;
    let (input, output) = (get(ctx, in_fd)?, get(ctx, out_fd)?);
    input.require(Access::READ)?;
    output.require(Access::WRITE)?;
    for file in [&input, &output] {
        match file.inode().kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    if output.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    let mut from = Place::new(&input, in_offset)?;
    let mut to = Place::new(&output, out_offset)?;
    let overlap = from.current().abs_diff(to.current()) < count as u64;
    if overlap && vfs::inode::same_inode(input.inode(), output.inode()) {
        return Err(Errno::EINVAL);
    }
    let done = transfer(ctx, (&input, &mut from), (&output, &mut to), count)?;
    from.store(in_offset)?;
    to.store(out_offset)?;
    Ok(done)
}

/// `splice`: one side is a pipe.
///
/// # Errors
/// Those of `splice(2)`.
pub fn splice(
    ctx: &Ctx<'_>,
    in_fd: i32,
    in_offset: UserPtr<u64>,
    out_fd: i32,
    out_offset: UserPtr<u64>,
    count: usize,
    flags: u32,
) -> SysResult {
    only(flags, SPLICE_FLAGS)?;
    let (input, output) = (get(ctx, in_fd)?, get(ctx, out_fd)?);
    input.require(Access::READ)?;
    output.require(Access::WRITE)?;
    let is_pipe = |file: &OpenFile| file.inode().kind() == FileKind::Fifo;
    if !is_pipe(&input) && !is_pipe(&output) {
        return Err(Errno::EINVAL);
    }
    if output.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    if let (Ok(from), Ok(to)) = (pipe_end(&input), pipe_end(&output))
        && Arc::ptr_eq(from, to)
    {
        return Err(Errno::EINVAL);
    }
    if (is_pipe(&input) && !in_offset.is_null()) || (is_pipe(&output) && !out_offset.is_null()) {
        return Err(Errno::ESPIPE);
    }
    let would_block = flags & SPLICE_NONBLOCK != 0
        && (!input.file().poll().intersects(Events::IN | Events::HUP)
            || !output.file().poll().intersects(Events::OUT));
    if would_block {
        return Err(Errno::EAGAIN);
    }
    let mut from = Place::new(&input, in_offset)?;
    let mut to = Place::new(&output, out_offset)?;
    let done = transfer(ctx, (&input, &mut from), (&output, &mut to), count)?;
    from.store(in_offset)?;
    to.store(out_offset)?;
    Ok(done)
}

fn pipe_end(file: &OpenFile) -> Result<&Arc<Pipe>, Errno> {
    file.downcast::<PipeEnd>().map(PipeEnd::pipe).ok_or(Errno::EINVAL)
}

/// `tee`: copies from one pipe to another, without taking it out.
///
/// # Errors
/// Those of `tee(2)`.
pub fn tee(ctx: &Ctx<'_>, in_fd: i32, out_fd: i32, count: usize, flags: u32) -> SysResult {
    only(flags, SPLICE_FLAGS)?;
    if count == 0 {
        return Ok(0);
    }
    let (input, output) = (get(ctx, in_fd)?, get(ctx, out_fd)?);
    input.require(Access::READ)?;
    output.require(Access::WRITE)?;
    let (from, to) = (pipe_end(&input)?, pipe_end(&output)?);
    if Arc::ptr_eq(from, to) {
        return Err(Errno::EINVAL);
    }
    let nonblocking = flags & SPLICE_NONBLOCK != 0;
    let bytes = from.peek(count.min(CHUNK), nonblocking || input.flags().nonblocking())?;
    if nonblocking && !output.file().poll().intersects(Events::OUT) {
        return Err(Errno::EAGAIN);
    }
    if bytes.is_empty() { Ok(0) } else { output.write(&mut bytes.as_slice()) }
}

/// `vmsplice`: the program's memory into a pipe, or the other way round. The bytes are copied, gift or not.
///
/// # Errors
/// Those of `vmsplice(2)`.
pub fn vmsplice(ctx: &Ctx<'_>, fd: i32, vectors: UserPtr<Iovec>, count: usize, flags: u32) -> SysResult {
    only(flags, SPLICE_FLAGS)?;
    let file = get(ctx, fd)?;
    pipe_end(&file).map_err(|_| Errno::EBADF)?;
    let mut memory = UserIovecs::read(vectors, count)?;
    let writes = file.flags().can_write();
    let ready = if writes { Events::OUT } else { Events::IN };
    if flags & SPLICE_NONBLOCK != 0 && !file.file().poll().intersects(ready | Events::HUP | Events::ERR) {
        return Err(Errno::EAGAIN);
    }
    if writes { super::data::wrote(ctx, file.write(&mut memory)) } else { file.read(&mut memory) }
}
