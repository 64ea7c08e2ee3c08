//! Memory that driver and device both reach.

use addr::PhysAddr;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering};

/// A stretch of memory shared with a device, known by its physical and its virtual address.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    phys: PhysAddr,
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a Region is an address; the accesses through it are volatile or atomic, and who may make them when is the
// business of its single owner (a Virtqueue or a driver's buffer pool).
unsafe impl Send for Region {}
// SAFETY: as above; a shared Region only gives its addresses away.
unsafe impl Sync for Region {}

impl Region {
    /// Describes `len` bytes at `ptr`, which the device finds at `phys`.
    ///
    /// # Safety
    /// The bytes are mapped, readable and writable, for as long as the region or anything made from it is used, and
    /// Rust references to them exist only where their maker keeps the device away.
    #[must_use]
    pub const unsafe fn new(phys: PhysAddr, ptr: NonNull<u8>, len: usize) -> Self {
        Self { phys, ptr, len }
    }

    /// Where the device finds it.
    #[must_use]
    pub const fn phys(&self) -> PhysAddr {
        self.phys
    }

    /// Where the driver finds it.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part of `len` bytes at `offset`, or `None` when it does not lie inside.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Option<Self> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: offset is inside the region, as just checked.
        let ptr = unsafe { self.ptr.add(offset) };
        Some(Self { phys: self.phys + offset as u64, ptr, len })
    }

    /// Copies `data` to `offset`.
    ///
    /// # Panics
    /// When it does not fit.
    pub fn write(&self, offset: usize, data: &[u8]) {
        let target = self.slice(offset, data.len()).expect("the caller keeps to the region's length");
        // SAFETY: the range is inside the region; `data` is Rust memory and cannot overlap it.
        unsafe { target.ptr.as_ptr().copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }

    /// Copies from `offset` to `data`.
    ///
    /// # Panics
    /// When the range is not inside.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let source = self.slice(offset, data.len()).expect("the caller keeps to the region's length");
        // SAFETY: as in `write`.
        unsafe { source.ptr.as_ptr().copy_to_nonoverlapping(data.as_mut_ptr(), data.len()) };
    }

    /// Sets every byte to zero.
    pub fn clear(&self) {
        // SAFETY: the whole region is writable.
        unsafe { self.ptr.as_ptr().write_bytes(0, self.len) };
    }

    pub(crate) fn is_aligned(&self, align: usize) -> bool {
        self.ptr.as_ptr().addr().is_multiple_of(align) && self.phys.is_aligned(align as u64)
    }

    /// The 16-bit word at `offset`, which the other side may change at any time.
    pub(crate) fn u16_at(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2) && offset + 2 <= self.len, "ring offsets follow the layout");
        // SAFETY: inside the region and aligned (the region is, the offset is); all accesses to ring words are atomic.
        unsafe { AtomicU16::from_ptr(self.ptr.as_ptr().add(offset).cast()) }
    }

    pub(crate) fn load_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.u16_at(offset).load(Ordering::Acquire))
    }

    pub(crate) fn store_u16(&self, offset: usize, value: u16) {
        self.u16_at(offset).store(value.to_le(), Ordering::Release);
    }

    /// Reads a `T` once, as it is now.
    pub(crate) fn read_volatile<T: Copy>(&self, offset: usize) -> T {
        let place = self.slice(offset, size_of::<T>()).expect("ring offsets follow the layout");
        // SAFETY: inside the region and aligned (region and ring offsets are); T is one of the plain integer types and
        // arrays used here, valid for any bits.
        unsafe { place.ptr.as_ptr().cast::<T>().read_volatile() }
    }

    /// Writes a `T`.
    pub(crate) fn write_volatile<T: Copy>(&self, offset: usize, value: T) {
        let place = self.slice(offset, size_of::<T>()).expect("ring offsets follow the layout");
        // SAFETY: inside the region, which is writable, and aligned.
        unsafe { place.ptr.as_ptr().cast::<T>().write_volatile(value) };
    }
}
