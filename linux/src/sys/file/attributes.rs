//! What a file is: stat and its relatives, permissions, owner, times, extended attributes.

use linux_abi::Errno;
use linux_abi::fs::{Stat, Statfs, Statx, StatxTimestamp};
use linux_abi::time::{Timespec, Timeval};
use vfs::inode::XattrMode;
use vfs::inotify::{self, Happening};
use vfs::ops::SetTime;
use vfs::mount::MountMode;
use vfs::types::{Access, Credentials, FileKind, Metadata, dev_major, dev_minor};
use vfs::{Location, ops::Context};

use super::{
    AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_STATX_SYNC_TYPE, AT_SYMLINK_NOFOLLOW, find, now, only,
    with_descriptor, with_place,
};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::{self, UserPtr};

/// `STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID`.
const STATX_FILLED: u32 = 0xfff | 0x1000;
/// In place of `STATX_MNT_ID`: a number that is never used again; ours never are.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
const STATX_RESERVED: u32 = 1 << 31;
const NAME_LEN: i64 = 255;
const UTIME_NOW: i64 = 0x3fff_ffff;
const UTIME_OMIT: i64 = 0x3fff_fffe;
const XATTR_NAME_MAX: usize = 255;
const XATTR_SIZE_MAX: usize = 65536;
const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

fn time(t: vfs::Timespec) -> Timespec {
    Timespec { sec: t.sec, nsec: i64::from(t.nsec) }
}

#[inline]
fn stat_of(m: &Metadata) -> Stat {
    Stat {
        dev: m.dev,
        ino: m.ino,
        nlink: u64::from(m.nlink),
        mode: m.st_mode(),
        uid: m.uid,
        gid: m.gid,
        pad0: 0,
        rdev: m.rdev,
        size: m.size as i64,
        blksize: i64::from(m.block_size),
        blocks: m.blocks as i64,
        atime: time(m.atime),
        mtime: time(m.mtime),
        ctime: time(m.ctime),
        unused: [0; 3],
    }
}

/// `newfstatat`.
///
/// # Errors
/// Those of `stat(2)`.
pub fn newfstatat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, out: UserPtr<Stat>, flags: u32) -> SysResult {
    // What the C library makes of `fstat`.
    if flags == AT_EMPTY_PATH && dirfd >= 0 && path.is_empty_string() {
        return fstat(ctx, dirfd, out);
    }
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)?;
    let metadata = with_place(ctx, dirfd, path, flags, |_, place| Ok(place.inode().metadata()))?;
    out.write(&stat_of(&metadata)).map(|()| 0)
}

/// `stat`.
///
/// # Errors
/// Those of `stat(2)`.
pub fn stat(ctx: &Ctx<'_>, path: UserPtr<u8>, out: UserPtr<Stat>) -> SysResult {
    newfstatat(ctx, AT_FDCWD, path, out, 0)
}

/// `lstat`.
///
/// # Errors
/// Those of `stat(2)`.
pub fn lstat(ctx: &Ctx<'_>, path: UserPtr<u8>, out: UserPtr<Stat>) -> SysResult {
    newfstatat(ctx, AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW)
}

/// `fstat`.
///
/// # Errors
/// `EBADF`, `EFAULT`.
pub fn fstat(ctx: &Ctx<'_>, fd: i32, out: UserPtr<Stat>) -> SysResult {
    let stat = stat_of(&find(ctx, fd)?.metadata());
    out.write(&stat).map(|()| 0)
}

