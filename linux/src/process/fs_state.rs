//! A thread's view of the file tree.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use sync::RwLock;
use vfs::walk::Viewer;
use vfs::{Credentials, Location, MountTable};

use crate::held::Common;

/// A view of the file tree: mounts, root, working directory, umask.
pub struct FsState {
    /// What is mounted where.
    pub mounts: Arc<MountTable>,
    /// The root directory.
    pub root: RwLock<Location>,
    /// The working directory.
    pub cwd: RwLock<Location>,
    umask: AtomicU32,
    /// Threads that have it.
    holders: AtomicUsize,
}

impl FsState {
    /// Root and working directory at the root of `mounts`.
    #[must_use]
    pub fn new(mounts: Arc<MountTable>) -> Self {
        let root = mounts.root();
        Self::with(mounts, root.clone(), root, 0o022)
    }

    fn with(mounts: Arc<MountTable>, root: Location, cwd: Location, umask: u32) -> Self {
        Self { mounts, root: RwLock::new(root), cwd: RwLock::new(cwd), umask: AtomicU32::new(umask), holders: AtomicUsize::new(1) }
    }

    /// The same view, to be changed independently.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::with(self.mounts.clone(), self.root.read().clone(), self.cwd.read().clone(), self.umask())
    }

    /// Permissions that new files do not get.
    #[must_use]
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Replaces [`FsState::umask`]; returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }

    /// Threads that have it.
    #[inline(always)]
    pub(crate) fn holders(&self) -> usize {
        // Who is alone sees what those did who left.
        self.holders.load(Ordering::Acquire)
    }

    /// Nobody has it any more. Its directories may be in /proc and so hold the process itself, which would stay for ever.
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

impl Common for FsState {
    fn join(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }

    #[inline(always)]
    fn is_common(&self) -> bool {
        self.holders() > 1
    }
}
