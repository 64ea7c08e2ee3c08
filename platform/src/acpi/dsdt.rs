//! A byte scan of the DSDT for what oxv needs from it: virtio-mmio devices, the S5 sleep type, and the addresses and lines of a PCI host bridge.
//!
//! There is no AML interpreter. QEMU's microvm writes its virtio-mmio devices as constant `Device` objects with
//! `_HID "LNRO0005"` and a `_CRS` buffer of one Memory32Fixed and one Extended Interrupt descriptor; exactly that is
//! recognised. Encodings: ACPI 6.5 §20.2 (AML), §6.4 (resource descriptors).

use crate::bytes::{array, find, u8_at, u16_at, u32_at};
use crate::virtio_mmio::{Polarity, Trigger, VirtioMmio};
use super::EcamRegion;
use addr::PhysAddr;
use core::ops::Range;

const DEVICE_OP: [u8; 2] = [0x5b, 0x82];
const VIRTIO_HID: &[u8] = b"\x08_HID\x0dLNRO0005\0";
const CRS_BUFFER: &[u8] = b"\x08_CRS\x11";
const S5_PACKAGE: &[u8] = b"\x08_S5_\x12";
/// A method without arguments that returns a constant.
const CBA_METHOD: &[u8] = b"_CBA\0\xa4";
const PCI_HID: &[u8] = b"\x08_HID\x0dPNP0A08\0";
/// The interrupt link devices of QEMU's generic host bridge.
const PCI_LINKS: [&[u8; 4]; 4] = [b"GSI0", b"GSI1", b"GSI2", b"GSI3"];

/// The virtio-mmio slots described in the DSDT, in its order (QEMU: highest address first).
pub fn virtio_mmio_devices(dsdt: &[u8]) -> impl Iterator<Item = VirtioMmio> + '_ {
    (0..dsdt.len().saturating_sub(DEVICE_OP.len())).filter_map(move |at| {
        let rest = dsdt[at..].strip_prefix(&DEVICE_OP)?;
        let body = package(rest)?;
        // A bus device around the real one contains it too: only a device without inner devices counts.
        if find(body, &DEVICE_OP).is_some() || find(body, VIRTIO_HID).is_none() {
            return None;
        }
        resources(body)
    })
}

/// Addresses below 4 GiB that a PCI host bridge passes on to its devices, if it is written as QEMU's microvm writes it: a constant `Device` object with
/// `_HID "PNP0A08"`. Other machines' firmware gives the devices their addresses itself.
pub fn pci_windows(dsdt: &[u8]) -> impl Iterator<Item = Range<u64>> + '_ {
    // The bus around the bridge has the name inside it, too, so the last device that has it counts.
    let bridge = devices(dsdt).filter(|body| find(body, PCI_HID).is_some()).last().unwrap_or_default();
    resource_lists(bridge).flat_map(descriptors).filter_map(|(tag, data)| {
        const ADDRESS_SPACE_32: u8 = 0x87;
        const MEMORY: u8 = 0;
        if tag != ADDRESS_SPACE_32 || u8_at(data, 0)? != MEMORY {
            return None;
        }
        let (first, last) = (u64::from(u32_at(data, 7)?), u64::from(u32_at(data, 11)?));
        (first < last).then_some(first..last + 1)
    })
}

/// The lines that pin A of slot 0, 1, 2 and 3 is connected to, if the links of QEMU's generic host bridge are there; further pins and slots go on in turn.
pub fn pci_links(dsdt: &[u8]) -> impl Iterator<Item = u32> + '_ {
    PCI_LINKS.into_iter().filter_map(|name| {
        let link = devices(dsdt).find(|body| body.starts_with(name))?;
        resource_lists(link).flat_map(descriptors).find(|(tag, _)| *tag == 0x89).and_then(|(_, data)| u32_at(data, 2))
    })
}

