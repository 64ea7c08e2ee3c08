//! virtio-rng: random bytes from the host (virtio 1.2 §5.4).
//!
//! A pool of one page is kept filled by the device. Readers take from it and sleep while it is empty; whoever empties
//! it asks for more. Bytes are wiped as they are handed out.
#![expect(unsafe_code, reason = "hands DMA memory to a device")]

use crate::dma::{self, DmaMemory};
use crate::virtio::{self, DynTransport, Error, Transport, feature};
use addr::PAGE_SIZE;
use sync::{Interrupt, Mutex, WaitQueue};
use virtqueue::{Features, Region, Segment, Virtqueue};

const REQUESTS: u16 = 0;
const QUEUE_SIZE: u16 = 2;

struct Pool {
    queue: Virtqueue<()>,
    buffer: Region,
    /// The fresh bytes are `taken..filled`.
    taken: usize,
    filled: usize,
    broken: bool,
}

/// The driver of one virtio-rng device.
pub struct Rng {
    transport: DynTransport,
    pool: Mutex<Pool>,
    refilled: WaitQueue,
}

impl Rng {
    /// Starts the device and asks for the first bytes.
    ///
    /// # Errors
    /// [`Error`], when the device or the memory is not up to it.
    pub fn new(transport: DynTransport, memory: &dyn DmaMemory) -> Result<Self, Error> {
        let features = virtio::negotiate(&*transport, 0, feature::EVENT_IDX)?;
        let size = virtio::queue_size(&*transport, REQUESTS, QUEUE_SIZE)?;
        let rings = dma::region(memory, PAGE_SIZE)?;
        let options = Features { event_idx: features & feature::EVENT_IDX != 0, indirect: None };
        let queue = Virtqueue::new(size, rings, options)?;
        transport.set_queue(REQUESTS, size, queue.addresses())?;
        virtio::start(&*transport);
        let buffer = dma::region(memory, PAGE_SIZE)?;
        let mut pool = Pool { queue, buffer, taken: 0, filled: 0, broken: false };
        pool.request(&*transport);
        Ok(Self { transport, pool: Mutex::new(pool), refilled: WaitQueue::new() })
    }

    /// Messages that the device interrupts by; 0: a line.
    #[must_use]
    pub fn messages(&self) -> u16 {
        self.transport.messages()
    }

    /// Fills `bytes`, sleeping for the device as often as needed.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// [`Error::Broken`]; the bytes are then not all random.
    pub fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            done += self
                .refilled
                .wait_until(None, Interrupt::Ignored, || self.take(&mut bytes[done..]))
                .expect("no deadline and no interruption")?;
        }
        Ok(())
    }

    /// Takes what is there without sleeping; returns the number of bytes.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn try_fill(&self, bytes: &mut [u8]) -> Result<usize, Error> {
        self.take(bytes).unwrap_or(Ok(0))
    }

    fn take(&self, bytes: &mut [u8]) -> Option<Result<usize, Error>> {
        let mut pool = self.pool.lock();
        let taken = pool.take(bytes);
        pool.request(&*self.transport);
        if pool.broken {
            return Some(Err(Error::Broken));
        }
        (taken > 0).then_some(Ok(taken))
    }

    /// Acknowledges the device and collects what it delivered; called by the interrupt thread.
    ///
    /// Context: thread; may sleep.
    pub fn service(&self) {
        virtio::service(&*self.transport, || self.pool.lock().collect());
        self.refilled.wake_all();
    }
}

impl Pool {
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        self.collect();
        let n = bytes.len().min(self.filled - self.taken);
        let part = self.buffer.slice(self.taken, n).expect("taken and filled stay inside the buffer");
        part.read(0, &mut bytes[..n]);
        part.clear();
        self.taken += n;
        n
    }

    /// Takes a finished request.
    fn collect(&mut self) {
        match self.queue.pop() {
            Ok(Some(completion)) => (self.taken, self.filled) = (0, completion.written as usize),
            Ok(None) => {}
            Err(_) => self.broken = true,
        }
        // One request is in flight at most, so nothing can be finished that was not just taken.
        let _ = self.queue.enable_interrupts();
    }

    /// Asks for more when nothing is left and nothing is under way.
    fn request(&mut self, transport: &dyn Transport) {
        if self.taken < self.filled || self.queue.in_flight() > 0 || self.broken {
            return;
        }
        let segment = Segment { address: self.buffer.phys(), len: self.buffer.len() as u32 };
        // SAFETY: the buffer is DMA memory that lives for ever, and is not read before the request is finished.
        if unsafe { self.queue.push(&[], &[segment], ()) }.is_err() {
            self.broken = true;
        } else if self.queue.needs_notify() {
            transport.notify(REQUESTS);
        }
    }
}

#[cfg(test)]
mod tests;
