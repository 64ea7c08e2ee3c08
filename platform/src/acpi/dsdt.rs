//! A byte scan of the DSDT for what oxv needs from it: virtio-mmio devices and the S5 sleep type.
//!
//! There is no AML interpreter. QEMU's microvm writes its virtio-mmio devices as constant `Device` objects with
//! `_HID "LNRO0005"` and a `_CRS` buffer of one Memory32Fixed and one Extended Interrupt descriptor; exactly that is
//! recognised. Encodings: ACPI 6.5 §20.2 (AML), §6.4 (resource descriptors).

use crate::bytes::{array, find, u8_at, u16_at, u32_at};
use crate::virtio_mmio::{Polarity, Trigger, VirtioMmio};
use addr::PhysAddr;

const DEVICE_OP: [u8; 2] = [0x5b, 0x82];
const VIRTIO_HID: &[u8] = b"\x08_HID\x0dLNRO0005\0";
const CRS_BUFFER: &[u8] = b"\x08_CRS\x11";
const S5_PACKAGE: &[u8] = b"\x08_S5_\x12";

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
    use super::super::tests::MICROVM_DSDT;
    use super::*;

    #[test]
    fn microvms_two_devices_are_found() {
        let all: Vec<_> = virtio_mmio_devices(MICROVM_DSDT).collect();
        let seen: Vec<_> = all.iter().map(|d| (d.base.0, d.len, d.gsi)).collect();
        assert_eq!(seen, [(0xfeb0_2e00, 512, 47), (0xfeb0_2c00, 512, 46)]);
        assert!(all.iter().all(|d| d.trigger == Trigger::Level && d.polarity == Polarity::High));
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
