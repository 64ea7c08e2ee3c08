//! Interprocess communication that is not a file system's or a socket's: [`semaphore`] sets and [`message`] queues of System V
//! (`sysvipc(7)`), and POSIX message queues ([`mqueue`], `mq_overview(7)`).
//!
//! Pure logic: the caller, the time and the limits are arguments; waiting is `sync`'s. [`Registry`] finds System V objects by key and number.
//! Each object has one lock, held for a few steps and never while waiting; the program's memory is not touched here at all.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod message;
pub mod mqueue;
pub mod semaphore;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_abi::Errno;
use sync::{Interrupt, WaitError, WaitQueue};

/// What every operation of this crate returns: a value, or the error number the system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// A key that makes a new object of its own.
pub const IPC_PRIVATE: i32 = 0;
/// Make the object if the key has none.
pub const IPC_CREAT: u32 = 0o1000;
/// Fail if the key has one.
pub const IPC_EXCL: u32 = 0o2000;
/// Do not wait.
pub const IPC_NOWAIT: u32 = 0o4000;

/// The right to read, in the lowest class of a mode.
pub const READ: u32 = 4;
/// The right to change.
pub const WRITE: u32 = 2;

/// Numbers of objects end here (`IPCMNI`).
const INDEXES: u32 = 1 << 15;

/// Who calls.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Process.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Caller {
    /// Whether checks are skipped.
    #[must_use]
    pub fn privileged(&self) -> bool {
        self.uid == 0
    }

    fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// Whose an object is, and what others may do with it (`struct ipc_perm`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Permissions {
    /// The key it was made with.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Maker.
    pub creator_uid: u32,
    /// Maker's group.
    pub creator_gid: u32,
    /// Nine permission bits.
    pub mode: u32,
}

impl Permissions {
    /// Those of an object that `caller` makes.
    #[must_use]
    pub fn new(key: i32, mode: u32, caller: &Caller) -> Self {
        let (uid, gid) = (caller.uid, caller.gid);
        Self { key, uid, gid, creator_uid: uid, creator_gid: gid, mode: mode & 0o777 }
    }