/// `statx`.
///
/// # Errors
/// Those of `statx(2)`.
pub fn statx(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, flags: u32, mask: u32, out: UserPtr<Statx>) -> SysResult {
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE)?;
    if mask & STATX_RESERVED != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let (m, mount, is_root) = with_place(ctx, dirfd, path, flags, |_, place| {
        Ok((place.inode().metadata(), place.mount().id, place.is_mount_root()))
    })?;
    let mount_bit = if mask & STATX_MNT_ID_UNIQUE != 0 { STATX_MNT_ID_UNIQUE } else { 0x1000 };
    let stamp = |t: vfs::Timespec| StatxTimestamp { sec: t.sec, nsec: t.nsec, reserved: 0 };
    let statx = Statx {
        mask: STATX_FILLED & !0x1000 | mount_bit,
        attributes: if is_root { STATX_ATTR_MOUNT_ROOT } else { 0 },
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        mnt_id: u64::from(mount),
        blksize: m.block_size,
        nlink: m.nlink,
        uid: m.uid,
        gid: m.gid,
        mode: m.st_mode() as u16,
        ino: m.ino,
        size: m.size,
        blocks: m.blocks,
        atime: stamp(m.atime),
        btime: stamp(m.btime),
        ctime: stamp(m.ctime),
        mtime: stamp(m.mtime),
        rdev_major: dev_major(m.rdev),
        rdev_minor: dev_minor(m.rdev),
        dev_major: dev_major(m.dev),
        dev_minor: dev_minor(m.dev),
        ..Statx::default()
    };
    out.write(&statx).map(|()| 0)
}

fn statfs_of(place: &Location) -> Statfs {
    const ST_RDONLY: i64 = 1;
    const ST_NOSUID: i64 = 2;
    const ST_NODEV: i64 = 4;
    const ST_NOEXEC: i64 = 8;
    let (s, mode) = (place.inode().statfs(), place.mount().mode());
    let flag = |mount, flag| if mode.contains(mount) { flag } else { 0 };
    Statfs {
        kind: s.magic as i64,
        bsize: s.block_size as i64,
        blocks: s.blocks as i64,
        bfree: s.free as i64,
        bavail: s.free as i64,
        files: s.files as i64,
        ffree: s.files_free as i64,
        fsid: [0; 2],
        namelen: NAME_LEN,
        frsize: s.block_size as i64,
        flags: s.flags as i64
            | flag(MountMode::READ_ONLY, ST_RDONLY)
            | flag(MountMode::NO_SET_ID, ST_NOSUID)
            | flag(MountMode::NO_DEVICES, ST_NODEV)
            | flag(MountMode::NO_EXEC, ST_NOEXEC),
        spare: [0; 4],
    }
}

/// `statfs`.
///
/// # Errors
/// Those of `statfs(2)`.
pub fn statfs(ctx: &Ctx<'_>, path: UserPtr<u8>, out: UserPtr<Statfs>) -> SysResult {
    let s = with_place(ctx, AT_FDCWD, path, 0, |_, place| Ok(statfs_of(place)))?;
    out.write(&s).map(|()| 0)
}

/// `fstatfs`.
///
/// # Errors
/// `EBADF`, `EFAULT`.
pub fn fstatfs(ctx: &Ctx<'_>, fd: i32, out: UserPtr<Statfs>) -> SysResult {
    let s = statfs_of(find(ctx, fd)?.location());
    out.write(&s).map(|()| 0)
}

/// `faccessat2`.
///
/// # Errors
/// Those of `access(2)`.
pub fn faccessat2(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, mode: u32, flags: u32) -> SysResult {
    only(flags, AT_EACCESS | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let access = u8::try_from(mode).ok().and_then(Access::from_bits).ok_or(Errno::EINVAL)?;
    let cred = ctx.cred();
    let real = Credentials { uid: cred.ruid, gid: cred.rgid, groups: cred.groups.clone() };
    with_place(ctx, dirfd, path, flags & !AT_EACCESS, |context, place| {
        if access.contains(Access::EXECUTE) {
            place.require_executable()?;
        }
        if access.is_empty() || flags & AT_EACCESS != 0 {
            return context.check(place, access);
        }
        let viewer = vfs::walk::Viewer { credentials: &real, ..context.viewer };
        Context { viewer, ..context }.check(place, access)
    })
    .map(|()| 0)
}

/// `faccessat`.
///
/// # Errors
/// Those of `access(2)`.
pub fn faccessat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, mode: u32) -> SysResult {
    faccessat2(ctx, dirfd, path, mode, 0)
}

