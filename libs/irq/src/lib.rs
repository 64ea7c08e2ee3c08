//! What an interrupt leaves for the thread that does its work, and when there are too many of them.
//!
//! # Theory
//! Interrupts and the thread that serves them share [`Pending`]: how many there were since the thread looked last, and from which of its sources (a
//! device has one line, or a message for each queue). The handler adds its source to the set and one to the number ([`Pending::raise`]) and unparks
//! the thread. The thread takes both ([`Pending::take`]); if the number is 0 it parks, else it serves those sources and looks again.
//!
//! *None is lost.* An interrupt before the take is served by it. One after the take, also one in the middle of the service, makes the number
//! positive again and leaves the park token: the next take finds it, or the park that follows a take of 0 returns at once. The set is written
//! before the number and taken after it, so whoever takes a number has its source, now or in an earlier take; a source that was taken too early was also served
//! too early, but after what it stands for: both writes release and both takes acquire, so the thread sees what the handler's CPU saw.
//!
//! *Vectors* ([`Vectors`]) belong to a CPU, so their number grows with the number of CPUs. All sources of a thread go to one CPU: the one that the driver
//! names, else the one with the most free vectors ([`choose`]).
//!
//! *Re-arming.* A device that is told to interrupt again only after its work is done (virtio's event index) must be asked once more after that:
//! the service function does it. A source that moves to another CPU, or is unmasked, is told where to go first and then raised once by hand,
//! because what it had to say in between may have been lost.
//!
//! *Storms.* A broken device may interrupt without end; each interrupt costs the CPU it arrives on. [`Storm`] counts per window of time: above the
//! limit the thread masks its sources and serves them by polling, slowly, for a while; then it tries again. All of this is the thread's, which gets
//! its turns between interrupts; the handler only counts. (Edge-triggered sources and messages only: a level-triggered one would come back at once, before its
//! thread ran.)
#![cfg_attr(not(any(test, loom)), no_std)]

mod storm;
mod vectors;

pub use storm::{LIMIT, MASKED_NS, POLL_NS, Storm, Verdict, WINDOW_NS};
pub use vectors::{FIRST_VECTOR, VECTORS_PER_CPU, Vectors, choose};

use lockfree::shim::atomic::{AtomicU32, AtomicU64, Ordering};

/// Sources of one thread that are told apart; those beyond share the last place.
pub const SOURCES: u32 = 64;
/// Every source.
pub const ALL_SOURCES: u64 = u64::MAX;

/// Interrupts that wait for their thread.
#[derive(Debug)]
pub struct Pending {
    /// Bit N: source N.
    sources: AtomicU64,
    count: AtomicU32,
}

/// What was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raised {
    /// How many interrupts.
    pub count: u32,
    /// From which sources, bit N for source N. May be none when an earlier take had them.
    pub sources: u64,
}

impl Pending {
    /// None.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { sources: AtomicU64::new(0), count: AtomicU32::new(0) }
    }

    /// None, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self { sources: AtomicU64::new(0), count: AtomicU32::new(0) }
    }

    /// Notes an interrupt of source number `source`; the caller unparks the thread afterwards. Context: interrupt.
    pub fn raise(&self, source: u32) {
        self.note(1 << source.min(SOURCES - 1));
    }

    /// Has every source served once more; the caller unparks the thread afterwards unless it is that thread.
    pub fn raise_all(&self) {
        self.note(ALL_SOURCES);
    }

    fn note(&self, sources: u64) {
        self.sources.fetch_or(sources, Ordering::Release);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Takes all that were noted. Context: the sources' thread.
    #[must_use]
    pub fn take(&self) -> Raised {
        let count = self.count.swap(0, Ordering::Acquire);
        if count == 0 {
            return Raised { count, sources: 0 };
        }
        Raised { count, sources: self.sources.swap(0, Ordering::Acquire) }
    }
}

