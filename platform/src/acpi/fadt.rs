//! FADT (signature `FACP`): PM timer, reset and sleep registers, where the DSDT is. ACPI 6.5 §5.2.9.

use super::HEADER_LEN;
use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use addr::PhysAddr;

const FLAG_TIMER_32_BIT: u32 = 1 << 8;
const FLAG_RESET: u32 = 1 << 10;
const FLAG_HARDWARE_REDUCED: u32 = 1 << 20;

/// The address space of a [`Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpace {
    /// Physical memory.
    Memory,
    /// I/O ports.
    Port,
}

/// An 8-bit (reset, sleep) or 32-bit (timer) hardware register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Where `address` counts.
    pub space: AddressSpace,
    /// Address in that space.
    pub address: u64,
}

/// The PM timer: counts at 3.579545 MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    /// The I/O port to read 32 bits from.
    pub port: u16,
    /// 24 or 32: the counter wraps at 2 to this power.
    pub bits: u32,
}

/// A 16-bit write to a port that switches the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOff {
    /// Where.
    pub port: u16,
    /// What.
    pub value: u16,
}

/// What a kernel without an AML interpreter needs from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fadt {
    /// The DSDT.
    pub dsdt: Option<PhysAddr>,
    /// No PM timer, no PM1 registers: sleep registers instead (microvm).
    pub hardware_reduced: bool,
    /// The PM timer, when it has a port.
    pub pm_timer: Option<PmTimer>,
    /// Register and value that reset the machine.
    pub reset: Option<(Register, u8)>,
    /// Sleep control register: `sleep_type << 2 | 0x20` switches off (hardware-reduced machines).
    pub sleep_control: Option<Register>,
    /// PM1a control port: `sleep_type << 10 | 1 << 13` switches off (other machines).
    pub pm1a_control: Option<u16>,
    /// CMOS register of the century, when there is one.
    pub century: Option<u8>,
}

impl Fadt {
    /// What switches the machine off, which calls that state `sleep_type`; `None` for hardware-reduced machines.
    #[must_use]
    pub fn power_off(&self, sleep_type: u8) -> Option<PowerOff> {
        // §4.8.3.2: SLP_TYP, and SLP_EN.
        self.pm1a_control.map(|port| PowerOff { port, value: u16::from(sleep_type & 7) << 10 | 1 << 13 })
    }

    /// Decodes a table, header included. Fields beyond its end are absent.
    #[must_use]
    pub fn new(table: &[u8]) -> Option<Self> {
        // ACPI 1.0's table is 116 bytes long.
        if table.len() < HEADER_LEN + 80 {
            return None;
        }
        let flags = u32_at(table, 112)?;
        let hardware_reduced = flags & FLAG_HARDWARE_REDUCED != 0;
        Some(Self {
            dsdt: dsdt(table),
            hardware_reduced,
            pm_timer: pm_timer(table, flags).filter(|_| !hardware_reduced),
            reset: register(table, 116).zip(u8_at(table, 128)).filter(|_| flags & FLAG_RESET != 0),
            sleep_control: register(table, 244),
            pm1a_control: u32_at(table, 64).and_then(port).filter(|_| !hardware_reduced),
            century: u8_at(table, 108).filter(|c| *c != 0),
        })
    }
}

fn dsdt(table: &[u8]) -> Option<PhysAddr> {
    let wide = u64_at(table, 140).filter(|a| *a != 0);
    wide.or_else(|| u32_at(table, 40).map(u64::from)).filter(|a| *a != 0).map(PhysAddr)
}

fn port(address: u32) -> Option<u16> {
    u16::try_from(address).ok().filter(|p| *p != 0)
}

fn pm_timer(table: &[u8], flags: u32) -> Option<PmTimer> {
    let bits = if flags & FLAG_TIMER_32_BIT != 0 { 32 } else { 24 };
    let extended = register(table, 208).filter(|r| r.space == AddressSpace::Port);
    let extended = extended.and_then(|r| port(u32::try_from(r.address).ok()?));
    let port = extended.or_else(|| port(u32_at(table, 76)?).filter(|_| u8_at(table, 91) == Some(4)))?;
    Some(PmTimer { port, bits })
}

/// A generic address structure (§5.2.3.2); `None` when absent, zero, or in a space not supported here.
fn register(table: &[u8], offset: usize) -> Option<Register> {
    let space = match u8_at(table, offset)? {
        0 => AddressSpace::Memory,
        1 => AddressSpace::Port,
        _ => return None,
    };
    let address = u64_at(table, offset + 4).filter(|a| *a != 0)?;
    if space == AddressSpace::Port && address > u16::MAX.into() {
        return None;
    }
    Some(Register { space, address })
}

/// The boot architecture flags say that there is no CMOS clock.
#[must_use]
pub fn lacks_cmos_clock(table: &[u8]) -> bool {
    u16_at(table, 109).is_some_and(|flags| flags & 1 << 5 != 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MICROVM_FACP, Q35_FACP};
    use super::*;

    #[test]
    fn microvm_is_hardware_reduced_and_resets_by_memory() {
        let fadt = Fadt::new(MICROVM_FACP).expect("valid");
        assert!(fadt.hardware_reduced);
        assert_eq!(fadt.pm_timer, None);
        assert_eq!(fadt.dsdt, Some(PhysAddr(0xefc40)));
        let memory = |address| Register { space: AddressSpace::Memory, address };
        assert_eq!(fadt.reset, Some((memory(0xfea0_0202), 0x42)));
        assert_eq!(fadt.sleep_control, Some(memory(0xfea0_0200)));
        assert_eq!(fadt.power_off(5), None);
    }

    #[test]
    fn q35_has_a_pm_timer_and_a_reset_port() {
        let fadt = Fadt::new(Q35_FACP).expect("valid");
        assert_eq!(fadt.pm_timer, Some(PmTimer { port: 0x608, bits: 24 }));
        assert_eq!(fadt.reset, Some((Register { space: AddressSpace::Port, address: 0xcf9 }, 0x0f)));
        assert_eq!(fadt.pm1a_control, Some(0x604));
        assert_eq!(fadt.century, Some(0x32));
        assert_eq!(fadt.power_off(5), Some(PowerOff { port: 0x604, value: 0x3400 }));
        assert!(!lacks_cmos_clock(Q35_FACP));
    }

    #[test]
    fn every_shorter_table_is_decoded_or_refused_without_a_panic() {
        for len in 0..Q35_FACP.len() {
            assert_eq!(Fadt::new(&Q35_FACP[..len]).is_some(), len >= 116);
        }
        let old = Fadt::new(&Q35_FACP[..116]).expect("ACPI 1.0 length");
        assert_eq!(old.reset, None);
        assert_eq!(old.pm_timer.map(|t| t.port), Some(0x608));
    }
}
