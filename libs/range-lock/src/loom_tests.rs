//! Loom models: looks and changes, work and taking away, nobody waits without need; and broken twins.
#![expect(clippy::undocumented_unsafe_blocks, reason = "models look into cells whose exclusion is what they test")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use loom_support::explore;

use crate::{Block, RangeLock};

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().expect("the model's threads do not panic")
}

const A: u64 = 0x20_0000;
const B: u64 = 0x40_0000;
const PAGE: u64 = 0x1000;

fn block(address: u64) -> Block {
    Block::around(address, 21)
}

/// The structure, and what stands for the page-table entry of `A`.
struct World {
    lock: RangeLock<UnsafeCell<u64>>,
    entry: UnsafeCell<u64>,
}

fn world(groups: usize) -> Arc<World> {
    Arc::new(World { lock: RangeLock::new(UnsafeCell::new(0), groups), entry: UnsafeCell::new(0) })
}

fn look(data: &UnsafeCell<u64>) -> u64 {
    data.with(|n| unsafe { *n })
}

fn bump(cell: &UnsafeCell<u64>) {
    cell.with_mut(|n| unsafe { *n += 1 });
}

#[test]
fn loom_a_look_never_meets_a_change() {
    let explored = explore(3, || {
        let world = world(1);
        let other = world.clone();
        // The block is elsewhere: only the structure is shared.
        let fault = thread::spawn(move || other.lock.enter(0, block(B), look).0);
        bump(&mut world.lock.read().change(A..A + PAGE));
        assert!(join(fault) <= 1);
    });
    assert!(explored > 50);
}

#[test]
fn loom_work_on_a_block_never_meets_the_taking_away() {
    let explored = explore(3, || {
        let world = world(1);
        let other = world.clone();
        let fault = thread::spawn(move || {
            let (_, held) = other.lock.enter(0, block(A), look);
            bump(&other.entry);
            drop(held);
        });
        let settled = world.lock.read().change(A..A + PAGE).settle();
        bump(&world.entry);
        drop(settled);
        join(fault);
        assert_eq!(look(&world.entry), 2);
    });
    assert!(explored > 50);
}

/// Two changes in a row, so that a fault may read a range whose turn is over.
#[test]
fn loom_a_stale_range_lets_nobody_in() {
    let explored = explore(2, || {
        let world = world(2);
        let other = world.clone();
        let fault = thread::spawn(move || {
            let (_, held) = other.lock.enter(1, block(A), look);
            bump(&other.entry);
            drop(held);
        });
        drop(world.lock.read().change(B..B + PAGE).settle());
        let settled = world.lock.read().change(A..A + PAGE).settle();
        bump(&world.entry);
        drop(settled);
        join(fault);
    });
    assert!(explored > 50);
}

/// A fault that has no place, since another one has the only one.
#[test]
fn loom_the_crowd_is_waited_for() {
    let explored = explore(2, || {
        let world = world(1);
        let other = world.clone();
        let (_, first) = world.lock.enter(0, block(B), look);
        let fault = thread::spawn(move || {
            let (_, held) = other.lock.enter(0, block(A), look);
            bump(&other.entry);
            drop(held);
        });
        let settled = {
            drop(first);
            world.lock.read().change(A..A + PAGE).settle()
        };
        bump(&world.entry);
        drop(settled);
        join(fault);
    });
    assert!(explored > 50);
}

/// Who holds a block may wait for a changer of another range: if that waited for the block, both would sleep for ever.
#[test]
fn loom_a_change_elsewhere_does_not_wait_for_a_block() {
    let explored = explore(2, || {
        let world = world(1);
        let other = world.clone();
        let (_, held) = world.lock.enter(0, block(B), look);
        let changer = thread::spawn(move || bump(&mut other.lock.read().change(A..A + PAGE)));
        join(changer);
        drop(held);
    });
    // A deadlock would be reported; there is little to interleave.
    assert!(explored >= 1);
}

/// In the range part of a change, faults elsewhere go on.
#[test]
fn loom_a_settled_change_elsewhere_lets_faults_in() {
    let explored = explore(2, || {
        let world = world(1);
        let other = world.clone();
        let settled = world.lock.read().change(A..A + PAGE).settle();
        let fault = thread::spawn(move || other.lock.enter(0, block(B), look).0);
        join(fault);
        drop(settled);
    });
    assert!(explored >= 1);
}

#[test]
fn loom_two_changers_and_a_reader_take_turns() {
    let explored = explore(2, || {
        let world = world(1);
        let other = world.clone();
        let changer = thread::spawn(move || bump(&mut other.lock.write()));
        bump(&mut world.lock.write());
        join(changer);
        assert_eq!(look(&world.lock.read()), 2);
    });
    assert!(explored > 10);
}

/// The same handshake with acquire and release alone: both miss each other.
#[test]
#[should_panic(expected = "missed")]
fn loom_broken_twin_without_the_total_order() {
    explore(3, || {
        let words = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let other = words.clone();
        let fault = thread::spawn(move || {
            other.0.store(1, Ordering::Release);
            other.1.load(Ordering::Acquire)
        });
        words.1.store(1, Ordering::Release);
        let place = words.0.load(Ordering::Acquire);
        assert!(place == 1 || join(fault) == 1, "missed");
    });
}

/// A fault that asks first and shows its block afterwards.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_broken_twin_that_looks_before_it_is_seen() {
    explore(3, || {
        let world = Arc::new((AtomicU64::new(0), AtomicU64::new(0), UnsafeCell::new(0_u64)));
        let other = world.clone();
        let fault = thread::spawn(move || {
            if other.1.load(Ordering::SeqCst) == 0 {
                other.0.store(1, Ordering::SeqCst);
                look(&other.2);
                other.0.store(0, Ordering::SeqCst);
            }
        });
        world.1.store(1, Ordering::SeqCst);
        if world.0.load(Ordering::SeqCst) == 0 {
            bump(&world.2);
        }
        join(fault);
    });
}
