//! `Frame`: a counted reference to one 4 KiB page of physical memory, and [`Mappable`]: what a file offers to `mmap`.
//!
//! Key types: [`Frame`], [`Mappable`], [`OutOfMemory`]. The frames themselves belong to a back end that is bound at link time
//! (as the `critical-section` crate does): the kernel defines the symbols in `kernel::mm`, and the feature `std` of this
//! crate defines them for host tests, where the "physical address" of a frame is simply its pointer.
//!
//! Counting: a frame is born with one reference, `Clone` adds one, `Drop` takes one and the last one frees the frame.
//! Frames of the boot image ([`Frame::from_permanent`]) have no count; all of this does nothing to them.
//!
//! Contents: a frame may be mapped into the program, which can change it at any moment. So no reference to the contents is ever
//! made but to single atomic words; everything goes through raw copies, and two racing copies give mixed bytes, never anything worse.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![expect(unsafe_code, reason = "the crate turns physical addresses into memory")]

extern crate alloc;

mod mappable;
mod mappers;
#[cfg(any(test, feature = "std"))]
mod std_backend;

use addr::{PAGE_SIZE, PhysAddr};
use core::fmt;
use core::num::NonZeroU64;
use core::ops::Range;
use core::sync::atomic::AtomicU32;
use linux_abi::Errno;

pub use mappable::{Mappable, MappingId};
pub use mappers::{Lost, LostPrivate, Mapped, Mapper, Mappers};

/// No frame could be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Self {
        Self::ENOMEM
    }
}

/// What a new frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// All bytes zero.
    Zero,
    /// Whatever the last owner left: the caller overwrites all of it before anyone else can see it.
    Stale,
}

// The back end. `PhysAddr` arguments are frames that are alive.
unsafe extern "Rust" {
    /// Allocates one frame with a count of one. May sleep.
    safe fn frame_backend_alloc(fill: Fill) -> Option<PhysAddr>;
    /// Adds one reference.
    fn frame_backend_ref(frame: PhysAddr);
    /// Takes one reference and frees the frame when it was the last. May sleep.
    fn frame_backend_unref(frame: PhysAddr);
    /// Number of references; `usize::MAX` for a permanent frame.
    fn frame_backend_ref_count(frame: PhysAddr) -> usize;
    /// Says that `frame` is never counted and never freed.
    fn frame_backend_permanent(frame: PhysAddr);
}

/// A counted reference to one 4 KiB frame.
///
/// Context: creating and dropping one may sleep.
pub struct Frame(NonZeroU64);

impl Frame {
    /// A new frame full of zeros.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn alloc_zeroed() -> Result<Self, OutOfMemory> {
        Self::alloc(Fill::Zero)
    }

    /// A new frame with stale contents, which the caller overwrites before it can be seen.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn alloc_uninit() -> Result<Self, OutOfMemory> {
        Self::alloc(Fill::Stale)
    }

    fn alloc(fill: Fill) -> Result<Self, OutOfMemory> {
        frame_backend_alloc(fill).and_then(|pa| NonZeroU64::new(pa.0)).map(Self).ok_or(OutOfMemory)
    }

    /// A new frame with the same contents as this one.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn duplicate(&self) -> Result<Self, OutOfMemory> {
        let copy = Self::alloc_uninit()?;
        // SAFETY: both frames are alive and distinct, one page each.
        unsafe { copy.as_ptr().copy_from_nonoverlapping(self.as_ptr(), PAGE_SIZE) };
        Ok(copy)
    }

    /// A frame that is part of the boot image or of the kernel: counting does nothing and it is never freed.
    ///
    /// # Panics
    /// If `pa` is zero or not page-aligned.
    #[must_use]
    pub fn from_permanent(pa: PhysAddr) -> Self {
        assert!(pa.is_aligned(PAGE_SIZE as u64), "permanent frame at {pa} is not page-aligned");
        // SAFETY: the caller speaks of memory that the allocator never hands out; the back end checks that.
        unsafe { frame_backend_permanent(pa) };
        Self(NonZeroU64::new(pa.0).expect("frame zero holds no image"))
    }

    /// Takes over the reference that [`Frame::into_raw`] gave away.
    ///
    /// # Safety
    /// `pa` came from `into_raw` and each such reference is taken over once.
    ///
    /// # Panics
    /// If `pa` is zero.
    #[must_use]
    pub unsafe fn from_raw(pa: PhysAddr) -> Self {
        Self(NonZeroU64::new(pa.0).expect("no frame has address zero"))
    }

    /// Gives the reference away as an address, for a page-table entry.
    #[must_use]
    pub fn into_raw(self) -> PhysAddr {
        let pa = self.phys();
        core::mem::forget(self);
        pa
    }

    /// Physical address.
    #[must_use]
    pub const fn phys(&self) -> PhysAddr {
        PhysAddr(self.0.get())
    }

    /// Where the contents can be reached.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        pointer(self.phys())
    }

    /// Copies bytes out, from `offset`.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        check(offset, out.len());
        // SAFETY: the range is inside the frame (checked), which is alive; `out` is other memory.
        unsafe { out.as_mut_ptr().copy_from_nonoverlapping(self.as_ptr().add(offset), out.len()) };
    }

    /// Copies bytes in, at `offset`.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        check(offset, bytes.len());
        // SAFETY: as in `read`.
        unsafe { self.as_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// The 32-bit word at `offset`, which those who map the frame may change at any time.
    ///
    /// # Panics
    /// If it leaves the frame or is not aligned.
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        check(offset, size_of::<u32>());
        assert!(offset.is_multiple_of(size_of::<u32>()), "the word is not aligned");
        // SAFETY: inside the frame (checked), which is alive as long as `self`; aligned.
        unsafe { AtomicU32::from_ptr(self.as_ptr().add(offset).cast()) }
    }

    /// Sets the bytes of `range` to zero.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn fill_zero(&self, range: Range<usize>) {
        check(range.start, range.len());
        // SAFETY: as in `write`.
        unsafe { self.as_ptr().add(range.start).write_bytes(0, range.len()) };
    }

    /// Number of references right now; `usize::MAX` for a permanent frame.
    #[must_use]
    pub fn ref_count(&self) -> usize {
        // SAFETY: the frame is alive while `self` is.
        unsafe { frame_backend_ref_count(self.phys()) }
    }
}

