//! Host stress: real threads on a backend that wakes spuriously.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::vec::Vec;

use crate::std_backend::{clear_interrupt, interrupt};
use crate::{
    Completion, CondVar, Interrupt, Mutex, Notify, OnceCell, RwLock, Semaphore, ThreadHandle,
    WaitError, WaitQueue, monotonic_ns,
};

const THREADS: usize = 4;
const ROUNDS: usize = 20_000;

fn run(threads: usize, body: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for index in 0..threads {
            let body = &body;
            scope.spawn(move || body(index));
        }
    });
}

#[test]
fn mutex_excludes() {
    let counter = Mutex::new(0_usize);
    run(THREADS, |_| {
        for _ in 0..ROUNDS {
            let mut guard = counter.lock();
            let seen = *guard;
            if seen.is_multiple_of(64) {
                thread::yield_now();
            }
            *guard = seen + 1;
        }
    });
    assert_eq!(counter.into_inner(), THREADS * ROUNDS);
}

#[test]
fn mutex_try_lock_fails_only_while_locked() {
    let mutex = Mutex::new(1);
    let guard = mutex.lock();
    assert!(mutex.try_lock().is_none());
    drop(guard);
    assert_eq!(mutex.try_lock().map(|guard| *guard), Some(1));
}

#[test]
fn a_waiter_gets_the_mutex_from_a_hog() {
    let (mutex, stop) = (Mutex::new(()), AtomicBool::new(false));
    run(2, |index| {
        if index == 0 {
            while !stop.load(Ordering::Relaxed) {
                let _guard = mutex.lock();
                for _ in 0..1000 {
                    std::hint::black_box(());
                }
            }
        } else {
            for _ in 0..200 {
                let _guard = mutex.lock();
            }
            stop.store(true, Ordering::Relaxed);
        }
    });
}

#[test]
fn rwlock_readers_see_whole_writes() {
    let lock = RwLock::new((0_usize, 0_usize));
    run(THREADS, |index| {
        for _ in 0..ROUNDS {
            if index == 0 {
                let mut pair = lock.write();
                pair.0 += 1;
                pair.1 += 1;
            } else {
                let pair = lock.read();
                assert_eq!(pair.0, pair.1);
            }
        }
    });
    assert_eq!(lock.into_inner().0, ROUNDS);
}

#[test]
fn rwlock_admits_many_readers_and_one_writer() {
    let lock = RwLock::new(());
    let (first, second) = (lock.try_read(), lock.try_read());
    assert!(first.is_some() && second.is_some() && lock.try_write().is_none());
    drop((first, second));
    let writer = lock.try_write();
    assert!(writer.is_some() && lock.try_read().is_none());
}

#[test]
fn condvar_passes_items() {
    let (queue, filled) = (Mutex::new(VecDeque::new()), CondVar::new());
    let sum = AtomicUsize::new(0);
    run(THREADS, |index| {
        for item in 0..ROUNDS {
            if index % 2 == 0 {
                queue.lock().push_back(item);
                filled.notify_one();
                continue;
            }
            let mut guard = queue.lock();
            let item = loop {
                match guard.pop_front() {
                    Some(item) => break item,
                    None => guard = filled.wait(guard),
                }
            };
            drop(guard);
            sum.fetch_add(item, Ordering::Relaxed);
        }
    });
    assert_eq!(sum.into_inner(), THREADS / 2 * (ROUNDS * (ROUNDS - 1) / 2));
}

#[test]
fn condvar_broadcast_reaches_everyone() {
    let (generation, changed) = (Mutex::new(0), CondVar::new());
    let arrived = Semaphore::new(0);
    run(THREADS + 1, |index| {
        for round in 0..300 {
            if index == 0 {
                (0..THREADS).for_each(|_| arrived.acquire());
                *generation.lock() = round + 1;
                changed.notify_all();
                continue;
            }
            let mut guard = generation.lock();
            arrived.release(1);
            while *guard <= round {
                guard = changed.wait(guard);
            }
        }
    });
}

#[test]
fn condvar_times_out() {
    let (mutex, never) = (Mutex::new(()), CondVar::new());
    let deadline = monotonic_ns() + 5_000_000;
    let mut guard = mutex.lock();
    loop {
        let (again, timed_out) = never.wait_until(guard, deadline);
        guard = again;
        if timed_out {
            break;
        }
    }
    assert!(monotonic_ns() >= deadline);
    drop(guard);
    assert!(mutex.try_lock().is_some());
}

#[test]
fn condvar_time_outs_and_signals_race() {
    let (turn, changed) = (Mutex::new(0_usize), CondVar::new());
    run(THREADS, |index| {
        for round in 0..2000 {
            let mut guard = turn.lock();
            while *guard != round * THREADS + index {
                guard = changed.wait_until(guard, monotonic_ns() + 20_000).0;
            }
            *guard += 1;
            changed.notify_all();
        }
    });
}

#[test]
fn semaphore_limits_and_forgets_nobody() {
    let (permits, inside) = (Semaphore::new(2), AtomicUsize::new(0));
    run(THREADS, |_| {
        for _ in 0..ROUNDS / 4 {
            permits.acquire();
            assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
            inside.fetch_sub(1, Ordering::SeqCst);
            permits.release(1);
        }
    });
}

