//! Advisory locks: `flock`, `fcntl` record locks (by process) and open-file-description locks, as `fcntl(2)` describes them.
//!
//! A [`LockTable`] holds the locks of all files of one family. Locks of one owner never conflict; setting a lock replaces,
//! shrinks or splits what the owner had there.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use sync::{Mutex, WaitQueue};

use crate::pipe::wait_interruptibly;
use crate::{Errno, Result};

/// Which file: device and inode number.
pub type FileId = (u64, u64);

/// What a lock allows others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Other shared locks.
    Shared,
    /// Nothing.
    Exclusive,
}

/// A lock on bytes `start..=last` of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Who holds it: a process or an open file.
    pub owner: u64,
    /// What `F_GETLK` shows as `l_pid`.
    pub pid: i32,
    /// Its kind.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub last: u64,
}

impl Lock {
    fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    fn conflicts(&self, other: &Self) -> bool {
        let exclusive = self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive;
        self.owner != other.owner && exclusive && self.overlaps(other)
    }

    /// What is left of the lock outside `start..=last`.
    fn without(&self, start: u64, last: u64) -> [Option<Self>; 2] {
        if self.last < start || last < self.start {
            return [Some(*self), None];
        }
        let head = (self.start < start).then(|| Self { last: start - 1, ..*self });
        let tail = (last < self.last).then(|| Self { start: last + 1, ..*self });
        [head, tail]
    }
}

/// All locks of one family.
pub struct LockTable {
    files: Mutex<Option<HashMap<FileId, Vec<Lock>>>>,
    /// What is waited for by those for whom a circle is an error. Taken with `files` held.
    waits: Mutex<Vec<(FileId, Lock)>>,
    /// How many files are locked: while nothing is, giving locks up costs nothing.
    locked: AtomicUsize,
    released: WaitQueue,
}

impl LockTable {
    /// No locks.
    #[must_use]
    pub const fn new() -> Self {
        Self { files: Mutex::new(None), waits: Mutex::new(Vec::new()), locked: AtomicUsize::new(0), released: WaitQueue::new() }
    }

    /// A lock that is in the way of `wanted`, if any.
    #[must_use]
    pub fn conflict(&self, file: FileId, wanted: &Lock) -> Option<Lock> {
        let files = self.files.lock();
        let locks = files.as_ref()?.get(&file)?;
        locks.iter().find(|lock| lock.conflicts(wanted)).copied()
    }

    /// Visits all locks. Nothing may be locked meanwhile.
    pub fn visit(&self, mut visit: impl FnMut(FileId, &Lock)) {
        for (file, locks) in self.files.lock().iter().flatten() {
            locks.iter().for_each(|lock| visit(*file, lock));
        }
    }

    /// Takes a lock at once.
    ///
    /// # Errors
    /// `EAGAIN` when another owner is in the way.
    pub fn try_lock(&self, file: FileId, wanted: Lock) -> Result<()> {
        let mut files = self.files.lock();
        let all = files.get_or_insert_default();
        let locks = all.entry(file).or_default();
        if locks.iter().any(|lock| lock.conflicts(&wanted)) {
            return Err(Errno::EAGAIN);
        }
        carve(locks, wanted.owner, wanted.start, wanted.last);
        locks.push(wanted);
        self.locked.store(all.len(), Ordering::Relaxed);
        drop(files);
        // A lock may have become weaker.
        self.released.wake_all();
        Ok(())
    }

    /// Takes a lock, waiting for others to let go.
    ///
    /// # Errors
    /// `ERESTARTSYS` when a signal came first.
    pub fn lock(&self, file: FileId, wanted: Lock) -> Result<()> {
        wait_interruptibly(&self.released, || self.try_lock(file, wanted).ok())
    }

    /// As [`LockTable::lock`], but does not wait where that would never end, since all wait for each other.
    ///
    /// # Errors
    /// `ERESTARTSYS` when a signal came first, `EDEADLOCK`.
    pub fn lock_unless_deadlock(&self, file: FileId, wanted: Lock) -> Result<()> {
        let mut noted = false;
        let outcome = wait_interruptibly(&self.released, || match self.try_lock(file, wanted) {
            Ok(()) => Some(Ok(())),
            Err(_) if core::mem::replace(&mut noted, true) => None,
            Err(_) => self.note_wait(file, &wanted).err().map(Err),
        });
        let mut waits = self.waits.lock();
        if let Some(at) = waits.iter().position(|wait| *wait == (file, wanted)) {
            waits.swap_remove(at);
        }
        drop(waits);
        outcome.and_then(|result| result)
    }

    /// Notes that the owner of `wanted` waits.
    fn note_wait(&self, file: FileId, wanted: &Lock) -> Result<()> {
        let files = self.files.lock();
        let mut waits = self.waits.lock();
        if let Some(all) = files.as_ref()
            && is_circle(all, &waits, file, wanted)
        {
            return Err(Errno::EDEADLOCK);
        }
        waits.push((file, *wanted));
        Ok(())
    }

    /// Whether anybody has a lock. Who has one himself is told so.
    #[inline]
    #[must_use]
    pub fn any(&self) -> bool {
        self.locked.load(Ordering::Relaxed) != 0
    }

