//! A device for tests, which can also misbehave. It works on the shared memory alone, like a real one.
//!
//! Other crates' tests get it by the feature `fake`.

use crate::layout::Layout;
use crate::{Features, Region, Virtqueue};
use addr::PhysAddr;
use std::alloc;
use std::ptr::NonNull;
use std::vec::Vec;

/// "Physical" address = virtual address + this, so that mixing them up shows.
const PHYS_OFFSET: u64 = 0x1_0000_0000_0000;

/// Fresh zeroed memory of `len` bytes, 4 KiB aligned, never freed.
pub fn region(len: usize) -> Region {
    let layout = alloc::Layout::from_size_align(len, 4096).expect("valid");
    // SAFETY: the layout is not empty.
    let ptr = NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).expect("memory");
    // SAFETY: just allocated and leaked.
    unsafe { Region::new(PhysAddr(ptr.as_ptr() as u64 + PHYS_OFFSET), ptr, len) }
}

/// A region for whatever stands at a physical address inside some [`region`].
pub fn at(address: u64, len: usize) -> Region {
    let ptr = NonNull::new((address - PHYS_OFFSET) as *mut u8).expect("not null");
    // SAFETY: the tests' queues only contain addresses inside leaked regions.
    unsafe { Region::new(PhysAddr(address), ptr, len) }
}

/// A chain as the device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Number of its first descriptor.
    pub head: u16,
    /// Address and length of what the device may read.
    pub readable: Vec<(u64, u32)>,
    /// Address and length of what the device may write.
    pub writable: Vec<(u64, u32)>,
}

/// The device's side of one queue.
#[derive(Debug)]
pub struct Device {
    layout: Layout,
    desc: Region,
    last_avail: u16,
    /// Used index, as published.
    pub used: u16,
}

impl Device {
    /// The device's side of the queue of `size` descriptors at `addresses` (of one contiguous layout).
    pub fn new(size: u16, addresses: [PhysAddr; 3]) -> Self {
        let layout = Layout::new(size).expect("valid");
        Self { layout, desc: at(addresses[0].0, layout.bytes()), last_avail: 0, used: 0 }
    }

    /// Takes the next chain.
    pub fn take(&mut self) -> Option<Seen> {
        if self.desc.load_u16(self.layout.avail_index()) == self.last_avail {
            return None;
        }
        let head = self.desc.load_u16(self.layout.avail_entry(self.last_avail));
        self.last_avail = self.last_avail.wrapping_add(1);
        let mut seen = Seen { head, readable: Vec::new(), writable: Vec::new() };
        self.follow(self.desc, head, &mut seen);
        Some(seen)
    }

    fn follow(&self, table: Region, mut index: u16, seen: &mut Seen) {
        loop {
            let base = usize::from(index) * 16;
            let address: u64 = table.read_volatile(base);
            let len: u32 = table.read_volatile(base + 8);
            let [flags, next]: [u16; 2] = table.read_volatile(base + 12);
            if flags & 4 != 0 {
                assert_eq!(flags, 4, "an indirect descriptor stands alone");
                return self.follow(at(address, len as usize), 0, seen);
            }
            if flags & 2 != 0 {
                seen.writable.push((address, len));
            } else {
                assert!(seen.writable.is_empty(), "readable segments come first");
                seen.readable.push((address, len));
            }
            if flags & 1 == 0 {
                return;
            }
            index = next;
        }
    }

    /// Returns a chain, or anything else.
    pub fn give(&mut self, id: u32, written: u32) {
        self.desc.write_volatile(self.layout.used_entry(self.used), [id, written]);
        self.set_used_index(self.used.wrapping_add(1));
    }

    /// Publishes any used index.
    pub fn set_used_index(&mut self, index: u16) {
        self.used = index;
        self.desc.store_u16(self.layout.used_index(), index);
    }

    /// "Tell me nothing."
    pub fn set_no_notify(&self, on: bool) {
        self.desc.store_u16(self.layout.used_flags(), on.into());
    }

    /// "Tell me when available index `index` is passed."
    pub fn set_avail_event(&self, index: u16) {
        self.desc.store_u16(self.layout.avail_event(), index);
    }

    /// The used index at which the driver wants an interrupt.
    pub fn used_event(&self) -> u16 {
        self.desc.load_u16(self.layout.used_event())
    }

    /// Whether the driver's flag asks for no interrupts.
    pub fn interrupts_suppressed(&self) -> bool {
        self.desc.load_u16(self.layout.avail_flags()) & 1 != 0
    }

    /// Overwrites the whole descriptor table, which a device must not, but can.
    pub fn scribble(&self) {
        for i in 0..usize::from(self.layout.size()) * 2 {
            self.desc.write_volatile(i * 8, u64::MAX);
        }
    }
}

/// A queue and its device.
pub fn queue<T>(size: u16, features: Features) -> (Virtqueue<T>, Device) {
    let memory = region(Layout::new(size).expect("valid").bytes());
    let queue = Virtqueue::new(size, memory, features).expect("valid");
    let device = Device::new(size, queue.addresses());
    (queue, device)
}
