//! MADT (signature `APIC`): processors, I/O APICs, interrupt source overrides. ACPI 6.5 §5.2.12.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::virtio_mmio::{Polarity, Trigger};
use addr::PhysAddr;

/// Where the list of controller structures begins.
const ENTRIES: usize = 44;

/// Whether a processor can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuState {
    /// Ready to be started.
    Enabled,
    /// Not there now; may be plugged in later.
    OnlineCapable,
    /// Never usable.
    Disabled,
}

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Local APIC id; above 254 only x2APIC mode can address it.
    pub apic_id: u32,
    /// Firmware's name for the processor.
    pub acpi_id: u32,
    /// Whether it can be used.
    pub state: CpuState,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its id register.
    pub id: u8,
    /// Physical address of its registers.
    pub base: PhysAddr,
    /// Global system interrupt of its pin 0.
    pub gsi_base: u32,
}

/// An ISA interrupt that is not wired one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceOverride {
    /// ISA interrupt number.
    pub irq: u8,
    /// Global system interrupt it arrives at.
    pub gsi: u32,
    /// Trigger mode; `None` means the bus's default (edge for ISA).
    pub trigger: Option<Trigger>,
    /// Active level; `None` means the bus's default (high for ISA).
    pub polarity: Option<Polarity>,
}

/// The table.
#[derive(Clone, Copy, Debug)]
pub struct Madt<'m> {
    table: &'m [u8],
}

impl<'m> Madt<'m> {
    /// Wraps a table's bytes, header included; `None` when shorter than the fixed part.
    #[must_use]
    pub fn new(table: &'m [u8]) -> Option<Self> {
        (table.len() >= ENTRIES).then_some(Self { table })
    }

    /// Physical address of the local APIC's registers (xAPIC mode).
    #[must_use]
    pub fn local_apic(&self) -> PhysAddr {
        let address = self.entries().filter(|e| e[0] == 5).find_map(|e| u64_at(e, 4));
        PhysAddr(address.unwrap_or_else(|| u32_at(self.table, 36).unwrap_or_default().into()))
    }

    /// Whether the machine also has 8259 interrupt controllers, which must be masked.
    #[must_use]
    pub fn has_8259(&self) -> bool {
        u32_at(self.table, 40).is_some_and(|flags| flags & 1 != 0)
    }

    /// Processors, in the table's order, of every state. An APIC id listed twice is returned twice.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + 'm {
        self.entries().filter_map(cpu)
    }

    /// I/O APICs.
    pub fn io_apics(&self) -> impl Iterator<Item = IoApic> + 'm {
        self.entries().filter(|e| e[0] == 1).filter_map(|e| {
            Some(IoApic { id: u8_at(e, 2)?, base: PhysAddr(u32_at(e, 4)?.into()), gsi_base: u32_at(e, 8)? })
        })
    }

    /// Interrupt source overrides.
    pub fn source_overrides(&self) -> impl Iterator<Item = SourceOverride> + 'm {
        self.entries().filter(|e| e[0] == 2).filter_map(|e| {
            let flags = u16_at(e, 8)?;
            Some(SourceOverride {
                irq: u8_at(e, 3)?,
                gsi: u32_at(e, 4)?,
                polarity: polarity(flags),
                trigger: trigger(flags),
            })
        })
    }

    /// The controller structures: type, length, body. Stops at the first impossible length.
    fn entries(&self) -> impl Iterator<Item = &'m [u8]> + use<'m> {
        let mut rest = &self.table[ENTRIES..];
        core::iter::from_fn(move || {
            let len = usize::from(*rest.get(1)?);
            if len < 2 || len > rest.len() {
                return None;
            }
            let (entry, after) = rest.split_at(len);
            rest = after;
            Some(entry)
        })
    }
}

