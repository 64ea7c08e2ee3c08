//! [`EventFd`]: a counter that can be waited for, as `eventfd(2)` describes it. One atomic word; whoever changes it wakes those who
//! wait for that (the fences of [`WaitQueue`] make a change and a wait see each other).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use sync::WaitQueue;

use crate::file::File;
use crate::io::{Sink, Source};
use crate::pipe::block_interruptibly;
use crate::types::{Events, OpenFlags};
use crate::{Errno, Result};

/// Largest value the counter takes.
const MAX: u64 = u64::MAX - 1;

/// What a read takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// The whole counter.
    All,
    /// One (`EFD_SEMAPHORE`).
    One,
}

/// An event counter.
pub struct EventFd {
    counter: AtomicU64,
    take: Take,
    readable: WaitQueue,
    writable: WaitQueue,
}

impl EventFd {
    /// A counter that starts at `initial`.
    #[must_use]
    pub fn new(initial: u32, take: Take) -> Arc<Self> {
        Arc::new(Self {
            counter: AtomicU64::new(u64::from(initial)),
            take,
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        })
    }

    /// The counter.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    #[inline]
    fn try_take(&self) -> Option<u64> {
        let value = self.take_now()?;
        self.writable.wake_all_for(Events::WRITABLE.bits());
        Some(value)
    }

    /// Takes what a read takes, unless that is nothing. Who waits for room is not told.
    #[inline(always)]
    fn take_now(&self) -> Option<u64> {
        let taken_of = |counter: u64| if self.take == Take::All { counter } else { counter.min(1) };
        let counter = self.change(|counter| (counter != 0).then(|| counter - taken_of(counter)))?;
        Some(taken_of(counter))
    }

    /// Adds `value` if there is room. Who waits for something to read is not told.
    #[inline(always)]
    fn add_now(&self, value: u64) -> Option<u64> {
        self.change(|counter| counter.checked_add(value).filter(|sum| *sum <= MAX))
    }

    /// Replaces the counter by what `new` makes of it, unless that is nothing; returns the old one.
    #[inline(always)]
    fn change(&self, new: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut counter = self.counter.load(Ordering::Relaxed);
        loop {
            match self.counter.compare_exchange(counter, new(counter)?, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(old) => return Some(old),
                Err(now) => counter = now,
            }
        }
    }

    #[inline]
    fn try_add(&self, value: u64) -> Option<()> {
        self.add_now(value)?;
        self.readable.wake_all();
        Some(())
    }
}

impl EventFd {
    /// Adds one, for the kernel itself: without waiting, and in vain if the counter is full.
    pub fn signal(&self) {
        let _full = self.try_add(1);
    }

    /// `read`, as [`File::read`].
    ///
    /// # Errors
    /// As [`File::read`].
    #[inline]
    pub(crate) fn read_to<S: Sink>(&self, sink: &mut S, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = match self.try_take() {
            Some(value) => value,
            None => self.wait_to_take(flags)?,
        };
        sink.write(&value.to_le_bytes())
    }

    #[inline(never)]
    fn wait_to_take(&self, flags: OpenFlags) -> Result<u64> {
        if flags.nonblocking() {
            return Err(Errno::EAGAIN);
        }
        block_interruptibly(&self.readable, || self.try_take())
    }

    /// `write`, as [`File::write`].
    ///
    /// # Errors
    /// As [`File::write`].
    #[inline]
    pub(crate) fn write_from<S: Source>(&self, source: &mut S, flags: OpenFlags) -> Result<usize> {
        if source.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if source.read(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_le_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        if self.try_add(value).is_none() {
            self.wait_to_add(value, flags)?;
        }
        Ok(8)
    }

    #[inline(never)]
    fn wait_to_add(&self, value: u64, flags: OpenFlags) -> Result<()> {
        if flags.nonblocking() {
            return Err(Errno::EAGAIN);
        }
        block_interruptibly(&self.writable, || self.try_add(value))
    }
}

/// Brief reads and writes: those that need not wait. `None`: nothing was done.
impl EventFd {
    #[inline(always)]
    pub(crate) fn read_briefly<S: Sink>(&self, sink: &mut S) -> Option<Result<usize>> {
        if sink.remaining() < 8 {
            return None;
        }
        let value = self.take_now()?;
        self.writable.wake_all_for_briefly(Events::WRITABLE.bits());
        Some(sink.write(&value.to_le_bytes()))
    }

