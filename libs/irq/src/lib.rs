//! What an interrupt leaves for the thread that does its work, and when there are too many of them.
//!
//! # Theory
//! Interrupts of one source and the thread that serves it share one word, [`Pending`]: how many interrupts there were since the thread looked last.
//! The handler adds one ([`Pending::raise`]) and unparks the thread. The thread takes the number ([`Pending::take`]); if it is 0 it parks, else
//! it serves the device and looks again.
//!
//! *None is lost.* An interrupt before the take is served by it. One after the take, also one in the middle of the service, makes the number
//! positive again and leaves the park token: the next take finds it, or the park that follows a take of 0 returns at once. `raise`
//! releases and `take` acquires, so the thread also sees what the handler's CPU saw.
//!
//! *Re-arming.* A device that is told to interrupt again only after its work is done (virtio's event index) must be asked once more after that:
//! the service function does it. A source that moves to another CPU, or is unmasked, is told where to go first and then raised once by hand,
//! because what it had to say in between may have been lost.
//!
//! *Storms.* A broken device may interrupt without end; each interrupt costs the CPU it arrives on. [`Storm`] counts per window of time: above the
//! limit the thread masks the source and serves it by polling, slowly, for a while; then it tries again. All of this is the thread's, which gets
//! its turns between interrupts; the handler only counts. (Edge-triggered sources only: a level-triggered one would come back at once, before its
//! thread ran.)
#![cfg_attr(not(any(test, loom)), no_std)]

use lockfree::shim::atomic::{AtomicU32, Ordering};

/// Interrupts that wait for their thread.
#[derive(Debug)]
pub struct Pending(AtomicU32);

impl Pending {
    /// None.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// None, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Notes an interrupt; the caller unparks the thread afterwards. Context: interrupt.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// Takes all that were noted. Context: the source's thread.
    #[must_use]
    pub fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Acquire)
    }
}

impl Default for Pending {
    fn default() -> Self {
        Self::new()
    }
}

/// How long interrupts are counted together, in nanoseconds.
pub const WINDOW_NS: u64 = 100_000_000;
/// More than this in a window is a storm: no device that is worth its interrupts raises 200 000 a second.
pub const LIMIT: u32 = 20_000;
/// How often a masked source is served, in nanoseconds.
pub const POLL_NS: u64 = 10_000_000;
/// How long it stays masked, in nanoseconds.
pub const MASKED_NS: u64 = 1_000_000_000;

/// What the thread must do about its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// Serve it if there were interrupts, else wait for one.
    Listen,
    /// It has just become too loud: mask it, say so, and serve it.
    Mask,
    /// It is masked: serve it, and look again at that time.
    PollUntil(u64),
    /// It has been masked for long enough: unmask it, and serve it.
    Unmask,
}

/// The measure of one source. Owned by its thread.
#[derive(Debug, Default)]
pub struct Storm {
    window_start_ns: u64,
    count: u32,
    /// When it will be unmasked; 0: it is not masked.
    masked_until_ns: u64,
}

impl Storm {
    /// Nothing counted.
    #[must_use]
    pub const fn new() -> Self {
        Self { window_start_ns: 0, count: 0, masked_until_ns: 0 }
    }

    /// Whether its source is masked now.
    #[must_use]
    pub const fn is_masked(&self) -> bool {
        self.masked_until_ns != 0
    }

