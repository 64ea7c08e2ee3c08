//! [`Tty`]: a terminal, made of a line discipline and a channel to the host.
//!
//! A thread of the owner feeds what is typed to [`Tty::receive`]; echo and output go to the channel. Signals go to the owner
//! through [`Foreground`]. The discipline has one lock; it is released before anything is written or the program's memory
//! is touched.

pub mod discipline;
pub mod termios;

use alloc::sync::Arc;
use alloc::vec::Vec;

use sync::{Interrupt, Mutex, WaitError, WaitQueue};

use crate::channel::{Blocking, Channel, bounce};
use crate::file::File;
use crate::io::{IoctlArg, Sink, Source};
use crate::pipe::FIONREAD;
use crate::types::{Events, OpenFlags};
use crate::{Errno, Result};
use discipline::{Discipline, Request};
use termios::{ICANON, TERMIOS_LEN, TERMIOS2_LEN, Termios, VMIN, VTIME};

/// Who gets signals from the terminal.
pub trait Foreground: Send + Sync {
    /// Sends a signal to process group `group` (0: the default one).
    fn signal(&self, signal: TtySignal, group: u32);

    /// Process group of the calling process.
    fn caller_group(&self) -> u32;

    /// Session of the calling process.
    fn caller_session(&self) -> u32;
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
}

/// Size of the window, in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

struct State {
    discipline: Discipline,
    window: WindowSize,
    /// Foreground process group; 0 = not set.
    group: u32,
    /// The host is gone.
    hung_up: bool,
    /// Output is held (^S).
    stopped: bool,
}

/// A terminal.
pub struct Tty {
    state: Mutex<State>,
    /// Keeps what one write prints together.
    writing: Mutex<()>,
    readable: WaitQueue,
    /// Woken when output may go on.
    restarted: WaitQueue,
    output: Arc<dyn Channel>,
    foreground: Arc<dyn Foreground>,
}

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCEXCL: u32 = 0x540c;
const TIOCNXCL: u32 = 0x540d;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCNOTTY: u32 = 0x5422;
const TIOCGSID: u32 = 0x5429;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;

impl Tty {
    /// A terminal that prints to `output`.
    #[must_use]
    pub fn new(output: Arc<dyn Channel>, foreground: Arc<dyn Foreground>, window: WindowSize) -> Arc<Self> {
        let state = State { discipline: Discipline::new(), window, group: 0, hung_up: false, stopped: false };
        Arc::new(Self {
            state: Mutex::new(state),
            writing: Mutex::new(()),
            readable: WaitQueue::new(),
            restarted: WaitQueue::new(),
            output,
            foreground,
        })
    }

    /// Takes what was typed.
    pub fn receive(&self, bytes: &[u8]) {
        let mut echo = Vec::new();
        let mut signals = Vec::new();
        {
            let mut state = self.state.lock();
            for &byte in bytes {
                match state.discipline.input(byte, &mut echo) {
                    Some(Request::Stop) => state.stopped = true,
                    Some(Request::Start) => state.stopped = false,
                    Some(Request::Interrupt) => signals.push((TtySignal::Interrupt, state.group)),
                    Some(Request::Quit) => signals.push((TtySignal::Quit, state.group)),
                    Some(Request::Suspend) => signals.push((TtySignal::Suspend, state.group)),
                    None => {}
                }
            }
        }
        if !echo.is_empty() {
            // Nobody can be told that an echo was lost.
            let _lost = self.output.write(&echo, Blocking::Uninterruptible);
        }
        self.readable.wake_all();
        self.restarted.wake_all();
        for (signal, group) in signals {
            self.foreground.signal(signal, group);
        }
    }

    /// The host's end of the terminal is gone: reads give the end of file.
    pub fn hang_up(&self) {
        let group = {
            let mut state = self.state.lock();
            state.hung_up = true;
            state.group
        };
        self.readable.wake_all();
        self.restarted.wake_all();
        self.foreground.signal(TtySignal::HangUp, group);
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
        self.foreground.signal(TtySignal::WindowChange, group);
    }

    /// One attempt to read up to `max` bytes; `None` = nothing there.
    fn try_read(&self, max: usize, least: usize) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
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

    fn wait_started(&self, flags: OpenFlags) -> Result<()> {
        let started = || (!self.state.lock().stopped).then_some(());
        if flags.nonblocking() {
            return started().ok_or(Errno::EAGAIN);
        }
        crate::pipe::wait_interruptibly(&self.restarted, started)
    }

