//! From the loader's memory map to the final page tables.
//!
//! Order: find free RAM, place the frame table in it, start the frame allocator with what lies below 4 GiB (the boot tables reach
//! no further), build the kernel's tables, switch to them, add the RAM above 4 GiB. From then on the heap works.

use super::{frames, kernel_space};
use addr::{PAGE_SIZE, PhysAddr};
use core::mem::size_of;
use core::ops::Range;
use frame_alloc::{FrameMeta, FrameTable, RangeSet};
use sync::Mutex;

pub(super) use cell::BootCell;

/// What a region of physical memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// RAM for us.
    Usable,
    /// Not for us: firmware, devices.
    Reserved,
    /// ACPI tables, or memory that ACPI uses.
    Acpi,
}

/// One entry of the loader's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRegion {
    /// First byte.
    pub start: PhysAddr,
    /// One past the last byte.
    pub end: PhysAddr,
    /// What it is.
    pub kind: MemoryKind,
}

/// Frames, at most 64 ranges: more than any memory map seen has.
pub(super) type Frames = RangeSet<64>;

const LOW: Range<u64> = 0..(1 << 20) / PAGE_SIZE as u64;
const BOOT_MAPPED: u64 = (4 << 30) / PAGE_SIZE as u64;

/// RAM below 1 MiB that becomes free when nobody starts CPUs there any more.
static LOW_RAM: Mutex<Frames> = Mutex::new(Frames::new());

/// Takes over physical memory and replaces the boot page tables.
///
/// `reserved`: what in the usable regions is taken: the kernel image, the initrd, the loader's data, the trampoline page.
/// Memory below 1 MiB stays unused and identity-mapped until [`drop_identity_map`].
///
/// Context: once, on the boot CPU, after its per-CPU block is installed and before there are threads; interrupts off.
///
/// # Panics
/// If there is not even memory for the frame table and the page tables.
pub fn init(map: &[MemoryRegion], reserved: &[Range<PhysAddr>]) {
    let mut free = usable(map);
    for range in reserved {
        free.remove(outward(range.start, range.end));
    }
    remember_low_ram(&free);
    free.remove(LOW);
    let table = place_table(&mut free);
    frames::install(table);
    for range in free.iter() {
        add(range.start, range.end.min(BOOT_MAPPED));
    }
    kernel_space::init(&direct_map(map));
    for range in free.iter() {
        add(range.start.max(BOOT_MAPPED), range.end);
    }
}

/// Unmaps the low 1 MiB at its physical addresses and frees its RAM. Called when all CPUs run on the kernel's tables.
///
/// Context: may sleep.
pub fn drop_identity_map() {
    kernel_space::drop_identity_map();
    let low = core::mem::take(&mut *LOW_RAM.lock());
    for range in low.iter() {
        add(range.start, range.end);
    }
}

fn add(start: u64, end: u64) {
    if start < end {
        frames::add_range(start, end);
    }
}

/// Whole frames inside the usable regions.
fn usable(map: &[MemoryRegion]) -> Frames {
    let mut free = Frames::new();
    for region in map.iter().filter(|r| r.kind == MemoryKind::Usable) {
        let page = PAGE_SIZE as u64;
        free.insert(region.start.align_up(page).frame_number()..region.end.frame_number());
    }
    for region in map.iter().filter(|r| r.kind != MemoryKind::Usable) {
        free.remove(outward(region.start, region.end));
    }
    free
}

/// All frames that a byte range touches.
fn outward(start: PhysAddr, end: PhysAddr) -> Range<u64> {
    start.frame_number()..end.align_up(PAGE_SIZE as u64).frame_number()
}

/// Keeps the RAM of the first megabyte for later, but for frame 0 and what firmware leaves in the last part of the 640 KiB.
fn remember_low_ram(free: &Frames) {
    let mut low = free.clone();
    low.remove(LOW.end..u64::MAX);
    low.remove(0..0x10);
    low.remove(0x90..LOW.end);
    *LOW_RAM.lock() = low;
}

/// Takes memory for the frame table from the end of a free range that the boot tables reach.
fn place_table(free: &mut Frames) -> FrameTable<'static> {
    // From frame 0: the low megabyte is added later. What has no RAM stays permanent.
    let end = free.iter().next_back().expect("the memory map has usable RAM").end;
    let count = usize::try_from(end).expect("frame numbers fit");
    let frames = (count * size_of::<FrameMeta>()).div_ceil(PAGE_SIZE) as u64;
    let place = free
        .iter()
        .filter(|r| r.start < BOOT_MAPPED)
        .map(|r| r.start..r.end.min(BOOT_MAPPED))
        .filter(|r| r.end - r.start >= frames)
        .max_by_key(|r| r.end - r.start)
        .expect("RAM below 4 GiB has room for the frame table")
        .end
        - frames;
    free.remove(place..place + frames);
    FrameTable::new(cell::entries(place, count), 0)
}

/// What the direct map shows: RAM, firmware tables, and everything up to the end of low RAM rounded to 2 MiB (ACPI tables
/// often lie right behind it in regions called reserved).
fn direct_map(map: &[MemoryRegion]) -> Frames {
    const LARGE: u64 = 512;
    let mut shown = Frames::new();
    shown.insert(LOW);
    for region in map.iter().filter(|r| r.kind != MemoryKind::Reserved) {
        let frames = outward(region.start, region.end);
        shown.insert(frames.start & !(LARGE - 1)..frames.end.next_multiple_of(LARGE));
    }
    shown
}

mod cell {
    //! Values set once during boot.
    #![expect(unsafe_code, reason = "set before there is a second CPU or thread")]

    use core::cell::UnsafeCell;
    use core::sync::atomic::{AtomicBool, Ordering};
    use frame_alloc::FrameMeta;

    /// Set once while only the boot CPU runs, then only read.
    pub(in crate::mm) struct BootCell<T> {
        set: AtomicBool,
        value: UnsafeCell<Option<T>>,
    }

    // SAFETY: after `set` the value is only read; before it nobody gets a reference.
    unsafe impl<T: Send + Sync> Sync for BootCell<T> {}

    impl<T> BootCell<T> {
        pub(in crate::mm) const fn new() -> Self {
            Self { set: AtomicBool::new(false), value: UnsafeCell::new(None) }
        }

        /// Sets the value, which must not have been set before.
        pub(in crate::mm) fn set(&self, value: T) {
            assert!(!self.set.load(Ordering::Relaxed), "set twice");
            // SAFETY: only the boot CPU runs, and no reference exists before the flag is set.
            unsafe { *self.value.get() = Some(value) };
            self.set.store(true, Ordering::Release);
        }

        /// The value, or `None` before it is set.
        #[inline]
        pub(in crate::mm) fn get(&self) -> Option<&T> {
            if !self.set.load(Ordering::Acquire) {
                return None;
            }
            // SAFETY: set before the flag (Release above), and never changed again.
            unsafe { (*self.value.get()).as_ref() }
        }
    }

    /// The entries of `count` frames, in the memory that begins at frame `place`.
    pub(super) fn entries(place: u64, count: usize) -> &'static [FrameMeta] {
        let memory = super::frames::address(place).to_virt().as_ptr::<FrameMeta>();
        // SAFETY: the range was taken out of free RAM below 4 GiB, which the boot tables map; any bits are valid entries; it is
        // never given back.
        unsafe { core::slice::from_raw_parts(memory, count) }
    }
}
