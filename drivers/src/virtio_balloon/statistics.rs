//! What the host may know of the guest's memory (virtio 1.2 §5.5.6.3).

/// Memory statistics, in bytes and events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Page faults that had to wait for a device.
    pub major_faults: u64,
    /// Other page faults.
    pub minor_faults: u64,
    /// Unused memory.
    pub free_bytes: u64,
    /// All memory.
    pub total_bytes: u64,
    /// What can be had without pain.
    pub available_bytes: u64,
    /// What caches use.
    pub cache_bytes: u64,
}

const ENTRY: usize = 10;
const ENTRIES: usize = 8;

impl Statistics {
    /// Tag and value of each, as the device reads them: le16, le64, packed.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRIES * ENTRY] {
        let entries: [(u16, u64); ENTRIES] = [
            (0, 0), // swapped in
            (1, 0), // swapped out
            (2, self.major_faults),
            (3, self.minor_faults),
            (4, self.free_bytes),
            (5, self.total_bytes),
            (6, self.available_bytes),
            (7, self.cache_bytes),
        ];
        let mut bytes = [0; ENTRIES * ENTRY];
        for (place, (tag, value)) in bytes.chunks_exact_mut(ENTRY).zip(entries) {
            place[..2].copy_from_slice(&tag.to_le_bytes());
            place[2..].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }
}
