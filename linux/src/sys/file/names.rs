//! Names: making, removing and moving them, reading directories, the working directory.

use core::ops::ControlFlow;

use linux_abi::Errno;
use linux_abi::fs::Dirent64;
use vfs::inode::RenameMode;
use vfs::types::{Access, DirEntry, FileKind};
use zerocopy::IntoBytes;

use super::{AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW};
use super::{find, only, with_descriptor, with_place, with_start};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::{self, StringBuffer, UserPtr};

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;
const NEW_WHITEOUT: u32 = RENAME_NOREPLACE | RENAME_WHITEOUT;
const PERMISSIONS: u32 = 0o7777;

fn make(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, kind: FileKind, mode: u32, rdev: u64) -> SysResult {
    let mut buffer = StringBuffer::new();
    let path = path.read_path_into(&mut buffer)?;
    let mode = (mode & PERMISSIONS) as u16;
    with_start(ctx, dirfd, &path, |context, start| context.make(start, &path, kind, mode, rdev)).map(|_| 0)
}

/// `mkdir`.
///
/// # Errors
/// Those of `mkdir(2)`.
pub fn mkdir(ctx: &Ctx<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    make(ctx, AT_FDCWD, path, FileKind::Directory, mode, 0)
}

/// `mkdirat`.
///
/// # Errors
/// Those of `mkdir(2)`.
pub fn mkdirat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, mode: u32) -> SysResult {
    make(ctx, dirfd, path, FileKind::Directory, mode, 0)
}

/// `mknodat`.
///
/// # Errors
/// Those of `mknod(2)`.
pub fn mknodat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, mode: u32, rdev: u32) -> SysResult {
    let kind = match mode & !PERMISSIONS {
        0 => FileKind::Regular,
        bits => FileKind::from_mode_bits(bits).ok_or(Errno::EINVAL)?,
    };
    match kind {
        FileKind::Directory => Err(Errno::EPERM),
        FileKind::Symlink | FileKind::Anonymous => Err(Errno::EINVAL),
        _ => make(ctx, dirfd, path, kind, mode, u64::from(rdev)),
    }
}

/// `mknod`.
///
/// # Errors
/// Those of `mknod(2)`.
pub fn mknod(ctx: &Ctx<'_>, path: UserPtr<u8>, mode: u32, rdev: u32) -> SysResult {
    mknodat(ctx, AT_FDCWD, path, mode, rdev)
}

/// `unlinkat`.
///
/// # Errors
/// Those of `unlink(2)` and `rmdir(2)`.
pub fn unlinkat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, flags: u32) -> SysResult {
    only(flags, AT_REMOVEDIR)?;
    let mut buffer = StringBuffer::new();
    let path = path.read_path_into(&mut buffer)?;
    let remove_directory = flags & AT_REMOVEDIR != 0;
    with_start(ctx, dirfd, &path, |context, start| {
        if remove_directory { context.rmdir(start, &path) } else { context.unlink(start, &path) }
    })
    .map(|()| 0)
}

/// `unlink`.
///
/// # Errors
/// Those of `unlink(2)`.
pub fn unlink(ctx: &Ctx<'_>, path: UserPtr<u8>) -> SysResult {
    unlinkat(ctx, AT_FDCWD, path, 0)
}

/// `rmdir`.
///
/// # Errors
/// Those of `rmdir(2)`.
pub fn rmdir(ctx: &Ctx<'_>, path: UserPtr<u8>) -> SysResult {
    unlinkat(ctx, AT_FDCWD, path, AT_REMOVEDIR)
}

/// `renameat2`.
///
/// # Errors
/// Those of `renameat2(2)`.
pub fn renameat2(
    ctx: &Ctx<'_>,
    old_dirfd: i32,
    old: UserPtr<u8>,
    new_dirfd: i32,
    new: UserPtr<u8>,
    flags: u32,
) -> SysResult {
    let mode = match flags {
        0 => RenameMode::Replace,
        RENAME_NOREPLACE => RenameMode::NoReplace,
        RENAME_EXCHANGE => RenameMode::Exchange,
        RENAME_WHITEOUT | NEW_WHITEOUT if !ctx.cred().for_files().privileged() => return Err(Errno::EPERM),
        RENAME_WHITEOUT => RenameMode::Whiteout,
        NEW_WHITEOUT => RenameMode::NewWhiteout,
        _ => return Err(Errno::EINVAL),
    };
    let (old, new) = (old.read_path()?, new.read_path()?);
    with_start(ctx, old_dirfd, &old, |_, old_start| {
        with_start(ctx, new_dirfd, &new, |context, new_start| {
            context.rename((old_start, old.as_slice()), (new_start, new.as_slice()), mode)
        })
    })
    .map(|()| 0)
}

