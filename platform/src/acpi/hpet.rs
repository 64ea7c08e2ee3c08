//! HPET description table: where the timer's registers are. IA-PC HPET 1.0a §3.2.4.

use crate::bytes::{u8_at, u64_at};
use addr::PhysAddr;

/// The high precision event timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hpet {
    /// Physical address of its 1 KiB of registers.
    pub base: PhysAddr,
}

impl Hpet {
    /// Decodes a table, header included; `None` for registers that are not in memory.
    #[must_use]
    pub fn new(table: &[u8]) -> Option<Self> {
        // A generic address structure at 40: space, width, offset, access size, then the address.
        let base = u64_at(table, 44).filter(|a| *a != 0 && u8_at(table, 40) == Some(0))?;
        Some(Self { base: PhysAddr(base) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Q35_HPET;
    use super::*;

    #[test]
    fn q35s_timer_is_found_and_short_tables_are_refused() {
        assert_eq!(Hpet::new(Q35_HPET), Some(Hpet { base: PhysAddr(0xfed0_0000) }));
        assert_eq!(Hpet::new(&Q35_HPET[..51]), None);
    }
}