impl Default for Pending {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_and_counted_together() {
        let pending = Pending::new();
        assert_eq!(pending.take(), Raised { count: 0, sources: 0 });
        pending.raise(0);
        pending.raise(5);
        pending.raise(5);
        pending.raise(1000);
        assert_eq!(pending.take(), Raised { count: 4, sources: 1 | 1 << 5 | 1 << 63 });
        pending.raise_all();
        assert_eq!(pending.take(), Raised { count: 1, sources: ALL_SOURCES });
        assert_eq!(pending.take().count, 0);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::{Pending, Raised};
    use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};
    use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};

    /// A park token as the scheduler has it.
    struct Token(Mutex<bool>, Condvar);

    impl Token {
        fn unpark(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
        }

        fn park(&self) {
            let mut token = self.0.lock().unwrap();
            while !*token {
                token = self.1.wait(token).unwrap();
            }
            *token = false;
        }
    }

    struct Shared {
        pending: Pending,
        token: Token,
        /// Work that each source has announced.
        work: [AtomicU32; 2],
        done: AtomicBool,
    }

    /// An interrupt from each of two sources against the thread's loop, which looks only at the sources that it is told of.
    fn model() -> usize {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        RUNS.store(0, StdOrdering::Relaxed);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            RUNS.fetch_add(1, StdOrdering::Relaxed);
            let shared = Arc::new(Shared {
                pending: Pending::new(),
                token: Token(Mutex::new(false), Condvar::new()),
                work: [AtomicU32::new(0), AtomicU32::new(0)],
                done: AtomicBool::new(false),
            });
            let cpus: Vec<_> = (0..2)
                .map(|source| {
                    let shared = shared.clone();
                    loom::thread::spawn(move || {
                        shared.work[source].fetch_add(1, Ordering::Relaxed);
                        shared.pending.raise(source as u32);
                        shared.token.unpark();
                    })
                })
                .collect();
            let mut served = 0;
            // Parks for ever, which loom reports as a deadlock, if an interrupt is lost.
            while served < 2 {
                let raised = shared.pending.take();
                if raised.count == 0 {
                    shared.token.park();
                }
                for (source, work) in shared.work.iter().enumerate() {
                    if raised.sources & 1 << source != 0 {
                        served += work.swap(0, Ordering::Relaxed);
                    }
                }
            }
            shared.done.store(true, Ordering::Relaxed);
            cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
        });
        RUNS.load(StdOrdering::Relaxed)
    }

    #[test]
    fn loom_no_interrupt_is_lost() {
        let runs = model();
        assert!(runs > 100, "only {runs} schedules");
    }

    /// Two interrupts against one take; whatever it missed is taken at the end.
    fn all_are_counted(take: fn(&Pending) -> Raised) {
        loom::model(move || {
            let pending = Arc::new(Pending::new());
            let cpus: Vec<_> = (0..2)
                .map(|source| {
                    let pending = pending.clone();
                    loom::thread::spawn(move || pending.raise(source))
                })
                .collect();
            let early = take(&pending);
            cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
            let late = pending.take();
            assert_eq!(early.count + late.count, 2, "an interrupt was lost");
            assert_eq!(early.sources | late.sources, 3, "a source was lost");
        });
    }

    #[test]
    fn loom_all_interrupts_are_counted() {
        all_are_counted(Pending::take);
    }

    /// The set first, then the number: an interrupt between the two is counted, and its source is not known.
    #[test]
    #[should_panic(expected = "a source was lost")]
    fn loom_a_set_taken_before_its_number_loses_one() {
        all_are_counted(|pending| {
            let sources = pending.sources.swap(0, Ordering::Acquire);
            Raised { count: pending.count.swap(0, Ordering::Acquire), sources }
        });
    }

    /// A take that looks and clears in two steps loses what comes in between.
    #[test]
    #[should_panic(expected = "an interrupt was lost")]
    fn loom_a_torn_take_loses_one() {
        all_are_counted(|pending| {
            let count = pending.count.load(Ordering::Acquire);
            // The gap.
            pending.count.store(0, Ordering::Release);
            Raised { count, sources: pending.sources.swap(0, Ordering::Acquire) }
        });
    }
}
