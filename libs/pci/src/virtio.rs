//! Where a virtio device has its registers (virtio 1.2 §4.1).

use crate::{Address, Capability, ConfigSpace, Function, Kind, MemoryBar, NotInBar, id, locate};
use addr::PhysAddr;
use core::fmt;

/// The vendor of virtio devices.
const VENDOR: u16 = 0x1af4;
/// Ids of transitional devices, which say what they are as subsystem, and of the others, which add it to the first id.
const TRANSITIONAL: u16 = 0x1000;
const MODERN: u16 = 0x1040;
const END: u16 = 0x1080;

const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
/// Bytes of a capability, and of one for notifications.
const LEN: u8 = 16;
const NOTIFY_LEN: u8 = 20;
/// Bytes of the common registers up to the queue's addresses.
const COMMON_LEN: u64 = 56;

/// The virtio device id of a function, if it is one.
#[must_use]
pub fn device_id(function: &Function) -> Option<u32> {
    if function.vendor != VENDOR || function.kind != Kind::Endpoint {
        return None;
    }
    match function.device {
        device @ MODERN..END => Some((device - MODERN).into()),
        TRANSITIONAL..MODERN => Some(function.subsystem.into()),
        _ => None,
    }
}

/// Some registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Where.
    pub address: PhysAddr,
    /// Bytes.
    pub len: u32,
}

/// Where everything is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// Status, features, queues.
    pub common: Part,
    /// Where queues are notified.
    pub notify: Part,
    /// Bytes between two queues' places there.
    pub notify_multiplier: u32,
    /// The reasons of an interrupt by line.
    pub isr: Part,
    /// The configuration of this kind of device, if it has one.
    pub device: Option<Part>,
}

/// Why a device's registers cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegistersError {
    /// A part is missing: the device is of the legacy kind.
    Missing,
    /// A part is where there is no memory.
    NotInBar(NotInBar),
    /// A part is too short or not aligned.
    Unusable(u8),
}

impl fmt::Display for RegistersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it has no modern virtio registers (start QEMU without disable-modern=on)"),
            Self::NotInBar(error) => error.fmt(f),
            Self::Unusable(kind) => write!(f, "its virtio registers of type {kind} cannot be used"),
        }
    }
}

impl From<NotInBar> for RegistersError {
    fn from(error: NotInBar) -> Self {
        Self::NotInBar(error)
    }
}

/// One of virtio's capabilities.
struct Structure {
    part: Part,
    /// The word behind a capability for notifications.
    multiplier: u32,
}

impl Registers {
    /// Finds the registers through the capabilities of a function. Of several for one part the first counts (§4.1.4.1).
    ///
    /// # Errors
    /// [`RegistersError`].
    pub fn find(space: &(impl ConfigSpace + ?Sized), at: Address, list: &[Capability], bars: &[MemoryBar]) -> Result<Self, RegistersError> {
        let mut parts: [Option<Structure>; 4] = [const { None }; 4];
        for capability in list.iter().filter(|capability| capability.id == id::VENDOR) {
            let Some((kind @ COMMON..=DEVICE, bar)) = header(space, at, capability.offset) else { continue };
            let slot = &mut parts[usize::from(kind - COMMON)];
            if slot.is_none() {
                *slot = Some(structure(space, at, capability.offset, kind, bar, bars)?);
            }
        }
        let [common, notify, isr, device] = parts;
        let (Some(common), Some(notify), Some(isr)) = (common, notify, isr) else { return Err(RegistersError::Missing) };
        let device = device.map(|device| device.part);
        Ok(Self { common: common.part, notify: notify.part, notify_multiplier: notify.multiplier, isr: isr.part, device })
    }
}

/// Type and base address register of the capability at `offset`; `None` for one that must be ignored.
fn header(space: &(impl ConfigSpace + ?Sized), at: Address, offset: u8) -> Option<(u8, u8)> {
    let word = space.read(at, offset.into());
    let (len, kind) = ((word >> 16) as u8, (word >> 24) as u8);
    let least = if kind == NOTIFY { NOTIFY_LEN } else { LEN };
    if len < least || u16::from(offset) + u16::from(least) > 0x100 {
        return None;
    }
    let bar = space.read(at, u16::from(offset) + 4) as u8;
    // §4.1.4.1: other numbers are reserved, and to be ignored.
    (bar < 6).then_some((kind, bar))
}

