//! EROFS as a file system: the program's image, read in place.
//!
//! Pages that lie aligned in the image are lent out as permanent frames, without a copy; inline tails are copied once into a
//! frame that the inode keeps. Reads take no lock at all: the bytes are copied straight out of the image.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::ControlFlow;

use addr::PhysAddr;
use erofs::{BlockRef, Image, Kind};
use frame::{Frame, Mappable, MappingId};
use hashbrown::HashMap;
use sync::Mutex;

use crate::file::File;
use crate::inode::{Append, Inode, MapKind, RenameMode, XattrMode, open_plain};
use crate::io::{Sink, Source};
use crate::types::{
    DirEntry, EROFS_MAGIC, FileKind, Metadata, NewInode, OpenFlags, SetAttributes, StatFs, Timespec, make_dev,
};
use crate::{Errno, Result};

/// Tells the physical address of a byte of the image.
pub type Translate = fn(*const u8) -> PhysAddr;

/// A mounted image.
struct Volume {
    image: Image<'static>,
    dev: u64,
    translate: Translate,
    /// Inodes in use, so that an object is one inode for all its users.
    live: Mutex<HashMap<u64, Weak<ErofsInode>>>,
}

/// An inode of an image.
pub struct ErofsInode {
    volume: Arc<Volume>,
    inode: erofs::Inode<'static>,
    /// Copies of the blocks that cannot be lent out in place.
    copies: Mutex<BTreeMap<u64, Frame>>,
}

/// The root directory of `image`, whose files have the device number `dev`.
///
/// # Errors
/// `EIO` when the root directory is damaged.
pub fn mount(image: Image<'static>, dev: u64, translate: Translate) -> Result<Arc<ErofsInode>> {
    let volume = Arc::new(Volume { image, dev, translate, live: Mutex::new(HashMap::new()) });
    volume.inode(image.root_nid())
}

impl Volume {
    fn inode(self: &Arc<Self>, nid: u64) -> Result<Arc<ErofsInode>> {
        let mut live = self.live.lock();
        if let Some(inode) = live.get(&nid).and_then(Weak::upgrade) {
            return Ok(inode);
        }
        let inode = self.image.inode(nid).map_err(errno)?;
        let made = Arc::new(ErofsInode { volume: self.clone(), inode, copies: Mutex::new(BTreeMap::new()) });
        live.insert(nid, Arc::downgrade(&made));
        Ok(made)
    }
}

impl Drop for ErofsInode {
    fn drop(&mut self) {
        let mut live = self.volume.live.lock();
        if live.get(&self.inode.nid).is_some_and(|weak| weak.strong_count() == 0) {
            live.remove(&self.inode.nid);
        }
    }
}

