//! Device interrupts: each source wakes one thread, which does the device's work.
//!
//! The handler ([`raise`]) counts the interrupt and unparks its thread; nothing else happens in interrupt context. What is told between the two,
//! and why nothing is lost, is in `libs/irq`.
//!
//! A vector belongs to one CPU, so that the number of CPUs multiplies the number of interrupts. Each thread is bound to a CPU, which the driver
//! names, and its source goes there: the handler wakes a thread at home. A thread that finds itself on another CPU (its affinity was changed) takes its
//! source along: [`Interrupt::follow`] finds a vector there, then tells the source, then looks once more. The vector on the old CPU stays known
//! until the next move, since an interrupt may be on its way.
//!
//! Whatever can be told where to send its interrupts is a [`Source`]: a line of an I/O APIC here; a device's MSI-X table will be another.
#![expect(unsafe_code, reason = "drives the I/O APICs")]

use crate::thread::{self, Class};
use crate::{clock, percpu, torture};
use addr::PhysAddr;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use arch_x86_64::apic;
use arch_x86_64::ioapic::{IoApic, Line};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use irq::{Pending, Storm, Verdict};
use linux_abi::Errno;
use percpu::MAX_CPUS;
use sync::{Mutex, OnceCell, ThreadHandle};

/// Vectors for devices.
const FIRST_DEVICE: u8 = 0x30;
const LAST_DEVICE: u8 = 0xef;
const DEVICE_VECTORS: usize = (LAST_DEVICE - FIRST_DEVICE) as usize + 1;

/// Who a CPU's vectors belong to. Interrupts, once made, live for ever.
struct Vectors([AtomicPtr<Interrupt>; DEVICE_VECTORS]);

static VECTORS: [OnceCell<Box<Vectors>>; MAX_CPUS] = [const { OnceCell::new() }; MAX_CPUS];
static IO_APICS: Mutex<Vec<IoApic>> = Mutex::new(Vec::new());

/// Something that interrupts and can be told where to. Context of the methods: thread, may sleep.
pub trait Source: Send + Sync {
    /// Sends interrupts from now on as `vector` to `cpu`, unmasked.
    ///
    /// # Errors
    /// `ENODEV` if there is no such source.
    fn route(&self, cpu: usize, vector: u8) -> Result<(), Errno>;

    /// Sends none until routed again.
    fn mask(&self);
}

/// A line of an I/O APIC.
struct IoApicLine {
    gsi: u32,
    line: Line,
}

impl IoApicLine {
    fn with<R>(&self, f: impl FnOnce(&IoApic) -> R) -> Result<R, Errno> {
        IO_APICS.lock().iter().find(|io_apic| io_apic.owns(self.gsi)).map(f).ok_or(Errno::ENODEV)
    }
}

impl Source for IoApicLine {
    fn route(&self, cpu: usize, vector: u8) -> Result<(), Errno> {
        self.with(|io_apic| io_apic.route(self.gsi, vector, percpu::apic_id_of(cpu), self.line))
    }

    fn mask(&self) {
        // It was there when it was routed.
        let _there = self.with(|io_apic| io_apic.mask(self.gsi));
    }
}

/// A place that interrupts arrive at.
#[derive(Clone, Copy)]
struct Place {
    cpu: usize,
    vector: u8,
}

/// One source and its thread.
struct Interrupt {
    name: String,
    source: Box<dyn Source>,
    pending: Pending,
    thread: OnceCell<ThreadHandle>,
}

/// The thread's own knowledge.
struct Routing {
    now: Place,
    /// Where it was before; freed at the next move.
    before: Option<Place>,
}

/// Takes over an I/O APIC: registers at `address`, first line `gsi_base`.
pub(crate) fn add_io_apic(address: PhysAddr, gsi_base: u32) {
    let base = crate::mm::map_mmio(address, addr::PAGE_SIZE);
    // SAFETY: ACPI names the device; each is added once and driven only under the lock.
    IO_APICS.lock().push(unsafe { IoApic::new(base, gsi_base) });
}

/// Starts a thread on `cpu` that runs `service` once now and after every interrupt on `gsi`, which must be edge-triggered.
///
/// Interrupts that arrive while `service` runs make it run again, so none is lost.
///
/// # Errors
/// `ENODEV` if no I/O APIC has that line, `ENOSYS` for a level-triggered one, `ENOSPC` if a CPU's vectors have run out, `ENOMEM`.
pub fn spawn_irq_thread(gsi: u32, line: Line, cpu: usize, name: &str, service: impl FnMut() + Send + 'static) -> Result<(), Errno> {
    if line.level {
        log::error!("interrupt line {gsi} of {name} is level-triggered, which is not supported");
        return Err(Errno::ENOSYS);
    }
    let place = spawn_thread(Box::new(IoApicLine { gsi, line }), cpu, name, service)?;
    log::info!("interrupt line {gsi}: CPU {}, vector {:#x}, thread {name}", place.cpu, place.vector);
    Ok(())
}

