//! /dev: a file system in memory with the devices every program expects.

use alloc::sync::Arc;

use linux_abi::Errno;
use vfs::devices::Device;
use vfs::tmpfs::{Node, Opener, Options, TmpFs};
use vfs::types::make_dev;
use vfs::{FileKind, Inode, NewInode};

use crate::sys::file::now;
use crate::{pty, random, terminal, torture};

/// Device number of the file system.
const DEV: u64 = 6;

/// The root directory of /dev.
///
/// # Errors
/// `ENOMEM`.
pub fn make() -> Result<Arc<dyn Inode>, Errno> {
    let root = TmpFs::mount(Options::new(DEV, now));
    add_memory_devices(&root)?;
    add_terminals(&root)?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        root.symlink(name.as_bytes(), target.as_bytes(), &new(FileKind::Symlink, 0o777, 0))?;
    }
    for name in ["shm", "mqueue"] {
        root.create(name.as_bytes(), &new(FileKind::Directory, 0o1777, 0))?;
    }
    Ok(root)
}

fn new(kind: FileKind, mode: u16, rdev: u64) -> NewInode {
    NewInode { kind, mode, uid: 0, gid: 0, rdev }
}

fn add(directory: &Node, name: &str, (major, minor): (u32, u32), mode: u16, opener: Opener) -> Result<(), Errno> {
    TmpFs::add_device(directory, name.as_bytes(), &new(FileKind::CharDevice, mode, make_dev(major, minor)), opener)
}

fn add_memory_devices(root: &Node) -> Result<(), Errno> {
    add(root, "null", (1, 3), 0o666, Arc::new(|_| Ok(Device::Null.open())))?;
    add(root, "zero", (1, 5), 0o666, Arc::new(|_| Ok(Device::Zero.open())))?;
    add(root, "full", (1, 7), 0o666, Arc::new(|_| Ok(Device::Full.open())))?;
    add(root, "random", (1, 8), 0o666, Arc::new(|_| Ok(Device::Random(random::fill).open())))?;
    if kernel::torture::has_device() {
        add(root, "oxv-torture", (10, 255), 0o600, Arc::new(|_| Ok(Arc::new(torture::Device))))?;
    }
    add(root, "urandom", (1, 9), 0o666, Arc::new(|_| Ok(Device::Random(random::fill).open())))
}

/// `/dev/pts` is a file system of its own: see `pty.rs`.
fn add_terminals(root: &Node) -> Result<(), Errno> {
    add(root, "tty", (5, 0), 0o666, Arc::new(terminal::open_controlling))?;
    add(root, "console", (5, 1), 0o600, Arc::new(terminal::open))?;
    add(root, "ptmx", (5, 2), 0o666, Arc::new(|_| pty::open_master()))?;
    root.create(b"pts", &new(FileKind::Directory, 0o755, 0)).map(drop)
}
