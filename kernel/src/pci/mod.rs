//! Virtio devices on PCI buses: found, given addresses where firmware gave none, and made ready for their drivers.
//!
//! What the registers mean is in `libs/pci`; the transport that the drivers use, in `drivers/src/virtio/pci.rs`. Other devices are left alone. Runs
//! once, in the first thread; afterwards nobody touches configuration space.
#![expect(unsafe_code, reason = "hands device registers to drivers")]

mod config;

use crate::devices::{Found, Place};
use crate::interrupt::Interrupts;
use crate::machine::{Machine, PciConfiguration};
use crate::mm;
use addr::PhysAddr;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch_x86_64::ioapic::Line;
use config::{Ecam, Ports};
use core::fmt;
use core::ops::RangeInclusive;
use core::ptr::NonNull;
use drivers::msix::MsixTable;
use drivers::virtio::pci::{Parts, PciTransport, Window as Registers};
use pci::virtio::{Part, RegistersError};
use pci::{Address, BarError, Capability, ChainError, ConfigSpace, Function, MemoryBar, Msix, NotInBar, Window, command, id};

/// Oddities of a machine's buses that are worth a line each.
const MOST_COMPLAINTS: usize = 8;
/// More registers of one kind than this are not mapped: no driver here has so many queues.
const MOST_MAPPED: u32 = 1 << 16;

/// Why a device cannot be used.
enum SetupError {
    Chain(ChainError),
    Bar(BarError),
    Registers(RegistersError),
    Table(NotInBar),
    /// No free addresses for a base address register of this size.
    NoRoom(u64),
    /// It has no messages, and nobody knows its line, or it is another device's, too.
    NoInterrupt,
    Driver(drivers::Error),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(error) => error.fmt(f),
            Self::Bar(error) => error.fmt(f),
            Self::Registers(error) => error.fmt(f),
            Self::Table(error) => write!(f, "its table of interrupts: {error}"),
            Self::NoRoom(size) => write!(f, "there is no place for {size:#x} bytes of its registers"),
            Self::NoInterrupt => f.write_str("it has no MSI-X, and its interrupt line is not known or shared"),
            Self::Driver(error) => error.fmt(f),
        }
    }
}

macro_rules! from {
    ($($variant:ident($error:ty)),*) => { $(impl From<$error> for SetupError {
        fn from(error: $error) -> Self {
            Self::$variant(error)
        }
    })* };
}
from!(Chain(ChainError), Bar(BarError), Registers(RegistersError), Driver(drivers::Error));

/// The virtio devices of all buses.
pub(crate) fn devices(machine: &Machine) -> Vec<Found> {
    let mut found = Vec::new();
    match &machine.pci {
        PciConfiguration::Memory(regions) => {
            for region in regions {
                // SAFETY: ACPI names the region.
                let space = unsafe { Ecam::new(*region) };
                found.extend(Search::new(&space, machine).run(region.first_bus..=region.last_bus));
            }
        }
        PciConfiguration::Ports => {
            // SAFETY: every PC has them or nothing there.
            let space = unsafe { Ports::new() };
            found.extend(Search::new(&space, machine).run(0..=u8::MAX));
        }
        PciConfiguration::None => {}
    }
    found
}

/// The search of one segment.
struct Search<'a> {
    space: &'a dyn ConfigSpace,
    machine: &'a Machine,
    windows: Vec<Window>,
    /// Interrupt lines that have a device.
    lines: Vec<u32>,
}

impl<'a> Search<'a> {
    fn new(space: &'a dyn ConfigSpace, machine: &'a Machine) -> Self {
        Self { space, machine, windows: machine.pci_windows.iter().cloned().map(Window::new).collect(), lines: Vec::new() }
    }

    fn run(&mut self, buses: RangeInclusive<u8>) -> Vec<Found> {
        let scan = pci::scan(self.space, buses);
        log::info!("PCI: {} functions", scan.functions.len());
        scan.complaints.iter().take(MOST_COMPLAINTS).for_each(|complaint| log::warn!("PCI: {complaint}"));
        if !self.windows.is_empty() {
            scan.functions.iter().for_each(|function| self.note_taken(function.at));
        }
        let mut found = Vec::new();
        for function in &scan.functions {
            let Some(device) = pci::virtio::device_id(function) else { continue };
            match self.set_up(function, device) {
                Ok(device) => found.push(device),
                Err(error) => log::error!("virtio device {} on PCI: {error}", function.at),
            }
        }
        found
    }

