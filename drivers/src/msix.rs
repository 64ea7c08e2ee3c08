//! The table of a function's message-signalled interrupts (PCI 3.0 §6.8.2).
//!
//! **Theory.** Every entry has a mask bit. A message that is due while its entry is masked stays pending in the device and is sent when the entry is
//! unmasked, to the address that stands there then. So an entry is changed masked, and no message is lost or sent to half an address: the device may
//! read the entry at any time, and writes of the CPU reach it in their order; reading back makes sure that the first has. Each entry is written by
//! the thread alone that serves it, and entries share nothing, so there is no lock.
#![expect(unsafe_code, reason = "accesses a device's memory through raw pointers")]

use core::ptr::NonNull;
use pci::{ENTRY_LEN, Message};

const ADDRESS: usize = 0;
const ADDRESS_HIGH: usize = 4;
const DATA: usize = 8;
const CONTROL: usize = 12;
const MASKED: u32 = 1;

/// A table in a device's memory.
#[derive(Debug)]
pub struct MsixTable {
    base: NonNull<u8>,
    entries: u16,
}

// SAFETY: the table belongs to the device, not to a thread; entries are independent.
unsafe impl Send for MsixTable {}
// SAFETY: as above.
unsafe impl Sync for MsixTable {}

impl MsixTable {
    /// The table at `base`, with all entries masked.
    ///
    /// # Safety
    /// `base` points to a table of so many entries, mapped uncached for ever, which nobody else changes.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, entries: u16) -> Self {
        let table = Self { base, entries };
        (0..entries).for_each(|index| table.mask(index));
        table
    }

    /// How many messages there are.
    #[must_use]
    pub const fn entries(&self) -> u16 {
        self.entries
    }

    /// Has the device send `message` for entry `index` from now on.
    pub fn route(&self, index: u16, message: Message) {
        self.mask(index);
        self.write(index, ADDRESS, message.address);
        self.write(index, ADDRESS_HIGH, 0);
        self.write(index, DATA, message.data);
        self.write(index, CONTROL, 0);
    }

    /// Has the device hold messages of entry `index` back.
    pub fn mask(&self, index: u16) {
        self.write(index, CONTROL, MASKED);
        let _flushed = self.read(index, CONTROL);
    }

    fn register(&self, index: u16, offset: usize) -> *mut u32 {
        assert!(index < self.entries, "the table has {} entries", self.entries);
        // SAFETY: inside the table that the creator vouched for.
        unsafe { self.base.as_ptr().add(usize::from(index) * ENTRY_LEN + offset).cast() }
    }

    fn read(&self, index: u16, offset: usize) -> u32 {
        // SAFETY: a register of the table.
        unsafe { self.register(index, offset).read_volatile() }
    }

    fn write(&self, index: u16, offset: usize, value: u32) {
        // SAFETY: a register of the table.
        unsafe { self.register(index, offset).write_volatile(value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_masked_until_they_are_routed() {
        let memory = Box::leak(Box::new([7u32; 12]));
        let at: *const [u32; 12] = memory;
        // SAFETY: leaked memory for three entries.
        let table = unsafe { MsixTable::new(NonNull::from(memory).cast(), 3) };
        // SAFETY: as above.
        let words = || unsafe { at.read_volatile() };
        assert_eq!([words()[3], words()[7], words()[11]], [1; 3]);
        table.route(1, Message { address: 0xfee0_2000, data: 0x31 });
        assert_eq!(words()[4..8], [0xfee0_2000, 0, 0x31, 0]);
        assert_eq!((words()[3], words()[11]), (1, 1), "the others are left alone");
        table.mask(1);
        assert_eq!(words()[7], 1);
        assert_eq!(table.entries(), 3);
    }

    #[test]
    #[should_panic(expected = "3 entries")]
    fn there_is_nothing_behind_the_last_entry() {
        let memory = Box::leak(Box::new([0u32; 12]));
        // SAFETY: leaked memory for three entries.
        let table = unsafe { MsixTable::new(NonNull::from(memory).cast(), 3) };
        table.mask(3);
    }
}
