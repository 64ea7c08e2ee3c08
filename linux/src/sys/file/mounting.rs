//! mount and umount: file systems in memory, /proc and /sys, and parts of the tree shown once more. There is one mount namespace, so how
//! mounts spread between namespaces is accepted and means nothing.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_abi::{Errno, raw};
use vfs::mount::{Lazy, MountMode};
use vfs::tmpfs::{Options, TmpFs};
use vfs::types::make_dev;
use vfs::{Inode, Location};

use super::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, memory_options, only, with_place};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;
use crate::{devfs, procfs, sysfs};

const MS_RDONLY: u64 = raw::MS_RDONLY as u64;
const MS_NOSUID: u64 = raw::MS_NOSUID as u64;
const MS_NODEV: u64 = raw::MS_NODEV as u64;
const MS_NOEXEC: u64 = raw::MS_NOEXEC as u64;
const MS_REMOUNT: u64 = raw::MS_REMOUNT as u64;
const MS_BIND: u64 = raw::MS_BIND as u64;
const MS_MOVE: u64 = raw::MS_MOVE as u64;
const MS_REC: u64 = raw::MS_REC as u64;
/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`.
const MS_PROPAGATION: u64 = 0xf << 17;
/// Once put before the flags, to tell them from older kernels'.
const MS_MAGIC: u64 = 0xc0ed_0000;
const MNT_FORCE: u32 = 1;
const MNT_DETACH: u32 = 2;
const MNT_EXPIRE: u32 = 4;
const UMOUNT_NOFOLLOW: u32 = 8;

/// Device numbers of file systems without a device, from here on.
static NEXT_DEVICE: AtomicU32 = AtomicU32::new(0x40);

fn require_privilege(ctx: &Ctx<'_>) -> Result<(), Errno> {
    if ctx.cred().for_files().privileged() { Ok(()) } else { Err(Errno::EPERM) }
}

/// `mount`.
///
/// # Errors
/// Those of `mount(2)`; `ENODEV` for file systems that there are not, `EINVAL` for `MS_MOVE`.
pub fn mount(ctx: &Ctx<'_>, source: UserPtr<u8>, target: UserPtr<u8>, kind: UserPtr<u8>, flags: u64, data: UserPtr<u8>) -> SysResult {
    let flags = if flags & 0xffff_0000 == MS_MAGIC { flags & 0xffff } else { flags };
    let text = |pointer: UserPtr<u8>| if pointer.is_null() { Ok(Vec::new()) } else { pointer.read_path() };
    let (kind, options, name) = (text(kind)?, text(data)?, text(source)?);
    let mut mode = MountMode::empty();
    mode.set(MountMode::READ_ONLY, flags & MS_RDONLY != 0);
    mode.set(MountMode::NO_SET_ID, flags & MS_NOSUID != 0);
    mode.set(MountMode::NO_EXEC, flags & MS_NOEXEC != 0);
    mode.set(MountMode::NO_DEVICES, flags & MS_NODEV != 0);
    with_place(ctx, AT_FDCWD, target, 0, |context, at| {
        require_privilege(ctx)?;
        let mounts = context.viewer.mounts;
        if flags & MS_REMOUNT != 0 {
            return mounts.remount(at, mode);
        }
        if flags & MS_BIND != 0 {
            return with_place(ctx, AT_FDCWD, source, 0, |_, from| match flags & MS_REC {
                0 => mounts.bind(from, at.clone()).map(drop),
                _ => mounts.bind_all(from, at.clone()),
            });
        }
        if flags & MS_PROPAGATION != 0 {
            return if at.is_mount_root() { Ok(()) } else { Err(Errno::EINVAL) };
        }
        if flags & MS_MOVE != 0 {
            return Err(Errno::EINVAL);
        }
        let (kind, root) = file_system(&kind, &options)?;
        let name = core::str::from_utf8(&name).map_err(|_| Errno::EINVAL)?;
        mounts.mount(at.clone(), root, kind, if name.is_empty() { "none" } else { name }, mode).map(drop)
    })
    .map(|()| 0)
}

/// A new file system of the kind that is asked for.
fn file_system(kind: &[u8], options: &[u8]) -> Result<(&'static str, Arc<dyn Inode>), Errno> {
    Ok(match kind {
        b"tmpfs" => ("tmpfs", memory(options)?),
        b"ramfs" => ("ramfs", memory(&[])?),
        b"proc" => ("proc", procfs::make()),
        b"sysfs" => ("sysfs", sysfs::make()),
        b"devtmpfs" => ("devtmpfs", devfs::make()?),
        _ => return Err(Errno::ENODEV),
    })
}

/// A tmpfs as its mount options describe it.
fn memory(text: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
    let device = make_dev(0, NEXT_DEVICE.fetch_add(1, Ordering::Relaxed));
    let mut options = Options { root_mode: 0o1777, ..memory_options(device) };
    let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "size" => options.max_pages = size(value).ok_or(Errno::EINVAL)?.div_ceil(4096),
            "nr_blocks" => options.max_pages = size(value).ok_or(Errno::EINVAL)?,
            "mode" => options.root_mode = u16::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777).ok_or(Errno::EINVAL)?,
            "uid" => options.root_uid = value.parse().map_err(|_| Errno::EINVAL)?,
            "gid" => options.root_gid = value.parse().map_err(|_| Errno::EINVAL)?,
            // The number of objects is limited by memory alone; large pages are not used for files.
            "nr_inodes" | "huge" | "mpol" | "inode64" | "inode32" | "noswap" => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(TmpFs::mount(options))
}

/// A number with `k`, `m`, `g` or, of the memory, `%` behind it.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "" => Some(number),
        "%" => Some(kernel::mm::memory_info().total_bytes() / 100 * number),
        "k" | "K" => number.checked_shl(10),
        "m" | "M" => number.checked_shl(20),
        "g" | "G" => number.checked_shl(30),
        _ => None,
    }
}

/// `umount2`.
///
/// # Errors
/// Those of `umount(2)`.
pub fn umount2(ctx: &Ctx<'_>, target: UserPtr<u8>, flags: u32) -> SysResult {
    only(flags, MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW)?;
    if flags & MNT_EXPIRE != 0 {
        // Marking a mount that goes if it is not used until the next call.
        return Err(if flags & (MNT_FORCE | MNT_DETACH) != 0 { Errno::EINVAL } else { Errno::EAGAIN });
    }
    let lazy = if flags & MNT_DETACH != 0 { Lazy::Yes } else { Lazy::No };
    let follow = if flags & UMOUNT_NOFOLLOW != 0 { AT_SYMLINK_NOFOLLOW } else { 0 };
    with_place(ctx, AT_FDCWD, target, follow, |context, at: &Location| {
        require_privilege(ctx)?;
        context.viewer.mounts.unmount(at, lazy)
    })
    .map(|()| 0)
}

/// `pivot_root`, `swapon`, `swapoff`: the tree is what `oxv` made it, and there is nothing to swap to.
///
/// # Errors
/// `EPERM`.
pub fn mount_denied(_ctx: &Ctx<'_>) -> SysResult {
    Err(Errno::EPERM)
}
