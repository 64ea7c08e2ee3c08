//! Tests of epoll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{EDGE, EXCLUSIVE, Epoll, Interest, ONESHOT};
use crate::anon::open_anonymous;
use crate::eventfd::{EventFd, Take};
use crate::io::VecSink;
use crate::pipe;
use crate::testing::{Tree, clock};
use crate::{Errno, Events, OpenFile, OpenFlags};

const IN: u32 = Events::IN.bits();
const OUT: u32 = Events::OUT.bits();

fn interest(events: u32, data: u64) -> Interest {
    Interest { events, data }
}

fn pipe() -> (Arc<OpenFile>, Arc<OpenFile>) {
    pipe::create(1, clock, OpenFlags::NONBLOCK)
}

fn taken(epoll: &Epoll, max: usize) -> Vec<Interest> {
    let mut events = Vec::new();
    let count = epoll.take(max, &mut |event| events.push(event));
    assert_eq!(count, events.len());
    events
}

fn waited(epoll: &Epoll, max: usize, deadline: Option<u64>) -> Vec<Interest> {
    let mut events = Vec::new();
    let count = epoll.wait(max, deadline, &mut |event| events.push(event)).unwrap();
    assert_eq!(count, events.len());
    events
}

fn now(epoll: &Epoll) -> Vec<(u32, u64)> {
    taken(epoll, 16).into_iter().map(|event| (event.events, event.data)).collect()
}

fn drain(file: &OpenFile) {
    while file.read(&mut VecSink::new(100_000)).is_ok_and(|n| n > 0) {}
}

#[test]
fn level_triggered_items_report_as_long_as_they_are_ready() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    epoll.add(&reader, 3, interest(IN, 33)).unwrap();
    assert!(now(&epoll).is_empty());
    writer.write(&mut b"abc".as_slice()).unwrap();
    assert_eq!(now(&epoll), [(IN, 33)]);
    assert_eq!(now(&epoll), [(IN, 33)]);
    drain(&reader);
    assert!(now(&epoll).is_empty());
    writer.write(&mut b"abc".as_slice()).unwrap();
    assert_eq!(now(&epoll), [(IN, 33)]);
}

#[test]
fn edge_triggered_items_report_every_change_once() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    writer.write(&mut b"a".as_slice()).unwrap();
    epoll.add(&reader, 3, interest(IN | EDGE, 1)).unwrap();
    assert_eq!(now(&epoll), [(IN, 1)], "ready when added");
    assert!(now(&epoll).is_empty());
    writer.write(&mut b"b".as_slice()).unwrap();
    assert_eq!(now(&epoll), [(IN, 1)], "new data is a new edge though the old was not read");
    assert!(now(&epoll).is_empty());
    epoll.modify(&reader, 3, interest(IN | EDGE, 2)).unwrap();
    assert_eq!(now(&epoll), [(IN, 2)], "MOD arms again");
}

#[test]
fn who_waits_for_data_is_not_woken_by_room() {
    let event = open_anonymous(EventFd::new(0, Take::All), "anon_inode:[eventfd]", 9, OpenFlags::RDWR | OpenFlags::NONBLOCK);
    let epoll = Epoll::new();
    epoll.add(&event, 3, interest(IN | EDGE, 1)).unwrap();
    event.write(&mut 1_u64.to_le_bytes().as_slice()).unwrap();
    assert_eq!(now(&epoll), [(IN, 1)]);
    event.read(&mut VecSink::new(8)).unwrap();
    assert!(epoll.ready.lock().is_empty());
    epoll.modify(&event, 3, interest(IN | OUT | EDGE, 2)).unwrap();
    assert_eq!(now(&epoll), [(OUT, 2)]);
    event.write(&mut 1_u64.to_le_bytes().as_slice()).unwrap();
    assert_eq!(now(&epoll), [(IN | OUT, 2)]);
    event.read(&mut VecSink::new(8)).unwrap();
    assert_eq!(now(&epoll), [(OUT, 2)], "room is news for who waits for that, too");
}

#[test]
fn one_shot_items_rest_until_modified() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    epoll.add(&reader, 3, interest(IN | ONESHOT, 1)).unwrap();
    writer.write(&mut b"a".as_slice()).unwrap();
    assert_eq!(now(&epoll), [(IN, 1)]);
    writer.write(&mut b"a".as_slice()).unwrap();
    drop(writer);
    assert!(now(&epoll).is_empty(), "not even a hang-up");
    epoll.modify(&reader, 3, interest(IN | ONESHOT, 2)).unwrap();
    assert_eq!(now(&epoll), [(IN | Events::HUP.bits(), 2)]);
}

