//! Host tests of [`SharedSlots`] with real threads, each a CPU of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::vec::Vec;

use crate::grace::GracePeriods;
use crate::slots::{Lend, SharedSlots};
use crate::{Deferred, Domain};

const CPUS: usize = 8;

/// Grace periods over host threads. A thread is a CPU from [`enter`] on; it is quiescent whenever it does not read.
struct Host;

static PERIODS: GracePeriods<CPUS> = GracePeriods::new();
static DEFERRED: Mutex<Vec<Deferred>> = Mutex::new(Vec::new());
static CPU: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    static ME: Cell<usize> = Cell::new(CPU.fetch_add(1, Ordering::Relaxed));
}

struct Reading(usize);

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = PERIODS.enter_idle(self.0);
    }
}

impl Domain for Host {
    type Reading = Reading;

    fn read() -> Reading {
        let cpu = ME.get();
        PERIODS.leave_idle(cpu);
        Reading(cpu)
    }

    fn defer(action: Deferred) {
        DEFERRED.lock().unwrap().push(action);
    }
}

/// Runs what has been deferred after a grace period.
fn collect() {
    let batch = std::mem::take(&mut *DEFERRED.lock().unwrap());
    let number = PERIODS.start();
    while !PERIODS.is_over(number) {
        thread::yield_now();
    }
    batch.into_iter().for_each(Deferred::call);
}

/// Says so when it ends, and spoils itself.
struct Object<'a> {
    value: u64,
    alive: &'a AtomicUsize,
}

impl Object<'_> {
    fn new(value: u64, alive: &AtomicUsize) -> Arc<Object<'_>> {
        alive.fetch_add(1, Ordering::Relaxed);
        Arc::new(Object { value, alive })
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        self.value = u64::MAX;
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn an_object_ends_with_its_last_user_and_not_later() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    let slots = SharedSlots::<Object<'static>, (), Host>::new(());
    assert!(slots.get(0).is_none());
    assert_eq!(slots.lock().put(3, Object::new(5, &ALIVE)).map(|old| old.is_none()), Ok(true));
    assert_eq!(slots.get(3).map(|object| object.value), Some(5));
    assert!(slots.get(2).is_none() && slots.get(1_000_000).is_none());
    let user = slots.get(3);
    drop(slots.lock().take(3));
    assert!(slots.get(3).is_none());
    assert_eq!(ALIVE.load(Ordering::Relaxed), 1);
    drop(user);
    assert_eq!(ALIVE.load(Ordering::Relaxed), 0, "no grace period has passed");
}

#[test]
fn only_lent_objects_can_be_borrowed_also_after_growing() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    let slots = SharedSlots::<Object<'static>, (), Host>::new(());
    // SAFETY: nobody else is here, and nothing changes while the reference is used.
    let borrowed = |index| unsafe { slots.borrow(index) }.map(|object| object.value);
    assert!(slots.lock().put(0, Object::new(5, &ALIVE)).is_ok());
    assert_eq!(borrowed(0), None);
    slots.lock().lend(Lend::Yes);
    assert_eq!((borrowed(0), borrowed(1), borrowed(1_000)), (Some(5), None, None));
    assert!(slots.lock().put(1_000, Object::new(6, &ALIVE)).is_ok());
    assert_eq!((borrowed(0), borrowed(1_000)), (Some(5), Some(6)));
    // SAFETY: nobody looks an object up.
    let taken = unsafe { slots.lock().take_unread(0) };
    assert_eq!((borrowed(0), ALIVE.load(Ordering::Relaxed)), (None, 2));
    drop(taken);
    assert_eq!(ALIVE.load(Ordering::Relaxed), 1);
    slots.lock().lend(Lend::No);
    assert_eq!(borrowed(1_000), None);
}

#[test]
fn what_is_left_ends_with_the_slots() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    let slots = SharedSlots::<Object<'static>, (), Host>::new(());
    for index in 0..100 {
        assert!(slots.lock().put(index, Object::new(index as u64, &ALIVE)).is_ok());
    }
    assert_eq!(ALIVE.load(Ordering::Relaxed), 100);
    drop(slots);
    assert_eq!(ALIVE.load(Ordering::Relaxed), 0);
}

/// Readers look slots up while a writer replaces, empties and grows: they see whole objects, and none that is gone for good.
#[test]
fn readers_never_see_a_freed_object() {
    const ROUNDS: u64 = 30_000;
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    let slots = SharedSlots::<Object<'static>, (), Host>::new(());
    let stop = AtomicBool::new(false);
    let found = AtomicUsize::new(0);
    // Slot 0 is replaced all the time but never empty: a reader always finds something there.
    assert!(slots.lock().put(0, Object::new(0, &ALIVE)).is_ok());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_ne!(slots.get(0).expect("never empty").value, u64::MAX);
                    if let Some(object) = slots.get(1) {
                        assert_ne!(object.value, u64::MAX);
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for round in 0..ROUNDS {
            let mut writer = slots.lock();
            drop(writer.put(0, Object::new(round, &ALIVE)));
            if round % 2 == 0 {
                drop(writer.put(1, Object::new(round, &ALIVE)));
            } else {
                drop(writer.take(1));
            }
            if round % 1_000 == 0 {
                let next = writer.len();
                drop(writer.put(next.min(100_000), Object::new(round, &ALIVE)));
            }
            drop(writer);
            if round % 64 == 0 {
                collect();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    collect();
    drop(slots);
    assert_eq!(ALIVE.load(Ordering::Relaxed), 0);
    assert!(found.into_inner() > 0, "the readers ran");
}