/// `renameat`.
///
/// # Errors
/// Those of `rename(2)`.
pub fn renameat(ctx: &Ctx<'_>, old_dirfd: i32, old: UserPtr<u8>, new_dirfd: i32, new: UserPtr<u8>) -> SysResult {
    renameat2(ctx, old_dirfd, old, new_dirfd, new, 0)
}

/// `rename`.
///
/// # Errors
/// Those of `rename(2)`.
pub fn rename(ctx: &Ctx<'_>, old: UserPtr<u8>, new: UserPtr<u8>) -> SysResult {
    renameat2(ctx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `linkat`.
///
/// # Errors
/// Those of `link(2)`.
pub fn linkat(
    ctx: &Ctx<'_>,
    old_dirfd: i32,
    old: UserPtr<u8>,
    new_dirfd: i32,
    new: UserPtr<u8>,
    flags: u32,
) -> SysResult {
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_FOLLOW)?;
    let no_follow = if flags & AT_SYMLINK_FOLLOW != 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
    let new = new.read_path()?;
    with_place(ctx, old_dirfd, old, flags & AT_EMPTY_PATH | no_follow, |_, existing| {
        with_start(ctx, new_dirfd, &new, |context, start| context.link(existing, start, &new))
    })
    .map(|()| 0)
}

/// `link`.
///
/// # Errors
/// Those of `link(2)`.
pub fn link(ctx: &Ctx<'_>, old: UserPtr<u8>, new: UserPtr<u8>) -> SysResult {
    linkat(ctx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// `symlinkat`.
///
/// # Errors
/// Those of `symlink(2)`.
pub fn symlinkat(ctx: &Ctx<'_>, target: UserPtr<u8>, dirfd: i32, path: UserPtr<u8>) -> SysResult {
    let (target, path) = (target.read_path()?, path.read_path()?);
    with_start(ctx, dirfd, &path, |context, start| context.symlink(&target, start, &path)).map(|()| 0)
}

/// `symlink`.
///
/// # Errors
/// Those of `symlink(2)`.
pub fn symlink(ctx: &Ctx<'_>, target: UserPtr<u8>, path: UserPtr<u8>) -> SysResult {
    symlinkat(ctx, target, AT_FDCWD, path)
}

/// `readlinkat`: the text is cut at `size` bytes and not terminated.
///
/// # Errors
/// Those of `readlink(2)`.
pub fn readlinkat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, buffer: UserPtr<u8>, size: i32) -> SysResult {
    let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(Errno::EINVAL)?;
    let flags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    let text = with_place(ctx, dirfd, path, flags, |_, place| match place.inode().kind() {
        FileKind::Symlink => place.inode().readlink(),
        _ => Err(Errno::EINVAL),
    })?;
    let cut = &text[..text.len().min(size)];
    user_ptr::copy_out(buffer.address(), cut)?;
    Ok(cut.len())
}

/// `readlink`.
///
/// # Errors
/// Those of `readlink(2)`.
pub fn readlink(ctx: &Ctx<'_>, path: UserPtr<u8>, buffer: UserPtr<u8>, size: i32) -> SysResult {
    let found = readlinkat(ctx, AT_FDCWD, path, buffer, size);
    // An empty path is only `readlinkat`'s way of naming a descriptor.
    if found == Err(Errno::EINVAL) && path.read_string(1, Errno::EINVAL).is_ok() { Err(Errno::ENOENT) } else { found }
}

/// Stores as many entries of a directory as fit, each as `record` makes it from what begins at a number of bytes.
fn list(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, size: usize, record: impl Fn(&DirEntry<'_>, &mut alloc::vec::Vec<u8>)) -> SysResult {
    let file = find(ctx, fd)?;
    let mut records = alloc::vec::Vec::new();
    let mut too_small = false;
    file.read_dir(&mut |entry| {
        let before = records.len();
        record(&entry, &mut records);
        if records.len() > size {
            records.truncate(before);
            too_small = before == 0;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    if too_small {
        return Err(Errno::EINVAL);
    }
    user_ptr::copy_out(buffer.address(), &records)?;
    Ok(records.len())
}

/// `getdents64`.
///
/// # Errors
/// Those of `getdents(2)`.
pub fn getdents64(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, size: usize) -> SysResult {
    const HEAD: usize = core::mem::size_of::<Dirent64>();
    list(ctx, fd, buffer, size, |entry, records| {
        let len = (HEAD + entry.name.len() + 1).next_multiple_of(8);
        let head =
            Dirent64 { ino: entry.ino, off: entry.next as i64, reclen: len as u16, kind: entry.kind.dirent_type() };
        let start = records.len();
        records.extend_from_slice(head.as_bytes());
        records.extend_from_slice(entry.name);
        records.resize(start + len, 0);
    })
}

/// `getdents`: as `getdents64`, but an entry's kind is its last byte.
///
/// # Errors
/// Those of `getdents(2)`.
pub fn getdents(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, size: usize) -> SysResult {
    list(ctx, fd, buffer, size, |entry, records| {
        let (start, ino, next) = (records.len(), entry.ino.to_le_bytes(), entry.next.to_le_bytes());
        // Number, position, length, name with its zero, kind.
        let len = (ino.len() + next.len() + size_of::<u16>() + entry.name.len() + 2).next_multiple_of(8);
        records.extend_from_slice(&ino);
        records.extend_from_slice(&next);
        records.extend_from_slice(&(len as u16).to_le_bytes());
        records.extend_from_slice(entry.name);
        records.resize(start + len - 1, 0);
        records.push(entry.kind.dirent_type());
    })
}

/// `getcwd`: the path with its terminating zero; returns its length.
///
/// # Errors
/// `ERANGE`, `ENOENT`, `EFAULT`.
pub fn getcwd(ctx: &Ctx<'_>, buffer: UserPtr<u8>, size: usize) -> SysResult {
    let fs = ctx.fs();
    let (root, cwd) = (fs.root.read().clone(), fs.cwd.read().clone());
    let mut path = cwd.working_directory(&root)?;
    path.push(0);
    if path.len() > size {
        return Err(Errno::ERANGE);
    }
    user_ptr::copy_out(buffer.address(), &path)?;
    Ok(path.len())
}

fn require_directory(context: vfs::ops::Context<'_>, place: &vfs::Location) -> Result<vfs::Location, Errno> {
    if place.inode().kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    context.check(place, Access::EXECUTE)?;
    Ok(place.clone())
}

/// `chdir`.
///
/// # Errors
/// Those of `chdir(2)`.
pub fn chdir(ctx: &Ctx<'_>, path: UserPtr<u8>) -> SysResult {
    let place = with_place(ctx, AT_FDCWD, path, 0, require_directory)?;
    *ctx.fs().cwd.write() = place;
    Ok(0)
}

/// `fchdir`.
///
/// # Errors
/// Those of `chdir(2)`.
pub fn fchdir(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    let place = with_descriptor(ctx, fd, require_directory)?;
    *ctx.fs().cwd.write() = place;
    Ok(0)
}

/// `chroot`.
///
/// # Errors
/// Those of `chroot(2)`.
pub fn chroot(ctx: &Ctx<'_>, path: UserPtr<u8>) -> SysResult {
    let place = with_place(ctx, AT_FDCWD, path, 0, require_directory)?;
    if !ctx.cred().for_files().privileged() {
        return Err(Errno::EPERM);
    }
    *ctx.fs().root.write() = place;
    Ok(0)
}

/// `umask`.
///
/// # Errors
/// None.
pub fn umask(ctx: &Ctx<'_>, mask: u32) -> SysResult {
    Ok(ctx.fs().set_umask(mask) as usize)
}
