//! The file systems beside the root: /dev, /dev/pts, /dev/shm, /dev/mqueue, /proc, /sys.
//!
//! Mount points that the image lacks are made in the writable layer; `/tmp` is an ordinary directory of it.

use alloc::sync::Arc;

use kernel::mm::shrink::Shrinker;
use linux_abi::Errno;
use sync::{OnceCell, ThreadHandle};
use vfs::keeper;
use vfs::mount::MountMode;
use vfs::ops::Context;
use vfs::tmpfs::{Options, TmpFs};
use vfs::walk::{Follow, Viewer};
use vfs::{Credentials, FileKind, Inode, Location, MountTable};

use crate::sys::file::memory_options;
use crate::sys::ipc;
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
    tree.mount(b"/dev/mqueue", ipc::message_queue_tree(), "mqueue")?;
    tree.mount(b"/proc", procfs::make(), "proc")?;
    tree.mount(b"/sys", sysfs::make(), "sysfs")?;
    tree.mount(b"/sys/fs/cgroup", sysfs::control_groups(), "cgroup2")?;
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
        self.mounts.mount(at, inode, kind, kind, MountMode::empty()).map(drop)
    }
}

/// What is known of names gives way when memory is short. Its memory comes back after a grace period, so nobody waits for it.
struct Names;

static NAMES_DROPPER: OnceCell<ThreadHandle> = OnceCell::new();

impl Shrinker for Names {
    fn name(&self) -> &'static str {
        "names"
    }

    fn count(&self) -> u64 {
        keeper::count() as u64 / NAMES_PER_FRAME
    }

    fn scan(&self, _frames: u64) -> u64 {
        if let Some(thread) = NAMES_DROPPER.get() {
            thread.unpark();
        }
        0
    }
}

/// About how many names a frame holds, with what they keep.
const NAMES_PER_FRAME: u64 = 8;

/// Limits what is kept of names to some percent of the memory, and has it dropped when memory is short.
///
/// # Errors
/// `ENOMEM`.
pub fn bound_names() -> Result<(), Errno> {
    // A name for each eight frames takes about an eightieth of the memory.
    keeper::set_limit((kernel::mm::memory_info().total_frames / 8).clamp(64, 65536) as usize);
    let thread = kernel::thread::spawn("names", kernel::thread::Class::Normal, || {
        loop {
            kernel::thread::park(u64::MAX);
            let dropped = keeper::drop_unused();
            log::debug!("memory is short: {dropped} names dropped");
        }
    })?;
    let _first = NAMES_DROPPER.set(kernel::thread::handle(&thread));
    kernel::mm::shrink::register(&Names);
    Ok(())
}

/// Tells the terminal its new size.
pub fn set_window_size(rows: u16, columns: u16) {
    crate::terminal::set_window_size(rows, columns);
}
