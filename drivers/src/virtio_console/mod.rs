//! virtio-console with named ports ("virtio-serial", virtio 1.2 §5.3): oxv's channels to its host.
//!
//! [`Console`] is the device, [`Port`] one of its byte streams. The files: `control` (which ports there are, what they
//! are called, whether the host has them open), `receive` and `transmit` (the two halves of a port), `ring` (transmit
//! memory), `port` (what everybody else uses).
//!
//! **Theory.** The interrupt thread runs [`Console::service`]; any thread may read and write ports. Each half of a port
//! has its mutex, held while rings are touched and bytes are copied, never while sleeping. Readers and writers collect
//! finished buffers themselves before they decide to sleep, so `service` is only needed to wake them. A port's transmit
//! queue asks for interrupts only while somebody waits for room (`collect_and_arm`): the check for room comes after the
//! request, so a completion in between is seen by the one or announced by the other.
//! The first violation of the device's ends everything: `broken` is set, all sleepers wake, all calls fail.


mod control;
mod port;
mod receive;
mod ring;
#[cfg(test)]
mod tests;
mod transmit;

pub use port::{Port, PortError, Wait};

use crate::dma::{self, DmaMemory};
use crate::virtio::{self, DynTransport, Error, Transport, feature};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use control::{Control, Message, PORT_ADD, PORT_NAME, PORT_OPEN, PORT_READY, PORT_REMOVE, Received};
use core::sync::atomic::{AtomicBool, Ordering};
use port::PortState;
use receive::Receive;
use sync::{Interrupt, Mutex, WaitQueue};
use transmit::Transmit;
use virtqueue::{Features, Layout, Region, Virtqueue};

const FEATURE_MULTIPORT: u64 = 1 << 1;
const CONFIG_MAX_PORTS: usize = 4;
const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;
/// Ports with a higher number are turned down.
const MAX_PORTS: usize = 8;
/// Bytes of ring memory: 16 receive queues of 8, 16 transmit queues of 32, and the control queues.
const RING_BYTES: usize = 24 << 10;

/// Memory for rings, handed out queue by queue.
struct Rings {
    memory: Region,
    used: usize,
    event_idx: bool,
}

impl Rings {
    /// Makes and registers a queue of `size` descriptors, fewer if the device cannot do so many.
    fn queue<T>(&mut self, transport: &dyn Transport, index: u16, size: u16) -> Result<Virtqueue<T>, Error> {
        let size = virtio::queue_size(transport, index, size)?;
        let layout = Layout::new(size).ok_or(Error::BadQueue)?;
        let memory = self.memory.slice(self.used, layout.bytes()).ok_or(Error::OutOfMemory)?;
        self.used += layout.bytes().next_multiple_of(16);
        let queue = Virtqueue::new(size, memory, Features { event_idx: self.event_idx, indirect: None })?;
        transport.set_queue(index, size, queue.addresses())?;
        Ok(queue)
    }

    fn port(&mut self, transport: &dyn Transport, port: usize) -> Result<PortState, Error> {
        let first = first_queue(port);
        let receive = Receive::new(first, self.queue(transport, first, receive::BUFFERS)?);
        let mut transmit_queue: Virtqueue<u64> = self.queue(transport, first + 1, transmit::CHAINS)?;
        transmit_queue.disable_interrupts();
        Ok(PortState::new(receive, Transmit::new(first + 1, transmit_queue)))
    }
}

/// The receive queue of a port; its transmit queue is the next (§5.3.2).
const fn first_queue(port: usize) -> u16 {
    if port == 0 { 0 } else { 2 * port as u16 + 2 }
}

/// The driver of one virtio-console device.
pub struct Console {
    transport: DynTransport,
    memory: Box<dyn DmaMemory + Send + Sync>,
    control: Mutex<Control>,
    ports: Vec<PortState>,
    /// Woken when a port got its name.
    named: WaitQueue,
    broken: AtomicBool,
}

impl Console {
    /// Starts the device. Ports appear while [`Self::service`] runs.
    ///
    /// # Errors
    /// [`Error`], when the device or the memory is not up to it; `MissingFeature` without multiple ports.
    pub fn new(transport: DynTransport, memory: Box<dyn DmaMemory + Send + Sync>) -> Result<Arc<Self>, Error> {
        let features = virtio::negotiate(&*transport, FEATURE_MULTIPORT, feature::EVENT_IDX)?;
        let max_ports = u32::from_le_bytes(virtio::read_config(&*transport, CONFIG_MAX_PORTS)?);
        let event_idx = features & feature::EVENT_IDX != 0;
        let mut rings = Rings { memory: dma::region(&*memory, RING_BYTES)?, used: 0, event_idx };
        let count = usize::try_from(max_ports).unwrap_or(MAX_PORTS).clamp(1, MAX_PORTS);
        let ports = (0..count).map(|port| rings.port(&*transport, port)).collect::<Result<Vec<_>, Error>>()?;
        let control = Control::new(&*transport, &mut rings, &*memory)?;
        virtio::start(&*transport);
        let console = Self {
            transport,
            memory,
            control: Mutex::new(control),
            ports,
            named: WaitQueue::new(),
            broken: AtomicBool::new(false),
        };
        console.control.lock().start(&*console.transport)?;
        Ok(Arc::new(console))
    }