    /// The thread looks at `now`, monotonic nanoseconds, and has taken `raised` interrupts.
    pub fn look(&mut self, now: u64, raised: u32) -> Verdict {
        if self.masked_until_ns != 0 {
            if now < self.masked_until_ns {
                return Verdict::PollUntil((now + POLL_NS).min(self.masked_until_ns));
            }
            *self = Self { window_start_ns: now, ..Self::new() };
            return Verdict::Unmask;
        }
        if now.saturating_sub(self.window_start_ns) >= WINDOW_NS {
            (self.window_start_ns, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(raised);
        if self.count <= LIMIT {
            return Verdict::Listen;
        }
        self.masked_until_ns = now + MASKED_NS;
        Verdict::Mask
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A device that interrupts every `gap_ns` unless masked, and a thread that looks every `turn_ns`. Returns interrupts taken and services.
    fn simulate(gap_ns: u64, turn_ns: u64, length_ns: u64) -> (u64, u64, Vec<Verdict>) {
        let (mut storm, mut masked, mut arrived, mut served) = (Storm::new(), false, 0, 0);
        let mut turns = Vec::new();
        let (mut now, mut last) = (0, 0);
        while now < length_ns {
            let raised = if masked { 0 } else { ((now - last) / gap_ns) as u32 };
            arrived += u64::from(raised);
            last = now;
            let verdict = storm.look(now, raised);
            served += u64::from(raised > 0 || verdict != Verdict::Listen);
            let next = match verdict {
                Verdict::PollUntil(at) => at,
                Verdict::Mask => {
                    masked = true;
                    now + POLL_NS
                }
                Verdict::Unmask => {
                    masked = false;
                    now + turn_ns
                }
                Verdict::Listen => now + turn_ns,
            };
            if matches!(verdict, Verdict::Mask | Verdict::Unmask) {
                turns.push(verdict);
            }
            now = next;
        }
        (arrived, served, turns)
    }

    #[test]
    fn a_busy_device_is_never_masked() {
        let (arrived, _, turns) = simulate(10_000, 10_000, 3_000_000_000);
        assert!(arrived > 200_000);
        assert!(turns.is_empty(), "100 000 interrupts a second are not a storm: {turns:?}");
    }

    #[test]
    fn a_device_that_raises_without_end_is_bounded_and_still_served() {
        let seconds = 20;
        let (arrived, served, turns) = simulate(200, 50_000, seconds * 1_000_000_000);
        assert!(arrived < (seconds + 1) * 2 * u64::from(LIMIT), "{arrived} interrupts got through");
        assert!(served > seconds * 90, "polled {served} times");
        assert!(turns.len() as u64 >= seconds, "masked and unmasked in turn: {turns:?}");
        assert!(turns.chunks(2).all(|pair| pair[0] == Verdict::Mask && pair.get(1).is_none_or(|&v| v == Verdict::Unmask)));
    }

    #[test]
    fn a_device_that_calms_down_is_heard_again() {
        let mut storm = Storm::new();
        assert_eq!(storm.look(0, LIMIT + 1), Verdict::Mask);
        assert_eq!(storm.look(1, 0), Verdict::PollUntil(1 + POLL_NS));
        assert_eq!(storm.look(MASKED_NS - 1, 0), Verdict::PollUntil(MASKED_NS));
        assert_eq!(storm.look(MASKED_NS, 0), Verdict::Unmask);
        assert_eq!(storm.look(MASKED_NS + 1, 5), Verdict::Listen);
    }

    #[test]
    fn spurious_looks_change_nothing() {
        let mut storm = Storm::new();
        assert!((0..10_000).all(|now| storm.look(now, 0) == Verdict::Listen));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::Pending;
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
        /// Work that the device has announced.
        work: AtomicU32,
        done: AtomicBool,
    }

    /// Two devices' worth of interrupts against the thread's loop.
    fn model() -> usize {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        RUNS.store(0, StdOrdering::Relaxed);
        loom::model(move || {
            RUNS.fetch_add(1, StdOrdering::Relaxed);
            let shared = Arc::new(Shared {
                pending: Pending::new(),
                token: Token(Mutex::new(false), Condvar::new()),
                work: AtomicU32::new(0),
                done: AtomicBool::new(false),
            });
            let cpus: Vec<_> = (0..2)
                .map(|_| {
                    let shared = shared.clone();
                    loom::thread::spawn(move || {
                        shared.work.fetch_add(1, Ordering::Relaxed);
                        shared.pending.raise();
                        shared.token.unpark();
                    })
                })
                .collect();
            let mut served = 0;
            // Parks for ever, which loom reports as a deadlock, if an interrupt is lost.
            while served < 2 {
                if shared.pending.take() != 0 {
                    served += shared.work.swap(0, Ordering::Relaxed);
                } else {
                    shared.token.park();
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
    fn all_are_counted(take: fn(&Pending) -> u32) {
        loom::model(move || {
            let pending = Arc::new(Pending::new());
            let cpus: Vec<_> = (0..2)
                .map(|_| {
                    let pending = pending.clone();
                    loom::thread::spawn(move || pending.raise())
                })
                .collect();
            let early = take(&pending);
            cpus.into_iter().for_each(|cpu| cpu.join().unwrap());
            assert_eq!(early + pending.take(), 2, "an interrupt was lost");
        });
    }

    #[test]
    fn loom_all_interrupts_are_counted() {
        all_are_counted(Pending::take);
    }

    /// A take that looks and clears in two steps loses what comes in between.
    #[test]
    #[should_panic(expected = "an interrupt was lost")]
    fn loom_a_torn_take_loses_one() {
        all_are_counted(|pending| {
            let raised = pending.0.load(Ordering::Acquire);
            // The gap.
            pending.0.store(0, Ordering::Release);
            raised
        });
    }
}
