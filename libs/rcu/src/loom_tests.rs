//! Models: CPUs that read, pass quiescent states and idle, against a driver that frees what it removed.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, Thread};
use loom_support::explore;

use crate::grace::{GracePeriods, Outcome};

/// Two objects, of which `current` names the one that can be reached. Freeing the other writes to it: loom reports a reader.
struct World {
    periods: GracePeriods<2>,
    current: AtomicUsize,
    objects: [UnsafeCell<u32>; 2],
}

impl World {
    fn new() -> Arc<Self> {
        let objects = [UnsafeCell::new(7), UnsafeCell::new(8)];
        Arc::new(Self { periods: GracePeriods::new(), current: AtomicUsize::new(0), objects })
    }

    fn read(&self) {
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: the model checks it.
        assert_ne!(self.objects[current].with(|object| unsafe { *object }), 0);
    }

    fn replace(&self) {
        self.current.store(1, Ordering::Release);
    }

    fn free(&self) {
        // SAFETY: the model checks it.
        self.objects[0].with_mut(|object| unsafe { *object = 0 });
    }

    fn grace_period(&self) {
        let number = self.periods.start();
        while !self.periods.is_over(number) {
            thread::park();
        }
    }
}

fn pass_on(driver: &Thread, outcome: Outcome) {
    if outcome == Outcome::Over {
        driver.unpark();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    QuiescentWhileReading,
    NoGracePeriod,
}

/// One CPU reads, passes a quiescent state, reads again and idles; the other (the main thread) leaves idle, reads and idles again.
fn replace_and_free(mistake: Mistake) {
    let world = World::new();
    world.periods.leave_idle(0);
    let writer = world.clone();
    let driver = thread::spawn(move || {
        writer.replace();
        if mistake != Mistake::NoGracePeriod {
            writer.grace_period();
        }
        writer.free();
    });
    let (cpu0, to_wake) = (world.clone(), driver.thread().clone());
    let cpu0 = thread::spawn(move || {
        let seen = cpu0.current.load(Ordering::Acquire);
        if mistake == Mistake::QuiescentWhileReading {
            pass_on(&to_wake, cpu0.periods.quiescent(0));
        }
        // SAFETY: the model checks it.
        assert_ne!(cpu0.objects[seen].with(|object| unsafe { *object }), 0);
        pass_on(&to_wake, cpu0.periods.quiescent(0));
        cpu0.read();
        pass_on(&to_wake, cpu0.periods.enter_idle(0));
    });
    world.periods.leave_idle(1);
    world.read();
    pass_on(driver.thread(), world.periods.enter_idle(1));
    cpu0.join().expect("the model's threads do not panic");
    driver.join().expect("the model's threads do not panic");
}

#[test]
fn loom_nobody_reads_what_was_freed_and_the_driver_is_woken() {
    let explored = explore(2, || replace_and_free(Mistake::None));
    assert!(explored > 500, "{explored}");
}

#[test]
#[should_panic(expected = "ausality")]
fn loom_broken_twin_is_quiescent_while_it_reads() {
    explore(2, || replace_and_free(Mistake::QuiescentWhileReading));
}

#[test]
#[should_panic(expected = "ausality")]
fn loom_broken_twin_does_not_wait() {
    explore(2, || replace_and_free(Mistake::NoGracePeriod));
}

/// Two grace periods one after the other: the second must not be satisfied by what was seen of the first.
#[test]
fn loom_a_second_grace_period_waits_anew() {
    let explored = explore(2, || {
        let world = World::new();
        world.periods.leave_idle(0);
        let writer = world.clone();
        let driver = thread::spawn(move || {
            writer.grace_period();
            writer.replace();
            writer.grace_period();
            writer.free();
        });
        pass_on(driver.thread(), world.periods.quiescent(0));
        world.read();
        pass_on(driver.thread(), world.periods.quiescent(0));
        pass_on(driver.thread(), world.periods.enter_idle(0));
        driver.join().expect("the model's threads do not panic");
    });
    assert!(explored > 20, "{explored}");
}