    /// Gives up `owner`'s locks on bytes `start..=last`.
    pub fn unlock(&self, file: FileId, owner: u64, start: u64, last: u64) {
        // Whoever has a lock sees that there is one.
        if !self.any() {
            return;
        }
        let mut files = self.files.lock();
        let Some(all) = files.as_mut() else { return };
        if let Some(locks) = all.get_mut(&file) {
            carve(locks, owner, start, last);
            if locks.is_empty() {
                all.remove(&file);
            }
        }
        self.locked.store(all.len(), Ordering::Relaxed);
        drop(files);
        self.released.wake_all();
    }

    /// Gives up all of `owner`'s locks on a file.
    pub fn unlock_all(&self, file: FileId, owner: u64) {
        self.unlock(file, owner, 0, u64::MAX);
    }
}

impl Default for LockTable {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether those who hold what is in the way of `wanted` wait for its owner, directly or through others.
fn is_circle(files: &HashMap<FileId, Vec<Lock>>, waits: &[(FileId, Lock)], file: FileId, wanted: &Lock) -> bool {
    let holders = |file: &FileId, wanted: &Lock| -> Vec<u64> {
        let locks = files.get(file).map_or(&[][..], Vec::as_slice);
        locks.iter().filter(|lock| lock.conflicts(wanted)).map(|lock| lock.owner).collect()
    };
    let mut reached = holders(&file, wanted);
    let mut at = 0;
    while let Some(&owner) = reached.get(at) {
        if owner == wanted.owner {
            return true;
        }
        for (file, waited) in waits.iter().filter(|(_, waited)| waited.owner == owner) {
            let more: Vec<_> = holders(file, waited).into_iter().filter(|next| !reached.contains(next)).collect();
            reached.extend(more);
        }
        at += 1;
    }
    false
}

/// Takes `start..=last` out of `owner`'s locks.
fn carve(locks: &mut Vec<Lock>, owner: u64, start: u64, last: u64) {
    let old = core::mem::take(locks);
    for lock in old {
        if lock.owner == owner {
            locks.extend(lock.without(start, last).into_iter().flatten());
        } else {
            locks.push(lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = (1, 2);

    fn lock(owner: u64, kind: LockKind, start: u64, last: u64) -> Lock {
        Lock { owner, pid: owner as i32, kind, start, last }
    }

    #[test]
    fn shared_locks_share_and_exclusive_ones_do_not() {
        let table = LockTable::new();
        table.try_lock(FILE, lock(1, LockKind::Shared, 0, 9)).unwrap();
        table.try_lock(FILE, lock(2, LockKind::Shared, 5, 20)).unwrap();
        assert_eq!(table.try_lock(FILE, lock(3, LockKind::Exclusive, 20, 30)), Err(Errno::EAGAIN));
        table.try_lock(FILE, lock(3, LockKind::Exclusive, 21, 30)).unwrap();
        table.try_lock((1, 3), lock(3, LockKind::Exclusive, 0, 30)).unwrap();
        assert_eq!(table.conflict(FILE, &lock(9, LockKind::Shared, 25, 25)).map(|held| held.owner), Some(3));
        assert_eq!(table.conflict(FILE, &lock(9, LockKind::Shared, 0, 0)), None);
    }

    #[test]
    fn an_owner_changes_and_splits_its_own_locks() {
        let table = LockTable::new();
        table.try_lock(FILE, lock(1, LockKind::Exclusive, 0, 99)).unwrap();
        table.unlock(FILE, 1, 40, 59);
        table.try_lock(FILE, lock(2, LockKind::Exclusive, 40, 59)).unwrap();
        assert_eq!(table.try_lock(FILE, lock(2, LockKind::Shared, 39, 39)), Err(Errno::EAGAIN));
        table.try_lock(FILE, lock(1, LockKind::Shared, 0, 39)).unwrap();
        table.try_lock(FILE, lock(2, LockKind::Shared, 39, 39)).unwrap();
        table.unlock_all(FILE, 1);
        table.unlock_all(FILE, 2);
        assert!(table.files.lock().as_ref().unwrap().is_empty());
    }

    #[test]
    fn a_circle_of_waiters_is_refused() {
        static TABLE: LockTable = LockTable::new();
        let byte = |owner, at| lock(owner, LockKind::Exclusive, at, at);
        for owner in 1..=3 {
            TABLE.try_lock(FILE, byte(owner, owner)).unwrap();
        }
        let first = std::thread::spawn(move || TABLE.lock_unless_deadlock(FILE, byte(1, 2)));
        let second = std::thread::spawn(move || TABLE.lock_unless_deadlock(FILE, byte(2, 3)));
        while TABLE.waits.lock().len() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(TABLE.lock_unless_deadlock(FILE, byte(3, 1)), Err(Errno::EDEADLOCK));
        TABLE.unlock_all(FILE, 3);
        second.join().unwrap().unwrap();
        TABLE.unlock_all(FILE, 2);
        first.join().unwrap().unwrap();
        assert!(TABLE.waits.lock().is_empty());
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_released() {
        static TABLE: LockTable = LockTable::new();
        TABLE.try_lock(FILE, lock(1, LockKind::Exclusive, 0, 9)).unwrap();
        let waiter = std::thread::spawn(|| TABLE.lock(FILE, lock(2, LockKind::Exclusive, 0, 9)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        TABLE.unlock_all(FILE, 1);
        waiter.join().unwrap().unwrap();
        assert!(TABLE.conflict(FILE, &lock(1, LockKind::Shared, 0, 0)).is_some());
    }
}
