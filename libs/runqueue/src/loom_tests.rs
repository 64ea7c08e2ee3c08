//! Loom models of the state word: no lost wake-up, no double enqueue; and a broken twin.

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize as StdAtomicUsize, Ordering as StdOrdering};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use loom::thread;

use crate::{Park, ThreadState, Unpark};

fn explore(model: impl Fn() + Sync + Send + 'static) -> usize {
    let count = StdArc::new(StdAtomicUsize::new(0));
    let counter = count.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        counter.fetch_add(1, StdOrdering::Relaxed);
        model();
    });
    let explored = count.load(StdOrdering::Relaxed);
    println!("{explored} executions");
    explored
}

/// A simulated thread, its CPU's incoming list (a count is enough), and what its wakers want to tell it.
struct World {
    state: ThreadState,
    incoming: AtomicUsize,
    cpu: thread::Thread,
    told: [AtomicBool; 2],
}

impl World {
    /// What a CPU does to wake the thread.
    fn wake(&self, message: usize) {
        self.told[message].store(true, Ordering::Relaxed);
        if let Unpark::MustEnqueue(_) = self.state.unpark() {
            let before = self.incoming.fetch_add(1, Ordering::Release);
            assert_eq!(before, 0, "enqueued twice");
            self.cpu.unpark();
        }
    }

    /// One park of the simulated thread, and what its CPU does until it runs again.
    fn park(&self) {
        if self.state.prepare_park() == Park::TokenConsumed {
            return;
        }
        let _ = self.state.switched_out();
        while self.incoming.load(Ordering::Acquire) == 0 {
            thread::park();
        }
        assert_eq!(self.incoming.fetch_sub(1, Ordering::AcqRel), 1);
        self.state.dequeued();
        self.state.switched_in();
    }
}

#[test]
fn loom_no_wakeup_is_lost_and_nobody_is_enqueued_twice() {
    let explored = explore(|| {
        let world = Arc::new(World {
            state: ThreadState::new_running(),
            incoming: AtomicUsize::new(0),
            cpu: thread::current(),
            told: [AtomicBool::new(false), AtomicBool::new(false)],
        });
        let wakers: Vec<_> = (0..2)
            .map(|message| {
                let world = world.clone();
                thread::spawn(move || world.wake(message))
            })
            .collect();
        // Relaxed: the state word alone must make the messages visible.
        while !world.told.iter().all(|told| told.load(Ordering::Relaxed)) {
            world.park();
        }
        for waker in wakers {
            waker.join().expect("it does not panic");
        }
        assert_eq!(world.incoming.load(Ordering::Relaxed), 0);
    });
    assert!(explored > 100);
}

#[test]
fn loom_preemption_does_not_disturb_a_wake() {
    let explored = explore(|| {
        let state = Arc::new(ThreadState::new_running());
        let waker = state.clone();
        let waker = thread::spawn(move || waker.unpark());
        state.preempted();
        state.switched_in();
        let parked = state.prepare_park();
        let woken = waker.join().expect("it does not panic");
        match woken {
            Unpark::TokenSet => assert_eq!(parked, Park::TokenConsumed),
            other => assert!(parked == Park::Committed && other != Unpark::Exited),
        }
    });
    assert!(explored > 3);
}

/// An `unpark` that reads and writes in two steps: two wakers both believe they won.
#[test]
#[should_panic(expected = "enqueued twice")]
fn loom_broken_twin_enqueues_twice() {
    explore(|| {
        const WAITING: u32 = 3;
        let word = Arc::new(AtomicU32::new(WAITING));
        let winners = Arc::new(AtomicUsize::new(0));
        let (other_word, other_winners) = (word.clone(), winners.clone());
        let unpark = |word: &AtomicU32, winners: &AtomicUsize| {
            if word.load(Ordering::Acquire) == WAITING {
                word.store(4, Ordering::Release);
                winners.fetch_add(1, Ordering::Relaxed);
            }
        };
        let waker = thread::spawn(move || unpark(&other_word, &other_winners));
        unpark(&word, &winners);
        waker.join().expect("it does not panic");
        assert!(winners.load(Ordering::Relaxed) < 2, "enqueued twice");
    });
}
