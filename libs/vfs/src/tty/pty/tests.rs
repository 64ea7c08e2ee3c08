//! Tests of pseudo terminals: both sides, flow, packets, and what closing one does to the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::vec::Vec;

use super::{CAPACITY, Master, Pty, TIOCGPTN, TIOCPKT, TIOCSPTLCK};
use crate::file::File;
use crate::tty::control::{TIOCGPGRP, TIOCGSID, TIOCGWINSZ};
use crate::tty::discipline::INPUT_MAX;
use crate::tty::termios::{ECHO, ICANON, IXON, OPOST};
use crate::tty::tests::{World, control, read, set};
use crate::tty::{Ending, TtySignal};
use crate::{Errno, Events, OpenFlags};

const WAIT: OpenFlags = OpenFlags::empty();
const NOW: OpenFlags = OpenFlags::NONBLOCK;

struct Both {
    pty: Arc<Pty>,
    master: Arc<Master>,
    slave: Arc<dyn File>,
    world: Arc<World>,
    farewells: Arc<AtomicU32>,
}

fn both() -> Both {
    let world = Arc::new(World::default());
    world.caller.lock().terminal = None;
    let farewells = Arc::new(AtomicU32::new(0));
    let count = farewells.clone();
    let pty = Pty::new(3, world.clone(), Box::new(move |number| {
        assert_eq!(number, 3);
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let master = pty.master();
    assert_eq!(pty.open_slave(OpenFlags::RDWR).err(), Some(Errno::EIO), "locked");
    control(&*master, TIOCSPTLCK, 0).unwrap();
    let slave = pty.open_slave(OpenFlags::RDWR).unwrap();
    Both { pty, master, slave, world, farewells }
}

fn write(file: &dyn File, bytes: &[u8], flags: OpenFlags) -> crate::Result<usize> {
    let mut source = bytes;
    file.write(&mut 0, &mut source, flags)
}

#[test]
fn what_one_side_writes_the_other_reads() {
    let b = both();
    assert_eq!(control(&*b.master, TIOCGPTN, 0), Ok(3));
    assert_eq!(read(&*b.master, NOW), Err(Errno::EAGAIN));
    write(&*b.slave, b"out\n", WAIT).unwrap();
    assert_eq!(read(&*b.master, WAIT).unwrap(), b"out\r\n");
    write(&*b.master, b"in\r", WAIT).unwrap();
    assert_eq!(read(&*b.master, WAIT).unwrap(), b"in\r\n", "the echo");
    assert_eq!(read(&*b.slave, WAIT).unwrap(), b"in\n");
}

#[test]
fn the_opener_s_session_is_signalled() {
    let b = both();
    assert_eq!(b.world.caller.lock().terminal, Some(3));
    assert_eq!(control(&*b.slave, TIOCGPGRP, 0), Ok(42));
    assert_eq!(control(&*b.master, TIOCGSID, 0), Ok(41));
    write(&*b.master, b"\x1a", WAIT).unwrap();
    assert_eq!(*b.world.sent.lock(), [(TtySignal::Suspend, 42)]);
    assert_eq!(read(&*b.master, WAIT).unwrap(), b"^Z");
}

#[test]
fn closing_the_slave_is_an_error_for_the_master_until_it_is_opened_again() {
    let b = both();
    write(&*b.slave, b"last", WAIT).unwrap();
    b.slave.release();
    assert_eq!(read(&*b.master, WAIT).unwrap(), b"last");
    assert_eq!(read(&*b.master, WAIT), Err(Errno::EIO));
    assert!(b.master.poll().contains(Events::HUP));
    let again = b.pty.open_slave(OpenFlags::RDWR).unwrap();
    assert_eq!(read(&*b.master, NOW), Err(Errno::EAGAIN));
    assert!(!b.master.poll().contains(Events::HUP));
    again.release();
}

#[test]
fn closing_the_master_hangs_up() {
    let b = both();
    let slave = b.slave.clone();
    let reader = std::thread::spawn(move || read(&*slave, WAIT));
    std::thread::sleep(Duration::from_millis(20));
    b.master.release();
    assert_eq!(reader.join().unwrap().unwrap(), b"");
    assert_eq!(write(&*b.slave, b"x", WAIT), Err(Errno::EIO));
    assert_eq!(control(&*b.slave, TIOCGWINSZ, 0), Err(Errno::EIO));
    assert_eq!(b.pty.open_slave(OpenFlags::RDWR).err(), Some(Errno::EIO));
    assert_eq!(*b.world.sent.lock(), [(TtySignal::HangUp, 42), (TtySignal::Continue, 42)]);
    assert_eq!(*b.world.ended(), [(41, Ending::HangUp)]);
    assert_eq!(b.farewells.load(Ordering::Relaxed), 1);
}

#[test]
fn writers_wait_for_the_other_side() {
    let b = both();
    set(b.pty.tty(), |termios| {
        termios.lflag &= !(ICANON | ECHO);
        termios.oflag &= !OPOST;
    });
    // The slave's output waits for the master to read.
    let slave = b.slave.clone();
    let writer = std::thread::spawn(move || write(&*slave, &[b'x'; 3 * CAPACITY], WAIT));
    let mut seen = 0;
    while seen < 3 * CAPACITY {
        seen += read(&*b.master, WAIT).unwrap().len();
    }
    assert_eq!(writer.join().unwrap(), Ok(3 * CAPACITY));
    // What the master types waits for the slave.
    assert_eq!(write(&*b.master, &[b'y'; 3 * INPUT_MAX], NOW), Ok(INPUT_MAX));
    assert_eq!(write(&*b.master, b"y", NOW), Err(Errno::EAGAIN));
    assert!(!b.master.poll().contains(Events::WRITABLE));
    assert_eq!(read(&*b.slave, WAIT).unwrap().len(), 100);
    assert_eq!(write(&*b.master, &[b'y'; 500], NOW), Ok(100));
}

#[test]
fn a_line_too_long_does_not_stop_the_master() {
    let b = both();
    assert_eq!(write(&*b.master, &[b'z'; 3 * INPUT_MAX], NOW), Ok(3 * INPUT_MAX));
    assert_eq!(write(&*b.master, b"\n", NOW), Ok(1));
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(read(&*b.slave, NOW).unwrap());
    }
    assert_eq!(line.len(), INPUT_MAX);
}

#[test]
fn packets_tell_what_happened() {
    let b = both();
    control(&*b.master, TIOCPKT, 1).unwrap();
    write(&*b.slave, b"data", WAIT).unwrap();
    assert_eq!(read(&*b.master, WAIT).unwrap(), b"\0data");
    write(&*b.master, b"\x13", WAIT).unwrap();
    assert!(b.master.poll().contains(Events::PRI | Events::READABLE));
    assert_eq!(read(&*b.master, WAIT).unwrap(), [super::super::EVENT_STOP]);
    write(&*b.master, b"\x11", WAIT).unwrap();
    assert_eq!(read(&*b.master, WAIT).unwrap(), [super::super::EVENT_START]);
    set(b.pty.tty(), |termios| termios.iflag &= !IXON);
    assert_eq!(read(&*b.master, WAIT).unwrap(), [super::EVENT_NO_STOP]);
    assert_eq!(read(&*b.master, NOW), Err(Errno::EAGAIN));
}
