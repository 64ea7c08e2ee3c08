//! [`View`]: what a thread's path walks start with, counted only if somebody else could change it meanwhile.
#![expect(unsafe_code, reason = "what a thread alone changes it need not count")]

use alloc::borrow::Cow;

use vfs::walk::Viewer;
use vfs::{Credentials, Location};

use super::FsState;
use crate::ctx::Ctx;
use crate::held::Common;

/// What a path walk starts with. See [`Ctx::view`].
pub(crate) struct View<'a> {
    credentials: &'a Credentials,
    root: Cow<'a, Location>,
    fs: &'a FsState,
}

impl<'a> View<'a> {
    /// As `vfs` wants it.
    pub(crate) fn viewer(&self) -> Viewer<'_> {
        Viewer { mounts: &self.fs.mounts, root: &self.root, credentials: self.credentials }
    }

    /// The working directory.
    pub(crate) fn working_directory(&self) -> Cow<'a, Location> {
        if self.fs.is_common() {
            return Cow::Owned(self.fs.cwd.read().clone());
        }
        // SAFETY: as in `Ctx::view`.
        Cow::Borrowed(unsafe { self.fs.cwd.peek() })
    }

    /// Permissions that new files do not get.
    pub(crate) fn umask(&self) -> u16 {
        self.fs.umask() as u16
    }
}

impl<'a> Ctx<'a> {
    /// What a path walk of the calling thread starts with. Its credentials are its own; its directories are counted if another thread has them,
    /// too.
    ///
    /// Context: the thread changes none of that as long as it uses the view.
    pub(crate) fn view(&self) -> View<'a> {
        let fs = self.fs();
        // SAFETY: only the thread itself writes, and does not (see above).
        let credentials = unsafe { self.task().own_cred() }.for_files();
        if fs.is_common() {
            return View { credentials, root: Cow::Owned(fs.root.read().clone()), fs };
        }
        // SAFETY: nobody is there who would write: the calling thread alone could, and alone can make others able to.
        View { credentials, root: Cow::Borrowed(unsafe { fs.root.peek() }), fs }
    }
}
