//! [`Pty`]: a pseudo terminal. Its slave side is a [`Tty`]; its master side ([`Master`]) types into it and reads what it shows (pty(7)).
//!
//! What the slave prints lies in [`Shown`], the channel of its terminal. Writers wait while it is full; what is echoed finds room up to
//! twice its size, then it is lost.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use sync::{Mutex, WaitQueue};

use super::control::Side;
use super::{Jobs, Tty, WindowSize};
use crate::channel::{Blocking, Channel, bounce};
use crate::file::File;
use crate::io::{IoctlArg, Sink, Source};
use crate::pipe::{FIONREAD, wait_interruptibly};
use crate::types::{Events, OpenFlags};
use crate::{Errno, Result};

/// Flow events for a master that reads packets: ^S and ^Q are not, or are, what the terminal stops and starts by.
pub(super) const EVENT_NO_STOP: u8 = 16;
pub(super) const EVENT_DO_STOP: u8 = 32;

/// Most bytes that the slave has printed and the master not read.
const CAPACITY: usize = 16 << 10;
/// Most bytes typed at once.
const CHUNK: usize = 1024;

const TIOCPKT: u32 = 0x5420;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCSIG: u32 = 0x4004_5436;

/// What the slave has printed.
struct Shown {
    state: Mutex<ShownState>,
    /// The master waits here: for bytes, for the slave to be closed, for events.
    readable: WaitQueue,
    writable: WaitQueue,
}

#[derive(Default)]
struct ShownState {
    bytes: VecDeque<u8>,
    master_gone: bool,
    /// Open slave sides.
    slaves: usize,
    /// A slave side has been open.
    was_open: bool,
}

impl ShownState {
    /// Every slave side is closed again.
    fn deserted(&self) -> bool {
        self.was_open && self.slaves == 0
    }
}

impl Channel for Shown {
    fn read(&self, buffer: &mut [u8], _blocking: Blocking) -> Result<usize> {
        let mut state = self.state.lock();
        let n = state.bytes.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(state.bytes.drain(..n)) {
            *slot = byte;
        }
        drop(state);
        self.writable.wake_all();
        Ok(n)
    }

    /// Takes everything: who must wait has done so before.
    fn write(&self, data: &[u8], _blocking: Blocking) -> Result<usize> {
        let mut state = self.state.lock();
        if state.master_gone {
            return Err(Errno::EIO);
        }
        let room = (2 * CAPACITY).saturating_sub(state.bytes.len());
        state.bytes.extend(&data[..data.len().min(room)]);
        drop(state);
        self.readable.wake_all();
        Ok(data.len())
    }

    fn is_readable(&self) -> bool {
        !self.state.lock().bytes.is_empty()
    }

    fn is_writable(&self) -> bool {
        let state = self.state.lock();
        state.master_gone || state.bytes.len() < CAPACITY
    }

    fn is_closed(&self) -> bool {
        self.state.lock().master_gone
    }

    fn available(&self) -> usize {
        self.state.lock().bytes.len()
    }

    fn read_queue(&self) -> &WaitQueue {
        &self.readable
    }

    fn write_queue(&self) -> &WaitQueue {
        &self.writable
    }
}

/// Told when the master is gone: the terminal's name can be removed.
pub type Farewell = Box<dyn Fn(u32) + Send + Sync>;

/// A pseudo terminal.
pub struct Pty {
    tty: Arc<Tty>,
    shown: Arc<Shown>,
    /// The slave side cannot be opened (`TIOCSPTLCK`).
    locked: AtomicBool,
    /// The master reads packets (`TIOCPKT`).
    packets: AtomicBool,
    farewell: Farewell,
}

impl Pty {
    /// A new one, locked, that is to be known as `/dev/pts/number`.
    #[must_use]
    pub fn new(number: u32, jobs: Arc<dyn Jobs>, farewell: Farewell) -> Arc<Self> {
        let shown = Arc::new(Shown { state: Mutex::default(), readable: WaitQueue::new(), writable: WaitQueue::new() });
        Arc::new(Self {
            tty: Tty::new(number, shown.clone(), jobs, WindowSize::default()),
            shown,
            locked: AtomicBool::new(true),
            packets: AtomicBool::new(false),
            farewell,
        })
    }

    /// The terminal.
    #[must_use]
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    /// The master side. There is one.
    #[must_use]
    pub fn master(self: &Arc<Self>) -> Arc<Master> {
        Arc::new(Master(self.clone()))
    }

    /// Opens the slave side.
    ///
    /// # Errors
    /// `EIO` while it is locked and when the master is gone.
    pub fn open_slave(self: &Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        if self.locked.load(Ordering::Acquire) {
            return Err(Errno::EIO);
        }
        {
            let mut state = self.shown.state.lock();
            if state.master_gone {
                return Err(Errno::EIO);
            }
            state.slaves += 1;
            state.was_open = true;
        }
        self.tty.opened(flags);
        Ok(Arc::new(Slave(self.clone())))
    }

