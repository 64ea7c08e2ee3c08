//! The driver against a fake device, also a hostile one.

use super::*;
use crate::virtio::fake::{Fake, FakeMemory, FakeTransport};
use std::collections::HashSet;
use std::sync::{Arc, Mutex as StdMutex};
use std::thread;

const MIB_2: u32 = 2 << 20;

/// The kernel's side: frames 1000 … and blocks from 1 GiB on.
#[derive(Default)]
struct Guest {
    free: StdMutex<Vec<u32>>,
    /// Frames that are out, so that none is given twice.
    out: StdMutex<HashSet<u32>>,
    unreported: StdMutex<Vec<u64>>,
    reported: StdMutex<Vec<u64>>,
}

impl Guest {
    fn new(frames: u32, blocks: u64) -> Arc<Self> {
        let guest = Self::default();
        guest.free.lock().expect("no panic").extend(1000..1000 + frames);
        guest.unreported.lock().expect("no panic").extend((0..blocks).map(|i| (1 << 30) + i * u64::from(MIB_2)));
        Arc::new(guest)
    }

    fn free_frames(&self) -> usize {
        self.free.lock().expect("no panic").len()
    }
}

impl GuestMemory for Arc<Guest> {
    fn take(&self, frames: &mut [u32]) -> usize {
        let mut free = self.free.lock().expect("no panic");
        let count = frames.len().min(free.len());
        for frame in &mut frames[..count] {
            *frame = free.pop().expect("counted");
            assert!(self.out.lock().expect("no panic").insert(*frame));
        }
        count
    }
    fn give_back(&self, frames: &[u32]) {
        for frame in frames {
            assert!(self.out.lock().expect("no panic").remove(frame), "given back twice, or never taken");
            self.free.lock().expect("no panic").push(*frame);
        }
    }
    fn take_unreported(&self, blocks: &mut [Segment]) -> usize {
        let mut unreported = self.unreported.lock().expect("no panic");
        let count = blocks.len().min(unreported.len());
        for block in &mut blocks[..count] {
            *block = Segment { address: PhysAddr(unreported.pop().expect("counted")), len: MIB_2 };
        }
        count
    }
    fn give_back_reported(&self, blocks: &[Segment]) {
        self.reported.lock().expect("no panic").extend(blocks.iter().map(|block| block.address.0));
    }
    fn statistics(&self) -> Statistics {
        Statistics { free_bytes: self.free_frames() as u64 * 4096, total_bytes: 77, ..Statistics::default() }
    }
}

const ALL: u64 = feature::VERSION_1 | F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING;

fn started(guest: &Arc<Guest>, features: u64) -> (Arc<Balloon>, Fake) {
    let transport = FakeTransport { features, config: vec![0; 16].into(), queue_sizes: vec![8; 5], ..Default::default() };
    let fake = Fake(Arc::new(transport));
    let balloon = Balloon::new(Box::new(fake.clone()), &FakeMemory::plenty(), Box::new(guest.clone())).expect("starts");
    (Arc::new(balloon), fake)
}

fn set_target(fake: &Fake, pages: u32) {
    fake.0.config.lock().expect("no panic")[..4].copy_from_slice(&pages.to_le_bytes());
    fake.0.interrupt.fetch_or(2, std::sync::atomic::Ordering::SeqCst);
}

fn actual(fake: &Fake) -> u32 {
    u32::from_le_bytes(fake.0.config.lock().expect("no panic")[4..8].try_into().expect("four bytes"))
}

