//! virtio-balloon: memory lent to the host and taken back (virtio 1.2 §5.5), and free memory reported to it (§5.5.6.5).
//!
//! The host sets a target. While the balloon has fewer pages, the driver takes frames from the kernel and names them to the host,
//! which then has their memory for itself; while it has more, it asks for pages back. One request of each kind is under way at a
//! time, so everything happens in [`Balloon::service`], step by step, without sleeping for the device.
//!
//! Reporting is apart from that: free blocks are shown to the host, which drops their contents and backs them again when they are
//! touched. Between [`Balloon::report`] and the host's answer they belong to neither side.
//!
//! **Trust.** The host may take what it was given for ever, but it never gets what it was not given: page numbers that return come
//! from the driver's own records, never from shared memory.
#![expect(unsafe_code, reason = "hands memory to a device")]

mod statistics;

use crate::dma::{self, DmaMemory};
use crate::virtio::{self, DynTransport, Error, Transport, feature};
use addr::{PAGE_SIZE, PhysAddr};
use alloc::boxed::Box;
use alloc::vec::Vec;
use sync::{Interrupt, Mutex, WaitQueue};
use virtqueue::{Features, Region, Virtqueue};

pub use statistics::Statistics;
pub use virtqueue::Segment;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;
/// Feature bits (§5.5.3).
const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_FREE_PAGE_HINT: u64 = 1 << 3;
const F_PAGE_REPORTING: u64 = 1 << 5;
/// Configuration fields (§5.5.4).
const CONFIG_TARGET: usize = 0;
const CONFIG_ACTUAL: usize = 4;

/// Page numbers in one request: what fits in a page.
const PAGES_PER_REQUEST: usize = PAGE_SIZE / 4;
/// Blocks in one report.
pub const BLOCKS_PER_REPORT: usize = 32;

/// The kernel's memory, as the balloon sees it. Frames are named by their numbers, in units of 4 KiB.
pub trait GuestMemory: Send + Sync {
    /// Takes frames that nobody uses out of the allocator, as far as it can spare them; returns how many.
    fn take(&self, frames: &mut [u32]) -> usize;
    /// Puts frames that [`GuestMemory::take`] took back into the allocator.
    fn give_back(&self, frames: &[u32]);
    /// Takes large free blocks that the host has not been told of out of the allocator; returns how many.
    fn take_unreported(&self, blocks: &mut [Segment]) -> usize;
    /// Puts reported blocks back.
    fn give_back_reported(&self, blocks: &[Segment]);
    /// How the memory is used now.
    fn statistics(&self) -> Statistics;
}

/// A queue of page numbers with at most one request under way.
struct PageQueue {
    queue: Virtqueue<usize>,
    number: u16,
    buffer: Region,
    /// What the buffer says, in memory that the device cannot write.
    frames: Box<[u32]>,
}

impl PageQueue {
    fn new(transport: &dyn Transport, memory: &dyn DmaMemory, number: u16, options: u64) -> Result<Self, Error> {
        let buffer = dma::region(memory, PAGE_SIZE)?;
        let mut frames = Vec::new();
        frames.try_reserve_exact(PAGES_PER_REQUEST).map_err(|_| Error::OutOfMemory)?;
        frames.resize(PAGES_PER_REQUEST, 0);
        Ok(Self { queue: set_queue(transport, memory, number, 2, options)?, number, buffer, frames: frames.into_boxed_slice() })
    }

    fn is_idle(&self) -> bool {
        self.queue.in_flight() == 0
    }

    /// Sends the first `count` of `frames`.
    fn send(&mut self, transport: &dyn Transport, count: usize) -> Result<(), Error> {
        for (index, frame) in self.frames[..count].iter().enumerate() {
            self.buffer.write(index * 4, &frame.to_le_bytes());
        }
        let segment = Segment { address: self.buffer.phys(), len: (count * 4) as u32 };
        // SAFETY: the buffer is DMA memory that lives for ever; it is not written while the request is under way.
        unsafe { self.queue.push(&[segment], &[], count) }.map_err(|_| Error::Broken)?;
        notify(transport, &mut self.queue, self.number);
        Ok(())
    }

