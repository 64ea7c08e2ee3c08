//! [`FdTable`]: a process's open files by descriptor.
//!
//! The lowest free number is always given out, as POSIX says. The lock is a leaf: files are dropped (which may sleep and wake
//! others) only after it is released.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_abi::Errno;
use sync::RwLock;
use vfs::OpenFile;

/// Whether a descriptor survives `execve`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseOnExec {
    /// `FD_CLOEXEC`: it does not.
    Yes,
    /// It does.
    No,
}

impl CloseOnExec {
    /// `Yes` if `set`.
    #[must_use]
    pub const fn when(set: bool) -> Self {
        if set { Self::Yes } else { Self::No }
    }
}

/// Largest number of descriptors a process may ever have (`/proc/sys/fs/nr_open`).
pub const NR_OPEN: usize = 1 << 20;

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: CloseOnExec,
}

#[derive(Clone, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    /// No number below this is free.
    first_free: usize,
}

/// A process's open files.
#[derive(Default)]
pub struct FdTable {
    slots: RwLock<Slots>,
}

fn index(fd: i32) -> Result<usize, Errno> {
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

impl Slots {
    fn get(&self, fd: i32) -> Result<&Slot, Errno> {
        self.slots.get(index(fd)?).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// The lowest free number that is not below `from`.
    fn free_from(&self, from: usize) -> usize {
        let start = from.max(self.first_free);
        (start..self.slots.len()).find(|&fd| self.slots[fd].is_none()).unwrap_or(start.max(self.slots.len()))
    }

    fn put(&mut self, fd: usize, slot: Slot) -> Result<Option<Slot>, Errno> {
        if fd >= self.slots.len() {
            let more = fd + 1 - self.slots.len();
            self.slots.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(fd + 1, || None);
        }
        if fd == self.first_free {
            self.first_free += 1;
        }
        Ok(self.slots[fd].replace(slot))
    }

    fn take(&mut self, fd: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(fd)?.take()?;
        self.first_free = self.first_free.min(fd);
        Some(slot)
    }
}

impl FdTable {
    /// No open file.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: RwLock::new(Slots { slots: Vec::new(), first_free: 0 }) }
    }

    /// The open file `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.slots.read().get(fd).map(|slot| slot.file.clone())
    }

    /// Gives `file` the lowest free number from `from` on, which must stay below `limit` (`RLIMIT_NOFILE`).
    ///
    /// # Errors
    /// `EMFILE` when there is none, `EINVAL` when `from` is beyond the limit, `ENOMEM`.
    pub fn insert_from(
        &self,
        from: usize,
        limit: usize,
        file: Arc<OpenFile>,
        close_on_exec: CloseOnExec,
    ) -> Result<i32, Errno> {
        let limit = limit.min(NR_OPEN);
        if from >= limit {
            return Err(if from == 0 { Errno::EMFILE } else { Errno::EINVAL });
        }
        let mut slots = self.slots.write();
        let fd = slots.free_from(from);
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        slots.put(fd, Slot { file, close_on_exec })?;
        Ok(fd as i32)
    }

    /// Gives `file` the lowest free number.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn insert(&self, limit: usize, file: Arc<OpenFile>, close_on_exec: CloseOnExec) -> Result<i32, Errno> {
        self.insert_from(0, limit, file, close_on_exec)
    }

    /// Gives `file` exactly the number `fd`; what had it is returned, to be dropped.
    ///
    /// # Errors
    /// `EBADF` for a number out of range, `ENOMEM`.
    pub fn replace(
        &self,
        fd: i32,
        limit: usize,
        file: Arc<OpenFile>,
        close_on_exec: CloseOnExec,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        let at = index(fd)?;
        if at >= limit.min(NR_OPEN) {
            return Err(Errno::EBADF);
        }
        let old = self.slots.write().put(at, Slot { file, close_on_exec })?;
        Ok(old.map(|slot| slot.file))
    }

    /// Closes `fd`; the file is returned, to be dropped.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let at = index(fd)?;
        self.slots.write().take(at).map(|slot| slot.file).ok_or(Errno::EBADF)
    }

    /// Closes all numbers in `first..=last`.
    pub fn close_range(&self, first: usize, last: usize) {
        let mut slots = self.slots.write();
        let end = slots.slots.len().min(last.saturating_add(1));
        let closed: Vec<_> = (first..end).filter_map(|fd| slots.take(fd)).collect();
        drop(slots);
        drop(closed);
    }

    /// Marks all numbers in `first..=last` close-on-exec.
    pub fn mark_range(&self, first: usize, last: usize) {
        let mut slots = self.slots.write();
        let end = slots.slots.len().min(last.saturating_add(1));
        for slot in slots.slots[first.min(end)..end].iter_mut().flatten() {
            slot.close_on_exec = CloseOnExec::Yes;
        }
    }

    /// Closes everything that does not survive `execve`.
    pub fn close_on_exec(&self) {
        let mut slots = self.slots.write();
        let closing: Vec<_> = (0..slots.slots.len())
            .filter(|&fd| slots.slots[fd].as_ref().is_some_and(|slot| slot.close_on_exec == CloseOnExec::Yes))
            .collect();
        let closed: Vec<_> = closing.into_iter().filter_map(|fd| slots.take(fd)).collect();
        drop(slots);
        drop(closed);
    }

    /// Closes everything.
    pub fn close_all(&self) {
        self.close_range(0, usize::MAX);
    }

    /// `F_GETFD`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn descriptor_flag(&self, fd: i32) -> Result<CloseOnExec, Errno> {
        self.slots.read().get(fd).map(|slot| slot.close_on_exec)
    }

    /// `F_SETFD`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_descriptor_flag(&self, fd: i32, close_on_exec: CloseOnExec) -> Result<(), Errno> {
        let at = index(fd)?;
        let mut slots = self.slots.write();
        let slot = slots.slots.get_mut(at).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        slot.close_on_exec = close_on_exec;
        Ok(())
    }

    /// The open numbers, ascending.
    #[must_use]
    pub fn open_descriptors(&self) -> Vec<i32> {
        let slots = self.slots.read();
        (0..slots.slots.len()).filter(|&fd| slots.slots[fd].is_some()).map(|fd| fd as i32).collect()
    }

    /// The same files under the same numbers: `fork`.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { slots: RwLock::new(self.slots.read().clone()) }
    }
}
