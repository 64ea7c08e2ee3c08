//! Loom models of the primitives, on modelled threads, with broken twins.
#![expect(
    unsafe_code,
    reason = "models look into locked cells"
)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use loom_support::explore;

use crate::mistake::{Mistake, make};
use crate::{
    Completion, CondVar, Interrupt, Mutex, Notify, OnceCell, RwLock, Semaphore, WaitError, WaitKey, WaitQueue, WaitTable,
};

/// Shares a value with the model's threads for good: when a broken twin deadlocks, loom abandons the threads, and destructors that
/// use its atomics would end the test.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().expect("the model's threads do not panic")
}

fn change_and_wake() {
    let shared = leak((AtomicBool::new(false), WaitQueue::new()));
    let waker = shared;
    let waker = thread::spawn(move || {
        waker.0.store(true, Ordering::Relaxed);
        waker.1.wake_one();
    });
    shared
        .1
        .wait(|| shared.0.load(Ordering::Relaxed).then_some(()));
    join(waker);
}

#[test]
fn loom_a_wake_after_the_change_is_not_missed() {
    assert!(explore(3, change_and_wake) > 20);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_waiter_looks_before_it_is_linked() {
    make(Mistake::QueueLooksTooEarly);
    explore(3, change_and_wake);
}

/// The same without fences: both sides miss each other.
#[test]
#[should_panic(expected = "missed")]
fn loom_broken_twin_misses_the_wake() {
    explore(3, || {
        let shared = Arc::new((AtomicBool::new(false), AtomicBool::new(false)));
        let waker = shared.clone();
        let waker = thread::spawn(move || {
            waker.0.store(true, Ordering::Release);
            waker.1.load(Ordering::Acquire)
        });
        shared.1.store(true, Ordering::Release);
        let seen = shared.0.load(Ordering::Acquire);
        assert!(join(waker) || seen, "missed");
    });
}

fn give_up_and_pass_on() {
    let permits = leak(Semaphore::new(0));
    let impatient = permits;
    let impatient = thread::spawn(move || {
        // If it gets the permit, it gives it back; if it gives up, it must not take the wake with it.
        if impatient.acquire_until(Some(0), Interrupt::Ignored).is_ok() {
            impatient.release(1);
        }
    });
    let giver = permits;
    let giver = thread::spawn(move || giver.release(1));
    let patient = permits.acquire_until(None, Interrupt::Ignored);
    assert_eq!(patient, Ok(()));
    join(giver);
    join(impatient);
}

#[test]
fn loom_a_waiter_that_gives_up_passes_its_wake_on() {
    assert!(explore(2, give_up_and_pass_on) > 100);
}

fn readers_and_writers() {
    let lock = leak(RwLock::new(UnsafeCell::new(0)));
    let (writer, reader) = (lock, lock);
    let writer = thread::spawn(move || writer.write().with_mut(|n| unsafe { *n += 1 }));
    let reader = thread::spawn(move || reader.read().with(|n| unsafe { *n }));
    lock.write().with_mut(|n| unsafe { *n += 1 });
    assert!(join(reader) <= 2);
    join(writer);
    assert_eq!(lock.read().with(|n| unsafe { *n }), 2);
}

#[test]
fn loom_rwlock_excludes_writers_from_everyone() {
    assert!(explore(2, readers_and_writers) > 100);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_rwlock_is_not_passed_on() {
    make(Mistake::RwLockIsNotPassedOn);
    explore(2, readers_and_writers);
}

fn pass_items() {
    let shared = leak((Mutex::new(0), CondVar::new()));
    let takers: Vec<_> = (0..2)
        .map(|_| {
            let shared = shared;
            thread::spawn(move || {
                let mut items = shared.0.lock();
                while *items == 0 {
                    items = shared.1.wait(items);
                }
                *items -= 1;
            })
        })
        .collect();
    *shared.0.lock() += 2;
    shared.1.notify_all();
    takers.into_iter().for_each(join);
    assert_eq!(*shared.0.lock(), 0);
}

#[test]
fn loom_condvar_passes_an_item_to_one_of_two() {
    assert!(explore(2, pass_items) > 100);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_condvar_unlocks_before_it_is_linked() {
    make(Mistake::CondVarUnlocksTooEarly);
    explore(2, pass_items);
}

#[test]
fn loom_condvar_deadline_races_with_notify() {
    let explored = explore(3, || {
        let shared = Arc::new((Mutex::new(false), CondVar::new()));
        let waiter = shared.clone();
        let waiter = thread::spawn(move || {
            let guard = waiter.0.lock();
            let (guard, timed_out) = waiter.1.wait_until(guard, 0);
            *guard || timed_out
        });
        *shared.0.lock() = true;
        shared.1.notify_one();
        assert!(join(waiter));
    });
    assert!(explored > 20);
}

fn make_once() {
    let shared = leak((OnceCell::new(), AtomicUsize::new(0)));
    let other = shared;
    let make = |shared: &(OnceCell<usize>, AtomicUsize)| {
        *shared
            .0
            .get_or_init(|| shared.1.fetch_add(1, Ordering::Relaxed))
    };
    let other = thread::spawn(move || make(&other));
    assert_eq!((make(&shared), join(other)), (0, 0));
}

#[test]
fn loom_once_cell_is_made_once() {
    assert!(explore(3, make_once) > 20);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_once_wakes_before_the_value_is_there() {
    make(Mistake::OnceWakesTooEarly);
    explore(3, make_once);
}

struct Flag(AtomicBool);

impl Notify for Flag {
    fn notify(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn loom_a_poller_sees_the_change_or_the_notification() {
    let explored = explore(3, || {
        let shared = Arc::new((AtomicBool::new(false), WaitQueue::new()));
        let waker = shared.clone();
        let waker = thread::spawn(move || {
            waker.0.store(true, Ordering::Relaxed);
            waker.1.wake_all();
        });
        let flag = std::sync::Arc::new(Flag(AtomicBool::new(false)));
        let registration = shared.1.register(flag.clone());
        let seen = shared.0.load(Ordering::Relaxed);
        join(waker);
        assert!(seen || flag.0.load(Ordering::Relaxed));
        drop(registration);
    });
    assert!(explored > 20);
}

#[test]
fn loom_a_deadline_that_has_passed_ends_the_wait() {
    let explored = explore(2, || {
        let queue = WaitQueue::new();
        let result = queue.wait_until::<()>(Some(0), Interrupt::Allowed, || None);
        assert_eq!(result, Err(WaitError::TimedOut));
    });
    assert_eq!(explored, 1);
}

#[derive(Clone, Copy, PartialEq)]
struct Key;

impl WaitKey for Key {
    fn hash(&self) -> usize {
        0
    }
}

#[test]
fn loom_a_table_wait_given_up_is_woken_or_not_but_never_both() {
    let explored = explore(3, || {
        let table = Arc::new(WaitTable::<Key, 1>::new());
        let waker = table.clone();
        let waker = thread::spawn(move || waker.wake(Key, 1, 1));
        let waited = table.wait(Key, 1, || Ok(()), |_| Err(()));
        assert_eq!(join(waker), usize::from(waited.is_ok()));
    });
    assert!(explored > 20);
}

fn change_and_wake_key() {
    let shared = leak((AtomicBool::new(false), WaitTable::<Key, 1>::new()));
    let waker = shared;
    let waker = thread::spawn(move || {
        waker.0.store(true, Ordering::Relaxed);
        waker.1.wake(Key, 1, 1)
    });
    let check = || if shared.0.load(Ordering::Relaxed) { Err(()) } else { Ok(()) };
    let sleep = |woken: &crate::Woken<'_, Key>| {
        while !woken.is_woken() {
            crate::park(None);
        }
        Ok(())
    };
    let waited = shared.1.wait(Key, 1, check, sleep);
    assert_eq!(join(waker), usize::from(waited.is_ok()));
}

#[test]
fn loom_a_table_wake_after_the_change_is_not_missed() {
    assert!(explore(3, change_and_wake_key) > 20);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_table_compares_before_it_is_linked() {
    make(Mistake::TableLooksTooEarly);
    explore(3, change_and_wake_key);
}

fn release_one() {
    let permits = leak(Semaphore::new(0));
    let giver = permits;
    let giver = thread::spawn(move || giver.release(1));
    permits.acquire();
    join(giver);
    assert!(!permits.try_acquire());
}

#[test]
fn loom_a_permit_reaches_the_one_who_waits() {
    assert!(explore(3, release_one) > 20);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_semaphore_wakes_before_it_gives() {
    make(Mistake::SemaphoreWakesTooEarly);
    explore(3, release_one);
}

fn complete_once() {
    let done = leak(Completion::new());
    let other = done;
    let other = thread::spawn(move || other.complete());
    done.wait();
    join(other);
    assert!(done.is_complete());
}

#[test]
fn loom_a_completion_lets_go_on() {
    assert!(explore(3, complete_once) > 20);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_completion_wakes_before_it_is_done() {
    make(Mistake::CompletionWakesTooEarly);
    explore(3, complete_once);
}
