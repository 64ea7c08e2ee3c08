//! What can be done to a [`Node`]: its [`Inode`] operations, and those of an open file.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;

use frame::Mappable;

use super::mapping::Mapping;
use super::{Body, Node};
use super::super::content::SEAL_EXEC;
use crate::file::{File, OpenFile};
use crate::inode::{Allocate, Append, Inode, MapKind, Naming, RenameMode, XattrMode};
use crate::io::{Sink, Source};
use crate::pipe::{self, Pipe};
use crate::running::WriteCount;
use crate::types::{DirEntry, FileKind, Metadata, NewInode, OpenFlags, Permissions, SetAttributes, StatFs};
use crate::{Errno, Result};

/// Anybody may execute it.
const EXECUTE: u16 = 0o111;

impl Inode for Node {
    fn kind(&self) -> FileKind {
        self.kind
    }

    #[inline]
    fn metadata(&self) -> Metadata {
        let mut metadata = self.attributes.lock().metadata;
        match &self.body {
            Body::Regular(content) => {
                metadata.size = content.size();
                metadata.blocks = content.blocks();
            }
            Body::Directory(directory) => metadata.size = 20 * (2 + directory.read().own_len() as u64),
            _ => {}
        }
        metadata
    }

    fn permissions(&self) -> Permissions {
        self.attributes.lock().metadata.permissions()
    }

    fn names_are_cached(&self) -> bool {
        self.fs.options.cached_names
    }

    fn statfs(&self) -> StatFs {
        self.fs.statfs()
    }

    fn set_attributes(&self, changes: &SetAttributes) -> Result<()> {
        let now = self.fs.now();
        {
            let metadata = &mut self.attributes.lock().metadata;
            let changed = changes.mode.map_or(0, |mode| mode ^ metadata.mode);
            if changed & EXECUTE != 0 && self.content().is_some_and(|content| content.seals().is_ok_and(|seals| seals & SEAL_EXEC != 0)) {
                return Err(Errno::EPERM);
            }
            metadata.mode = changes.mode.unwrap_or(metadata.mode);
            metadata.uid = changes.uid.unwrap_or(metadata.uid);
            metadata.gid = changes.gid.unwrap_or(metadata.gid);
            metadata.atime = changes.atime.unwrap_or(metadata.atime);
            metadata.mtime = changes.mtime.unwrap_or(metadata.mtime);
            metadata.ctime = now;
        }
        self.unread.store(true, Ordering::Relaxed);
        self.mark_dirty();
        Ok(())
    }

    /// Access times are kept as with Linux's `relatime`: updated by the first read after a change. An object of the lower tree that
    /// does not differ from below stays so.
    #[inline]
    fn accessed(&self) {
        if self.unread.load(Ordering::Relaxed) && (self.lower.is_none() || self.dirty.load(Ordering::Relaxed)) {
            self.unread.store(false, Ordering::Relaxed);
            self.attributes.lock().metadata.atime = self.fs.now();
        }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let found = self.directory()?.read().find(name)?;
        Ok(self.resolve(found))
    }

