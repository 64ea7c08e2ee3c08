//! A process's view of the file tree.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use sync::RwLock;
use vfs::walk::Viewer;
use vfs::{Credentials, Location, MountTable};

/// A process's view of the file tree: mounts, root, working directory, umask.
pub struct FsState {
    /// What is mounted where.
    pub mounts: Arc<MountTable>,
    /// The root directory.
    pub root: RwLock<Location>,
    /// The working directory.
    pub cwd: RwLock<Location>,
    /// Permissions that new files do not get.
    pub umask: AtomicU32,
}

impl FsState {
    /// Root and working directory at the root of `mounts`.
    #[must_use]
    pub fn new(mounts: Arc<MountTable>) -> Self {
        let root = mounts.root();
        Self { mounts, root: RwLock::new(root.clone()), cwd: RwLock::new(root), umask: AtomicU32::new(0o022) }
    }

    /// The same view, to be changed independently: `fork`.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            mounts: self.mounts.clone(),
            root: RwLock::new(self.root.read().clone()),
            cwd: RwLock::new(self.cwd.read().clone()),
            umask: AtomicU32::new(self.umask.load(Ordering::Relaxed)),
        }
    }

    /// The last process that has it ends. Its directories may be in /proc and so hold the process itself, which would stay for ever.
    pub(crate) fn let_go(&self) {
        let top = self.mounts.root();
        let gone = [&self.root, &self.cwd].map(|place| core::mem::replace(&mut *place.write(), top.clone()));
        drop(gone);
    }

    /// Calls `f` with what a path walk needs, and the working directory.
    pub fn with_viewer<R>(&self, credentials: &Credentials, f: impl FnOnce(Viewer<'_>, &Location) -> R) -> R {
        let (root, cwd) = (self.root.read().clone(), self.cwd.read().clone());
        f(Viewer { mounts: &self.mounts, root: &root, credentials }, &cwd)
    }
}
