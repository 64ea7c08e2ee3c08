//! [`ChannelFile`]: a stream of bytes to and from the host, that looks like a pipe, a regular file or whatever its inode says.
//!
//! The driver stands behind the trait [`Channel`]; bytes go through a small buffer because a driver cannot touch the program's
//! memory.

use alloc::sync::Arc;
use alloc::vec::Vec;

use sync::WaitQueue;

use crate::file::File;
use crate::io::{IoctlArg, Sink, Source};
use crate::pipe::FIONREAD;
use crate::types::{Events, OpenFlags};
use crate::{Errno, Result};

/// Most bytes moved at once.
const CHUNK: usize = 32 << 10;

/// Whether an operation of a [`Channel`] may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocking {
    /// Until it can be done or a signal comes (`ERESTARTSYS`).
    Yes,
    /// Until it can be done, deaf to signals.
    Uninterruptible,
    /// Not at all (`EAGAIN`).
    No,
}

/// A stream of bytes in both directions, or one.
pub trait Channel: Send + Sync {
    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// `EAGAIN`, `ERESTARTSYS`, `EIO`.
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize>;

    /// Writes all of `data` if it may wait, else what fits.
    ///
    /// # Errors
    /// When nothing was written: `EAGAIN`, `ERESTARTSYS`, `EPIPE`, `EIO`.
    fn write(&self, data: &[u8], blocking: Blocking) -> Result<usize>;

    /// Whether a read would not wait.
    fn is_readable(&self) -> bool;

    /// Whether a write would not wait.
    fn is_writable(&self) -> bool;

    /// Whether the other side is gone.
    fn is_closed(&self) -> bool;

    /// Bytes that can be read at once.
    fn available(&self) -> usize;

    /// Woken when reading may have become possible.
    fn read_queue(&self) -> &WaitQueue;

    /// Woken when writing may have become possible.
    fn write_queue(&self) -> &WaitQueue;
}

/// A file over a [`Channel`].
pub struct ChannelFile {
    channel: Arc<dyn Channel>,
    flags: OpenFlags,
}

impl ChannelFile {
    /// A file that reads and writes as `flags`' access mode says.
    #[must_use]
    pub fn new(channel: Arc<dyn Channel>, flags: OpenFlags) -> Arc<Self> {
        Arc::new(Self { channel, flags })
    }
}

fn blocking(flags: OpenFlags) -> Blocking {
    if flags.nonblocking() { Blocking::No } else { Blocking::Yes }
}

/// A buffer for up to `wanted` bytes.
pub(crate) fn bounce(wanted: usize) -> Result<Vec<u8>> {
    let len = wanted.min(CHUNK);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

impl File for ChannelFile {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let mut buffer = bounce(sink.remaining())?;
        let n = self.channel.read(&mut buffer, blocking(flags))?;
        if n == 0 { Ok(0) } else { sink.write(&buffer[..n]) }
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        let mut buffer = bounce(source.remaining())?;
        let mut done = 0;
        while source.remaining() > 0 {
            let len = match source.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            match self.channel.write(&buffer[..len], blocking(flags)) {
                Ok(n) => {
                    done += n;
                    if n < len {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn poll(&self) -> Events {
        let mut events = Events::empty();
        if self.flags.can_read() {
            events.set(Events::READABLE, self.channel.is_readable());
            events.set(Events::HUP, self.channel.is_closed());
        }
        if self.flags.can_write() {
            events.set(Events::WRITABLE, self.channel.is_writable());
            events.set(Events::ERR, self.channel.is_closed());
        }
        events
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        if self.flags.can_read() {
            visit(self.channel.read_queue());
        }
        if self.flags.can_write() {
            visit(self.channel.write_queue());
        }
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        match request {
            FIONREAD => arg.store_i32(self.channel.available() as i32).map(|()| 0),
            _ => Err(Errno::ENOTTY),
        }
    }
}
