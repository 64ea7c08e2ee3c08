//! Who a thread is: users, groups, and the copy of them that answers calls without a kernel stack.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use vfs::Credentials;

/// Identities of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Real user.
    pub ruid: u32,
    /// Effective user.
    pub euid: u32,
    /// Saved user.
    pub suid: u32,
    /// File-system user.
    pub fsuid: u32,
    /// Real group.
    pub rgid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved group.
    pub sgid: u32,
    /// File-system group.
    pub fsgid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Ids {
    /// All user ids `uid`, all group ids `gid`.
    #[must_use]
    pub const fn new(uid: u32, gid: u32) -> Self {
        Self {
            ruid: uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            rgid: gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: Vec::new(),
        }
    }

    /// Whether somebody who becomes `new` has other rights to files (credentials(7)): the process is then no longer anybody's to look into.
    pub(super) fn are_rights_changed(&self, new: &Self) -> bool {
        (self.euid, self.egid, self.fsuid, self.fsgid) != (new.euid, new.egid, new.fsuid, new.fsgid)
    }

    pub(super) fn credentials(&self) -> Arc<Credentials> {
        Arc::new(Credentials { uid: self.fsuid, gid: self.fsgid, groups: self.groups.clone() })
    }
}

/// Numbers that calls which need no kernel stack answer with ([`crate::calls`]): a copy of what is elsewhere.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Identity {
    pid: u32,
    ruid: AtomicU32,
    euid: AtomicU32,
    rgid: AtomicU32,
    egid: AtomicU32,
}

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the calls' own names")]
pub enum OwnId {
    Uid,
    Euid,
    Gid,
    Egid,
}

impl Identity {
    pub(crate) const PID: usize = offset_of!(Self, pid);
    pub(crate) const RUID: usize = offset_of!(Self, ruid);
    pub(crate) const EUID: usize = offset_of!(Self, euid);
    pub(crate) const RGID: usize = offset_of!(Self, rgid);
    pub(crate) const EGID: usize = offset_of!(Self, egid);

    pub(super) fn new(pid: u32, ids: &Ids) -> Self {
        let identity = Self { pid, ruid: AtomicU32::new(0), euid: AtomicU32::new(0), rgid: AtomicU32::new(0), egid: AtomicU32::new(0) };
        identity.set(ids);
        identity
    }

    pub(super) fn get(&self, which: OwnId) -> u32 {
        let word = match which {
            OwnId::Uid => &self.ruid,
            OwnId::Euid => &self.euid,
            OwnId::Gid => &self.rgid,
            OwnId::Egid => &self.egid,
        };
        word.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, ids: &Ids) {
        let pairs = [(&self.ruid, ids.ruid), (&self.euid, ids.euid), (&self.rgid, ids.rgid), (&self.egid, ids.egid)];
        pairs.into_iter().for_each(|(word, id)| word.store(id, Ordering::Relaxed));
    }
}