/// `access`.
///
/// # Errors
/// Those of `access(2)`.
pub fn access(ctx: &Ctx<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    faccessat2(ctx, AT_FDCWD, path, mode, 0)
}

/// `fchmodat2`.
///
/// # Errors
/// Those of `chmod(2)`.
pub fn fchmodat2(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, mode: u32, flags: u32) -> SysResult {
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let mode = (mode & 0o7777) as u16;
    with_place(ctx, dirfd, path, flags, |context, place| context.change_mode(place, mode)).map(|()| 0)
}

/// `fchmodat`.
///
/// # Errors
/// Those of `chmod(2)`.
pub fn fchmodat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, mode: u32) -> SysResult {
    fchmodat2(ctx, dirfd, path, mode, 0)
}

/// `chmod`.
///
/// # Errors
/// Those of `chmod(2)`.
pub fn chmod(ctx: &Ctx<'_>, path: UserPtr<u8>, mode: u32) -> SysResult {
    fchmodat2(ctx, AT_FDCWD, path, mode, 0)
}

/// `fchmod`.
///
/// # Errors
/// Those of `chmod(2)`.
pub fn fchmod(ctx: &Ctx<'_>, fd: i32, mode: u32) -> SysResult {
    find(ctx, fd)?.require_open()?;
    with_descriptor(ctx, fd, |context, place| context.change_mode(place, (mode & 0o7777) as u16)).map(|()| 0)
}

fn id(value: u32) -> Option<u32> {
    (value != u32::MAX).then_some(value)
}

/// `fchownat`.
///
/// # Errors
/// Those of `chown(2)`.
pub fn fchownat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, uid: u32, gid: u32, flags: u32) -> SysResult {
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    with_place(ctx, dirfd, path, flags, |context, place| context.change_owner(place, id(uid), id(gid))).map(|()| 0)
}

/// `chown`.
///
/// # Errors
/// Those of `chown(2)`.
pub fn chown(ctx: &Ctx<'_>, path: UserPtr<u8>, uid: u32, gid: u32) -> SysResult {
    fchownat(ctx, AT_FDCWD, path, uid, gid, 0)
}

