//! Operations on names: open, create, link, remove, rename, and changes of attributes, with their permission checks.
//!
//! A [`Context`] is one caller's view for one system call. The file system's own directory lock makes each change atomic;
//! the dentries are told afterwards.

use alloc::borrow::Cow;
use alloc::format;
use alloc::sync::Arc;

use crate::file::{OpenFile, PathHandle};
use crate::inode::{Inode, RenameMode};
use crate::mount::Location;
use crate::types::{Access, FileKind, NewInode, OpenFlags, SetAttributes};
use crate::walk::{Follow, Last, Parent, Resolve, Viewer, Walk, check_access};
use crate::{Errno, Metadata, Result, Timespec};

const SET_UID: u16 = 0o4000;
const SET_GID: u16 = 0o2000;
const STICKY: u16 = 0o1000;
const WRITE_AND_SEARCH: Access = Access::WRITE.union(Access::EXECUTE);

/// Who acts, where, and with which umask.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Mounts, root and credentials.
    pub viewer: Viewer<'a>,
    /// Permission bits that new files do not get.
    pub umask: u16,
}

/// A time for `utimensat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This time.
    To(Timespec),
    /// Unchanged.
    Omit,
}

/// A found or made file on its way to being opened.
enum Opened {
    Existing(Location),
    Created(Location),
}

