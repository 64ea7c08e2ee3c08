//! Tests of terminals and of channel files, over a channel in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec::Vec;

use sync::{Mutex, WaitQueue};

use super::termios::{ECHO, ICANON, Termios, VMIN, VTIME};
use super::control::{TCGETS, TCSETS, TIOCGPGRP, TIOCGSID, TIOCGWINSZ, TIOCNOTTY, TIOCSCTTY, TIOCSPGRP};
use super::{Background, Caller, Ending, Jobs, Tty, TtySignal, WindowSize};
use crate::channel::{Blocking, Channel, ChannelFile};
use crate::file::File;
use crate::io::{ArgMemory, IoctlArg, VecSink};
use crate::{Errno, Events, OpenFlags, Result};

#[derive(Default)]
struct Memory {
    input: Mutex<Vec<u8>>,
    ended: Mutex<bool>,
    output: Mutex<Vec<u8>>,
    queue: WaitQueue,
}

impl Channel for Memory {
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize> {
        let attempt = || {
            let mut input = self.input.lock();
            let n = input.len().min(buffer.len());
            if n == 0 && !*self.ended.lock() {
                return None;
            }
            buffer[..n].copy_from_slice(&input[..n]);
            input.drain(..n);
            Some(n)
        };
        match blocking {
            Blocking::No => { let mut attempt = attempt; attempt().ok_or(Errno::EAGAIN) }
            _ => crate::pipe::wait_interruptibly(&self.queue, attempt),
        }
    }

    fn write(&self, data: &[u8], _blocking: Blocking) -> Result<usize> {
        self.output.lock().extend_from_slice(data);
        Ok(data.len())
    }

    fn is_readable(&self) -> bool {
        *self.ended.lock() || !self.input.lock().is_empty()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn is_closed(&self) -> bool {
        *self.ended.lock()
    }

    fn available(&self) -> usize {
        self.input.lock().len()
    }

    fn read_queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn write_queue(&self) -> &WaitQueue {
        &self.queue
    }
}

/// Processes as a terminal sees them: the caller is process 41, in session 41 and group 42; group 7 is of that session, 8 of another.
pub(super) struct World {
    pub(super) caller: Mutex<Caller>,
    /// Signals sent, and endings of sessions as signals to the negative session.
    pub(super) sent: Mutex<Vec<(TtySignal, u32)>>,
    ended: Mutex<Vec<(u32, Ending)>>,
    background: Mutex<Background>,
}

impl Default for World {
    fn default() -> Self {
        let caller = Caller { process: 41, group: 42, session: 41, terminal: Some(0), privileged: false };
        Self {
            caller: Mutex::new(caller),
            sent: Mutex::default(),
            ended: Mutex::default(),
            background: Mutex::new(Background::Signalled),
        }
    }
}

impl World {
    pub(super) fn ended(&self) -> sync::MutexGuard<'_, Vec<(u32, Ending)>> {
        self.ended.lock()
    }
}

impl Jobs for World {
    fn signal(&self, signal: TtySignal, group: u32) {
        self.sent.lock().push((signal, group));
    }

    fn caller(&self) -> Caller {
        *self.caller.lock()
    }

    fn background(&self, _signal: TtySignal) -> Background {
        *self.background.lock()
    }

    fn session_of_group(&self, group: u32) -> Option<u32> {
        match group {
            7 | 42 => Some(41),
            8 => Some(50),
            _ => None,
        }
    }

    fn gain(&self, tty: u32) {
        self.caller.lock().terminal = Some(tty);
    }

    fn lose(&self) {
        self.caller.lock().terminal = None;
    }

    fn end_session(&self, session: u32, ending: Ending) {
        self.ended.lock().push((session, ending));
    }
}

/// Program memory at addresses 0..64.
pub(super) struct Arg(pub(super) Mutex<[u8; 64]>);

