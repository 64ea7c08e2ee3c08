//! Finding all functions of a segment, bus by bus through its bridges.

use crate::{Address, ConfigSpace, register};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

const MULTIFUNCTION: u32 = 1 << 23;
/// More functions than any machine for one program has.
const MAX_FUNCTIONS: usize = 1024;

/// What kind of header a function has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A device.
    Endpoint,
    /// A bridge to another bus.
    Bridge {
        /// That bus; 0: firmware has given it no number.
        secondary: u8,
    },
    /// Something else, such as a CardBus bridge.
    Other(u8),
}

/// One function, as its header describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub at: Address,
    /// Who made it.
    pub vendor: u16,
    /// Which product it is.
    pub device: u16,
    /// Which product it is built into, by the one who built it.
    pub subsystem: u16,
    /// Class, subclass and programming interface, a byte each.
    pub class: u32,
    /// Its header.
    pub kind: Kind,
    /// The line that firmware connected it to; 0xff or 0: none that is known.
    pub line: u8,
    /// The pin of its slot that it pulls: 1 to 4; 0: none.
    pub pin: u8,
}

/// Something odd that was passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// A bridge without a bus behind it.
    NoBus(Address),
    /// A bridge to a bus that this segment does not have, or not behind this bridge.
    BadBus(Address, u8),
    /// A bridge to a bus that another one leads to, too.
    BusTwice(Address, u8),
    /// More functions than are looked at.
    TooMany,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBus(at) => write!(f, "the bridge {at} has no bus number; what is behind it is left out"),
            Self::BadBus(at, bus) => write!(f, "the bridge {at} leads to bus {bus:#x}, which cannot be; what is behind it is left out"),
            Self::BusTwice(at, bus) => write!(f, "the bridge {at} leads to bus {bus:#x}, and another one does, too"),
            Self::TooMany => write!(f, "more than {MAX_FUNCTIONS} functions; the others are left out"),
        }
    }
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// All functions, in the order of their buses.
    pub functions: Vec<Function>,
    /// What was passed over.
    pub complaints: Vec<Complaint>,
}

/// A set of bus numbers.
#[derive(Default)]
struct Buses([u64; 4]);