    /// The port with this name, if the host has announced it already.
    #[must_use]
    pub fn port(self: &Arc<Self>, name: &str) -> Option<Port> {
        let has_name = |port: &PortState| port.name.get().is_some_and(|n| n == name);
        let index = self.ports.iter().position(has_name)?;
        Some(Port { console: self.clone(), index })
    }

    /// The port with this name, waiting for the host to announce it.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// [`PortError::TimedOut`] at the monotonic deadline, [`PortError::Device`].
    pub fn wait_port(self: &Arc<Self>, name: &str, deadline_ns: Option<u64>) -> Result<Port, PortError> {
        self.named.wait_until(deadline_ns, Interrupt::Ignored, || match self.port(name) {
            Some(port) => Some(Ok(port)),
            None => self.is_broken().then_some(Err(Error::Broken.into())),
        })?
    }

    /// Messages that the device interrupts by; 0: a line.
    #[must_use]
    pub fn messages(&self) -> u16 {
        self.transport.messages()
    }

    /// Acknowledges the device, handles control messages, collects buffers, wakes waiting threads; called by the
    /// interrupt thread with the interrupts that came, bit N for message N.
    ///
    /// Context: thread; may sleep.
    pub fn service(&self, interrupts: u64) {
        virtio::service(&*self.transport, || {
            // An error was recorded by `checked`; there is nobody here to tell.
            let _ = self.checked(|| self.service_queues(interrupts));
        });
    }

    /// Waits until the device has sent everything written to any port.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// [`PortError::TimedOut`] at the monotonic deadline, [`PortError::Device`].
    pub fn flush(self: &Arc<Self>, deadline_ns: Option<u64>) -> Result<(), PortError> {
        (0..self.ports.len()).try_for_each(|index| Port { console: self.clone(), index }.flush(deadline_ns))
    }

    /// Whether the device broke the rules and is not used any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn service_queues(&self, interrupts: u64) -> Result<(), Error> {
        let concerns = |first| [first, first + 1].iter().any(|&queue| virtio::concerns(&*self.transport, queue, interrupts));
        if concerns(CONTROL_RECEIVE) {
            self.service_control()?;
        }
        let mut ports = self.ports.iter().enumerate().filter(|&(port, _)| concerns(first_queue(port)));
        ports.try_for_each(|(_, port)| port.service())
    }

    fn service_control(&self) -> Result<(), Error> {
        let mut control = self.control.lock();
        control.send_backlog(&*self.transport)?;
        while let Some(received) = control.next(&*self.transport)? {
            self.handle(&mut control, &received)?;
        }
        Ok(())
    }

    fn handle(&self, control: &mut Control, received: &Received) -> Result<(), Error> {
        let Message { port: number, event, value } = received.message;
        let port = usize::try_from(number).ok().and_then(|n| self.ports.get(n));
        match (event, port) {
            (PORT_ADD, Some(port)) => self.add_port(control, number, port),
            // "Failed": the device will not use this port.
            (PORT_ADD, None) => control.send(&*self.transport, Message { port: number, event: PORT_READY, value: 0 }),
            (PORT_OPEN, Some(port)) => {
                port.set_host_open(value != 0);
                Ok(())
            }
            (PORT_REMOVE, Some(port)) => {
                port.set_host_open(false);
                Ok(())
            }
            (PORT_NAME, Some(port)) => {
                port.name.get_or_init(|| String::from(received.text()));
                self.named.wake_all();
                Ok(())
            }
            // Console size and console port announcements: `oxv` has its own control channel for these.
            _ => Ok(()),
        }
    }

    /// Gives a new port its receive buffers and tells the device that both driver and reader are there.
    fn add_port(&self, control: &mut Control, number: u32, port: &PortState) -> Result<(), Error> {
        let added = port.receive.lock().add_buffers(&*self.transport, &*self.memory);
        if added == Err(Error::OutOfMemory) {
            return control.send(&*self.transport, Message { port: number, event: PORT_READY, value: 0 });
        }
        added?;
        for event in [PORT_READY, PORT_OPEN] {
            control.send(&*self.transport, Message { port: number, event, value: 1 })?;
        }
        Ok(())
    }

    /// Runs an operation on the device unless it is broken; a violation breaks it and wakes everybody.
    fn checked<R>(&self, operation: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        if self.is_broken() {
            return Err(Error::Broken);
        }
        let result = operation();
        if matches!(result, Err(Error::Broken)) {
            self.broken.store(true, Ordering::Release);
            self.ports.iter().for_each(PortState::wake);
            self.named.wake_all();
        }
        result
    }
}
