//! [`Tty`]: a terminal, made of a line discipline and a channel that shows what is printed: the host's ([`Channel`]), or the other side of
//! a pseudo terminal ([`pty`]).
//!
//! What is typed comes in by [`Tty::receive`]; echo and output go to the channel. Who is in the foreground, and what becomes of the others, is
//! in [`control`]; the owner's side of that is the trait [`Jobs`]. The discipline has one lock; it is released before anything is
//! written, anybody is signalled or the program's memory is touched.

mod control;
pub mod discipline;
pub mod pty;
pub mod termios;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use sync::{Interrupt, Mutex, WaitError, WaitQueue};

use crate::channel::{Blocking, Channel, bounce};
use crate::file::File;
use crate::io::{IoctlArg, Sink, Source};
use crate::types::{Events, OpenFlags};
use crate::{Errno, Result};
use discipline::{Discipline, Request};
use termios::{ICANON, IXON, TOSTOP, VMIN, VTIME};

/// What a terminal has to know of processes, and do to them.
pub trait Jobs: Send + Sync {
    /// Sends a signal to process group `group`.
    fn signal(&self, signal: TtySignal, group: u32);

    /// The process that is asking.
    fn caller(&self) -> Caller;

    /// A process of the background wants to use the terminal in a way that `signal` ([`TtySignal::BackgroundRead`] or
    /// [`TtySignal::BackgroundWrite`]) is about. If nothing speaks against it, its group has been sent that signal.
    fn background(&self, signal: TtySignal) -> Background;

    /// The session of process group `group`; `None` when there is no such group.
    fn session_of_group(&self, group: u32) -> Option<u32>;

    /// The calling process has got terminal `tty` as its controlling terminal.
    fn gain(&self, tty: u32);

    /// The calling process has none any more.
    fn lose(&self);

    /// `session` has lost its terminal: its processes have none any more. If that happened by [`Ending::HangUp`], its leader is sent
    /// `SIGHUP` and `SIGCONT`.
    fn end_session(&self, session: u32, ending: Ending);
}

/// How a session loses its terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The terminal is gone.
    HangUp,
    /// The leader gave it up, or another session took it.
    GivenUp,
}

/// What a terminal must know of the calling process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its number.
    pub process: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Its controlling terminal.
    pub terminal: Option<u32>,
    /// Whether it may take a terminal away from others.
    pub privileged: bool,
}

/// What becomes of a background process that wants to use the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Background {
    /// It blocks or ignores the signal.
    Deaf,
    /// Nobody could continue its process group if that stopped.
    Orphaned,
    /// The signal is on its way.
    Signalled,
}

/// A signal that a terminal sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TtySignal {
    /// `SIGINT`
    Interrupt,
    /// `SIGQUIT`
    Quit,
    /// `SIGTSTP`
    Suspend,
    /// `SIGWINCH`
    WindowChange,
    /// `SIGHUP`
    HangUp,
    /// `SIGCONT`
    Continue,
    /// `SIGTTIN`
    BackgroundRead,
    /// `SIGTTOU`
    BackgroundWrite,
}

/// Size of the window, in characters and in dots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// Width in dots; 0 when unknown.
    pub width: u16,
    /// Height in dots; 0 when unknown.
    pub height: u16,
}

impl WindowSize {
    /// A window of which the dots are not known.
    #[must_use]
    pub const fn new(rows: u16, columns: u16) -> Self {
        Self { rows, columns, width: 0, height: 0 }
    }
}

struct State {
    discipline: Discipline,
    window: WindowSize,
    /// The session that it is the controlling terminal of; 0 for none.
    session: u32,
    /// Foreground process group; 0 for none.
    group: u32,
    /// The other side is gone.
    hung_up: bool,
    /// Output is held (^S).
    stopped: bool,
    /// For a master that reads packets: what happened since it looked (`TIOCPKT_*`).
    events: u8,
}

/// A terminal.
pub struct Tty {
    /// Minor number of `/dev/pts/N`.
    number: u32,
    state: Mutex<State>,
    /// Somebody writes: what one write prints is kept together.
    writing: AtomicBool,
    readable: WaitQueue,
    /// Woken when output may go on, when a writer is done, and when there is room for input.
    restarted: WaitQueue,
    output: Arc<dyn Channel>,
    jobs: Arc<dyn Jobs>,
}

/// Bytes that are processed at once; twice as many may come out.
const CHUNK: usize = 4096;

/// Flow events for a master that reads packets (ioctl_tty(2)).
const EVENT_FLUSH_READ: u8 = 1;
const EVENT_FLUSH_WRITE: u8 = 2;
const EVENT_STOP: u8 = 4;
const EVENT_START: u8 = 8;

/// The turn of a writer.
struct Turn<'a>(&'a Tty);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.writing.store(false, Ordering::Release);
        self.0.restarted.wake_all();
    }
}

