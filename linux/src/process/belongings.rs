//! [`Belongings`]: what a thread has that others may have, too, and what one that is made, or runs a new program, begins with.
#![expect(unsafe_code, reason = "the caller's own handles")]

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_abi::Errno;
use linux_abi::raw::{CLONE_FILES, CLONE_FS, CLONE_SYSVSEM};

use super::{Cred, FsState, Place, Task};
use crate::ctx::Ctx;
use crate::fdtable::FdTable;
use crate::held::Held;
use crate::sys::ipc::UndoList;

/// What a thread has that others may have, too, and on whose behalf it acts.
pub(crate) struct Belongings {
    pub(crate) files: Held<FdTable>,
    pub(crate) fs: Held<FsState>,
    pub(crate) undo: Held<UndoList>,
    pub(crate) cred: Arc<Cred>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub(crate) no_new_privileges: bool,
    /// Its place among the threads of its user, but for the first of a process.
    pub(crate) place: Option<Place>,
}

impl Ctx<'_> {
    /// For a thread that the caller makes: copies of what the caller has, or the same as `flags` of `clone` say, and the caller's credentials.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn belongings_of_new(&self, flags: u64, place: Option<Place>) -> Result<Belongings, Errno> {
        let task = self.task();
        let shares = |flag: u32| flags & u64::from(flag) != 0;
        // SAFETY: the task is the running thread's; it uses no file of its table now that is not counted.
        let (files, fs, undo) = unsafe {
            (
                if shares(CLONE_FILES) { task.files.share() } else { Held::new(self.files().duplicate()?) },
                if shares(CLONE_FS) { task.fs.share() } else { Held::new(self.fs().duplicate()) },
                if shares(CLONE_SYSVSEM) { task.undo.share() } else { Held::new(UndoList::new()) },
            )
        };
        let no_new_privileges = task.no_new_privileges.load(Ordering::Relaxed);
        Ok(Belongings { files, fs, undo, cred: self.cred(), no_new_privileges, place })
    }
}

impl Task {
    /// What the running thread, `self`, hands on to the one that runs a new program on behalf of `cred`.
    pub(crate) fn hand_on(&self, cred: Arc<Cred>) -> Belongings {
        Belongings {
            files: self.files.hand_on(),
            fs: self.fs.hand_on(),
            undo: self.undo.hand_on(),
            cred,
            no_new_privileges: self.no_new_privileges.load(Ordering::Relaxed),
            place: None,
        }
    }
}
