//! Tests of contexts, rings and polls, with the program's side of the ring played by hand.

use core::sync::atomic::AtomicUsize;
use std::time::Duration;

use linux_abi::aio::{AIO_RING_MAGIC, AioRing};
use zerocopy::FromBytes;

use super::*;
use crate::eventfd::Take;
use crate::testing::clock;
use crate::{OpenFlags, anon, pipe};

/// A context, and the pages of its ring as the program sees them.
fn context(requests: u32) -> (Arc<AioContext>, Vec<Frame>) {
    let size = Size::for_requests(requests, 1).unwrap();
    let pages: Vec<Frame> = (0..size.pages).map(|_| Frame::alloc_zeroed().unwrap()).collect();
    (AioContext::new(requests, size, pages.clone()).unwrap(), pages)
}

fn header(pages: &[Frame]) -> AioRing {
    let mut bytes = [0; size_of::<AioRing>()];
    pages[0].read(0, &mut bytes);
    AioRing::read_from_bytes(&bytes).unwrap()
}

fn request(data: u64) -> Request {
    Request { data, object: data + 1000, eventfd: None }
}

fn complete(context: &Arc<AioContext>, data: u64) -> Result<()> {
    context.reserve().map(|slot| slot.complete(&request(data), data as i64))
}

fn take(context: &AioContext, least: usize, most: usize) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    let count = context.wait((least, most), Some(0), &mut |events| {
        all.extend(events.iter().map(|event| event.data));
        Ok(())
    })?;
    assert_eq!(count, all.len());
    Ok(all)
}

fn nobody() {}

#[test]
fn sizes_are_those_of_linux() {
    assert_eq!(Size::for_requests(1, 2), Ok(Size { pages: 1, capacity: 127 }));
    assert_eq!(Size::for_requests(128, 2), Ok(Size { pages: 3, capacity: 383 }));
    assert_eq!(Size::for_requests(5_000_000, 2), Err(Errno::EINVAL));
    assert_eq!(Size::for_requests(0x8000_0000, 2), Err(Errno::EAGAIN));
}

#[test]
fn the_program_finds_events_in_the_ring() {
    let (context, pages) = context(1);
    assert_eq!(header(&pages).magic, AIO_RING_MAGIC);
    complete(&context, 7).unwrap();
    let header = header(&pages);
    assert_eq!((header.head, header.tail, header.capacity, header.header_len), (0, 1, 127, 32));
    let mut event = [0; size_of::<IoEvent>()];
    pages[0].read(32, &mut event);
    assert_eq!(IoEvent::read_from_bytes(&event).unwrap(), IoEvent { data: 7, object: 1007, result: 7, result2: 0 });
}

#[test]
fn no_request_is_let_in_whose_event_would_not_fit() {
    let (context, pages) = context(1);
    let all: Vec<u64> = (0..126).collect();
    all.iter().for_each(|&data| complete(&context, data).unwrap());
    assert_eq!(complete(&context, 0), Err(Errno::EAGAIN));
    // The program takes two by itself.
    pages[0].word(8).store(2, Ordering::Relaxed);
    complete(&context, 126).unwrap();
    let slot = context.reserve().unwrap();
    assert_eq!(complete(&context, 0), Err(Errno::EAGAIN));
    drop(slot);
    complete(&context, 127).unwrap();
    assert_eq!(take(&context, 1, 1000).unwrap(), (2..128).collect::<Vec<_>>(), "across the end of the ring, in order");
    assert_eq!(take(&context, 1, 1000).unwrap(), []);
}

#[test]
fn a_head_that_makes_no_sense_harms_nobody() {
    let (context, pages) = context(1);
    for head in [127, 0xffff_ffff, 0x8000_0000, 500] {
        pages[0].word(8).store(head, Ordering::Relaxed);
        pages[0].word(12).store(!head, Ordering::Relaxed);
        while complete(&context, 1).is_ok() {}
        assert!(take(&context, 0, 10_000).unwrap().len() < 127);
    }
}