#[test]
fn semaphore_survives_waiters_that_give_up() {
    let permits = Semaphore::new(0);
    let taken = AtomicUsize::new(0);
    run(THREADS, |index| {
        for _ in 0..2000 {
            if index == 0 {
                permits.release(1);
            } else {
                let deadline = Some(monotonic_ns() + 10_000);
                if permits.acquire_until(deadline, Interrupt::Ignored).is_ok() {
                    taken.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    let rest = std::iter::from_fn(|| permits.try_acquire().then_some(())).count();
    assert_eq!(taken.into_inner() + rest, 2000);
}

#[test]
fn wait_ends_at_the_deadline() {
    let queue = WaitQueue::new();
    let deadline = monotonic_ns() + 3_000_000;
    let result = queue.wait_until::<()>(Some(deadline), Interrupt::Allowed, || None);
    assert_eq!(result, Err(WaitError::TimedOut));
    assert!(monotonic_ns() >= deadline);
}

#[test]
fn wait_ends_by_a_signal() {
    let (queue, handle) = (WaitQueue::new(), OnceCell::new());
    run(2, |index| {
        if index == 0 {
            assert!(handle.set(ThreadHandle::current()).is_ok());
            let result = queue.wait_until::<()>(None, Interrupt::Allowed, || None);
            assert_eq!(result, Err(WaitError::Interrupted));
            clear_interrupt();
        } else {
            let thread = loop {
                match handle.get() {
                    Some(thread) => break thread,
                    None => thread::yield_now(),
                }
            };
            interrupt(thread);
        }
    });
}

#[test]
fn a_condition_that_holds_beats_the_deadline() {
    let queue = WaitQueue::new();
    let result = queue.wait_until(Some(0), Interrupt::Allowed, || Some(7));
    assert_eq!(result, Ok(7));
}

#[test]
fn completion_releases_all() {
    let done = Completion::new();
    run(THREADS, |index| {
        if index == 0 {
            done.complete();
        }
        done.wait();
    });
    assert!(done.is_complete());
}

#[test]
fn once_cell_is_made_once() {
    let (cell, made) = (OnceCell::new(), AtomicUsize::new(0));
    run(THREADS, |_| {
        let value = cell.get_or_init(|| {
            thread::yield_now();
            made.fetch_add(1, Ordering::SeqCst) + 10
        });
        assert_eq!(*value, 10);
    });
    assert_eq!(made.into_inner(), 1);
}

#[derive(Default)]
struct Poller {
    told: AtomicUsize,
    wake: WaitQueue,
}

impl Notify for Poller {
    fn notify(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
        self.wake.wake_all();
    }
}

/// Told, and either content with that or not.
struct Taker {
    told: AtomicUsize,
    enough: bool,
}

/// Interested in some events only.
struct Choosy {
    told: AtomicUsize,
    wanted: u32,
}

impl Notify for Choosy {
    fn notify(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
    }

    fn wants(&self, events: u32) -> bool {
        self.wanted & events != 0
    }
}

impl Notify for Taker {
    fn notify(&self) {
        self.told.fetch_add(1, Ordering::SeqCst);
    }

    fn notify_exclusive(&self) -> bool {
        self.notify();
        self.enough
    }
}

#[test]
fn a_wake_for_one_asks_exclusive_pollers_until_one_has_enough() {
    let queue = WaitQueue::new();
    let takers = [false, true, true, true].map(|enough| Arc::new(Taker { told: AtomicUsize::new(0), enough }));
    let [idle, one, other, shared] = &takers;
    let _exclusive = [idle, one, other].map(|taker| queue.register_exclusive(taker.clone()));
    let _shared = queue.register(shared.clone());
    let told = |taker: &Taker| taker.told.load(Ordering::SeqCst);
    (0..30).for_each(|_| queue.wake_one());
    assert_eq!((told(shared), told(one) + told(other)), (30, 30));
    assert!(told(one) > 0 && told(other) > 0, "they take turns");
    let before: usize = takers.iter().map(|taker| told(taker)).sum();
    queue.wake_all();
    assert_eq!(takers.iter().map(|taker| told(taker)).sum::<usize>(), before + 4);
}

#[test]
fn a_wake_passes_by_who_does_not_want_its_events() {
    let queue = WaitQueue::new();
    let [one, two] = [1, 2].map(|wanted| Arc::new(Choosy { told: AtomicUsize::new(0), wanted }));
    let _one = queue.register(one.clone());
    let _two = queue.register_exclusive(two.clone());
    let told = || (one.told.load(Ordering::SeqCst), two.told.load(Ordering::SeqCst));
    queue.wake_all_for(1);
    assert_eq!(told(), (1, 0));
    queue.wake_all_for(2);
    assert_eq!(told(), (1, 1));
    queue.wake_all();
    queue.wake_one();
    assert_eq!(told(), (3, 3));
}

#[test]
fn a_poller_waits_on_many_queues() {
    let queues: Vec<_> = (0..8)
        .map(|_| (AtomicUsize::new(0), WaitQueue::new()))
        .collect();
    run(2, |index| {
        for round in 1..500_usize {
            if index == 0 {
                let (value, queue) = &queues[round % 8];
                value.store(round, Ordering::Release);
                queue.wake_one();
            }
            let poller = Arc::new(Poller::default());
            let _all: Vec<_> = queues
                .iter()
                .map(|(_, queue)| queue.register(poller.clone()))
                .collect();
            poller.wake.wait(|| {
                let last = queues
                    .iter()
                    .map(|(value, _)| value.load(Ordering::Acquire))
                    .max();
                (last >= Some(round)).then_some(())
            });
        }
    });
    assert!(queues.iter().all(|(_, queue)| !queue.has_waiters()));
}

#[test]
fn a_registration_ends_when_dropped_and_may_outlive_the_queue() {
    let (queue, poller) = (WaitQueue::new(), Arc::new(Poller::default()));
    let (first, second) = (
        queue.register(poller.clone()),
        queue.register(poller.clone()),
    );
    queue.wake_all();
    drop(first);
    queue.wake_one();
    assert_eq!(poller.told.load(Ordering::SeqCst), 3);
    drop(queue);
    drop(second);
    assert_eq!(Arc::strong_count(&poller), 1);
}
