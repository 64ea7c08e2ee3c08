//! [`File`]: what an open file can do, and [`OpenFile`]: what a descriptor refers to.
//!
//! `OpenFile` is Linux's *open file description*: it is shared by `dup` and `fork`, and holds the position, the status flags,
//! the access mode and the place in the tree it was opened at. Its position is locked only for files that have one, so a
//! blocked `read` on a pipe does not hold up others.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU32, Ordering};

use sync::{Mutex, WaitQueue};

use crate::epoll::Epoll;
use crate::handle::Handle;
use crate::inode::{Allocate, Append, Inode};
use crate::inotify::{self, Happening};
use crate::io::{IoctlArg, Sink, Source};
use crate::mount::Location;
use crate::running;
use crate::types::{Access, DirEntry, Events, FileKind, Metadata, OFFSET_MAX, OpenFlags};
use crate::{Errno, Result};

/// An open file. `position` is the file position for those that have one; streams ignore it.
pub trait File: Any + Send + Sync {
    /// Reads at `*position` and moves it. 0 = end of file.
    ///
    /// # Errors
    /// `EAGAIN` when it would block and `flags` say not to, `ERESTARTSYS` when a signal came first, `EFAULT`, `EINVAL`, `EIO`.
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize>;

    /// Writes at `*position` (or at the end, with `O_APPEND` in `flags`) and moves it.
    ///
    /// # Errors
    /// As `read`; `EPIPE` when nobody will ever read it (the caller sends `SIGPIPE`), `ENOSPC`, `EFBIG`.
    fn write(&self, position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize>;

    /// Whether the file has a position: `lseek`, `pread` work. Always the same answer.
    fn seekable(&self) -> bool {
        false
    }

    /// Whether `read` and `write` look at the position. Always the same answer.
    fn has_position(&self) -> bool {
        self.seekable()
    }

    /// `lseek` of a seekable file without a position: a device is at its beginning, wherever one wants to go.
    ///
    /// # Errors
    /// `EINVAL`, `ESPIPE` for devices that have their own idea of places.
    fn seek(&self, _from: SeekFrom) -> Result<u64> {
        Ok(0)
    }

    /// What is ready right now.
    fn poll(&self) -> Events {
        Events::READABLE | Events::WRITABLE
    }

    /// Visits the queues that are woken when [`File::poll`] may have changed. None = always ready, `epoll` refuses it (`EPERM`).
    fn poll_queues(&self, _visit: &mut dyn FnMut(&WaitQueue)) {}

    /// What is woken when urgent data has come: who owns the file gets `SIGURG`.
    fn urgent_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Device-specific request.
    ///
    /// # Errors
    /// `ENOTTY` for a request the file does not know, `EINVAL`, `EFAULT`.
    fn ioctl(&self, _request: u32, _arg: IoctlArg<'_>) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    /// Brings everything to stable storage.
    ///
    /// # Errors
    /// `EINVAL` for files without storage, `EIO`.
    fn fsync(&self) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// Whether the content is that of the inode it was opened from, for `mmap`, `lseek` from the end, `ftruncate`. Always the same answer.
    fn is_content(&self) -> bool {
        false
    }

    /// Called once, when the last descriptor of an [`OpenFile`] is gone.
    fn release(&self) {}
}

/// Where `lseek` counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeekFrom {
    /// The start.
    Start(i64),
    /// The current position.
    Current(i64),
    /// The end.
    End(i64),
    /// The next data at or after the offset.
    Data(i64),
    /// The next hole at or after the offset.
    Hole(i64),
}

/// The open file of a regular file or directory: everything is done by the inode.
pub struct InodeFile {
    inode: Arc<dyn Inode>,
}

impl InodeFile {
    /// An open file of `inode`.
    #[must_use]
    pub fn new(inode: Arc<dyn Inode>) -> Self {
        Self { inode }
    }
}

impl File for InodeFile {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        if self.inode.kind() == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        let n = self.inode.read_at(*position, sink)?;
        *position += n as u64;
        Ok(n)
    }

    fn write(&self, position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        let append = if flags.contains(OpenFlags::APPEND) { Append::Yes } else { Append::No };
        self.inode.write_at(position, append, source)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn fsync(&self) -> Result<()> {
        self.inode.sync()
    }

    fn is_content(&self) -> bool {
        true
    }
}

/// An open file description.
pub struct OpenFile {
    file: Handle,
    location: Location,
    /// Access mode and status flags as `F_GETFL` shows them.
    flags: AtomicU32,
    /// [`File::seekable`], which never changes.
    seekable: bool,
    /// [`File::has_position`], which never changes.
    positioned: bool,
    /// [`File::is_content`], which never changes.
    is_content: bool,
    /// [`Handle::moves_briefly`], which never changes.
    moves_briefly: bool,
    /// It counts as one of those who write to the inode.
    counted: bool,
    position: Mutex<u64>,
    on_close: Mutex<Vec<CloseHook>>,
}

/// Called with an open file's identity ([`OpenFile::id`]) when its last descriptor is gone.
pub type CloseHook = alloc::boxed::Box<dyn FnOnce(usize) + Send>;

impl OpenFile {
    /// Wraps `file`, opened at `location` with `flags`.
    #[must_use]
    pub fn new(file: Arc<dyn File>, location: Location, flags: OpenFlags) -> Arc<Self> {
        Self::build(file, location, flags, false)
    }

