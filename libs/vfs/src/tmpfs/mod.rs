//! tmpfs: files in memory, alone or as the writable layer over a read-only tree.
//!
//! # The layer over a read-only tree
//! The root directory may have a *lower* directory. Objects of the lower tree appear as nodes of this file system, made when
//! looked up and keyed by their lower inode number, so hard links stay links and inode numbers never change. A node remembers
//! what differs from below: attributes once changed, pages once written (copy-up is per page, never of whole files), and for
//! directories the names added (`own`) and the lower names that no longer count (`hidden`, the whiteouts). A renamed directory
//! takes its lower directory with it, so nothing is ever copied and no rename fails with `EXDEV`.
//!
//! A node that differs from below is *dirty* and is kept by the table of instances; a clean one lives while somebody uses it.
//!
//! # Locks
//! Per node: the directory or page map (`RwLock`), attributes (`Mutex`), and for files a writer lock that orders writes and is
//! the only one held while program memory is touched; page faults never take it. Operations that lock several directories
//! (rename, rmdir) take `shape` first, so their order among each other does not matter. The instance table is sharded; its locks are leaves.
//!
//! Neighbours: `erofs_fs` is the usual lower tree; [`TmpFs::add_device`] makes this devfs too.

mod content;
mod directory;
mod node;

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use sync::Mutex;

use crate::file::File;
use crate::inode::Inode;
use crate::types::{Clock, FileKind, NewInode, OpenFlags, StatFs, TMPFS_MAGIC};
use crate::{Errno, Result};

pub use content::{SEAL_EXEC, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE};
pub use node::Node;

/// Makes the open file of one device node.
pub type Opener = Arc<dyn Fn(OpenFlags) -> Result<Arc<dyn File>> + Send + Sync>;

/// Makes the open file of a device node that was made by `mknod`: a device of this kind and number.
///
/// # Errors
/// `ENXIO` for a number that no device has.
pub type DeviceOpener = fn(FileKind, u64, OpenFlags) -> Result<Arc<dyn File>>;

/// How a file system in memory is set up.
#[derive(Clone)]
pub struct Options {
    /// `st_dev` of its files.
    pub dev: u64,
    /// Most pages of file content.
    pub max_pages: u64,
    /// What time it is.
    pub clock: Clock,
    /// Who opens its device nodes.
    pub open_device: DeviceOpener,
    /// Magic number that `statfs` shows.
    pub magic: u64,
    /// Mode of the root directory.
    pub root_mode: u16,
    /// Its owner.
    pub root_uid: u32,
    /// Its group.
    pub root_gid: u32,
    /// Whether names change only through [`crate::ops`], so that what they stand for may be remembered.
    pub cached_names: bool,
}

impl Options {
    /// A file system without a useful limit, with the root's mode 0755.
    #[must_use]
    pub const fn new(dev: u64, clock: Clock) -> Self {
        Self {
            dev,
            max_pages: u64::MAX / 2,
            clock,
            open_device: |_, _, _| Err(Errno::ENXIO),
            magic: TMPFS_MAGIC,
            root_mode: 0o755,
            root_uid: 0,
            root_gid: 0,
            cached_names: true,
        }
    }
}

const SHARDS: usize = 16;

/// Inode numbers of objects made here start above all numbers of a lower tree.
const FIRST_OWN_INO: u64 = 1 << 40;

/// A file system in memory.
pub struct TmpFs {
    options: Options,
    used_pages: AtomicU64,
    /// Pages of the lower tree, which `statfs` shows as used.
    lower_pages: u64,
    next_ino: AtomicU64,
    /// Held while directories move or go: these lock several directories at once.
    shape: Mutex<()>,
    /// Nodes that stand for objects of the lower tree, by lower inode number.
    instances: [Mutex<HashMap<u64, Instance>>; SHARDS],
}

/// A node of the lower tree's object.
enum Instance {
    /// As below: made again when needed.
    Clean(Weak<Node>),
    /// Different from below: must be kept.
    Dirty(Arc<Node>),
}

impl TmpFs {
    /// An empty file system; returns its root directory.
    #[must_use]
    pub fn mount(options: Options) -> Arc<Node> {
        let fs = Self::bare(options, 1, 0);
        let Options { root_mode: mode, root_uid: uid, root_gid: gid, .. } = fs.options;
        let new = NewInode { kind: FileKind::Directory, mode, uid, gid, rdev: 0 };
        fs.make(&new)
    }

