//! What a file, or anything else with pages, offers to `mmap`.

use crate::{Frame, Mappers};
use addr::PAGE_SIZE;
use core::any::Any;
use linux_abi::Errno;

/// Names the object behind a mapping: `/proc/self/maps` shows it and shared futexes are keyed by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MappingId {
    /// Device number as in `st_dev`.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// An object whose pages can be mapped.
///
/// The page fault handler calls these with the address space's areas locked for reading: an implementation may sleep and take its
/// own locks, but must not touch the program's memory nor map or unmap anything.
pub trait Mappable: Any + Send + Sync {
    /// The frame of page `index` (byte offset / 4096), read in or made when it is not there yet. A shared mapping maps this very
    /// frame writable, so two calls for one page give the same frame; a private one copies it before the first write.
    /// Bytes of the last page beyond the end of the object are zero.
    ///
    /// # Errors
    /// `EIO` when it cannot be read, `ENOMEM`; any error but `ENOMEM` becomes SIGBUS.
    fn frame(&self, index: u64) -> Result<Frame, Errno>;

    /// The frame of page `index` if it can be had at once, without sleeping for I/O or allocating. Used to map the neighbours of
    /// a faulting page.
    fn ready_frame(&self, index: u64) -> Option<Frame> {
        let _ = index;
        None
    }

    /// Size of its pages in bytes: offsets and lengths of mappings are multiples of it.
    fn page_size(&self) -> u64 {
        PAGE_SIZE as u64
    }

    /// Size in bytes. Touching a page that lies wholly beyond it is SIGBUS.
    fn mapping_size(&self) -> u64;

    /// Which object this is.
    fn mapping_id(&self) -> MappingId;

    /// Where those who map the object register, so that pages it loses leave their mappings. `None` for objects that never lose any.
    fn mappers(&self) -> Option<&Mappers> {
        None
    }

    /// Frees the storage of a byte range, which reads as zeros afterwards, and takes its pages from all who map them: `MADV_REMOVE`.
    ///
    /// Context: no lock of an address space is held.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where that is not possible, and those of `fallocate`.
    fn punch_hole(&self, start: u64, end: u64) -> Result<(), Errno> {
        let _ = (start, end);
        Err(Errno::EOPNOTSUPP)
    }

    /// Called when a page is about to be written through a shared mapping that could not be written there before: time to note that the object
    /// changes. As on Linux, a page that was read before may be written without this.
    fn written(&self) {}

    /// Called by `msync(MS_SYNC)` for a shared mapping: brings the byte range to stable storage.
    ///
    /// # Errors
    /// `EIO`.
    fn sync_range(&self, start: u64, end: u64) -> Result<(), Errno> {
        let _ = (start, end);
        Ok(())
    }
}
