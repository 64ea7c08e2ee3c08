//! [`GracePeriods`]: when may what was removed be freed?
//!
//! # Theory
//! A *reader* runs on one CPU, does not sleep and is not preempted. A *quiescent state* of a CPU is a moment at which no
//! reader runs on it: a thread switch, or all the time while it is idle. A *grace period* is any time in which each CPU
//! has been in a quiescent state. What was unreachable when it began, no reader can hold when it is over.
//!
//! `wanted` is the number of the newest grace period that was begun. `seen[c]` belongs to CPU c: the newest number it
//! knew in a quiescent state, or [`IDLE`].
//!
//! | transition | what | by |
//! |---|---|---|
//! | *start* | `wanted` + 1 | the driver, after things were made unreachable |
//! | *announce* | `seen[c]` = `wanted` | CPU c in a quiescent state, if the two differ |
//! | *enter idle* | `seen[c]` = IDLE | CPU c, before it waits for interrupts |
//! | *leave idle* | `seen[c]` = `wanted` | CPU c, before it runs a thread |
//!
//! Grace period g is over when `seen[c]` ≥ g for all c (IDLE is greater than any number).
//!
//! Readers that began before *announce* of CPU c: its Release store of `seen[c]` pairs with the Acquire load in `is_over`, so
//! their reads happen before what follows the grace period. Readers that begin after it: *announce* stores a number that it read
//! from `wanted` with Acquire, which pairs with the Release in *start*; so they see what was done before *start* and cannot reach
//! what was removed.
//!
//! Idle CPUs are not told of anything, so theirs is a store-load (Dekker) pair: the driver removes, fence, looks at `seen[c]`;
//! CPU c leaves idle, fence, reads. Either the driver sees that c is not idle, or c sees that the thing is gone.
//!
//! Nobody is left asleep: the driver sleeps after it saw some `seen[c]` < g. The CPU that makes the last of them ≥ g looks at all
//! after a fence, and is told so by the return value; with the fence, of two CPUs that announce at once one sees both.
//!
//! Rejected: counters that readers change (two writes per reader); epochs per thread (a list of threads); ticks.

use lockfree::shim::atomic::{AtomicU64, Ordering, fence};

/// The CPU reads nothing until it says otherwise.
const IDLE: u64 = u64::MAX;

#[repr(align(64))]
struct Seen(AtomicU64);

/// Grace periods of up to `N` CPUs. See the module.
pub struct GracePeriods<const N: usize> {
    wanted: AtomicU64,
    seen: [Seen; N],
}

/// Whether a CPU's quiescent state ended a grace period, so that its driver has to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Nothing to do.
    Nothing,
    /// The newest grace period is over.
    Over,
}

impl Outcome {
    fn when(over: bool) -> Self {
        if over { Self::Over } else { Self::Nothing }
    }
}

impl<const N: usize> Default for GracePeriods<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> GracePeriods<N> {
    /// All CPUs idle.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { wanted: AtomicU64::new(0), seen: [const { Seen(AtomicU64::new(IDLE)) }; N] }
    }

    /// All CPUs idle.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self { wanted: AtomicU64::new(0), seen: core::array::from_fn(|_| Seen(AtomicU64::new(IDLE))) }
    }

    /// CPU `cpu` reads nothing at this moment. Costs two loads unless a grace period waits for it.
    ///
    /// Context: on that CPU, which runs no reader and does not switch threads meanwhile.
    #[inline]
    pub fn quiescent(&self, cpu: usize) -> Outcome {
        let wanted = self.wanted.load(Ordering::Acquire);
        if self.seen[cpu].0.load(Ordering::Relaxed) >= wanted {
            return Outcome::Nothing;
        }
        self.announce(cpu, wanted)
    }

    #[cold]
    fn announce(&self, cpu: usize, wanted: u64) -> Outcome {
        self.seen[cpu].0.store(wanted, Ordering::Release);
        fence(Ordering::SeqCst);
        Outcome::when(self.is_over(wanted))
    }

    /// CPU `cpu` reads nothing from now on.
    ///
    /// Context: as for [`GracePeriods::quiescent`].
    pub fn enter_idle(&self, cpu: usize) -> Outcome {
        let seen = self.seen[cpu].0.swap(IDLE, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let wanted = self.wanted.load(Ordering::Acquire);
        Outcome::when(seen < wanted && self.is_over(wanted))
    }

    /// CPU `cpu` may read from now on.
    ///
    /// Context: on that CPU, which does not switch threads meanwhile.
    pub fn leave_idle(&self, cpu: usize) {
        let wanted = self.wanted.load(Ordering::Acquire);
        self.seen[cpu].0.store(wanted, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Begins a grace period for everything that the caller (or whoever it has heard from) made unreachable so far.
    pub fn start(&self) -> u64 {
        let number = self.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        fence(Ordering::SeqCst);
        number
    }

    /// Whether grace period `number` is over.
    #[must_use]
    pub fn is_over(&self, number: u64) -> bool {
        self.lagging(number).next().is_none()
    }

    /// The CPUs that grace period `number` still waits for.
    pub fn lagging(&self, number: u64) -> impl Iterator<Item = usize> {
        (0..N).filter(move |&cpu| self.seen[cpu].0.load(Ordering::Acquire) < number)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_waits_for_every_cpu_that_is_not_idle() {
        let periods = GracePeriods::<3>::new();
        periods.leave_idle(0);
        periods.leave_idle(2);
        let first = periods.start();
        assert_eq!(periods.lagging(first).collect::<std::vec::Vec<_>>(), [0, 2]);
        assert_eq!(periods.quiescent(0), Outcome::Nothing);
        assert_eq!(periods.quiescent(0), Outcome::Nothing, "once is enough");
        assert!(!periods.is_over(first));
        assert_eq!(periods.quiescent(2), Outcome::Over);
        assert!(periods.is_over(first));
    }

    #[test]
    fn an_idle_cpu_holds_nobody_up_and_stays_idle() {
        let periods = GracePeriods::<2>::new();
        periods.leave_idle(0);
        let first = periods.start();
        assert_eq!(periods.enter_idle(0), Outcome::Over);
        assert!(periods.is_over(first));
        assert_eq!(periods.quiescent(0), Outcome::Nothing);
        let second = periods.start();
        assert!(periods.is_over(second), "it is still idle");
        assert_eq!(periods.enter_idle(0), Outcome::Nothing, "nobody waited for it");
    }

    #[test]
    fn a_cpu_that_leaves_idle_after_the_start_has_seen_it() {
        let periods = GracePeriods::<1>::new();
        let first = periods.start();
        periods.leave_idle(0);
        assert!(periods.is_over(first));
        let second = periods.start();
        assert!(!periods.is_over(second));
        assert_eq!(periods.quiescent(0), Outcome::Over);
    }
}
