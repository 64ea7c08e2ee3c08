//! Host tests of [`WaitTable`], with real threads on a backend that wakes spuriously.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use std::vec::Vec;

use crate::std_backend::set_urgency;
use crate::{Mutex, WaitKey, WaitTable, Woken, monotonic_ns, park};

#[derive(Clone, Copy, PartialEq)]
struct Key(usize);

impl WaitKey for Key {
    fn hash(&self) -> usize {
        self.0
    }
}

type Table = WaitTable<Key, 2>;

/// Two keys of one bucket, and one of another.
const A: Key = Key(0);
const A2: Key = Key(2);
const B: Key = Key(1);
const ALL: u32 = u32::MAX;

fn sleep(woken: &Woken<'_, Key>) -> Result<(), ()> {
    while !woken.is_woken() {
        park(None);
    }
    Ok(())
}

fn give_up(_: &Woken<'_, Key>) -> Result<(), ()> {
    Err(())
}

/// Starts a waiter that notes its number when woken, and lets it get into the table.
fn start<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    table: &'scope Table,
    key: Key,
    bits: u32,
    number: usize,
    log: &'scope Mutex<Vec<usize>>,
) {
    start_urgent(scope, table, key, bits, number, log, 0);
}

/// The same with a real-time priority, or 0.
fn start_urgent<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    table: &'scope Table,
    key: Key,
    bits: u32,
    number: usize,
    log: &'scope Mutex<Vec<usize>>,
    urgency: u32,
) {
    let linked = std::sync::Arc::new(AtomicBool::new(false));
    let seen = linked.clone();
    scope.spawn(move || {
        set_urgency(urgency);
        let check = || {
            seen.store(true, Ordering::Release);
            Ok::<_, ()>(())
        };
        assert_eq!(table.wait(key, bits, check, sleep), Ok(()));
        log.lock().push(number);
    });
    // The check runs under the bucket's lock, so whoever locks the bucket afterwards finds the waiter.
    while !linked.load(Ordering::Acquire) {
        thread::yield_now();
    }
}

fn wait_for(log: &Mutex<Vec<usize>>, expected: &[usize]) {
    while log.lock().len() < expected.len() {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(*log.lock(), expected);
}

#[test]
fn wakes_the_oldest_of_the_key_first() {
    let (table, log) = (Table::new(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        start(scope, &table, A2, ALL, 0, &log);
        start(scope, &table, A, ALL, 1, &log);
        start(scope, &table, A, ALL, 2, &log);
        assert_eq!(table.wake(B, 9, ALL), 0);
        assert_eq!(table.wake(A, 1, ALL), 1);
        wait_for(&log, &[1]);
        assert_eq!(table.wake(A, 9, ALL), 1);
        wait_for(&log, &[1, 2]);
        assert_eq!(table.wake(A2, 9, ALL), 1);
    });
}

#[test]
fn wakes_the_most_urgent_first_and_equals_in_their_order() {
    let (table, log) = (Table::new(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for (number, urgency) in [0, 20, 50, 20, 0, 1, 50, 99].into_iter().enumerate() {
            let key = if number == 4 { A2 } else { A };
            start_urgent(scope, &table, key, ALL, number, &log, urgency);
        }
        let expected = [7, 2, 6, 1, 3, 5, 0];
        for count in 1..=expected.len() {
            assert!(table.wake_one(A, ALL));
            wait_for(&log, &expected[..count]);
        }
        assert_eq!(table.wake(A2, 9, ALL), 1);
    });
}

#[test]
fn who_is_moved_stands_before_the_less_urgent() {
    let (table, log) = (Table::new(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for (number, (key, urgency)) in [(B, 0), (B, 30), (A, 0), (A, 30), (A, 40), (A, 0)].into_iter().enumerate() {
            start_urgent(scope, &table, key, ALL, number, &log, urgency);
        }
        assert_eq!(table.requeue(A, B, 3, |_| Ok::<_, ()>(0)), Ok((0, 3)));
        let expected = [4, 1, 3, 0, 2];
        for count in 1..=expected.len() {
            assert!(table.wake_one(B, ALL));
            wait_for(&log, &expected[..count]);
        }
        assert_eq!(table.wake(A, 9, ALL), 1);
    });
}

#[test]
fn wakes_only_those_whom_the_bits_mean() {
    let (table, log) = (Table::new(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        start(scope, &table, A, 1, 1, &log);
        start(scope, &table, A, 2, 2, &log);
        assert_eq!(table.wake(A, 9, 2), 1);
        wait_for(&log, &[2]);
        assert_eq!(table.wake(A, 9, 3), 1);
    });
}

#[test]
fn a_wait_that_is_refused_or_given_up_leaves_nothing_behind() {
    let table = Table::new();
    assert_eq!(table.wait(A, ALL, || Err(1), |_| Ok(())), Err(1));
    assert_eq!(table.wait(A, ALL, || Ok(()), give_up), Err(()));
    assert_eq!(table.wait_any(&[A, B, A], ALL, |_| Ok(()), give_up), Err(()));
    assert_eq!(table.wait_any(&[A, B, A], ALL, |i| if i < 2 { Ok(()) } else { Err(i) }, |_| Ok(())), Err(2));
    assert_eq!(table.wake(A, 9, ALL) + table.wake(B, 9, ALL), 0);
}

#[test]
fn waiting_for_any_names_the_one_that_was_woken() {
    let table = Table::new();
    let sleep = |woken: &Woken<'_, Key>| {
        assert_eq!(table.wake(B, 9, ALL), 1);
        sleep(woken)
    };
    assert_eq!(table.wait_any(&[A, B, A2], ALL, |_| Ok(()), sleep), Ok(1));
}

