//! [`HugeFile`]: a file of large pages without a name (`memfd_create` with `MFD_HUGETLB`). As in Linux's hugetlbfs, it is made to be mapped: it can
//! be read, but not written by calls, and its size is a multiple of its pages'.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use frame::Mappable;
use kernel::mm::{LargeMemory, PageSize};
use linux_abi::Errno;
use sync::Mutex;
use vfs::file::{File, InodeFile};
use vfs::inode::{Allocate, MapKind};
use vfs::io::Sink;
use vfs::tmpfs::{SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE};
use vfs::types::{FileKind, Metadata, OFFSET_MAX, OpenFlags, SetAttributes, StatFs};
use vfs::Inode;

use super::now;

/// `HUGETLBFS_MAGIC`
const MAGIC: u64 = 0x9584_58f6;
const SEALS: u32 = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE | SEAL_FUTURE_WRITE;

/// A file of large pages.
pub(super) struct HugeFile {
    memory: Arc<LargeMemory>,
    metadata: Mutex<Metadata>,
    /// Orders changes of size and seals.
    change: Mutex<()>,
    seals: AtomicU32,
}

impl HugeFile {
    /// An empty file of pages of this size.
    pub(super) fn new(size: PageSize, mode: u16, seals: u32) -> Arc<Self> {
        let memory = LargeMemory::new(0, size);
        let id = memory.mapping_id();
        let time = now();
        let metadata = Metadata {
            nlink: 0, block_size: size.bytes() as u32, atime: time, mtime: time, ctime: time, btime: time,
            ..Metadata::new(id.device, id.inode, FileKind::Regular, mode)
        };
        Arc::new(Self { memory, metadata: Mutex::new(metadata), change: Mutex::new(()), seals: AtomicU32::new(seals) })
    }

    fn refuse_if(&self, seals: u32) -> Result<(), Errno> {
        if self.seals.load(Ordering::Relaxed) & seals != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn touch(&self) {
        let time = now();
        let mut metadata = self.metadata.lock();
        (metadata.mtime, metadata.ctime) = (time, time);
    }
}

impl Inode for HugeFile {
    fn kind(&self) -> FileKind {
        FileKind::Regular
    }

    fn metadata(&self) -> Metadata {
        let blocks = self.memory.page_count() * (self.memory.page_size() / 512);
        Metadata { size: self.memory.mapping_size(), blocks, ..*self.metadata.lock() }
    }

    fn statfs(&self) -> StatFs {
        StatFs { block_size: self.memory.page_size(), ..StatFs::pseudo(MAGIC) }
    }

    fn set_attributes(&self, changes: &SetAttributes) -> Result<(), Errno> {
        let mut metadata = self.metadata.lock();
        metadata.mode = changes.mode.unwrap_or(metadata.mode);
        metadata.uid = changes.uid.unwrap_or(metadata.uid);
        metadata.gid = changes.gid.unwrap_or(metadata.gid);
        metadata.atime = changes.atime.unwrap_or(metadata.atime);
        metadata.mtime = changes.mtime.unwrap_or(metadata.mtime);
        metadata.ctime = now();
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
        Ok(Arc::new(InodeFile::new(self)))
    }

    fn read_at(&self, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let mut done = 0;
        let mut chunk = [0; 512];
        while sink.remaining() > 0 {
            let wanted = chunk.len().min(sink.remaining());
            let len = self.memory.read(offset + done as u64, &mut chunk[..wanted]);
            match if len == 0 { Ok(0) } else { sink.write(&chunk[..len]) } {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        if !size.is_multiple_of(self.memory.page_size()) {
            return Err(Errno::EINVAL);
        }
        if size > OFFSET_MAX {
            return Err(Errno::EFBIG);
        }
        let _change = self.change.lock();
        let old = self.memory.mapping_size();
        self.refuse_if(if size < old { SEAL_SHRINK } else if size > old { SEAL_GROW } else { 0 })?;
        self.memory.set_size(size);
        self.touch();
        Ok(())
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).filter(|end| *end <= OFFSET_MAX).ok_or(Errno::EFBIG)?;
        let _change = self.change.lock();
        match how {
            Allocate::PunchHole => {
                self.refuse_if(SEAL_WRITE | SEAL_FUTURE_WRITE)?;
                self.memory.punch_hole(offset, end)?;
            }
            Allocate::Grow | Allocate::KeepSize => {
                let grows = end > self.memory.mapping_size();
                self.refuse_if(if grows && how == Allocate::Grow { SEAL_GROW } else { 0 })?;
                self.memory.reserve(offset..end).map_err(|_| Errno::ENOSPC)?;
                if how == Allocate::Grow {
                    self.memory.grow(end);
                }
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        self.touch();
        Ok(())
    }

    fn mappable(self: Arc<Self>, _kind: MapKind) -> Option<Arc<dyn Mappable>> {
        Some(self.memory.clone())
    }

    fn seals(&self) -> Result<u32, Errno> {
        Ok(self.seals.load(Ordering::Relaxed))
    }

    fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        if seals & !SEALS != 0 {
            return Err(Errno::EINVAL);
        }
        let _change = self.change.lock();
        self.refuse_if(SEAL_SEAL)?;
        self.seals.fetch_or(seals, Ordering::Relaxed);
        Ok(())
    }
}