fn cpu(entry: &[u8]) -> Option<Cpu> {
    let (apic_id, acpi_id, flags) = match entry[0] {
        0 => (u8_at(entry, 3)?.into(), u8_at(entry, 2)?.into(), u32_at(entry, 4)?),
        9 => (u32_at(entry, 4)?, u32_at(entry, 12)?, u32_at(entry, 8)?),
        _ => return None,
    };
    // Id 0xff in an xAPIC entry is the broadcast id: firmware fills unused entries with it.
    let broadcast = entry[0] == 0 && apic_id == 0xff || apic_id == u32::MAX;
    let state = match flags {
        _ if broadcast => CpuState::Disabled,
        f if f & 1 != 0 => CpuState::Enabled,
        f if f & 2 != 0 => CpuState::OnlineCapable,
        _ => CpuState::Disabled,
    };
    Some(Cpu { apic_id, acpi_id, state })
}

fn polarity(flags: u16) -> Option<Polarity> {
    match flags & 3 {
        1 => Some(Polarity::High),
        3 => Some(Polarity::Low),
        _ => None,
    }
}

fn trigger(flags: u16) -> Option<Trigger> {
    match flags >> 2 & 3 {
        1 => Some(Trigger::Edge),
        3 => Some(Trigger::Level),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MICROVM_APIC, Q35_APIC};
    use super::*;

    fn madt(table: &[u8]) -> Madt<'_> {
        Madt::new(table).expect("long enough")
    }

    #[test]
    fn microvm_has_four_cpus_and_two_io_apics() {
        let madt = madt(MICROVM_APIC);
        assert_eq!(madt.local_apic(), PhysAddr(0xfee0_0000));
        let ids: Vec<_> = madt.cpus().map(|c| (c.apic_id, c.state)).collect();
        assert_eq!(ids, [0, 1, 2, 3].map(|i| (i, CpuState::Enabled)));
        let apics: Vec<_> = madt.io_apics().map(|a| (a.id, a.base.0, a.gsi_base)).collect();
        assert_eq!(apics, [(0, 0xfec0_0000, 0), (1, 0xfec1_0000, 24)]);
        assert_eq!(madt.source_overrides().count(), 0);
    }

    #[test]
    fn q35_routes_the_timer_to_gsi_2() {
        let all: Vec<_> = madt(Q35_APIC).source_overrides().collect();
        assert_eq!(all.len(), 5);
        assert_eq!(all[0], SourceOverride { irq: 0, gsi: 2, trigger: None, polarity: None });
        assert_eq!(all[1].trigger, Some(Trigger::Level));
        assert_eq!(all[1].polarity, Some(Polarity::High));
        assert!(madt(Q35_APIC).has_8259());
    }

    fn with_entries(entries: &[u8]) -> Vec<u8> {
        [&MICROVM_APIC[..ENTRIES], entries].concat()
    }

    #[test]
    fn x2apic_entries_and_states_are_read() {
        let mut e = vec![9, 16, 0, 0];
        for v in [300u32, 2, 7] {
            e.extend(v.to_le_bytes());
        }
        e.extend([0, 8, 1, 0xff, 1, 0, 0, 0, 0, 8, 2, 5, 0, 0, 0, 0]);
        let table = with_entries(&e);
        let states: Vec<_> = madt(&table).cpus().map(|c| (c.apic_id, c.state)).collect();
        assert_eq!(states, [(300, CpuState::OnlineCapable), (0xff, CpuState::Disabled), (5, CpuState::Disabled)]);
    }

    #[test]
    fn the_64_bit_address_override_wins() {
        let table = with_entries(&[5, 12, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(madt(&table).local_apic(), PhysAddr(1 << 32));
    }

    #[test]
    fn impossible_lengths_end_the_list() {
        for bad in [&[0u8, 0][..], &[0, 1], &[0, 200, 0, 0], &[0], &[0, 4, 0, 0], &[1, 3, 0], &[2, 2]] {
            let table = with_entries(bad);
            let madt = madt(&table);
            assert_eq!(madt.cpus().count() + madt.io_apics().count() + madt.source_overrides().count(), 0, "{bad:?}");
        }
        assert!(Madt::new(&MICROVM_APIC[..43]).is_none());
    }
}
