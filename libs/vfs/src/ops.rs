//! Operations on names: open, create, link, remove, rename, with their permission checks. Changes of attributes are in `ops/attributes.rs`.
//!
//! A [`Context`] is one caller's view for one system call. A change of names holds the directory's lock ([`crate::dentry`]) until both the
//! file system and the dentries know of it.

mod attributes;

pub use attributes::SetTime;

use alloc::borrow::Cow;
use alloc::format;
use alloc::sync::Arc;

use dcache::HashedName;

use crate::dentry::{Dentry, Names};
use crate::file::{OpenFile, PathHandle};
use crate::inode::{Inode, Naming, RenameMode, same_inode};
use crate::inotify::{self, Happening};
use crate::mount::Location;
use crate::types::{Access, FileKind, NewInode, OpenFlags};
use crate::running;
use crate::walk::{Follow, Last, Parent, Resolve, Viewer, Walk};
use crate::{Errno, Result};

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
        let kind = place.inode().kind();
        let stored = matches!(kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if access.contains(Access::WRITE) && stored {
            place.require_writable()?;
        }
        place.inode().permissions().allow(kind, access, self.viewer.credentials)
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
            Opened::Created(place) => {
                let open = open_file(place, flags)?;
                inotify::happened(open.location().dentry(), Happening::OPEN);
                Ok(open)
            }
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
            let parent = walk.parent(&base, path)?;
            let exclusive = flags.contains(OpenFlags::EXCL);
            let Last::Name { slash: false } = parent.last else {
                return Err(if exclusive { Errno::EEXIST } else { Errno::EISDIR });
            };
            let found = match self.entry_or_new(walk, &parent, mode)? {
                Opened::Created(made) => return Ok(Opened::Created(made)),
                Opened::Existing(_) if exclusive => return Err(Errno::EEXIST),
                Opened::Existing(found) => found,
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
            base = parent.directory;
        }
    }

    /// The last component of `parent`, made as a regular file if it does not exist.
    fn entry_or_new(&self, walk: &Walk<'_>, parent: &Parent<'_>, mode: u16) -> Result<Opened> {
        let (directory, name) = (&parent.directory, parent.name());
        let names = directory.dentry().lock_names();
        match names.look_up_to_make(&name) {
            Ok(dentry) => {
                drop(names);
                walk.cross(directory, dentry).map(Opened::Existing)
            }
            Err(Errno::ENOENT) => self.create(&names, directory, &name, FileKind::Regular, mode, 0).map(Opened::Created),
            Err(error) => Err(error),
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
        inotify::happened(open.location().dentry(), Happening::OPEN);
        if flags.contains(OpenFlags::TRUNC) && kind == FileKind::Regular {
            open.inode().truncate(0)?;
            inotify::happened(open.location().dentry(), Happening::MODIFY);
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
            FileKind::CharDevice | FileKind::BlockDevice => place.require_device()?,
            _ => {}
        }
        let mut access = Access::empty();
        access.set(Access::READ, flags.can_read());
        access.set(Access::WRITE, writes);
        self.check(place, access)?;
        // Who opens it for writing is asked when the file is opened.
        let only_cuts = flags.contains(OpenFlags::TRUNC) && !flags.can_write();
        if only_cuts && kind == FileKind::Regular { running::require_idle(&**place.inode()) } else { Ok(()) }
    }

    fn open_unnamed(&self, directory: &Location, flags: OpenFlags, mode: u16) -> Result<Arc<OpenFile>> {
        if directory.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        directory.require_writable()?;
        self.check(directory, WRITE_AND_SEARCH)?;
        let new = self.new_inode(directory, FileKind::Regular, mode, 0);
        let naming = if flags.contains(OpenFlags::EXCL) { Naming::Never } else { Naming::Possible };
        let inode = directory.inode().create_unnamed(&new, naming)?;
        let label = format!("/#{} (deleted)", inode.metadata().ino);
        open_file(Location::nameless(inode, &label), flags)
    }

    /// What a new object in `directory` starts with.
    fn new_inode(&self, directory: &Location, kind: FileKind, mode: u16, rdev: u64) -> NewInode {
        let parent = directory.inode().permissions();
        let inherit = parent.mode & SET_GID != 0;
        let mut mode = mode & 0o7777 & !self.umask;
        if inherit && kind == FileKind::Directory {
            mode |= SET_GID;
        }
        let gid = if inherit { parent.gid } else { self.viewer.credentials.gid };
        NewInode { kind, mode, uid: self.viewer.credentials.uid, gid, rdev }
    }

    /// Makes `name`, which does not exist.
    fn create(
        &self,
        names: &Names<'_>,
        directory: &Location,
        name: &HashedName<'_>,
        kind: FileKind,
        mode: u16,
        rdev: u64,
    ) -> Result<Location> {
        directory.require_writable()?;
        self.check(directory, WRITE_AND_SEARCH)?;
        let inode = directory.inode().create(name.bytes(), &self.new_inode(directory, kind, mode, rdev))?;
        let made = names.add(name, inode);
        inotify::name_changed(directory.dentry(), name.bytes(), made.inode(), Happening::CREATE);
        Ok(directory.with_dentry(made))
    }

    /// Runs `make` with the directory and name for a new object, which does not exist.
    fn make_name<R>(
        &self,
        start: &Location,
        path: &[u8],
        kind: FileKind,
        make: impl FnOnce(&Names<'_>, &Location, &HashedName<'_>) -> Result<R>,
    ) -> Result<R> {
        let parent = self.walk(start, Resolve::empty()).parent(start, Cow::Borrowed(path))?;
        let Last::Name { slash } = parent.last else { return Err(Errno::EEXIST) };
        let (directory, name) = (&parent.directory, parent.name());
        let names = directory.dentry().lock_names();
        match names.look_up_to_make(&name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        if slash && kind != FileKind::Directory {
            return Err(Errno::ENOENT);
        }
        make(&names, directory, &name)
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
        self.make_name(start, path, kind, |names, directory, name| self.create(names, directory, name, kind, mode, rdev))
    }

    /// `symlink`.
    ///
    /// # Errors
    /// Those of `symlink(2)`.
    pub fn symlink(&self, target: &[u8], start: &Location, path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        self.make_name(start, path, FileKind::Symlink, |names, directory, name| {
            directory.require_writable()?;
            self.check(directory, WRITE_AND_SEARCH)?;
            let new = NewInode { mode: 0o777, ..self.new_inode(directory, FileKind::Symlink, 0, 0) };
            let inode = directory.inode().symlink(name.bytes(), target, &new)?;
            let made = names.add(name, inode);
            inotify::name_changed(directory.dentry(), name.bytes(), made.inode(), Happening::CREATE);
            Ok(())
        })
    }

    /// `link`: gives `existing` the name `path`.
    ///
    /// # Errors
    /// Those of `link(2)`.
    pub fn link(&self, existing: &Location, start: &Location, path: &[u8]) -> Result<()> {
        self.make_name(start, path, FileKind::Regular, |names, directory, name| {
            if existing.inode().kind() == FileKind::Directory {
                return Err(Errno::EPERM);
            }
            if !existing.same_mount(directory) && existing.mount().id != 0 {
                return Err(Errno::EXDEV);
            }
            directory.require_writable()?;
            self.check(directory, WRITE_AND_SEARCH)?;
            directory.inode().link(name.bytes(), existing.inode())?;
            names.add(name, existing.inode().clone());
            inotify::happened_to(existing.inode(), Happening::ATTRIB);
            inotify::name_changed(directory.dentry(), name.bytes(), existing.inode(), Happening::CREATE);
            Ok(())
        })
    }

    /// Fails unless the caller may take `entry` out of `directory`.
    fn check_remove(&self, directory: &Location, entry: &dyn Inode) -> Result<()> {
        directory.require_writable()?;
        let (parent, me) = (directory.inode().permissions(), self.viewer.credentials);
        parent.allow(directory.inode().kind(), WRITE_AND_SEARCH, me)?;
        let owner = parent.mode & STICKY == 0 || me.privileged() || me.uid == parent.uid || me.uid == entry.permissions().uid;
        if owner { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `unlink`.
    ///
    /// # Errors
    /// Those of `unlink(2)`; `EISDIR` for a directory.
    pub fn unlink(&self, start: &Location, path: &[u8]) -> Result<()> {
        let parent = self.walk(start, Resolve::empty()).parent(start, Cow::Borrowed(path))?;
        let Last::Name { slash } = parent.last else { return Err(Errno::EISDIR) };
        let (directory, name) = (&parent.directory, parent.name());
        let names = directory.dentry().lock_names();
        let entry = names.look_up(&name)?;
        match entry.inode().kind() {
            FileKind::Directory => return Err(Errno::EISDIR),
            _ if slash => return Err(Errno::ENOTDIR),
            _ => self.check_remove(directory, &**entry.inode())?,
        }
        if entry.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        directory.inode().unlink(name.bytes())?;
        names.remove(&entry);
        // What the last reference frees needs no lock.
        drop(names);
        let inode = entry.inode().clone();
        inotify::happened_to(&inode, Happening::ATTRIB);
        drop(entry);
        inotify::name_changed(directory.dentry(), name.bytes(), &inode, Happening::DELETE);
        Ok(())
    }

    /// `rmdir`.
    ///
    /// # Errors
    /// Those of `rmdir(2)`.
    pub fn rmdir(&self, start: &Location, path: &[u8]) -> Result<()> {
        let parent = self.walk(start, Resolve::empty()).parent(start, Cow::Borrowed(path))?;
        match parent.last {
            Last::Name { .. } => {}
            Last::Dot => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Root => return Err(Errno::EBUSY),
        }
        let (directory, name) = (&parent.directory, parent.name());
        let names = directory.dentry().lock_names();
        let entry = names.look_up(&name)?;
        if entry.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.check_remove(directory, &**entry.inode())?;
        if entry.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        let no_new_names = entry.lock_names();
        directory.inode().rmdir(name.bytes())?;
        names.remove(&entry);
        drop(no_new_names);
        drop(names);
        let inode = entry.inode().clone();
        drop(entry);
        inotify::name_changed(directory.dentry(), name.bytes(), &inode, Happening::DELETE);
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
        let old = self.rename_end(old_start, old_path)?;
        let new = self.rename_end(new_start, new_path)?;
        if !old.directory.same_mount(&new.directory) {
            return Err(Errno::EXDEV);
        }
        let _order = self.viewer.mounts.lock_renames();
        let (from, to) = old.directory.dentry().lock_both(new.directory.dentry());
        let to = to.as_ref().unwrap_or(&from);
        let source = from.look_up(&old.name())?;
        let target = match to.look_up_to_make(&new.name()) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        self.check_rename(&old, &new, &source, target.as_ref(), mode)?;
        if let (Some(target), false) = (&target, mode == RenameMode::Exchange)
            && same_inode(source.inode(), target.inode())
        {
            // Two names of one file: rename does nothing (POSIX).
            return Ok(());
        }
        old.directory.inode().rename(old.name().bytes(), new.directory.inode(), new.name().bytes(), mode)?;
        match (mode, &target) {
            (RenameMode::Exchange, Some(target)) if Arc::ptr_eq(&source, target) => {}
            (RenameMode::Exchange, Some(target)) => from.exchange(&source, to, target),
            _ => from.rename(&source, to, &new.name(), target.as_ref()),
        }
        Self::tell_rename(&old, &new, &source, target.as_ref(), mode);
        Ok(())
    }

    fn tell_rename(old: &Parent<'_>, new: &Parent<'_>, source: &Arc<Dentry>, target: Option<&Arc<Dentry>>, mode: RenameMode) {
        if !inotify::anybody_watches() {
            return;
        }
        let (from, to) = (old.directory.dentry(), new.directory.dentry());
        let (old_name, new_name) = (old.name(), new.name());
        inotify::renamed(from, old_name.bytes(), to, new_name.bytes(), source.inode());
        if let (Some(gone), false) = (target, mode == RenameMode::Exchange) {
            inotify::happened_to(gone.inode(), Happening::ATTRIB);
        }
        inotify::happened_to(source.inode(), Happening::MOVE_SELF);
        if let (Some(other), RenameMode::Exchange) = (target, mode) {
            inotify::renamed(to, new_name.bytes(), from, old_name.bytes(), other.inode());
            inotify::happened_to(other.inode(), Happening::MOVE_SELF);
        }
    }

    fn rename_end<'p>(&self, start: &Location, path: &'p [u8]) -> Result<Parent<'p>> {
        let parent = self.walk(start, Resolve::empty()).parent(start, Cow::Borrowed(path))?;
        if matches!(parent.last, Last::Name { .. }) { Ok(parent) } else { Err(Errno::EBUSY) }
    }

    fn check_rename(
        &self,
        old: &Parent<'_>,
        new: &Parent<'_>,
        source: &Arc<Dentry>,
        target: Option<&Arc<Dentry>>,
        mode: RenameMode,
    ) -> Result<()> {
        self.check_remove(&old.directory, &**source.inode())?;
        match (target, mode) {
            (Some(_), RenameMode::NoReplace | RenameMode::NewWhiteout) => return Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => return Err(Errno::ENOENT),
            (Some(target), _) => self.check_remove(&new.directory, &**target.inode())?,
            (None, _) => self.check(&new.directory, WRITE_AND_SEARCH)?,
        }
        let slash = |parent: &Parent<'_>| parent.last == Last::Name { slash: true };
        let is_directory = source.inode().kind() == FileKind::Directory;
        if (slash(old) || slash(new) && mode != RenameMode::Exchange) && !is_directory {
            return Err(Errno::ENOTDIR);
        }
        if is_directory && new.directory.dentry().is_within(source) {
            return Err(Errno::EINVAL);
        }
        if let (RenameMode::Exchange, Some(target)) = (mode, target)
            && old.directory.dentry().is_within(target)
        {
            return Err(Errno::EINVAL);
        }
        let busy = source.is_mount_point() || target.is_some_and(|target| target.is_mount_point());
        if busy { Err(Errno::EBUSY) } else { Ok(()) }
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
    OpenFile::opened(file, place, flags)
}
