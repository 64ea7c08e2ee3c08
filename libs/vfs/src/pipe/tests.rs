//! Tests of pipes and FIFOs.

use std::sync::Arc;
use std::time::Duration;
use std::vec::Vec;

use super::{DEFAULT_CAPACITY, PIPE_BUF, PipeEnd, create};
use crate::io::VecSink;
use crate::testing::{Tree, clock};
use crate::{Errno, Events, FileKind, OpenFile, OpenFlags};

fn pipe(flags: OpenFlags) -> (Arc<OpenFile>, Arc<OpenFile>) {
    create(12, clock, flags)
}

fn read(end: &OpenFile, max: usize) -> crate::Result<Vec<u8>> {
    let mut sink = VecSink::new(max);
    end.read(&mut sink)?;
    Ok(sink.into_vec())
}

#[test]
fn bytes_pass_and_the_end_is_seen_when_the_writer_is_gone() {
    let (reader, writer) = pipe(OpenFlags::empty());
    assert_eq!(writer.write(&mut b"hello".as_slice()), Ok(5));
    assert_eq!(read(&reader, 3).unwrap(), b"hel");
    drop(writer);
    assert_eq!(read(&reader, 10).unwrap(), b"lo");
    assert_eq!(read(&reader, 10).unwrap(), b"");
    assert_eq!(reader.file().poll(), Events::HUP);
}

#[test]
fn writing_without_a_reader_is_epipe() {
    let (reader, writer) = pipe(OpenFlags::empty());
    drop(reader);
    assert_eq!(writer.write(&mut b"x".as_slice()), Err(Errno::EPIPE));
    assert!(writer.file().poll().contains(Events::ERR));
}

#[test]
fn nonblocking_ends_say_eagain() {
    let (reader, writer) = pipe(OpenFlags::NONBLOCK);
    assert_eq!(read(&reader, 1), Err(Errno::EAGAIN));
    let big = std::vec![1u8; 2 * DEFAULT_CAPACITY];
    assert_eq!(writer.write(&mut big.as_slice()), Ok(DEFAULT_CAPACITY));
    assert_eq!(writer.write(&mut b"x".as_slice()), Err(Errno::EAGAIN));
    assert!(!writer.file().poll().contains(Events::OUT));
    read(&reader, PIPE_BUF - 1).unwrap();
    assert_eq!(writer.write(&mut [0; PIPE_BUF].as_slice()), Err(Errno::EAGAIN), "all or nothing up to PIPE_BUF");
    assert_eq!(writer.write(&mut [0; PIPE_BUF + 1].as_slice()), Ok(PIPE_BUF - 1), "part of a larger one");
}

#[test]
fn blocked_readers_and_writers_go_on() {
    let (reader, writer) = pipe(OpenFlags::empty());
    let data: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
    std::thread::scope(|scope| {
        let sent = &data;
        scope.spawn(move || {
            assert_eq!(writer.write(&mut sent.as_slice()), Ok(sent.len()));
        });
        let mut got = Vec::new();
        loop {
            let part = read(&reader, 12_345).unwrap();
            if part.is_empty() {
                break;
            }
            got.extend(part);
        }
        assert!(got == data);
    });
}

#[test]
fn a_reader_going_away_wakes_a_blocked_writer_with_what_it_wrote() {
    let (reader, writer) = pipe(OpenFlags::empty());
    let written = std::thread::spawn(move || writer.write(&mut std::vec![0u8; 3 * DEFAULT_CAPACITY].as_slice()));
    std::thread::sleep(Duration::from_millis(50));
    drop(reader);
    assert_eq!(written.join().unwrap(), Ok(DEFAULT_CAPACITY));
}

