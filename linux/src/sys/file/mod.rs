//! System calls on files and names, by subject. `table.rs` lists them; what they do is in the `vfs` crate, and these functions
//! turn registers into its terms.
//!
//! | file | calls |
//! |---|---|
//! | `data.rs` | read, write and their relatives; lseek, fsync, truncate, fallocate |
//! | `aio.rs` | io_setup, io_submit and relatives |
//! | `careful.rs` | what a write must not do: RLIMIT_FSIZE, set-id bits |
//! | `transfer.rs` | sendfile, copy_file_range, splice |
//! | `open.rs` | open, close, dup, fcntl, ioctl, pipe |
//! | `memfd.rs`, `huge_file.rs` | memfd |
//! | `names.rs` | mkdir, unlink, rename, link, symlink, readlink, getdents, chdir, getcwd |
//! | `locks.rs` | flock, fcntl locks |
//! | `mounting.rs` | mount, umount |
//! | `owner.rs` | signals when a file is ready: fcntl owners, O_ASYNC |
//! | `watch.rs`, `dnotify.rs` | inotify, F_NOTIFY |
//! | `attributes.rs` | stat, statx, statfs, access, chmod, chown, utimensat, xattrs |
//!
//! Neighbours: `event.rs` (waiting for files), `fdtable.rs`, `user_ptr.rs`.

mod aio;
mod attributes;
mod careful;
mod data;
mod dnotify;
mod huge_file;
mod locks;
mod memfd;
mod mounting;
mod names;
mod open;
mod owner;
mod transfer;
mod watch;

pub use aio::*;
pub use attributes::*;
pub use data::*;
pub use locks::flock;
pub(crate) use locks::{close_table, closed_all, held_locks};
pub use memfd::memfd_create;
pub(crate) use memfd::size_of_huge_pages;
pub use mounting::*;
pub use names::*;
pub use open::*;
pub use transfer::*;
pub use watch::*;

use alloc::borrow::Cow;
use alloc::sync::Arc;

use linux_abi::Errno;
use vfs::file::OpenFile;
use vfs::mount::Location;
use vfs::ops::Context;
use vfs::tmpfs::Options;
use vfs::walk::Follow;

use crate::ctx::Ctx;
use crate::devfs;
use crate::fdtable::FileRef;
use crate::user_ptr::{StringBuffer, UserPtr};

/// "The working directory", in place of a directory's descriptor.
pub const AT_FDCWD: i32 = -100;
/// Do not follow a symbolic link at the end of the path.
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// `unlinkat`: remove a directory.
const AT_REMOVEDIR: u32 = 0x200;
/// `faccessat`: use the effective ids.
const AT_EACCESS: u32 = 0x200;
/// `linkat`: follow a symbolic link at the end of the old path.
const AT_SYMLINK_FOLLOW: u32 = 0x400;
/// Do not mount anything on the way; nothing would be.
const AT_NO_AUTOMOUNT: u32 = 0x800;
/// An empty path means the descriptor itself.
pub(crate) const AT_EMPTY_PATH: u32 = 0x1000;
/// `statx`'s synchronisation hints.
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

/// The wall clock, for time stamps.
#[must_use]
pub fn now() -> vfs::Timespec {
    vfs::Timespec::from_ns(kernel::clock::realtime_ns())
}

/// How a file system in memory with device number `dev` is set up. As Linux's tmpfs it takes at most half of the memory.
#[must_use]
pub fn memory_options(dev: u64) -> Options {
    Options { max_pages: kernel::mm::memory_info().total_frames / 2, open_device: devfs::open, ..Options::new(dev, now) }
}

/// The open file `fd` of the caller, for a call that closes no descriptor.
#[inline(always)]
fn find<'a>(ctx: &Ctx<'a>, fd: i32) -> Result<FileRef<'a>, Errno> {
    ctx.files().find(fd)
}

/// The open file `fd` of the caller, to be kept.
fn get(ctx: &Ctx<'_>, fd: i32) -> Result<Arc<OpenFile>, Errno> {
    ctx.files().get(fd)
}

/// Runs `f` with the caller's view of the file tree and the place that relative paths start from.
fn with_start<R>(
    ctx: &Ctx<'_>,
    dirfd: i32,
    path: &[u8],
    f: impl FnOnce(Context<'_>, &Location) -> Result<R, Errno>,
) -> Result<R, Errno> {
    with_base(ctx, dirfd, path.first() == Some(&b'/'), f)
}

/// As [`with_start`], for a path that is absolute or not. One that is confined to `dirfd` never is.
fn with_base<R>(
    ctx: &Ctx<'_>,
    dirfd: i32,
    absolute: bool,
    f: impl FnOnce(Context<'_>, &Location) -> Result<R, Errno>,
) -> Result<R, Errno> {
    // Who changes directory, root or credentials does so after the walk.
    let view = ctx.view();
    let viewer = view.viewer();
    let context = Context { viewer, umask: view.umask() };
    if absolute {
        f(context, viewer.root)
    } else if dirfd == AT_FDCWD {
        f(context, &view.working_directory())
    } else {
        f(context, ctx.files().find(dirfd)?.location())
    }
}

/// Runs `f` with the caller's view of the file tree and its working directory.
pub(crate) fn with_caller<R>(
    ctx: &Ctx<'_>,
    f: impl FnOnce(Context<'_>, &Location) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let view = ctx.view();
    f(Context { viewer: view.viewer(), umask: view.umask() }, &view.working_directory())
}

/// Runs `f` with the place that `path` names, as the `*at` calls find it.
fn with_place<R>(
    ctx: &Ctx<'_>,
    dirfd: i32,
    path: UserPtr<u8>,
    flags: u32,
    f: impl FnOnce(Context<'_>, &Location) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let empty_allowed = flags & AT_EMPTY_PATH != 0;
    let mut buffer = StringBuffer::new();
    let path = if empty_allowed && path.is_null() { Cow::Borrowed(&[][..]) } else { path.read_path_into(&mut buffer)? };
    let follow = if flags & AT_SYMLINK_NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
    with_start(ctx, dirfd, &path, |context, start| {
        if path.is_empty() && empty_allowed {
            return f(context, start);
        }
        f(context, &context.lookup(start, &path, follow)?)
    })
}

/// Runs `f` with the place behind an open descriptor.
fn with_descriptor<R>(
    ctx: &Ctx<'_>,
    fd: i32,
    f: impl FnOnce(Context<'_>, &Location) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let file = find(ctx, fd)?;
    with_start(ctx, AT_FDCWD, b"", |context, _| f(context, file.location()))
}

/// Fails with `EINVAL` when `flags` has a bit outside `known`.
fn only(flags: u32, known: u32) -> Result<(), Errno> {
    if flags & !known == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}