    /// Addresses that firmware has given out.
    fn note_taken(&mut self, at: Address) {
        for bar in pci::memory_bars(self.space, at).unwrap_or_default() {
            if bar.address.0 != 0 {
                self.windows.iter_mut().for_each(|window| window.take(bar.address.0..bar.address.0.saturating_add(bar.size)));
            }
        }
    }

    fn set_up(&mut self, function: &Function, device: u32) -> Result<Found, SetupError> {
        let (space, at) = (self.space, function.at);
        let list = pci::capabilities(space, at)?;
        let mut bars = pci::memory_bars(space, at)?;
        self.place(at, &mut bars)?;
        pci::change_command(space, at, command::MEMORY | command::BUS_MASTER, 0);
        let registers = pci::virtio::Registers::find(space, at, &list, &bars)?;
        let interrupts = match list.iter().find(|capability| capability.id == id::MSIX) {
            Some(capability) => Interrupts::Messages(Arc::new(messages(space, at, *capability, &bars)?)),
            None => self.line(function).ok_or(SetupError::NoInterrupt)?,
        };
        let parts = Parts {
            common: map(registers.common),
            notify: map(registers.notify),
            notify_multiplier: registers.notify_multiplier,
            isr: map(registers.isr),
            device: registers.device.map(map),
        };
        let entries = if let Interrupts::Messages(table) = &interrupts { table.entries() } else { 0 };
        // SAFETY: the registers of a function that only this driver uses, mapped for ever.
        let transport = unsafe { PciTransport::new(device, parts, entries) }?;
        Ok(Found { transport: Box::new(transport), interrupts, place: Place::Pci(at) })
    }

    /// Gives addresses to those base address registers that have none.
    fn place(&mut self, at: Address, bars: &mut [MemoryBar]) -> Result<(), SetupError> {
        for bar in bars.iter_mut().filter(|bar| bar.address.0 == 0) {
            let limit = if bar.is_64 { u64::MAX } else { u32::MAX.into() };
            let mut usable = self.windows.iter_mut();
            let address = usable.find_map(|window| window.allocate(bar.size).filter(|address| address + (bar.size - 1) <= limit));
            bar.address = PhysAddr(address.ok_or(SetupError::NoRoom(bar.size))?);
            pci::change_command(self.space, at, 0, command::MEMORY);
            pci::place(self.space, at, bar, bar.address);
        }
        Ok(())
    }

    /// The line of a device without messages. It is used as an edge-triggered one: the driver asks the device until that has
    /// nothing more to say, and then the line is low. So it cannot be shared.
    fn line(&mut self, function: &Function) -> Option<Interrupts> {
        let pin = u32::from(function.pin.checked_sub(1)?);
        let by_link = || self.machine.pci_links.get((u32::from(function.at.device()) + pin) as usize % 4).copied();
        let by_firmware = || (1..0xff).contains(&function.line).then(|| function.line.into());
        let gsi = if self.machine.pci_links.is_full() { by_link() } else { by_firmware() }?;
        if self.lines.contains(&gsi) {
            return None;
        }
        self.lines.push(gsi);
        Some(Interrupts::Line(gsi, Line { level: false, active_low: false }))
    }
}

/// Turns a device's messages on, each masked, and its line off.
fn messages(space: &dyn ConfigSpace, at: Address, capability: Capability, bars: &[MemoryBar]) -> Result<MsixTable, SetupError> {
    let msix = Msix::read(space, at, capability.offset);
    let table = msix.table(bars).map_err(SetupError::Table)?;
    pci::change_command(space, at, command::NO_LINE, 0);
    msix.enable_masked(space, at);
    let base = mm::map_mmio(table, usize::from(msix.entries) * pci::ENTRY_LEN);
    // SAFETY: the function's own table, mapped for ever.
    let table = unsafe { MsixTable::new(pointer(base), msix.entries) };
    msix.enable(space, at);
    Ok(table)
}

fn map(part: Part) -> Registers {
    let len = part.len.min(MOST_MAPPED) as usize;
    Registers { base: pointer(mm::map_mmio(part.address, len)), len }
}

fn pointer(at: addr::VirtAddr) -> NonNull<u8> {
    NonNull::new(at.as_mut_ptr()).expect("kernel addresses are not null")
}
