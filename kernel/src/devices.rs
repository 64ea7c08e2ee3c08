//! Finding the machine's devices and starting their drivers, each with a thread for its interrupts.
#![expect(unsafe_code, reason = "hands device registers and memory to drivers")]

use crate::interrupt::{self, Interrupts};
use crate::machine::Machine;
use crate::mm::{self, ContiguousFrames};
use crate::{clock, pci};
use addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch_x86_64::ioapic::Line;
use core::ptr::NonNull;
use drivers::DmaMemory;
use drivers::virtio::mmio::MmioTransport;
use drivers::virtio::{DynTransport, device_id};
use drivers::virtio_balloon::Balloon;
use drivers::virtio_console::{Console, Port, PortError};
use drivers::virtio_rng::Rng;
use linux_abi::Errno;
use platform::virtio_mmio::{Polarity, VirtioMmio};
use sync::{Mutex, OnceCell};

/// How long a thread without memory waits for the host to take back an earlier request for pages.
const DEFLATE_LIMIT_NS: u64 = 1_000_000_000;
/// Smaller machines do without a balloon: its buffers and threads take 100 KiB.
const LEAST_FOR_BALLOON: u64 = 16 << 20;
/// The CPU of devices that one CPU can serve.
const SLOW_DEVICES: usize = 0;
/// How long the host may take to announce a port it has promised.
const PORT_LIMIT_NS: u64 = 5_000_000_000;

static CONSOLE: OnceCell<Arc<Console>> = OnceCell::new();
static RNG: OnceCell<Arc<Rng>> = OnceCell::new();
static BALLOON: OnceCell<Arc<Balloon>> = OnceCell::new();
/// Devices that the program does not need to start.
static LATE: Mutex<Vec<Found>> = Mutex::new(Vec::new());

/// Where a device was found.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// At these registers.
    Memory(PhysAddr),
    /// On a PCI bus.
    Pci(::pci::Address),
}

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Memory(base) => write!(f, "at {base}"),
            Self::Pci(at) => write!(f, "{at} on PCI"),
        }
    }
}

/// A device that can be driven.
pub(crate) struct Found {
    pub(crate) transport: DynTransport,
    pub(crate) interrupts: Interrupts,
    pub(crate) place: Place,
}

/// Memory for devices: frames that are never given back.
struct Dma;

// SAFETY: the frames are contiguous, in the direct map, page-aligned, and leaked.
unsafe impl DmaMemory for Dma {
    fn alloc(&self, pages: usize) -> Option<(PhysAddr, *mut u8)> {
        let frames = ContiguousFrames::alloc_zeroed(pages).ok()?;
        let start = frames.phys();
        core::mem::forget(frames);
        Some((start, start.to_virt().as_mut_ptr()))
    }
}

/// Starts a driver for every device found. One that does not work is reported and left out.
#[inline(never)] // its frame need not be there while the program starts on the same stack
pub(crate) fn init(machine: &Machine) {
    let mut mapped = Vec::new();
    for slot in &machine.virtio_mmio {
        match probe(slot, &mut mapped) {
            Ok(Some(transport)) => start(found(slot, transport)),
            Ok(None) => {}
            Err(error) => log::error!("device at {}: {error}", slot.base),
        }
    }
    pci::devices(machine).into_iter().for_each(start);
    crate::control::start();
}

fn probe(slot: &VirtioMmio, mapped: &mut Vec<(PhysAddr, VirtAddr)>) -> Result<Option<MmioTransport>, drivers::Error> {
    let page = slot.base.align_down(PAGE_SIZE as u64);
    let base = match mapped.iter().find(|(mapped, _)| *mapped == page) {
        Some((_, base)) => *base,
        None => {
            let base = mm::map_mmio(page, PAGE_SIZE);
            mapped.push((page, base));
            base
        }
    };
    let registers = NonNull::new((base + slot.base.page_offset() as u64).as_mut_ptr()).expect("kernel addresses are not null");
    // SAFETY: ACPI or the command line names the slot; its page is mapped for ever; one driver per slot.
    unsafe { MmioTransport::probe(registers) }.device()
}

fn found(slot: &VirtioMmio, transport: MmioTransport) -> Found {
    let line = Line { level: false, active_low: slot.polarity == Polarity::Low };
    Found { transport: Box::new(transport), interrupts: Interrupts::Line(slot.gsi, line), place: Place::Memory(slot.base) }
}

