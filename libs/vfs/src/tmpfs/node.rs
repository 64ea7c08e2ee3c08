//! [`Node`]: an object of a tmpfs. `node/inode.rs` has what can be done to it, `node/mapping.rs` its pages as `mmap` sees them.

mod inode;
mod mapping;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use addr::PAGE_SIZE;
use frame::MappingId;
use sync::{Mutex, OnceCell, RwLock, RwLockWriteGuard};

use super::content::{Content, Lower};
use super::directory::{Directory, Found};
use super::{Opener, TmpFs};
use crate::inode::{Inode, MapKind, RenameMode};
use crate::io::Sink;
use crate::pipe::Pipe;
use crate::running::WriteCount;
use crate::types::{FileKind, Metadata, Name, NewInode, Timespec};
use crate::{Errno, Result};

/// Attributes that can change.
struct Attributes {
    metadata: Metadata,
    /// Set here; when `None` those from below count.
    xattrs: Option<BTreeMap<Name, Box<[u8]>>>,
    /// It has no name yet, and may get one.
    linkable: bool,
}

/// What a node holds, by kind.
enum Body {
    Directory(RwLock<Directory>),
    Regular(Content),
    Symlink(Box<[u8]>),
    /// A named pipe, made at the first open.
    Fifo(OnceCell<Arc<Pipe>>),
    /// A device or socket; devices of this file system have an opener.
    Special(Option<Opener>),
}

/// An object of a tmpfs.
pub struct Node {
    fs: Arc<TmpFs>,
    ino: u64,
    kind: FileKind,
    me: Weak<Node>,
    attributes: Mutex<Attributes>,
    body: Body,
    /// The object of the lower tree it stands for.
    lower: Option<Arc<dyn Inode>>,
    dirty: AtomicBool,
    /// Changed since it was last read.
    unread: AtomicBool,
    /// Told back, and nothing else: there is no storage that could use it.
    write_hint: AtomicU8,
    write_count: WriteCount,
}

type Write<'a> = RwLockWriteGuard<'a, Directory>;

impl Node {
    pub(super) fn new(fs: &Arc<TmpFs>, ino: u64, new: &NewInode, opener: Option<Opener>) -> Arc<Self> {
        let now = fs.now();
        let metadata = Metadata {
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            nlink: if new.kind == FileKind::Directory { 2 } else { 1 },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            ..Metadata::new(fs.options.dev, ino, new.kind, new.mode)
        };
        let body = match new.kind {
            FileKind::Directory => Body::Directory(RwLock::new(Directory::new(None))),
            FileKind::Regular => Body::Regular(Content::new(mapping_id(&metadata), None)),
            FileKind::Fifo => Body::Fifo(OnceCell::new()),
            _ => Body::Special(opener),
        };
        Self::build(fs, metadata, body, None)
    }

    fn new_symlink(fs: &Arc<TmpFs>, ino: u64, target: &[u8], new: &NewInode) -> Arc<Self> {
        let plain = Self::new(fs, ino, new, None);
        let metadata = Metadata { size: target.len() as u64, ..plain.metadata() };
        Self::build(fs, metadata, Body::Symlink(Box::from(target)), None)
    }

    /// The node that stands for an object of the lower tree.
    pub(super) fn from_lower(fs: &Arc<TmpFs>, lower: Arc<dyn Inode>) -> Arc<Self> {
        let metadata = Metadata { dev: fs.options.dev, ..lower.metadata() };
        let body = match metadata.kind {
            FileKind::Directory => Body::Directory(RwLock::new(Directory::over(&lower))),
            FileKind::Regular => Body::Regular(Content::new(
                mapping_id(&metadata),
                lower.clone().mappable(MapKind::Private).map(|pages| Lower { inode: lower.clone(), pages }),
            )),
            FileKind::Symlink => Body::Symlink(lower.readlink().unwrap_or_default().into_boxed_slice()),
            FileKind::Fifo => Body::Fifo(OnceCell::new()),
            _ => Body::Special(None),
        };
        Self::build(fs, metadata, body, Some(lower))
    }