/// The bodies of all `Device` objects: their names, then what they contain.
fn devices(dsdt: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..dsdt.len()).filter_map(|at| package(dsdt[at..].strip_prefix(&DEVICE_OP)?))
}

/// The resource descriptors of each constant `_CRS` in `body`, inner devices' included.
fn resource_lists(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..body.len()).filter_map(|at| {
        let buffer = package(body[at..].strip_prefix(CRS_BUFFER)?)?;
        constant(buffer).map(|(_, list)| list)
    })
}

/// The descriptors of a list: tag and data.
fn descriptors(list: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = list;
    core::iter::from_fn(move || {
        let (tag, data, after) = descriptor(rest)?;
        rest = after;
        Some((tag, data))
    })
}

/// The configuration space of PCI as a host bridge names it (`_CBA`) on machines without an MCFG table: QEMU's microvm with `pcie=on`.
#[must_use]
pub fn pci_configuration(dsdt: &[u8]) -> Option<EcamRegion> {
    let at = find(dsdt, CBA_METHOD)?;
    let (base, _) = constant(&dsdt[at + CBA_METHOD.len()..]).filter(|(base, _)| *base != 0)?;
    let bus_numbers = |(tag, data): (u8, &[u8])| {
        const ADDRESS_SPACE_16: u8 = 0x88;
        const BUSES: u8 = 2;
        let is_range = tag == ADDRESS_SPACE_16 && u8_at(data, 0) == Some(BUSES);
        is_range.then(|| u16_at(data, 5).zip(u16_at(data, 7))).flatten()
    };
    let (first, last) = resource_lists(&dsdt[at..]).flat_map(descriptors).find_map(bus_numbers)?;
    let (first_bus, last_bus) = (u8::try_from(first).ok()?, u8::try_from(last).ok()?);
    (first_bus <= last_bus).then(|| EcamRegion { base: PhysAddr(base.into()), segment: 0, first_bus, last_bus })
}

/// The value for the sleep type field that switches the machine off, from the `_S5_` package.
#[must_use]
pub fn sleep_type_s5(dsdt: &[u8]) -> Option<u8> {
    let at = find(dsdt, S5_PACKAGE)?;
    let body = package(&dsdt[at + S5_PACKAGE.len()..])?;
    // Number of elements, then the elements; the first is the type for PM1a or the sleep control register.
    constant(body.get(1..)?).and_then(|(value, _)| u8::try_from(value).ok()).filter(|v| *v < 8)
}

/// The contents of a package whose `PkgLength` stands at the start of `bytes`.
fn package(bytes: &[u8]) -> Option<&[u8]> {
    let lead = u8_at(bytes, 0)?;
    let extra = usize::from(lead >> 6);
    let mut len = usize::from(if extra == 0 { lead & 0x3f } else { lead & 0x0f });
    for i in 0..extra {
        len |= usize::from(u8_at(bytes, 1 + i)?) << (4 + 8 * i);
    }
    bytes.get(1 + extra..len)
}

/// An integer constant and what follows it.
fn constant(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match bytes.first()? {
        0x00 => Some((0, &bytes[1..])),
        0x01 => Some((1, &bytes[1..])),
        0x0a => Some((u8_at(bytes, 1)?.into(), &bytes[2..])),
        0x0b => Some((u16_at(bytes, 1)?.into(), &bytes[3..])),
        0x0c => Some((u32_at(bytes, 1)?, &bytes[5..])),
        _ => None,
    }
}

/// Decodes the `_CRS` buffer of a device body.
fn resources(body: &[u8]) -> Option<VirtioMmio> {
    let at = find(body, CRS_BUFFER)?;
    let buffer = package(&body[at + CRS_BUFFER.len()..])?;
    let (_, mut rest) = constant(buffer)?;
    let (mut window, mut line) = (None, None);
    while let Some((tag, data, after)) = descriptor(rest) {
        match tag {
            0x86 => window = Some((u32_at(data, 1)?, u32_at(data, 5)?)),
            0x89 => line = Some((u8_at(data, 0)?, u32_at(data, 2)?)),
            _ => {}
        }
        rest = after;
    }
    let ((base, len), (flags, gsi)) = (window?, line?);
    Some(VirtioMmio {
        base: PhysAddr(base.into()),
        len: len.into(),
        gsi,
        trigger: if flags & 2 != 0 { Trigger::Edge } else { Trigger::Level },
        polarity: if flags & 4 != 0 { Polarity::Low } else { Polarity::High },
    })
}

