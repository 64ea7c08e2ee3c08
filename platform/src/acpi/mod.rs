//! ACPI tables, walked without an interpreter: RSDP → XSDT or RSDT → MADT, FADT, HPET, MCFG and a byte scan of the DSDT.
//!
//! [`Tables::find`] checks every checksum and length; the decoders in [`madt`], [`fadt`], [`hpet`], [`mcfg`] and
//! [`dsdt`] take a table's bytes and never read outside them. Reference: ACPI 6.5, chapter 5.

pub mod dsdt;
pub mod fadt;
pub mod hpet;
pub mod madt;
pub mod mcfg;

use crate::PhysMemory;
use crate::bytes::{array, sums_to_zero, u8_at, u32_at, u64_at};
use addr::PhysAddr;
pub use dsdt::{sleep_type_s5, virtio_mmio_devices};
pub use fadt::{AddressSpace, Fadt, Register};
pub use hpet::Hpet;
pub use madt::{Cpu, CpuState, IoApic, Madt, SourceOverride};
pub use mcfg::EcamRegion;

/// Length of the header every table begins with.
pub(crate) const HEADER_LEN: usize = 36;
/// No table is longer than this; a longer one is a broken length field.
const MAX_TABLE_LEN: usize = 1 << 20;

/// Why the tables could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The root pointer, or a table it leads to, is outside readable memory.
    OutOfRange,
    /// No `RSD PTR ` signature.
    BadSignature,
    /// A checksum is wrong.
    BadChecksum,
    /// A length field makes no sense.
    BadLength,
}

/// The root table: where every other table is.
#[derive(Clone, Debug)]
pub struct Tables<'m, M> {
    memory: M,
    entries: &'m [u8],
    entry_len: usize,
}

impl<'m, M: PhysMemory<'m>> Tables<'m, M> {
    /// Follows the root pointer at `rsdp` to the XSDT, or the RSDT when there is none.
    ///
    /// # Errors
    /// Every variant of [`Error`].
    pub fn find(memory: M, rsdp: PhysAddr) -> Result<Self, Error> {
        let pointer = RootPointer::read(&memory, rsdp)?;
        let (root, entry_len, signature) = match pointer.xsdt {
            Some(xsdt) => (xsdt, 8, *b"XSDT"),
            None => (pointer.rsdt, 4, *b"RSDT"),
        };
        let table = read_table(&memory, root)?;
        if table[..4] != signature {
            return Err(Error::BadSignature);
        }
        Ok(Self { entries: &table[HEADER_LEN..], entry_len, memory })
    }

    /// Physical addresses of all tables, in order.
    pub fn addresses(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        self.entries.chunks_exact(self.entry_len).filter_map(|entry| match self.entry_len {
            8 => u64_at(entry, 0).map(PhysAddr),
            _ => u32_at(entry, 0).map(|a| PhysAddr(a.into())),
        })
    }

    /// The first intact table with this signature, header included. A damaged one is as good as none.
    #[must_use]
    pub fn table(&self, signature: [u8; 4]) -> Option<&'m [u8]> {
        self.addresses()
            .filter(|at| self.memory.bytes(*at, 4) == Some(&signature))
            .find_map(|at| read_table(&self.memory, at).ok())
    }

    /// Processors and interrupt controllers.
    #[must_use]
    pub fn madt(&self) -> Option<Madt<'m>> {
        Madt::new(self.table(*b"APIC")?)
    }

    /// Fixed hardware: PM timer, reset and sleep registers.
    #[must_use]
    pub fn fadt(&self) -> Option<Fadt> {
        Fadt::new(self.table(*b"FACP")?)
    }

    /// The high precision event timer.
    #[must_use]
    pub fn hpet(&self) -> Option<Hpet> {
        Hpet::new(self.table(*b"HPET")?)
    }

    /// Memory-mapped PCI configuration space.
    pub fn ecam_regions(&self) -> impl Iterator<Item = EcamRegion> + 'm {
        mcfg::regions(self.table(*b"MCFG").unwrap_or_default())
    }

    /// The differentiated system description table (AML), which the FADT points to.
    #[must_use]
    pub fn dsdt(&self) -> Option<&'m [u8]> {
        read_table(&self.memory, self.fadt()?.dsdt?).ok().filter(|t| t.starts_with(b"DSDT"))
    }
}