    fn print(&self, bytes: &[u8], flags: OpenFlags) -> Result<()> {
        self.wait_started(flags)?;
        let mut processed = Vec::with_capacity(bytes.len() + bytes.len() / 8);
        {
            let mut state = self.state.lock();
            for &byte in bytes {
                state.discipline.output(byte, &mut processed);
            }
        }
        // Half a processed chunk cannot be reported, so this waits for all of it.
        self.output.write(&processed, Blocking::Uninterruptible).map(drop)
    }

    fn set_termios(&self, arg: IoctlArg<'_>, flush: bool) -> Result<usize> {
        let termios = Termios::from_bytes(&arg.load::<TERMIOS_LEN>()?);
        let mut state = self.state.lock();
        if flush {
            state.discipline.flush_input();
        }
        state.discipline.set_termios(termios);
        drop(state);
        self.readable.wake_all();
        Ok(0)
    }

    fn set_window(&self, arg: IoctlArg<'_>) -> Result<usize> {
        let [r0, r1, c0, c1, ..] = arg.load::<8>()?;
        self.resize(WindowSize { rows: u16::from_le_bytes([r0, r1]), columns: u16::from_le_bytes([c0, c1]) });
        Ok(0)
    }

    fn window_bytes(&self) -> [u8; 8] {
        let window = self.state.lock().window;
        let ([r0, r1], [c0, c1]) = (window.rows.to_le_bytes(), window.columns.to_le_bytes());
        [r0, r1, c0, c1, 0, 0, 0, 0]
    }

    fn group(&self) -> u32 {
        match self.state.lock().group {
            0 => self.foreground.caller_group(),
            group => group,
        }
    }

    fn set_group(&self, arg: IoctlArg<'_>) -> Result<usize> {
        let group = u32::try_from(arg.load_i32()?).map_err(|_| Errno::EINVAL)?;
        self.state.lock().group = group;
        Ok(0)
    }

    fn flush(&self, which: usize) -> Result<usize> {
        match which {
            0 | 2 => self.state.lock().discipline.flush_input(),
            1 => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    fn flow(&self, action: usize) -> Result<usize> {
        match action {
            0 => self.state.lock().stopped = true,
            1 => {
                self.state.lock().stopped = false;
                self.restarted.wake_all();
            }
            2 | 3 => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }
}

impl File for Tty {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        let max = sink.remaining().min(discipline::INPUT_MAX);
        if max == 0 {
            return Ok(0);
        }
        let data = if flags.nonblocking() { self.try_read(max, 1).ok_or(Errno::EAGAIN)? } else { self.wait_read(max)? };
        if data.is_empty() { Ok(0) } else { sink.write(&data) }
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        let _whole = self.writing.lock();
        let mut buffer = bounce(source.remaining())?;
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
        events.set(Events::READABLE, state.discipline.readable() >= least || state.hung_up);
        events.set(Events::HUP, state.hung_up);
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
        match request {
            TCGETS | TCGETS2 => {
                let bytes = self.state.lock().discipline.termios.to_bytes();
                let len = if request == TCGETS { TERMIOS_LEN } else { TERMIOS2_LEN };
                arg.store(&bytes[..len]).map(|()| 0)
            }
            TCSETS | TCSETSW | TCSETS2 | TCSETSW2 => self.set_termios(arg, false),
            TCSETSF | TCSETSF2 => self.set_termios(arg, true),
            TCFLSH => self.flush(arg.value),
            TCXONC => self.flow(arg.value),
            TIOCGWINSZ => arg.store(&self.window_bytes()).map(|()| 0),
            TIOCSWINSZ => self.set_window(arg),
            TIOCGPGRP => arg.store_i32(self.group() as i32).map(|()| 0),
            TIOCSPGRP => self.set_group(arg),
            TIOCGSID => arg.store_i32(self.foreground.caller_session() as i32).map(|()| 0),
            FIONREAD => {
                let available = self.state.lock().discipline.available();
                arg.store_i32(available as i32).map(|()| 0)
            }
            TIOCOUTQ => arg.store_i32(0).map(|()| 0),
            TCSBRK | TIOCSCTTY | TIOCNOTTY | TIOCEXCL | TIOCNXCL => Ok(0),
            _ => Err(Errno::ENOTTY),
        }
    }
}

#[cfg(test)]
mod tests;
