//! The file systems beside the root: /dev, /dev/pts, /dev/shm, /proc, /sys.
//!
//! Mount points that the image lacks are made in the writable layer; `/tmp` is an ordinary directory of it.

use alloc::sync::Arc;

use linux_abi::Errno;
use vfs::mount::MountMode;
use vfs::ops::Context;
use vfs::tmpfs::{Options, TmpFs};
use vfs::walk::{Follow, Viewer};
use vfs::{Credentials, FileKind, Inode, Location, MountTable};

use crate::sys::file::memory_options;
use crate::{devfs, procfs, pty, sysfs};

const SHM_DEV: u64 = 0x1a;

/// Mounts them all.
///
/// # Errors
/// `ENOENT` where a mount point is missing and cannot be made.
pub fn mount_all(mounts: &MountTable) -> Result<(), Errno> {
    let root = mounts.root();
    let credentials = Credentials::root();
    let tree = Tree { mounts, root: &root, credentials: &credentials };
    tree.mount(b"/dev", devfs::make()?, "devtmpfs")?;
    tree.mount(b"/dev/pts", pty::directory()?, "devpts")?;
    let shm = TmpFs::mount(Options { root_mode: 0o1777, ..memory_options(SHM_DEV) });
    tree.mount(b"/dev/shm", shm, "tmpfs")?;
    tree.mount(b"/proc", procfs::make(), "proc")?;
    tree.mount(b"/sys", sysfs::make(), "sysfs")?;
    tree.directory(b"/tmp", 0o1777).map(drop)
}

struct Tree<'a> {
    mounts: &'a MountTable,
    root: &'a Location,
    credentials: &'a Credentials,
}

impl Tree<'_> {
    fn context(&self) -> Context<'_> {
        let viewer = Viewer { mounts: self.mounts, root: self.root, credentials: self.credentials };
        Context { viewer, umask: 0 }
    }

    /// The directory `path`, made if it is missing.
    fn directory(&self, path: &[u8], mode: u16) -> Result<Location, Errno> {
        match self.context().lookup(self.root, path, Follow::Yes) {
            Err(Errno::ENOENT) => self.context().make(self.root, path, FileKind::Directory, mode, 0),
            found => found,
        }
    }

    fn mount(&self, path: &[u8], inode: Arc<dyn Inode>, kind: &'static str) -> Result<(), Errno> {
        let at = self.directory(path, 0o755)?;
        self.mounts.mount(at, inode, kind, kind, MountMode::ReadWrite).map(drop)
    }
}

/// Tells the terminal its new size.
pub fn set_window_size(rows: u16, columns: u16) {
    crate::terminal::set_window_size(rows, columns);
}
