//! /dev: a file system in memory with the devices every program expects.
//!
//! A device is its number (Linux: `Documentation/admin-guide/devices.txt`), wherever its node was made.

use alloc::sync::Arc;

use linux_abi::Errno;
use vfs::devices::Device;
use vfs::tmpfs::{Options, TmpFs};
use vfs::types::{OpenFlags, dev_major, dev_minor, make_dev};
use vfs::{File, FileKind, Inode, NewInode};

use crate::sys::file::now;
use crate::{kmsg, pty, random, terminal, torture};

/// Device number of the file system.
const DEV: u64 = 6;

/// Name, major and minor number, permissions.
const DEVICES: [(&str, u32, u32, u16); 9] = [
    ("null", 1, 3, 0o666),
    ("zero", 1, 5, 0o666),
    ("full", 1, 7, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
    ("kmsg", 1, 11, 0o644),
    ("tty", 5, 0, 0o666),
    ("console", 5, 1, 0o600),
    ("ptmx", 5, 2, 0o666),
];

/// The open file of the device with the number `rdev`.
///
/// # Errors
/// `ENXIO` if there is none; those of terminals.
pub(crate) fn open(kind: FileKind, rdev: u64, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    if kind != FileKind::CharDevice {
        return Err(Errno::ENXIO);
    }
    Ok(match (dev_major(rdev), dev_minor(rdev)) {
        (1, 3) => Device::Null.open(),
        (1, 5) => Device::Zero.open(),
        (1, 7) => Device::Full.open(),
        (1, 8 | 9) => Device::Random(random::fill).open(),
        (1, 11) => kmsg::open(),
        (5, 0) => terminal::open_controlling(flags)?,
        (5, 1) => terminal::open(flags)?,
        (5, 2) => pty::open_master()?,
        TORTURE if kernel::torture::has_device() => Arc::new(torture::Device),
        _ => return Err(Errno::ENXIO),
    })
}

/// A number for experiments.
const TORTURE: (u32, u32) = (10, 255);

/// The root directory of /dev. `/dev/pts` is a file system of its own: see `pty.rs`.
///
/// # Errors
/// `ENOMEM`.
pub fn make() -> Result<Arc<dyn Inode>, Errno> {
    let root = TmpFs::mount(Options { open_device: open, ..Options::new(DEV, now) });
    for (name, major, minor, mode) in DEVICES {
        root.create(name.as_bytes(), &new(FileKind::CharDevice, mode, make_dev(major, minor)))?;
    }
    if kernel::torture::has_device() {
        root.create(b"oxv-torture", &new(FileKind::CharDevice, 0o600, make_dev(TORTURE.0, TORTURE.1)))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        root.symlink(name.as_bytes(), target.as_bytes(), &new(FileKind::Symlink, 0o777, 0))?;
    }
    root.create(b"pts", &new(FileKind::Directory, 0o755, 0))?;
    for name in ["shm", "mqueue"] {
        root.create(name.as_bytes(), &new(FileKind::Directory, 0o1777, 0))?;
    }
    Ok(root)
}

fn new(kind: FileKind, mode: u16, rdev: u64) -> NewInode {
    NewInode { kind, mode, uid: 0, gid: 0, rdev }
}
