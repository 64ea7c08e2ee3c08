//! The driver against a fake device.

use super::*;
use crate::virtio::fake::{Fake, FakeMemory, FakeTransport};
use std::sync::Arc;
use std::thread;

fn rng() -> (Arc<Rng>, Fake) {
    let transport = FakeTransport { features: feature::VERSION_1, queue_sizes: vec![8], ..Default::default() };
    let fake = Fake(Arc::new(transport));
    let rng = Rng::new(Box::new(fake.clone()), &FakeMemory::plenty()).expect("starts");
    (Arc::new(rng), fake)
}

#[test]
fn bytes_come_from_the_device_once_each() {
    let (rng, fake) = rng();
    assert_eq!(*fake.0.notified.lock().expect("no panic"), [0]);
    let mut bytes = [0; 3];
    assert_eq!(rng.try_fill(&mut bytes), Ok(0));
    assert!(fake.send(0, &[1, 2, 3, 4]));
    assert_eq!(rng.try_fill(&mut bytes), Ok(3));
    assert_eq!(bytes, [1, 2, 3]);
    assert_eq!(rng.try_fill(&mut bytes), Ok(1));
    assert_eq!(bytes[0], 4);
    assert_eq!(rng.try_fill(&mut bytes), Ok(0));
    assert!(fake.send(0, &[5]), "asked for more");
}

#[test]
fn a_reader_sleeps_until_all_bytes_are_there() {
    let (rng, fake) = rng();
    let reader = thread::spawn({
        let rng = rng.clone();
        move || {
            let mut bytes = vec![0; 10_000];
            rng.fill(&mut bytes).map(|()| bytes)
        }
    });
    let mut sent: usize = 0;
    while sent < 10_000 {
        if fake.send(0, &[7; 4096]) {
            sent += 4096;
            rng.service();
        }
        thread::yield_now();
    }
    assert_eq!(reader.join().expect("no panic").expect("works"), vec![7; 10_000]);
}

#[test]
fn a_device_that_claims_too_much_is_broken() {
    let (rng, fake) = rng();
    let seen = fake.take(0).expect("asked");
    fake.give(0, seen.head.into(), 4097);
    rng.service();
    assert_eq!(rng.fill(&mut [0; 4]), Err(Error::Broken));
    assert_eq!(rng.try_fill(&mut [0; 4]), Err(Error::Broken));
}

#[test]
fn a_device_that_delivers_nothing_is_asked_again() {
    let (rng, fake) = rng();
    let seen = fake.take(0).expect("asked");
    fake.give(0, seen.head.into(), 0);
    assert_eq!(rng.try_fill(&mut [0; 4]), Ok(0));
    assert!(fake.send(0, &[1]));
}

#[test]
fn too_little_memory_is_an_error() {
    let transport = FakeTransport { features: feature::VERSION_1, queue_sizes: vec![8], ..Default::default() };
    let made = Rng::new(Box::new(Fake(Arc::new(transport))), &FakeMemory(1.into()));
    assert_eq!(made.err(), Some(Error::OutOfMemory));
}
