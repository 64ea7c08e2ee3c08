//! Tests of terminals and of channel files, over a channel in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec::Vec;

use sync::{Mutex, WaitQueue};

use super::termios::{ECHO, ICANON, Termios, VMIN, VTIME};
use super::{Foreground, TCGETS, TCSETS, TIOCGPGRP, TIOCGWINSZ, TIOCSPGRP, Tty, TtySignal, WindowSize};
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

#[derive(Default)]
struct Signals(Mutex<Vec<(TtySignal, u32)>>);

impl Foreground for Signals {
    fn signal(&self, signal: TtySignal, group: u32) {
        self.0.lock().push((signal, group));
    }

    fn caller_group(&self) -> u32 {
        42
    }

    fn caller_session(&self) -> u32 {
        41
    }
}

/// Program memory at addresses 0..64.
struct Arg(Mutex<[u8; 64]>);

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

fn terminal() -> (Arc<Tty>, Arc<Memory>, Arc<Signals>) {
    let (memory, signals) = (Arc::new(Memory::default()), Arc::new(Signals::default()));
    let tty = Tty::new(memory.clone(), signals.clone(), WindowSize { rows: 24, columns: 80 });
    (tty, memory, signals)
}

fn read(file: &dyn File, flags: OpenFlags) -> Result<Vec<u8>> {
    let mut sink = VecSink::new(100);
    file.read(&mut 0, &mut sink, flags)?;
    Ok(sink.into_vec())
}

fn set(tty: &Tty, change: impl FnOnce(&mut Termios)) {
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
    let (tty, _, signals) = terminal();
    let arg = Arg(Mutex::new([0; 64]));
    tty.ioctl(TIOCGPGRP, IoctlArg::new(0, &arg)).unwrap();
    assert_eq!(arg.0.lock()[0], 42);
    arg.0.lock()[0] = 7;
    tty.ioctl(TIOCSPGRP, IoctlArg::new(0, &arg)).unwrap();
    tty.receive(b"\x03");
    tty.resize(WindowSize { rows: 24, columns: 80 });
    tty.resize(WindowSize { rows: 50, columns: 80 });
    tty.ioctl(TIOCGWINSZ, IoctlArg::new(0, &arg)).unwrap();
    assert_eq!(arg.0.lock()[..8], [50, 0, 80, 0, 0, 0, 0, 0]);
    tty.hang_up();
    assert_eq!(*signals.0.lock(), [(TtySignal::Interrupt, 7), (TtySignal::WindowChange, 7), (TtySignal::HangUp, 7)]);
    assert_eq!(read(&*tty, OpenFlags::empty()).unwrap(), b"");
    assert_eq!(tty.ioctl(0x1234, IoctlArg::new(0, &arg)), Err(Errno::ENOTTY));
    assert_eq!(tty.ioctl(TCGETS, IoctlArg::new(60, &arg)), Err(Errno::EFAULT));
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