#[test]
fn moves_waiters_between_buckets_and_within_one() {
    for target in [B, A2] {
        let (table, log) = (Table::new(), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for number in 0..4 {
                start(scope, &table, A, ALL, number, &log);
            }
            assert_eq!(table.requeue(A, target, 18, |_| Err(7)), Err(7));
            assert_eq!(table.requeue(A, target, 3, |_| Ok::<_, ()>(1)), Ok((1, 2)));
            wait_for(&log, &[0]);
            assert_eq!(table.wake(target, 1, ALL), 1);
            wait_for(&log, &[0, 1]);
            assert_eq!(table.wake_two(A, target, [9, 9], ALL, || Ok::<_, ()>(false)), Ok(1));
            wait_for(&log, &[0, 1, 3]);
            assert_eq!(table.wake_two(A, target, [9, 9], ALL, || Ok::<_, ()>(true)), Ok(1));
        });
    }
}

#[test]
fn the_waker_may_choose_by_the_bits() {
    let (table, log) = (Table::new(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for number in 1..4 {
            start(scope, &table, A, 1 << number, number, &log);
        }
        start(scope, &table, A2, 1, 9, &log);
        assert_eq!(table.wake_chosen(A, |_| Err(5)), Err(5));
        assert_eq!(table.wake_chosen(A, |_| Ok::<_, ()>(None)), Ok(false));
        let the_third_bit = |bits: &mut dyn Iterator<Item = u32>| Ok::<_, ()>(bits.zip(0..).find(|(bits, _)| *bits == 4).map(|(_, at)| at));
        assert_eq!(table.wake_chosen(A, the_third_bit), Ok(true));
        wait_for(&log, &[2]);
        let mut seen = Vec::new();
        let moved = table.requeue(A, B, 9, |bits| {
            seen.extend(bits);
            Ok::<_, ()>(0)
        });
        assert_eq!((moved, seen), (Ok((0, 2)), std::vec![2, 8]));
        assert_eq!(table.wake_chosen(B, |_| Ok::<_, ()>(Some(2))), Ok(false), "there is no third");
        assert_eq!(table.wake(B, 9, ALL) + table.wake(A2, 9, ALL), 3);
    });
}

/// Waiters that give up at any moment, and wakers and movers: each wake-up counted is one that a waiter got.
#[test]
fn no_wake_up_is_lost_or_doubled_when_waiters_give_up() {
    const ROUNDS: usize = 3_000;
    let (table, stop) = (Table::new(), AtomicBool::new(false));
    let (given, got) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..3_u64)
            .map(|waiter| {
                let (table, got) = (&table, &got);
                scope.spawn(move || {
                    for round in 0..ROUNDS as u64 {
                        let deadline = monotonic_ns() + (round * 7919 + waiter * 104_729) % 50_000;
                        let sleep = |woken: &Woken<'_, Key>| loop {
                            if woken.is_woken() {
                                return Ok(());
                            }
                            if monotonic_ns() >= deadline {
                                return Err(());
                            }
                            park(Some(deadline));
                        };
                        if table.wait(A, ALL, || Ok(()), sleep).is_ok() {
                            got.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let woken = table.wake(A, 1, ALL);
                let moved = table.requeue(A, B, 2, |_| Ok::<_, ()>(1));
                let last = table.wake(B, 1, ALL);
                given.fetch_add(woken + moved.map_or(0, |(woken, _)| woken) + last, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        for waiter in waiters {
            waiter.join().expect("waiters do not panic");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(given.into_inner(), got.into_inner());
}
