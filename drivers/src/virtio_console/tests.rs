//! The driver against a fake host with QEMU's manners, and against hostile ones.

use super::*;
use crate::virtio::fake::{Fake, FakeMemory, FakeTransport};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

const RX1: u16 = 4;
const TX1: u16 = 5;

fn fake(features: u64) -> Fake {
    Fake(Arc::new(FakeTransport {
        features: feature::VERSION_1 | features,
        config: vec![80, 0, 25, 0, 31, 0, 0, 0].into(),
        queue_sizes: vec![128; 64],
        ..Default::default()
    }))
}

fn started(features: u64) -> (Arc<Console>, Fake) {
    let fake = fake(FEATURE_MULTIPORT | features);
    let console = Console::new(Box::new(fake.clone()), Box::new(FakeMemory::plenty())).expect("starts");
    (console, fake)
}

fn message(port: u32, event: u16, value: u16, text: &[u8]) -> Vec<u8> {
    [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes(), text].concat()
}

fn sent(fake: &Fake) -> Option<(u32, u16, u16)> {
    let m = fake.receive(CONTROL_TRANSMIT)?;
    assert_eq!(m.len(), 8);
    let word = |i| u16::from_le_bytes([m[i], m[i + 1]]);
    Some((u32::from_le_bytes([m[0], m[1], m[2], m[3]]), word(4), word(6)))
}

/// A console with port 1, "data", opened by the host.
fn with_port(features: u64) -> (Arc<Console>, Fake, Port) {
    let (console, fake) = started(features);
    assert_eq!(sent(&fake), Some((u32::MAX, control::DEVICE_READY, 1)));
    assert!(fake.send(CONTROL_RECEIVE, &message(1, PORT_ADD, 1, b"")));
    console.service(u64::MAX);
    assert_eq!(sent(&fake), Some((1, PORT_READY, 1)));
    assert_eq!(sent(&fake), Some((1, PORT_OPEN, 1)));
    assert!(fake.send(CONTROL_RECEIVE, &message(1, PORT_NAME, 1, b"data\0")));
    assert!(fake.send(CONTROL_RECEIVE, &message(1, PORT_OPEN, 1, b"")));
    console.service(u64::MAX);
    let port = console.port("data").expect("named");
    assert!(port.is_open());
    (console, fake, port)
}

#[test]
fn ports_are_announced_answered_and_found_by_name() {
    let (console, _, port) = with_port(0);
    assert_eq!(port.name(), "data");
    assert!(console.port("stdin").is_none());
    assert_eq!(console.wait_port("stdin", Some(1)).err(), Some(PortError::TimedOut));
}

#[test]
fn a_thread_waits_for_its_port() {
    let (console, fake) = started(0);
    let waiter = thread::spawn({
        let console = console.clone();
        move || console.wait_port("late", None).map(|p| p.name().to_string())
    });
    fake.send(CONTROL_RECEIVE, &message(2, PORT_ADD, 1, b""));
    console.service(u64::MAX);
    fake.send(CONTROL_RECEIVE, &message(2, PORT_NAME, 1, b"late"));
    console.service(u64::MAX);
    assert_eq!(waiter.join().expect("no panic"), Ok("late".to_string()));
}

#[test]
fn single_port_devices_are_refused() {
    let made = Console::new(Box::new(fake(0)), Box::new(FakeMemory::plenty()));
    assert_eq!(made.err(), Some(Error::MissingFeature));
    let poor = Console::new(Box::new(fake(FEATURE_MULTIPORT)), Box::new(FakeMemory(2.into())));
    assert_eq!(poor.err(), Some(Error::OutOfMemory));
}

#[test]
fn ports_beyond_the_drivers_limit_are_turned_down() {
    let (console, fake) = started(0);
    sent(&fake);
    fake.send(CONTROL_RECEIVE, &message(8, PORT_ADD, 1, b""));
    fake.send(CONTROL_RECEIVE, &message(u32::MAX, PORT_ADD, 1, b""));
    console.service(u64::MAX);
    assert_eq!(sent(&fake), Some((8, PORT_READY, 0)));
    assert_eq!(sent(&fake), Some((u32::MAX, PORT_READY, 0)));
}

