//! What machine this is: everything boot needs to know from the loader and ACPI, collected before there is a heap.

use crate::boot::boot_memory;
use crate::mm::{MemoryKind, MemoryRegion};
use crate::percpu::MAX_CPUS;
use addr::PhysAddr;
use arch_x86_64::apic;
use arrayvec::ArrayVec;
use core::ops::Range;
use platform::acpi::fadt::{Fadt, PowerOff};
use platform::acpi::madt::CpuState;
use platform::acpi::{EcamRegion, Tables, dsdt, madt};
use platform::cmdline::CommandLine;
use platform::mptable::MpTable;
use platform::memory_map::{self, MAX_REGIONS};
use platform::pvh::StartInfo;
use platform::virtio_mmio::{self, VirtioMmio};

/// Most I/O APICs and virtio-mmio slots looked at.
const MAX_IO_APICS: usize = 8;
const MAX_VIRTIO: usize = 32;
/// Most segments and windows of PCI.
const MAX_PCI: usize = 4;
const LOW_MEMORY: u64 = 1 << 20;
/// Where the PIT is connected on every PC (its ISA interrupt 0 is not), unless ACPI says otherwise.
const PIT_GSI: u32 = 2;

/// How PCI's configuration space is reached.
#[derive(Debug)]
pub(crate) enum PciConfiguration {
    /// There is no PCI.
    None,
    /// Through ports 0xcf8 and 0xcfc, if something is there.
    Ports,
    /// In memory.
    Memory(ArrayVec<EcamRegion, MAX_PCI>),
}

/// The machine as the loader and ACPI describe it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) command_line: CommandLine<'static>,
    pub(crate) initrd: Option<Range<PhysAddr>>,
    /// APIC ids of the usable CPUs, the one that boots first.
    pub(crate) apic_ids: ArrayVec<u32, MAX_CPUS>,
    pub(crate) io_apics: ArrayVec<madt::IoApic, MAX_IO_APICS>,
    pub(crate) virtio_mmio: ArrayVec<VirtioMmio, MAX_VIRTIO>,
    pub(crate) fadt: Option<Fadt>,
    pub(crate) power_off: Option<PowerOff>,
    /// The line of the PIT.
    pub(crate) pit_gsi: u32,
    pub(crate) pci: PciConfiguration,
    /// Where devices that firmware left without addresses can have some.
    pub(crate) pci_windows: ArrayVec<Range<u64>, MAX_PCI>,
    /// The lines that the slots' pins are connected to in turn, if ACPI says it plainly.
    pub(crate) pci_links: ArrayVec<u32, 4>,
    memory: platform::MemoryMap,
}

impl Machine {
    /// Reads PVH's start info and the ACPI tables it leads to; both lie below `limit`.
    ///
    /// # Panics
    /// If the start info makes no sense: there is nothing to go on with.
    pub(crate) fn discover(start_info: PhysAddr, limit: u64) -> Self {
        let memory = boot_memory(limit);
        let info = StartInfo::parse(&memory, start_info)
            .unwrap_or_else(|error| panic!("the loader's start info at {start_info} is unusable: {error:?}"));
        let mut machine = Self {
            command_line: CommandLine::new(info.command_line),
            initrd: info.initrd,
            apic_ids: ArrayVec::new(),
            io_apics: ArrayVec::new(),
            virtio_mmio: ArrayVec::new(),
            fadt: None,
            power_off: None,
            pit_gsi: PIT_GSI,
            pci: PciConfiguration::Ports,
            pci_windows: ArrayVec::new(),
            pci_links: ArrayVec::new(),
            memory: info.memory,
        };
        machine.add_cpu(initial_apic_id());
        let rsdp = info.rsdp.or_else(|| platform::acpi::search_rsdp(&memory));
        if let Some(tables) = rsdp.and_then(|rsdp| Tables::find(memory, rsdp).ok()) {
            machine.read_acpi(&tables);
        } else if let Some(table) = MpTable::search(&memory) {
            table.cpus().filter(|cpu| cpu.state == CpuState::Enabled).for_each(|cpu| machine.add_cpu(cpu.apic_id));
            machine.io_apics.extend(table.io_apics().take(MAX_IO_APICS));
        }
        machine.virtio_mmio.extend(virtio_mmio::from_command_line(machine.command_line).take(machine.virtio_mmio.remaining_capacity()));
        machine
    }

    fn read_acpi(&mut self, tables: &Tables<'static, platform::OffsetMap>) {
        if let Some(madt) = tables.madt() {
            for cpu in madt.cpus().filter(|cpu| cpu.state == CpuState::Enabled) {
                self.add_cpu(cpu.apic_id);
            }
            self.io_apics.extend(madt.io_apics().take(MAX_IO_APICS));
            self.pit_gsi = madt.source_overrides().find(|source| source.irq == 0).map_or(PIT_GSI, |source| source.gsi);
        }
        self.fadt = tables.fadt();
        let dsdt = tables.dsdt();
        let has_ports = |fadt: &Fadt| fadt.pm1a_control.is_some();
        self.power_off = self.fadt.filter(has_ports).and_then(|fadt| fadt.power_off(dsdt::sleep_type_s5(dsdt?)?));
        if let Some(dsdt) = dsdt {
            self.virtio_mmio.extend(dsdt::virtio_mmio_devices(dsdt).take(MAX_VIRTIO));
        }
        let mut regions: ArrayVec<_, MAX_PCI> = tables.ecam_regions().take(MAX_PCI).collect();
        let dsdt = dsdt.unwrap_or_default();
        if regions.is_empty() {
            regions.extend(dsdt::pci_configuration(dsdt));
        }
        if !regions.is_empty() {
            self.pci = PciConfiguration::Memory(regions);
            self.pci_windows.extend(dsdt::pci_windows(dsdt).take(MAX_PCI));
            self.pci_links.extend(dsdt::pci_links(dsdt).take(4));
        } else if self.fadt.is_some_and(|fadt| fadt.hardware_reduced) {
            self.pci = PciConfiguration::None;
        }
    }

    fn add_cpu(&mut self, apic_id: u32) {
        if !self.apic_ids.contains(&apic_id) && !self.apic_ids.is_full() {
            self.apic_ids.push(apic_id);
        }
    }

    /// The memory map as `mm` wants it.
    pub(crate) fn memory_regions(&self) -> ArrayVec<MemoryRegion, MAX_REGIONS> {
        let convert = |region: &memory_map::MemoryRegion| MemoryRegion {
            start: region.start,
            end: region.end,
            kind: match region.kind {
                memory_map::MemoryKind::Usable => MemoryKind::Usable,
                memory_map::MemoryKind::AcpiReclaimable | memory_map::MemoryKind::AcpiNvs => MemoryKind::Acpi,
                _ => MemoryKind::Reserved,
            },
        };
        self.memory.regions().iter().map(convert).collect()
    }

    /// What is taken in usable memory: the first megabyte (the loader's data, the trampoline), the kernel, the image.
    pub(crate) fn reserved(&self) -> ArrayVec<Range<PhysAddr>, 3> {
        let mut reserved = ArrayVec::new();
        reserved.push(PhysAddr(0)..PhysAddr(LOW_MEMORY));
        reserved.push(crate::smp::kernel_image());
        reserved.extend(self.initrd.clone());
        reserved
    }
}

/// The booting CPU's APIC id, before its APIC is set up.
fn initial_apic_id() -> u32 {
    if apic::has_x2apic() {
        core::arch::x86_64::__cpuid_count(0xb, 0).edx
    } else {
        core::arch::x86_64::__cpuid(1).ebx >> 24
    }
}
