//! Capability sets (capabilities(7)), as data: they are kept and told as Linux does, but what a process may do follows its user ids alone.

use linux_abi::Errno;

use crate::process::Ids;

/// Every capability of Linux 6.12.
const ALL: u64 = (1 << 41) - 1;

/// The sets of a process, bit N for capability N.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// May be kept by a program that it executes.
    pub inheritable: u64,
}

impl Capabilities {
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

    /// What a change of identities makes of them (capabilities(7), "Effect of user ID changes on capabilities").
    #[must_use]
    pub fn after(self, old: &Ids, new: &Ids) -> Self {
        let has_root = |ids: &Ids| ids.ruid == 0 || ids.euid == 0 || ids.suid == 0;
        let mut sets = self;
        if has_root(old) && !has_root(new) {
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
