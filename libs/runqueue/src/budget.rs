//! [`RealTimeShare`]: how much of its time a CPU gives to real-time threads while others are ready, as on Linux (sched(7), "Limiting the CPU usage of
//! real-time and deadline processes"): 950 ms of every second, if nobody says otherwise. A runaway `SCHED_FIFO` thread so leaves something to those
//! who could end it. [`Budget`] is one CPU's account of it.

const NS_PER_US: u64 = 1000;

/// What `/proc/sys/kernel/sched_rt_runtime_us` and `sched_rt_period_us` say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RealTimeShare {
    /// −1: all of it.
    runtime_us: i32,
    period_us: i32,
}

impl RealTimeShare {
    /// Linux's.
    pub const DEFAULT: Self = Self { runtime_us: 950_000, period_us: 1_000_000 };

    /// So much run time in each period, without limit if it is −1. None: a period of nothing, or less than the run time in it.
    #[must_use]
    pub const fn new(runtime_us: i32, period_us: i32) -> Option<Self> {
        if runtime_us < -1 || period_us < 1 || runtime_us > period_us {
            return None;
        }
        Some(Self { runtime_us, period_us })
    }

    /// Microseconds of run time in each period; −1 for no limit.
    #[must_use]
    pub const fn runtime_us(self) -> i32 {
        self.runtime_us
    }

    /// The period in microseconds.
    #[must_use]
    pub const fn period_us(self) -> i32 {
        self.period_us
    }

    /// Both in one word, for an atomic one.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.runtime_us.cast_unsigned() as u64) << 32 | self.period_us.cast_unsigned() as u64
    }

    /// What [`RealTimeShare::to_bits`] gave.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { runtime_us: ((bits >> 32) as u32).cast_signed(), period_us: (bits as u32).cast_signed() }
    }

    const fn period_ns(self) -> u64 {
        self.period_us.cast_unsigned() as u64 * NS_PER_US
    }

    /// After how much of a period others go first. None: never.
    const fn limit_ns(self) -> Option<u64> {
        if self.runtime_us < 0 || self.runtime_us >= self.period_us {
            return None;
        }
        Some(self.runtime_us.cast_unsigned() as u64 * NS_PER_US)
    }
}

/// The account of one CPU. A period begins when a real-time thread runs for the first time after the end of the one before: somebody looks whenever one has
/// run, and when those that are held may run on.
#[derive(Debug)]
pub(crate) struct Budget {
    share: RealTimeShare,
    end_ns: u64,
    used_ns: u64,
    is_spent: bool,
}

/// What a look has found.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// All is as it was.
    Same,
    /// Real-time threads are to stand behind all others from now on, or no more.
    Changed,
}

impl Budget {
    /// Nothing used.
    pub(crate) const fn new() -> Self {
        Self { share: RealTimeShare::DEFAULT, end_ns: 0, used_ns: 0, is_spent: false }
    }

    /// Sets the share. Another one is good from the next look on, which begins a period.
    pub(crate) fn set_share(&mut self, share: RealTimeShare) {
        if share != self.share {
            (self.share, self.end_ns) = (share, 0);
        }
    }

    /// Whether real-time threads stand behind all others.
    #[inline]
    pub(crate) const fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// It is `now_ns`, and real-time threads ran for `ran_ns` since the last look.
    pub(crate) fn look(&mut self, ran_ns: u64, now_ns: u64) -> Look {
        let was_spent = self.is_spent;
        if now_ns >= self.end_ns {
            let start_ns = self.end_ns.max(now_ns.saturating_sub(ran_ns));
            self.used_ns = (now_ns - start_ns) % self.share.period_ns();
            self.end_ns = now_ns - self.used_ns + self.share.period_ns();
        } else {
            self.used_ns += ran_ns;
        }
        self.is_spent = self.share.limit_ns().is_some_and(|limit| self.used_ns >= limit);
        if was_spent == self.is_spent { Look::Same } else { Look::Changed }
    }

    /// The CPU stood still for `stopped_ns`: that is nobody's time.
    pub(crate) fn postpone(&mut self, stopped_ns: u64) {
        self.end_ns = self.end_ns.saturating_add(stopped_ns);
    }

