//! [`Inode`]: one object of a file system, whatever name led to it.
//!
//! A file system implements what it supports; everything else answers with the error Linux gives. Permission checks,
//! symbolic links and mounts are the business of `walk` and `ops`; an inode does what it is told.
//! Concurrency: every method may be called from many threads at once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::ControlFlow;

use frame::Mappable;

use crate::file::{File, InodeFile, OpenFile};
use crate::io::{Sink, Source};
use crate::mount::Location;
use crate::running::WriteCount;
use crate::types::{DirEntry, FileKind, Metadata, NewInode, OpenFlags, Permissions, SetAttributes, StatFs};
use crate::{Errno, Result};

/// What `rename` does when the new name exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Replace it (if kinds agree and a directory is empty).
    Replace,
    /// Fail with `EEXIST` (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swap the two (`RENAME_EXCHANGE`).
    Exchange,
    /// As `Replace`, and leave a device 0:0 where it was (`RENAME_WHITEOUT`).
    Whiteout,
    /// As `NoReplace` and `Whiteout` together.
    NewWhiteout,
}

/// How `fallocate` changes a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Reserve storage and grow the file.
    Grow,
    /// Reserve storage, size unchanged (`FALLOC_FL_KEEP_SIZE`).
    KeepSize,
    /// Free the storage of the range; it reads as zeros (`FALLOC_FL_PUNCH_HOLE`).
    PunchHole,
    /// Make the range read as zeros, growing the file (`FALLOC_FL_ZERO_RANGE`).
    ZeroRange,
    /// Make the range read as zeros, size unchanged (with `FALLOC_FL_KEEP_SIZE`).
    ZeroRangeKeepSize,
    /// Take the range out; what follows moves down (`FALLOC_FL_COLLAPSE_RANGE`).
    Collapse,
    /// Put a hole in; what follows moves up (`FALLOC_FL_INSERT_RANGE`).
    Insert,
}

/// Whose pages a mapping will see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapKind {
    /// `MAP_SHARED`: later writes to the file must show up.
    Shared,
    /// `MAP_PRIVATE`: later writes may show up.
    Private,
}

/// One object of a file system.
pub trait Inode: Any + Send + Sync {
    /// Its kind; never changes.
    fn kind(&self) -> FileKind;

    /// What `stat` tells.
    fn metadata(&self) -> Metadata;

    /// Mode and owner.
    fn permissions(&self) -> Permissions {
        self.metadata().permissions()
    }

    /// Whether the names in this directory change only by this trait's methods, so that what they stand for may be remembered.
    fn names_are_cached(&self) -> bool {
        false
    }

    /// What `statfs` tells about the file system.
    fn statfs(&self) -> StatFs;

