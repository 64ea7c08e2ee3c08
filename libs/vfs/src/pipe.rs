//! Pipes and FIFOs, as `pipe(7)` describes them: 64 KiB, writes of up to `PIPE_BUF` bytes are atomic.
//!
//! One lock per pipe protects the bytes and the counts of readers and writers. It is held while the program's memory is
//! touched; page faults never need it. Blocked readers and writers wait on queues of their own.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use addr::PAGE_SIZE;
use sync::{Interrupt, Mutex, WaitQueue};

use crate::anon::AnonInode;
use crate::byte_queue::ByteQueue;
use crate::file::{File, OpenFile};
use crate::io::{IoctlArg, LimitedSink, Sink, Source, VecSink};
use crate::mount::Location;
use crate::types::{Clock, Events, FileKind, Metadata, OpenFlags, PIPEFS_MAGIC};
use crate::{Errno, Result};

/// Writes of up to this many bytes are not interleaved with others.
pub const PIPE_BUF: usize = 4096;
/// Capacity of a new pipe.
pub const DEFAULT_CAPACITY: usize = 64 << 10;
/// Largest capacity that can be set.
pub const MAX_CAPACITY: usize = 1 << 20;

/// `ioctl`: bytes that can be read.
pub const FIONREAD: u32 = 0x541b;

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
    /// FIFO opens waiting for the other side.
    opened: WaitQueue,
}

struct State {
    bytes: ByteQueue,
    /// How the bytes are divided, oldest first, if any of them came as a packet; else they are one stream.
    runs: VecDeque<Run>,
    capacity: usize,
    readers: u32,
    writers: u32,
    /// How many readers and writers there have ever been.
    reader_opens: u64,
    writer_opens: u64,
}

/// Bytes that belong together.
struct Run {
    len: usize,
    form: Form,
}

/// How bytes are written and read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As a stream.
    Stream,
    /// Each write is a packet, and a read takes one, or part of one and drops the rest (`O_DIRECT`).
    Packet,
}

impl Form {
    fn of(flags: OpenFlags) -> Self {
        if flags.contains(OpenFlags::DIRECT) { Self::Packet } else { Self::Stream }
    }
}

/// Which directions an open end has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Directions {
    read: bool,
    write: bool,
}

impl Directions {
    fn of(flags: OpenFlags) -> Self {
        Self { read: flags.can_read(), write: flags.can_write() }
    }
}

/// An open end of a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    directions: Directions,
}

impl State {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len())
    }

    /// What is ready for an end with `directions`.
    #[inline]
    fn events(&self, directions: Directions) -> Events {
        let mut events = Events::empty();
        if directions.read {
            events.set(Events::READABLE, !self.bytes.is_empty());
            events.set(Events::HUP, self.writers == 0 && self.writer_opens > 0);
        }
        if directions.write {
            events.set(Events::WRITABLE, self.room() >= PIPE_BUF.min(self.capacity));
            events.set(Events::ERR, self.readers == 0);
        }
        events
    }

    /// Notes that `len` bytes were written.
    #[inline]
    fn note_written(&mut self, len: usize, form: Form) {
        if form == Form::Stream && self.runs.is_empty() || len == 0 {
            return;
        }
        let before = self.bytes.len() - len;
        if self.runs.is_empty() && before > 0 {
            self.runs.push_back(Run { len: before, form: Form::Stream });
        }
        match self.runs.back_mut() {
            Some(last) if last.form == Form::Stream && form == Form::Stream => last.len += len,
            _ => self.runs.push_back(Run { len, form }),
        }
    }

    /// Moves bytes to `sink`: no more than the first run has.
    #[inline]
    fn drain<S: Sink>(&mut self, sink: &mut S) -> Result<usize> {
        if self.runs.is_empty() { self.bytes.drain(sink) } else { self.drain_run(sink) }
    }

    #[inline(never)]
    fn drain_run(&mut self, sink: &mut dyn Sink) -> Result<usize> {
        let Some(run) = self.runs.front_mut() else { return Ok(0) };
        let n = self.bytes.drain(&mut LimitedSink::new(sink, run.len))?;
        run.len -= n;
        if run.form == Form::Packet {
            self.bytes.discard(run.len);
            run.len = 0;
        }
        if run.len == 0 {
            self.runs.pop_front();
        }
        Ok(n)
    }
}