    fn take_events(&self) -> Option<u8> {
        if !self.packets.load(Ordering::Relaxed) {
            return None;
        }
        let events = core::mem::take(&mut self.tty.state.lock().events);
        (events != 0).then_some(events)
    }

    /// One attempt of the master to read.
    fn try_read(&self, max: usize) -> Option<Result<Vec<u8>>> {
        let packets = self.packets.load(Ordering::Relaxed);
        if let Some(events) = self.take_events() {
            return Some(Ok(alloc::vec![events]));
        }
        let mut state = self.shown.state.lock();
        if state.bytes.is_empty() {
            return state.deserted().then_some(Err(Errno::EIO));
        }
        let mut data = Vec::new();
        if packets {
            data.push(0);
        }
        let n = state.bytes.len().min(max - data.len());
        data.extend(state.bytes.drain(..n));
        drop(state);
        self.shown.writable.wake_all();
        Some(Ok(data))
    }
}

/// The master side of a pseudo terminal.
pub struct Master(Arc<Pty>);

impl Master {
    /// The pseudo terminal.
    #[must_use]
    pub fn pty(&self) -> &Arc<Pty> {
        &self.0
    }

    /// Waits until something can be typed without being lost; how much.
    fn wait_room(&self, flags: OpenFlags) -> Result<usize> {
        let room = || Some(self.0.tty.input_room()).filter(|&room| room > 0);
        if flags.nonblocking() { room().ok_or(Errno::EAGAIN) } else { wait_interruptibly(&self.0.tty.restarted, room) }
    }
}

impl File for Master {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        let max = sink.remaining().min(CAPACITY);
        if max == 0 {
            return Ok(0);
        }
        let attempt = || self.0.try_read(max);
        let data = if flags.nonblocking() {
            attempt().unwrap_or(Err(Errno::EAGAIN))?
        } else {
            wait_interruptibly(&self.0.shown.readable, attempt)??
        };
        sink.write(&data)
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        let mut done = 0;
        while source.remaining() > 0 {
            let step = self.wait_room(flags).and_then(|room| {
                let mut buffer = bounce(source.remaining().min(room).min(CHUNK))?;
                let len = source.read(&mut buffer)?;
                self.0.tty.receive(&buffer[..len]);
                Ok(len)
            });
            match step {
                Ok(len) => done += len,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn poll(&self) -> Events {
        let pty = &self.0;
        let events = pty.packets.load(Ordering::Relaxed) && pty.tty.state.lock().events != 0;
        let state = pty.shown.state.lock();
        let mut ready = Events::empty();
        ready.set(Events::READABLE, !state.bytes.is_empty() || events || state.deserted());
        ready.set(Events::PRI, events);
        ready.set(Events::HUP, state.deserted());
        drop(state);
        ready.set(Events::WRITABLE, pty.tty.input_room() > 0);
        ready
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.0.shown.readable);
        visit(&self.0.tty.restarted);
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        let pty = &self.0;
        let store = |value: bool| arg.store_i32(i32::from(value)).map(|()| 0);
        match request {
            TIOCGPTN => arg.store_i32(pty.tty.number() as i32).map(|()| 0),
            TIOCSPTLCK => {
                pty.locked.store(arg.load_i32()? != 0, Ordering::Release);
                Ok(0)
            }
            TIOCGPTLCK => store(pty.locked.load(Ordering::Acquire)),
            TIOCPKT => {
                let packets = arg.load_i32()? != 0;
                pty.tty.state.lock().events = 0;
                pty.packets.store(packets, Ordering::Relaxed);
                Ok(0)
            }
            TIOCGPKT => store(pty.packets.load(Ordering::Relaxed)),
            TIOCSIG => self.send_signal(arg.value),
            FIONREAD => arg.store_i32(pty.shown.available() as i32).map(|()| 0),
            _ => pty.tty.control(request, arg, Side::Master),
        }
    }

    fn release(&self) {
        let pty = &self.0;
        pty.shown.state.lock().master_gone = true;
        pty.shown.writable.wake_all();
        pty.tty.hang_up();
        (pty.farewell)(pty.tty.number());
    }
}

impl Master {
    /// `TIOCSIG`: a signal to the foreground.
    fn send_signal(&self, number: usize) -> Result<usize> {
        use super::TtySignal::{Interrupt, Quit, Suspend};
        let signal = match number {
            2 => Interrupt,
            3 => Quit,
            20 => Suspend,
            _ => return Err(Errno::EINVAL),
        };
        self.0.tty.signal(signal, self.0.tty.foreground());
        Ok(0)
    }
}

/// An open slave side.
struct Slave(Arc<Pty>);

impl File for Slave {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        self.0.tty.read(position, sink, flags)
    }

    fn write(&self, position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        self.0.tty.write(position, source, flags)
    }

    fn poll(&self) -> Events {
        self.0.tty.poll()
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        self.0.tty.poll_queues(visit);
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        self.0.tty.ioctl(request, arg)
    }

    fn release(&self) {
        self.0.shown.state.lock().slaves -= 1;
        self.0.shown.readable.wake_all();
    }
}

#[cfg(test)]
mod tests;
