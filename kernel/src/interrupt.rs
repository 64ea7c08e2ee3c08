//! Device interrupts: the sources of each device wake a thread, which does the device's work.
//!
//! The handler ([`raise`]) notes the interrupt and unparks its thread; nothing else happens in interrupt context. What is told between the two,
//! and why nothing is lost, is in `libs/irq`.
//!
//! A vector belongs to one CPU, so that the number of CPUs multiplies the number of interrupts. Each thread is bound to a CPU, which the driver
//! names, and its sources go there: the handler wakes a thread at home. A thread that finds itself on another CPU (its affinity was changed) takes its
//! sources along: [`Routing::follow`] finds vectors there, then tells the sources, then has all of them served once more. The vectors on the old CPU stay
//! known until the next move, since an interrupt may be on its way.
//!
//! Whatever can be told where to send its interrupts is a [`Source`]: a line of an I/O APIC, or an entry of a device's MSI-X table.
#![expect(unsafe_code, reason = "drives the I/O APICs")]

use crate::thread::{self, Class};
use crate::{clock, percpu, torture};
use addr::PhysAddr;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch_x86_64::apic;
use arch_x86_64::ioapic::{IoApic, Line};
use core::sync::atomic::{AtomicUsize, Ordering};
use drivers::msix::MsixTable;
use irq::{ALL_SOURCES, FIRST_VECTOR, Pending, Storm, Vectors, Verdict};
use linux_abi::Errno;
use pci::Message;
use percpu::MAX_CPUS;
use sync::{Mutex, OnceCell, ThreadHandle};

/// Whose vectors each CPU's are.
static VECTORS: [OnceCell<Box<Vectors<Input>>>; MAX_CPUS] = [const { OnceCell::new() }; MAX_CPUS];
static IO_APICS: Mutex<Vec<IoApic>> = Mutex::new(Vec::new());

const ANYWHERE: usize = usize::MAX;

/// Something that interrupts and can be told where to. Context of the methods: thread, may sleep.
pub trait Source: Send + Sync {
    /// Sends interrupts from now on as `vector` to `cpu`, unmasked.
    ///
    /// # Errors
    /// `ENODEV` if there is no such source, or it does not reach that CPU.
    fn route(&self, cpu: usize, vector: u8) -> Result<(), Errno>;

    /// Sends none until routed again.
    fn mask(&self);
}

/// How a device interrupts.
#[derive(Clone)]
pub(crate) enum Interrupts {
    /// By a line of an I/O APIC, edge-triggered.
    Line(u32, Line),
    /// By messages.
    Messages(Arc<MsixTable>),
}

impl Interrupts {
    /// The sources of a device with `messages` messages in use.
    fn sources(self, messages: u16) -> Vec<Box<dyn Source>> {
        match self {
            Self::Line(gsi, line) => alloc::vec![Box::new(IoApicLine { gsi, line })],
            Self::Messages(table) => {
                let entry = |index| Box::new(TableEntry { table: table.clone(), index }) as Box<dyn Source>;
                (0..messages).map(entry).collect()
            }
        }
    }
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

/// An entry of a device's MSI-X table. A message that is due while the entry is masked is sent later, to where the entry then says.
struct TableEntry {
    table: Arc<MsixTable>,
    index: u16,
}

impl Source for TableEntry {
    fn route(&self, cpu: usize, vector: u8) -> Result<(), Errno> {
        let message = Message::new(percpu::apic_id_of(cpu), vector).ok_or(Errno::ENODEV)?;
        self.table.route(self.index, message);
        Ok(())
    }

    fn mask(&self) {
        self.table.mask(self.index);
    }
}

/// What the sources of one thread share. Lives for ever.
struct Handler {
    name: String,
    pending: Pending,
    thread: OnceCell<ThreadHandle>,
    /// The CPU that a test wants the thread on; [`ANYWHERE`]: none does.
    wanted: AtomicUsize,
}

/// One source of a thread. Lives for ever.
struct Input {
    handler: &'static Handler,
    number: u32,
    source: Box<dyn Source>,
}

/// Where a thread's sources send their interrupts. The thread's own.
struct Routing {
    inputs: &'static [Input],
    cpu: usize,
    /// One for each input.
    vectors: Vec<u8>,
    /// Where they were before; freed at the next move.
    before: Option<(usize, Vec<u8>)>,
}

/// Takes over an I/O APIC: registers at `address`, first line `gsi_base`.
pub(crate) fn add_io_apic(address: PhysAddr, gsi_base: u32) {
    let base = crate::mm::map_mmio(address, addr::PAGE_SIZE);
    // SAFETY: ACPI names the device; each is added once and driven only under the lock.
    IO_APICS.lock().push(unsafe { IoApic::new(base, gsi_base) });
}

/// Starts a thread that runs `service` once now and after every interrupt of a device that uses `messages` messages, if it has any. `service` is
/// told which of them came, bit N for message N. The thread is bound to `cpu`, or to another CPU if that one's vectors have run out.
///
/// Interrupts that arrive while `service` runs make it run again, so none is lost.
///
/// # Errors
/// `ENODEV` if the interrupts cannot be delivered, `ENOSYS` for a level-triggered line, `ENOSPC` if the vectors of all CPUs have run out, `ENOMEM`.
pub(crate) fn spawn_irq_thread(
    interrupts: Interrupts,
    messages: u16,
    cpu: usize,
    name: &str,
    service: impl FnMut(u64) + Send + 'static,
) -> Result<(), Errno> {
    if matches!(interrupts, Interrupts::Line(_, line) if line.level) {
        log::error!("the interrupt line of {name} is level-triggered, which is not supported");
        return Err(Errno::ENOSYS);
    }
    spawn_thread(interrupts.sources(messages), cpu, name, service)
}

/// Starts the thread of any sources.
fn spawn_thread(sources: Vec<Box<dyn Source>>, cpu: usize, name: &str, service: impl FnMut(u64) + Send + 'static) -> Result<(), Errno> {
    let handler: &'static Handler = Box::leak(Box::new(Handler {
        name: name.into(),
        pending: Pending::new(),
        thread: OnceCell::new(),
        wanted: AtomicUsize::new(ANYWHERE),
    }));
    let inputs = sources.into_iter().zip(0..).map(|(source, number)| Input { handler, number, source });
    let inputs: &'static [Input] = Vec::leak(inputs.collect());
    let cpu = irq::choose(percpu::cpu_count(), cpu, inputs.len(), |cpu| vectors_of(cpu).free()).ok_or(Errno::ENOSPC)?;
    let vectors = allocate(inputs, cpu)?;
    log::info!("{name}: CPU {cpu}, vectors {vectors:x?}");
    let routing = Routing { inputs, cpu, vectors, before: None };
    routing.tell()?;
    let body = move || {
        // Moves it there at once. A CPU that has been started does not go away.
        let _moved = thread::current().set_affinity(1 << cpu);
        serve(handler, routing, service);
    };
    let thread = thread::spawn(name, Class::Driver, body).inspect_err(|_| inputs.iter().for_each(|input| input.source.mask()))?;
    let _first = handler.thread.set(thread::handle(&thread));
    // An interrupt that came before the thread was known did not wake it.
    handler.pending.raise_all();
    handler.wake();
    Ok(())
}