    fn create(&self, name: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>> {
        self.add(name, |ino| Self::new(&self.fs, ino, new, None))
    }

    fn create_unnamed(&self, new: &NewInode, naming: Naming) -> Result<Arc<dyn Inode>> {
        self.directory()?;
        let node = self.fs.make(new);
        let mut attributes = node.attributes.lock();
        attributes.metadata.nlink = 0;
        attributes.linkable = naming == Naming::Possible;
        drop(attributes);
        Ok(node)
    }

    fn symlink(&self, name: &[u8], target: &[u8], new: &NewInode) -> Result<Arc<dyn Inode>> {
        self.add(name, |ino| Self::new_symlink(&self.fs, ino, target, new))
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let node = self.sibling(target)?.me.upgrade().ok_or(Errno::ENOENT)?;
        if node.kind == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        let mut directory = self.directory()?.write();
        directory.require_free(name)?;
        node.take_link()?;
        directory.insert(name, node.clone());
        drop(directory);
        node.links_changed(1);
        self.names_changed(0);
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let mut directory = self.directory()?.write();
        let node = match directory.take_file(name)? {
            Some(node) => node,
            None => {
                let node = self.find(&directory, name)?;
                if node.kind == FileKind::Directory {
                    return Err(Errno::EISDIR);
                }
                directory.remove(name);
                node
            }
        };
        drop(directory);
        let now = self.fs.now();
        node.links_changed_at(-1, now);
        self.mark_dirty();
        self.touch_at(now);
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        let _shape = self.fs.shape.lock();
        let mut directory = self.directory()?.write();
        let node = self.find(&directory, name)?;
        {
            let mut gone = node.directory()?.write();
            if !gone.is_empty()? {
                return Err(Errno::ENOTEMPTY);
            }
            gone.mark_removed();
        }
        directory.remove(name);
        drop(directory);
        node.directory_gone();
        self.names_changed(-1);
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], mode: RenameMode) -> Result<()> {
        let to = self.sibling(new_dir)?;
        match mode {
            RenameMode::Exchange => self.exchange(old, to, new),
            _ => self.rename_over(old, to, new, mode),
        }
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn read_dir(&self, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        let directory = self.directory()?.read();
        if directory.is_removed() {
            return Err(Errno::ENOENT);
        }
        directory.visit(cookie, visit)
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        match &self.body {
            Body::Regular(_) | Body::Directory(_) => Ok(self),
            Body::Fifo(pipe) => pipe::open_fifo(pipe.get_or_init(Pipe::new), flags),
            Body::Special(Some(opener)) => opener(flags),
            Body::Special(None) => (self.fs.options.open_device)(self.kind, self.metadata().rdev, flags),
            Body::Symlink(_) => Err(Errno::ELOOP),
        }
    }

    fn read_at(&self, offset: u64, mut sink: &mut dyn Sink) -> Result<usize> {
        self.read_to(offset, &mut sink)
    }

    fn write_at(&self, position: &mut u64, append: Append, source: &mut dyn Source) -> Result<usize> {
        let content = self.require_content()?;
        self.mark_dirty();
        let n = content.write(&self.fs, position, append, source)?;
        if n > 0 {
            self.touch();
        }
        Ok(n)
    }

    fn truncate(&self, size: u64) -> Result<()> {
        let content = self.require_content()?;
        self.mark_dirty();
        content.truncate(&self.fs, size)?;
        self.touch();
        Ok(())
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> Result<()> {
        let content = self.require_content().map_err(|_| Errno::ENODEV)?;
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        self.mark_dirty();
        content.allocate(&self.fs, how, offset..end)?;
        self.touch();
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> Result<u64> {
        self.require_content()?.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<u64> {
        self.require_content()?.seek_hole(offset)
    }

    fn mappable(self: Arc<Self>, kind: MapKind) -> Option<Arc<dyn Mappable>> {
        self.content()?;
        Some(Arc::new(Mapping::new(self, kind)))
    }

    fn mapped_by(self: Arc<Self>, file: Arc<OpenFile>, kind: MapKind) -> Option<Arc<dyn Mappable>> {
        self.content()?;
        Some(Arc::new(Mapping::of_file(self, kind, file)))
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.check_xattr(name, Errno::ENODATA)?;
        let attributes = self.attributes.lock();
        match (&attributes.xattrs, &self.lower) {
            (Some(all), _) => all.get(name).map(|value| value.to_vec()).ok_or(Errno::ENODATA),
            (None, Some(lower)) => match lower.get_xattr(name) {
                Err(Errno::EOPNOTSUPP) => Err(Errno::ENODATA),
                value => value,
            },
            (None, None) => Err(Errno::ENODATA),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.check_xattr(name, Errno::EPERM)?;
        self.with_xattrs(|all| {
            match (all.contains_key(name), mode) {
                (true, XattrMode::Create) => return Err(Errno::EEXIST),
                (false, XattrMode::Replace) => return Err(Errno::ENODATA),
                _ => all.insert(Box::from(name), Box::from(value)),
            };
            Ok(())
        })?;
        self.attributes.lock().metadata.ctime = self.fs.now();
        self.mark_dirty();
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.check_xattr(name, Errno::EPERM)?;
        self.with_xattrs(|all| all.remove(name).map(drop).ok_or(Errno::ENODATA))?;
        self.mark_dirty();
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<u8>> {
        self.with_xattrs(|all| {
            let mut names = Vec::new();
            for name in all.keys() {
                names.extend_from_slice(name);
                names.push(0);
            }
            Ok(names)
        })
    }

    fn write_count(&self) -> Option<&WriteCount> {
        matches!(self.body, Body::Regular(_)).then_some(&self.write_count)
    }

    fn write_hint(&self) -> Result<u64> {
        self.content().map(|_| u64::from(self.write_hint.load(Ordering::Relaxed))).ok_or(Errno::EINVAL)
    }

    fn set_write_hint(&self, hint: u64) -> Result<()> {
        // `RWH_WRITE_LIFE_NOT_SET` to `RWH_WRITE_LIFE_EXTREME`.
        let hint = u8::try_from(hint).ok().filter(|hint| *hint <= 5 && self.content().is_some()).ok_or(Errno::EINVAL)?;
        self.write_hint.store(hint, Ordering::Relaxed);
        Ok(())
    }

    fn seals(&self) -> Result<u32> {
        self.content().ok_or(Errno::EINVAL)?.seals()
    }

    fn add_seals(&self, seals: u32) -> Result<()> {
        let executed = self.attributes.lock().metadata.mode & EXECUTE != 0;
        self.content().ok_or(Errno::EINVAL)?.add_seals(seals, executed)
    }
}

/// A regular file or directory is its own open file: it needs nothing that an inode has not.
impl File for Node {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        let n = self.read_at(*position, sink)?;
        *position += n as u64;
        Ok(n)
    }

    fn write(&self, position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        let append = if flags.contains(OpenFlags::APPEND) { Append::Yes } else { Append::No };
        self.write_at(position, append, source)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn fsync(&self) -> Result<()> {
        Ok(())
    }

    fn is_content(&self) -> bool {
        true
    }
}