    fn build(fs: &Arc<TmpFs>, metadata: Metadata, body: Body, lower: Option<Arc<dyn Inode>>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            fs: fs.clone(),
            ino: metadata.ino,
            kind: metadata.kind,
            me: me.clone(),
            attributes: Mutex::new(Attributes { metadata, xattrs: None, linkable: false }),
            body,
            lower,
            dirty: AtomicBool::new(false),
            unread: AtomicBool::new(true),
            write_hint: AtomicU8::new(0),
            write_count: WriteCount::default(),
        })
    }

    /// Its inode number.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.ino
    }

    pub(super) fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::Regular(content) => Some(content),
            _ => None,
        }
    }

    /// Calls `tell` with the metadata of a regular file (but for the size and blocks that they say), its size and its blocks, if nobody
    /// holds them. For brief system calls.
    #[inline(always)]
    pub(crate) fn stat_briefly<R>(&self, tell: impl FnOnce(&Metadata, u64, u64) -> R) -> Option<R> {
        let Body::Regular(content) = &self.body else { return None };
        let attributes = self.attributes.lock_briefly()?;
        Some(tell(&attributes.metadata, content.size(), content.blocks()))
    }

    /// As [`Inode::read_at`].
    #[inline]
    pub(crate) fn read_to<S: Sink>(&self, offset: u64, sink: &mut S) -> Result<usize> {
        self.require_content()?.read(offset, sink)
    }

    /// Notes that this differs from the object below.
    pub(super) fn mark_dirty(&self) {
        if self.lower.is_some() && !self.dirty.swap(true, Ordering::AcqRel) {
            self.fs.keep(self.me.upgrade().expect("a node in use is alive"));
        }
    }

    #[inline]
    fn require_content(&self) -> Result<&Content> {
        match &self.body {
            Body::Regular(content) => Ok(content),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn directory(&self) -> Result<&RwLock<Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn resolve(&self, found: Found) -> Arc<Self> {
        match found {
            Found::Own(node) => node,
            Found::Lower(lower) => self.fs.instance(lower),
        }
    }

    fn find(&self, directory: &Directory, name: &[u8]) -> Result<Arc<Self>> {
        directory.find(name).map(|found| self.resolve(found))
    }

    /// Notes a change of the content.
    fn touch(&self) {
        self.touch_at(self.fs.now());
    }

    fn touch_at(&self, now: Timespec) {
        let mut attributes = self.attributes.lock();
        attributes.metadata.mtime = now;
        attributes.metadata.ctime = now;
        drop(attributes);
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Notes a change of the directory's names, and of its number of subdirectories.
    fn names_changed(&self, subdirectories: i32) {
        self.mark_dirty();
        self.touch();
        if subdirectories != 0 {
            let mut attributes = self.attributes.lock();
            attributes.metadata.nlink = attributes.metadata.nlink.saturating_add_signed(subdirectories);
        }
    }

    /// Fails unless the node may get one more name: one that has lost its last name may not.
    fn take_link(&self) -> Result<()> {
        let mut attributes = self.attributes.lock();
        if attributes.metadata.nlink == 0 && !attributes.linkable {
            return Err(Errno::ENOENT);
        }
        attributes.linkable = false;
        Ok(())
    }

    /// Notes that the node has `change` more names.
    fn links_changed(&self, change: i32) {
        self.links_changed_at(change, self.fs.now());
    }

    fn links_changed_at(&self, change: i32, now: Timespec) {
        let left = {
            let mut attributes = self.attributes.lock();
            attributes.metadata.nlink = attributes.metadata.nlink.saturating_add_signed(change);
            attributes.metadata.ctime = now;
            attributes.metadata.nlink
        };
        if left > 0 {
            self.mark_dirty();
        } else if self.lower.is_some() {
            self.dirty.store(true, Ordering::Release);
            self.fs.let_go(self.ino);
        }
    }

    /// Notes that the last name of a directory is gone.
    fn directory_gone(&self) {
        self.attributes.lock().metadata.nlink = 0;
        if self.lower.is_some() {
            self.dirty.store(true, Ordering::Release);
            self.fs.let_go(self.ino);
        }
    }

    pub(super) fn add_device(&self, name: &[u8], new: &NewInode, opener: Opener) -> Result<()> {
        let mut directory = self.directory()?.write();
        directory.require_free(name)?;
        let ino = self.fs.next_ino.fetch_add(1, Ordering::Relaxed);
        directory.insert(name, Self::new(&self.fs, ino, new, Some(opener)));
        Ok(())
    }

    fn add(&self, name: &[u8], make: impl FnOnce(u64) -> Arc<Self>) -> Result<Arc<dyn Inode>> {
        let mut directory = self.directory()?.write();
        if self.fs.options.cached_names {
            // `ops` holds the names and has looked.
            directory.require_still_free(name)?;
        } else {
            directory.require_free(name)?;
        }
        let node = make(self.fs.next_ino.fetch_add(1, Ordering::Relaxed));
        directory.insert(name, node.clone());
        drop(directory);
        self.names_changed(i32::from(node.kind == FileKind::Directory));
        Ok(node)
    }

    /// `other` as a node of this very file system.
    fn sibling<'a>(&self, other: &'a Arc<dyn Inode>) -> Result<&'a Self> {
        let any: &dyn Any = &**other;
        let node = any.downcast_ref::<Self>().ok_or(Errno::EXDEV)?;
        if Arc::ptr_eq(&node.fs, &self.fs) { Ok(node) } else { Err(Errno::EXDEV) }
    }

    /// Locks this directory and another one, in the order of their numbers; the second is `None` if they are one.
    fn lock_both<'a>(&'a self, other: &'a Self) -> Result<(Write<'a>, Option<Write<'a>>)> {
        let (mine, theirs) = (self.directory()?, other.directory()?);
        if core::ptr::eq(self, other) {
            return Ok((mine.write(), None));
        }
        if self.ino < other.ino {
            let first = mine.write();
            Ok((first, Some(theirs.write())))
        } else {
            let first = theirs.write();
            Ok((mine.write(), Some(first)))
        }
    }

    /// Fails unless `source` may take the place of `target`.
    fn check_replace(source: &Self, target: &Self) -> Result<()> {
        match (source.kind == FileKind::Directory, &target.body) {
            (true, Body::Directory(directory)) => {
                if directory.read().is_empty()? { Ok(()) } else { Err(Errno::ENOTEMPTY) }
            }
            (true, _) => Err(Errno::ENOTDIR),
            (false, Body::Directory(_)) => Err(Errno::EISDIR),
            (false, _) => Ok(()),
        }
    }

    fn exchange(&self, old: &[u8], to: &Self, new: &[u8]) -> Result<()> {
        let _shape = self.fs.shape.lock();
        let (mut here, mut there) = self.lock_both(to)?;
        let source = self.find(&here, old)?;
        let target = to.find(there.as_deref().unwrap_or(&here), new)?;
        if Arc::ptr_eq(&source, &target) {
            return Ok(());
        }
        here.replace(old, target.clone());
        there.as_deref_mut().unwrap_or(&mut here).replace(new, source.clone());
        let gained = i32::from(target.kind == FileKind::Directory) - i32::from(source.kind == FileKind::Directory);
        drop((here, there));
        self.names_changed(gained);
        to.names_changed(-gained);
        source.links_changed(0);
        target.links_changed(0);
        Ok(())
    }

    fn rename_over(&self, old: &[u8], to: &Self, new: &[u8], mode: RenameMode) -> Result<()> {
        let _shape = self.fs.shape.lock();
        let (mut here, mut there) = self.lock_both(to)?;
        let source = self.find(&here, old)?;
        let destination = there.as_deref().unwrap_or(&here);
        if destination.is_removed() {
            return Err(Errno::ENOENT);
        }
        let target = match to.find(destination, new) {
            Ok(_) if matches!(mode, RenameMode::NoReplace | RenameMode::NewWhiteout) => return Err(Errno::EEXIST),
            Ok(target) if Arc::ptr_eq(&target, &source) => return Ok(()),
            // The directory that `old` is in, which is not empty (and locked).
            Ok(target) if core::ptr::eq(&*target, self) => return Err(Errno::ENOTEMPTY),
            Ok(target) => {
                Self::check_replace(&source, &target)?;
                Some(target)
            }
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        if let Some(Body::Directory(gone)) = target.as_ref().map(|target| &target.body) {
            gone.write().mark_removed();
        }
        here.remove(old);
        if matches!(mode, RenameMode::Whiteout | RenameMode::NewWhiteout) {
            let whiteout = NewInode { kind: FileKind::CharDevice, mode: 0, uid: 0, gid: 0, rdev: 0 };
            here.insert(old, self.fs.make(&whiteout));
        }
        let destination = there.as_deref_mut().unwrap_or(&mut here);
        if target.is_some() {
            destination.replace(new, source.clone());
        } else {
            destination.insert(new, source.clone());
        }
        drop((here, there));
        self.settle_rename(to, &source, target.as_deref());
        Ok(())
    }

    /// Brings link counts and times up to date after a rename.
    fn settle_rename(&self, to: &Self, source: &Self, target: Option<&Self>) {
        let moved = i32::from(source.kind == FileKind::Directory);
        let replaced = target.map_or(0, |target| i32::from(target.kind == FileKind::Directory));
        self.names_changed(-moved);
        to.names_changed(moved - replaced);
        source.links_changed(0);
        match target {
            Some(gone) if gone.kind == FileKind::Directory => gone.directory_gone(),
            Some(gone) => gone.links_changed(-1),
            None => {}
        }
    }

    fn with_xattrs<T>(&self, act: impl FnOnce(&mut BTreeMap<Name, Box<[u8]>>) -> Result<T>) -> Result<T> {
        let from_below = self.xattrs_below()?;
        let mut attributes = self.attributes.lock();
        act(attributes.xattrs.get_or_insert(from_below))
    }

    fn xattrs_below(&self) -> Result<BTreeMap<Name, Box<[u8]>>> {
        let Some(lower) = &self.lower else { return Ok(BTreeMap::new()) };
        let names = match lower.list_xattr() {
            Err(Errno::EOPNOTSUPP) => return Ok(BTreeMap::new()),
            names => names?,
        };
        let mut all = BTreeMap::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            all.insert(Box::from(name), lower.get_xattr(name)?.into_boxed_slice());
        }
        Ok(all)
    }

    /// Fails with `refused` for attributes of the `user.` class, which are for files and directories only (`xattr(7)`), of anything else.
    fn check_xattr(&self, name: &[u8], refused: Errno) -> Result<()> {
        let plain = matches!(self.kind, FileKind::Regular | FileKind::Directory);
        match name.split(|byte| *byte == b'.').next() {
            Some(b"user") if !plain => Err(refused),
            Some(b"user" | b"trusted" | b"security") if name.contains(&b'.') => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

impl Node {
    fn take_children(&mut self) -> Vec<Arc<Self>> {
        match &mut self.body {
            Body::Directory(directory) => directory.get_mut().take_nodes(),
            _ => Vec::new(),
        }
    }
}

impl Drop for Node {
    /// Lets the nodes below go one by one: a tree can be deeper than the stack.
    fn drop(&mut self) {
        let mut below = self.take_children();
        while let Some(node) = below.pop() {
            if let Some(mut last) = Arc::into_inner(node) {
                below.extend(last.take_children());
            }
        }
        if let Some(content) = self.content() {
            self.fs.uncharge(content.own_pages());
        }
        if self.lower.is_some() && !*self.dirty.get_mut() {
            self.fs.prune(self.ino);
        }
    }
}

fn mapping_id(metadata: &Metadata) -> MappingId {
    MappingId { device: metadata.dev, inode: metadata.ino }
}

const _: () = assert!(PAGE_SIZE == 4096, "statfs and st_blksize say 4096");
