//! What a change of a file's content must not do: grow the file beyond RLIMIT_FSIZE, or leave set-id bits on what an unprivileged process writes.
//!
//! Neither concerns most processes: [`Process::minds_writes`](crate::process::Process::minds_writes) says so in one load.

use alloc::sync::Arc;

use linux_abi::Errno;
use linux_abi::raw::RLIMIT_FSIZE;
use linux_abi::signal::Signal;
use vfs::file::OpenFile;
use vfs::inode::Inode;
use vfs::io::{LimitedSource, Source};
use vfs::types::{Access, FileKind, OpenFlags};
use vfs::types::SetAttributes;

use crate::ctx::{Ctx, SysResult};

const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o0010;

/// Writes to `file`, at its position unless `at` says where.
#[inline(always)]
pub(super) fn write<S: Source>(ctx: &Ctx<'_>, file: &OpenFile, at: Option<u64>, source: &mut S) -> SysResult {
    if ctx.task().minds_writes() { write_carefully(ctx, file, at, source) } else { plain(file, at, source) }
}

#[inline(never)]
fn write_carefully(ctx: &Ctx<'_>, file: &OpenFile, at: Option<u64>, mut source: &mut dyn Source) -> SysResult {
    let Some(content) = file.content().filter(|content| content.kind() == FileKind::Regular && source.remaining() > 0) else {
        return plain(file, at, &mut source);
    };
    file.require(Access::WRITE)?;
    let position = match at {
        _ if file.flags().contains(OpenFlags::APPEND) => content.metadata().size,
        Some(at) => at,
        None => file.position(),
    };
    let room = room_at(ctx, position)?;
    drop_set_id(ctx, content)?;
    plain(file, at, &mut LimitedSource::new(source, room))
}

#[inline(always)]
fn plain<S: Source>(file: &OpenFile, at: Option<u64>, source: &mut S) -> SysResult {
    match at {
        Some(at) => file.write_at(at, source),
        None => file.write(source),
    }
}

/// How many bytes may be written at `position`.
fn room_at(ctx: &Ctx<'_>, position: u64) -> Result<usize, Errno> {
    let limit = ctx.process().limit(RLIMIT_FSIZE).map_or(u64::MAX, |limit| limit.cur);
    match limit.checked_sub(position) {
        None | Some(0) => Err(too_large(ctx)),
        Some(room) => Ok(usize::try_from(room).unwrap_or(usize::MAX)),
    }
}

fn too_large(ctx: &Ctx<'_>) -> Errno {
    crate::signal::raise(ctx.task(), Signal::SIGXFSZ);
    Errno::EFBIG
}

/// Before a file that the caller may write to gets `size` bytes: `truncate`, `fallocate`.
///
/// # Errors
/// `EFBIG`.
pub(super) fn before_resize(ctx: &Ctx<'_>, content: &Arc<dyn Inode>, size: u64) -> Result<(), Errno> {
    if !ctx.task().minds_writes() || content.kind() != FileKind::Regular {
        return Ok(());
    }
    let limit = ctx.process().limit(RLIMIT_FSIZE).map_or(u64::MAX, |limit| limit.cur);
    if size > limit && size > content.metadata().size {
        return Err(too_large(ctx));
    }
    drop_set_id(ctx, content)
}

/// Takes the bits away that would lend the owner's rights to what somebody else has written.
fn drop_set_id(ctx: &Ctx<'_>, content: &Arc<dyn Inode>) -> Result<(), Errno> {
    let mode = content.metadata().mode;
    let group = if mode & GROUP_EXECUTE != 0 { SET_GID } else { 0 };
    let kept = mode & !(SET_UID | group);
    if kept == mode || ctx.cred().for_files().privileged() {
        return Ok(());
    }
    content.set_attributes(&SetAttributes { mode: Some(kept & 0o7777), ..SetAttributes::default() })
}
