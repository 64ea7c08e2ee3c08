//! [`View`]: what the path walks of a process start with, counted only if somebody else could change it meanwhile.
#![expect(unsafe_code, reason = "what a process with one thread uses of its own is not counted")]

use alloc::borrow::Cow;
use alloc::sync::Arc;

use vfs::walk::Viewer;
use vfs::{Credentials, Location};

use super::Process;

/// What a path walk starts with. See [`Process::view`].
pub(crate) struct View<'a> {
    credentials: Cow<'a, Arc<Credentials>>,
    root: Cow<'a, Location>,
    process: &'a Process,
}

impl<'a> View<'a> {
    /// As `vfs` wants it.
    pub(crate) fn viewer(&self) -> Viewer<'_> {
        Viewer { mounts: &self.process.fs.mounts, root: &self.root, credentials: &self.credentials }
    }

    /// The working directory.
    pub(crate) fn working_directory(&self) -> Cow<'a, Location> {
        if !self.process.walks_alone() {
            return Cow::Owned(self.process.fs.cwd.read().clone());
        }
        // SAFETY: as in `Process::view`.
        Cow::Borrowed(unsafe { self.process.fs.cwd.peek() })
    }
}

impl Process {
    /// Whether nobody but the calling thread can change what its path walks start with: no other thread (with which it would share the
    /// descriptors, too), and no other process with the same directories. The calling thread alone can end that.
    fn walks_alone(&self) -> bool {
        !self.files.is_shared() && !self.fs.has_other_users()
    }

    /// What a path walk of the calling thread starts with, counted unless it [walks alone](Self::walks_alone).
    ///
    /// Context: a thread of this process, which changes none of that as long as it uses the view.
    pub(crate) fn view(&self) -> View<'_> {
        if !self.walks_alone() {
            return View {
                credentials: Cow::Owned(self.credentials()),
                root: Cow::Owned(self.fs.root.read().clone()),
                process: self,
            };
        }
        // SAFETY: nobody is there who would write: the calling thread could alone, and does not (see above).
        let (credentials, root) = unsafe { (self.credentials.peek(), self.fs.root.peek()) };
        View { credentials: Cow::Borrowed(credentials), root: Cow::Borrowed(root), process: self }
    }
}
