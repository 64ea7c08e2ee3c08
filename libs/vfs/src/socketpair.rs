//! Connected pairs of stream sockets (`socketpair(AF_UNIX, SOCK_STREAM)`): a byte queue in each direction.

use alloc::format;
use alloc::sync::Arc;

use sync::{Mutex, WaitQueue};

use crate::anon::AnonInode;
use crate::byte_queue::ByteQueue;
use crate::file::{File, OpenFile};
use crate::io::{IoctlArg, Sink, Source};
use crate::mount::Location;
use crate::pipe::{FIONREAD, wait_interruptibly};
use crate::types::{Events, FileKind, Metadata, OpenFlags, SOCKFS_MAGIC};
use crate::{Errno, Result};

/// Bytes in flight in one direction.
const CAPACITY: usize = 208 << 10;

/// One direction.
struct Stream {
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
}

struct State {
    bytes: ByteQueue,
    /// The writing side has shut down or gone.
    ended: bool,
    /// The reading side has shut down or gone.
    deaf: bool,
}

impl Stream {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { bytes: ByteQueue::new(), ended: false, deaf: false }),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        })
    }

    fn try_read(&self, sink: &mut dyn Sink) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() {
            return (state.ended || state.deaf).then_some(Ok(0));
        }
        let result = state.bytes.drain(sink);
        drop(state);
        self.writable.wake_all();
        Some(result)
    }

    fn try_write(&self, source: &mut dyn Source) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        if state.ended || state.deaf {
            return Some(Err(Errno::EPIPE));
        }
        let room = CAPACITY.saturating_sub(state.bytes.len());
        if room == 0 {
            return None;
        }
        let result = state.bytes.fill(source, room);
        drop(state);
        self.readable.wake_all();
        Some(result)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.readable.wake_all();
        self.writable.wake_all();
    }
}

/// One of two connected sockets.
pub struct PairEnd {
    incoming: Arc<Stream>,
    outgoing: Arc<Stream>,
}

/// What `shutdown` ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Receiving.
    Read,
    /// Sending.
    Write,
    /// Both.
    Both,
}

impl PairEnd {
    /// `shutdown`.
    pub fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            self.incoming.change(|state| state.deaf = true);
        }
        if how != Shutdown::Read {
            self.outgoing.change(|state| state.ended = true);
        }
    }
}

/// Two connected sockets. `flags` may hold `O_NONBLOCK`.
#[must_use]
pub fn create(inos: [u64; 2], flags: OpenFlags) -> [Arc<OpenFile>; 2] {
    let (there, back) = (Stream::new(), Stream::new());
    let open = |incoming: &Arc<Stream>, outgoing: &Arc<Stream>, ino: u64| {
        let end = PairEnd { incoming: incoming.clone(), outgoing: outgoing.clone() };
        let inode = AnonInode::new(Metadata::new(0, ino, FileKind::Socket, 0o777), SOCKFS_MAGIC, None);
        OpenFile::new(Arc::new(end), Location::nameless(inode, &format!("socket:[{ino}]")), flags | OpenFlags::RDWR)
    };
    [open(&there, &back, inos[0]), open(&back, &there, inos[1])]
}

impl File for PairEnd {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        if flags.nonblocking() {
            return self.incoming.try_read(sink).unwrap_or(Err(Errno::EAGAIN));
        }
        wait_interruptibly(&self.incoming.readable, || self.incoming.try_read(sink))?
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        let mut done = 0;
        while source.remaining() > 0 {
            let step = if flags.nonblocking() {
                self.outgoing.try_write(source).unwrap_or(Err(Errno::EAGAIN))
            } else {
                wait_interruptibly(&self.outgoing.writable, || self.outgoing.try_write(source)).and_then(|result| result)
            };
            match step {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn poll(&self) -> Events {
        let mut events = Events::empty();
        let (peer_ended, deaf) = {
            let state = self.incoming.state.lock();
            events.set(Events::READABLE, !state.bytes.is_empty() || state.ended || state.deaf);
            events.set(Events::RDHUP, state.ended || state.deaf);
            (state.ended, state.deaf)
        };
        let state = self.outgoing.state.lock();
        let closed = state.ended || state.deaf;
        events.set(Events::WRITABLE, closed || CAPACITY - state.bytes.len().min(CAPACITY) >= CAPACITY / 4);
        events.set(Events::HUP, (peer_ended || deaf) && closed);
        events
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.incoming.readable);
        visit(&self.outgoing.writable);
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        match request {
            FIONREAD => {
                let len = self.incoming.state.lock().bytes.len();
                arg.store_i32(len as i32).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn release(&self) {
        self.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::VecSink;
    use std::vec::Vec;

    fn read(file: &OpenFile) -> Result<Vec<u8>> {
        let mut sink = VecSink::new(100);
        file.read(&mut sink)?;
        Ok(sink.into_vec())
    }

    #[test]
    fn both_directions_work_and_end_separately() {
        let [a, b] = create([1, 2], OpenFlags::NONBLOCK);
        a.write(&mut b"ping".as_slice()).unwrap();
        b.write(&mut b"pong".as_slice()).unwrap();
        assert_eq!((read(&a).unwrap(), read(&b).unwrap()), (b"pong".to_vec(), b"ping".to_vec()));
        assert_eq!(read(&a), Err(Errno::EAGAIN));
        a.downcast::<PairEnd>().unwrap().shutdown(Shutdown::Write);
        assert_eq!(read(&b).unwrap(), b"");
        assert_eq!(a.write(&mut b"x".as_slice()), Err(Errno::EPIPE));
        assert!(b.file().poll().contains(Events::RDHUP) && !b.file().poll().contains(Events::HUP));
        b.write(&mut b"still".as_slice()).unwrap();
        assert_eq!(read(&a).unwrap(), b"still");
        drop(b);
        assert_eq!(read(&a).unwrap(), b"");
        assert!(a.file().poll().contains(Events::HUP | Events::IN));
    }

    #[test]
    fn what_was_sent_before_the_close_is_received() {
        let [a, b] = create([1, 2], OpenFlags::empty());
        a.write(&mut b"last words".as_slice()).unwrap();
        drop(a);
        assert_eq!(read(&b).unwrap(), b"last words");
        assert_eq!(read(&b).unwrap(), b"");
        assert_eq!(b.write(&mut b"x".as_slice()), Err(Errno::EPIPE));
    }
}
