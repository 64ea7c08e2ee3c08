//! Where virtio-mmio devices are: from the DSDT ([`crate::acpi::dsdt`]) or from Linux's command line syntax, which
//! QEMU's microvm (with `acpi=off`) and Firecracker append themselves: `virtio_mmio.device=512@0xfeb00e00:12`.

use crate::cmdline::{CommandLine, parse_number};
use addr::PhysAddr;

/// How an interrupt line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a change of level.
    Edge,
    /// By a level.
    Level,
}

/// Which level is the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// High voltage is active.
    High,
    /// Low voltage is active.
    Low,
}

/// A virtio-mmio slot. It may be empty: then its device id register reads zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Physical address of the registers.
    pub base: PhysAddr,
    /// Length of the register window in bytes.
    pub len: u64,
    /// Global system interrupt.
    pub gsi: u32,
    /// Trigger mode as described; `Edge` works too on every known hypervisor.
    pub trigger: Trigger,
    /// Active level.
    pub polarity: Polarity,
}

/// The devices named on the command line.
pub fn from_command_line<'a>(line: CommandLine<'a>) -> impl Iterator<Item = VirtioMmio> + 'a {
    line.iter().filter(|(key, _)| *key == "virtio_mmio.device").filter_map(|(_, value)| parse(value?))
}

/// `<size>@<base>:<irq>[:<id>]`.
fn parse(text: &str) -> Option<VirtioMmio> {
    let (len, rest) = text.split_once('@')?;
    let mut parts = rest.split(':');
    Some(VirtioMmio {
        len: parse_number(len).filter(|len| *len >= 0x100)?,
        base: PhysAddr(parse_number(parts.next()?)?),
        gsi: u32::try_from(parse_number(parts.next()?)?).ok()?,
        trigger: Trigger::Edge,
        polarity: Polarity::High,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_and_firecrackers_words_are_understood() {
        let line = CommandLine::new("console=x virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=4K@0xd0000000:5:0");
        let found: Vec<_> = from_command_line(line).map(|d| (d.len, d.base.0, d.gsi)).collect();
        assert_eq!(found, [(512, 0xfeb0_0e00, 12), (4096, 0xd000_0000, 5)]);
    }

    #[test]
    fn malformed_words_are_skipped() {
        for bad in ["", "512", "512@", "512@0x1000", "@0x1000:5", "512@x:5", "1@0x1000:5", "512@0x1000:99999999999"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
