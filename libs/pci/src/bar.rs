//! Base address registers: where a function's memory is, and how much (PCI 3.0 §6.2.5).

use crate::{Address, ConfigSpace, change_command, command, register};
use addr::PhysAddr;
use alloc::vec::Vec;
use core::fmt;

const PORT_SPACE: u32 = 1;
const TYPE: u32 = 3 << 1;
const TYPE_32: u32 = 0;
const TYPE_64: u32 = 2 << 1;
/// Flags below the address.
const FLAGS: u32 = 0xf;
const ENDPOINT_BARS: u8 = 6;
const BRIDGE_BARS: u8 = 2;

/// A stretch of memory that a function answers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryBar {
    /// Number of the register, or of the first of two.
    pub index: u8,
    /// Where it is; 0: firmware has given it no place.
    pub address: PhysAddr,
    /// How long; a power of two, at least 16.
    pub size: u64,
    /// Whether the address may lie above 4 GiB.
    pub is_64: bool,
}

/// What is wrong with a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarError {
    /// Of a type that does not exist.
    Reserved(u8),
    /// The last register, of 64 bits.
    NoUpperHalf(u8),
    /// The size is no power of two.
    BadSize(u8),
    /// It ends behind the end of the address space.
    Wraps(u8),
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Reserved(index) | Self::NoUpperHalf(index) | Self::BadSize(index) | Self::Wraps(index)) = self;
        write!(f, "base address register {index} makes no sense ({self:?})")
    }
}

/// Sizes all memory registers of a function. It answers no memory accesses meanwhile, so nobody must be driving it.
///
/// # Errors
/// [`BarError`].
pub fn memory_bars(space: &(impl ConfigSpace + ?Sized), at: Address) -> Result<Vec<MemoryBar>, BarError> {
    let before = space.read(at, register::COMMAND) as u16;
    change_command(space, at, 0, command::MEMORY);
    let bars = size_all(space, at);
    change_command(space, at, before & command::MEMORY, 0);
    bars
}

fn size_all(space: &(impl ConfigSpace + ?Sized), at: Address) -> Result<Vec<MemoryBar>, BarError> {
    let is_bridge = space.read(at, register::HEADER) >> 16 & 0x7f == 1;
    let count = if is_bridge { BRIDGE_BARS } else { ENDPOINT_BARS };
    let mut bars = Vec::new();
    let mut index = 0;
    while index < count {
        let value = space.read(at, register_of(index));
        let wide = value & PORT_SPACE == 0 && value & TYPE == TYPE_64;
        if wide && index + 1 == count {
            return Err(BarError::NoUpperHalf(index));
        }
        if value & PORT_SPACE == 0 {
            bars.extend(size_one(space, at, index, value)?);
        }
        index += if wide { 2 } else { 1 };
    }
    Ok(bars)
}

const fn register_of(index: u8) -> u16 {
    register::BARS + 4 * index as u16
}

/// The memory behind a register that reads `low`; `None` if it is not there.
fn size_one(space: &(impl ConfigSpace + ?Sized), at: Address, index: u8, low: u32) -> Result<Option<MemoryBar>, BarError> {
    let is_64 = match low & TYPE {
        TYPE_32 => false,
        TYPE_64 => true,
        _ => return Err(BarError::Reserved(index)),
    };
    // Bits that keep a one belong to the address, the others to the size.
    let probe = |register: u16, value: u32| {
        space.write(at, register, u32::MAX);
        let kept = space.read(at, register);
        space.write(at, register, value);
        kept
    };
    let high = if is_64 { space.read(at, register_of(index + 1)) } else { 0 };
    let kept_low = probe(register_of(index), low) & !FLAGS;
    let kept_high = if is_64 { probe(register_of(index + 1), high) } else { u32::MAX };
    let mask = u64::from(kept_high) << 32 | u64::from(kept_low);
    if kept_low == 0 && (!is_64 || kept_high == 0) {
        return Ok(None);
    }
    let size = mask & mask.wrapping_neg();
    if mask != (size - 1) ^ u64::MAX {
        return Err(BarError::BadSize(index));
    }
    let address = u64::from(high) << 32 | u64::from(low & !FLAGS);
    // The last byte counts: the last address there is, is one.
    address.checked_add(size - 1).ok_or(BarError::Wraps(index))?;
    Ok(Some(MemoryBar { index, address: PhysAddr(address), size, is_64 }))
}

/// Gives a register another address, a multiple of its size. It must not be answering memory accesses.
pub fn place(space: &(impl ConfigSpace + ?Sized), at: Address, bar: &MemoryBar, address: PhysAddr) {
    debug_assert!(address.is_aligned(bar.size), "base addresses are multiples of the size");
    space.write(at, register_of(bar.index), address.0 as u32);
    if bar.is_64 {
        space.write(at, register_of(bar.index + 1), (address.0 >> 32) as u32);
    }
}

/// A structure that a function says is in a register's memory, and is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotInBar {
    /// The register it named.
    pub bar: u8,
    /// The offset there.
    pub offset: u32,
}