#[test]
fn control_errors_are_those_of_the_manual() {
    let (reader, _writer) = pipe();
    let epoll = Epoll::new();
    assert_eq!(epoll.modify(&reader, 3, interest(IN, 0)), Err(Errno::ENOENT));
    assert_eq!(epoll.remove(&reader, 3), Err(Errno::ENOENT));
    epoll.add(&reader, 3, interest(IN, 0)).unwrap();
    assert_eq!(epoll.add(&reader, 3, interest(IN, 0)), Err(Errno::EEXIST));
    epoll.add(&reader, 4, interest(IN, 0)).unwrap();
    epoll.remove(&reader, 3).unwrap();
    let tree = Tree::empty();
    tree.write("/f", b"").unwrap();
    let file = tree.open("/f", OpenFlags::RDWR).unwrap();
    assert_eq!(epoll.add(&file, 5, interest(IN, 0)), Err(Errno::EPERM));
    assert_eq!(epoll.add(&reader, 6, interest(IN | EXCLUSIVE | ONESHOT, 0)), Err(Errno::EINVAL));
    epoll.add(&reader, 6, interest(IN | EXCLUSIVE, 0)).unwrap();
    assert_eq!(epoll.modify(&reader, 6, interest(IN, 0)), Err(Errno::EINVAL));
}

#[test]
fn closing_the_last_descriptor_removes_the_item() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    epoll.add(&reader, 3, interest(IN, 1)).unwrap();
    let duplicate = reader.clone();
    writer.write(&mut b"x".as_slice()).unwrap();
    drop(reader);
    assert_eq!(now(&epoll), [(IN, 1)], "a duplicate keeps it");
    drop(duplicate);
    assert!(now(&epoll).is_empty());
    assert!(epoll.items.lock().is_empty());
    assert_eq!(writer.write(&mut b"x".as_slice()), Err(Errno::EPIPE), "the item did not keep the file open");
}

#[test]
fn more_ready_files_than_asked_for_take_turns() {
    let epoll = Epoll::new();
    let files: Vec<_> = (0..5)
        .map(|fd| {
            let file = open_anonymous(EventFd::new(1, Take::All), "anon_inode:[eventfd]", 9, OpenFlags::RDWR);
            epoll.add(&file, fd, interest(IN, fd as u64)).unwrap();
            file
        })
        .collect();
    let mut seen: Vec<u64> = (0..3).flat_map(|_| taken(&epoll, 2)).map(|event| event.data).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), files.len());
}

#[test]
fn epoll_files_nest_but_not_in_circles() {
    let (reader, writer) = pipe();
    let open = |epoll: &Arc<Epoll>| open_anonymous(epoll.clone(), "anon_inode:[eventpoll]", 1, OpenFlags::RDWR);
    let (inner, outer) = (Epoll::new(), Epoll::new());
    let (inner_file, outer_file) = (open(&inner), open(&outer));
    inner.add(&reader, 3, interest(IN, 1)).unwrap();
    outer.add(&inner_file, 4, interest(IN, 2)).unwrap();
    assert!(now(&outer).is_empty());
    writer.write(&mut b"x".as_slice()).unwrap();
    assert_eq!(now(&outer), [(IN, 2)]);
    drain(&reader);
    assert!(now(&outer).is_empty());
    assert_eq!(inner.add(&outer_file, 5, interest(IN, 0)), Err(Errno::ELOOP));
    assert_eq!(inner.add(&inner_file, 5, interest(IN, 0)), Err(Errno::EINVAL));
}

#[test]
fn a_waiter_is_woken_by_readiness_and_by_its_deadline() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    epoll.add(&reader, 3, interest(IN, 7)).unwrap();
    assert!(waited(&epoll, 1, Some(sync::monotonic_ns() + 5_000_000)).is_empty());
    let other = epoll.clone();
    let waiter = std::thread::spawn(move || waited(&other, 1, None));
    std::thread::sleep(Duration::from_millis(20));
    writer.write(&mut b"x".as_slice()).unwrap();
    assert_eq!(waiter.join().unwrap(), [interest(IN, 7)]);
}

