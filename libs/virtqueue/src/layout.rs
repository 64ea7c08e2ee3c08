//! Where the parts of a queue lie in its memory (virtio 1.2 §2.7).

/// Largest queue size the specification allows.
pub const MAX_SIZE: u16 = 32768;

pub(crate) const DESCRIPTOR_LEN: usize = 16;
const RING_HEADER: usize = 4;
const AVAIL_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;

/// Byte offsets of the three parts of a queue of a given size, laid out one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    size: u16,
}

impl Layout {
    /// The layout of a queue of `size` descriptors; `None` unless a power of two up to [`MAX_SIZE`].
    #[must_use]
    pub const fn new(size: u16) -> Option<Self> {
        if size.is_power_of_two() && size <= MAX_SIZE { Some(Self { size }) } else { None }
    }

    /// Number of descriptors.
    #[must_use]
    pub const fn size(self) -> u16 {
        self.size
    }

    /// Bytes of memory the queue takes. The memory must be aligned to 16 bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.used() + RING_HEADER + USED_ENTRY * self.size as usize + 2
    }

    /// Offset of the available ring; the descriptor table is at 0.
    #[must_use]
    pub const fn avail(self) -> usize {
        DESCRIPTOR_LEN * self.size as usize
    }

    /// Offset of the used ring.
    #[must_use]
    pub const fn used(self) -> usize {
        (self.avail() + RING_HEADER + AVAIL_ENTRY * self.size as usize + 2).next_multiple_of(4)
    }

    pub(crate) const fn avail_flags(self) -> usize {
        self.avail()
    }

    pub(crate) const fn avail_index(self) -> usize {
        self.avail() + 2
    }

    pub(crate) const fn avail_entry(self, index: u16) -> usize {
        self.avail() + RING_HEADER + AVAIL_ENTRY * (index & (self.size - 1)) as usize
    }

    /// Where the driver says at which used index it wants an interrupt (EVENT_IDX).
    pub(crate) const fn used_event(self) -> usize {
        self.avail() + RING_HEADER + AVAIL_ENTRY * self.size as usize
    }

    pub(crate) const fn used_flags(self) -> usize {
        self.used()
    }

    pub(crate) const fn used_index(self) -> usize {
        self.used() + 2
    }

    pub(crate) const fn used_entry(self, index: u16) -> usize {
        self.used() + RING_HEADER + USED_ENTRY * (index & (self.size - 1)) as usize
    }

    /// Where the device says at which available index it wants a notification (EVENT_IDX).
    pub(crate) const fn avail_event(self) -> usize {
        self.used() + RING_HEADER + USED_ENTRY * self.size as usize
    }
}