/// The page numbers of the next request of a queue, which is finished.
fn request(fake: &Fake, queue: u16) -> Option<Vec<u32>> {
    let bytes = fake.receive(queue)?;
    Some(bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes"))).collect())
}

/// Lets device and driver work until neither has anything to do; returns the pages inflated and deflated.
fn run(balloon: &Balloon, fake: &Fake) -> (usize, usize) {
    let (mut inflated, mut deflated) = (0, 0);
    loop {
        balloon.service();
        let (more, less) = (request(fake, INFLATE), request(fake, DEFLATE));
        if more.is_none() && less.is_none() {
            return (inflated, deflated);
        }
        inflated += more.map_or(0, |frames| frames.len());
        deflated += less.map_or(0, |frames| frames.len());
    }
}

#[test]
fn the_balloon_follows_the_target_up_and_down() {
    let guest = Guest::new(5000, 0);
    let (balloon, fake) = started(&guest, ALL);
    set_target(&fake, 2500);
    assert_eq!(run(&balloon, &fake), (2500, 0));
    assert_eq!((actual(&fake), balloon.size(), guest.free_frames()), (2500, 2500, 2500));
    set_target(&fake, 100);
    assert_eq!(run(&balloon, &fake), (0, 2400));
    assert_eq!((actual(&fake), balloon.size(), guest.free_frames()), (100, 100, 4900));
}

#[test]
fn more_than_the_guest_can_spare_is_not_given() {
    let guest = Guest::new(1500, 0);
    let (balloon, fake) = started(&guest, ALL);
    set_target(&fake, u32::MAX);
    assert_eq!(run(&balloon, &fake), (1500, 0));
    assert_eq!(actual(&fake), 1500);
    guest.free.lock().expect("no panic").push(9);
    assert_eq!(run(&balloon, &fake), (1, 0), "the next look finds the page that was freed");
}

#[test]
fn pages_are_the_hosts_until_it_has_seen_the_request_for_them() {
    let guest = Guest::new(10, 0);
    let (balloon, fake) = started(&guest, ALL);
    set_target(&fake, 10);
    run(&balloon, &fake);
    set_target(&fake, 0);
    balloon.service();
    assert_eq!((guest.free_frames(), actual(&fake)), (0, 10));
    assert_eq!(request(&fake, DEFLATE).map(|frames| frames.len()), Some(10));
    balloon.service();
    assert_eq!((guest.free_frames(), actual(&fake)), (10, 0));
}

#[test]
fn without_memory_pages_come_back_at_once_and_the_target_is_not_followed() {
    let guest = Guest::new(3000, 0);
    let (balloon, fake) = started(&guest, ALL);
    set_target(&fake, 3000);
    run(&balloon, &fake);
    assert_eq!(balloon.deflate_on_oom(64, 0), 64);
    assert_eq!(guest.free_frames(), 64);
    assert_eq!(balloon.deflate_on_oom(64, 0), 0, "one request at a time");
    assert_eq!(run(&balloon, &fake), (0, 64));
    assert_eq!((actual(&fake), guest.free_frames()), (2936, 64), "not given back twice, nor inflated again");
    set_target(&fake, 2999);
    assert_eq!(run(&balloon, &fake), (63, 0), "a new target counts");
}

#[test]
fn a_guest_without_memory_waits_for_the_request_before() {
    let guest = Guest::new(3000, 0);
    let (balloon, fake) = started(&guest, ALL);
    set_target(&fake, 3000);
    run(&balloon, &fake);
    assert_eq!(balloon.deflate_on_oom(64, 0), 64);
    let starved = thread::spawn({
        let balloon = balloon.clone();
        move || balloon.deflate_on_oom(100, u64::MAX)
    });
    while !starved.is_finished() {
        let _finished = request(&fake, DEFLATE);
        balloon.service();
        thread::yield_now();
    }
    assert_eq!((starved.join().expect("no panic"), guest.free_frames()), (100, 164));
}

#[test]
fn statistics_are_offered_at_the_start_and_again_whenever_they_were_read() {
    let guest = Guest::new(2, 0);
    let (balloon, fake) = started(&guest, ALL);
    for free in [2_u64, 1] {
        let (head, bytes) = fake.peek(STATISTICS).expect("offered");
        let value = |tag: u16| {
            let entry = bytes.chunks_exact(10).find(|entry| entry[..2] == tag.to_le_bytes()).expect("there");
            u64::from_le_bytes(entry[2..].try_into().expect("eight bytes"))
        };
        assert_eq!((value(4), value(5)), (free * 4096, 77));
        guest.free.lock().expect("no panic").truncate(1);
        fake.give(STATISTICS, head, 0);
        balloon.service();
    }
}

#[test]
fn free_blocks_are_out_of_use_while_the_host_drops_them() {
    let guest = Guest::new(0, 40);
    let (balloon, fake) = started(&guest, ALL);
    let reporter = thread::spawn({
        let balloon = balloon.clone();
        move || [balloon.report(), balloon.report(), balloon.report()]
    });
    let mut seen = Vec::new();
    while !reporter.is_finished() {
        if let Some(chain) = fake.take(3) {
            let given_back = guest.reported.lock().expect("no panic").len();
            assert_eq!(given_back, seen.len(), "still the host's");
            seen.extend(chain.writable.iter().map(|(address, _)| *address));
            fake.give(3, chain.head.into(), 0);
        }
        balloon.service();
        thread::yield_now();
    }
    // The queue has 8 descriptors, so 8 blocks at a time.
    assert_eq!(reporter.join().expect("no panic"), [Ok(8), Ok(8), Ok(8)]);
    assert_eq!((*guest.reported.lock().expect("no panic")).clone(), seen);
}

#[test]
fn the_reporting_queue_comes_after_those_that_the_device_has() {
    for (features, number) in [(F_PAGE_REPORTING, 2), (F_PAGE_REPORTING | F_STATS_VQ | F_FREE_PAGE_HINT, 4)] {
        let (balloon, fake) = started(&Guest::new(0, 0), feature::VERSION_1 | features);
        assert!(balloon.can_report());
        assert!(fake.0.queues.lock().expect("no panic").contains_key(&number), "queue {number}");
        assert_eq!(*fake.0.driver_features.lock().expect("no panic") & F_FREE_PAGE_HINT, 0);
    }
    assert!(!started(&Guest::new(0, 0), feature::VERSION_1).0.can_report());
}

#[test]
fn a_device_that_breaks_the_rules_keeps_what_it_has_and_gets_no_more() {
    let guest = Guest::new(100, 0);
    let (balloon, fake) = started(&guest, ALL);
    set_target(&fake, 50);
    balloon.service();
    fake.give(INFLATE, 7, 0);
    balloon.service();
    set_target(&fake, 100);
    balloon.service();
    assert_eq!((guest.free_frames(), balloon.size()), (50, 0));
    assert_eq!((balloon.deflate_on_oom(10, 0), balloon.report()), (0, Err(Error::Broken)));
}

#[test]
fn too_little_memory_or_no_queue_is_an_error() {
    let make = |pages: usize, queues: usize| {
        let transport = FakeTransport { features: ALL, config: vec![0; 16].into(), queue_sizes: vec![8; queues], ..Default::default() };
        Balloon::new(Box::new(Fake(Arc::new(transport))), &FakeMemory(pages.into()), Box::new(Guest::new(0, 0))).err()
    };
    assert_eq!(make(3, 4), Some(Error::OutOfMemory));
    assert_eq!(make(100, 3), Some(Error::BadQueue));
    assert_eq!(make(100, 4), None);
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Target(u32),
        /// Finishes a request properly.
        Finish(u16),
        /// Returns any descriptor of any queue, with any length.
        Lie(u16, u32, u32),
        OutOfMemory(usize),
        Service,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<u32>().prop_map(|target| Step::Target(target % 4000)),
            1 => any::<u32>().prop_map(Step::Target),
            6 => (0..2_u16).prop_map(Step::Finish),
            1 => (0..4_u16, any::<u32>(), any::<u32>()).prop_map(|(queue, id, len)| Step::Lie(queue, id % 10, len)),
            2 => (0..2000_usize).prop_map(Step::OutOfMemory),
            6 => Just(Step::Service),
        ]
    }

    proptest! {
        /// Whatever the device writes: no frame is given back twice or is lost to neither side.
        #[test]
        fn frames_belong_to_one_side(steps in prop::collection::vec(step(), 1..60)) {
            let guest = Guest::new(3000, 0);
            let (balloon, fake) = started(&guest, ALL);
            for step in steps {
                match step {
                    Step::Target(pages) => set_target(&fake, pages),
                    Step::Finish(queue) => { let _none = request(&fake, queue); }
                    Step::Lie(queue, id, len) => fake.give(queue, id, len),
                    Step::OutOfMemory(pages) => { let _count = balloon.deflate_on_oom(pages, 0); }
                    Step::Service => balloon.service(),
                }
                let out = guest.out.lock().expect("no panic").len();
                prop_assert_eq!(out + guest.free_frames(), 3000);
                prop_assert!(balloon.size() <= out);
            }
        }
    }
}