impl Tty {
    /// A terminal that prints to `output`.
    #[must_use]
    pub fn new(number: u32, output: Arc<dyn Channel>, jobs: Arc<dyn Jobs>, window: WindowSize) -> Arc<Self> {
        let state =
            State { discipline: Discipline::new(), window, session: 0, group: 0, hung_up: false, stopped: false, events: 0 };
        Arc::new(Self {
            number,
            state: Mutex::new(state),
            writing: AtomicBool::new(false),
            readable: WaitQueue::new(),
            restarted: WaitQueue::new(),
            output,
            jobs,
        })
    }

    /// The number that [`Caller::terminal`] knows it by.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Takes what was typed. What does not fit is lost: see [`Tty::input_room`].
    pub fn receive(&self, bytes: &[u8]) {
        let mut echo = Vec::new();
        let mut signals = Vec::new();
        {
            let mut state = self.state.lock();
            for &byte in bytes {
                let request = state.discipline.input(byte, &mut echo);
                if let Some(signal) = state.apply(request) {
                    signals.push((signal, state.group));
                }
            }
        }
        if !echo.is_empty() {
            // Nobody can be told that an echo was lost.
            let _lost = self.output.write(&echo, Blocking::Uninterruptible);
        }
        self.readable.wake_all();
        self.restarted.wake_all();
        // A master that reads packets hears of held output.
        self.output.read_queue().wake_all();
        for (signal, group) in signals {
            self.signal(signal, group);
        }
    }

    /// How much [`Tty::receive`] can take now without losing any.
    #[must_use]
    pub fn input_room(&self) -> usize {
        let state = self.state.lock();
        if state.hung_up { usize::MAX } else { state.discipline.room() }
    }

    fn signal(&self, signal: TtySignal, group: u32) {
        if group != 0 {
            self.jobs.signal(signal, group);
        }
    }

    /// The other end of the terminal is gone: reads give the end of file, writes fail, and the session has no terminal any more.
    pub fn hang_up(&self) {
        let (session, group) = {
            let mut state = self.state.lock();
            state.hung_up = true;
            (core::mem::take(&mut state.session), core::mem::take(&mut state.group))
        };
        self.readable.wake_all();
        self.restarted.wake_all();
        // First the loss: who is told finds no terminal.
        if session != 0 {
            self.jobs.end_session(session, Ending::HangUp);
        }
        self.signal(TtySignal::HangUp, group);
        self.signal(TtySignal::Continue, group);
    }

    /// The window has a new size.
    pub fn resize(&self, window: WindowSize) {
        let group = {
            let mut state = self.state.lock();
            if state.window == window {
                return;
            }
            state.window = window;
            state.group
        };
        self.signal(TtySignal::WindowChange, group);
    }

