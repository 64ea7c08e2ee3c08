//! [`PollFlag`] and [`PollWindow`]: an idle CPU that looks for work before it halts.
//!
//! # Theory
//! A halted CPU needs an interrupt to see its incoming list; one that looks at the list anyway does not. The flag tells
//! wakers which it is. Two parties, each with a store and a load (Dekker's pattern):
//!
//! - waker: push on the list; load the flag; if it is down, interrupt;
//! - poller: lower the flag; load the list; if it is empty, halt.
//!
//! Both have a sequentially consistent fence between their two steps, so at least one sees the other's store: either the
//! waker sees the flag down and interrupts, or the poller sees the list. A waker that sees the flag *up* may be late, but
//! then the poller has yet to lower it, and looks afterwards.
//!
//! Raising the flag needs no order: who misses it sends an interrupt too many.
use lockfree::shim::atomic::{AtomicBool, Ordering, fence};

/// Whether a CPU looks at its list without being told.
pub struct PollFlag {
    polls: AtomicBool,
}

impl PollFlag {
    /// Down.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            polls: AtomicBool::new(false),
        }
    }

    /// Down, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            polls: AtomicBool::new(false),
        }
    }

    /// The CPU looks from now on. Context: that CPU.
    pub fn begin(&self) {
        self.polls.store(true, Ordering::Relaxed);
    }

    /// The CPU stops looking; it must look once more after this. Context: that CPU.
    pub fn end(&self) {
        if self.polls.load(Ordering::Relaxed) {
            self.polls.store(false, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }

    /// Whether the CPU must be interrupted to see what the caller has just pushed. Context: any CPU, after the push.
    #[must_use]
    pub fn needs_interrupt(&self) -> bool {
        fence(Ordering::SeqCst);
        !self.polls.load(Ordering::Relaxed)
    }
}

impl Default for PollFlag {
    fn default() -> Self {
        Self::new()
    }
}

/// How long to look for work before halting: learnt from how long the last idle times were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollWindow {
    window_ns: u64,
}

impl PollWindow {
    /// The longest window: about what a halt and the interrupt that ends it cost under a hypervisor, several times over.
    pub const LONGEST_NS: u64 = 50_000;
    /// The shortest window but none.
    pub const SHORTEST_NS: u64 = 4_000;

    /// Does not look at all.
    #[must_use]
    pub const fn new() -> Self {
        Self { window_ns: 0 }
    }

    /// How long to look.
    #[must_use]
    pub const fn window_ns(self) -> u64 {
        self.window_ns
    }

    /// Work came after the CPU was idle for `idle_ns`: if that was soon, looking pays; if not, it would not have.
    pub const fn learn(&mut self, idle_ns: u64) {
        self.window_ns = if idle_ns <= Self::LONGEST_NS {
            let wider = 2 * self.window_ns + Self::SHORTEST_NS;
            if wider > Self::LONGEST_NS { Self::LONGEST_NS } else { wider }
        } else if self.window_ns / 2 < Self::SHORTEST_NS {
            0
        } else {
            self.window_ns / 2
        };
    }
}
