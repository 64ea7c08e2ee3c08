//! The queue against working and hostile devices.

use crate::fake::{Device, Seen, queue, region};
use crate::*;
use addr::PhysAddr;

fn segment(address: u64, len: u32) -> Segment {
    Segment { address: PhysAddr(address), len }
}

fn push(queue: &mut Virtqueue<u32>, readable: &[(u64, u32)], writable: &[(u64, u32)], token: u32) -> bool {
    let list = |s: &[(u64, u32)]| s.iter().map(|(a, l)| segment(*a, *l)).collect::<Vec<_>>();
    // SAFETY: the fake device does not access the segments.
    unsafe { queue.push(&list(readable), &list(writable), token) }.is_ok()
}

fn simple(size: u16) -> (Virtqueue<u32>, Device) {
    queue(size, Features::default())
}

#[test]
fn the_layout_is_the_specifications() {
    let l = Layout::new(256).expect("valid");
    assert_eq!((l.avail(), l.used()), (4096, 4096 + 4 + 512 + 2 + 2));
    assert_eq!(l.bytes(), l.used() + 4 + 2048 + 2);
    for bad in [0, 3, 100, 65535, 32769] {
        assert_eq!(Layout::new(bad), None);
    }
}

#[test]
fn bad_memory_is_refused() {
    let make = |size, region| Virtqueue::<u32>::new(size, region, Features::default()).err();
    assert_eq!(make(3, region(4096)), Some(CreateError::BadSize));
    assert_eq!(make(256, region(4096)), Some(CreateError::BadRegion));
    assert_eq!(make(8, region(4096).slice(8, 4000).expect("inside")), Some(CreateError::BadRegion));
}

#[test]
fn a_chain_arrives_as_given_and_comes_back() {
    let (mut q, mut d) = simple(8);
    assert!(push(&mut q, &[(0x1000, 16), (0x2000, 1)], &[(0x3000, 512)], 7));
    let seen = d.take().expect("published");
    assert_eq!(seen.readable, [(0x1000, 16), (0x2000, 1)]);
    assert_eq!(seen.writable, [(0x3000, 512)]);
    assert_eq!((q.free_descriptors(), q.in_flight()), (5, 1));
    assert_eq!(q.pop(), Ok(None));
    d.give(seen.head.into(), 512);
    assert_eq!(q.pop(), Ok(Some(Completion { token: 7, written: 512 })));
    assert_eq!((q.free_descriptors(), q.in_flight()), (8, 0));
}

#[test]
fn indirect_chains_take_one_descriptor() {
    let features = Features { indirect: Some(region(4 * 4 * 16)), event_idx: false };
    let (mut q, mut d) = queue::<u32>(4, features);
    for token in 0..4 {
        assert!(push(&mut q, &[(0x1000, 1), (0x2000, 2)], &[(0x3000 + u64::from(token), 3)], token));
    }
    assert!(!push(&mut q, &[(0x1000, 1)], &[], 9));
    let all: Vec<Seen> = std::iter::from_fn(|| d.take()).collect();
    assert_eq!(all.len(), 4);
    for (i, seen) in all.iter().enumerate() {
        assert_eq!(seen.writable, [(0x3000 + i as u64, 3)]);
        d.give(seen.head.into(), 0);
    }
    assert_eq!(std::iter::from_fn(|| q.pop().expect("honest")).count(), 4);
    // Five segments do not fit into a table of four and take descriptors instead: too many here.
    assert!(!push(&mut q, &[(1, 1); 5], &[], 0));
    assert!(push(&mut q, &[(1, 1); 4], &[], 0));
}

#[test]
fn chains_that_never_fit_are_refused() {
    let (mut q, _) = simple(4);
    assert!(!push(&mut q, &[], &[], 0));
    assert!(!push(&mut q, &[(0x1000, 0)], &[], 0));
    assert!(!push(&mut q, &[(0x1000, 1); 5], &[], 0));
    assert!(!push(&mut q, &[], &[(0x1000, u32::MAX); 2], 0));
    assert!(push(&mut q, &[(0x1000, 1); 4], &[], 0));
    assert!(!push(&mut q, &[(0x1000, 1)], &[], 0));
}

#[test]
fn completions_in_any_order_recycle_every_descriptor() {
    let (mut q, mut d) = simple(16);
    let mut random = 1u32;
    let mut held: Vec<(Seen, u32)> = Vec::new();
    let mut next = 0;
    // More than 65536 chains: the indices wrap.
    for _ in 0..200_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = 1 + (random >> 20) as usize % 3;
        if push(&mut q, &vec![(0x1000, 8); len], &[], next) {
            held.push((d.take().expect("published"), next));
            next += 1;
        } else {
            let (seen, token) = held.swap_remove((random >> 8) as usize % held.len());
            d.give(seen.head.into(), 0);
            assert_eq!(q.pop().expect("honest").map(|c| c.token), Some(token));
        }
        let used: usize = held.iter().map(|(s, _)| s.readable.len()).sum();
        assert_eq!(usize::from(q.free_descriptors()), 16 - used);
        assert_eq!(usize::from(q.in_flight()), held.len());
    }
    assert!(next > 70_000);
}