    /// When a look finds a change, if a real-time thread runs from `now_ns`, the time of the last look, on. None: never.
    pub(crate) fn next_change(&self, now_ns: u64) -> Option<u64> {
        if self.is_spent {
            return Some(self.end_ns);
        }
        Some(now_ns + self.share.limit_ns()?.saturating_sub(self.used_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const RUNTIME_NS: u64 = 950_000_000;
    const PERIOD_NS: u64 = 1_000_000_000;

    fn share(runtime_us: i32, period_us: i32) -> RealTimeShare {
        RealTimeShare::new(runtime_us, period_us).expect("it is one")
    }

    #[test]
    fn a_share_is_what_linux_takes_for_one() {
        for (runtime_us, period_us) in [(-1, 1), (0, 1), (7, 7), (950_000, 1_000_000), (i32::MAX, i32::MAX), (-1, i32::MAX)] {
            assert_eq!(RealTimeShare::from_bits(share(runtime_us, period_us).to_bits()), share(runtime_us, period_us));
        }
        for (runtime_us, period_us) in [(-2, 1), (0, 0), (-1, -1), (8, 7)] {
            assert_eq!(RealTimeShare::new(runtime_us, period_us), None);
        }
    }

    #[test]
    fn what_is_spent_comes_back_with_the_next_period() {
        let mut budget = Budget::new();
        assert_eq!(budget.look(0, 5), Look::Same);
        assert_eq!(budget.next_change(5), Some(5 + RUNTIME_NS));
        assert_eq!(budget.look(RUNTIME_NS - 1, RUNTIME_NS), Look::Same);
        assert_eq!(budget.next_change(RUNTIME_NS), Some(RUNTIME_NS + 1));
        assert_eq!(budget.look(1, RUNTIME_NS + 10), Look::Changed);
        assert!(budget.is_spent());
        assert_eq!(budget.next_change(RUNTIME_NS + 10), Some(5 + PERIOD_NS));
        assert_eq!(budget.look(3, RUNTIME_NS + 20), Look::Same);
        assert_eq!(budget.look(0, 5 + PERIOD_NS), Look::Changed);
        assert!(!budget.is_spent());
    }

    #[test]
    fn who_runs_alone_for_long_is_where_periods_without_gaps_would_have_it() {
        let mut budget = Budget::new();
        assert_eq!(budget.look(10 * PERIOD_NS + 7, 10 * PERIOD_NS + 9), Look::Same);
        assert_eq!(budget.next_change(10 * PERIOD_NS + 9), Some(10 * PERIOD_NS + 2 + RUNTIME_NS));
        assert_eq!(budget.look(RUNTIME_NS, 11 * PERIOD_NS), Look::Changed);
        assert_eq!(budget.next_change(11 * PERIOD_NS), Some(11 * PERIOD_NS + 2));
    }

    #[test]
    fn a_cpu_that_is_stopped_half_the_time_still_has_its_budget() {
        let mut budget = Budget::new();
        assert_eq!(budget.look(0, 0), Look::Same);
        let changes: Vec<u64> = (1..=2000)
            .filter(|ms| {
                budget.postpone(1_000_000);
                budget.look(1_000_000, ms * 2_000_000) == Look::Changed
            })
            .collect();
        assert_eq!(changes, [950, 1000, 1950, 2000]);
    }

    #[test]
    fn who_asks_for_less_is_never_held() {
        let mut budget = Budget::new();
        for ms in 0..10_000 {
            let ran = if ms % 10 == 0 { 0 } else { 1_000_000 };
            assert_eq!(budget.look(ran, ms * 1_000_000), Look::Same);
        }
    }

    #[test]
    fn all_of_a_period_or_no_limit_is_never_spent_and_nothing_of_it_always() {
        for unlimited in [share(-1, 1000), share(1000, 1000)] {
            let mut budget = Budget::new();
            budget.set_share(unlimited);
            assert_eq!(budget.look(0, 7), Look::Same);
            assert_eq!(budget.look(5_000_000, 900_000), Look::Same);
            assert_eq!(budget.next_change(900_000), None);
        }
        let mut budget = Budget::new();
        budget.set_share(share(0, 1000));
        assert_eq!(budget.look(0, 7), Look::Changed);
        assert_eq!(budget.look(0, 2_000_000), Look::Same);
        assert!(budget.is_spent());
    }

    #[test]
    fn another_share_begins_a_period() {
        let mut budget = Budget::new();
        assert_eq!(budget.look(0, 0), Look::Same);
        assert_eq!(budget.look(RUNTIME_NS, RUNTIME_NS), Look::Changed);
        budget.set_share(RealTimeShare::DEFAULT);
        assert_eq!(budget.next_change(RUNTIME_NS), Some(PERIOD_NS), "the same share changes nothing");
        budget.set_share(share(-1, 1_000_000));
        assert_eq!(budget.next_change(RUNTIME_NS), Some(0), "somebody is to look at once");
        assert_eq!(budget.look(0, RUNTIME_NS), Look::Changed);
        assert!(!budget.is_spent());
    }
}