#[test]
fn data_is_read_in_order_and_the_end_comes_after_it() {
    let (console, fake, port) = with_port(0);
    let mut buffer = [0; 6];
    assert_eq!(port.read(&mut buffer, Wait::No), Err(PortError::WouldBlock));
    assert!(!port.is_readable());
    fake.send(RX1, b"hello ");
    fake.send(RX1, b"world");
    fake.send(CONTROL_RECEIVE, &message(1, PORT_OPEN, 0, b""));
    console.service(u64::MAX);
    assert_eq!(port.available(), 11);
    assert_eq!(port.read(&mut buffer[..4], Wait::No), Ok(4));
    assert_eq!(port.read(&mut buffer, Wait::No), Ok(6));
    assert_eq!(&buffer, b"o worl");
    assert_eq!(port.read(&mut buffer, Wait::FOREVER), Ok(1));
    assert!(port.is_readable() && port.is_closed());
    assert_eq!(port.read(&mut buffer, Wait::FOREVER), Ok(0));
    assert_eq!(port.write(b"x", Wait::FOREVER), Err(PortError::Closed));
}

#[test]
fn receive_buffers_are_offered_again() {
    let (_console, fake, port) = with_port(feature::EVENT_IDX);
    let mut buffer = vec![0; 8192];
    for round in 0..100_u8 {
        let mut count = 0;
        while fake.send(RX1, &vec![round; 4096]) {
            count += 1;
        }
        assert_eq!(count, 8);
        let mut total = 0;
        while let Ok(n) = port.read(&mut buffer, Wait::No) {
            assert!(buffer[..n].iter().all(|b| *b == round));
            total += n;
        }
        assert_eq!(total, 8 * 4096);
    }
}

#[test]
fn small_writes_are_not_split_and_large_ones_fill_the_memory() {
    let (_console, fake, port) = with_port(0);
    assert_eq!(port.write(b"abc", Wait::No), Ok(3));
    assert_eq!(fake.receive(TX1).as_deref(), Some(&b"abc"[..]));
    let large = vec![7; 1 << 20];
    let taken = port.write(&large, Wait::No).expect("some");
    assert_eq!(taken, 32 * 4096);
    assert!(!port.is_writable());
    assert_eq!(port.write(b"more", Wait::No), Err(PortError::WouldBlock));
    assert_eq!(port.write(b"more", Wait::Until(Some(1), Interrupt::Ignored)), Err(PortError::TimedOut));
    let pieces: Vec<usize> = std::iter::from_fn(|| fake.receive(TX1)).map(|d| d.len()).collect();
    assert_eq!(pieces, [65536, 65536]);
    assert!(port.is_writable());
}

/// Services and empties the transmit queue until told to stop; returns what came.
fn pump(console: &Console, fake: &Fake, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        match fake.receive(TX1) {
            Some(data) => all.extend(data),
            None => thread::yield_now(),
        }
        console.service(u64::MAX);
    }
    all
}

#[test]
fn writers_sleep_for_room_and_nothing_is_lost() {
    for features in [0, feature::EVENT_IDX] {
        let (console, fake, port) = with_port(features);
        const EACH: usize = 2 << 20;
        let writers: Vec<_> = (1..=3u8)
            .map(|id| {
                let port = port.clone();
                thread::spawn(move || port.write(&vec![id; EACH], Wait::FOREVER))
            })
            .collect();
        let all = pump(&console, &fake, 3 * EACH);
        for writer in writers {
            assert_eq!(writer.join().expect("no panic"), Ok(EACH));
        }
        for id in 1..=3 {
            assert_eq!(all.iter().filter(|b| **b == id).count(), EACH);
        }
        assert_eq!(port.flush(Some(1)), Ok(()));
    }
}