impl<'a> Context<'a> {
    fn walk(&self, start: &Location, resolve: Resolve) -> Walk<'a> {
        Walk::new(self.viewer, resolve, start)
    }

    /// The place `path` names, relative to `start`.
    ///
    /// # Errors
    /// As [`Walk::lookup`].
    pub fn lookup(&self, start: &Location, path: &[u8], follow: Follow) -> Result<Location> {
        self.walk(start, Resolve::empty()).lookup(start, path, follow)
    }

    /// Fails unless the caller may do `access` to `place`.
    ///
    /// # Errors
    /// `EACCES`; `EROFS` for writing where nothing can be written.
    pub fn check(&self, place: &Location, access: Access) -> Result<()> {
        let metadata = place.inode().metadata();
        let stored = matches!(metadata.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if access.contains(Access::WRITE) && stored {
            place.require_writable()?;
        }
        check_access(&metadata, access, self.viewer.credentials)
    }

    /// `openat2`: opens `path`, making the file with `mode` if `O_CREAT` asks for it.
    ///
    /// # Errors
    /// Those of `openat2(2)`.
    pub fn open(
        &self,
        start: &Location,
        path: &[u8],
        flags: OpenFlags,
        mode: u16,
        resolve: Resolve,
    ) -> Result<Arc<OpenFile>> {
        let flags = normalize(flags)?;
        let mut walk = self.walk(start, resolve);
        if flags.contains(OpenFlags::TMPFILE_BIT) {
            return self.open_unnamed(&walk.lookup(start, path, Follow::Yes)?, flags, mode);
        }
        let opened = if flags.contains(OpenFlags::CREAT) {
            self.find_or_create(&mut walk, start, path, flags, mode)?
        } else {
            let follow = if flags.contains(OpenFlags::NOFOLLOW) { Follow::No } else { Follow::Yes };
            Opened::Existing(walk.lookup(start, path, follow)?)
        };
        match opened {
            Opened::Existing(place) => self.open_existing(place, flags),
            Opened::Created(place) => open_file(place, flags),
        }
    }

    fn find_or_create(
        &self,
        walk: &mut Walk<'_>,
        start: &Location,
        path: &[u8],
        flags: OpenFlags,
        mode: u16,
    ) -> Result<Opened> {
        let mut base = start.clone();
        let mut path = Cow::Borrowed(path);
        loop {
            let Parent { directory, last } = walk.parent(&base, &path)?;
            let exclusive = flags.contains(OpenFlags::EXCL);
            let Last::Name { name, slash: false } = last else {
                return Err(if exclusive { Errno::EEXIST } else { Errno::EISDIR });
            };
            let found = match walk.entry(&directory, &name) {
                Ok(_) if exclusive => return Err(Errno::EEXIST),
                Ok(found) => found,
                Err(Errno::ENOENT) => match self.create(&directory, &name, FileKind::Regular, mode, 0) {
                    Err(Errno::EEXIST) if !exclusive => continue,
                    made => return Ok(Opened::Created(made?)),
                },
                Err(error) => return Err(error),
            };
            if found.inode().kind() != FileKind::Symlink {
                return Ok(Opened::Existing(found));
            }
            if flags.contains(OpenFlags::NOFOLLOW) {
                return Err(Errno::ELOOP);
            }
            if let Some(target) = walk.follow_magic(&found)? {
                return Ok(Opened::Existing(target));
            }
            path = Cow::Owned(walk.link_text(&found)?);
            base = directory;
        }
    }

    fn open_existing(&self, place: Location, flags: OpenFlags) -> Result<Arc<OpenFile>> {
        let kind = place.inode().kind();
        if flags.contains(OpenFlags::DIRECTORY) && kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if flags.contains(OpenFlags::PATH) {
            return Ok(OpenFile::new(Arc::new(PathHandle), place, flags));
        }
        self.check_open(&place, kind, flags)?;
        let open = open_file(place, flags)?;
        if flags.contains(OpenFlags::TRUNC) && kind == FileKind::Regular {
            open.inode().truncate(0)?;
        }
        Ok(open)
    }

    /// Opens what a magic link or a handle names, as `open("/proc/self/fd/N")` does.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn reopen(&self, place: &Location, flags: OpenFlags) -> Result<Arc<OpenFile>> {
        self.open_existing(place.clone(), normalize(flags)?)
    }

    fn check_open(&self, place: &Location, kind: FileKind, flags: OpenFlags) -> Result<()> {
        let writes = flags.can_write() || flags.contains(OpenFlags::TRUNC);
        match kind {
            FileKind::Symlink => return Err(Errno::ELOOP),
            FileKind::Directory if writes || flags.contains(OpenFlags::CREAT) => return Err(Errno::EISDIR),
            FileKind::Socket => return Err(Errno::ENXIO),
            _ => {}
        }
        let mut access = Access::empty();
        access.set(Access::READ, flags.can_read());
        access.set(Access::WRITE, writes);
        self.check(place, access)
    }

    fn open_unnamed(&self, directory: &Location, flags: OpenFlags, mode: u16) -> Result<Arc<OpenFile>> {
        if directory.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        directory.require_writable()?;
        self.check(directory, WRITE_AND_SEARCH)?;
        let new = self.new_inode(directory, FileKind::Regular, mode, 0);
        let inode = directory.inode().create_unnamed(&new)?;
        let label = format!("/#{} (deleted)", inode.metadata().ino);
        open_file(Location::nameless(inode, &label), flags)
    }

    /// What a new object in `directory` starts with.
    fn new_inode(&self, directory: &Location, kind: FileKind, mode: u16, rdev: u64) -> NewInode {
        let parent = directory.inode().metadata();
        let inherit = parent.mode & SET_GID != 0;
        let mut mode = mode & 0o7777 & !self.umask;
        if inherit && kind == FileKind::Directory {
            mode |= SET_GID;
        }
        let gid = if inherit { parent.gid } else { self.viewer.credentials.gid };
        NewInode { kind, mode, uid: self.viewer.credentials.uid, gid, rdev }
    }

    fn create(&self, directory: &Location, name: &[u8], kind: FileKind, mode: u16, rdev: u64) -> Result<Location> {
        directory.require_writable()?;
        self.check(directory, WRITE_AND_SEARCH)?;
        let inode = directory.inode().create(name, &self.new_inode(directory, kind, mode, rdev))?;
        Ok(directory.child(name, inode))
    }

    /// The directory and name for a new object, which must not exist.
    fn new_name(&self, start: &Location, path: &[u8], kind: FileKind) -> Result<(Location, alloc::vec::Vec<u8>)> {
        let mut walk = self.walk(start, Resolve::empty());
        let Parent { directory, last } = walk.parent(start, path)?;
        let Last::Name { name, slash } = last else { return Err(Errno::EEXIST) };
        match walk.entry(&directory, &name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        if slash && kind != FileKind::Directory {
            return Err(Errno::ENOENT);
        }
        Ok((directory, name))
    }

    /// `mkdir` and `mknod`.
    ///
    /// # Errors
    /// Those of `mkdir(2)` and `mknod(2)`; `EPERM` for a device node without privilege.
    pub fn make(&self, start: &Location, path: &[u8], kind: FileKind, mode: u16, rdev: u64) -> Result<Location> {
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        if device && !self.viewer.credentials.privileged() {
            return Err(Errno::EPERM);
        }
        let (directory, name) = self.new_name(start, path, kind)?;
        self.create(&directory, &name, kind, mode, rdev)
    }

    /// `symlink`.
    ///
    /// # Errors
    /// Those of `symlink(2)`.
    pub fn symlink(&self, target: &[u8], start: &Location, path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let (directory, name) = self.new_name(start, path, FileKind::Symlink)?;
        directory.require_writable()?;
        self.check(&directory, WRITE_AND_SEARCH)?;
        let new = NewInode { mode: 0o777, ..self.new_inode(&directory, FileKind::Symlink, 0, 0) };
        directory.inode().symlink(&name, target, &new).map(drop)
    }

    /// `link`: gives `existing` the name `path`.
    ///
    /// # Errors
    /// Those of `link(2)`.
    pub fn link(&self, existing: &Location, start: &Location, path: &[u8]) -> Result<()> {
        let (directory, name) = self.new_name(start, path, FileKind::Regular)?;
        if existing.inode().kind() == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        if !existing.same_mount(&directory) && existing.mount().id != 0 {
            return Err(Errno::EXDEV);
        }
        directory.require_writable()?;
        self.check(&directory, WRITE_AND_SEARCH)?;
        directory.inode().link(&name, existing.inode())
    }

    /// Fails unless the caller may take `entry` out of `directory`.
    fn check_remove(&self, directory: &Location, entry: &dyn Inode) -> Result<()> {
        directory.require_writable()?;
        self.check(directory, WRITE_AND_SEARCH)?;
        let parent = directory.inode().metadata();
        let me = self.viewer.credentials;
        let owner = me.privileged() || me.uid == entry.metadata().uid || me.uid == parent.uid;
        if parent.mode & STICKY != 0 && !owner { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// `unlink`.
    ///
    /// # Errors
    /// Those of `unlink(2)`; `EISDIR` for a directory.
    pub fn unlink(&self, start: &Location, path: &[u8]) -> Result<()> {
        let Parent { directory, last } = self.walk(start, Resolve::empty()).parent(start, path)?;
        let Last::Name { name, slash } = last else { return Err(Errno::EISDIR) };
        let entry = directory.inode().lookup(&name)?;
        match entry.kind() {
            FileKind::Directory => return Err(Errno::EISDIR),
            _ if slash => return Err(Errno::ENOTDIR),
            _ => self.check_remove(&directory, &*entry)?,
        }
        if directory.dentry().child_is_mount_point(&name) {
            return Err(Errno::EBUSY);
        }
        directory.inode().unlink(&name)?;
        directory.dentry().forget_child(&name);
        Ok(())
    }

    /// `rmdir`.
    ///
    /// # Errors
    /// Those of `rmdir(2)`.
    pub fn rmdir(&self, start: &Location, path: &[u8]) -> Result<()> {
        let Parent { directory, last } = self.walk(start, Resolve::empty()).parent(start, path)?;
        let name = match last {
            Last::Name { name, .. } => name,
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Root => return Err(Errno::EBUSY),
        };
        let entry = directory.inode().lookup(&name)?;
        if entry.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.check_remove(&directory, &*entry)?;
        if directory.dentry().child_is_mount_point(&name) {
            return Err(Errno::EBUSY);
        }
        directory.inode().rmdir(&name)?;
        directory.dentry().forget_child(&name);
        Ok(())
    }

    /// `renameat2`.
    ///
    /// # Errors
    /// Those of `renameat2(2)`.
    pub fn rename(
        &self,
        (old_start, old_path): (&Location, &[u8]),
        (new_start, new_path): (&Location, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        let (from, old, old_slash) = self.rename_end(old_start, old_path)?;
        let (to, new, new_slash) = self.rename_end(new_start, new_path)?;
        if !from.same_mount(&to) {
            return Err(Errno::EXDEV);
        }
        let _order = self.viewer.mounts.lock_renames();
        let source = from.inode().lookup(&old)?;
        let target = match to.inode().lookup(&new) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        self.check_rename(&from, &to, &*source, target.as_deref(), mode)?;
        let is_directory = source.kind() == FileKind::Directory;
        if (old_slash || new_slash && mode != RenameMode::Exchange) && !is_directory {
            return Err(Errno::ENOTDIR);
        }
        let source_place = from.dentry().child(&old, source);
        if is_directory && to.dentry().is_within(&source_place) {
            return Err(Errno::EINVAL);
        }
        if let (RenameMode::Exchange, Some(target)) = (mode, target)
            && from.dentry().is_within(&to.dentry().child(&new, target))
        {
            return Err(Errno::EINVAL);
        }
        if source_place.is_mount_point() || to.dentry().child_is_mount_point(&new) {
            return Err(Errno::EBUSY);
        }
        self.rename_checked((&from, &old), (&to, &new), mode)
    }

    fn rename_checked(&self, (from, old): (&Location, &[u8]), (to, new): (&Location, &[u8]), mode: RenameMode) -> Result<()> {
        let same_file = match (from.inode().lookup(old), to.inode().lookup(new)) {
            (Ok(a), Ok(b)) => crate::inode::same_inode(&a, &b),
            _ => false,
        };
        from.inode().rename(old, to.inode(), new, mode)?;
        match mode {
            RenameMode::Exchange => from.dentry().exchange_child(old, to.dentry(), new),
            // Two names of one file: rename does nothing (POSIX).
            _ if same_file => {}
            _ => from.dentry().move_child(old, to.dentry(), new),
        }
        Ok(())
    }

    fn rename_end(&self, start: &Location, path: &[u8]) -> Result<(Location, alloc::vec::Vec<u8>, bool)> {
        let Parent { directory, last } = self.walk(start, Resolve::empty()).parent(start, path)?;
        match last {
            Last::Name { name, slash } => Ok((directory, name, slash)),
            _ => Err(Errno::EBUSY),
        }
    }

    fn check_rename(
        &self,
        from: &Location,
        to: &Location,
        source: &dyn Inode,
        target: Option<&dyn Inode>,
        mode: RenameMode,
    ) -> Result<()> {
        self.check_remove(from, source)?;
        match (target, mode) {
            (Some(_), RenameMode::NoReplace) => Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => Err(Errno::ENOENT),
            (Some(target), _) => self.check_remove(to, target),
            (None, _) => self.check(to, WRITE_AND_SEARCH),
        }
    }

    fn owns(&self, metadata: &Metadata) -> bool {
        let me = self.viewer.credentials;
        me.privileged() || me.uid == metadata.uid
    }

    /// `chmod`.
    ///
    /// # Errors
    /// `EPERM` unless owner or privileged, `EROFS`; `EOPNOTSUPP` for a symbolic link.
    pub fn change_mode(&self, place: &Location, mode: u16) -> Result<()> {
        let metadata = place.inode().metadata();
        place.require_writable()?;
        if metadata.kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.owns(&metadata) {
            return Err(Errno::EPERM);
        }
        let me = self.viewer.credentials;
        let strip = if me.privileged() || me.in_group(metadata.gid) { 0 } else { SET_GID };
        place.inode().set_attributes(&SetAttributes { mode: Some(mode & 0o7777 & !strip), ..SetAttributes::default() })
    }

    /// `chown`; `None` leaves an id alone. Set-id bits of a file are dropped.
    ///
    /// # Errors
    /// `EPERM` unless privileged (an owner may choose among its own groups), `EROFS`.
    pub fn change_owner(&self, place: &Location, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let metadata = place.inode().metadata();
        place.require_writable()?;
        let me = self.viewer.credentials;
        let uid_ok = uid.is_none_or(|uid| uid == metadata.uid);
        let gid_ok = gid.is_none_or(|gid| me.in_group(gid) || gid == metadata.gid);
        let allowed = me.privileged() || self.owns(&metadata) && uid_ok && gid_ok;
        if !allowed {
            return Err(Errno::EPERM);
        }
        let drop_bits = metadata.kind != FileKind::Directory && metadata.mode & (SET_UID | SET_GID) != 0;
        let mode = drop_bits.then_some(metadata.mode & !(SET_UID | if metadata.mode & 0o010 != 0 { SET_GID } else { 0 }));
        place.inode().set_attributes(&SetAttributes { mode, uid, gid, ..SetAttributes::default() })
    }

    /// `utimensat`: sets access and modification time; `now` is the current time.
    ///
    /// # Errors
    /// `EPERM`/`EACCES` unless owner, privileged, or (both times "now") allowed to write; `EROFS`.
    pub fn change_times(&self, place: &Location, atime: SetTime, mtime: SetTime, now: Timespec) -> Result<()> {
        if (atime, mtime) == (SetTime::Omit, SetTime::Omit) {
            return Ok(());
        }
        let metadata = place.inode().metadata();
        place.require_writable()?;
        if !self.owns(&metadata) {
            if (atime, mtime) != (SetTime::Now, SetTime::Now) {
                return Err(Errno::EPERM);
            }
            self.check(place, Access::WRITE)?;
        }
        let value = |time| match time {
            SetTime::Now => Some(now),
            SetTime::To(time) => Some(time),
            SetTime::Omit => None,
        };
        let changes = SetAttributes { atime: value(atime), mtime: value(mtime), ..SetAttributes::default() };
        place.inode().set_attributes(&changes)
    }

    /// `truncate`.
    ///
    /// # Errors
    /// Those of `truncate(2)`.
    pub fn truncate(&self, place: &Location, size: u64) -> Result<()> {
        match place.inode().kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        self.check(place, Access::WRITE)?;
        place.inode().truncate(size)
    }
}

/// Checks flags that exclude each other, and drops those that have no meaning beside `O_PATH`.
fn normalize(flags: OpenFlags) -> Result<OpenFlags> {
    if flags.contains(OpenFlags::PATH) {
        let kept = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
        return Ok(flags & kept);
    }
    let unnamed = flags.contains(OpenFlags::TMPFILE_BIT);
    let directory = flags.contains(OpenFlags::DIRECTORY);
    if unnamed && (!directory || !flags.can_write() || flags.contains(OpenFlags::CREAT)) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    Ok(flags)
}

fn open_file(place: Location, flags: OpenFlags) -> Result<Arc<OpenFile>> {
    let file = place.inode().clone().open(flags)?;
    Ok(OpenFile::new(file, place, flags))
}