/// Damage in the image is an I/O error for the program.
fn errno(error: erofs::Error) -> Errno {
    match error {
        erofs::Error::NotADirectory => Errno::ENOTDIR,
        erofs::Error::NotASymlink | erofs::Error::NotARegularFile => Errno::EINVAL,
        erofs::Error::Unsupported(_) => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}

fn file_kind(kind: Kind) -> FileKind {
    match kind {
        Kind::Regular => FileKind::Regular,
        Kind::Directory => FileKind::Directory,
        Kind::CharDevice => FileKind::CharDevice,
        Kind::BlockDevice => FileKind::BlockDevice,
        Kind::Fifo => FileKind::Fifo,
        Kind::Socket => FileKind::Socket,
        Kind::Symlink => FileKind::Symlink,
    }
}

impl ErofsInode {
    fn copied_block(&self, index: u64, bytes: &[u8]) -> Result<Frame> {
        let mut copies = self.copies.lock();
        if let Some(frame) = copies.get(&index) {
            return Ok(frame.clone());
        }
        let frame = Frame::alloc_zeroed()?;
        frame.write(0, bytes);
        copies.insert(index, frame.clone());
        Ok(frame)
    }
}

impl Inode for ErofsInode {
    fn kind(&self) -> FileKind {
        file_kind(self.inode.kind)
    }

    fn metadata(&self) -> Metadata {
        let inode = &self.inode;
        let time = Timespec { sec: inode.mtime, nsec: inode.mtime_nsec };
        Metadata {
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: make_dev(inode.rdev.major, inode.rdev.minor),
            size: inode.size,
            blocks: inode.size.div_ceil(4096) * 8,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            ..Metadata::new(self.volume.dev, inode.nid, self.kind(), inode.mode & 0o7777)
        }
    }

    fn statfs(&self) -> StatFs {
        let blocks = u64::from(self.volume.image.super_block().blocks.get());
        StatFs { blocks, ..StatFs::pseudo(EROFS_MAGIC) }
    }

    fn set_attributes(&self, _changes: &SetAttributes) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let entry = self.inode.lookup(name).map_err(errno)?.ok_or(Errno::ENOENT)?;
        Ok(self.volume.inode(entry.nid)?)
    }

    fn create(&self, _name: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }

    fn symlink(&self, _name: &[u8], _target: &[u8], _new: &NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }

    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn rmdir(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn rename(&self, _old: &[u8], _new_dir: &Arc<dyn Inode>, _new: &[u8], _mode: RenameMode) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        self.inode.read_link().map(<[u8]>::to_vec).map_err(errno)
    }

    fn read_dir(&self, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        for entry in self.inode.read_dir(cookie).map_err(errno)? {
            let entry = entry.map_err(errno)?;
            if matches!(entry.name, b"." | b"..") {
                continue;
            }
            let kind = match entry.kind {
                Some(kind) => file_kind(kind),
                None => file_kind(self.volume.image.inode(entry.nid).map_err(errno)?.kind),
            };
            if visit(DirEntry { ino: entry.nid, kind, name: entry.name, next: entry.next_cookie }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        match self.kind() {
            FileKind::Regular if flags.can_write() => Err(Errno::EROFS),
            FileKind::Regular | FileKind::Directory => Ok(open_plain(self)),
            _ => Err(Errno::ENXIO),
        }
    }

    fn read_at(&self, offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0;
        while sink.remaining() > 0 {
            let bytes = self.inode.slice_at(offset.saturating_add(done as u64)).map_err(errno)?;
            if bytes.is_empty() {
                break;
            }
            match sink.write(&bytes[..bytes.len().min(sink.remaining())]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_at(&self, _position: &mut u64, _append: Append, _source: &mut dyn Source) -> Result<usize> {
        Err(Errno::EROFS)
    }

    fn truncate(&self, _size: u64) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn mappable(self: Arc<Self>, _kind: MapKind) -> Option<Arc<dyn Mappable>> {
        if self.kind() == FileKind::Regular { Some(self) } else { None }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let value = self.inode.xattr(name).map_err(errno)?;
        value.map(<[u8]>::to_vec).ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, _name: &[u8], _value: &[u8], _mode: XattrMode) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn remove_xattr(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }

    fn list_xattr(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        for xattr in self.inode.xattrs().map_err(errno)? {
            let xattr = xattr.map_err(errno)?;
            names.extend_from_slice(xattr.prefix.as_bytes());
            names.extend_from_slice(xattr.suffix);
            names.push(0);
        }
        Ok(names)
    }
}

impl Mappable for ErofsInode {
    fn frame(&self, index: u64) -> Result<Frame> {
        match self.inode.block(index).map_err(errno)? {
            Some(BlockRef::InPlace(page)) => Ok(Frame::from_permanent((self.volume.translate)(page.as_ptr()))),
            Some(BlockRef::Tail(bytes)) => self.copied_block(index, bytes),
            None => Err(Errno::EIO),
        }
    }

    fn ready_frame(&self, index: u64) -> Option<Frame> {
        match self.inode.block(index) {
            Ok(Some(BlockRef::InPlace(page))) => Some(Frame::from_permanent((self.volume.translate)(page.as_ptr()))),
            _ => None,
        }
    }

    fn mapping_size(&self) -> u64 {
        self.inode.size
    }

    fn mapping_id(&self) -> MappingId {
        MappingId { device: self.volume.dev, inode: self.inode.nid }
    }
}

/// Keeps a whole image alive for ever, as the boot module is; for tests and tools.
#[must_use]
pub fn leak_image(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}