    /// Fails unless `caller` may do what the bits of `wanted` ([`READ`], [`WRITE`]) say.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check(&self, caller: &Caller, wanted: u32) -> Result<()> {
        let granted = if caller.uid == self.uid || caller.uid == self.creator_uid {
            self.mode >> 6
        } else if caller.in_group(self.gid) || caller.in_group(self.creator_gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if caller.privileged() || wanted & !granted & 7 == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Fails unless `caller` owns or made the object.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn check_owner(&self, caller: &Caller) -> Result<()> {
        let owner = caller.uid == self.uid || caller.uid == self.creator_uid;
        if caller.privileged() || owner { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`: a new owner and new permission bits.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn change(&mut self, caller: &Caller, (uid, gid, mode): (u32, u32, u32)) -> Result<()> {
        self.check_owner(caller)?;
        (self.uid, self.gid, self.mode) = (uid, gid, mode & 0o777);
        Ok(())
    }
}

/// The objects of one sort.
pub struct Registry<T> {
    objects: BTreeMap<u32, Entry<T>>,
    sequence: u16,
}

struct Entry<T> {
    key: i32,
    sequence: u16,
    object: Arc<T>,
}

fn join(index: u32, sequence: u16) -> i32 {
    ((u32::from(sequence) << 15 | index) & 0x7fff_ffff) as i32
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Registry<T> {
    /// No objects.
    #[must_use]
    pub const fn new() -> Self {
        Self { objects: BTreeMap::new(), sequence: 0 }
    }

    /// The number of the object with `key`, which is made if `flags` ask for that; `most` objects can be.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `ENOSPC`, and what `check` says of an object that is there.
    pub fn get(
        &mut self,
        (key, flags): (i32, u32),
        most: usize,
        check: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<i32> {
        if key != IPC_PRIVATE && let Some((index, entry)) = self.objects.iter().find(|(_, entry)| entry.key == key) {
            if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                return Err(Errno::EEXIST);
            }
            check(&entry.object)?;
            return Ok(join(*index, entry.sequence));
        }
        if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT);
        }
        let object = Arc::new(make()?);
        if self.objects.len() >= most {
            return Err(Errno::ENOSPC);
        }
        let index = (0..INDEXES).find(|index| !self.objects.contains_key(index)).ok_or(Errno::ENOSPC)?;
        let sequence = self.sequence;
        // Fifteen bits are left of a positive number.
        self.sequence = (sequence + 1) & 0x7fff;
        self.objects.insert(index, Entry { key, sequence, object });
        Ok(join(index, sequence))
    }

    fn entry(&self, id: i32) -> Result<(u32, &Entry<T>)> {
        let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
        let index = id % INDEXES;
        let entry = self.objects.get(&index).ok_or(Errno::EINVAL)?;
        if u32::from(entry.sequence) == id / INDEXES { Ok((index, entry)) } else { Err(Errno::EINVAL) }
    }

    /// The object with this number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn by_id(&self, id: i32) -> Result<Arc<T>> {
        self.entry(id).map(|(_, entry)| entry.object.clone())
    }

    /// The number of the object at an index, as the `STAT` commands of `ipcs` ask for it.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn id_at(&self, index: i32) -> Result<i32> {
        let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
        self.objects.get(&index).map(|entry| join(index, entry.sequence)).ok_or(Errno::EINVAL)
    }

    /// Forgets an object; whoever still has it must be told.
    pub fn remove(&mut self, id: i32) {
        if let Ok((index, _)) = self.entry(id) {
            self.objects.remove(&index);
        }
    }

    /// The highest index in use, 0 for none.
    #[must_use]
    pub fn highest(&self) -> usize {
        self.objects.keys().next_back().map_or(0, |index| *index as usize)
    }

    /// All objects with their numbers and sequence numbers.
    #[must_use]
    pub fn all(&self) -> Vec<(i32, Arc<T>)> {
        self.objects.iter().map(|(index, entry)| (join(*index, entry.sequence), entry.object.clone())).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// How a wait ended without what was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// When the time is over.
    pub late: Errno,
    /// When a signal comes.
    pub interrupted: Errno,
}

/// Waits until `cond` gives a value, if it does not at once.
fn wait<T>(queue: &WaitQueue, deadline_ns: Option<u64>, ends: Ends, cond: impl FnMut() -> Option<Result<T>>) -> Result<T> {
    match queue.wait_until(deadline_ns, Interrupt::Allowed, cond) {
        Ok(result) => result,
        Err(WaitError::TimedOut) => Err(ends.late),
        Err(WaitError::Interrupted) => Err(ends.interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_find_objects_and_numbers_outlive_none() {
        let mut registry = Registry::new();
        let check = |_: &u32| Ok(());
        assert_eq!(registry.get((5, 0), 9, check, || Ok(1)), Err(Errno::ENOENT));
        let id = registry.get((5, IPC_CREAT), 9, check, || Ok(1)).unwrap();
        assert_eq!(registry.get((5, IPC_CREAT), 9, check, || panic!("it is there")), Ok(id));
        assert_eq!(registry.get((5, IPC_CREAT | IPC_EXCL), 9, check, || Ok(2)), Err(Errno::EEXIST));
        assert_eq!(registry.get((5, 0), 9, |_| Err(Errno::EACCES), || Ok(2)), Err(Errno::EACCES));
        let other = registry.get((IPC_PRIVATE, 0), 9, check, || Ok(2)).unwrap();
        assert_ne!(registry.get((IPC_PRIVATE, 0), 9, check, || Ok(3)).unwrap(), other);
        assert_eq!(registry.get((6, IPC_CREAT), 3, check, || Ok(4)), Err(Errno::ENOSPC));
        registry.remove(id);
        assert_eq!(registry.by_id(id).map(drop), Err(Errno::EINVAL));
        let again = registry.get((5, IPC_CREAT), 9, check, || Ok(5)).unwrap();
        assert!(again != id && again % 32768 == id % 32768, "the index is used again under another number");
        assert_eq!((registry.by_id(-1).map(drop), registry.id_at(0)), (Err(Errno::EINVAL), Ok(again)));
    }

    #[test]
    fn permissions_go_by_class() {
        let maker = Caller { pid: 1, uid: 1000, gid: 100, groups: Vec::new() };
        let permissions = Permissions::new(1, 0o640, &maker);
        let mate = Caller { uid: 1001, groups: std::vec![100], ..maker.clone() };
        let other = Caller { uid: 1002, gid: 101, ..maker.clone() };
        assert_eq!((permissions.check(&maker, READ | WRITE), permissions.check(&mate, READ)), (Ok(()), Ok(())));
        assert_eq!((permissions.check(&mate, WRITE), permissions.check(&other, READ)), (Err(Errno::EACCES), Err(Errno::EACCES)));
        assert_eq!((permissions.check_owner(&mate), permissions.check(&Caller::default(), WRITE)), (Err(Errno::EPERM), Ok(())));
    }
}