/// Looks for the root pointer in the BIOS area, where it stands on PCs whose boot loader passes none.
#[must_use]
pub fn search_rsdp<'m>(memory: &impl PhysMemory<'m>) -> Option<PhysAddr> {
    (0xe_0000..0x10_0000).step_by(16).map(PhysAddr).find(|at| RootPointer::read(memory, *at).is_ok())
}

struct RootPointer {
    rsdt: PhysAddr,
    xsdt: Option<PhysAddr>,
}

impl RootPointer {
    fn read<'m>(memory: &impl PhysMemory<'m>, at: PhysAddr) -> Result<Self, Error> {
        let v1 = memory.bytes(at, 20).ok_or(Error::OutOfRange)?;
        if !v1.starts_with(b"RSD PTR ") {
            return Err(Error::BadSignature);
        }
        if !sums_to_zero(v1) {
            return Err(Error::BadChecksum);
        }
        let rsdt = PhysAddr(u32_at(v1, 16).ok_or(Error::BadLength)?.into());
        let xsdt = if u8_at(v1, 15) >= Some(2) { Self::read_xsdt(memory, at)? } else { None };
        Ok(Self { rsdt, xsdt })
    }

    fn read_xsdt<'m>(memory: &impl PhysMemory<'m>, at: PhysAddr) -> Result<Option<PhysAddr>, Error> {
        let v2 = memory.bytes(at, 36).ok_or(Error::OutOfRange)?;
        if u32_at(v2, 20) != Some(36) {
            return Err(Error::BadLength);
        }
        if !sums_to_zero(v2) {
            return Err(Error::BadChecksum);
        }
        Ok(u64_at(v2, 24).filter(|a| *a != 0).map(PhysAddr))
    }
}

/// The whole table at `at`, length and checksum verified.
fn read_table<'m>(memory: &impl PhysMemory<'m>, at: PhysAddr) -> Result<&'m [u8], Error> {
    let header = memory.bytes(at, HEADER_LEN).ok_or(Error::OutOfRange)?;
    let len = u32_at(header, 4).ok_or(Error::BadLength)? as usize;
    if !(HEADER_LEN..=MAX_TABLE_LEN).contains(&len) {
        return Err(Error::BadLength);
    }
    let table = memory.bytes(at, len).ok_or(Error::OutOfRange)?;
    if sums_to_zero(table) { Ok(table) } else { Err(Error::BadChecksum) }
}