    /// The frames of the request that the device has finished, if it has.
    fn finished(&mut self) -> Result<Option<&[u32]>, Error> {
        let done = self.queue.pop()?;
        let _more = self.queue.enable_interrupts();
        Ok(done.map(|done| &self.frames[..done.token]))
    }
}

fn set_queue<T>(transport: &dyn Transport, memory: &dyn DmaMemory, number: u16, wanted: u16, features: u64) -> Result<Virtqueue<T>, Error> {
    let size = virtio::queue_size(transport, number, wanted)?;
    let rings = dma::region(memory, PAGE_SIZE)?;
    let options = Features { event_idx: features & feature::EVENT_IDX != 0, indirect: None };
    let queue = Virtqueue::new(size, rings, options)?;
    transport.set_queue(number, size, queue.addresses())?;
    Ok(queue)
}

fn notify<T>(transport: &dyn Transport, queue: &mut Virtqueue<T>, number: u16) {
    if queue.needs_notify() {
        transport.notify(number);
    }
}

/// A report under way: the blocks, in memory that the device cannot write.
struct Report {
    queue: Virtqueue<()>,
    number: u16,
    blocks: [Segment; BLOCKS_PER_REPORT],
    count: usize,
}

struct State {
    inflate: PageQueue,
    deflate: PageQueue,
    statistics: Option<(Virtqueue<()>, Region)>,
    report: Option<Report>,
    /// Frames that the host has.
    held: Vec<u32>,
    /// Frames asked back that still are the host's.
    returning: usize,
    /// After memory ran out here: the target that is not followed any more. The host's next one is.
    refused: Option<u32>,
    /// What the host was last told of.
    announced: u32,
    broken: bool,
}

/// The driver of one virtio-balloon device.
pub struct Balloon {
    transport: DynTransport,
    guest: Box<dyn GuestMemory>,
    state: Mutex<State>,
    serviced: WaitQueue,
}

impl Balloon {
    /// Starts the device.
    ///
    /// # Errors
    /// [`Error`], when the device or the memory is not up to it.
    pub fn new(transport: DynTransport, memory: &dyn DmaMemory, guest: Box<dyn GuestMemory>) -> Result<Self, Error> {
        let offered = transport.device_features();
        let wanted = F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING | feature::EVENT_IDX;
        let features = virtio::negotiate(&*transport, 0, wanted)?;
        let state = State::new(&*transport, memory, offered, features)?;
        virtio::start(&*transport);
        let balloon = Self { transport, guest, state: Mutex::new(state), serviced: WaitQueue::new() };
        balloon.state.lock().offer_statistics(&*balloon.transport, &balloon.guest.statistics());
        Ok(balloon)
    }

    /// Messages that the device interrupts by; 0: a line.
    #[must_use]
    pub fn messages(&self) -> u16 {
        self.transport.messages()
    }

    /// Whether the host wants to know of free blocks.
    #[must_use]
    pub fn can_report(&self) -> bool {
        self.state.lock().report.is_some()
    }