impl Buses {
    /// Adds a bus; false if it was there.
    fn insert(&mut self, bus: u8) -> bool {
        let (word, bit) = (&mut self.0[usize::from(bus / 64)], 1 << (bus % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// Looks at every function that can be reached from the first of `buses`. Each bus is looked at once.
pub fn scan(space: &(impl ConfigSpace + ?Sized), buses: RangeInclusive<u8>) -> Scan {
    let mut found = Scan::default();
    let mut known = Buses::default();
    known.insert(*buses.start());
    let mut waiting = alloc::vec![*buses.start()];
    while let Some(bus) = waiting.pop() {
        let from = found.functions.len();
        scan_bus(space, bus, &mut found.functions);
        if found.functions.len() > MAX_FUNCTIONS {
            found.functions.truncate(MAX_FUNCTIONS);
            found.complaints.push(Complaint::TooMany);
            break;
        }
        for function in &found.functions[from..] {
            let Kind::Bridge { secondary } = function.kind else { continue };
            match secondary {
                0 => found.complaints.push(Complaint::NoBus(function.at)),
                // Numbers grow from the root outwards.
                bad if bad <= bus || !buses.contains(&bad) => found.complaints.push(Complaint::BadBus(function.at, bad)),
                new if known.insert(new) => waiting.push(new),
                twice => found.complaints.push(Complaint::BusTwice(function.at, twice)),
            }
        }
    }
    found
}

fn scan_bus(space: &(impl ConfigSpace + ?Sized), bus: u8, functions: &mut Vec<Function>) {
    for device in 0..32 {
        let Some((first, has_more)) = look(space, Address::new(bus, device, 0)) else { continue };
        functions.push(first);
        if has_more {
            functions.extend((1..8).filter_map(|function| look(space, Address::new(bus, device, function))).map(|(other, _)| other));
        }
    }
}

/// The function at that place, and whether the device has others.
fn look(space: &(impl ConfigSpace + ?Sized), at: Address) -> Option<(Function, bool)> {
    let ids = space.read(at, register::ID);
    let vendor = ids as u16;
    if matches!(vendor, 0 | u16::MAX) {
        return None;
    }
    let header = space.read(at, register::HEADER);
    let kind = match (header >> 16 & 0x7f) as u8 {
        0 => Kind::Endpoint,
        1 => Kind::Bridge { secondary: (space.read(at, register::BUSES) >> 8) as u8 },
        other => Kind::Other(other),
    };
    let interrupt = space.read(at, register::INTERRUPT);
    let function = Function {
        at,
        vendor,
        device: (ids >> 16) as u16,
        subsystem: (space.read(at, register::SUBSYSTEM) >> 16) as u16,
        class: space.read(at, register::CLASS) >> 8,
        kind,
        line: interrupt as u8,
        pin: (interrupt >> 8) as u8,
    };
    Some((function, header & MULTIFUNCTION != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeFunction, FakeSpace};

    fn bridge(secondary: u8) -> FakeFunction {
        let mut function = FakeFunction::new(0x8086, 0x10);
        function.set_u32(register::HEADER, 1 << 16);
        function.set_u32(register::BUSES, u32::from(secondary) << 8);
        function
    }

    fn places(scan: &Scan) -> Vec<String> {
        scan.functions.iter().map(|function| function.at.to_string()).collect()
    }

    #[test]
    fn functions_behind_bridges_are_found() {
        let space = FakeSpace::default();
        space.add(Address::new(0, 0, 0), FakeFunction::new(0x8086, 0x29c0));
        space.add(Address::new(0, 2, 0), bridge(1));
        space.add(Address::new(1, 0, 0), bridge(3));
        space.add(Address::new(3, 31, 0), FakeFunction::new(0x1af4, 0x1043));
        let scan = scan(&space, 0..=255);
        assert_eq!(places(&scan), ["00:00.0", "00:02.0", "01:00.0", "03:1f.0"]);
        assert_eq!(scan.complaints, []);
        assert_eq!((scan.functions[3].vendor, scan.functions[3].device), (0x1af4, 0x1043));
    }

    #[test]
    fn only_devices_that_say_so_have_more_than_one_function() {
        let space = FakeSpace::default();
        let mut many = FakeFunction::new(0x8086, 1);
        many.set_u32(register::HEADER, MULTIFUNCTION);
        space.add(Address::new(0, 1, 0), many);
        space.add(Address::new(0, 1, 5), FakeFunction::new(0x8086, 2));
        space.add(Address::new(0, 2, 0), FakeFunction::new(0x8086, 3));
        space.add(Address::new(0, 2, 1), FakeFunction::new(0x8086, 4));
        space.add(Address::new(0, 3, 1), FakeFunction::new(0x8086, 5));
        assert_eq!(places(&scan(&space, 0..=0)), ["00:01.0", "00:01.5", "00:02.0"]);
    }

    #[test]
    fn header_fields_are_read() {
        let mut function = FakeFunction::new(0x1af4, 0x1003);
        function.set_u32(register::CLASS, 0x0780_0001);
        function.set_u32(register::SUBSYSTEM, 0x0003_1af4);
        function.set_u32(register::INTERRUPT, 0x010b);
        let space = FakeSpace::default();
        space.add(Address::new(0, 1, 0), function);
        let found = scan(&space, 0..=0).functions[0];
        assert_eq!((found.class, found.subsystem, found.line, found.pin), (0x07_8000, 3, 11, 1));
        assert_eq!(found.kind, Kind::Endpoint);
    }

    #[test]
    fn bridges_that_lead_nowhere_or_back_are_passed_over() {
        let space = FakeSpace::default();
        space.add(Address::new(1, 0, 0), bridge(2));
        space.add(Address::new(1, 1, 0), bridge(2));
        space.add(Address::new(1, 2, 0), bridge(1));
        space.add(Address::new(1, 3, 0), bridge(9));
        space.add(Address::new(1, 4, 0), bridge(0));
        space.add(Address::new(2, 0, 0), bridge(1));
        let at = |device| Address::new(1, device, 0);
        let expected = [
            Complaint::BusTwice(at(1), 2),
            Complaint::BadBus(at(2), 1),
            Complaint::BadBus(at(3), 9),
            Complaint::NoBus(at(4)),
            Complaint::BadBus(Address::new(2, 0, 0), 1),
        ];
        assert_eq!(scan(&space, 1..=8).complaints, expected);
    }

    /// Whatever is read: one and the same everywhere. Bridges lead one bus further.
    struct Everywhere(u32);

    impl ConfigSpace for Everywhere {
        fn read(&self, at: Address, offset: u16) -> u32 {
            if offset == register::BUSES { (u32::from(at.bus()) + 1) << 8 } else { self.0 }
        }
        fn write(&self, _: Address, _: u16, _: u32) {}
    }

    #[test]
    fn a_space_that_always_answers_comes_to_an_end() {
        for value in [0x0101_0101, 0x0081_8101, 0x0000_1234, 0x7fff_fffe] {
            let scan = scan(&Everywhere(value), 0..=255);
            assert!(scan.functions.len() <= MAX_FUNCTIONS);
        }
        assert_eq!(scan(&Everywhere(u32::MAX), 0..=255), Scan::default());
        assert_eq!(scan(&Everywhere(0x0181_0101), 0..=255).complaints.last(), Some(&Complaint::TooMany));
    }
}