fn vectors_of(cpu: usize) -> &'static Vectors<Input> {
    VECTORS[cpu].get_or_init(|| Box::new(Vectors::new()))
}

/// Takes a vector of `cpu` for each input, or none.
fn allocate(inputs: &'static [Input], cpu: usize) -> Result<Vec<u8>, Errno> {
    let table = vectors_of(cpu);
    let vectors: Vec<u8> = inputs.iter().map_while(|input| table.allocate(input)).collect();
    if vectors.len() < inputs.len() {
        release(cpu, &vectors);
        return Err(Errno::ENOSPC);
    }
    Ok(vectors)
}

fn release(cpu: usize, vectors: &[u8]) {
    vectors.iter().for_each(|&vector| vectors_of(cpu).release(vector));
}

impl Handler {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Takes the running thread to where a test wants it.
    fn move_if_wanted(&self) {
        if self.wanted.load(Ordering::Relaxed) != ANYWHERE {
            // A CPU that does not run is refused, and the thread stays.
            let _moved = thread::current().set_affinity(1 << self.wanted.swap(ANYWHERE, Ordering::Relaxed));
        }
    }
}

/// Has the threads of all devices move to `cpu`, for a test of what that does to their interrupts. Does not wait for them.
///
/// # Errors
/// `EINVAL` if there is no such CPU.
pub(crate) fn move_threads(cpu: usize) -> Result<(), Errno> {
    if cpu >= percpu::cpu_count() {
        return Err(Errno::EINVAL);
    }
    let tables = VECTORS.iter().filter_map(OnceCell::get);
    for input in tables.flat_map(|table| (FIRST_VECTOR..=u8::MAX).filter_map(|vector| table.owner(vector))) {
        input.handler.wanted.store(cpu, Ordering::Relaxed);
        input.handler.wake();
    }
    Ok(())
}

/// The thread's life.
fn serve(handler: &'static Handler, mut routing: Routing, mut service: impl FnMut(u64)) {
    let mut storm = Storm::new();
    service(ALL_SOURCES);
    loop {
        handler.move_if_wanted();
        if !storm.is_masked() {
            routing.follow(handler);
        }
        let raised = handler.pending.take();
        let (deadline, sources) = match storm.look(clock::monotonic_ns(), raised.count) {
            Verdict::Listen if raised.count == 0 => (u64::MAX, 0),
            Verdict::Listen => (0, raised.sources),
            Verdict::Mask => {
                routing.inputs.iter().for_each(|input| input.source.mask());
                log::warn!("{}: too many interrupts; polling it for a while", handler.name);
                (0, ALL_SOURCES)
            }
            Verdict::Unmask => {
                let _routed_before = routing.tell();
                (0, ALL_SOURCES)
            }
            Verdict::PollUntil(at) => (at, ALL_SOURCES),
        };
        if deadline != u64::MAX {
            service(sources);
        }
        if deadline != 0 {
            thread::park(deadline);
        }
    }
}

impl Routing {
    /// Tells all sources where to send their interrupts.
    fn tell(&self) -> Result<(), Errno> {
        self.inputs.iter().zip(&self.vectors).try_for_each(|(input, &vector)| input.source.route(self.cpu, vector))
    }

    /// Lets the sources follow their thread to the CPU that it runs on.
    fn follow(&mut self, handler: &Handler) {
        let cpu = percpu::cpu_id();
        if cpu == self.cpu {
            return;
        }
        let Ok(vectors) = allocate(self.inputs, cpu) else { return };
        let new = Self { inputs: self.inputs, cpu, vectors, before: None };
        if new.tell().is_err() {
            // Some may have been told already.
            let _routed_before = self.tell();
            return release(cpu, &new.vectors);
        }
        let old = core::mem::replace(self, new);
        if let Some((cpu, vectors)) = old.before {
            release(cpu, &vectors);
        }
        self.before = Some((old.cpu, old.vectors));
        // What the sources had to say while they were being told may be lost.
        handler.pending.raise_all();
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
    let Some(input) = VECTORS[percpu::cpu_id()].get().and_then(|vectors| vectors.owner(vector)) else { return false };
    input.handler.pending.raise(input.number);
    input.handler.wake();
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