    /// One attempt to read up to `max` bytes; `None` = nothing there.
    fn try_read(&self, max: usize, least: usize) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        if state.hung_up && state.discipline.available() == 0 {
            return Some(Vec::new());
        }
        let raw = !state.discipline.termios.local(ICANON);
        if raw && state.discipline.readable() < least.min(max) && !state.hung_up {
            return None;
        }
        match state.discipline.take(max) {
            None if state.hung_up || raw && least == 0 => Some(Vec::new()),
            taken => taken,
        }
    }

    fn wait_read(&self, max: usize) -> Result<Vec<u8>> {
        let termios = self.state.lock().discipline.termios;
        let (least, tenths) = match termios.local(ICANON) {
            true => (1, 0),
            false => (usize::from(termios.cc[VMIN]), u64::from(termios.cc[VTIME])),
        };
        if tenths == 0 {
            return self.wait_bytes(max, least, None);
        }
        let timeout = tenths * 100_000_000;
        if least == 0 {
            return self.wait_bytes(max, 1, Some(timeout));
        }
        // VMIN and VTIME: the time runs between bytes, from the first one on.
        let mut data = self.wait_bytes(max, 1, None)?;
        while !data.is_empty() && data.len() < least.min(max) {
            let more = self.wait_bytes(max - data.len(), 1, Some(timeout))?;
            if more.is_empty() {
                break;
            }
            data.extend(more);
        }
        Ok(data)
    }

    /// Waits for `least` bytes; empty when the time is over.
    fn wait_bytes(&self, max: usize, least: usize, timeout: Option<u64>) -> Result<Vec<u8>> {
        let deadline = timeout.map(|timeout| sync::monotonic_ns() + timeout);
        match self.readable.wait_until(deadline, Interrupt::Allowed, || self.try_read(max, least)) {
            Ok(data) => Ok(data),
            Err(WaitError::TimedOut) => Ok(Vec::new()),
            Err(WaitError::Interrupted) => Err(Errno::ERESTARTSYS),
        }
    }

    /// Waits for the turn to write.
    fn begin_write(&self, flags: OpenFlags) -> Result<Turn<'_>> {
        let free = || (!self.writing.swap(true, Ordering::Acquire)).then_some(());
        if flags.nonblocking() {
            free().ok_or(Errno::EAGAIN)?;
        } else {
            crate::pipe::wait_interruptibly(&self.restarted, free)?;
        }
        Ok(Turn(self))
    }

    /// Waits until something can be printed.
    fn wait_printable(&self, flags: OpenFlags) -> Result<()> {
        let started = || {
            let state = self.state.lock();
            (!state.stopped || state.hung_up).then_some(())
        };
        let room = || self.output.is_writable().then_some(());
        if flags.nonblocking() {
            return started().and_then(|()| room()).ok_or(Errno::EAGAIN);
        }
        loop {
            crate::pipe::wait_interruptibly(&self.restarted, started)?;
            crate::pipe::wait_interruptibly(self.output.write_queue(), room)?;
            // Output may have been held while there was no room.
            if started().is_some() {
                return Ok(());
            }
        }
    }

    fn print(&self, bytes: &[u8], flags: OpenFlags) -> Result<()> {
        self.wait_printable(flags)?;
        let mut processed = Vec::with_capacity(bytes.len() + bytes.len() / 8);
        {
            let mut state = self.state.lock();
            if state.hung_up {
                return Err(Errno::EIO);
            }
            for &byte in bytes {
                state.discipline.output(byte, &mut processed);
            }
        }
        // Half a processed chunk cannot be reported, so this waits for all of it.
        self.output.write(&processed, Blocking::Uninterruptible).map(drop)
    }

    /// Whether the caller may write: background processes may, unless `TOSTOP` is set.
    fn check_write(&self) -> Result<()> {
        let state = self.state.lock();
        if state.hung_up {
            return Err(Errno::EIO);
        }
        let may_not = state.discipline.termios.local(TOSTOP);
        drop(state);
        if may_not { self.require_foreground(TtySignal::BackgroundWrite) } else { Ok(()) }
    }
}

impl State {
    /// Does what a typed character asks for; a signal is left to the caller.
    fn apply(&mut self, request: Option<Request>) -> Option<TtySignal> {
        let signal = match request {
            Some(Request::Stop) => {
                self.hold();
                return None;
            }
            Some(Request::Start) => {
                self.go_on();
                return None;
            }
            None => {
                if self.discipline.any_restarts() {
                    self.go_on();
                }
                return None;
            }
            Some(Request::Interrupt) => TtySignal::Interrupt,
            Some(Request::Quit) => TtySignal::Quit,
            Some(Request::Suspend) => TtySignal::Suspend,
        };
        if self.discipline.termios.iflag & IXON != 0 {
            self.go_on();
        }
        Some(signal)
    }

    fn hold(&mut self) {
        if !core::mem::replace(&mut self.stopped, true) {
            self.events = self.events & !EVENT_START | EVENT_STOP;
        }
    }

    fn go_on(&mut self) {
        if core::mem::take(&mut self.stopped) {
            self.events = self.events & !EVENT_STOP | EVENT_START;
        }
    }
}

impl File for Tty {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        let max = sink.remaining().min(discipline::INPUT_MAX);
        if max == 0 {
            return Ok(0);
        }
        self.require_foreground(TtySignal::BackgroundRead)?;
        let data = if flags.nonblocking() { self.try_read(max, 1).ok_or(Errno::EAGAIN)? } else { self.wait_read(max)? };
        // There may be room for more input.
        self.restarted.wake_all();
        if data.is_empty() { Ok(0) } else { sink.write(&data) }
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        self.check_write()?;
        let _turn = self.begin_write(flags)?;
        let mut buffer = bounce(source.remaining().min(CHUNK))?;
        let mut done = 0;
        while source.remaining() > 0 {
            let step = source.read(&mut buffer).and_then(|len| self.print(&buffer[..len], flags).map(|()| len));
            match step {
                Ok(len) => done += len,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn poll(&self) -> Events {
        let state = self.state.lock();
        let termios = &state.discipline.termios;
        let least = if termios.local(ICANON) || termios.cc[VTIME] != 0 { 1 } else { usize::from(termios.cc[VMIN]).max(1) };
        let mut events = Events::empty();
        events.set(Events::READABLE, state.discipline.readable() >= least);
        if state.hung_up {
            return Events::READABLE | Events::WRITABLE | Events::HUP | Events::ERR;
        }
        let stopped = state.stopped;
        drop(state);
        events.set(Events::WRITABLE, !stopped && self.output.is_writable());
        events
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.readable);
        visit(&self.restarted);
        visit(self.output.write_queue());
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        self.control(request, arg, control::Side::Slave)
    }
}

#[cfg(test)]
mod tests;
