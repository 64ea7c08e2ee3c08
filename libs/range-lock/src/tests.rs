//! Tests on host threads.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

const BLOCK: u64 = 1 << 21;

fn block(index: u64) -> Block {
    Block::around(index * BLOCK + 77, 21)
}

#[test]
fn blocks_touch_ranges_that_share_an_address() {
    let b = Block::around(0x123_4567, 21);
    assert!(b.touches(&(0x120_0000..0x120_0001)));
    assert!(b.touches(&(0x13f_ffff..0x140_0000)));
    assert!(!b.touches(&(0x140_0000..0x150_0000)) && !b.touches(&(0..0x120_0000)));
    assert!(b.touches(&ALL) && Block::around(0, 12).touches(&ALL));
    assert_eq!(b, Block::around(0x120_0000, 21));
}

#[test]
fn a_change_waits_for_a_block_in_its_range_and_for_no_other() {
    let lock = Arc::new(RangeLock::new(0_u64, 2));
    let (_, held) = lock.enter(0, block(1), |n| *n);
    *lock.read().change(2 * BLOCK..3 * BLOCK) += 1;
    let (sender, receiver) = mpsc::channel();
    let other = lock.clone();
    let changer = thread::spawn(move || {
        *other.read().change(BLOCK..BLOCK + 4096) += 1;
        sender.send(()).unwrap();
    });
    assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err());
    drop(held);
    receiver.recv().unwrap();
    changer.join().unwrap();
    assert_eq!(*lock.read(), 2);
}

#[test]
fn a_settled_change_lets_others_look_and_reading_bars_nobody() {
    let lock = RangeLock::new(5_u64, 1);
    let settled = lock.read().change(BLOCK..2 * BLOCK).settle();
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(lock.enter(0, block(7), |n| *n).0, 5)).join().unwrap();
    });
    drop(settled);
    let reading = lock.read();
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(lock.enter(0, block(1), |n| *n).0, 5)).join().unwrap();
    });
    assert_eq!(*reading, 5);
}

/// More faults in flight than places.
#[test]
fn a_crowd_is_let_in_and_waited_for() {
    let lock = RangeLock::new((), 1);
    let inside = AtomicUsize::new(0);
    let (full, leave) = (std::sync::Barrier::new(21), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let (_, held) = lock.enter(0, block(3), |_| inside.fetch_add(1, Ordering::Relaxed));
                full.wait();
                while !leave.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(held);
            });
        }
        full.wait();
        assert_eq!(inside.load(Ordering::Relaxed), 20);
        leave.store(true, Ordering::Relaxed);
        drop(lock.write());
        assert_eq!(inside.load(Ordering::Relaxed), 0);
    });
}

/// Threads fault and change at random; each block has a count that only its holders and changers of its range touch.
#[test]
fn stress_structure_and_blocks_stay_consistent() {
    const BLOCKS: u64 = 4;
    const ROUNDS: u64 = 20_000;
    let lock = RangeLock::new([0_u64; 2], 3);
    let owned: [AtomicU64; BLOCKS as usize] = std::array::from_fn(|_| AtomicU64::new(0));
    let changes = AtomicU64::new(0);
    let fault = |seed: u64| {
        let at = seed % BLOCKS;
        let (pair, held) = lock.enter(seed as usize, block(at), |pair| *pair);
        assert_eq!(pair[0], pair[1], "a look met a change");
        // Holders share a block: their bit is not exclusive, a changer's is.
        let before = owned[at as usize].fetch_add(1, Ordering::Relaxed);
        assert!(before < 1 << 32, "work met a change");
        owned[at as usize].fetch_sub(1, Ordering::Relaxed);
        drop(held);
    };
    let change = |seed: u64| {
        let at = seed % BLOCKS;
        let mut changing = lock.read().change(at * BLOCK..at * BLOCK + 4096);
        changing[0] += 1;
        changing[1] += 1;
        let settled = changing.settle();
        assert_eq!(owned[at as usize].swap(1 << 32, Ordering::Relaxed), 0, "a change met work");
        changes.fetch_add(1, Ordering::Relaxed);
        owned[at as usize].store(0, Ordering::Relaxed);
        drop(settled);
    };
    thread::scope(|scope| {
        for thread in 1..=4_u64 {
            scope.spawn(move || {
                let mut seed = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for _ in 0..ROUNDS {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    if (seed >> 40).is_multiple_of(4) { change(seed >> 20) } else { fault(seed >> 20) }
                }
            });
        }
    });
    assert_eq!(lock.read()[0], changes.load(Ordering::Relaxed));
}
