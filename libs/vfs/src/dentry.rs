//! [`Dentry`]: a name in the tree that somebody is using.
//!
//! Theory. The file systems are the truth about names: a walk asks the directory's inode at every step. A dentry exists only
//! while an open file, a working directory, a mount or a child dentry refers to it; it remembers the way up, for `..`,
//! `getcwd` and `/proc/self/fd`, and gives every user of a directory the same object, so that a rename or removal is seen by
//! all. `children` holds weak references and is only a way to find the live dentry of a name again.
//! Locks: `link` (place in the tree) and `children` are leaf locks; nothing else is taken inside them.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hashbrown::HashMap;
use sync::Mutex;

use crate::inode::{Inode, same_inode};
use crate::types::Name;

/// A name in the tree, and the inode it names.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    link: Mutex<Link>,
    children: Mutex<HashMap<Name, Weak<Dentry>>>,
    /// The name has been removed.
    deleted: AtomicBool,
    /// Number of file systems mounted on it.
    mounts: AtomicU32,
}

/// Where a dentry hangs.
struct Link {
    parent: Option<Arc<Dentry>>,
    name: Name,
}

impl Dentry {
    /// The root of a file system, or a nameless object (`pipe:[5]`): it has no parent.
    #[must_use]
    pub fn new_root(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self::unlinked(inode, None, name))
    }

    fn unlinked(inode: Arc<dyn Inode>, parent: Option<Arc<Self>>, name: &[u8]) -> Self {
        Self {
            inode,
            link: Mutex::new(Link { parent, name: Box::from(name) }),
            children: Mutex::new(HashMap::new()),
            deleted: AtomicBool::new(false),
            mounts: AtomicU32::new(0),
        }
    }

    /// The inode it names.
    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// The directory it is in; `None` for a root.
    #[must_use]
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.link.lock().parent.clone()
    }

    /// Its last known name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.link.lock().name.clone()
    }

    /// Whether the name was removed.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// The dentry of entry `name`, which the file system says is `inode`.
    #[must_use]
    pub fn child(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Self> {
        let mut children = self.children.lock();
        if let Some(live) = children.get(name).and_then(Weak::upgrade) {
            if same_inode(&live.inode, &inode) {
                return live;
            }
            // Dropping it takes this very lock, so that must happen later.
            drop(children);
            drop(live);
            children = self.children.lock();
        }
        let child = Arc::new(Self::unlinked(inode, Some(self.clone()), name));
        children.insert(Box::from(name), Arc::downgrade(&child));
        child
    }

    /// The live dentry of `name`, if any.
    fn live_child(&self, name: &[u8]) -> Option<Arc<Self>> {
        self.children.lock().get(name).and_then(Weak::upgrade)
    }

    /// Notes that entry `name` was removed.
    pub fn forget_child(&self, name: &[u8]) {
        let gone = self.children.lock().remove(name).and_then(|weak| weak.upgrade());
        if let Some(dentry) = gone {
            dentry.deleted.store(true, Ordering::Release);
        }
    }

    /// Notes that entry `old` is now `new` in `new_dir`, and what was there is gone.
    pub fn move_child(&self, old: &[u8], new_dir: &Arc<Self>, new: &[u8]) {
        new_dir.forget_child(new);
        let moved = self.children.lock().remove(old).and_then(|weak| weak.upgrade());
        if let Some(dentry) = moved {
            dentry.hang(new_dir, new);
        }
    }

    /// Notes that entry `a` and entry `b` of `b_dir` changed places.
    pub fn exchange_child(self: &Arc<Self>, a: &[u8], b_dir: &Arc<Self>, b: &[u8]) {
        let (first, second) = (self.live_child(a), b_dir.live_child(b));
        self.children.lock().remove(a);
        b_dir.children.lock().remove(b);
        if let Some(dentry) = first {
            dentry.hang(b_dir, b);
        }
        if let Some(dentry) = second {
            dentry.hang(self, a);
        }
    }

    fn hang(self: &Arc<Self>, parent: &Arc<Self>, name: &[u8]) {
        let new = Link { parent: Some(parent.clone()), name: Box::from(name) };
        let old = core::mem::replace(&mut *self.link.lock(), new);
        parent.children.lock().insert(Box::from(name), Arc::downgrade(self));
        drop(old);
    }

    /// Whether something is mounted on it.
    #[must_use]
    pub fn is_mount_point(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    pub(crate) fn add_mount(&self) {
        self.mounts.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether something is mounted on the live dentry of entry `name`.
    #[must_use]
    pub fn child_is_mount_point(&self, name: &[u8]) -> bool {
        self.live_child(name).is_some_and(|child| child.is_mount_point())
    }

    /// Whether `self` is `ancestor` or below it.
    #[must_use]
    pub fn is_within(self: &Arc<Self>, ancestor: &Arc<Self>) -> bool {
        let mut current = Some(self.clone());
        while let Some(dentry) = current {
            if Arc::ptr_eq(&dentry, ancestor) {
                return true;
            }
            current = dentry.parent();
        }
        false
    }
}

impl Drop for Dentry {
    /// Takes itself out of its parent's map, and lets the parents go one by one: a path can be deeper than the stack.
    fn drop(&mut self) {
        let Link { parent, name } = self.link.get_mut();
        let name = core::mem::take(name);
        let mut next = parent.take().map(|parent| (parent, name));
        while let Some((parent, name)) = next {
            parent.prune(&name);
            next = Arc::into_inner(parent).and_then(|mut last| {
                let Link { parent, name } = last.link.get_mut();
                let name = core::mem::take(name);
                parent.take().map(|parent| (parent, name))
            });
        }
    }
}

impl Dentry {
    /// Drops the map entry `name` if its dentry is gone.
    fn prune(&self, name: &[u8]) {
        let mut children = self.children.lock();
        if children.get(name).is_some_and(|weak| weak.strong_count() == 0) {
            children.remove(name);
        }
    }
}
