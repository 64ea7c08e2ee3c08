//! MCFG: memory-mapped PCI configuration space (PCI firmware specification 3.0, §4.1.2).

use crate::bytes::{u8_at, u16_at, u64_at};
use addr::PhysAddr;

const ENTRIES: usize = 44;
const ENTRY_LEN: usize = 16;

/// The configuration space of some buses of one PCI segment: 1 MiB a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcamRegion {
    /// Physical address of bus 0's configuration space (also when `first_bus` is not 0).
    pub base: PhysAddr,
    /// PCI segment group.
    pub segment: u16,
    /// First bus decoded.
    pub first_bus: u8,
    /// Last bus decoded.
    pub last_bus: u8,
}

/// The regions of a table, header included; a short table has none.
pub fn regions(table: &[u8]) -> impl Iterator<Item = EcamRegion> + '_ {
    table.get(ENTRIES..).unwrap_or_default().chunks_exact(ENTRY_LEN).filter_map(|e| {
        let region = EcamRegion {
            base: PhysAddr(u64_at(e, 0)?),
            segment: u16_at(e, 8)?,
            first_bus: u8_at(e, 10)?,
            last_bus: u8_at(e, 11)?,
        };
        (region.base.0 != 0 && region.first_bus <= region.last_bus).then_some(region)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Q35_MCFG;
    use super::*;

    #[test]
    fn q35_has_one_region_of_256_buses() {
        let all: Vec<_> = regions(Q35_MCFG).collect();
        assert_eq!(all, [EcamRegion { base: PhysAddr(0xb000_0000), segment: 0, first_bus: 0, last_bus: 255 }]);
        assert_eq!(regions(&Q35_MCFG[..59]).count(), 0);
        assert_eq!(regions(&[]).count(), 0);
    }
}