    /// A writable layer over the tree below the directory `lower`; returns its root directory.
    #[must_use]
    pub fn over(lower: Arc<dyn Inode>, options: Options) -> Arc<Node> {
        let fs = Self::bare(options, FIRST_OWN_INO, lower.statfs().blocks);
        let root = fs.instance(lower);
        root.mark_dirty();
        root
    }

    /// A regular file without a name (`memfd_create`) and with inode number `ino`, which may be sealed if `seals` is given.
    #[must_use]
    pub fn unnamed_file(options: Options, ino: u64, mode: u16, seals: Option<u32>) -> Arc<Node> {
        let fs = Self::bare(options, ino, 0);
        let node = fs.make(&NewInode { kind: FileKind::Regular, mode, uid: 0, gid: 0, rdev: 0 });
        if let (Some(seals), Some(content)) = (seals, node.content()) {
            content.allow_seals(seals);
        }
        node
    }

    fn bare(options: Options, first_ino: u64, lower_pages: u64) -> Arc<Self> {
        Arc::new(Self {
            options,
            used_pages: AtomicU64::new(0),
            lower_pages,
            next_ino: AtomicU64::new(first_ino),
            shape: Mutex::new(()),
            instances: core::array::from_fn(|_| Mutex::new(HashMap::new())),
        })
    }

    fn make(self: &Arc<Self>, new: &NewInode) -> Arc<Node> {
        Node::new(self, self.next_ino.fetch_add(1, Ordering::Relaxed), new, None)
    }

    /// Makes a device node `name` in `directory`, which [`Inode::open`] opens through `opener`.
    ///
    /// # Errors
    /// `EEXIST`, `ENOTDIR`.
    pub fn add_device(directory: &Node, name: &[u8], new: &NewInode, opener: Opener) -> Result<()> {
        directory.add_device(name, new, opener)
    }

    fn shard(&self, ino: u64) -> &Mutex<HashMap<u64, Instance>> {
        &self.instances[ino as usize % SHARDS]
    }

    /// The node that stands for an object of the lower tree.
    fn instance(self: &Arc<Self>, lower: Arc<dyn Inode>) -> Arc<Node> {
        let ino = lower.metadata().ino;
        let mut shard = self.shard(ino).lock();
        match shard.get(&ino) {
            Some(Instance::Dirty(node)) => return node.clone(),
            Some(Instance::Clean(weak)) => {
                if let Some(node) = weak.upgrade() {
                    return node;
                }
            }
            None => {}
        }
        let node = Node::from_lower(self, lower);
        shard.insert(ino, Instance::Clean(Arc::downgrade(&node)));
        node
    }

    /// Keeps `node`, which begins to differ from below.
    fn keep(&self, node: Arc<Node>) {
        let old = self.shard(node.ino()).lock().insert(node.ino(), Instance::Dirty(node.clone()));
        drop(old);
    }

    /// Stops keeping a node whose last name is gone. The whiteouts see to it that it is not made again.
    fn let_go(&self, ino: u64) {
        let old = self.shard(ino).lock().remove(&ino);
        drop(old);
    }

    /// Removes the entry of a clean node that is going away.
    fn prune(&self, ino: u64) {
        let mut shard = self.shard(ino).lock();
        if matches!(shard.get(&ino), Some(Instance::Clean(weak)) if weak.strong_count() == 0) {
            shard.remove(&ino);
        }
    }

    fn now(&self) -> crate::Timespec {
        (self.options.clock)()
    }

    /// Accounts for one more page.
    fn charge(&self) -> Result<()> {
        let limit = self.options.max_pages;
        self.used_pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < limit).then_some(used + 1))
            .map(drop)
            .map_err(|_| Errno::ENOSPC)
    }

    fn uncharge(&self, pages: u64) {
        self.used_pages.fetch_sub(pages, Ordering::Relaxed);
    }

    fn statfs(&self) -> StatFs {
        let used = self.used_pages.load(Ordering::Relaxed);
        let free = self.options.max_pages.saturating_sub(used);
        StatFs {
            magic: self.options.magic,
            block_size: addr::PAGE_SIZE as u64,
            blocks: self.options.max_pages.saturating_add(self.lower_pages),
            free,
            files: free,
            files_free: free,
            flags: 0,
        }
    }
}

#[cfg(test)]
mod tests;