const fn check(offset: usize, len: usize) {
    assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "range leaves the frame");
}

#[cfg(not(any(test, feature = "std")))]
const fn pointer(pa: PhysAddr) -> *mut u8 {
    pa.to_virt().as_mut_ptr()
}

#[cfg(any(test, feature = "std"))]
const fn pointer(pa: PhysAddr) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(pa.0 as usize)
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        // SAFETY: the frame is alive while `self` is.
        unsafe { frame_backend_ref(self.phys()) };
        Self(self.0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: this reference was counted and is not used again.
        unsafe { frame_backend_unref(self.phys()) };
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({})", self.phys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_references_and_frees_at_the_last() {
        let a = Frame::alloc_zeroed().unwrap();
        assert_eq!(a.ref_count(), 1);
        let b = a.clone();
        assert_eq!((a.ref_count(), b.phys()), (2, a.phys()));
        drop(a);
        assert_eq!(b.ref_count(), 1);
    }

    #[test]
    fn raw_round_trip_keeps_the_count() {
        let a = Frame::alloc_zeroed().unwrap();
        let b = a.clone();
        let raw = b.into_raw();
        assert_eq!(a.ref_count(), 2);
        // SAFETY: `raw` was given away one line above.
        drop(unsafe { Frame::from_raw(raw) });
        assert_eq!(a.ref_count(), 1);
    }

    #[test]
    fn contents_are_read_written_and_copied() {
        let a = Frame::alloc_zeroed().unwrap();
        a.write(4090, b"abcdef");
        let copy = a.duplicate().unwrap();
        a.fill_zero(4090..4093);
        let mut out = [1; 7];
        a.read(4089, &mut out);
        assert_eq!(&out, b"\0\0\0\0def");
        copy.read(4089, &mut out);
        assert_eq!(&out, b"\0abcdef");
    }

    #[test]
    #[should_panic(expected = "leaves the frame")]
    fn reading_past_the_end_is_refused() {
        Frame::alloc_zeroed().unwrap().read(4090, &mut [0; 7]);
    }

    #[test]
    fn permanent_frames_are_not_counted() {
        #[repr(align(4096))]
        struct Page([u8; 4096]);
        let page = alloc::boxed::Box::new(Page([7; 4096]));
        let frame = Frame::from_permanent(PhysAddr((&raw const *page).expose_provenance() as u64));
        let other = frame.clone();
        drop(frame);
        assert_eq!(other.ref_count(), usize::MAX);
        let mut byte = [0];
        other.read(4095, &mut byte);
        assert_eq!(byte, [page.0[0]]);
    }
}