#[test]
fn a_reader_sleeps_until_data_comes() {
    for features in [0, feature::EVENT_IDX] {
        let (console, fake, port) = with_port(features);
        let reader = thread::spawn(move || {
            let (mut total, mut buffer) = (0, [0; 1000]);
            loop {
                match port.read(&mut buffer, Wait::INTERRUPTIBLE) {
                    Ok(0) => return total,
                    Ok(n) => total += n,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let mut left = 500;
        while left > 0 {
            if fake.send(RX1, &[1; 777]) {
                left -= 1;
            }
            console.service(u64::MAX);
        }
        fake.send(CONTROL_RECEIVE, &message(1, PORT_OPEN, 0, b""));
        console.service(u64::MAX);
        assert_eq!(reader.join().expect("no panic"), 500 * 777);
    }
}

#[test]
fn flush_waits_for_the_device() {
    let (console, fake, port) = with_port(feature::EVENT_IDX);
    assert_eq!(port.write(b"last words", Wait::FOREVER), Ok(10));
    assert_eq!(console.flush(Some(sync::monotonic_ns() + 1_000_000)), Err(PortError::TimedOut));
    let flusher = thread::spawn({
        let console = console.clone();
        move || console.flush(None)
    });
    assert_eq!(pump(&console, &fake, 10), b"last words");
    assert_eq!(flusher.join().expect("no panic"), Ok(()));
}

struct Count(AtomicUsize);

impl sync::Notify for Count {
    fn notify(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn pollers_hear_of_data_and_room() {
    let (console, fake, port) = with_port(0);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let registration = port.read_queue().register(count.clone());
    fake.send(RX1, b"x");
    console.service(u64::MAX);
    assert!(count.0.load(SeqCst) > 0 && port.is_readable());
    drop(registration);
    assert_eq!(port.write(&vec![0; 1 << 20], Wait::No), Ok(131_072));
    count.0.store(0, SeqCst);
    let _registration = port.write_queue().register(count.clone());
    assert!(!port.is_writable());
    fake.receive(TX1);
    console.service(u64::MAX);
    assert!(count.0.load(SeqCst) > 0 && port.is_writable());
}

#[test]
fn scarce_memory_means_smaller_buffers() {
    let fake = fake(FEATURE_MULTIPORT);
    // Rings 6, control 2, receive 8: five pages are left, so one page for transmitting.
    let console = Console::new(Box::new(fake.clone()), Box::new(FakeMemory(21.into()))).expect("starts");
    fake.send(CONTROL_RECEIVE, &message(1, PORT_ADD, 1, b""));
    fake.send(CONTROL_RECEIVE, &message(1, PORT_NAME, 1, b"data"));
    console.service(u64::MAX);
    let port = console.port("data").expect("named");
    assert_eq!(port.write(&[1; 5000], Wait::No), Ok(4096));
}

fn broken(act: impl FnOnce(&Fake)) {
    let (console, fake, port) = with_port(0);
    let reader = thread::spawn({
        let port = port.clone();
        move || port.read(&mut [0; 10], Wait::FOREVER)
    });
    act(&fake);
    console.service(u64::MAX);
    assert_eq!(reader.join().expect("no panic"), Err(PortError::Device(Error::Broken)));
    assert!(console.is_broken() && port.is_readable() && port.is_writable());
    assert_eq!(port.write(b"x", Wait::FOREVER), Err(PortError::Device(Error::Broken)));
    assert_eq!(console.wait_port("other", None).err(), Some(PortError::Device(Error::Broken)));
}

#[test]
fn a_device_that_breaks_the_rules_wakes_everybody_with_an_error() {
    broken(|f| f.give(RX1, 77, 0));
    broken(|f| {
        let seen = f.take(RX1).expect("offered");
        f.give(RX1, seen.head.into(), 4097);
    });
    broken(|f| f.give(CONTROL_RECEIVE, 3, 257));
    broken(|f| f.give(TX1, 0, 0));
}

#[test]
fn a_device_that_asks_and_never_listens_is_broken() {
    let (console, fake) = started(0);
    for _ in 0..2000 {
        fake.send(CONTROL_RECEIVE, &message(9, PORT_ADD, 1, b""));
        console.service(u64::MAX);
    }
    assert!(console.is_broken());
}

#[test]
fn odd_control_messages_are_ignored() {
    let (console, fake, port) = with_port(0);
    let odd: [&[u8]; 6] = [
        b"",
        b"1234567",
        &message(1, 99, 1, b""),
        &message(77, PORT_NAME, 1, b"ghost"),
        &message(1, PORT_NAME, 1, b"renamed"),
        &message(2, PORT_NAME, 1, &[0xff; 248]),
    ];
    for m in odd {
        fake.send(CONTROL_RECEIVE, m);
        console.service(u64::MAX);
    }
    assert!(!console.is_broken());
    assert_eq!(port.name(), "data");
    assert!(console.port("ghost").is_none());
}

#[test]
fn an_interrupt_that_never_ends_does_not_hold_the_thread_for_ever() {
    struct Nagging(Fake);
    impl Transport for Nagging {
        fn take_interrupt(&self) -> virtio::InterruptCause {
            virtio::InterruptCause { queue: true, config: true }
        }
        fn device_id(&self) -> u32 {
            self.0.device_id()
        }
        fn device_features(&self) -> u64 {
            self.0.device_features()
        }
        fn set_driver_features(&self, features: u64) {
            self.0.set_driver_features(features);
        }
        fn status(&self) -> u8 {
            self.0.status()
        }
        fn set_status(&self, status: u8) {
            self.0.set_status(status);
        }
        fn max_queue_size(&self, queue: u16) -> u16 {
            self.0.max_queue_size(queue)
        }
        fn set_queue(&self, queue: u16, size: u16, addresses: [addr::PhysAddr; 3]) -> Result<(), Error> {
            self.0.set_queue(queue, size, addresses)
        }
        fn notify(&self, queue: u16) {
            self.0.notify(queue);
        }
        fn read_config_bytes(&self, offset: usize, bytes: &mut [u8]) {
            self.0.read_config_bytes(offset, bytes);
        }
        fn write_config_bytes(&self, _: usize, _: &[u8]) {}
        fn config_generation(&self) -> u32 {
            self.0.config_generation()
        }
    }
    let nagging = Nagging(fake(FEATURE_MULTIPORT));
    let console = Console::new(Box::new(nagging), Box::new(FakeMemory::plenty())).expect("starts");
    console.service(u64::MAX);
}

#[test]
fn an_interrupt_of_one_queue_has_no_other_looked_at() {
    let fake = Fake(Arc::new(FakeTransport {
        features: feature::VERSION_1 | FEATURE_MULTIPORT,
        config: vec![80, 0, 25, 0, 31, 0, 0, 0].into(),
        queue_sizes: vec![128; 64],
        messages: 32,
        ..Default::default()
    }));
    let console = Console::new(Box::new(fake.clone()), Box::new(FakeMemory::plenty())).expect("starts");
    assert_eq!(console.messages(), 32);
    let raised_by = |queue: u16| 1 << (queue + 1);
    fake.send(CONTROL_RECEIVE, &message(1, PORT_ADD, 1, b""));
    fake.send(CONTROL_RECEIVE, &message(1, PORT_NAME, 1, b"data"));
    console.service(raised_by(RX1));
    assert!(console.port("data").is_none());
    console.service(raised_by(CONTROL_RECEIVE));
    let port = console.port("data").expect("named");
    let reader = thread::spawn(move || {
        let mut byte = [0];
        port.read(&mut byte, Wait::FOREVER).map(|_| byte[0])
    });
    fake.send(RX1, b"x");
    console.service(raised_by(RX1));
    assert_eq!(reader.join().expect("no panic"), Ok(b'x'));
}