    /// Changes mode, owner or times.
    ///
    /// # Errors
    /// `EPERM` where attributes are fixed, `EROFS`.
    fn set_attributes(&self, _changes: &SetAttributes) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The entry `name` of a directory (never `.` or `..`).
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }

    /// Makes a new object (not a symbolic link) in a directory.
    ///
    /// # Errors
    /// `EEXIST`, `ENOSPC`, `ENOENT` when the directory is removed, `EPERM`/`EROFS` where nothing can be made.
    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    /// Makes a regular file without a name, in the directory's file system (`O_TMPFILE`), which can get one later or not.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system has none.
    fn create_unnamed(&self, _new: &NewInode, _naming: Naming) -> Result<Arc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Makes a symbolic link in a directory.
    ///
    /// # Errors
    /// As [`Inode::create`].
    fn symlink(&self, _name: &[u8], _target: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    /// Gives `target` one more name in this directory.
    ///
    /// # Errors
    /// `EEXIST`, `EXDEV` for another file system's inode, `EPERM`.
    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a name that is not a directory's.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EPERM`.
    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EPERM`.
    fn rmdir(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Moves the entry `old` of this directory to `new` in `new_dir`.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EXDEV`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EINVAL` into its own subtree, `EPERM`.
    fn rename(&self, _old: &[u8], _new_dir: &Arc<dyn Inode>, _new: &[u8], _mode: RenameMode) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The text of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    fn readlink(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Where a magic link (`/proc/self/exe`, `/proc/self/fd/N`) leads, without going through its text.
    /// `None` for ordinary symbolic links.
    fn magic_link(&self) -> Option<Result<Location>> {
        None
    }

    /// Visits the entries after `cookie` (0 = from the start; otherwise some entry's `next`), without `.` and `..`,
    /// until `visit` breaks. An entry that exists all the time is visited exactly once, whatever else changes.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT` when the directory is removed.
    fn read_dir(&self, _cookie: u64, _visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    /// Opens it. `O_CREAT`, `O_TRUNC` and permissions were dealt with by the caller.
    ///
    /// # Errors
    /// `ENXIO` for a device or socket nobody serves, `EROFS`; blocking kinds also `ERESTARTSYS`.
    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>>;

    /// Reads file content at `offset`; 0 at the end.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`, `EFAULT`, `EIO`.
    fn read_at(&self, _offset: u64, _sink: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes file content at `*position`, or at the end if `append`; moves `*position` behind the last byte written.
    ///
    /// # Errors
    /// `EFBIG`, `ENOSPC`, `EFAULT`, `EROFS`.
    fn write_at(&self, _position: &mut u64, _append: Append, _source: &mut dyn Source) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Sets the size of a regular file.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`, `EFBIG`, `EROFS`.
    fn truncate(&self, _size: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// `fallocate`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENOSPC`, `EFBIG`.
    fn allocate(&self, _how: Allocate, _offset: u64, _len: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// First offset at or after `offset` that holds data (`SEEK_DATA`).
    ///
    /// # Errors
    /// `ENXIO` beyond the last data.
    fn seek_data(&self, offset: u64) -> Result<u64> {
        if offset < self.metadata().size { Ok(offset) } else { Err(Errno::ENXIO) }
    }

    /// First offset at or after `offset` that is in a hole; the end counts as one (`SEEK_HOLE`).
    ///
    /// # Errors
    /// `ENXIO` beyond the end.
    fn seek_hole(&self, offset: u64) -> Result<u64> {
        let size = self.metadata().size;
        if offset < size { Ok(size) } else { Err(Errno::ENXIO) }
    }

    /// The pages, for `mmap`; `None` where it cannot be mapped (`ENODEV`).
    fn mappable(self: Arc<Self>, _kind: MapKind) -> Option<Arc<dyn Mappable>> {
        None
    }

    /// The pages as `file` maps them, which was opened from this and stays open as long as they are mapped. `None` as [`Inode::mappable`].
    fn mapped_by(self: Arc<Self>, file: Arc<OpenFile>, kind: MapKind) -> Option<Arc<dyn Mappable>> {
        drop(file);
        self.mappable(kind)
    }

    /// Notes that the content was read, for the access time.
    fn accessed(&self) {}

    /// Brings content and metadata to stable storage.
    ///
    /// # Errors
    /// `EIO`.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system has none, `ENODATA` when it is not set.
    fn get_xattr(&self, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `EEXIST`/`ENODATA` as `create`/`replace` ask, `ENOSPC`.
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _mode: XattrMode) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENODATA`.
    fn remove_xattr(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Names of all extended attributes, each ended by a zero byte.
    ///
    /// # Errors
    /// `EOPNOTSUPP`.
    fn list_xattr(&self) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Who writes to it and who executes it; `None` where that is not counted, and both may be done at a time.
    fn write_count(&self) -> Option<&WriteCount> {
        None
    }

    /// How long what is written is expected to live (`F_GET_RW_HINT`).
    ///
    /// # Errors
    /// `EINVAL` for anything without storage.
    fn write_hint(&self) -> Result<u64> {
        Err(Errno::EINVAL)
    }

    /// Says how long what is written will live (`F_SET_RW_HINT`).
    ///
    /// # Errors
    /// `EINVAL` for an unknown hint, and for anything without storage.
    fn set_write_hint(&self, _hint: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// Seals of a memfd (`F_GET_SEALS`).
    ///
    /// # Errors
    /// `EINVAL` for anything that cannot be sealed.
    fn seals(&self) -> Result<u32> {
        Err(Errno::EINVAL)
    }

    /// Adds seals to a memfd (`F_ADD_SEALS`).
    ///
    /// # Errors
    /// `EINVAL`, `EPERM` when sealing is sealed, `EBUSY`.
    fn add_seals(&self, _seals: u32) -> Result<()> {
        Err(Errno::EINVAL)
    }
}

/// Whether a file without a name can get one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// By `linkat`.
    Possible,
    /// Never (`O_EXCL`).
    Never,
}

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Append {
    /// To the end of the file, atomically (`O_APPEND`).
    Yes,
    /// To the given position.
    No,
}

/// What `setxattr` does about an attribute that exists or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Either.
    Any,
    /// Fail with `EEXIST` when it exists.
    Create,
    /// Fail with `ENODATA` when it does not.
    Replace,
}

/// Opens a regular file or directory whose content the inode itself serves.
#[must_use]
pub fn open_plain(inode: Arc<dyn Inode>) -> Arc<dyn File> {
    Arc::new(InodeFile::new(inode))
}

/// Whether two references name the same inode object.
#[must_use]
pub fn same_inode(a: &Arc<dyn Inode>, b: &Arc<dyn Inode>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}