fn broken_by(act: impl FnOnce(&mut Device, u16)) -> Violation {
    let (mut q, mut d) = simple(8);
    assert!(push(&mut q, &[(0x1000, 16)], &[(0x2000, 100)], 1));
    let head = d.take().expect("published").head;
    act(&mut d, head);
    let violation = loop {
        match q.pop() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("not noticed"),
            Err(violation) => break violation,
        }
    };
    assert_eq!(q.pop(), Err(Violation::Broken));
    assert!(!push(&mut q, &[(0x1000, 1)], &[], 2), "a broken queue takes nothing");
    violation
}

#[test]
fn a_used_index_beyond_what_is_in_flight_is_noticed() {
    assert_eq!(broken_by(|d, _| d.set_used_index(2)), Violation::UsedIndex { claimed: 2, seen: 0 });
    assert_eq!(broken_by(|d, _| d.set_used_index(0xffff)), Violation::UsedIndex { claimed: 0xffff, seen: 0 });
}

#[test]
fn wrong_ids_are_noticed() {
    assert_eq!(broken_by(|d, _| d.give(5, 0)), Violation::UnknownId(5));
    assert_eq!(broken_by(|d, head| d.give(u32::from(head) + 1, 0)), Violation::UnknownId(1), "middle of a chain");
    assert_eq!(broken_by(|d, _| d.give(8, 0)), Violation::UnknownId(8));
    assert_eq!(broken_by(|d, _| d.give(0x1_0000, 0)), Violation::UnknownId(0x1_0000));
}

#[test]
fn a_chain_returned_twice_is_noticed() {
    let (mut q, mut d) = simple(8);
    for token in 0..2 {
        assert!(push(&mut q, &[(0x1000, 16)], &[], token));
    }
    let head = d.take().expect("published").head;
    d.give(head.into(), 0);
    d.give(head.into(), 0);
    assert!(q.pop().is_ok());
    assert_eq!(q.pop(), Err(Violation::UnknownId(head.into())));
}

#[test]
fn lengths_beyond_the_writable_part_are_noticed() {
    let violation = broken_by(|d, head| d.give(head.into(), 101));
    assert_eq!(violation, Violation::TooLong { written: 101, capacity: 100 });
}

#[test]
fn a_scribbled_descriptor_table_does_not_confuse_the_driver() {
    let (mut q, mut d) = simple(8);
    for token in 0..2 {
        assert!(push(&mut q, &[(0x1000, 16), (0x2000, 1)], &[], token));
    }
    let heads = [d.take().expect("published").head, d.take().expect("published").head];
    d.scribble();
    for head in heads {
        d.give(head.into(), 0);
        assert!(q.pop().expect("honest").is_some());
    }
    assert_eq!(q.free_descriptors(), 8);
    assert!(push(&mut q, &[(0x1000, 1); 8], &[], 0));
    assert_eq!(d.take().expect("published").readable.len(), 8);
}

#[test]
fn notifications_follow_the_flag() {
    let (mut q, d) = simple(8);
    assert!(!q.needs_notify(), "nothing pushed");
    assert!(push(&mut q, &[(0x1000, 1)], &[], 0));
    assert!(q.needs_notify());
    assert!(!q.needs_notify(), "already told");
    d.set_no_notify(true);
    assert!(push(&mut q, &[(0x1000, 1)], &[], 0));
    assert!(!q.needs_notify());
    q.disable_interrupts();
    assert!(d.interrupts_suppressed());
    assert!(!q.enable_interrupts());
    assert!(!d.interrupts_suppressed());
}

#[test]
fn notifications_follow_the_event_index() {
    let (mut q, mut d) = queue::<u32>(8, Features { event_idx: true, indirect: None });
    assert!(push(&mut q, &[(0x1000, 1)], &[], 0));
    assert!(q.needs_notify(), "event 0, index went 0 to 1");
    assert!(push(&mut q, &[(0x1000, 1)], &[], 1));
    assert!(!q.needs_notify(), "event 0 was passed before");
    d.set_avail_event(3);
    assert!(push(&mut q, &[(0x1000, 1)], &[], 2));
    assert!(!q.needs_notify(), "3 not reached");
    assert!(push(&mut q, &[(0x1000, 1)], &[], 3));
    assert!(q.needs_notify());
    let head = d.take().expect("published").head;
    q.disable_interrupts();
    assert_eq!(d.used_event(), 0xffff);
    d.give(head.into(), 0);
    assert!(q.enable_interrupts(), "one came in between");
    assert_eq!(d.used_event(), 0);
    assert!(q.pop().expect("honest").is_some());
    assert!(!q.enable_interrupts());
    assert_eq!(d.used_event(), 1);
}

#[test]
fn random_garbage_in_the_used_ring_never_panics() {
    for seed in 0..2000u32 {
        let (mut q, mut d) = simple(8);
        let mut random = seed;
        for _ in 0..40 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            push(&mut q, &[(0x1000, 8)], &[(0x2000, random >> 24)], random);
            if random & 0x100 != 0 {
                d.give(random >> 29, random >> 23);
            } else if random & 0xe00 == 0 {
                d.set_used_index((random >> 13 & 15) as u16);
            }
            let _ = q.pop();
        }
        assert!(q.in_flight() <= 8 && q.free_descriptors() <= 8);
    }
}
