//! The ring of events that kernel and program share (`struct aio_ring`), which the program may empty without a call.

use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use addr::PAGE_SIZE;
use frame::Frame;
use linux_abi::aio::{AIO_RING_MAGIC, AioRing, IoEvent};
use zerocopy::{FromBytes, IntoBytes};

use crate::{Errno, Result};

const HEADER: usize = size_of::<AioRing>();
const EVENT: usize = size_of::<IoEvent>();
const _: () = assert!(HEADER.is_multiple_of(EVENT) && PAGE_SIZE.is_multiple_of(EVENT), "no event lies across a border of pages");
/// Bytes of the largest ring.
const MAX_BYTES: u32 = 0x1000_0000;

/// How large a ring is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Pages it takes.
    pub pages: usize,
    pub(super) capacity: u32,
}

impl Size {
    /// The size for so many requests at a time on a machine with `cpus` CPUs. Twice as many as asked for, and some for each CPU, as on Linux.
    ///
    /// # Errors
    /// `EINVAL` for too many, `EAGAIN` for a number that makes none.
    pub fn for_requests(requests: u32, cpus: u32) -> Result<Self> {
        let events = requests.max(cpus * 4).wrapping_mul(2);
        if events > MAX_BYTES / EVENT as u32 {
            return Err(Errno::EINVAL);
        }
        if events == 0 {
            return Err(Errno::EAGAIN);
        }
        // One place stays empty, to tell full from empty; Linux counts one more.
        let pages = (HEADER + (events as usize + 2) * EVENT).div_ceil(PAGE_SIZE);
        Ok(Self { pages, capacity: ((pages * PAGE_SIZE - HEADER) / EVENT) as u32 })
    }
}

pub(super) struct Ring {
    pages: Vec<Frame>,
    capacity: u32,
}

impl Ring {
    /// An empty ring in `pages`, which are zero.
    pub(super) fn new(size: Size, pages: Vec<Frame>) -> Self {
        assert_eq!(pages.len(), size.pages, "a ring of that size");
        let header = AioRing {
            capacity: size.capacity,
            magic: AIO_RING_MAGIC,
            compatible_features: 1,
            header_len: HEADER as u32,
            ..AioRing::default()
        };
        pages[0].write(0, header.as_bytes());
        Self { pages, capacity: size.capacity }
    }

    pub(super) const fn bytes(&self) -> u64 {
        (self.pages.len() * PAGE_SIZE) as u64
    }

    /// How many events there is room for.
    pub(super) const fn room(&self) -> u32 {
        self.capacity - 1
    }

    /// The event that is taken next, as the program has it: any number, made to be a place.
    fn head(&self) -> u32 {
        // Pairs with the program's store behind its reading of the event: the place is free.
        self.pages[0].word(offset_of!(AioRing, head)).load(Ordering::Acquire) % self.capacity
    }

    /// Events up to `head` are taken.
    pub(super) fn set_head(&self, head: u32) {
        self.pages[0].word(offset_of!(AioRing, head)).store(head, Ordering::Release);
    }

    /// How many events wait to be taken.
    pub(super) fn waiting(&self, tail: u32) -> u32 {
        (tail + self.capacity - self.head()) % self.capacity
    }

    fn place(&self, at: u32) -> (&Frame, usize) {
        let offset = HEADER + at as usize * EVENT;
        (&self.pages[offset / PAGE_SIZE], offset % PAGE_SIZE)
    }

    /// Puts an event at `tail`; returns the new one.
    pub(super) fn put(&self, tail: u32, event: &IoEvent) -> u32 {
        let (page, offset) = self.place(tail);
        page.write(offset, event.as_bytes());
        let tail = (tail + 1) % self.capacity;
        // Pairs with the Acquire in `peek`, and with the program's load.
        self.pages[0].word(offset_of!(AioRing, tail)).store(tail, Ordering::Release);
        tail
    }

    /// Copies the next events to `batch`; returns how many, and the head behind them.
    pub(super) fn peek(&self, batch: &mut [IoEvent]) -> (usize, u32) {
        // The program may have written here, too.
        let tail = self.pages[0].word(offset_of!(AioRing, tail)).load(Ordering::Acquire) % self.capacity;
        let mut head = self.head();
        let mut found = 0;
        while found < batch.len() && head != tail {
            let (page, offset) = self.place(head);
            let mut bytes = [0; EVENT];
            page.read(offset, &mut bytes);
            batch[found] = IoEvent::read_from_bytes(&bytes).expect("the sizes agree");
            head = (head + 1) % self.capacity;
            found += 1;
        }
        (found, head)
    }
}
