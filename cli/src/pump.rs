//! The program's standard streams: one thread per stream copies between our file descriptor and the guest's port.
//!
//! Blocking copies give back-pressure for nothing: while our reader is slow, the socket fills, the emulator stops taking
//! buffers from the guest, and the program's write blocks. The threads share nothing but the event channel.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::console::{EscapeFilter, Typed};
use crate::session::Event;

const BUFFER: usize = 64 << 10;

/// Copies what the guest writes to `to`, until the guest is gone or `to` takes no more.
pub(crate) fn output(mut from: UnixStream, to: impl AsFd + Send + 'static, events: Sender<Event>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        let event = loop {
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => break Event::OutputEnded,
                Ok(length) => {
                    if write_all(to.as_fd(), &buffer[..length]).is_err() {
                        // The guest sees the port close: further writes there fail as on a broken pipe.
                        break Event::OutputBroken;
                    }
                }
            }
        };
        // The session may be over.
        let _ = events.send(event);
    })
}

/// Copies our standard input to the guest; its end closes the port. With `escape`, Ctrl-A sequences are acted on.
pub(crate) fn input(to: UnixStream, escape: bool, events: Sender<Event>) {
    // Never joined: it may block in read(2) for ever, and ends with the process.
    thread::spawn(move || {
        let stdin = io::stdin();
        let mut filter = escape.then(EscapeFilter::default);
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = read(stdin.as_fd(), &mut buffer) {
            let bytes = match filter.as_mut().map(|f| f.filter(&buffer[..length])) {
                None => buffer[..length].to_vec(),
                Some(Typed::Bytes(bytes)) => bytes,
                Some(Typed::Leave) => {
                    let _ = events.send(Event::Leave);
                    return;
                }
            };
            if write_all(to.as_fd(), &bytes).is_err() {
                return;
            }
        }
        // Not dropped but shut down: with both directions closed the emulator would forget what it has not read yet.
        let _ = to.shutdown(Shutdown::Write);
        // Keeps the other direction open until the process ends.
        std::mem::forget(to);
    });
}

/// read(2), also for descriptors that someone made non-blocking.
fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::IN)?,
            other => return other,
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, what: PollFlags) -> rustix::io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}
