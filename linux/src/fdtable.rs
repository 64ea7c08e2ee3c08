//! [`FdTable`]: open files by descriptor, of one thread or of several.
//!
//! The lowest free number is always given out, as POSIX says. Looking a descriptor up takes no lock ([`rcu::slots`]); changes take
//! one, a leaf: files are dropped (which may sleep and wake others) only after it is released.
//!
//! A table's numbers are opened and closed by the threads that hold it alone ([`crate::held`]). While there is only one, the file that a call of its
//! works on stays in the table, and need not be counted ([`FdTable::find`]), as with Linux's `fdget`; and what it closes nobody can be
//! about to look up, so no grace period is waited for. Others (`/proc`, `pidfd_getfd`) look up with the lock. The number of holders changes under
//! that lock, too, and so does what depends on it: only a holder makes another one, so who is alone stays so as long as it makes none; and who leaves
//! looks nothing up any more.

#![expect(unsafe_code, reason = "a file that is not counted is kept by the table")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::rcu::Kernel;
use linux_abi::Errno;
use rcu::slots::{Lend, SharedSlots, Writer};
use vfs::OpenFile;

use crate::held::Common;

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
struct Numbers {
    /// Threads that hold the table.
    holders: usize,
    /// No number below this is free.
    first_free: usize,
    /// Which descriptors are close-on-exec, 64 to a word; a number beyond the end is not.
    close_on_exec: Vec<u64>,
}

/// Open files by descriptor.
pub struct FdTable {
    files: SharedSlots<OpenFile, Numbers, Kernel>,
    /// It has several holders.
    shared: AtomicBool,
    number: u64,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// An open file for the length of a system call that closes no descriptor.
pub struct FileRef<'a> {
    file: NonNull<OpenFile>,
    /// Whether the pointer owns a count.
    counted: bool,
    table: PhantomData<&'a FdTable>,
}

impl Deref for FileRef<'_> {
    type Target = OpenFile;

    #[inline(always)]
    fn deref(&self) -> &OpenFile {
        // SAFETY: counted, or kept by the table.
        unsafe { self.file.as_ref() }
    }
}

impl Drop for FileRef<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.counted {
            self.give_back();
        }
    }
}

impl FileRef<'_> {
    #[inline(never)]
    fn give_back(&mut self) {
        // SAFETY: the pointer comes from `Arc::into_raw`, and is used no more.
        drop(unsafe { Arc::from_raw(self.file.as_ptr()) });
    }

    /// The file, counted.
    #[must_use]
    pub fn into_arc(self) -> Arc<OpenFile> {
        let this = ManuallyDrop::new(self);
        // SAFETY: a file in the table lies in an `Arc`; the count is the pointer's own, or made here.
        unsafe {
            if !this.counted {
                Arc::increment_strong_count(this.file.as_ptr());
            }
            Arc::from_raw(this.file.as_ptr())
        }
    }
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
    #[inline]
    fn reserve(&mut self, fd: usize) -> Result<(), Errno> {
        let words = fd / 64 + 1;
        if words > self.close_on_exec.len() { self.grow(words) } else { Ok(()) }
    }

    #[cold]
    fn grow(&mut self, words: usize) -> Result<(), Errno> {
        self.close_on_exec.try_reserve(words - self.close_on_exec.len()).map_err(|_| Errno::ENOMEM)?;
        self.close_on_exec.resize(words, 0);
        Ok(())
    }
}

/// The lowest free number that is not below `from`.
fn free_from(files: &Files<'_>, from: usize) -> usize {
    let start = from.max(files.first_free);
    (start..files.len()).find(|&fd| !files.is_used(fd)).unwrap_or_else(|| start.max(files.len()))
}

#[inline]
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

#[inline]
fn take(files: &mut Files<'_>, fd: usize, shared: bool) -> Option<Arc<OpenFile>> {
    let file = if shared {
        files.take(fd)?
    } else {
        // SAFETY: without the lock only holders look files up, and the calling thread is all there are.
        unsafe { files.take_unread(fd)? }
    };
    files.first_free = files.first_free.min(fd);
    Some(file)
}

impl FdTable {
    /// No open file, for one thread.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Numbers { holders: 1, first_free: 0, close_on_exec: Vec::new() })
    }

    fn with(numbers: Numbers) -> Self {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let table = Self { files: SharedSlots::new(numbers), shared: AtomicBool::new(false), number };
        table.files.lock().lend(Lend::Yes);
        table
    }

    /// A number of its own, for what belongs to a table: record locks.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    fn count(&self, change: impl FnOnce(&mut usize)) -> usize {
        let mut files = self.files.lock();
        change(&mut files.holders);
        let holders = files.holders;
        let shared = holders > 1;
        self.shared.store(shared, Ordering::Relaxed);
        files.lend(if shared { Lend::No } else { Lend::Yes });
        holders
    }

    /// Whether more than one thread may change the table.
    #[inline(always)]
    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// The open file `fd` of another thread's table.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get_of_other(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.files.lock().get(index(fd)?).ok_or(Errno::EBADF)
    }

    /// The open file `fd`, for a call of a holder that closes no descriptor as long as it uses the file.
    ///
    /// # Errors
    /// `EBADF`.
    #[inline(always)]
    pub fn find(&self, fd: i32) -> Result<FileRef<'_>, Errno> {
        // A negative number is a slot that no table has.
        // SAFETY: files are lent while only the calling thread changes slots, and that it does not while it has the reference.
        match unsafe { self.files.borrow(fd as usize) } {
            Some(file) => Ok(FileRef { file: NonNull::from(file), counted: false, table: PhantomData }),
            None => self.find_counted(fd),
        }
    }

    /// As [`FdTable::find`], if the file need not be counted.
    ///
    /// # Safety
    /// The caller holds the table, and closes no descriptor as long as it uses the file.
    #[inline(always)]
    #[must_use]
    pub unsafe fn find_uncounted(&self, fd: i32) -> Option<&OpenFile> {
        // SAFETY: files are lent while only the calling thread changes slots, and that it does not while it has the reference.
        unsafe { self.files.borrow(fd as usize) }
    }

    #[inline(never)]
    fn find_counted(&self, fd: i32) -> Result<FileRef<'_>, Errno> {
        // SAFETY: the pointer of an `Arc` is not null.
        let file = unsafe { NonNull::new_unchecked(Arc::into_raw(self.get(fd)?).cast_mut()) };
        Ok(FileRef { file, counted: true, table: PhantomData })
    }

    /// The open file `fd`, to be kept, for a holder.
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
        take(&mut self.files.lock(), at, self.is_shared()).ok_or(Errno::EBADF)
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
                closed.extend(take(&mut files, fd, self.is_shared()));
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

    /// The same files under the same numbers, for one thread.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn duplicate(&self) -> Result<Self, Errno> {
        let files = self.files.lock();
        let copy = Self::with(Numbers { holders: 1, first_free: files.first_free, close_on_exec: files.close_on_exec.clone() });
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

impl Common for FdTable {
    fn join(&self) {
        self.count(|holders| *holders += 1);
    }

    fn leave(&self) -> bool {
        self.count(|holders| *holders -= 1) == 0
    }

    fn is_common(&self) -> bool {
        self.is_shared()
    }
}
