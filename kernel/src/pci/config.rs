//! The two ways to configuration space: memory, which ACPI's MCFG table names, and the ports 0xcf8 and 0xcfc of older machines.
#![expect(unsafe_code, reason = "accesses device registers")]

use crate::mm;
use addr::{PhysAddr, VirtAddr};
use alloc::boxed::Box;
use arch_x86_64::port;
use pci::{Address, ConfigSpace};
use platform::acpi::EcamRegion;
use sync::{Mutex, OnceCell};

const BUS_BYTES: usize = 1 << 20;
const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

/// A segment's memory-mapped configuration space. Buses are mapped when they are first looked at.
pub(super) struct Ecam {
    region: EcamRegion,
    /// The mappings, from bus 0.
    buses: Box<[OnceCell<VirtAddr>]>,
}

impl Ecam {
    /// # Safety
    /// The region is configuration space, and nobody else uses it meanwhile.
    pub(super) unsafe fn new(region: EcamRegion) -> Self {
        Self { region, buses: (0..=u8::MAX).map(|_| OnceCell::new()).collect() }
    }

    fn register(&self, at: Address, offset: u16) -> Option<*mut u32> {
        if !(self.region.first_bus..=self.region.last_bus).contains(&at.bus()) {
            return None;
        }
        let start = PhysAddr(self.region.base.0.checked_add(u64::from(at.bus()) << 20)?);
        let bus = self.buses[usize::from(at.bus())].get_or_init(|| mm::map_mmio(start, BUS_BYTES));
        Some((*bus + at.offset_in_bus() as u64 + u64::from(offset & 0xffc)).as_mut_ptr())
    }
}

impl ConfigSpace for Ecam {
    fn read(&self, at: Address, offset: u16) -> u32 {
        // SAFETY: a register of the region, mapped for ever; reading configuration space does nothing else.
        self.register(at, offset).map_or(u32::MAX, |register| unsafe { register.read_volatile() })
    }

    fn write(&self, at: Address, offset: u16, value: u32) {
        if let Some(register) = self.register(at, offset) {
            // SAFETY: as above; what the value does is the caller's business.
            unsafe { register.write_volatile(value) };
        }
    }
}

/// Configuration space through ports: one says which register, the other is it.
pub(super) struct Ports(Mutex<()>);

impl Ports {
    /// # Safety
    /// The machine has either a PCI host bridge or nothing at these ports, and nobody else uses them meanwhile.
    pub(super) const unsafe fn new() -> Self {
        Self(Mutex::new(()))
    }

    fn with<R>(&self, at: Address, offset: u16, access: impl FnOnce() -> R) -> R {
        let _both = self.0.lock();
        // SAFETY: `new`'s caller vouched for the ports.
        unsafe { port::outl(ADDRESS_PORT, at.port_word(offset)) };
        access()
    }
}

impl ConfigSpace for Ports {
    fn read(&self, at: Address, offset: u16) -> u32 {
        // SAFETY: as in `with`.
        self.with(at, offset, || unsafe { port::inl(DATA_PORT) })
    }

    fn write(&self, at: Address, offset: u16, value: u32) {
        // SAFETY: as in `with`.
        self.with(at, offset, || unsafe { port::outl(DATA_PORT, value) });
    }
}