impl Pipe {
    /// A pipe without ends.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let state = State {
            bytes: ByteQueue::new(),
            runs: VecDeque::new(),
            capacity: DEFAULT_CAPACITY,
            readers: 0,
            writers: 0,
            reader_opens: 0,
            writer_opens: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
            opened: WaitQueue::new(),
        })
    }

    fn attach(self: &Arc<Self>, directions: Directions) -> Arc<PipeEnd> {
        let mut state = self.state.lock();
        if directions.read {
            state.readers += 1;
            state.reader_opens += 1;
        }
        if directions.write {
            state.writers += 1;
            state.writer_opens += 1;
        }
        drop(state);
        self.opened.wake_all();
        Arc::new(PipeEnd { pipe: self.clone(), directions })
    }

    fn detach(&self, directions: Directions) {
        let mut state = self.state.lock();
        state.readers -= u32::from(directions.read);
        state.writers -= u32::from(directions.write);
        if state.readers + state.writers == 0 {
            state.bytes.clear();
            state.runs.clear();
        }
        drop(state);
        self.readable.wake_all();
        self.writable.wake_all();
    }

    /// `F_GETPIPE_SZ`.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// `F_SETPIPE_SZ`: rounds up to a power of two of pages; returns the new capacity.
    ///
    /// # Errors
    /// `EINVAL` for zero or absurd sizes, `EPERM` above the limit, `EBUSY` when more bytes are in the pipe.
    pub fn set_capacity(&self, wanted: usize) -> Result<usize> {
        if wanted == 0 || wanted > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let capacity = wanted.max(PAGE_SIZE).next_power_of_two();
        if capacity > MAX_CAPACITY {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        if capacity < state.bytes.len() {
            return Err(Errno::EBUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.writable.wake_all();
        Ok(capacity)
    }

    /// One attempt to read; `None` = would block.
    #[inline]
    fn try_read<S: Sink>(&self, sink: &mut S) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() {
            return (state.writers == 0).then_some(Ok(0));
        }
        let result = state.drain(sink);
        drop(state);
        self.writable.wake_all_for(Events::WRITABLE.bits());
        Some(result)
    }

    /// One attempt to write; `None` = would block. `atomic` = all or nothing.
    #[inline]
    fn try_write<S: Source>(&self, source: &mut S, atomic: bool, form: Form) -> Option<Result<usize>> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Some(Err(Errno::EPIPE));
        }
        let room = state.room();
        if room == 0 || atomic && room < source.remaining() {
            return None;
        }
        let most = if form == Form::Packet { room.min(PIPE_BUF) } else { room };
        let result = state.bytes.fill(source, most);
        state.note_written(*result.as_ref().unwrap_or(&0), form);
        drop(state);
        self.readable.wake_all();
        Some(result)
    }

    #[inline]
    fn read<S: Sink>(&self, sink: &mut S, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        self.try_read(sink).unwrap_or_else(|| self.wait_to_read(sink, flags))
    }

    #[inline(never)]
    fn wait_to_read(&self, mut sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        if flags.nonblocking() {
            return Err(Errno::EAGAIN);
        }
        block_interruptibly(&self.readable, || self.try_read(&mut sink))?
    }

    #[inline]
    fn write<S: Source>(&self, source: &mut S, flags: OpenFlags) -> Result<usize> {
        let (total, form) = (source.remaining(), Form::of(flags));
        if total == 0 {
            return Ok(0);
        }
        match self.try_write(source, total <= PIPE_BUF, form) {
            Some(Ok(done)) if done < total => self.write_rest(source, flags, done),
            Some(result) => result,
            None => self.write_rest(source, flags, 0),
        }
    }

    /// Writes what is left of `source`, waiting for room, after `done` bytes.
    #[inline(never)]
    fn write_rest(&self, mut source: &mut dyn Source, flags: OpenFlags, mut done: usize) -> Result<usize> {
        let form = Form::of(flags);
        let atomic = done + source.remaining() <= PIPE_BUF;
        while source.remaining() > 0 {
            let step = if flags.nonblocking() {
                self.try_write(&mut source, atomic, form).unwrap_or(Err(Errno::EAGAIN))
            } else {
                wait_interruptibly(&self.writable, || self.try_write(&mut source, atomic, form)).and_then(|result| result)
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

    /// `tee`: copies up to `limit` bytes and keeps them; nothing at the end. Waits for bytes unless `nonblocking`.
    ///
    /// # Errors
    /// `EAGAIN`, `ERESTARTSYS`, `ENOMEM`.
    pub fn peek(&self, limit: usize, nonblocking: bool) -> Result<Vec<u8>> {
        let look = || {
            let state = self.state.lock();
            if state.bytes.is_empty() {
                return (state.writers == 0).then(|| Ok(Vec::new()));
            }
            let mut sink = VecSink::new(limit);
            Some(state.bytes.peek(0, &mut sink).map(|_| sink.into_vec()))
        };
        if nonblocking {
            return look().unwrap_or(Err(Errno::EAGAIN));
        }
        wait_interruptibly(&self.readable, look)?
    }

    fn poll(&self, directions: Directions) -> Events {
        self.state.lock().events(directions)
    }
}

/// Waits until `cond` gives a value.
///
/// # Errors
/// `ERESTARTSYS` when a signal came first.
pub(crate) fn wait_interruptibly<T>(queue: &WaitQueue, cond: impl FnMut() -> Option<T>) -> Result<T> {
    queue.wait_until(None, Interrupt::Allowed, cond).map_err(|_| Errno::ERESTARTSYS)
}

/// As [`wait_interruptibly`], for a caller that has just seen that there is no value.
///
/// # Errors
/// As [`wait_interruptibly`].
pub(crate) fn block_interruptibly<T>(queue: &WaitQueue, cond: impl FnMut() -> Option<T>) -> Result<T> {
    queue.block_until(None, Interrupt::Allowed, cond).map_err(|_| Errno::ERESTARTSYS)
}

impl PipeEnd {
    /// The pipe.
    #[must_use]
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl PipeEnd {
    /// `read`, as [`File::read`].
    ///
    /// # Errors
    /// As [`File::read`].
    #[inline]
    pub(crate) fn read_to<S: Sink>(&self, sink: &mut S, flags: OpenFlags) -> Result<usize> {
        self.pipe.read(sink, flags)
    }

    /// `write`, as [`File::write`].
    ///
    /// # Errors
    /// As [`File::write`].
    #[inline]
    pub(crate) fn write_from<S: Source>(&self, source: &mut S, flags: OpenFlags) -> Result<usize> {
        self.pipe.write(source, flags)
    }
}

/// Brief reads and writes: of a stream of bytes that lie in one frame, by nobody who has to wait. `None`: nothing was done.
impl PipeEnd {
    #[inline(always)]
    pub(crate) fn read_briefly<S: Sink>(&self, sink: &mut S) -> Option<usize> {
        let n = {
            let mut state = self.pipe.state.lock_briefly()?;
            if !state.runs.is_empty() {
                return None;
            }
            state.bytes.drain_briefly(sink)?
        };
        self.pipe.writable.wake_all_for_briefly(Events::WRITABLE.bits());
        Some(n)
    }

    #[inline(always)]
    pub(crate) fn write_briefly<S: Source>(&self, source: &mut S, flags: OpenFlags) -> Option<usize> {
        let wanted = source.remaining();
        if wanted == 0 || wanted > PIPE_BUF || Form::of(flags) != Form::Stream {
            return None;
        }
        let n = {
            let mut state = self.pipe.state.lock_briefly()?;
            if state.readers == 0 || !state.runs.is_empty() || state.room() < wanted {
                return None;
            }
            state.bytes.fill_briefly(source)?
        };
        self.pipe.readable.wake_all_briefly();
        Some(n)
    }

    #[inline(always)]
    pub(crate) fn poll_briefly(&self) -> Option<Events> {
        let state = self.pipe.state.lock_briefly()?;
        Some(state.events(self.directions))
    }
}

impl File for PipeEnd {
    fn read(&self, _position: &mut u64, mut sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        self.read_to(&mut sink, flags)
    }

    fn write(&self, _position: &mut u64, mut source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        self.write_from(&mut source, flags)
    }

    fn poll(&self) -> Events {
        self.pipe.poll(self.directions)
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        if self.directions.read {
            visit(&self.pipe.readable);
        }
        if self.directions.write {
            visit(&self.pipe.writable);
        }
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        match request {
            FIONREAD => {
                let len = self.pipe.state.lock().bytes.len();
                arg.store_i32(len as i32).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn release(&self) {
        self.pipe.detach(self.directions);
    }
}

/// `pipe2`: a new pipe's reading and writing end. `flags` may hold `O_NONBLOCK`.
#[must_use]
pub fn create(ino: u64, clock: Clock, flags: OpenFlags) -> (Arc<OpenFile>, Arc<OpenFile>) {
    let pipe = Pipe::new();
    let now = clock();
    let metadata =
        Metadata { atime: now, mtime: now, ctime: now, btime: now, ..Metadata::new(0, ino, FileKind::Fifo, 0o600) };
    let again = pipe.clone();
    // Unlike a FIFO, a pipe does not wait for somebody at its other end when it is opened again through /proc.
    let reopen = Arc::new(move |flags| Ok(again.attach(Directions::of(flags)) as Arc<dyn File>));
    let inode = AnonInode::new(metadata, PIPEFS_MAGIC, Some(reopen));
    let place = Location::nameless(inode, &format!("pipe:[{ino}]"));
    let open = |mode| {
        let flags = flags | mode;
        OpenFile::new(pipe.attach(Directions::of(flags)), place.clone(), flags)
    };
    (open(OpenFlags::RDONLY), open(OpenFlags::WRONLY))
}

/// Opens a FIFO as `fifo(7)` says: each side waits for the other.
///
/// # Errors
/// `ENXIO` for a nonblocking writer without a reader, `ERESTARTSYS`.
pub fn open_fifo(pipe: &Arc<Pipe>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let directions = Directions::of(flags);
    let (write_only, read_only) = (!directions.read, !directions.write);
    if write_only && flags.nonblocking() && pipe.state.lock().readers == 0 {
        return Err(Errno::ENXIO);
    }
    let (readers_before, writers_before) = {
        let state = pipe.state.lock();
        (state.reader_opens, state.writer_opens)
    };
    let end = pipe.attach(directions);
    if flags.nonblocking() {
        return Ok(end);
    }
    let met = wait_interruptibly(&pipe.opened, || {
        let state = pipe.state.lock();
        let reader = !write_only || state.readers > 0 || state.reader_opens > readers_before;
        let writer = !read_only || state.writers > 0 || state.writer_opens > writers_before;
        (reader && writer).then_some(())
    });
    match met {
        Ok(()) => Ok(end),
        Err(error) => {
            pipe.detach(directions);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
