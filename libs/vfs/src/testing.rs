//! What the tests of this crate share: a clock, a tree with callers, short-cuts for reading and writing files.

use std::ops::ControlFlow;
use std::string::String;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use addr::PhysAddr;

use crate::io::VecSink;
use crate::mount::MountMode;
use crate::ops::Context;
use crate::tmpfs::{Options, TmpFs};
use crate::walk::{Follow, Resolve, Viewer};
use crate::{Credentials, Inode, Location, MountTable, OpenFile, OpenFlags, Result, Timespec};

static NOW: AtomicU64 = AtomicU64::new(1_000_000_000);

/// A clock that goes on with every look at it.
pub(crate) fn clock() -> Timespec {
    Timespec::from_ns(NOW.fetch_add(1_000, Ordering::Relaxed))
}

/// A tree and who looks at it.
pub(crate) struct Tree {
    pub(crate) mounts: MountTable,
    pub(crate) root: Location,
    pub(crate) credentials: Credentials,
    pub(crate) umask: u16,
}

impl Tree {
    pub(crate) fn on(root: Arc<dyn Inode>) -> Self {
        let mounts = MountTable::new(root, "tmpfs", "test", MountMode::empty());
        let root = mounts.root();
        Self { mounts, root, credentials: Credentials::root(), umask: 0o022 }
    }

    pub(crate) fn empty() -> Self {
        Self::on(TmpFs::mount(Options::new(5, clock)))
    }

    /// An image with `files` (path, content), under a writable layer.
    pub(crate) fn layered(files: &[(&str, &[u8])]) -> Self {
        Self::on(TmpFs::over(image(files), Options::new(7, clock)))
    }

    pub(crate) fn as_user(mut self, uid: u32) -> Self {
        self.credentials = Credentials { uid, gid: uid, groups: Vec::new() };
        self
    }

    pub(crate) fn context(&self) -> Context<'_> {
        let viewer = Viewer { mounts: &self.mounts, root: &self.root, credentials: &self.credentials };
        Context { viewer, umask: self.umask }
    }

    pub(crate) fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<OpenFile>> {
        self.context().open(&self.root, path.as_bytes(), flags, 0o666, Resolve::empty())
    }

    pub(crate) fn at(&self, path: &str) -> Result<Location> {
        self.context().lookup(&self.root, path.as_bytes(), Follow::Yes)
    }

    pub(crate) fn mkdir(&self, path: &str) -> Result<()> {
        self.context().make(&self.root, path.as_bytes(), crate::FileKind::Directory, 0o777, 0).map(drop)
    }

    pub(crate) fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.context().symlink(target.as_bytes(), &self.root, path.as_bytes())
    }

    pub(crate) fn link(&self, old: &str, path: &str) -> Result<()> {
        self.context().link(&self.at(old)?, &self.root, path.as_bytes())
    }

    pub(crate) fn unlink(&self, path: &str) -> Result<()> {
        self.context().unlink(&self.root, path.as_bytes())
    }

    pub(crate) fn rmdir(&self, path: &str) -> Result<()> {
        self.context().rmdir(&self.root, path.as_bytes())
    }

    pub(crate) fn rename(&self, old: &str, new: &str) -> Result<()> {
        self.rename_with(old, new, crate::RenameMode::Replace)
    }

    pub(crate) fn rename_with(&self, old: &str, new: &str, mode: crate::RenameMode) -> Result<()> {
        self.context().rename((&self.root, old.as_bytes()), (&self.root, new.as_bytes()), mode)
    }

    pub(crate) fn write(&self, path: &str, data: &[u8]) -> Result<()> {
        let file = self.open(path, OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC)?;
        assert_eq!(file.write(&mut &*data)?, data.len());
        Ok(())
    }

    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        read_all(&*self.open(path, OpenFlags::RDONLY)?)
    }

    /// Names in a directory, sorted, without `.` and `..`.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let file = self.open(path, OpenFlags::DIRECTORY).unwrap();
        let mut names = Vec::new();
        file.read_dir(&mut |entry| {
            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }
}

pub(crate) fn read_all(file: &OpenFile) -> Result<Vec<u8>> {
    let mut sink = VecSink::new(usize::MAX);
    while file.read(&mut sink)? > 0 {}
    Ok(sink.into_vec())
}

/// The root of an EROFS image with `files`.
pub(crate) fn image(files: &[(&str, &[u8])]) -> Arc<dyn Inode> {
    use erofs::write::{Attributes, Entry, Tree, plan};
    let mut tree = Tree::new();
    for (path, content) in files {
        tree.insert(path, Entry::bytes(*content, Attributes::file(0o644))).unwrap();
    }
    let mut bytes = Vec::new();
    plan(&tree, &erofs::write::Options::default()).unwrap().write(&mut bytes, &mut |_, _| {}).unwrap();
    let image = erofs::Image::new(aligned(&bytes)).unwrap();
    crate::erofs_fs::mount(image, 9, |byte| PhysAddr(byte.expose_provenance() as u64)).unwrap()
}

/// The bytes on a page boundary, for ever.
fn aligned(bytes: &[u8]) -> &'static [u8] {
    let room = std::vec![0u8; bytes.len() + 4096].leak();
    let start = room.as_ptr().align_offset(4096);
    room[start..start + bytes.len()].copy_from_slice(bytes);
    &room[start..start + bytes.len()]
}
