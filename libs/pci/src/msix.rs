//! MSI-X: a table of messages, one for each interrupt (PCI 3.0 §6.8.2).
//!
//! An interrupt is a write of `data` to `address`; on x86 these say which CPU gets which vector (SDM vol. 3, 11.11).

use crate::{Address, ConfigSpace, MemoryBar, NotInBar, locate};
use addr::PhysAddr;

/// Bytes of a table entry: address, upper half of the address, data, control.
pub const ENTRY_LEN: usize = 16;

const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;
/// Where messages to CPUs go.
const CPU_MESSAGES: u32 = 0xfee0_0000;

/// A function's MSI-X capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msix {
    /// Where it is in configuration space.
    offset: u8,
    /// Entries of the table, 1 to 2048.
    pub entries: u16,
    /// Base address register and offset of the table.
    table: (u8, u32),
}

impl Msix {
    /// Reads the capability at `offset`.
    pub fn read(space: &(impl ConfigSpace + ?Sized), at: Address, offset: u8) -> Self {
        let control = space.read(at, offset.into());
        // A capability at the very end has its second half outside; there it reads as nothing.
        let table = if offset <= 0xf4 { space.read(at, u16::from(offset) + 4) } else { 7 };
        Self { offset, entries: (control >> 16 & 0x7ff) as u16 + 1, table: ((table & 7) as u8, table & !7) }
    }

    /// Where the table is.
    ///
    /// # Errors
    /// [`NotInBar`].
    pub fn table(&self, bars: &[MemoryBar]) -> Result<PhysAddr, NotInBar> {
        locate(bars, self.table.0, self.table.1, u64::from(self.entries) * ENTRY_LEN as u64)
    }

    /// Turns message-signalled interrupts on, all held back; what comes meanwhile is sent later.
    pub fn enable_masked(&self, space: &(impl ConfigSpace + ?Sized), at: Address) {
        self.control(space, at, ENABLE | MASK_ALL);
    }

    /// Lets those entries through that are not masked themselves.
    pub fn enable(&self, space: &(impl ConfigSpace + ?Sized), at: Address) {
        self.control(space, at, ENABLE);
    }

    fn control(&self, space: &(impl ConfigSpace + ?Sized), at: Address, bits: u32) {
        let before = space.read(at, self.offset.into());
        space.write(at, self.offset.into(), before & !(ENABLE | MASK_ALL) | bits);
    }
}

/// What a table entry makes the device write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// To where; the upper half is 0.
    pub address: u32,
    /// What.
    pub data: u32,
}

impl Message {
    /// Interrupts the CPU with `apic_id` by `vector`. `None` for a CPU that no message reaches: there are eight bits for its id, and all ones
    /// mean everybody.
    #[must_use]
    pub fn new(apic_id: u32, vector: u8) -> Option<Self> {
        (apic_id < 0xff).then(|| Self { address: CPU_MESSAGES | apic_id << 12, data: vector.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeFunction, FakeSpace};

    const AT: Address = Address::new(0, 5, 0);

    fn space(offset: u8, control: u16, table: u32) -> FakeSpace {
        let mut function = FakeFunction::new(1, 2);
        function.set_u32(offset.into(), u32::from(control) << 16 | 0x11);
        function.set_u32(u16::from(offset) + 4, table);
        let space = FakeSpace::default();
        space.add(AT, function);
        space
    }

    #[test]
    fn the_table_lies_in_a_base_address_register() {
        let bars = [MemoryBar { index: 1, address: PhysAddr(0xfebd_0000), size: 0x1000, is_64: false }];
        let read = |control, table| Msix::read(&space(0x98, control, table), AT, 0x98);
        let msix = read(31, 0x801);
        assert_eq!((msix.entries, msix.table(&bars)), (32, Ok(PhysAddr(0xfebd_0800))));
        assert!(read(0x7ff, 1).table(&bars).is_err(), "longer than the register's memory");
        assert!(read(0, 0x1001).table(&bars).is_err());
        assert!(read(0, 7).table(&bars).is_err());
    }

    #[test]
    fn a_capability_that_reaches_over_the_end_has_no_table() {
        let bars = [MemoryBar { index: 0, address: PhysAddr(0x1000), size: 1 << 20, is_64: false }];
        let mut function = FakeFunction::new(1, 2);
        function.set_u32(0xfc, 0x11);
        let space = FakeSpace::default();
        space.add(AT, function);
        assert!(Msix::read(&space, AT, 0xfc).table(&bars).is_err());
    }

    #[test]
    fn it_is_enabled_with_everything_held_back_first() {
        let space = space(0x40, 3, 0);
        let msix = Msix::read(&space, AT, 0x40);
        msix.enable_masked(&space, AT);
        assert_eq!(space.last_write(), Some((AT, 0x40, 0xc003_0011)));
        msix.enable(&space, AT);
        assert_eq!(space.last_write(), Some((AT, 0x40, 0x8003_0011)));
    }

    #[test]
    fn messages_name_cpu_and_vector() {
        assert_eq!(Message::new(3, 0x41), Some(Message { address: 0xfee0_3000, data: 0x41 }));
        assert_eq!(Message::new(254, 0x30), Some(Message { address: 0xfeef_e000, data: 0x30 }));
        assert_eq!(Message::new(255, 0x30), None);
    }
}
