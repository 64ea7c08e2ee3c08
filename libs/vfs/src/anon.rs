//! [`AnonInode`]: the inode of an object that has no place in the tree: pipe, socket, eventfd, epoll, stdio endpoint.

use alloc::sync::Arc;

use sync::Mutex;

use crate::file::{File, OpenFile};
use crate::inode::Inode;
use crate::mount::Location;
use crate::tmpfs::Opener;
use crate::types::{FileKind, Metadata, OpenFlags, SetAttributes, StatFs};
use crate::{Errno, Result};

/// The inode of a nameless object.
pub struct AnonInode {
    metadata: Mutex<Metadata>,
    kind: FileKind,
    magic: u64,
    reopen: Option<Opener>,
}

impl AnonInode {
    /// An inode with the given metadata; `reopen` serves `open("/proc/self/fd/N")`.
    #[must_use]
    pub fn new(metadata: Metadata, magic: u64, reopen: Option<Opener>) -> Arc<Self> {
        Arc::new(Self { kind: metadata.kind, metadata: Mutex::new(metadata), magic, reopen })
    }
}

impl Inode for AnonInode {
    fn kind(&self) -> FileKind {
        self.kind
    }

    fn metadata(&self) -> Metadata {
        *self.metadata.lock()
    }

    fn statfs(&self) -> StatFs {
        StatFs::pseudo(self.magic)
    }

    fn set_attributes(&self, changes: &SetAttributes) -> Result<()> {
        let mut metadata = self.metadata.lock();
        metadata.mode = changes.mode.unwrap_or(metadata.mode);
        metadata.uid = changes.uid.unwrap_or(metadata.uid);
        metadata.gid = changes.gid.unwrap_or(metadata.gid);
        Ok(())
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        self.reopen.as_ref().map_or(Err(Errno::ENXIO), |opener| opener(flags))
    }
}

/// The open file of a nameless object without a useful inode (`anon_inode:[eventfd]`).
#[must_use]
pub fn open_anonymous(file: Arc<dyn File>, label: &str, ino: u64, flags: OpenFlags) -> Arc<OpenFile> {
    let metadata = Metadata::new(0, ino, FileKind::Anonymous, 0o600);
    let inode = AnonInode::new(metadata, crate::types::ANON_INODE_MAGIC, None);
    OpenFile::new(file, Location::nameless(inode, label), flags)
}
