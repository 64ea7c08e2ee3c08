//! [`FdTable`]: a process's open files by descriptor.
//!
//! The lowest free number is always given out, as POSIX says. Looking a descriptor up takes no lock ([`rcu::slots`]); changes take
//! one, a leaf: files are dropped (which may sleep and wake others) only after it is released.

use alloc::sync::Arc;
use alloc::vec::Vec;

use kernel::rcu::Kernel;
use linux_abi::Errno;
use rcu::slots::{SharedSlots, Writer};
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

/// What only changes look at.
#[derive(Clone, Default)]
struct Numbers {
    /// No number below this is free.
    first_free: usize,
    /// Which descriptors are close-on-exec, 64 to a word; a number beyond the end is not.
    close_on_exec: Vec<u64>,
}

/// A process's open files.
pub struct FdTable {
    files: SharedSlots<OpenFile, Numbers, Kernel>,
}

type Files<'a> = Writer<'a, OpenFile, Numbers, Kernel>;

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

fn index(fd: i32) -> Result<usize, Errno> {
    usize::try_from(fd).map_err(|_| Errno::EBADF)
}

impl Numbers {
    fn flag(&self, fd: usize) -> CloseOnExec {
        CloseOnExec::when(self.close_on_exec.get(fd / 64).is_some_and(|word| word & 1 << (fd % 64) != 0))
    }

    /// Sets the flag of a number below what [`Numbers::reserve`] has made room for.
    fn set_flag(&mut self, fd: usize, close_on_exec: CloseOnExec) {
        match (self.close_on_exec.get_mut(fd / 64), close_on_exec) {
            (Some(word), CloseOnExec::Yes) => *word |= 1 << (fd % 64),
            (Some(word), CloseOnExec::No) => *word &= !(1 << (fd % 64)),
            (None, _) => {}
        }
    }

    /// Makes room for the flag of `fd`.
    fn reserve(&mut self, fd: usize) -> Result<(), Errno> {
        let words = fd / 64 + 1;
        if words > self.close_on_exec.len() {
            self.close_on_exec.try_reserve(words - self.close_on_exec.len()).map_err(|_| Errno::ENOMEM)?;
            self.close_on_exec.resize(words, 0);
        }
        Ok(())
    }
}

/// The lowest free number that is not below `from`.
fn free_from(files: &Files<'_>, from: usize) -> usize {
    let start = from.max(files.first_free);
    (start..files.len()).find(|&fd| !files.is_used(fd)).unwrap_or_else(|| start.max(files.len()))
}

fn put(
    files: &mut Files<'_>,
    fd: usize,
    file: Arc<OpenFile>,
    close_on_exec: CloseOnExec,
) -> Result<Option<Arc<OpenFile>>, Errno> {
    files.reserve(fd)?;
    let old = files.put(fd, file).map_err(|_| Errno::ENOMEM)?;
    files.set_flag(fd, close_on_exec);
    if fd == files.first_free {
        files.first_free += 1;
    }
    Ok(old)
}

fn take(files: &mut Files<'_>, fd: usize) -> Option<Arc<OpenFile>> {
    let file = files.take(fd)?;
    files.first_free = files.first_free.min(fd);
    Some(file)
}

impl FdTable {
    /// No open file.
    #[must_use]
    pub const fn new() -> Self {
        Self { files: SharedSlots::new(Numbers { first_free: 0, close_on_exec: Vec::new() }) }
    }

    /// The open file `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    #[inline]
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        // A negative number is a slot that no table has.
        self.files.get(fd as usize).ok_or(Errno::EBADF)
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
        let mut files = self.files.lock();
        let fd = free_from(&files, from);
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        // The number was free: nothing is replaced.
        put(&mut files, fd, file, close_on_exec).map(|_none| fd as i32)
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
        put(&mut self.files.lock(), at, file, close_on_exec)
    }

    /// Closes `fd`; the file is returned, to be dropped.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let at = index(fd)?;
        take(&mut self.files.lock(), at).ok_or(Errno::EBADF)
    }

    /// Closes all numbers in `first..=last`; the files are returned, to be dropped.
    pub fn close_range(&self, first: usize, last: usize) -> Vec<Arc<OpenFile>> {
        self.close_if(first, last, |_, _| true)
    }

    /// Closes the numbers in `first..=last` that `wanted` names.
    fn close_if(&self, first: usize, last: usize, wanted: impl Fn(&Numbers, usize) -> bool) -> Vec<Arc<OpenFile>> {
        let mut files = self.files.lock();
        let end = files.len().min(last.saturating_add(1));
        let mut closed = Vec::new();
        for fd in first..end {
            if wanted(&files, fd) {
                closed.extend(take(&mut files, fd));
            }
        }
        closed
    }

    /// Marks all numbers in `first..=last` close-on-exec.
    pub fn mark_range(&self, first: usize, last: usize) {
        let mut files = self.files.lock();
        let end = files.len().min(last.saturating_add(1));
        for fd in first..end {
            if files.is_used(fd) {
                files.set_flag(fd, CloseOnExec::Yes);
            }
        }
    }

    /// Closes everything that does not survive `execve`; the files are returned, to be dropped.
    pub fn close_on_exec(&self) -> Vec<Arc<OpenFile>> {
        self.close_if(0, usize::MAX, |numbers, fd| numbers.flag(fd) == CloseOnExec::Yes)
    }

    /// Closes everything; the files are returned, to be dropped.
    pub fn close_all(&self) -> Vec<Arc<OpenFile>> {
        self.close_range(0, usize::MAX)
    }

    /// `F_GETFD`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn descriptor_flag(&self, fd: i32) -> Result<CloseOnExec, Errno> {
        let (at, files) = (index(fd)?, self.files.lock());
        if files.is_used(at) { Ok(files.flag(at)) } else { Err(Errno::EBADF) }
    }

    /// `F_SETFD`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_descriptor_flag(&self, fd: i32, close_on_exec: CloseOnExec) -> Result<(), Errno> {
        let at = index(fd)?;
        let mut files = self.files.lock();
        if !files.is_used(at) {
            return Err(Errno::EBADF);
        }
        files.set_flag(at, close_on_exec);
        Ok(())
    }

    /// The open numbers, ascending.
    #[must_use]
    pub fn open_descriptors(&self) -> Vec<i32> {
        let files = self.files.lock();
        (0..files.len()).filter(|&fd| files.is_used(fd)).map(|fd| fd as i32).collect()
    }

    /// The same files under the same numbers: `fork`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn duplicate(&self) -> Result<Self, Errno> {
        let files = self.files.lock();
        let copy = Self { files: SharedSlots::new(Numbers::clone(&files)) };
        let mut copies = copy.files.lock();
        for fd in 0..files.len() {
            if let Some(file) = files.get(fd) {
                copies.put(fd, file).map_err(|_| Errno::ENOMEM)?;
            }
        }
        drop(copies);
        Ok(copy)
    }
}