    /// Whether the device has broken the rules and is not used any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.state.lock().broken
    }

    /// Frames that the host has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Acknowledges the device, collects what it finished, and takes the next step to its target; called by the interrupt thread.
    ///
    /// Context: thread; may sleep, though not for the device.
    pub fn service(&self) {
        virtio::service(&*self.transport, || self.state.lock().advance(&*self.transport, &*self.guest));
        self.serviced.wake_all();
    }

    /// Takes up to `pages` frames back for a guest that has run out of memory (`VIRTIO_BALLOON_F_DEFLATE_ON_OOM`); the host is told
    /// and they can be used at once. Sleeps until `deadline_ns` at most for an earlier request to end. Returns how many.
    ///
    /// Context: may sleep for the driver's interrupt thread, so not with locks held that an allocation there could wait for.
    pub fn deflate_on_oom(&self, pages: usize, deadline_ns: u64) -> usize {
        // The lock is this thread's own if memory runs out while the driver makes room for its records.
        let attempt = || {
            let mut state = self.state.try_lock()?;
            let possible = state.broken || state.held.is_empty() || state.deflate.is_idle();
            possible.then(|| state.deflate_on_oom(&*self.transport, &*self.guest, pages))
        };
        self.serviced.wait_until(Some(deadline_ns), Interrupt::Ignored, attempt).unwrap_or(0)
    }

    /// Shows the host a batch of free blocks and waits until it has dropped their contents. Returns how many there were.
    ///
    /// Context: sleeps for the device.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn report(&self) -> Result<usize, Error> {
        let count = self.state.lock().begin_report(&*self.transport, &*self.guest)?;
        if count == 0 {
            return Ok(0);
        }
        let finished = || {
            let mut state = self.state.lock();
            state.collect_report(&*self.guest);
            (state.broken || !state.is_reporting()).then_some(state.broken)
        };
        match self.serviced.wait_until(None, Interrupt::Ignored, finished) {
            Ok(false) => Ok(count),
            _ => Err(Error::Broken),
        }
    }
}

impl State {
    fn new(transport: &dyn Transport, memory: &dyn DmaMemory, offered: u64, features: u64) -> Result<Self, Error> {
        let inflate = PageQueue::new(transport, memory, INFLATE, features)?;
        let deflate = PageQueue::new(transport, memory, DEFLATE, features)?;
        let statistics = match features & F_STATS_VQ {
            0 => None,
            _ => Some((set_queue(transport, memory, STATISTICS, 2, features)?, dma::region(memory, PAGE_SIZE)?)),
        };
        // §5.5.2: the queues before it exist as far as the device offers them.
        let number = STATISTICS + u16::from(offered & F_STATS_VQ != 0) + u16::from(offered & F_FREE_PAGE_HINT != 0);
        let report = match features & F_PAGE_REPORTING {
            0 => None,
            _ => {
                let queue = set_queue(transport, memory, number, BLOCKS_PER_REPORT as u16, features)?;
                Some(Report { queue, number, blocks: [Segment { address: PhysAddr(0), len: 0 }; BLOCKS_PER_REPORT], count: 0 })
            }
        };
        Ok(Self { inflate, deflate, statistics, report, held: Vec::new(), returning: 0, refused: None, announced: 0, broken: false })
    }

    /// Collects whatever is finished and begins what comes next.
    fn advance(&mut self, transport: &dyn Transport, guest: &dyn GuestMemory) {
        self.collect_report(guest);
        if self.broken {
            return;
        }
        if self.collect(transport, guest).and_then(|()| self.step(transport, guest)).is_err() {
            self.broken = true;
        }
    }

    fn collect(&mut self, transport: &dyn Transport, guest: &dyn GuestMemory) -> Result<(), Error> {
        if let Some(frames) = self.inflate.finished()? {
            // `step` made room.
            self.held.extend_from_slice(frames);
        }
        if let Some(frames) = self.deflate.finished()? {
            if self.returning > 0 {
                guest.give_back(frames);
            }
            self.returning = 0;
        }
        let asked = match &mut self.statistics {
            Some((queue, _)) => {
                let asked = queue.pop()?.is_some();
                let _more = queue.enable_interrupts();
                asked
            }
            None => false,
        };
        if asked {
            self.offer_statistics(transport, &guest.statistics());
        }
        Ok(())
    }

    /// Moves the balloon one request further to the host's target.
    fn step(&mut self, transport: &dyn Transport, guest: &dyn GuestMemory) -> Result<(), Error> {
        let target = u32::from_le_bytes(virtio::read_config(transport, CONFIG_TARGET)?);
        self.announce(transport);
        if !self.inflate.is_idle() || !self.deflate.is_idle() {
            return Ok(());
        }
        if self.refused.is_some_and(|refused| refused != target) {
            self.refused = None;
        }
        let (now, target) = (self.held.len(), target as usize);
        if now > target {
            self.returning = self.ask_back(transport, (now - target).min(PAGES_PER_REQUEST))?;
        } else if now < target && self.refused.is_none() {
            self.give(transport, guest, (target - now).min(PAGES_PER_REQUEST))?;
        }
        Ok(())
    }