impl ArgMemory for Arg {
    fn load(&self, address: usize, buffer: &mut [u8]) -> Result<()> {
        buffer.copy_from_slice(self.0.lock().get(address..address + buffer.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn store(&self, address: usize, data: &[u8]) -> Result<()> {
        self.0.lock().get_mut(address..address + data.len()).ok_or(Errno::EFAULT)?.copy_from_slice(data);
        Ok(())
    }
}

fn terminal() -> (Arc<Tty>, Arc<Memory>, Arc<World>) {
    let (memory, world) = (Arc::new(Memory::default()), Arc::new(World::default()));
    let tty = Tty::new(0, memory.clone(), world.clone(), WindowSize::new(24, 80));
    tty.adopt(41, 42);
    (tty, memory, world)
}

/// An `ioctl` with `value` as the argument's content; what is there afterwards.
pub(super) fn control(file: &dyn File, request: u32, value: i32) -> Result<i32> {
    let arg = Arg(Mutex::new([0; 64]));
    arg.0.lock()[..4].copy_from_slice(&value.to_le_bytes());
    file.ioctl(request, IoctlArg::new(0, &arg))?;
    let bytes = arg.0.lock();
    Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

pub(super) fn read(file: &dyn File, flags: OpenFlags) -> Result<Vec<u8>> {
    let mut sink = VecSink::new(100);
    file.read(&mut 0, &mut sink, flags)?;
    Ok(sink.into_vec())
}

pub(super) fn set(tty: &Tty, change: impl FnOnce(&mut Termios)) {
    let arg = Arg(Mutex::new([0; 64]));
    tty.ioctl(TCGETS, IoctlArg::new(0, &arg)).unwrap();
    let mut termios = Termios::from_bytes(arg.0.lock()[..36].try_into().unwrap());
    change(&mut termios);
    arg.0.lock()[..44].copy_from_slice(&termios.to_bytes());
    tty.ioctl(TCSETS, IoctlArg::new(0, &arg)).unwrap();
}

#[test]
fn a_line_typed_is_echoed_and_read() {
    let (tty, memory, _) = terminal();
    assert_eq!(read(&*tty, OpenFlags::NONBLOCK), Err(Errno::EAGAIN));
    let other = tty.clone();
    let reader = std::thread::spawn(move || read(&*other, OpenFlags::empty()));
    std::thread::sleep(Duration::from_millis(20));
    tty.receive(b"hi");
    assert!(tty.poll().contains(Events::OUT) && !tty.poll().contains(Events::IN));
    tty.receive(b"\r");
    assert_eq!(reader.join().unwrap().unwrap(), b"hi\n");
    tty.write(&mut 0, &mut b"out\n".as_slice(), OpenFlags::empty()).unwrap();
    assert_eq!(*memory.output.lock(), b"hi\r\nout\r\n");
}

#[test]
fn signals_go_to_the_foreground_group() {
    let (tty, _, world) = terminal();
    let arg = Arg(Mutex::new([0; 64]));
    assert_eq!(control(&*tty, TIOCGPGRP, 0), Ok(42));
    assert_eq!(control(&*tty, TIOCSPGRP, 7), Ok(7));
    tty.receive(b"\x03");
    tty.resize(WindowSize::new(24, 80));
    tty.resize(WindowSize::new(50, 80));
    tty.ioctl(TIOCGWINSZ, IoctlArg::new(0, &arg)).unwrap();
    assert_eq!(arg.0.lock()[..8], [50, 0, 80, 0, 0, 0, 0, 0]);
    assert_eq!(tty.ioctl(0x1234, IoctlArg::new(0, &arg)), Err(Errno::ENOTTY));
    assert_eq!(tty.ioctl(TCGETS, IoctlArg::new(60, &arg)), Err(Errno::EFAULT));
    tty.hang_up();
    let sent = [TtySignal::Interrupt, TtySignal::WindowChange, TtySignal::HangUp, TtySignal::Continue].map(|s| (s, 7));
    assert_eq!(*world.sent.lock(), sent);
    assert_eq!(*world.ended.lock(), [(41, Ending::HangUp)]);
    assert_eq!(read(&*tty, OpenFlags::empty()).unwrap(), b"");
    assert_eq!(tty.write(&mut 0, &mut b"x".as_slice(), OpenFlags::empty()), Err(Errno::EIO));
    assert_eq!(control(&*tty, TCGETS, 0), Err(Errno::EIO));
    assert!(tty.poll().contains(Events::HUP | Events::READABLE | Events::WRITABLE));
}

#[test]
fn only_groups_of_the_own_session_come_to_the_foreground() {
    let (tty, _, world) = terminal();
    assert_eq!(control(&*tty, TIOCSPGRP, 8), Err(Errno::EPERM));
    assert_eq!(control(&*tty, TIOCSPGRP, 999), Err(Errno::ESRCH));
    assert_eq!(control(&*tty, TIOCSPGRP, -1), Err(Errno::EINVAL));
    assert_eq!(control(&*tty, TIOCGSID, 0), Ok(41));
    world.caller.lock().terminal = None;
    assert_eq!(control(&*tty, TIOCSPGRP, 7), Err(Errno::ENOTTY));
    assert_eq!(control(&*tty, TIOCGPGRP, 7), Err(Errno::ENOTTY));
}

#[test]
fn the_background_may_not_read_nor_change_settings() {
    let (tty, memory, world) = terminal();
    tty.adopt(41, 7);
    tty.receive(b"x\n");
    assert_eq!(read(&*tty, OpenFlags::empty()), Err(Errno::ERESTARTSYS));
    assert_eq!(control(&*tty, TIOCSPGRP, 42), Err(Errno::ERESTARTSYS));
    assert_eq!(tty.write(&mut 0, &mut b"out".as_slice(), OpenFlags::empty()), Ok(3), "writing is free without TOSTOP");
    *world.background.lock() = Background::Orphaned;
    assert_eq!(read(&*tty, OpenFlags::empty()), Err(Errno::EIO));
    *world.background.lock() = Background::Deaf;
    assert_eq!(read(&*tty, OpenFlags::empty()), Err(Errno::EIO));
    set(&tty, |termios| termios.lflag |= super::termios::TOSTOP);
    assert_eq!(tty.write(&mut 0, &mut b"!".as_slice(), OpenFlags::empty()), Ok(1), "deaf to SIGTTOU");
    *world.background.lock() = Background::Signalled;
    assert_eq!(tty.write(&mut 0, &mut b"?".as_slice(), OpenFlags::empty()), Err(Errno::ERESTARTSYS));
    assert_eq!(control(&*tty, TIOCGPGRP, 0), Ok(7), "asking is free");
    world.caller.lock().terminal = None;
    assert_eq!(read(&*tty, OpenFlags::empty()).unwrap(), b"x\n", "not the caller's terminal");
    assert!(memory.output.lock().ends_with(b"out!"));
}

#[test]
fn a_session_leader_gets_and_gives_up_its_terminal() {
    let (tty, _, world) = terminal();
    tty.adopt(0, 0);
    world.caller.lock().terminal = None;
    tty.opened(OpenFlags::RDWR | OpenFlags::NOCTTY);
    tty.opened(OpenFlags::WRONLY);
    assert_eq!(world.caller.lock().terminal, None);
    tty.opened(OpenFlags::RDWR);
    assert_eq!((world.caller.lock().terminal, tty.foreground()), (Some(0), 42));
    assert_eq!(control(&*tty, TIOCNOTTY, 0), Ok(0));
    assert_eq!((world.caller.lock().terminal, tty.foreground()), (None, 0));
    assert_eq!(*world.sent.lock(), [(TtySignal::HangUp, 42), (TtySignal::Continue, 42)]);
    assert_eq!(*world.ended.lock(), [(41, Ending::GivenUp)]);
    // Another session has it: only who may and insists takes it away.
    tty.adopt(50, 8);
    let force = |value| tty.ioctl(TIOCSCTTY, IoctlArg::new(value, &Arg(Mutex::new([0; 64]))));
    assert_eq!((force(0), force(1)), (Err(Errno::EPERM), Err(Errno::EPERM)));
    world.caller.lock().privileged = true;
    assert_eq!((force(0), force(1)), (Err(Errno::EPERM), Ok(0)));
    assert_eq!(world.ended.lock().last(), Some(&(50, Ending::GivenUp)));
    assert_eq!(control(&*tty, TIOCGSID, 0), Ok(41));
    world.caller.lock().process = 60;
    assert_eq!(force(1), Err(Errno::EPERM), "no leader");
}

#[test]
fn vmin_and_vtime_shape_raw_reads() {
    let (tty, _, _) = terminal();
    let raw = |min, time| {
        move |termios: &mut Termios| {
            termios.lflag &= !(ICANON | ECHO);
            (termios.cc[VMIN], termios.cc[VTIME]) = (min, time);
        }
    };
    set(&tty, raw(0, 0));
    assert_eq!(read(&*tty, OpenFlags::empty()).unwrap(), b"");
    set(&tty, raw(0, 1));
    let begin = Instant::now();
    assert_eq!(read(&*tty, OpenFlags::empty()).unwrap(), b"");
    assert!(begin.elapsed() >= Duration::from_millis(100));
    set(&tty, raw(3, 0));
    tty.receive(b"ab");
    assert!(!tty.poll().contains(Events::IN));
    let other = tty.clone();
    let reader = std::thread::spawn(move || read(&*other, OpenFlags::empty()));
    std::thread::sleep(Duration::from_millis(20));
    tty.receive(b"cd");
    assert_eq!(reader.join().unwrap().unwrap(), b"abcd");
    set(&tty, raw(9, 1));
    tty.receive(b"x");
    assert_eq!(read(&*tty, OpenFlags::empty()).unwrap(), b"x");
}

#[test]
fn held_output_goes_on_when_started_again() {
    let (tty, memory, _) = terminal();
    tty.receive(b"\x13");
    assert_eq!(tty.write(&mut 0, &mut b"x".as_slice(), OpenFlags::NONBLOCK), Err(Errno::EAGAIN));
    let other = tty.clone();
    let writer = std::thread::spawn(move || other.write(&mut 0, &mut b"later".as_slice(), OpenFlags::empty()));
    std::thread::sleep(Duration::from_millis(20));
    assert!(memory.output.lock().is_empty());
    tty.receive(b"\x11");
    assert_eq!(writer.join().unwrap(), Ok(5));
}

#[test]
fn channel_files_read_to_the_end_and_write_everything() {
    let memory = Arc::new(Memory::default());
    let input = ChannelFile::new(memory.clone(), OpenFlags::RDONLY);
    let output = ChannelFile::new(memory.clone(), OpenFlags::WRONLY);
    assert_eq!(read(&*input, OpenFlags::NONBLOCK), Err(Errno::EAGAIN));
    memory.input.lock().extend(b"data");
    assert_eq!(read(&*input, OpenFlags::empty()).unwrap(), b"data");
    *memory.ended.lock() = true;
    assert_eq!(read(&*input, OpenFlags::empty()).unwrap(), b"");
    assert_eq!(input.poll(), Events::READABLE | Events::HUP);
    let big = std::vec![5; 100_000];
    assert_eq!(output.write(&mut 0, &mut big.as_slice(), OpenFlags::empty()), Ok(100_000));
    assert_eq!(*memory.output.lock(), big);
}
