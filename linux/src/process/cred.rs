//! [`Cred`]: on whose behalf a thread acts. A change makes a new one, so threads have them in common until one of them changes its own.
//!
//! Credentials are each thread's own: system calls change the caller's (the C library has all threads make the call). Who means a process (`kill`,
//! the owner of its files in `/proc`, `SIGCHLD`) means its first thread, which stays what it was when it has ended before the others.

use alloc::sync::Arc;
use core::ops::Deref;
use core::sync::atomic::Ordering;

use linux_abi::Errno;
use vfs::Credentials;

use super::{Ids, Process, Task};
use crate::capabilities::Capabilities;

/// Identities and capabilities. Derefs to the identities.
#[derive(Clone)]
pub struct Cred {
    ids: Ids,
    /// The part that the file system looks at.
    for_files: Arc<Credentials>,
    /// The capability sets.
    pub capabilities: Capabilities,
    /// `PR_SET_KEEPCAPS`.
    pub keep_capabilities: bool,
}

impl Deref for Cred {
    type Target = Ids;

    fn deref(&self) -> &Ids {
        &self.ids
    }
}

impl Cred {
    /// Those of a program that somebody with these identities executes.
    #[must_use]
    pub fn of_new_program(ids: Ids, inheritable: u64) -> Self {
        let capabilities = Capabilities::of_new_program(&ids, inheritable);
        Self { for_files: ids.credentials(), ids, capabilities, keep_capabilities: false }
    }

    /// Who it is to the file system.
    #[must_use]
    pub fn for_files(&self) -> &Arc<Credentials> {
        &self.for_files
    }

    /// The same with other identities, and what becomes of the capabilities.
    fn with_ids(&self, ids: Ids) -> Self {
        let capabilities = self.capabilities.after(&self.ids, &ids, self.keep_capabilities);
        Self { for_files: ids.credentials(), ids, capabilities, keep_capabilities: self.keep_capabilities }
    }
}

impl Task {
    /// On whose behalf it acts.
    #[must_use]
    pub fn cred(&self) -> Arc<Cred> {
        self.cred.read().clone()
    }

    fn set_cred(&self, new: Cred) {
        let new = Arc::new(new);
        self.identity.set(&new);
        self.unprivileged.store(!new.for_files.privileged(), Ordering::Relaxed);
        if self.tid == self.process().pid() {
            self.process().set_cred(new.clone());
        }
        let old = core::mem::replace(&mut *self.cred.write(), new);
        drop(old);
    }

    /// Changes the running thread's identities; it is `self`.
    ///
    /// # Errors
    /// What `change` returns; nothing changes then.
    pub(crate) fn change_ids<R>(&self, change: impl FnOnce(&mut Ids) -> Result<R, Errno>) -> Result<R, Errno> {
        let old = self.cred();
        let mut ids = old.ids.clone();
        let result = change(&mut ids)?;
        if ids == old.ids {
            return Ok(result);
        }
        if old.are_rights_changed(&ids) {
            self.process().rights_changed();
        }
        self.move_place(old.ruid, ids.ruid);
        self.set_cred(old.with_ids(ids));
        Ok(result)
    }

    /// Changes the running thread's capability sets; it is `self`.
    ///
    /// # Errors
    /// `EPERM` for what it may not have.
    pub(crate) fn set_capabilities(&self, new: Capabilities) -> Result<(), Errno> {
        let old = self.cred();
        let capabilities = old.capabilities.changed(new)?;
        self.set_cred(Cred { capabilities, ..Cred::clone(&old) });
        Ok(())
    }

    /// `setfsuid` of the running thread, `self`.
    pub(crate) fn set_fsuid(&self, uid: u32) {
        let old = self.cred();
        let ids = Ids { fsuid: uid, ..old.ids.clone() };
        if old.are_rights_changed(&ids) {
            self.process().rights_changed();
            let capabilities = old.capabilities.after_fsuid(old.fsuid, uid);
            self.set_cred(Cred { capabilities, for_files: ids.credentials(), ids, keep_capabilities: old.keep_capabilities });
        }
    }

    /// `PR_SET_KEEPCAPS` of the running thread, `self`.
    pub(crate) fn set_keep_capabilities(&self, keep: bool) {
        let old = self.cred();
        self.set_cred(Cred { keep_capabilities: keep, ..Cred::clone(&old) });
    }
}

impl Process {
    /// On whose behalf its first thread acts, or did at its end.
    #[must_use]
    pub fn cred(&self) -> Arc<Cred> {
        self.cred.read().clone()
    }

    pub(super) fn set_cred(&self, new: Arc<Cred>) {
        let old = core::mem::replace(&mut *self.cred.write(), new);
        drop(old);
    }
}
