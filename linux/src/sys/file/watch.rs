//! inotify: the calls. What happens is told by `vfs::inotify`.

use alloc::sync::Arc;

use linux_abi::{Errno, raw};
use vfs::anon::open_anonymous;
use vfs::file::OpenFile;
use vfs::inotify::{Happening, Inotify};
use vfs::types::{Access, FileKind, OpenFlags};

use super::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, get, install, new_ino, only, with_place};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

/// `inotify_init1`.
///
/// # Errors
/// `EINVAL`, `EMFILE`.
pub fn inotify_init1(ctx: &Ctx<'_>, flags: u32) -> SysResult {
    only(flags, raw::O_CLOEXEC | raw::O_NONBLOCK)?;
    let flags = OpenFlags::from_bits_retain(flags);
    install(ctx, open_anonymous(Inotify::new()?, "anon_inode:inotify", new_ino(), flags), flags)
}

/// `inotify_init`.
///
/// # Errors
/// `EMFILE`.
pub fn inotify_init(ctx: &Ctx<'_>) -> SysResult {
    inotify_init1(ctx, 0)
}

fn instance(file: &OpenFile) -> Result<&Inotify, Errno> {
    file.downcast().ok_or(Errno::EINVAL)
}

/// `inotify_add_watch`.
///
/// # Errors
/// Those of `inotify_add_watch(2)`.
pub fn inotify_add_watch(ctx: &Ctx<'_>, fd: i32, path: UserPtr<u8>, mask: u32) -> SysResult {
    let mask = Happening::from_bits(mask).filter(|mask| mask.intersects(Happening::ALL_EVENTS)).ok_or(Errno::EINVAL)?;
    let file: Arc<OpenFile> = get(ctx, fd)?;
    if mask.contains(Happening::MASK_ADD | Happening::MASK_CREATE) {
        return Err(Errno::EINVAL);
    }
    let instance = instance(&file)?;
    let flags = if mask.contains(Happening::DONT_FOLLOW) { AT_SYMLINK_NOFOLLOW } else { 0 };
    with_place(ctx, AT_FDCWD, path, flags, |context, place| {
        if mask.contains(Happening::ONLYDIR) && place.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        context.check(place, Access::READ)?;
        instance.add_watch(place.inode(), mask)
    })
    .map(|descriptor| descriptor as usize)
}

/// `inotify_rm_watch`.
///
/// # Errors
/// `EBADF`, `EINVAL`.
pub fn inotify_rm_watch(ctx: &Ctx<'_>, fd: i32, descriptor: i32) -> SysResult {
    instance(&*get(ctx, fd)?)?.remove_watch(descriptor).map(|()| 0)
}