/// Starts the thread of any source.
fn spawn_thread(source: Box<dyn Source>, cpu: usize, name: &str, service: impl FnMut() + Send + 'static) -> Result<Place, Errno> {
    let interrupt: &'static Interrupt =
        Box::leak(Box::new(Interrupt { name: name.into(), source, pending: Pending::new(), thread: OnceCell::new() }));
    let now = allocate(interrupt, cpu)?;
    interrupt.source.route(now.cpu, now.vector)?;
    let body = move || {
        // Moves it there at once. A CPU that has been started does not go away.
        let _moved = thread::current().set_affinity(1 << cpu);
        interrupt.serve(Routing { now, before: None }, service);
    };
    let thread = thread::spawn(name, Class::Driver, body).inspect_err(|_| interrupt.source.mask())?;
    let _first = interrupt.thread.set(thread::handle(&thread));
    // An interrupt that came before the thread was known did not wake it.
    interrupt.raise();
    Ok(now)
}

/// Takes a free vector of `cpu`.
fn allocate(interrupt: &'static Interrupt, cpu: usize) -> Result<Place, Errno> {
    let vectors = VECTORS[cpu].get_or_init(|| Box::new(Vectors([const { AtomicPtr::new(ptr::null_mut()) }; DEVICE_VECTORS])));
    let ours = ptr::from_ref(interrupt).cast_mut();
    let free = |slot: &AtomicPtr<Interrupt>| slot.compare_exchange(ptr::null_mut(), ours, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let index = vectors.0.iter().position(free).ok_or(Errno::ENOSPC)?;
    Ok(Place { cpu, vector: FIRST_DEVICE + index as u8 })
}

fn release(place: Place) {
    if let Some(slot) = slot(place.cpu, place.vector) {
        slot.store(ptr::null_mut(), Ordering::Release);
    }
}

fn slot(cpu: usize, vector: u8) -> Option<&'static AtomicPtr<Interrupt>> {
    VECTORS[cpu].get()?.0.get(usize::from(vector.checked_sub(FIRST_DEVICE)?))
}

impl Interrupt {
    /// Context: any.
    fn raise(&self) {
        self.pending.raise();
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// The thread's life.
    fn serve(&'static self, mut routing: Routing, mut service: impl FnMut()) {
        let mut storm = Storm::new();
        service();
        loop {
            if !storm.is_masked() {
                self.follow(&mut routing);
            }
            let raised = self.pending.take();
            let deadline = match storm.look(clock::monotonic_ns(), raised) {
                Verdict::Listen if raised == 0 => u64::MAX,
                Verdict::Listen => 0,
                Verdict::Mask => {
                    self.source.mask();
                    log::warn!("{}: too many interrupts; polling it for a while", self.name);
                    0
                }
                Verdict::Unmask => {
                    let _routed_before = self.source.route(routing.now.cpu, routing.now.vector);
                    0
                }
                Verdict::PollUntil(at) => at,
            };
            if deadline != u64::MAX {
                service();
            }
            if deadline != 0 {
                thread::park(deadline);
            }
        }
    }

    /// Lets the source follow its thread to the CPU that it runs on.
    fn follow(&'static self, routing: &mut Routing) {
        let cpu = percpu::cpu_id();
        if cpu == routing.now.cpu {
            return;
        }
        let Ok(new) = allocate(self, cpu) else { return };
        if self.source.route(new.cpu, new.vector).is_err() {
            return release(new);
        }
        if let Some(before) = routing.before.replace(routing.now) {
            release(before);
        }
        routing.now = new;
        // What the source had to say while it was being told is lost.
        self.pending.raise();
    }
}

/// Delivers line `gsi` as an NMI to CPU `cpu`.
///
/// # Errors
/// `ENODEV` if no I/O APIC has that line.
pub(crate) fn route_nmi(gsi: u32, cpu: usize) -> Result<(), Errno> {
    let io_apics = IO_APICS.lock();
    let io_apic = io_apics.iter().find(|io_apic| io_apic.owns(gsi)).ok_or(Errno::ENODEV)?;
    io_apic.route_nmi(gsi, percpu::apic_id_of(cpu));
    Ok(())
}

/// Notes an interrupt of this CPU and wakes its thread; false if the vector is no device's. Context: interrupt.
pub(crate) fn raise(vector: u8) -> bool {
    let Some(slot) = slot(percpu::cpu_id(), vector) else { return false };
    // SAFETY: null, or an interrupt, which lives for ever.
    let Some(interrupt) = (unsafe { slot.load(Ordering::Acquire).as_ref() }) else { return false };
    interrupt.raise();
    true
}

/// Interrupts CPU `target` with one of the kernel's own vectors. Context: any.
#[inline]
pub(crate) fn send_ipi(target: usize, vector: u8) {
    if torture::is_on() && torture::delays_ipi(target, vector) {
        return;
    }
    apic::send_ipi(percpu::apic_id_of(target), vector);
}
