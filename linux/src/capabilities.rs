//! Capability sets (capabilities(7)), as data: they are kept and told as Linux does. What a thread may do follows its user ids, but for changes of ids, which follow the
//! sets.

use linux_abi::Errno;

use crate::process::Ids;

/// Every capability of Linux 6.12.
const ALL: u64 = (1 << 41) - 1;

/// The sets of a thread, bit N for capability N.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// May be kept by a program that it executes.
    pub inheritable: u64,
}

/// What a set may hold: the number of its bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capability {
    /// Any group ids, any supplementary groups.
    SetGid = 6,
    /// Any user ids.
    SetUid = 7,
}

impl Capabilities {
    /// Whether a capability is in force.
    #[must_use]
    pub const fn has(&self, capability: Capability) -> bool {
        self.effective >> capability as u32 & 1 == 1
    }

    /// Those of a program that a process with these identities executes.
    #[must_use]
    pub fn of_new_program(ids: &Ids, inheritable: u64) -> Self {
        let permitted = if ids.euid == 0 || ids.ruid == 0 { ALL } else { 0 };
        Self { effective: if ids.euid == 0 { permitted } else { 0 }, permitted, inheritable }
    }

    /// What `capset` makes of them.
    ///
    /// # Errors
    /// `EPERM` for capabilities that the process may not have.
    pub fn changed(self, new: Self) -> Result<Self, Errno> {
        let within = |set: u64, limit: u64| set & !limit == 0;
        let allowed = within(new.permitted, self.permitted)
            && within(new.effective, new.permitted)
            && within(new.inheritable, self.inheritable | self.permitted);
        if allowed { Ok(new) } else { Err(Errno::EPERM) }
    }

    /// What a change of the file-system user makes of them (as above): those about files go and come with root.
    #[must_use]
    pub fn after_fsuid(self, old: u32, new: u32) -> Self {
        /// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
        const ABOUT_FILES: u64 = 0b1_1111 | 1 << 9 | 1 << 27 | 1 << 32;
        let effective = match (old, new) {
            (0, 1..) => self.effective & !ABOUT_FILES,
            (1.., 0) => self.effective | self.permitted & ABOUT_FILES,
            _ => self.effective,
        };
        Self { effective, ..self }
    }

    /// What a change of identities makes of them (capabilities(7), "Effect of user ID changes on capabilities"); `keeps` is `PR_SET_KEEPCAPS`.
    #[must_use]
    pub fn after(self, old: &Ids, new: &Ids, keeps: bool) -> Self {
        let has_root = |ids: &Ids| ids.ruid == 0 || ids.euid == 0 || ids.suid == 0;
        let mut sets = self;
        if has_root(old) && !has_root(new) && !keeps {
            (sets.permitted, sets.effective) = (0, 0);
        }
        match (old.euid, new.euid) {
            (0, 1..) => sets.effective = 0,
            (1.., 0) => sets.effective = sets.permitted,
            _ => {}
        }
        sets
    }
}