/// `lchown`.
///
/// # Errors
/// Those of `chown(2)`.
pub fn lchown(ctx: &Ctx<'_>, path: UserPtr<u8>, uid: u32, gid: u32) -> SysResult {
    fchownat(ctx, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

/// `fchown`.
///
/// # Errors
/// Those of `chown(2)`.
pub fn fchown(ctx: &Ctx<'_>, fd: i32, uid: u32, gid: u32) -> SysResult {
    find(ctx, fd)?.require_open()?;
    with_descriptor(ctx, fd, |context, place| context.change_owner(place, id(uid), id(gid))).map(|()| 0)
}

fn set_time(t: &Timespec) -> Result<SetTime, Errno> {
    match t.nsec {
        UTIME_NOW => Ok(SetTime::Now),
        UTIME_OMIT => Ok(SetTime::Omit),
        0..1_000_000_000 => Ok(SetTime::To(vfs::Timespec { sec: t.sec, nsec: t.nsec as u32 })),
        _ => Err(Errno::EINVAL),
    }
}

/// `utimensat`; a null path means the descriptor itself (`futimens`).
///
/// # Errors
/// Those of `utimensat(2)`.
pub fn utimensat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, times: UserPtr<Timespec>, flags: u32) -> SysResult {
    only(flags, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)?;
    let (atime, mtime) = match times.non_null() {
        None => (SetTime::Now, SetTime::Now),
        Some(times) => (set_time(&times.read()?)?, set_time(&times.add(1).read()?)?),
    };
    let change = |context: Context<'_>, place: &Location| context.change_times(place, atime, mtime, now());
    if path.is_null() && dirfd != AT_FDCWD {
        only(flags, 0)?;
        return with_descriptor(ctx, dirfd, change).map(|()| 0);
    }
    with_place(ctx, dirfd, path, flags, change).map(|()| 0)
}

/// Microseconds and seconds as a time to set.
fn set_timeval(t: Timeval) -> Result<SetTime, Errno> {
    match t.usec {
        0..1_000_000 => Ok(SetTime::To(vfs::Timespec { sec: t.sec, nsec: t.usec as u32 * 1000 })),
        _ => Err(Errno::EINVAL),
    }
}

/// `futimesat`.
///
/// # Errors
/// Those of `futimesat(2)`.
pub fn futimesat(ctx: &Ctx<'_>, dirfd: i32, path: UserPtr<u8>, times: UserPtr<Timeval>) -> SysResult {
    let (atime, mtime) = match times.non_null() {
        None => (SetTime::Now, SetTime::Now),
        Some(times) => (set_timeval(times.read()?)?, set_timeval(times.add(1).read()?)?),
    };
    with_place(ctx, dirfd, path, 0, |context, place| context.change_times(place, atime, mtime, now())).map(|()| 0)
}

/// `utimes`.
///
/// # Errors
/// Those of `utimes(2)`.
pub fn utimes(ctx: &Ctx<'_>, path: UserPtr<u8>, times: UserPtr<Timeval>) -> SysResult {
    futimesat(ctx, AT_FDCWD, path, times)
}

/// `utime`: whole seconds.
///
/// # Errors
/// Those of `utime(2)`.
pub fn utime(ctx: &Ctx<'_>, path: UserPtr<u8>, times: UserPtr<i64>) -> SysResult {
    let at = |sec| SetTime::To(vfs::Timespec { sec, nsec: 0 });
    let (atime, mtime) = match times.non_null() {
        None => (SetTime::Now, SetTime::Now),
        Some(times) => (at(times.read()?), at(times.add(1).read()?)),
    };
    with_place(ctx, AT_FDCWD, path, 0, |context, place| context.change_times(place, atime, mtime, now())).map(|()| 0)
}

/// Copies a value out as the `getxattr` calls do: size 0 only asks how long it is.
fn give(value: &[u8], out: UserPtr<u8>, size: usize) -> SysResult {
    if size == 0 {
        return Ok(value.len());
    }
    if value.len() > size {
        return Err(Errno::ERANGE);
    }
    user_ptr::copy_out(out.address(), value)?;
    Ok(value.len())
}

fn xattr_name(name: UserPtr<u8>) -> Result<alloc::vec::Vec<u8>, Errno> {
    let name = name.read_string(XATTR_NAME_MAX + 1, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

/// Defines the three forms of an xattr call: by path, by path without following the last link, by descriptor.
macro_rules! xattr_calls {
    ($($what:literal: $plain:ident, $link:ident, $descriptor:ident($($arg:ident: $t:ty),*) => $body:ident;)*) => {
        $(
            #[doc = $what]
            ///
            /// # Errors
            /// Those of the man page; `EOPNOTSUPP` where the file system has no extended attributes.
            pub fn $plain(ctx: &Ctx<'_>, path: UserPtr<u8>, $($arg: $t),*) -> SysResult {
                with_place(ctx, AT_FDCWD, path, 0, |context, place| $body(context, place, $($arg),*))
            }

            #[doc = $what]
            /// Of a symbolic link itself.
            ///
            /// # Errors
            /// Those of the man page; `EOPNOTSUPP` where the file system has no extended attributes.
            pub fn $link(ctx: &Ctx<'_>, path: UserPtr<u8>, $($arg: $t),*) -> SysResult {
                with_place(ctx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, |context, place| $body(context, place, $($arg),*))
            }

            #[doc = $what]
            /// Of an open file.
            ///
            /// # Errors
            /// Those of the man page; `EOPNOTSUPP` where the file system has no extended attributes.
            pub fn $descriptor(ctx: &Ctx<'_>, fd: i32, $($arg: $t),*) -> SysResult {
                find(ctx, fd)?.require_open()?;
                with_descriptor(ctx, fd, |context, place| $body(context, place, $($arg),*))
            }
        )*
    };
}

xattr_calls! {
    "Reads an extended attribute.":
        getxattr, lgetxattr, fgetxattr(name: UserPtr<u8>, value: UserPtr<u8>, size: usize) => read_xattr;
    "Sets an extended attribute.":
        setxattr, lsetxattr, fsetxattr(name: UserPtr<u8>, value: UserPtr<u8>, size: usize, flags: u32) => write_xattr;
    "Lists the names of extended attributes.":
        listxattr, llistxattr, flistxattr(list: UserPtr<u8>, size: usize) => names_of_xattrs;
    "Removes an extended attribute.":
        removexattr, lremovexattr, fremovexattr(name: UserPtr<u8>) => delete_xattr;
}

/// Who may read or change an attribute of that name (`xattr(7)`).
fn check_xattr(context: &Context<'_>, place: &Location, name: &[u8], access: Access) -> Result<(), Errno> {
    let me = context.viewer.credentials;
    if access == Access::WRITE {
        place.require_writable()?;
    }
    match (name.split(|byte| *byte == b'.').next(), access) {
        (Some(b"trusted"), _) if me.privileged() => Ok(()),
        (Some(b"trusted"), Access::WRITE) => Err(Errno::EPERM),
        (Some(b"trusted"), _) => Err(Errno::ENODATA),
        (Some(b"security"), Access::WRITE) if !me.privileged() => Err(Errno::EPERM),
        (Some(b"security"), _) => Ok(()),
        (Some(b"user"), Access::WRITE) => {
            let owner = place.inode().permissions();
            let sticky = owner.mode & 0o1000 != 0 && place.inode().kind() == FileKind::Directory;
            if sticky && !me.privileged() && me.uid != owner.uid {
                return Err(Errno::EPERM);
            }
            context.check(place, access)
        }
        _ => context.check(place, access),
    }
}

fn read_xattr(
    context: Context<'_>,
    place: &Location,
    name: UserPtr<u8>,
    value: UserPtr<u8>,
    size: usize,
) -> SysResult {
    let name = xattr_name(name)?;
    check_xattr(&context, place, &name, Access::READ)?;
    let found = place.inode().get_xattr(&name)?;
    give(&found, value, size)
}

fn write_xattr(
    context: Context<'_>,
    place: &Location,
    name: UserPtr<u8>,
    value: UserPtr<u8>,
    size: usize,
    flags: u32,
) -> SysResult {
    let mode = match flags {
        0 => XattrMode::Any,
        XATTR_CREATE => XattrMode::Create,
        XATTR_REPLACE => XattrMode::Replace,
        _ => return Err(Errno::EINVAL),
    };
    let name = xattr_name(name)?;
    if size > XATTR_SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let value = value.read_vec(size)?;
    check_xattr(&context, place, &name, Access::WRITE)?;
    place.inode().set_xattr(&name, &value, mode)?;
    inotify::happened(place.dentry(), Happening::ATTRIB);
    Ok(0)
}

fn names_of_xattrs(context: Context<'_>, place: &Location, list: UserPtr<u8>, size: usize) -> SysResult {
    let names = match place.inode().list_xattr() {
        Err(Errno::EOPNOTSUPP) => return Ok(0),
        names => names?,
    };
    if context.viewer.credentials.privileged() {
        return give(&names, list, size);
    }
    let shown: alloc::vec::Vec<u8> = names.split_inclusive(|byte| *byte == 0).filter(|name| !name.starts_with(b"trusted.")).flatten().copied().collect();
    give(&shown, list, size)
}

fn delete_xattr(context: Context<'_>, place: &Location, name: UserPtr<u8>) -> SysResult {
    let name = xattr_name(name)?;
    check_xattr(&context, place, &name, Access::WRITE)?;
    place.inode().remove_xattr(&name)?;
    inotify::happened(place.dentry(), Happening::ATTRIB);
    Ok(0)
}
