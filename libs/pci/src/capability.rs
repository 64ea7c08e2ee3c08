//! The list of a function's capabilities (PCI 3.0 §6.7).

use crate::{Address, ConfigSpace, register};
use alloc::vec::Vec;
use core::fmt;

/// Capability ids used here.
pub mod id {
    /// Whatever the vendor likes; virtio's registers are described so.
    pub const VENDOR: u8 = 0x09;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
}

const STATUS_HAS_LIST: u32 = 1 << 20;
/// The list lies behind the header.
const FIRST: u8 = 0x40;

/// One capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// What it is, see [`id`].
    pub id: u8,
    /// Where it begins; a multiple of 4, 0x40..=0xfc.
    pub offset: u8,
}

/// What is wrong with a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainError {
    /// A pointer into the header.
    OutOfRange(u8),
    /// A pointer to what was there before.
    Loop(u8),
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange(at) => write!(f, "its list of capabilities leads to {at:#x}, which is no place for one"),
            Self::Loop(at) => write!(f, "its list of capabilities comes back to {at:#x}"),
        }
    }
}

/// All capabilities of a function, in the list's order.
///
/// # Errors
/// [`ChainError`]: a function with a broken list is not to be trusted with anything.
pub fn capabilities(space: &(impl ConfigSpace + ?Sized), at: Address) -> Result<Vec<Capability>, ChainError> {
    let mut all = Vec::new();
    if space.read(at, register::COMMAND) & STATUS_HAS_LIST == 0 {
        return Ok(all);
    }
    // Bit N: offset 4N was seen. So the walk ends after 48 steps at the latest.
    let mut seen = 0u64;
    let mut next = space.read(at, register::CAPABILITIES) as u8;
    loop {
        // §6.7: the lowest two bits are reserved.
        let offset = next & !3;
        match offset {
            0 => return Ok(all),
            1..FIRST => return Err(ChainError::OutOfRange(offset)),
            _ if seen & 1 << (offset / 4) != 0 => return Err(ChainError::Loop(offset)),
            _ => {}
        }
        seen |= 1 << (offset / 4);
        let header = space.read(at, offset.into());
        all.push(Capability { id: header as u8, offset });
        next = (header >> 8) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeFunction, FakeSpace};

    const AT: Address = Address::new(0, 3, 0);

    /// A function with these (offset, id, next).
    fn walk(first: u8, list: &[(u8, u8, u8)]) -> Result<Vec<Capability>, ChainError> {
        let mut function = FakeFunction::new(1, 2);
        function.set_u32(register::COMMAND, STATUS_HAS_LIST);
        function.set_u32(register::CAPABILITIES, first.into());
        for &(offset, id, next) in list {
            function.set_u32(offset.into(), u32::from(id) | u32::from(next) << 8);
        }
        let space = FakeSpace::default();
        space.add(AT, function);
        capabilities(&space, AT)
    }

    #[test]
    fn a_list_is_read_in_its_order() {
        let found = walk(0x43, &[(0x40, 9, 0x80), (0x80, 0x11, 0x50), (0x50, 1, 0)]).expect("good");
        assert_eq!(found.iter().map(|c| (c.id, c.offset)).collect::<Vec<_>>(), [(9, 0x40), (0x11, 0x80), (1, 0x50)]);
    }

    #[test]
    fn no_list_is_an_empty_one() {
        let space = FakeSpace::default();
        space.add(AT, FakeFunction::new(1, 2));
        assert_eq!(capabilities(&space, AT), Ok(Vec::new()));
    }

    #[test]
    fn broken_lists_are_errors() {
        assert_eq!(walk(0x10, &[]), Err(ChainError::OutOfRange(0x10)));
        assert_eq!(walk(0x40, &[(0x40, 9, 0x3c)]), Err(ChainError::OutOfRange(0x3c)));
        assert_eq!(walk(0x40, &[(0x40, 9, 0x40)]), Err(ChainError::Loop(0x40)));
        assert_eq!(walk(0x40, &[(0x40, 9, 0x60), (0x60, 0, 0x42)]), Err(ChainError::Loop(0x40)));
    }

    #[test]
    fn a_function_that_has_gone_reads_as_ones_and_ends() {
        assert_eq!(capabilities(&FakeSpace::default(), AT), Err(ChainError::Loop(0xfc)));
    }

    #[test]
    fn the_longest_list_is_not_taken_for_a_loop() {
        let list: Vec<_> = (0x10..0x40u8).map(|word| (word * 4, 9, (word + 1).wrapping_mul(4))).collect();
        assert_eq!(walk(0x40, &list).map(|all| all.len()), Ok(48));
    }
}
