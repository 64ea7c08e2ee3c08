//! [`SharedMemory`]: memory without a file that several mappings share (`MAP_SHARED | MAP_ANONYMOUS`, and a base for memfd and shm).

use addr::{PAGE_SIZE, PhysAddr};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use frame::{Frame, Lost, LostPrivate, Mappable, Mappers, MappingId};
use linux_abi::Errno;
use sync::Mutex;

/// Device number of objects without a file system; minor 1 of major 0, like Linux's internal shmem mount.
const DEVICE: u64 = 1;
static NEXT_INODE: AtomicU64 = AtomicU64::new(1);

/// Pages that come into being, zeroed, when they are first touched.
pub struct SharedMemory {
    pages: Mutex<BTreeMap<u64, Frame>>,
    mappers: Mappers,
    size: AtomicU64,
    inode: u64,
}

impl SharedMemory {
    /// `size` bytes of zeros.
    #[must_use]
    pub fn new(size: u64) -> Arc<Self> {
        let inode = NEXT_INODE.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { pages: Mutex::new(BTreeMap::new()), mappers: Mappers::new(), size: AtomicU64::new(size), inode })
    }

    /// Pages that have come into being.
    #[must_use]
    pub fn resident_pages(&self) -> u64 {
        self.pages.lock().len() as u64
    }

    /// Changes the size; pages wholly beyond a smaller one are freed when no mapping holds them.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
        let first_gone = size.div_ceil(PAGE_SIZE as u64);
        let gone = self.pages.lock().split_off(&first_gone);
        drop(gone);
    }
}

impl Mappable for SharedMemory {
    fn frame(&self, index: u64) -> Result<Frame, Errno> {
        let mut pages = self.pages.lock();
        if let Some(frame) = pages.get(&index) {
            return Ok(frame.clone());
        }
        let frame = Frame::alloc_zeroed()?;
        pages.insert(index, frame.clone());
        Ok(frame)
    }

    fn ready_frame(&self, index: u64) -> Option<Frame> {
        self.pages.lock().get(&index).cloned()
    }

    fn mapping_size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn mapping_id(&self) -> MappingId {
        MappingId { device: DEVICE, inode: self.inode }
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }

    fn punch_hole(&self, start: u64, end: u64) -> Result<(), Errno> {
        let pages = start / PAGE_SIZE as u64..end.div_ceil(PAGE_SIZE as u64);
        let gone: BTreeMap<_, _> = self.pages.lock().extract_if(pages.clone(), |_, _| true).collect();
        let was_ours = |index: u64, page: PhysAddr| gone.get(&index).is_some_and(|frame| frame.phys() == page);
        self.mappers.forget(&Lost { object: self.mapping_id(), pages, private: LostPrivate::Unchanged(&was_ours) });
        Ok(())
    }
}