    fn give(&mut self, transport: &dyn Transport, guest: &dyn GuestMemory, count: usize) -> Result<(), Error> {
        if self.held.try_reserve(count).is_err() {
            return Ok(());
        }
        match guest.take(&mut self.inflate.frames[..count]) {
            0 => Ok(()),
            taken => self.inflate.send(transport, taken),
        }
    }

    /// Names the `count` frames that were given last; they are not `held` any more.
    fn ask_back(&mut self, transport: &dyn Transport, count: usize) -> Result<usize, Error> {
        let from = self.held.len() - count;
        self.deflate.frames[..count].copy_from_slice(&self.held[from..]);
        self.held.truncate(from);
        self.deflate.send(transport, count)?;
        Ok(count)
    }

    fn deflate_on_oom(&mut self, transport: &dyn Transport, guest: &dyn GuestMemory, pages: usize) -> usize {
        let count = pages.min(self.held.len()).min(PAGES_PER_REQUEST);
        if count == 0 || self.broken || !self.deflate.is_idle() || self.ask_back(transport, count).is_err() {
            return 0;
        }
        // §5.5.6.1: without VIRTIO_BALLOON_F_MUST_TELL_HOST, which is not negotiated, they may be used before the host knows.
        guest.give_back(&self.deflate.frames[..count]);
        if let Ok(bytes) = virtio::read_config(transport, CONFIG_TARGET) {
            self.refused = Some(u32::from_le_bytes(bytes));
        }
        count
    }

    /// Tells the host the balloon's size, if it has changed.
    fn announce(&mut self, transport: &dyn Transport) {
        let size = (self.held.len() + self.returning) as u32;
        if size != self.announced {
            self.announced = size;
            transport.write_config_bytes(CONFIG_ACTUAL, &size.to_le_bytes());
        }
    }

    /// Puts the statistics where the host finds them when it next wants some.
    fn offer_statistics(&mut self, transport: &dyn Transport, statistics: &Statistics) {
        let Some((queue, buffer)) = &mut self.statistics else { return };
        if queue.in_flight() > 0 {
            return;
        }
        let bytes = statistics.encode();
        buffer.write(0, &bytes);
        let segment = Segment { address: buffer.phys(), len: bytes.len() as u32 };
        // SAFETY: as in `PageQueue::send`.
        if unsafe { queue.push(&[segment], &[], ()) }.is_ok() {
            notify(transport, queue, STATISTICS);
        }
    }

    fn is_reporting(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.count > 0)
    }

    fn begin_report(&mut self, transport: &dyn Transport, guest: &dyn GuestMemory) -> Result<usize, Error> {
        if self.broken {
            return Err(Error::Broken);
        }
        let Some(report) = self.report.as_mut().filter(|report| report.count == 0) else { return Ok(0) };
        let most = usize::from(report.queue.size()).min(BLOCKS_PER_REPORT);
        let count = guest.take_unreported(&mut report.blocks[..most]);
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: the blocks are free memory that the kernel leaves alone until they are given back, when the device is done.
        if unsafe { report.queue.push(&[], &report.blocks[..count], ()) }.is_err() {
            guest.give_back_reported(&report.blocks[..count]);
            return Err(Error::Broken);
        }
        report.count = count;
        notify(transport, &mut report.queue, report.number);
        Ok(count)
    }

    /// Gives the blocks of a report back once the host is done with them. A host that breaks the rules keeps them.
    fn collect_report(&mut self, guest: &dyn GuestMemory) {
        let Some(report) = &mut self.report else { return };
        match report.queue.pop() {
            Ok(Some(_)) => guest.give_back_reported(&report.blocks[..core::mem::take(&mut report.count)]),
            Ok(None) => {}
            Err(_) => self.broken = true,
        }
        let _more = report.queue.enable_interrupts();
    }
}

#[cfg(test)]
mod tests;