fn structure(
    space: &(impl ConfigSpace + ?Sized),
    at: Address,
    offset: u8,
    kind: u8,
    bar: u8,
    bars: &[MemoryBar],
) -> Result<Structure, RegistersError> {
    let word = |index: u16| space.read(at, u16::from(offset) + 4 * index);
    let (start, len) = (word(2), word(3));
    let address = locate(bars, bar, start, len.into())?;
    let (least, alignment) = match kind {
        COMMON => (COMMON_LEN, 4),
        NOTIFY => (2, 2),
        ISR => (1, 1),
        _ => (0, 4),
    };
    if u64::from(len) < least || !address.is_aligned(alignment) {
        return Err(RegistersError::Unusable(kind));
    }
    let multiplier = if kind == NOTIFY { word(4) } else { 0 };
    Ok(Structure { part: Part { address, len }, multiplier })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeFunction, FakeSpace};
    use crate::{capabilities, memory_bars, scan};

    const AT: Address = Address::new(0, 2, 0);

    /// QEMU's layout: everything in register 4; (kind, bar, offset, len).
    const QEMU: [(u8, u8, u32, u32); 4] = [(1, 4, 0, 0x1000), (3, 4, 0x1000, 0x1000), (4, 4, 0x2000, 0x1000), (2, 4, 0x3000, 0x1000)];

    fn device(parts: &[(u8, u8, u32, u32)]) -> FakeSpace {
        let mut function = FakeFunction::new(VENDOR, 0x1043);
        function.set_bar(4, 0xfe00_000c, 0xffff_c000);
        function.set_bar(5, 0, u32::MAX);
        for &(kind, bar, offset, len) in parts {
            let length = if kind == NOTIFY { NOTIFY_LEN } else { LEN };
            let at = function.add_capability(id::VENDOR, length.into());
            function.set_u32(at, function.u32(at) | u32::from(length) << 16 | u32::from(kind) << 24);
            function.set_u32(at + 4, bar.into());
            function.set_u32(at + 8, offset);
            function.set_u32(at + 12, len);
            if kind == NOTIFY {
                function.set_u32(at + 16, 4);
            }
        }
        let space = FakeSpace::default();
        space.add(AT, function);
        space
    }

    fn find(parts: &[(u8, u8, u32, u32)]) -> Result<Registers, RegistersError> {
        let space = device(parts);
        let bars = memory_bars(&space, AT).expect("good");
        Registers::find(&space, AT, &capabilities(&space, AT).expect("good"), &bars)
    }

    #[test]
    fn qemus_layout_is_found() {
        let found = find(&QEMU).expect("usable");
        let part = |offset: u64| Part { address: PhysAddr(0xfe00_0000 + offset), len: 0x1000 };
        assert_eq!((found.common, found.isr, found.device, found.notify), (part(0), part(0x1000), Some(part(0x2000)), part(0x3000)));
        assert_eq!(found.notify_multiplier, 4);
    }

    #[test]
    fn the_first_of_two_counts_and_reserved_ones_are_ignored() {
        let mut parts = vec![(1, 6, 0, 0x1000), (9, 4, 0, 4)];
        parts.extend(QEMU);
        parts.push((1, 4, 0x2000, 0x1000));
        assert_eq!(find(&parts), find(&QEMU));
    }

    #[test]
    fn devices_that_cannot_be_used_say_why() {
        assert_eq!(find(&QEMU[1..]), Err(RegistersError::Missing));
        assert_eq!(find(&[]), Err(RegistersError::Missing));
        assert_eq!(find(&[(1, 4, 0x3fff, 0x1000)]), Err(NotInBar { bar: 4, offset: 0x3fff }.into()));
        assert_eq!(find(&[(1, 0, 0, 0x1000)]), Err(NotInBar { bar: 0, offset: 0 }.into()));
        assert_eq!(find(&[(1, 4, 0, 55)]), Err(RegistersError::Unusable(1)));
        assert_eq!(find(&[(1, 4, 2, 64)]), Err(RegistersError::Unusable(1)));
        assert_eq!(find(&[(3, 4, 0, 0)]), Err(RegistersError::Unusable(3)));
    }

    #[test]
    fn without_configuration_a_device_is_complete() {
        let parts: Vec<_> = QEMU.into_iter().filter(|part| part.0 != DEVICE).collect();
        assert_eq!(find(&parts).map(|found| found.device), Ok(None));
    }

    #[test]
    fn ids_of_both_kinds_are_understood() {
        let id = |vendor, device, subsystem: u32| {
            let mut function = FakeFunction::new(vendor, device);
            function.set_u32(0x2c, subsystem << 16);
            let space = FakeSpace::default();
            space.add(AT, function);
            device_id(&scan(&space, 0..=0).functions[0])
        };
        assert_eq!(id(0x1af4, 0x1043, 0x1100), Some(3));
        assert_eq!(id(0x1af4, 0x1002, 5), Some(5));
        assert_eq!(id(0x1af4, 0x1080, 5), None);
        assert_eq!(id(0x1b36, 0x1043, 3), None);
    }
}