#[test]
fn no_edge_is_lost_between_threads() {
    const ROUNDS: usize = 2000;
    let event = EventFd::new(0, Take::One);
    let file = open_anonymous(event, "anon_inode:[eventfd]", 1, OpenFlags::RDWR | OpenFlags::NONBLOCK);
    let epoll = Epoll::new();
    epoll.add(&file, 3, interest(IN | EDGE, 0)).unwrap();
    let writer = file.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                writer.write(&mut 1u64.to_le_bytes().as_slice()).unwrap();
            }
        });
        let mut got = 0;
        while got < ROUNDS {
            let deadline = sync::monotonic_ns() + 10_000_000_000;
            assert!(!waited(&epoll, 4, Some(deadline)).is_empty(), "lost after {got}");
            while file.read(&mut VecSink::new(8)).is_ok() {
                got += 1;
            }
        }
    });
}

#[test]
fn writers_are_reported_when_there_is_room() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    epoll.add(&writer, 3, interest(OUT | EDGE, 1)).unwrap();
    assert_eq!(now(&epoll), [(OUT, 1)]);
    writer.write(&mut std::vec![0; 1 << 20].as_slice()).unwrap();
    assert!(now(&epoll).is_empty());
    drain(&reader);
    assert_eq!(now(&epoll), [(OUT, 1)]);
}

#[test]
fn two_who_look_at_once_both_find_what_stays_ready() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    writer.write(&mut b"x".as_slice()).unwrap();
    epoll.add(&reader, 3, interest(IN, 1)).unwrap();
    let other = epoll.clone();
    let looker = std::thread::spawn(move || (0..20_000).all(|_| now(&other) == [(IN, 1)]));
    assert!((0..20_000).all(|_| now(&epoll) == [(IN, 1)]));
    assert!(looker.join().unwrap());
}

#[test]
fn what_is_watched_can_be_listed() {
    let (reader, writer) = pipe();
    let epoll = Epoll::new();
    epoll.add(&writer, 9, interest(OUT, 5)).unwrap();
    epoll.add(&reader, 3, interest(IN | ONESHOT, 4)).unwrap();
    let ino = reader.inode().metadata().ino;
    assert_eq!(epoll.watched(), [(3, interest(IN | ONESHOT, 4), ino), (9, interest(OUT, 5), ino)]);
    epoll.remove(&writer, 9).unwrap();
    writer.write(&mut b"x".as_slice()).unwrap();
    assert_eq!(now(&epoll), [(IN, 4)]);
    assert_eq!(epoll.watched(), [(3, interest(ONESHOT, 4), ino)], "reported once and disarmed");
}

/// Ready when it is told so; lets one know.
struct Bell {
    queue: sync::WaitQueue,
    rings: AtomicBool,
}

impl crate::file::File for Bell {
    fn read(&self, _: &mut u64, _: &mut dyn crate::io::Sink, _: OpenFlags) -> crate::Result<usize> {
        Err(Errno::EINVAL)
    }

    fn write(&self, _: &mut u64, _: &mut dyn crate::io::Source, _: OpenFlags) -> crate::Result<usize> {
        Err(Errno::EINVAL)
    }

    fn poll(&self) -> Events {
        if self.rings.load(Ordering::SeqCst) { Events::IN } else { Events::empty() }
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&sync::WaitQueue)) {
        visit(&self.queue);
    }
}

/// nginx takes its listening socket out of a worker's set and puts it in again. What was taken out lay on the ready list still, heard of the next
/// connection as the one that is told, and threw it away.
#[test]
fn what_was_removed_takes_no_wake_from_others() {
    let bell = Arc::new(Bell { queue: sync::WaitQueue::new(), rings: AtomicBool::new(true) });
    let file = open_anonymous(bell.clone(), "bell", 1, OpenFlags::RDWR);
    let (first, second) = (Epoll::new(), Epoll::new());
    first.add(&file, 3, interest(IN | EXCLUSIVE, 1)).unwrap();
    assert_eq!(now(&first), [(IN, 1)]);
    first.remove(&file, 3).unwrap();
    bell.rings.store(false, Ordering::SeqCst);
    second.add(&file, 3, interest(IN | EXCLUSIVE, 2)).unwrap();
    std::thread::scope(|scope| {
        let deadline = sync::monotonic_ns() + 1_000_000_000;
        let waiting = &first;
        scope.spawn(move || assert!(waited(waiting, 1, Some(deadline)).is_empty()));
        while !first.waiters.has_waiters() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // They take turns at being asked first.
        for _ in 0..2 {
            bell.rings.store(true, Ordering::SeqCst);
            bell.queue.wake_one();
            assert_eq!(now(&second), [(IN, 2)]);
            bell.rings.store(false, Ordering::SeqCst);
            assert!(now(&second).is_empty());
        }
    });
}
