//! [`ModeSamples`], [`ShownTimes`]: CPU time apart by what it was spent on, the program or the kernel.
//!
//! # Theory
//! What a thread used in all is known exactly; a clock reading at every entry and exit of the kernel, to know the parts too, would cost
//! more than many calls do. So the parts are sampled: a timer interrupt sees in which mode the thread is, and that stands for all the
//! thread ran since the last sample. Samples come at shares of the time used so far ([`ModeSamples::interval_ns`]): dense for a young
//! thread, seldom for an old one, so that what is shown is equally good in proportion. The shown times are the exact sum, divided as
//! the samples are; neither ever falls ([`ShownTimes::update`]). Without any sample all of it was the program's, as on Linux.
//!
//! Only the thread's CPU writes samples, in its timer interrupt; anybody reads them. A reader may see one part of a sample: the
//! next reading makes up for it.
use core::sync::atomic::{AtomicU64, Ordering};

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It runs program code.
    User,
    /// It runs in the kernel.
    System,
}

/// What the samples say so far, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// In program code.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

/// A thread's samples.
#[derive(Default)]
pub struct ModeSamples {
    user_ns: AtomicU64,
    system_ns: AtomicU64,
}

impl ModeSamples {
    /// The shortest and the longest time between samples, on average.
    const SHORTEST_NS: u64 = 1_000_000;
    const LONGEST_NS: u64 = 100_000_000;

    /// No sample.
    #[must_use]
    pub const fn new() -> Self {
        Self { user_ns: AtomicU64::new(0), system_ns: AtomicU64::new(0) }
    }

    /// How long a thread that has used `total_ns` should run until the next sample, at most: about an eighth of that, more or less by a
    /// quarter, so that a program that does the same over and over is not always met at the same place.
    #[must_use]
    pub const fn interval_ns(total_ns: u64) -> u64 {
        const MIXER: u64 = 0x9e37_79b9_7f4a_7c15;
        let share = total_ns / 8;
        let mean = if share < Self::SHORTEST_NS {
            Self::SHORTEST_NS
        } else if share > Self::LONGEST_NS {
            Self::LONGEST_NS
        } else {
            share
        };
        mean / 4 * 3 + (total_ns.wrapping_mul(MIXER) >> 32) % (mean / 2)
    }

    /// The thread was found in `mode`, having used `total_ns`. Context: its CPU, in an interrupt.
    pub fn sample(&self, mode: Mode, total_ns: u64) {
        let before = self.sampled();
        let since = total_ns.saturating_sub(before.user_ns + before.system_ns);
        let (sum, part) = match mode {
            Mode::User => (before.user_ns, &self.user_ns),
            Mode::System => (before.system_ns, &self.system_ns),
        };
        part.store(sum + since, Ordering::Relaxed);
    }

    /// What was sampled.
    #[must_use]
    pub fn sampled(&self) -> Sampled {
        Sampled { user_ns: self.user_ns.load(Ordering::Relaxed), system_ns: self.system_ns.load(Ordering::Relaxed) }
    }
}

/// The parts of a thread's CPU time that were shown last. Their sum is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShownTimes {
    /// In program code.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

impl ShownTimes {
    /// Divides `total_ns`, which is no less than before, as `sampled` says, but so that neither part falls.
    pub fn update(&mut self, sampled: Sampled, total_ns: u64) -> Self {
        let all = u128::from(sampled.user_ns) + u128::from(sampled.system_ns);
        let exact = (u128::from(total_ns) * u128::from(sampled.system_ns)).checked_div(all).unwrap_or(0);
        let system_ns = u64::try_from(exact).unwrap_or(total_ns);
        let most = total_ns.saturating_sub(self.user_ns).max(self.system_ns);
        self.system_ns = system_ns.clamp(self.system_ns, most);
        self.user_ns = total_ns.saturating_sub(self.system_ns).max(self.user_ns);
        *self
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn without_samples_all_is_the_programs() {
        let shown = ShownTimes::default().update(ModeSamples::new().sampled(), 3 * MS);
        assert_eq!(shown, ShownTimes { user_ns: 3 * MS, system_ns: 0 });
    }

    #[test]
    fn a_sample_stands_for_the_time_since_the_last() {
        let samples = ModeSamples::new();
        samples.sample(Mode::User, 2 * MS);
        samples.sample(Mode::System, 8 * MS);
        samples.sample(Mode::User, 10 * MS);
        assert_eq!(samples.sampled(), Sampled { user_ns: 4 * MS, system_ns: 6 * MS });
        let shown = ShownTimes::default().update(samples.sampled(), 20 * MS);
        assert_eq!(shown, ShownTimes { user_ns: 8 * MS, system_ns: 12 * MS });
    }

    #[test]
    fn samples_are_dense_at_first_and_seldom_later() {
        let about = |total: u64, mean: u64| (mean / 4 * 3..mean / 4 * 5).contains(&ModeSamples::interval_ns(total));
        assert!(about(0, MS) && about(3 * MS, MS));
        assert!(about(80 * MS, 10 * MS) && about(800 * MS, 100 * MS));
        assert!(about(u64::MAX, 100 * MS));
    }

    #[test]
    fn a_regular_mixture_is_found_again() {
        // 3 ms of program and 1 ms of kernel, over and over.
        let mode_at = |at: u64| if at / MS % 4 < 3 { Mode::User } else { Mode::System };
        let (samples, mut at) = (ModeSamples::new(), 0);
        while at < 10_000 * MS {
            at += ModeSamples::interval_ns(at);
            samples.sample(mode_at(at), at);
        }
        let shown = ShownTimes::default().update(samples.sampled(), at);
        assert!((shown.system_ns * 100 / at).abs_diff(25) <= 10, "{shown:?}");
    }

    proptest! {
        #[test]
        fn neither_part_falls_and_the_sum_is_exact(steps in prop::collection::vec((0..50 * MS, any::<bool>(), any::<bool>()), 1..100)) {
            let (samples, mut shown, mut total) = (ModeSamples::new(), ShownTimes::default(), 0);
            for (ran, in_kernel, looks) in steps {
                total += ran;
                samples.sample(if in_kernel { Mode::System } else { Mode::User }, total);
                if looks {
                    let before = shown;
                    let now = shown.update(samples.sampled(), total);
                    prop_assert!(now.user_ns >= before.user_ns && now.system_ns >= before.system_ns);
                    prop_assert_eq!(now.user_ns + now.system_ns, total);
                }
            }
        }
    }
}