/// The resource descriptor at the start of `bytes`: tag, data, rest. `None` at the end tag or at the end.
fn descriptor(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let tag = u8_at(bytes, 0)?;
    let (start, len) = match tag {
        0x80.. => (3, usize::from(u16::from_le_bytes(array(bytes, 1)?))),
        0x79 => return None,
        small => (1, usize::from(small & 7)),
    };
    Some((tag, bytes.get(start..start + len)?, &bytes[start + len..]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MICROVM_DSDT, MICROVM_PCIE_DSDT};
    use super::*;

    #[test]
    fn microvms_two_devices_are_found() {
        let all: Vec<_> = virtio_mmio_devices(MICROVM_DSDT).collect();
        let seen: Vec<_> = all.iter().map(|d| (d.base.0, d.len, d.gsi)).collect();
        assert_eq!(seen, [(0xfeb0_2e00, 512, 47), (0xfeb0_2c00, 512, 46)]);
        assert!(all.iter().all(|d| d.trigger == Trigger::Level && d.polarity == Polarity::High));
    }

    #[test]
    fn the_host_bridges_window_and_links_are_found() {
        assert_eq!(pci_windows(MICROVM_PCIE_DSDT).collect::<Vec<_>>(), [0xc000_0000..0xe000_0000]);
        assert_eq!(pci_links(MICROVM_PCIE_DSDT).collect::<Vec<_>>(), [16, 17, 18, 19]);
        let configuration = EcamRegion { base: PhysAddr(0xe000_0000), segment: 0, first_bus: 0, last_bus: 255 };
        assert_eq!(pci_configuration(MICROVM_PCIE_DSDT), Some(configuration));
        assert_eq!(pci_configuration(MICROVM_DSDT), None);
        assert_eq!((pci_windows(MICROVM_DSDT).count(), pci_links(MICROVM_DSDT).count()), (0, 0));
    }

    #[test]
    fn the_power_off_type_is_read() {
        assert_eq!(sleep_type_s5(MICROVM_DSDT), Some(5));
        assert_eq!(sleep_type_s5(b"\x08_S5_\x12"), None);
    }

    #[test]
    fn any_cut_or_flipped_table_is_survived() {
        for len in 0..MICROVM_DSDT.len() {
            assert!(virtio_mmio_devices(&MICROVM_DSDT[..len]).count() <= 2);
            let _ = sleep_type_s5(&MICROVM_DSDT[..len]);
        }
        for len in (0..MICROVM_PCIE_DSDT.len()).step_by(13) {
            let _ = pci_configuration(&MICROVM_PCIE_DSDT[..len]);
            assert!(pci_windows(&MICROVM_PCIE_DSDT[..len]).count() <= 1 && pci_links(&MICROVM_PCIE_DSDT[..len]).count() <= 4);
        }
        let mut table = MICROVM_PCIE_DSDT.to_vec();
        for at in (0..table.len()).step_by(7) {
            table[at] ^= 0xff;
            let _ = pci_configuration(&table);
            assert!(pci_windows(&table).count() <= 4 && pci_links(&table).count() <= 4);
            table[at] ^= 0xff;
        }
        let mut table = MICROVM_DSDT.to_vec();
        for at in 0..table.len() {
            for flip in [0xff, 0x40, 0x0f] {
                table[at] ^= flip;
                assert!(virtio_mmio_devices(&table).count() <= 3);
                let _ = sleep_type_s5(&table);
                table[at] ^= flip;
            }
        }
    }
}
