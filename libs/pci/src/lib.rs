//! PCI: what stands in configuration space, and what must be written there (PCI Local Bus 3.0, PCI Express Base).
//!
//! Pure: registers are reached through [`ConfigSpace`], which the kernel implements for ports 0xcf8/0xcfc and for memory-mapped
//! configuration space. The way of a driver: [`scan`] finds the functions, [`memory_bars`] where their registers lie, [`capabilities`] what
//! they can; [`Msix`] describes the interrupts, [`virtio::Registers`] where a virtio device has its parts.
//!
//! **Trust.** Functions may say anything: chains that loop, registers outside of every base address register, bridges that lead back. Each is an
//! error of its own here, and every walk is bounded.

#![cfg_attr(not(any(test, feature = "fake")), no_std)]

extern crate alloc;

mod bar;
mod capability;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod msix;
mod scan;
pub mod virtio;
mod window;

pub use bar::{BarError, MemoryBar, NotInBar, locate, memory_bars, place};
pub use capability::{Capability, ChainError, capabilities, id};
pub use msix::{ENTRY_LEN, Message, Msix};
pub use scan::{Complaint, Function, Kind, Scan, scan};
pub use window::Window;

use core::fmt;

/// Where a function is: bus, device and function number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// A function's place; `device` is below 32 and `function` below 8 (higher bits are dropped).
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self { bus, device: device & 31, function: function & 7 }
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device on the bus.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// The function of the device.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }

    /// Offset of its 4 KiB in the memory-mapped configuration space of its bus.
    #[must_use]
    pub const fn offset_in_bus(self) -> usize {
        (self.device as usize) << 15 | (self.function as usize) << 12
    }

    /// What port 0xcf8 wants to hear for the register at `offset`.
    #[must_use]
    pub const fn port_word(self, offset: u16) -> u32 {
        1 << 31 | (self.bus as u32) << 16 | (self.device as u32) << 11 | (self.function as u32) << 8 | (offset & 0xfc) as u32
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The configuration registers of one segment's functions. `offset` is a multiple of 4 below 256; a function that is not there reads as ones.
pub trait ConfigSpace {
    /// Reads 32 bits.
    fn read(&self, at: Address, offset: u16) -> u32;
    /// Writes 32 bits.
    fn write(&self, at: Address, offset: u16, value: u32);
}

/// Offsets of registers that all functions have.
mod register {
    pub(super) const ID: u16 = 0x00;
    pub(super) const COMMAND: u16 = 0x04;
    pub(super) const CLASS: u16 = 0x08;
    pub(super) const HEADER: u16 = 0x0c;
    pub(super) const BARS: u16 = 0x10;
    pub(super) const BUSES: u16 = 0x18;
    pub(super) const SUBSYSTEM: u16 = 0x2c;
    pub(super) const CAPABILITIES: u16 = 0x34;
    pub(super) const INTERRUPT: u16 = 0x3c;
}

/// Bits of the command register.
pub mod command {
    /// Answers accesses to memory.
    pub const MEMORY: u16 = 1 << 1;
    /// May write to memory itself; message-signalled interrupts are such writes.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Raises no interrupt line.
    pub const NO_LINE: u16 = 1 << 10;
}

/// Sets and clears bits of a function's command register.
pub fn change_command(space: &(impl ConfigSpace + ?Sized), at: Address, set: u16, clear: u16) {
    let now = space.read(at, register::COMMAND) as u16;
    // The upper half is the status register, where ones would clear bits.
    space.write(at, register::COMMAND, u32::from(now & !clear | set));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everywhere() {
        let at = Address::new(3, 0x1f, 2);
        assert_eq!(at.to_string(), "03:1f.2");
        assert_eq!(at.port_word(0x11), 0x8003_fa10);
        assert_eq!(at.offset_in_bus(), 0xf_a000);
        assert_eq!(Address::new(0, 32, 8), Address::new(0, 0, 0));
    }

    #[test]
    fn changing_the_command_leaves_the_status_alone() {
        let at = Address::new(0, 1, 0);
        let space = fake::FakeSpace::default();
        space.add(at, fake::FakeFunction::new(0x1234, 0x5678));
        space.edit(at, |function| function.set_u32(register::COMMAND, 0xffff_0003));
        change_command(&space, at, command::BUS_MASTER | command::NO_LINE, 1);
        assert_eq!(space.last_write(), Some((at, register::COMMAND, 0x0406)));
    }
}
