//! Loom models of the state word (no lost wake-up, no double enqueue) and of the poll flag, each with broken twins.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use loom::thread;
use loom_support::explore;

use crate::{FallAsleep, PollFlag, ThreadState, Unpark};

/// A simulated thread, its CPU's incoming list (a count is enough), and what its wakers want to tell it.
struct World {
    state: ThreadState,
    incoming: AtomicUsize,
    cpu: thread::Thread,
    told: [AtomicBool; 2],
    /// What the CPU saves of the thread before it sleeps: written before `fall_asleep`, read by whoever wakes it.
    registers: UnsafeCell<usize>,
}

// SAFETY: whose `registers` are is what the state word decides, and what the model checks.
#[expect(unsafe_code, reason = "the model checks it")]
unsafe impl Sync for World {}

impl World {
    fn new() -> Self {
        Self {
            state: ThreadState::new(),
            incoming: AtomicUsize::new(0),
            cpu: thread::current(),
            told: [AtomicBool::new(false), AtomicBool::new(false)],
            registers: UnsafeCell::new(0),
        }
    }

    /// What a CPU does to wake the thread: it may run the thread itself, so it looks at the saved registers.
    fn wake(&self, message: usize) {
        self.told[message].store(true, Ordering::Relaxed);
        if self.state.unpark() == Unpark::MustEnqueue {
            // SAFETY: loom checks it.
            #[expect(unsafe_code, reason = "the model checks it")]
            self.registers.with_mut(|registers| unsafe { *registers += 1 });
            let before = self.incoming.fetch_add(1, Ordering::Release);
            assert_eq!(before, 0, "enqueued twice");
            self.cpu.unpark();
        }
    }

    /// One park of the simulated thread, and what its CPU does until it runs again.
    fn park(&self) {
        if self.state.take_token() {
            return;
        }
        // SAFETY: loom checks it.
        #[expect(unsafe_code, reason = "the model checks it")]
        self.registers.with_mut(|registers| unsafe { *registers += 1 });
        if self.state.fall_asleep() == FallAsleep::AlreadyWoken {
            return;
        }
        while self.incoming.load(Ordering::Acquire) == 0 {
            thread::park();
        }
        assert_eq!(self.incoming.fetch_sub(1, Ordering::AcqRel), 1);
    }
}

#[test]
fn loom_no_wakeup_is_lost_and_nobody_is_enqueued_twice() {
    let explored = explore(3, || {
        let world = Arc::new(World::new());
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

/// A thread that falls asleep without looking at the token again: a wake-up between the look and the sleep is lost.
#[test]
#[should_panic(expected = "slept through")]
fn loom_broken_twin_loses_a_wakeup() {
    explore(3, || {
        const AWAKE: u32 = 0;
        const WAITING: u32 = 1;
        const TOKEN: u32 = 4;
        let word = Arc::new(AtomicU32::new(AWAKE));
        let other = word.clone();
        let waker = thread::spawn(move || {
            let woken = other.compare_exchange(WAITING, AWAKE, Ordering::AcqRel, Ordering::Relaxed);
            woken.is_err() && other.fetch_or(TOKEN, Ordering::AcqRel) != WAITING
        });
        let token = word.load(Ordering::Acquire) & TOKEN != 0;
        if !token {
            word.store(WAITING, Ordering::Release);
        }
        let told_awake = waker.join().expect("it does not panic");
        let asleep = word.load(Ordering::Acquire) & WAITING != 0;
        assert!(!(asleep && told_awake), "slept through");
    });
}

/// An `unpark` that reads and writes in two steps: two wakers both believe they won.
#[test]
#[should_panic(expected = "enqueued twice")]
fn loom_broken_twin_enqueues_twice() {
    explore(3, || {
        const WAITING: u32 = 1;
        let word = Arc::new(AtomicU32::new(WAITING));
        let winners = Arc::new(AtomicUsize::new(0));
        let (other_word, other_winners) = (word.clone(), winners.clone());
        let unpark = |word: &AtomicU32, winners: &AtomicUsize| {
            if word.load(Ordering::Acquire) == WAITING {
                word.store(0, Ordering::Release);
                winners.fetch_add(1, Ordering::Relaxed);
            }
        };
        let waker = thread::spawn(move || unpark(&other_word, &other_winners));
        unpark(&word, &winners);
        waker.join().expect("it does not panic");
        assert!(winners.load(Ordering::Relaxed) < 2, "enqueued twice");
    });
}

/// A waker pushes and asks whether to interrupt; a poller lowers its flag, looks once more and halts. `lower` is how it does.
fn push_against_halt(lower: fn(&PollFlag, &AtomicUsize) -> usize) -> usize {
    explore(3, move || {
        let shared = Arc::new((PollFlag::new(), AtomicUsize::new(0)));
        shared.0.begin();
        let waker = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.fetch_add(1, Ordering::Release);
                shared.0.needs_interrupt()
            })
        };
        let seen = lower(&shared.0, &shared.1);
        let interrupted = waker.join().expect("it does not panic");
        assert!(seen != 0 || interrupted, "halted with work on the list");
    })
}

#[test]
fn loom_no_work_is_missed_by_a_poller_that_halts() {
    let explored = push_against_halt(|flag, list| {
        flag.end();
        list.load(Ordering::Relaxed)
    });
    assert!(explored > 5, "{explored}");
}

/// A poller that looks first and lowers its flag then.
#[test]
#[should_panic(expected = "halted with work")]
fn loom_broken_twin_halts_on_work() {
    push_against_halt(|flag, list| {
        let seen = list.load(Ordering::Acquire);
        flag.end();
        seen
    });
}
