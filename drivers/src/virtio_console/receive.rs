//! Receive half of a port: buffers the device fills, in the order they came back.
#![expect(unsafe_code, reason = "hands DMA memory to a device")]

use crate::dma::{self, DmaMemory};
use crate::virtio::{Error, Transport};
use addr::PAGE_SIZE;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use virtqueue::{Region, Segment, Virtqueue};

/// Buffers of a port, a page each (QEMU passes at most 4 KiB at a time).
pub(super) const BUFFERS: u16 = 8;

/// A buffer with data that nobody has read yet.
struct Filled {
    buffer: usize,
    start: usize,
    end: usize,
}

pub(super) struct Receive {
    queue_index: u16,
    queue: Virtqueue<usize>,
    /// Empty until the port is added.
    buffers: Vec<Region>,
    filled: VecDeque<Filled>,
}

impl Receive {
    pub(super) fn new(queue_index: u16, queue: Virtqueue<usize>) -> Self {
        Self { queue_index, queue, buffers: Vec::new(), filled: VecDeque::new() }
    }

    /// Allocates and offers the buffers; does nothing the second time.
    pub(super) fn add_buffers(&mut self, transport: &dyn Transport, memory: &dyn DmaMemory) -> Result<(), Error> {
        if !self.buffers.is_empty() {
            return Ok(());
        }
        for index in 0..usize::from(BUFFERS.min(self.queue.size())) {
            self.buffers.push(dma::region(memory, PAGE_SIZE)?);
            self.offer(index)?;
        }
        self.notify(transport);
        Ok(())
    }

    fn offer(&mut self, index: usize) -> Result<(), Error> {
        let buffer = self.buffers[index];
        let segment = Segment { address: buffer.phys(), len: buffer.len() as u32 };
        // SAFETY: DMA memory that lives for ever; read only after the device returned it.
        unsafe { self.queue.push(&[], &[segment], index) }.map_err(|_| Error::Broken)
    }

    fn notify(&mut self, transport: &dyn Transport) {
        if self.queue.needs_notify() {
            transport.notify(self.queue_index);
        }
    }

    /// Takes what the device returned; tells whether there was anything.
    pub(super) fn collect(&mut self) -> Result<bool, Error> {
        let mut fresh = false;
        loop {
            while let Some(done) = self.queue.pop()? {
                fresh = true;
                self.filled.push_back(Filled { buffer: done.token, start: 0, end: done.written as usize });
            }
            if !self.queue.enable_interrupts() {
                return Ok(fresh);
            }
        }
    }

    /// Whether a read would return data.
    pub(super) fn has_data(&self) -> bool {
        self.filled.iter().any(|f| f.start < f.end)
    }

    /// Bytes waiting to be read.
    pub(super) fn available(&self) -> usize {
        self.filled.iter().map(|f| f.end - f.start).sum()
    }

    /// Copies data out, as much as there is and fits; emptied buffers go back to the device.
    pub(super) fn read(&mut self, transport: &dyn Transport, out: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while let Some(front) = self.filled.front_mut() {
            let n = (front.end - front.start).min(out.len() - done);
            self.buffers[front.buffer].read(front.start, &mut out[done..done + n]);
            front.start += n;
            done += n;
            if front.start < front.end {
                break;
            }
            let index = front.buffer;
            self.filled.pop_front();
            self.offer(index)?;
        }
        self.notify(transport);
        Ok(done)
    }
}
