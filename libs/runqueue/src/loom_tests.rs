//! Loom models of the state word (no lost wake-up, no double enqueue), of the poll flag and of sleep timers, each with broken twins.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use loom::thread;
use loom_support::explore;

use crate::{FallAsleep, GivenBack, PollFlag, SleepTimers, TIMERS, ThreadState, TimerPlace, Unpark};

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

/// Two CPUs with a timer queue and a list of abandoned timers each, and a thread that waits with deadlines. A queue may be touched by
/// its CPU alone, which loom checks.
struct Sleepers {
    state: ThreadState,
    timers: SleepTimers,
    /// Which of the thread's timers are in a CPU's queue.
    queues: [UnsafeCell<[bool; TIMERS]>; 2],
    /// Bit N: timer N is on a CPU's list.
    lists: [AtomicU32; 2],
}

// SAFETY: the queues are their CPUs' alone, which the model checks.
#[expect(unsafe_code, reason = "the model checks it")]
unsafe impl Sync for Sleepers {}

#[derive(Clone, Copy, PartialEq)]
enum SleepMistake {
    None,
    /// An expired timer's CPU takes the timer that is set out of its own queue, wherever that is.
    ClearsBlindly,
    /// The list's CPU looks whether the timer is wanted before it frees it, in two steps.
    GivesBackInTwoSteps,
}

impl Sleepers {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: ThreadState::new(),
            timers: SleepTimers::new(),
            queues: [UnsafeCell::new([false; TIMERS]), UnsafeCell::new([false; TIMERS])],
            lists: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    }

    #[expect(unsafe_code, reason = "the model checks it")]
    fn queue<R>(&self, cpu: usize, f: impl FnOnce(&mut [bool; TIMERS]) -> R) -> R {
        // SAFETY: the model checks it.
        self.queues[cpu].with_mut(|queue| f(unsafe { &mut *queue }))
    }

    /// The thread waits on `cpu`, with a deadline if a timer can be had.
    fn wait(&self, cpu: usize) {
        if let Some(index) = self.timers.set(cpu) {
            self.queue(cpu, |queue| assert!(!core::mem::replace(&mut queue[index], true), "linked twice"));
        }
        if self.state.fall_asleep() == FallAsleep::AlreadyWoken {
            self.timers.clear(|index| self.queue(cpu, |queue| queue[index] = false));
        }
    }

    /// A CPU has won the thread's wake-up and sends the thread to another CPU.
    fn send_away(&self) {
        if let Some(TimerPlace { index, cpu }) = self.timers.abandon() {
            assert_eq!(self.lists[cpu].fetch_or(1 << index, Ordering::AcqRel) & 1 << index, 0, "listed twice");
        }
    }

    /// The timers of `cpu` expire. Whether that has woken the thread.
    fn expire(&self, cpu: usize, mistake: SleepMistake) -> bool {
        let mut woken = false;
        for index in 0..TIMERS {
            let popped = self.queue(cpu, |queue| core::mem::replace(&mut queue[index], false));
            if popped && self.state.unpark() == Unpark::MustEnqueue {
                woken = true;
                if mistake == SleepMistake::ClearsBlindly || self.timers.armed().is_some_and(|place| place.cpu == cpu) {
                    self.timers.clear(|armed| {
                        let here = self.queue(cpu, |queue| core::mem::replace(&mut queue[armed], false));
                        assert!(here || armed == index, "unlinked from another CPU's queue");
                    });
                } else {
                    self.send_away();
                }
            }
        }
        woken
    }

    /// `cpu` empties its list; whether the thread must be unparked for that.
    fn give_back(&self, cpu: usize) -> bool {
        let listed = self.lists[cpu].swap(0, Ordering::AcqRel);
        let mut wanted = false;
        for index in (0..TIMERS).filter(|index| listed & 1 << index != 0) {
            self.queue(cpu, |queue| queue[index] = false);
            wanted |= self.timers.give_back(index) == GivenBack::Wanted;
        }
        wanted
    }
}

/// A thread waits on CPU 0. CPU 1 wakes it and has it wait again, while its timer expires on CPU 0.
fn wake_elsewhere_while_the_timer_expires(mistake: SleepMistake) {
    let world = Sleepers::new();
    world.wait(0);
    let cpu1 = world.clone();
    let cpu1 = thread::spawn(move || {
        if cpu1.state.wake() {
            cpu1.send_away();
            cpu1.wait(1);
        }
    });
    let first = world.expire(0, mistake);
    let _nobody_wants_it = world.give_back(0);
    cpu1.join().expect("the model's threads do not panic");
    // What is left, in both CPUs' next passes; `join` has handed CPU 1 over to this thread.
    let second = world.expire(1, SleepMistake::None);
    for cpu in [0, 1] {
        let _nobody_wants_it = world.give_back(cpu);
        world.queue(cpu, |queue| assert_eq!(*queue, [false; TIMERS]));
    }
    assert!(first || second || !world.state.is_sleeping(), "it sleeps for ever");
    assert!(!world.timers.is_armed());
    assert!(world.timers.set(0).is_some_and(|index| index < TIMERS));
}

#[test]
fn loom_a_timer_is_unlinked_only_where_it_was_set() {
    let explored = explore(3, || wake_elsewhere_while_the_timer_expires(SleepMistake::None));
    assert!(explored > 20, "{explored}");
}

#[test]
#[should_panic(expected = "queue")]
fn loom_broken_twin_clears_another_cpus_timer() {
    explore(3, || wake_elsewhere_while_the_timer_expires(SleepMistake::ClearsBlindly));
}

/// A thread that needs a timer, both of which are abandoned, waits until their CPU gives one back.
fn want_a_timer(mistake: SleepMistake) {
    let world = Sleepers::new();
    for _ in 0..TIMERS {
        let _index = world.timers.set(0);
        world.send_away();
    }
    let (cpu0, sleeper) = (world.clone(), thread::current());
    let cpu0 = thread::spawn(move || {
        let wanted = if mistake == SleepMistake::GivesBackInTwoSteps {
            let wanted = cpu0.timers.is_wanted();
            let _too_late = cpu0.give_back(0);
            wanted
        } else {
            cpu0.give_back(0)
        };
        if wanted {
            sleeper.unpark();
        }
    });
    while world.timers.set(1).is_none() {
        if world.timers.want().is_some() {
            thread::park();
        }
    }
    cpu0.join().expect("the model's threads do not panic");
}

#[test]
fn loom_who_wants_a_timer_is_told() {
    let explored = explore(None, || want_a_timer(SleepMistake::None));
    assert!(explored > 5, "{explored}");
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_broken_twin_misses_who_wants_a_timer() {
    explore(None, || want_a_timer(SleepMistake::GivesBackInTwoSteps));
}