    /// Wraps `file`, opened by name. It counts as a writer, if it is one.
    ///
    /// # Errors
    /// `ETXTBSY` for writing to what is being executed.
    pub(crate) fn opened(file: Arc<dyn File>, location: Location, flags: OpenFlags) -> Result<Arc<Self>> {
        let writes = flags.can_write() && location.inode().kind() == FileKind::Regular;
        let counted = writes && running::begin_writing(&**location.inode())?;
        Ok(Self::build(file, location, flags, counted))
    }

    #[inline]
    fn build(file: Arc<dyn File>, location: Location, flags: OpenFlags, counted: bool) -> Arc<Self> {
        let kept = flags.difference(OpenFlags::ONLY_AT_OPEN);
        let file = Handle::new(file);
        let (seekable, positioned, is_content) = match &file {
            Handle::Node(_) => (true, true, true),
            other => (other.as_file().seekable(), other.as_file().has_position(), other.as_file().is_content()),
        };
        Arc::new(Self {
            moves_briefly: file.moves_briefly(),
            file,
            location,
            flags: AtomicU32::new(kept.bits()),
            seekable,
            positioned,
            is_content,
            counted,
            position: Mutex::new(0),
            on_close: Mutex::new(Vec::new()),
        })
    }

    /// The file behind it.
    #[must_use]
    pub fn file(&self) -> &dyn File {
        self.file.as_file()
    }

    /// The epoll file behind it, if it is one.
    #[inline]
    #[must_use]
    pub fn epoll(&self) -> Option<&Epoll> {
        self.file.epoll()
    }

    /// What is ready right now: [`File::poll`].
    #[inline]
    #[must_use]
    pub fn poll(&self) -> Events {
        self.file.poll()
    }

    /// What `stat` tells of the inode it was opened from.
    #[inline]
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        self.file.metadata().unwrap_or_else(|| self.inode().metadata())
    }

    /// The file behind it, if it is a `T`.
    #[must_use]
    pub fn downcast<T: File>(&self) -> Option<&T> {
        let any: &dyn Any = self.file();
        any.downcast_ref()
    }

    /// A number that no other open file has at the same time; owner of locks taken through it.
    #[inline]
    #[must_use]
    pub fn id(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Has `hook` called when the last descriptor is gone.
    pub fn on_close(&self, hook: CloseHook) {
        self.on_close.lock().push(hook);
    }

    /// Where in the tree it was opened.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The inode it was opened from.
    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.location.inode()
    }

    /// The inode whose content this is; `None` for files without content.
    #[must_use]
    pub fn content(&self) -> Option<&Arc<dyn Inode>> {
        self.is_content.then(|| self.inode())
    }