#[test]
fn the_capacity_can_be_changed() {
    let (reader, writer) = pipe(OpenFlags::NONBLOCK);
    let end = writer.downcast::<PipeEnd>().unwrap();
    assert_eq!(end.pipe().capacity(), DEFAULT_CAPACITY);
    assert_eq!(end.pipe().set_capacity(5000), Ok(8192));
    assert_eq!(writer.write(&mut [0; 10_000].as_slice()), Ok(8192));
    assert_eq!(end.pipe().set_capacity(4096), Err(Errno::EBUSY));
    assert_eq!(end.pipe().set_capacity(0), Err(Errno::EINVAL));
    assert_eq!(end.pipe().set_capacity(1 << 30), Err(Errno::EPERM));
    assert_eq!(reader.inode().kind(), FileKind::Fifo);
    assert_eq!(reader.path(&Tree::empty().root), b"pipe:[12]");
}

#[test]
fn a_fifo_joins_its_openers() {
    let tree = Arc::new(Tree::empty());
    tree.context().make(&tree.root, b"/fifo", FileKind::Fifo, 0o666, 0).unwrap();
    assert_eq!(tree.open("/fifo", OpenFlags::WRONLY | OpenFlags::NONBLOCK).err(), Some(Errno::ENXIO));
    let other = tree.clone();
    let writer = std::thread::spawn(move || {
        let end = other.open("/fifo", OpenFlags::WRONLY).unwrap();
        end.write(&mut b"through".as_slice()).unwrap();
    });
    let reader = tree.open("/fifo", OpenFlags::RDONLY).unwrap();
    writer.join().unwrap();
    assert_eq!(read(&reader, 100).unwrap(), b"through");
    let idle = tree.open("/fifo", OpenFlags::RDONLY | OpenFlags::NONBLOCK).unwrap();
    assert_eq!(read(&idle, 1).unwrap(), b"", "no writer: end of file");
}

#[test]
fn a_pipe_can_be_opened_again_through_its_inode() {
    let (reader, writer) = pipe(OpenFlags::empty());
    let tree = Tree::empty();
    let again = tree.context().reopen(reader.location(), OpenFlags::WRONLY).unwrap();
    drop(writer);
    again.write(&mut b"x".as_slice()).unwrap();
    assert_eq!(read(&reader, 1).unwrap(), b"x");
}

#[test]
fn packets_are_read_one_by_one_and_what_does_not_fit_is_dropped() {
    let (reader, writer) = create(1, clock, OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let read = |room| {
        let mut sink = VecSink::new(room);
        reader.read(&mut sink).map(|_| sink.into_vec())
    };
    for packet in ["first", "second", "third"] {
        writer.write(&mut packet.as_bytes()).unwrap();
    }
    assert_eq!(read(100).unwrap(), b"first");
    assert_eq!(read(3).unwrap(), b"sec");
    writer.set_status(OpenFlags::NONBLOCK);
    writer.write(&mut b"a stream".as_slice()).unwrap();
    writer.write(&mut b" again".as_slice()).unwrap();
    assert_eq!(read(100).unwrap(), b"third");
    assert_eq!(read(3).unwrap(), b"a s");
    assert_eq!(read(100).unwrap(), b"tream again");
    writer.set_status(OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    writer.write(&mut [b'x'; 5000].as_slice()).unwrap();
    assert_eq!((read(9000).unwrap().len(), read(9000).unwrap().len()), (4096, 904));
    assert_eq!(read(1), Err(Errno::EAGAIN));
}

#[test]
fn a_pipe_that_is_opened_again_waits_for_nobody() {
    let (reader, writer) = pipe(OpenFlags::empty());
    assert_eq!(writer.write(&mut b"left".as_slice()), Ok(4));
    drop(writer);
    let again = reader.inode().clone().open(OpenFlags::RDONLY).unwrap();
    let mut sink = VecSink::new(10);
    assert_eq!(again.read(&mut 0, &mut sink, OpenFlags::RDONLY), Ok(4));
    assert_eq!(again.read(&mut 0, &mut sink, OpenFlags::RDONLY), Ok(0));
    drop(reader);
    again.release();
}