fn start(found: Found) {
    let place = found.place;
    let outcome = match found.transport.device_id() {
        device_id::CONSOLE if CONSOLE.get().is_none() => start_console(found),
        device_id::ENTROPY if RNG.get().is_none() => start_rng(found),
        device_id::BALLOON => {
            LATE.lock().push(found);
            Ok(())
        }
        device_id::CONSOLE | device_id::ENTROPY => {
            log::warn!("virtio device {place}: there is one of its kind already");
            Ok(())
        }
        other => {
            log::warn!("virtio device {other} {place}: no driver");
            Ok(())
        }
    };
    if let Err(error) = outcome {
        log::error!("virtio device {place}: {error}");
    }
}

fn start_console(found: Found) -> Result<(), StartError> {
    let console = Console::new(found.transport, Box::new(Dma))?;
    let serviced = console.clone();
    let service = move |sources| serviced.service(sources);
    interrupt::spawn_irq_thread(found.interrupts, console.messages(), SLOW_DEVICES, "virtio-console", service)?;
    let _first = CONSOLE.set(console);
    Ok(())
}

fn start_rng(found: Found) -> Result<(), StartError> {
    let rng = Arc::new(Rng::new(found.transport, &Dma)?);
    let serviced = rng.clone();
    interrupt::spawn_irq_thread(found.interrupts, rng.messages(), SLOW_DEVICES, "virtio-rng", move |_| serviced.service())?;
    let _first = RNG.set(rng);
    Ok(())
}

/// Starts the drivers of devices that can wait until the program runs.
pub(crate) fn init_late() {
    let late = core::mem::take(&mut *LATE.lock());
    if mm::memory_info().total_bytes() < LEAST_FOR_BALLOON {
        return;
    }
    for found in late {
        let place = found.place;
        if let Err(error) = start_balloon(found) {
            log::error!("virtio balloon {place}: {error}");
        }
    }
}

fn start_balloon(found: Found) -> Result<(), StartError> {
    let balloon = Arc::new(Balloon::new(found.transport, &Dma, Box::new(mm::Lender))?);
    let serviced = balloon.clone();
    interrupt::spawn_irq_thread(found.interrupts, balloon.messages(), SLOW_DEVICES, "virtio-balloon", move |_| serviced.service())?;
    if balloon.can_report() {
        let reporting = balloon.clone();
        crate::thread::spawn("page-reporting", crate::thread::Class::Normal, move || report_free_pages(&reporting))?;
    }
    if BALLOON.set(balloon).is_ok() {
        mm::shrink::register(&LentFrames);
    }
    Ok(())
}

/// The reporting thread's life.
fn report_free_pages(balloon: &Balloon) {
    loop {
        mm::wait_for_unreported();
        loop {
            match balloon.report() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return log::error!("virtio balloon: {error}"),
            }
        }
    }
}

/// What the host has, when memory runs out here.
struct LentFrames;

impl mm::shrink::Shrinker for LentFrames {
    fn name(&self) -> &'static str {
        "balloon"
    }

    fn count(&self) -> u64 {
        mm::memory_info().lent_frames
    }

    fn scan(&self, frames: u64) -> u64 {
        /// As many as one request names.
        const AT_ONCE: usize = 1024;
        let Some(balloon) = BALLOON.get() else { return 0 };
        let pages = usize::try_from(frames).unwrap_or(AT_ONCE).clamp(64, AT_ONCE);
        balloon.deflate_on_oom(pages, clock::monotonic_ns() + DEFLATE_LIMIT_NS) as u64
    }
}

/// Why a driver could not be started.
#[derive(Debug)]
enum StartError {
    Driver(drivers::Error),
    Kernel(Errno),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Driver(error) => error.fmt(f),
            Self::Kernel(error) => write!(f, "no interrupt thread: {error}"),
        }
    }
}

impl From<drivers::Error> for StartError {
    fn from(error: drivers::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<Errno> for StartError {
    fn from(error: Errno) -> Self {
        Self::Kernel(error)
    }
}

/// The host's port of that name (`stdin`, `stdout`, `stderr`, `control`), waiting for the host to announce it.
///
/// Context: may sleep.
///
/// # Errors
/// [`PortError`]; `TimedOut` also when there is no console device at all.
pub fn port(name: &str) -> Result<Port, PortError> {
    let console = CONSOLE.get().ok_or(PortError::TimedOut)?;
    console.wait_port(name, Some(clock::monotonic_ns() + PORT_LIMIT_NS))
}

/// Waits until everything written to ports has reached the host, at most `limit_ns`.
pub(crate) fn flush_ports(limit_ns: u64) {
    if let Some(console) = CONSOLE.get()
        && let Err(error) = console.flush(Some(clock::monotonic_ns() + limit_ns))
    {
        log::error!("output may be lost: {error}");
    }
}

/// The host's random number device, if there is one.
pub fn rng() -> Option<&'static Arc<Rng>> {
    RNG.get()
}