    /// Access mode and status flags.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Replaces the status flags that `F_SETFL` may change.
    pub fn set_status(&self, flags: OpenFlags) {
        let new = flags.intersection(OpenFlags::SETTABLE).bits();
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            Some(old & !OpenFlags::SETTABLE.bits() | new)
        });
    }

    /// Sets or clears `O_NONBLOCK` (`FIONBIO`).
    pub fn set_nonblocking(&self, on: Nonblocking) {
        match on {
            Nonblocking::On => self.flags.fetch_or(OpenFlags::NONBLOCK.bits(), Ordering::Relaxed),
            Nonblocking::Off => self.flags.fetch_and(!OpenFlags::NONBLOCK.bits(), Ordering::Relaxed),
        };
    }

    /// Fails unless the file was opened for `access`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn require(&self, access: Access) -> Result<()> {
        let flags = self.flags();
        let denied = flags.contains(OpenFlags::PATH)
            || access.contains(Access::READ) && !flags.grants_read()
            || access.contains(Access::WRITE) && !flags.grants_write();
        if denied { Err(Errno::EBADF) } else { Ok(()) }
    }

    /// Fails for `O_PATH` handles, which only name a place.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn require_open(&self) -> Result<()> {
        self.require(Access::empty())
    }

    /// `read`: at the file's position.
    ///
    /// # Errors
    /// `EBADF`, and those of [`File::read`].
    #[inline]
    pub fn read<S: Sink>(&self, sink: &mut S) -> Result<usize> {
        let flags = self.flags();
        if !flags.grants_read() {
            return Err(Errno::EBADF);
        }
        let n = match self.file.read_stream(sink, flags) {
            Some(result) => result?,
            None => self.read_on(sink)?,
        };
        self.moved(n, Happening::ACCESS)
    }

    /// Reads what may have a position, and notes it.
    #[inline(never)]
    fn read_on(&self, sink: &mut dyn Sink) -> Result<usize> {
        let n = self.with_position(|position| self.file.read_at(position, sink, self.flags()))?;
        self.was_read();
        Ok(n)
    }

    /// `write`: at the file's position, or at the end with `O_APPEND`.
    ///
    /// # Errors
    /// `EBADF`, and those of [`File::write`].
    #[inline]
    pub fn write<S: Source>(&self, source: &mut S) -> Result<usize> {
        let flags = self.flags();
        if !flags.grants_write() {
            return Err(Errno::EBADF);
        }
        let n = match self.file.write_stream(source, flags) {
            Some(result) => result?,
            None => self.with_position(|position| self.file().write(position, source, flags))?,
        };
        self.moved(n, Happening::MODIFY)
    }

    /// Whether [`OpenFile::read_briefly`] and [`OpenFile::write_briefly`] are worth a try.
    #[inline(always)]
    #[must_use]
    pub const fn moves_briefly(&self) -> bool {
        self.moves_briefly
    }

    /// A `read` that is quick, for a brief system call: what RAX gets. `None`: nothing was done.
    #[inline(always)]
    pub fn read_briefly<S: Sink>(&self, sink: &mut S) -> Option<isize> {
        if !self.flags().grants_read() || inotify::anybody_watches() {
            return None;
        }
        self.file.read_briefly(sink)
    }

    /// A `write` that is quick, as [`OpenFile::read_briefly`].
    #[inline(always)]
    pub fn write_briefly<S: Source>(&self, source: &mut S) -> Option<isize> {
        let flags = self.flags();
        if !flags.grants_write() || inotify::anybody_watches() {
            return None;
        }
        self.file.write_briefly(source, flags)
    }

    /// Calls `tell` with what `stat` tells of a regular file in memory: metadata, but for size and blocks, and those. For brief system calls:
    /// the metadata stay where they are, since a copy would take vector registers.
    #[inline(always)]
    pub fn stat_briefly<R>(&self, tell: impl FnOnce(&Metadata, u64, u64) -> R) -> Option<R> {
        self.file.stat_briefly(tell)
    }

    /// [`OpenFile::poll`], if the answer is at hand.
    #[inline(always)]
    #[must_use]
    pub fn poll_briefly(&self) -> Option<Events> {
        self.file.poll_briefly()
    }

    /// `pread`: at `offset`; the position stays.
    ///
    /// # Errors
    /// `EBADF`, `ESPIPE`, and those of [`File::read`].
    #[inline]
    pub fn read_at<S: Sink>(&self, mut offset: u64, sink: &mut S) -> Result<usize> {
        let flags = self.flags();
        if !flags.grants_read() {
            return Err(Errno::EBADF);
        }
        self.require_seekable()?;
        let n = self.file.read_at(&mut offset, sink, flags)?;
        self.was_read();
        self.moved(n, Happening::ACCESS)
    }

    /// `pwrite`: at `offset` (but at the end with `O_APPEND`, as Linux does); the position stays.
    ///
    /// # Errors
    /// `EBADF`, `ESPIPE`, and those of [`File::write`].
    pub fn write_at<S: Source>(&self, mut offset: u64, source: &mut S) -> Result<usize> {
        self.require(Access::WRITE)?;
        self.require_seekable()?;
        let n = self.file().write(&mut offset, source, self.flags())?;
        self.moved(n, Happening::MODIFY)
    }

    /// Notes the access time: something was read from the file, or will be through a mapping.
    #[inline]
    pub fn was_read(&self) {
        if self.is_content && !self.flags().contains(OpenFlags::NOATIME) && !self.file.note_access() {
            self.inode().accessed();
        }
    }

    /// Tells those who watch the file that `n` bytes were moved.
    #[inline]
    fn moved(&self, n: usize, what: Happening) -> Result<usize> {
        if n > 0 {
            inotify::happened(self.location.dentry(), what);
        }
        Ok(n)
    }

    /// Fails for streams.
    ///
    /// # Errors
    /// `ESPIPE`.
    pub fn require_seekable(&self) -> Result<()> {
        if self.seekable { Ok(()) } else { Err(Errno::ESPIPE) }
    }

    /// The current position.
    #[must_use]
    pub fn position(&self) -> u64 {
        *self.position.lock()
    }

    fn with_position<T>(&self, act: impl FnOnce(&mut u64) -> Result<T>) -> Result<T> {
        if self.positioned { act(&mut self.position.lock()) } else { act(&mut 0) }
    }

    /// `lseek`.
    ///
    /// # Errors
    /// `EBADF`, `ESPIPE`, `EINVAL` for a negative result, `EOVERFLOW`, `ENXIO`.
    pub fn seek(&self, from: SeekFrom) -> Result<u64> {
        self.require_open()?;
        self.require_seekable()?;
        if !self.positioned {
            return self.file().seek(from);
        }
        let mut position = self.position.lock();
        *position = self.seek_target(*position, from)?;
        Ok(*position)
    }

    fn seek_target(&self, position: u64, from: SeekFrom) -> Result<u64> {
        let content = self.content();
        let size = || content.map_or(Err(Errno::EINVAL), |inode| Ok(inode.metadata().size));
        let hole_or_data = |offset: i64| u64::try_from(offset).map_err(|_| Errno::ENXIO);
        match from {
            SeekFrom::Start(offset) => add_offset(0, offset),
            SeekFrom::Current(offset) => add_offset(position, offset),
            SeekFrom::End(offset) => add_offset(size()?, offset),
            SeekFrom::Data(offset) => content.ok_or(Errno::EINVAL)?.seek_data(hole_or_data(offset)?),
            SeekFrom::Hole(offset) => content.ok_or(Errno::EINVAL)?.seek_hole(hole_or_data(offset)?),
        }
    }

    /// `getdents`: visits the entries after the position, with `.` and `..`, until `visit` breaks; an entry for which `visit`
    /// breaks is visited again next time.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT` when the directory is removed.
    pub fn read_dir(&self, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        self.require(Access::READ)?;
        if self.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut position = self.position.lock();
        while *position < DOTS {
            let (name, place): (&[u8], _) =
                if *position == 0 { (b".", self.location.clone()) } else { (b"..", self.location.parent_or_self()) };
            let entry =
                DirEntry { ino: place.inode().metadata().ino, kind: FileKind::Directory, name, next: *position + 1 };
            if visit(entry).is_break() {
                return Ok(());
            }
            *position += 1;
        }
        self.inode().read_dir(*position - DOTS, &mut |entry| {
            let next = entry.next + DOTS;
            let flow = visit(DirEntry { next, ..entry });
            if flow.is_continue() {
                *position = next;
            }
            flow
        })?;
        drop(position);
        self.was_read();
        inotify::happened(self.location.dentry(), Happening::ACCESS);
        Ok(())
    }

    /// `ftruncate`.
    ///
    /// # Errors
    /// `EINVAL` for files without content or not open for writing, and those of [`Inode::truncate`].
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.require_open()?;
        self.require(Access::WRITE).map_err(|_| Errno::EINVAL)?;
        let content = self.content().ok_or(Errno::EINVAL)?;
        if content.kind() != FileKind::Regular {
            return Err(Errno::EINVAL);
        }
        content.truncate(size)?;
        inotify::happened(self.location.dentry(), Happening::MODIFY);
        Ok(())
    }

    /// `fallocate`.
    ///
    /// # Errors
    /// `ENODEV` for files without content, and those of [`Inode::allocate`].
    pub fn allocate(&self, how: Allocate, offset: u64, len: u64) -> Result<()> {
        self.content().ok_or(Errno::ENODEV)?.allocate(how, offset, len)?;
        inotify::happened(self.location.dentry(), Happening::MODIFY);
        Ok(())
    }

    /// The text `/proc/self/fd/N` shows.
    #[must_use]
    pub fn path(&self, root: &Location) -> Vec<u8> {
        self.location.path_from(root)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let id = self.id();
        for hook in self.on_close.get_mut().drain(..) {
            hook(id);
        }
        self.file().release();
        if self.counted {
            running::end_writing(&**self.inode());
        }
        if inotify::anybody_watches() && !self.flags().contains(OpenFlags::PATH) {
            let what = if self.flags().can_write() { Happening::CLOSE_WRITE } else { Happening::CLOSE_NOWRITE };
            inotify::happened(self.location.dentry(), what);
        }
    }
}

/// The two states of `O_NONBLOCK`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nonblocking {
    /// Calls do not block.
    On,
    /// Calls may block.
    Off,
}

/// Cookies of `.` and `..` come before the directory's own.
const DOTS: u64 = 2;

fn add_offset(base: u64, offset: i64) -> Result<u64> {
    let target = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
    if target <= OFFSET_MAX { Ok(target) } else { Err(Errno::EOVERFLOW) }
}

/// The file behind an `O_PATH` descriptor: nothing can be done with it.
pub struct PathHandle;

impl File for PathHandle {
    fn read(&self, _position: &mut u64, _sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EBADF)
    }
}
