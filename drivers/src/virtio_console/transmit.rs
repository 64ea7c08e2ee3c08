//! Transmit half of a port: data is copied into a ring of DMA memory, a chain for each write.
#![expect(unsafe_code, reason = "hands DMA memory to a device")]

use super::ring::ByteRing;
use crate::dma::{self, DmaMemory};
use crate::virtio::{Error, Transport};
use addr::PAGE_SIZE;
use virtqueue::{Region, Segment, Virtqueue};

/// Chains in flight of a port.
pub(super) const CHAINS: u16 = 32;
/// Memory of a port in pages, best first: a smaller one when memory is scarce or fragmented. Two chains of the largest
/// size fit, so that one is filled while the device empties the other.
const PAGES: [usize; 3] = [32, 8, 1];
/// Largest piece given to the device at once.
const MAX_PIECE: usize = 64 << 10;
/// Writes up to this long are never split (Linux's PIPE_BUF).
const ATOMIC_LEN: usize = 4096;

pub(super) struct Transmit {
    queue_index: u16,
    queue: Virtqueue<u64>,
    /// Allocated by the first write.
    memory: Option<(Region, ByteRing)>,
}

impl Transmit {
    pub(super) fn new(queue_index: u16, queue: Virtqueue<u64>) -> Self {
        Self { queue_index, queue, memory: None }
    }

    /// Allocates the memory; does nothing the second time.
    pub(super) fn add_memory(&mut self, memory: &dyn DmaMemory) -> Result<(), Error> {
        if self.memory.is_none() {
            let region = PAGES.iter().find_map(|pages| dma::region(memory, pages * PAGE_SIZE).ok());
            self.memory = region.map(|r| (r, ByteRing::new(r.len())));
        }
        if self.memory.is_some() { Ok(()) } else { Err(Error::OutOfMemory) }
    }

    /// Takes back what the device has sent; tells whether there was anything.
    pub(super) fn collect(&mut self) -> Result<bool, Error> {
        let mut fresh = false;
        while let Some(done) = self.queue.pop()? {
            fresh = true;
            if let Some((_, ring)) = &mut self.memory {
                ring.finish(done.token);
            }
        }
        Ok(fresh)
    }

    /// Collects, and asks for an interrupt at the next chain sent.
    pub(super) fn collect_and_arm(&mut self) -> Result<bool, Error> {
        let mut fresh = false;
        loop {
            fresh |= self.collect()?;
            if !self.queue.enable_interrupts() {
                return Ok(fresh);
            }
        }
    }

    /// No interrupts while nobody waits for room.
    pub(super) fn disarm(&mut self) {
        self.queue.disable_interrupts();
    }

    /// Whether everything was sent.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.in_flight() == 0
    }

    /// Whether a write of up to [`ATOMIC_LEN`] bytes would be taken whole (Linux's rule for pipes).
    pub(super) fn has_room(&self) -> bool {
        let roomy = |(region, ring): &(Region, ByteRing)| ring.used() + 2 * ATOMIC_LEN <= region.len();
        self.queue.free_descriptors() > 0 && self.memory.as_ref().is_none_or(|m| m.1.used() == 0 || roomy(m))
    }

    /// Gives the device as much of `data` as there is room for; returns the number of bytes, 0 without room.
    pub(super) fn write(&mut self, transport: &dyn Transport, data: &[u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < data.len() && self.queue.free_descriptors() > 0 {
            match self.push_piece(&data[done..])? {
                0 => break,
                n => done += n,
            }
        }
        if self.queue.needs_notify() {
            transport.notify(self.queue_index);
        }
        Ok(done)
    }

    fn push_piece(&mut self, data: &[u8]) -> Result<usize, Error> {
        let (region, ring) = self.memory.as_mut().ok_or(Error::OutOfMemory)?;
        let least = if data.len() <= ATOMIC_LEN { data.len().min(region.len()) } else { 1 };
        let Some(piece) = ring.take(least, data.len().min(MAX_PIECE)) else { return Ok(0) };
        region.write(piece.offset, &data[..piece.len]);
        let segment = Segment { address: region.phys() + piece.offset as u64, len: piece.len as u32 };
        // SAFETY: DMA memory that lives for ever; the ring does not hand the piece out again before it is finished.
        if unsafe { self.queue.push(&[segment], &[], piece.number) }.is_err() {
            ring.cancel_last(piece);
            return Err(Error::Broken);
        }
        Ok(piece.len)
    }
}