/// Signature of a table, for messages.
#[must_use]
pub fn signature(table: &[u8]) -> Option<[u8; 4]> {
    array(table, 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::fake::FakeMemory;

    pub(crate) const MICROVM_APIC: &[u8] = include_bytes!("../../tests/tables/microvm-apic.bin");
    pub(crate) const MICROVM_FACP: &[u8] = include_bytes!("../../tests/tables/microvm-facp.bin");
    pub(crate) const MICROVM_DSDT: &[u8] = include_bytes!("../../tests/tables/microvm-dsdt.bin");
    /// QEMU 7.2's microvm with `pcie=on` and two devices.
    pub(crate) const MICROVM_PCIE_DSDT: &[u8] = include_bytes!("../../tests/tables/microvm-pcie-dsdt.bin");
    pub(crate) const Q35_APIC: &[u8] = include_bytes!("../../tests/tables/q35-apic.bin");
    pub(crate) const Q35_FACP: &[u8] = include_bytes!("../../tests/tables/q35-facp.bin");
    pub(crate) const Q35_HPET: &[u8] = include_bytes!("../../tests/tables/q35-hpet.bin");
    pub(crate) const Q35_MCFG: &[u8] = include_bytes!("../../tests/tables/q35-mcfg.bin");

    /// Sets the byte at `at` so that all bytes sum to zero.
    pub(crate) fn fix_checksum(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        bytes[at] = bytes.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
    }

    fn root_table(signature: &[u8; 4], entries: &[u8]) -> Vec<u8> {
        let mut t = signature.to_vec();
        t.extend((36 + entries.len() as u32).to_le_bytes());
        t.resize(36, 0);
        t.extend(entries);
        fix_checksum(&mut t, 9);
        t
    }

    fn root_pointer(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
        let mut p = b"RSD PTR \0BOCHS ".to_vec();
        p.push(revision);
        p.extend(rsdt.to_le_bytes());
        fix_checksum(&mut p, 8);
        if revision >= 2 {
            p.extend(36u32.to_le_bytes());
            p.extend(xsdt.to_le_bytes());
            p.extend([0; 4]);
            fix_checksum(&mut p, 32);
        }
        p
    }

    fn microvm() -> FakeMemory {
        let mut m = FakeMemory::default();
        m.put(0xf34d0, root_pointer(2, 0, 0xeff8e));
        m.put(0xeff8e, root_table(b"XSDT", &[0xefe18u64.to_le_bytes(), 0xeff24u64.to_le_bytes()].concat()));
        m.put(0xefe18, MICROVM_FACP).put(0xeff24, MICROVM_APIC).put(0xefc40, MICROVM_DSDT);
        m
    }

    #[test]
    fn microvms_tables_are_found_through_the_xsdt() {
        let tables = Tables::find(microvm(), PhysAddr(0xf34d0)).expect("valid");
        assert_eq!(tables.addresses().count(), 2);
        assert_eq!(tables.madt().expect("present").cpus().count(), 4);
        assert_eq!(tables.dsdt(), Some(MICROVM_DSDT));
        assert!(tables.hpet().is_none());
        assert_eq!(tables.ecam_regions().count(), 0);
    }

    #[test]
    fn a_version_1_pointer_leads_to_the_rsdt() {
        let mut m = FakeMemory::default();
        m.put(0xf59e0, root_pointer(0, 0x8000, 0));
        m.put(0x8000, root_table(b"RSDT", &0x9000u32.to_le_bytes())).put(0x9000, Q35_HPET);
        let tables = Tables::find(m, PhysAddr(0xf59e0)).expect("valid");
        assert_eq!(tables.hpet().expect("present").base, PhysAddr(0xfed0_0000));
    }

    #[test]
    fn the_root_pointer_is_found_in_the_bios_area() {
        let mut area = vec![0u8; 0x2_0000];
        area[0x134d0..0x134d0 + 36].copy_from_slice(&root_pointer(2, 0, 0xeff8e));
        area[0x100..0x108].copy_from_slice(b"RSD PTR ");
        let mut m = FakeMemory::default();
        m.put(0xe_0000, area);
        assert_eq!(search_rsdp(&m), Some(PhysAddr(0xf34d0)));
    }

    #[test]
    fn damage_is_reported() {
        let find = |m, at| Tables::find(m, PhysAddr(at)).err();
        assert_eq!(find(microvm(), 0x10), Some(Error::OutOfRange));
        let mut m = FakeMemory::default();
        let mut p = root_pointer(2, 0, 0xeff8e);
        p[9] ^= 1;
        m.put(0x1000, p).put(0x2000, vec![0; 36]).put(0x3000, root_pointer(2, 0, 0x7777));
        let mut long = root_pointer(2, 0, 0xeff8e);
        long[20] = 99;
        m.put(0x4000, long);
        assert_eq!(find(m, 0x1000), Some(Error::BadChecksum));
        let mut m = FakeMemory::default();
        m.put(0x2000, vec![0; 36]).put(0x3000, root_pointer(2, 0, 0x7777));
        assert_eq!(Tables::find(m, PhysAddr(0x2000)).err(), Some(Error::BadSignature));
    }

    #[test]
    fn a_damaged_table_is_not_found() {
        let mut m = microvm();
        let mut apic = MICROVM_APIC.to_vec();
        apic[50] ^= 1;
        m.pieces[3] = (0xeff24, Vec::leak(apic));
        let tables = Tables::find(m, PhysAddr(0xf34d0)).expect("root is fine");
        assert!(tables.madt().is_none());
        assert!(tables.fadt().is_some());
    }
}