    #[inline(always)]
    pub(crate) fn write_briefly<S: Source>(&self, source: &mut S) -> Option<usize> {
        let mut bytes = [0; 8];
        if source.remaining() < 8 || source.read(&mut bytes) != Ok(8) {
            return None;
        }
        // The largest number of all does not fit, whatever is there.
        self.add_now(u64::from_le_bytes(bytes))?;
        self.readable.wake_all_briefly();
        Some(8)
    }

    #[inline(always)]
    pub(crate) fn poll_briefly(&self) -> Events {
        let counter = self.counter.load(Ordering::Acquire);
        let mut events = Events::empty();
        events.set(Events::READABLE, counter > 0);
        events.set(Events::WRITABLE, counter < MAX);
        events
    }
}

impl File for EventFd {
    fn read(&self, _position: &mut u64, mut sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        self.read_to(&mut sink, flags)
    }

    fn write(&self, _position: &mut u64, mut source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        self.write_from(&mut source, flags)
    }

    fn poll(&self) -> Events {
        self.poll_briefly()
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.readable);
        visit(&self.writable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SliceSink;

    const NONBLOCK: OpenFlags = OpenFlags::NONBLOCK;

    fn read(file: &EventFd) -> Result<u64> {
        let mut bytes = [0; 8];
        file.read(&mut 0, &mut SliceSink::new(&mut bytes), NONBLOCK)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(file: &EventFd, value: u64) -> Result<usize> {
        file.write(&mut 0, &mut value.to_le_bytes().as_slice(), NONBLOCK)
    }

    #[test]
    fn reads_take_everything_or_one() {
        let all = EventFd::new(3, Take::All);
        write(&all, 4).unwrap();
        assert_eq!(read(&all), Ok(7));
        assert_eq!(read(&all), Err(Errno::EAGAIN));
        let semaphore = EventFd::new(2, Take::One);
        assert_eq!((read(&semaphore), read(&semaphore)), (Ok(1), Ok(1)));
        assert_eq!(read(&semaphore), Err(Errno::EAGAIN));
    }

    #[test]
    fn the_counter_never_overflows() {
        let file = EventFd::new(0, Take::All);
        assert_eq!(write(&file, u64::MAX), Err(Errno::EINVAL));
        write(&file, MAX).unwrap();
        assert_eq!(file.poll(), Events::READABLE);
        assert_eq!(write(&file, 1), Err(Errno::EAGAIN));
        assert_eq!(read(&file), Ok(MAX));
    }

    #[test]
    fn small_buffers_are_refused() {
        let file = EventFd::new(1, Take::All);
        assert_eq!(file.read(&mut 0, &mut SliceSink::new(&mut [0; 7]), NONBLOCK), Err(Errno::EINVAL));
        assert_eq!(file.write(&mut 0, &mut [0; 7].as_slice(), NONBLOCK), Err(Errno::EINVAL));
        assert_eq!(read(&file), Ok(1), "nothing was lost");
    }

    #[test]
    fn a_blocked_reader_is_woken() {
        let file = EventFd::new(0, Take::All);
        let other = file.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 8];
            other.read(&mut 0, &mut SliceSink::new(&mut bytes), OpenFlags::empty()).map(|_| bytes[0])
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(&file, 9).unwrap();
        assert_eq!(reader.join().unwrap(), Ok(9));
    }
}