impl fmt::Display for NotInBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no memory at {:#x} of base address register {}", self.offset, self.bar)
    }
}

/// Where `len` bytes at `offset` of register `bar` are.
///
/// # Errors
/// [`NotInBar`].
pub fn locate(bars: &[MemoryBar], bar: u8, offset: u32, len: u64) -> Result<PhysAddr, NotInBar> {
    let found = bars.iter().find(|found| found.index == bar && found.address.0 != 0);
    let fits = |found: &&MemoryBar| u64::from(offset).checked_add(len).is_some_and(|end| end <= found.size);
    found.filter(fits).map(|found| found.address + u64::from(offset)).ok_or(NotInBar { bar, offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeFunction, FakeSpace};

    const AT: Address = Address::new(0, 4, 0);

    fn function(registers: &[(u8, u32, u32)]) -> FakeSpace {
        let mut function = FakeFunction::new(1, 2);
        function.set_u32(register::COMMAND, 0x0007);
        for &(index, value, writable) in registers {
            function.set_bar(index, value, writable);
        }
        let space = FakeSpace::default();
        space.add(AT, function);
        space
    }

    #[test]
    fn sizes_are_found_and_everything_is_left_as_it_was() {
        let registers = [(0, 0xc001, 0xffff_ffe0), (1, 0xfebd_1000, 0xffff_f000), (4, 0xfe00_000c, 0xffff_c000), (5, 0x80, u32::MAX)];
        let space = function(&registers);
        let bars = memory_bars(&space, AT).expect("good");
        let bar = |index, address, size, is_64| MemoryBar { index, address: PhysAddr(address), size, is_64 };
        assert_eq!(bars, [bar(1, 0xfebd_1000, 0x1000, false), bar(4, 0x80_fe00_0000, 0x4000, true)]);
        for (index, value, _) in registers {
            assert_eq!(space.read(AT, register_of(index)), value, "register {index}");
        }
        assert_eq!(space.read(AT, register::COMMAND), 0x0007);
    }

    #[test]
    fn memory_beyond_4_gib_is_sized_by_its_upper_half() {
        let space = function(&[(0, 0x4, 0), (1, 0x40, 0xffff_fff8)]);
        assert_eq!(memory_bars(&space, AT).map(|bars| (bars[0].address.0, bars[0].size)), Ok((0x40 << 32, 8 << 32)));
    }

    #[test]
    fn absent_registers_are_none() {
        assert_eq!(memory_bars(&function(&[(0, 0, 0), (2, 4, 0), (3, 0, 0)]), AT), Ok(Vec::new()));
    }

    #[test]
    fn senseless_registers_are_errors() {
        let error = |registers: &[_]| memory_bars(&function(registers), AT).expect_err("senseless");
        assert_eq!(error(&[(2, 0x2, 0xffff_f000)]), BarError::Reserved(2));
        assert_eq!(error(&[(2, 0x6, 0xffff_f000)]), BarError::Reserved(2));
        assert_eq!(error(&[(5, 0x4, 0xffff_f000)]), BarError::NoUpperHalf(5));
        assert_eq!(error(&[(1, 0x0, 0xff0f_0000)]), BarError::BadSize(1));
        assert_eq!(error(&[(0, 0x4, 0xffff_f000), (1, 0, 0)]), BarError::BadSize(0));
    }

    #[test]
    fn a_bridge_has_two() {
        let mut bridge = FakeFunction::new(1, 2);
        bridge.set_u32(register::HEADER, 1 << 16);
        bridge.set_bar(1, 4, 0xffff_f000);
        let space = FakeSpace::default();
        space.add(AT, bridge);
        assert_eq!(memory_bars(&space, AT), Err(BarError::NoUpperHalf(1)));
    }

    #[test]
    fn what_is_outside_is_not_found() {
        let bars = [MemoryBar { index: 4, address: PhysAddr(0xfe00_0000), size: 0x4000, is_64: true }];
        assert_eq!(locate(&bars, 4, 0x3000, 0x1000), Ok(PhysAddr(0xfe00_3000)));
        for (bar, offset, len) in [(4, 0x3000, 0x1001), (4, u32::MAX, u64::MAX), (0, 0, 1), (5, 0, 1), (4, 0x4000, 1)] {
            assert_eq!(locate(&bars, bar, offset, len), Err(NotInBar { bar, offset }));
        }
        let without_place = [MemoryBar { address: PhysAddr(0), ..bars[0] }];
        assert!(locate(&without_place, 4, 0, 4).is_err());
    }

    #[test]
    fn a_place_is_given_to_both_halves() {
        let space = function(&[(4, 0xc, 0xffff_c000), (5, 0, u32::MAX)]);
        let bars = memory_bars(&space, AT).expect("good");
        place(&space, AT, &bars[0], PhysAddr(0x12_c000_0000));
        assert_eq!(memory_bars(&space, AT).map(|bars| bars[0].address), Ok(PhysAddr(0x12_c000_0000)));
    }
}