#[test]
fn events_that_cannot_be_stored_stay() {
    let (context, _pages) = context(1);
    (0..20).for_each(|data| complete(&context, data).unwrap());
    assert_eq!(context.wait((1, 20), None, &mut |_| Err(Errno::EFAULT)), Err(Errno::EFAULT));
    assert_eq!(take(&context, 1, 3).unwrap(), [0, 1, 2]);
    assert_eq!(take(&context, 1, 20).unwrap().len(), 17);
}

#[test]
fn a_wait_ends_when_there_are_enough_events_or_the_context_ends() {
    let (context, _pages) = context(1);
    let other = context.clone();
    let waiter = std::thread::spawn(move || {
        let enough = other.wait((2, 5), None, &mut |_| Ok(()));
        (enough, other.wait((1, 5), None, &mut |_| Ok(())))
    });
    for data in 0..2 {
        std::thread::sleep(Duration::from_millis(10));
        complete(&context, data).unwrap();
    }
    std::thread::sleep(Duration::from_millis(20));
    assert!(context.end() && !context.end());
    assert_eq!(waiter.join().unwrap(), (Ok(2), Err(Errno::EINVAL)));
    assert_eq!(complete(&context, 0), Err(Errno::EINVAL));
}

#[test]
fn polls_complete_when_their_file_is_ready_and_tell_an_eventfd() {
    static WOKEN: AtomicUsize = AtomicUsize::new(0);
    static SERVICE: PollService = PollService::new(|| {
        WOKEN.fetch_add(1, Ordering::Relaxed);
    });
    let (context, _pages) = context(4);
    let (reader, writer) = pipe::create(1, clock, OpenFlags::empty());
    let counter = EventFd::new(0, Take::All);
    let eventfd = anon::open_anonymous(counter.clone(), "counter", 2, OpenFlags::RDWR);
    let submit = |data, file: &Arc<OpenFile>, wanted| {
        let request = Request { eventfd: Some(eventfd.clone()), ..request(data) };
        context.reserve().unwrap().poll(request, file.clone(), wanted, &SERVICE);
    };
    submit(1, &writer, Events::OUT);
    assert_eq!(take(&context, 1, 9).unwrap(), [1], "ready at once");
    submit(2, &reader, Events::IN);
    SERVICE.run();
    assert_eq!(take(&context, 0, 9).unwrap(), []);
    writer.write(&mut b"x".as_slice()).unwrap();
    assert!(WOKEN.load(Ordering::Relaxed) > 0);
    SERVICE.run();
    assert_eq!((take(&context, 1, 9).unwrap(), counter.value()), (alloc::vec![2], 2));
    // One on the very eventfd that it tells.
    submit(3, &eventfd, Events::IN);
    assert_eq!((take(&context, 1, 9).unwrap(), counter.value()), (alloc::vec![3], 3));
}

#[test]
fn a_poll_that_is_cancelled_or_ended_comes_to_nothing_and_lets_its_file_go() {
    static SERVICE: PollService = PollService::new(nobody);
    let (context, _pages) = context(4);
    let (reader, writer) = pipe::create(1, clock, OpenFlags::empty());
    for data in [1, 2] {
        context.reserve().unwrap().poll(request(data), reader.clone(), Events::IN, &SERVICE);
    }
    assert_eq!(context.cancel(1003), Err(Errno::EINVAL));
    assert_eq!(context.cancel(1001), Ok(()));
    assert_eq!(context.cancel(1001), Err(Errno::EINVAL));
    assert_eq!(take(&context, 1, 9).unwrap(), [1]);
    assert!(context.end());
    assert_eq!(Arc::strong_count(&reader), 1);
    writer.write(&mut b"x".as_slice()).unwrap();
    SERVICE.run();
}

#[test]
fn contexts_share_a_limit() {
    let size = Size::for_requests(60_000, 1).unwrap();
    let pages = || (0..size.pages).map(|_| Frame::alloc_zeroed().unwrap()).collect::<Vec<_>>();
    let first = AioContext::new(60_000, size, pages()).unwrap();
    // Other tests' contexts come and go meanwhile.
    assert!(requests() >= 60_000);
    assert_eq!(AioContext::new(60_000, size, pages()).err(), Some(Errno::EAGAIN));
    assert!(first.end());
    assert!(AioContext::new(60_000, size, pages()).is_ok(), "though `first` is still there");
}
