//! The control queue: messages between driver and device about ports (virtio 1.2 §5.3.6.2).
#![expect(unsafe_code, reason = "hands DMA memory to a device")]

use super::{CONTROL_RECEIVE, CONTROL_TRANSMIT, Rings};
use crate::dma::{self, DmaMemory};
use crate::virtio::{Error, Transport};
use addr::PAGE_SIZE;
use alloc::collections::VecDeque;
use virtqueue::{Region, Segment, Virtqueue};

pub(super) const DEVICE_READY: u16 = 0;
pub(super) const PORT_ADD: u16 = 1;
pub(super) const PORT_REMOVE: u16 = 2;
pub(super) const PORT_READY: u16 = 3;
pub(super) const PORT_OPEN: u16 = 6;
pub(super) const PORT_NAME: u16 = 7;

const HEADER_LEN: usize = 8;
/// Longest message taken: a name of up to 248 bytes.
const RECEIVE_LEN: usize = 256;
const RECEIVE_BUFFERS: usize = 16;
const SEND_BUFFERS: usize = 16;
const MAX_BACKLOG: usize = 128;

/// A message: about which port, what, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) port: u32,
    pub(super) event: u16,
    pub(super) value: u16,
}

impl Message {
    fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.port.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.event.to_le_bytes());
        bytes[6..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let header: [u8; HEADER_LEN] = bytes.get(..HEADER_LEN)?.try_into().ok()?;
        let [a, b, c, d, e, f, g, h] = header;
        Some(Self {
            port: u32::from_le_bytes([a, b, c, d]),
            event: u16::from_le_bytes([e, f]),
            value: u16::from_le_bytes([g, h]),
        })
    }
}

/// A received message with the bytes after its header (a port's name).
pub(super) struct Received {
    pub(super) message: Message,
    bytes: [u8; RECEIVE_LEN],
    len: usize,
}

impl Received {
    /// The text after the header.
    pub(super) fn text(&self) -> &str {
        let bytes = self.bytes[..self.len].get(HEADER_LEN..).unwrap_or_default();
        let bytes = bytes.split(|b| *b == 0).next().unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// Both control queues. All under one lock, for the interrupt thread.
pub(super) struct Control {
    receive: Virtqueue<usize>,
    transmit: Virtqueue<usize>,
    /// Receive buffers, then send buffers.
    buffers: Region,
    free_send: u32,
    /// Messages for which there was no send buffer.
    backlog: VecDeque<Message>,
}

impl Control {
    pub(super) fn new(
        transport: &dyn Transport,
        rings: &mut Rings,
        memory: &dyn DmaMemory,
    ) -> Result<Self, Error> {
        let receive = rings.queue(transport, CONTROL_RECEIVE, RECEIVE_BUFFERS as u16)?;
        let transmit = rings.queue(transport, CONTROL_TRANSMIT, SEND_BUFFERS as u16)?;
        let buffers = dma::region(memory, RECEIVE_BUFFERS * RECEIVE_LEN + SEND_BUFFERS * HEADER_LEN)?;
        debug_assert!(buffers.len() >= PAGE_SIZE, "regions are whole pages");
        Ok(Self { receive, transmit, buffers, free_send: (1 << SEND_BUFFERS) - 1, backlog: VecDeque::new() })
    }

    /// Offers all receive buffers and says that the driver is there.
    pub(super) fn start(&mut self, transport: &dyn Transport) -> Result<(), Error> {
        for index in 0..RECEIVE_BUFFERS.min(self.receive.size().into()) {
            self.offer(index)?;
        }
        if self.receive.needs_notify() {
            transport.notify(CONTROL_RECEIVE);
        }
        self.send(transport, Message { port: u32::MAX, event: DEVICE_READY, value: 1 })
    }

    fn offer(&mut self, index: usize) -> Result<(), Error> {
        let part = self.receive_buffer(index);
        let segment = Segment { address: part.phys(), len: part.len() as u32 };
        // SAFETY: DMA memory that lives for ever; read only after the device returned it.
        unsafe { self.receive.push(&[], &[segment], index) }.map_err(|_| Error::Broken)
    }

    fn receive_buffer(&self, index: usize) -> Region {
        self.buffers.slice(index * RECEIVE_LEN, RECEIVE_LEN).expect("the buffers were made that long")
    }

    /// The next message, if there is one. Its buffer is offered again at once.
    pub(super) fn next(&mut self, transport: &dyn Transport) -> Result<Option<Received>, Error> {
        loop {
            let Some(done) = self.receive.pop()? else {
                if self.receive.enable_interrupts() {
                    continue;
                }
                return Ok(None);
            };
            let len = done.written as usize;
            let mut bytes = [0; RECEIVE_LEN];
            self.receive_buffer(done.token).read(0, &mut bytes[..len]);
            self.offer(done.token)?;
            if self.receive.needs_notify() {
                transport.notify(CONTROL_RECEIVE);
            }
            // Messages without a whole header are nothing we know: skip.
            if let Some(message) = Message::decode(&bytes[..len]) {
                return Ok(Some(Received { message, bytes, len }));
            }
        }
    }

    /// Sends a message, now or when a buffer becomes free.
    pub(super) fn send(&mut self, transport: &dyn Transport, message: Message) -> Result<(), Error> {
        // A working device asks for a few messages and takes them; one that only asks must not eat our memory.
        if self.backlog.len() >= MAX_BACKLOG {
            return Err(Error::Broken);
        }
        self.backlog.push_back(message);
        self.send_backlog(transport)
    }

    /// Takes finished send buffers back and sends what waits for one.
    pub(super) fn send_backlog(&mut self, transport: &dyn Transport) -> Result<(), Error> {
        while let Some(done) = self.transmit.pop()? {
            self.free_send |= 1 << done.token;
        }
        while self.free_send != 0 && self.transmit.free_descriptors() > 0 {
            let Some(message) = self.backlog.pop_front() else { break };
            let index = self.free_send.trailing_zeros() as usize;
            let offset = RECEIVE_BUFFERS * RECEIVE_LEN + index * HEADER_LEN;
            let part = self.buffers.slice(offset, HEADER_LEN).expect("the buffers were made that long");
            part.write(0, &message.encode());
            let segment = Segment { address: part.phys(), len: HEADER_LEN as u32 };
            // SAFETY: DMA memory that lives for ever; not written again before the device returned it.
            unsafe { self.transmit.push(&[segment], &[], index) }.map_err(|_| Error::Broken)?;
            self.free_send &= !(1 << index);
        }
        if self.transmit.needs_notify() {
            transport.notify(CONTROL_TRANSMIT);
        }
        // With EVENT_IDX each interrupt must be asked for. What is finished already is taken with the next message
        // unless one is waiting for it, so look again only then.
        if self.transmit.enable_interrupts() && !self.backlog.is_empty() {
            return self.send_backlog(transport);
        }
        Ok(())
    }
}
