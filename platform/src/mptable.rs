//! MP tables (Intel MultiProcessor Specification 1.4, chapter 4): processors and I/O APICs of machines without ACPI,
//! such as QEMU's microvm with `acpi=off` and Firecracker. Same results as [`crate::acpi::madt`].

use crate::PhysMemory;
use crate::acpi::{Cpu, CpuState, IoApic, SourceOverride};
use crate::bytes::{sums_to_zero, u8_at, u16_at, u32_at};
use crate::virtio_mmio::{Polarity, Trigger};
use addr::PhysAddr;
use core::ops::Range;

const HEADER_LEN: usize = 44;
/// Where firmware puts the pointer: the last KiB of base memory (two usual sizes) and the BIOS area.
const SEARCH: [Range<u64>; 3] = [0x9_fc00..0xa_0000, 0x9_f800..0x9_fc00, 0xf_0000..0x10_0000];

/// The configuration table.
#[derive(Clone, Copy, Debug)]
pub struct MpTable<'m> {
    table: &'m [u8],
}

impl<'m> MpTable<'m> {
    /// Looks for a valid pointer that leads to a valid table.
    #[must_use]
    pub fn search(memory: &impl PhysMemory<'m>) -> Option<Self> {
        SEARCH.into_iter().flat_map(|area| area.step_by(16)).find_map(|at| Self::follow(memory, PhysAddr(at)))
    }

    fn follow(memory: &impl PhysMemory<'m>, pointer: PhysAddr) -> Option<Self> {
        let pointer = memory.bytes(pointer, 16).filter(|p| p.starts_with(b"_MP_") && sums_to_zero(p))?;
        let at = PhysAddr(u32_at(pointer, 4)?.into());
        let len = usize::from(u16_at(memory.bytes(at, HEADER_LEN)?, 4)?);
        Self::new(memory.bytes(at, len)?)
    }

    /// Wraps a table's bytes; `None` when it is none or is damaged.
    #[must_use]
    pub fn new(table: &'m [u8]) -> Option<Self> {
        let valid = table.len() >= HEADER_LEN && table.starts_with(b"PCMP") && sums_to_zero(table);
        valid.then_some(Self { table })
    }

    /// Physical address of the local APIC's registers.
    #[must_use]
    pub fn local_apic(&self) -> PhysAddr {
        PhysAddr(u32_at(self.table, 36).unwrap_or_default().into())
    }

    /// Processors, in the table's order.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + 'm {
        self.entries().filter(|e| e[0] == 0).filter_map(|e| {
            let apic_id = u8_at(e, 1)?.into();
            let state = if u8_at(e, 3)? & 1 != 0 { CpuState::Enabled } else { CpuState::Disabled };
            Some(Cpu { apic_id, acpi_id: apic_id, state })
        })
    }

    /// I/O APICs. The table has no interrupt bases: they follow one another, 24 lines each.
    pub fn io_apics(&self) -> impl Iterator<Item = IoApic> + 'm {
        let usable = self.entries().filter(|e| e[0] == 2 && e[3] & 1 != 0);
        usable.zip((0..).step_by(24)).filter_map(|(e, gsi_base)| {
            Some(IoApic { id: u8_at(e, 1)?, base: PhysAddr(u32_at(e, 4)?.into()), gsi_base })
        })
    }

    /// ISA interrupts that do not arrive at the line of their own number.
    pub fn source_overrides(&self) -> impl Iterator<Item = SourceOverride> + 'm {
        // Type 3, interrupt type 0 (vectored). Bus numbers are not looked at: only ISA is described on such machines.
        self.entries().filter(|e| e[0] == 3 && e[1] == 0 && e[5] != e[7]).map(|e| SourceOverride {
            irq: e[5],
            gsi: e[7].into(),
            polarity: match e[2] & 3 {
                1 => Some(Polarity::High),
                3 => Some(Polarity::Low),
                _ => None,
            },
            trigger: match e[2] >> 2 & 3 {
                1 => Some(Trigger::Edge),
                3 => Some(Trigger::Level),
                _ => None,
            },
        })
    }

    /// The entries: 20 bytes for a processor (type 0), 8 for the other types up to 4. Ends at an unknown type.
    fn entries(&self) -> impl Iterator<Item = &'m [u8]> + use<'m> {
        let mut rest = &self.table[HEADER_LEN..];
        core::iter::from_fn(move || {
            let len = match rest.first()? {
                0 => 20,
                1..=4 => 8,
                _ => return None,
            };
            let (entry, after) = rest.split_at_checked(len)?;
            rest = after;
            Some(entry)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::fake::FakeMemory;

    const MICROVM: &[u8] = include_bytes!("../tests/tables/microvm-mptable.bin");

    #[test]
    fn microvms_table_is_found_and_read() {
        let mut area = vec![0; 0x400];
        area[..16].copy_from_slice(&[0x5f, 0x4d, 0x50, 0x5f, 0x10, 0xfc, 9, 0, 1, 4, 0x8b, 0, 0, 0, 0, 0]);
        area[0x10..0x10 + MICROVM.len()].copy_from_slice(MICROVM);
        let mut memory = FakeMemory::default();
        memory.put(0x9_fc00, area);
        let table = MpTable::search(&memory).expect("present");
        assert_eq!(table.local_apic(), PhysAddr(0xfee0_0000));
        let ids: Vec<_> = table.cpus().map(|c| (c.apic_id, c.state)).collect();
        assert_eq!(ids, [0, 1, 2, 3].map(|i| (i, CpuState::Enabled)));
        let apics: Vec<_> = table.io_apics().collect();
        assert_eq!(apics, [IoApic { id: 5, base: PhysAddr(0xfec0_0000), gsi_base: 0 }]);
        let overrides: Vec<_> = table.source_overrides().map(|o| (o.irq, o.gsi)).collect();
        assert_eq!(overrides, [(0, 2)]);
    }

    #[test]
    fn nothing_is_found_in_nothing_and_damage_is_refused() {
        assert!(MpTable::search(&FakeMemory::default()).is_none());
        let mut bad = MICROVM.to_vec();
        bad[60] ^= 1;
        assert!(MpTable::new(&bad).is_none());
        assert!(MpTable::new(&MICROVM[..43]).is_none());
    }

    #[test]
    fn cut_tables_are_read_as_far_as_they_go() {
        for len in HEADER_LEN..MICROVM.len() {
            let table = MpTable { table: &MICROVM[..len] };
            assert!(table.cpus().count() <= 4 && table.io_apics().count() <= 1);
            assert!(table.source_overrides().count() <= 1);
        }
    }
}
