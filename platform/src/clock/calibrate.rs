//! The TSC's frequency from another timer, on a host that may stop the guest at any moment for any time.
//!
//! A [`Sample`] is one reading of a reference counter between two readings of the TSC. The reading happened somewhere
//! in that bracket, so two samples with `t` reference ticks between them bound the frequency on both sides:
//! the TSC advanced at least `before₂ − after₁` and at most `after₂ − before₁`, during more than `t − 1` and less than
//! `t + 1` ticks. A stall inside a bracket only makes that sample's bounds loose; one between samples does no harm,
//! *unless it lasts longer than the counter takes to wrap* (55 ms for the PIT): then ticks are missing.
//!
//! Missing ticks make every estimate too high, never too low. Hence: (1) samples with wide brackets are dropped, the
//! tightest kept; (2) the least upper bound over all pairs is sound whatever happened; (3) neighbours whose lower bound
//! lies above it lost ticks between them, and no pair spanning such a gap may contribute; (4) the greatest lower bound
//! of the remaining pairs closes the interval. Comparing all pairs finds the ones whose phases fit best: 32 readings
//! over 10 ms of a 1.19 MHz counter come within tens of ppm of the truth.
//!
//! [`cross_check`] then compares two timers, since a broken timer can look perfectly consistent.

use arrayvec::ArrayVec;

/// Most samples used of one series.
pub const MAX_SAMPLES: usize = 32;
/// A sample is dropped when its bracket is this many times wider than the tightest one's.
const WIDTH_LIMIT: u64 = 8;

/// One reading of the reference counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// TSC just before the reading.
    pub before: u64,
    /// TSC just after it.
    pub after: u64,
    /// The counter, counting upwards (a down-counter's value negated).
    pub count: u64,
}

/// A reference counter's nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Ticks per second.
    pub hz: u64,
    /// It wraps at 2 to this power, at most 64.
    pub bits: u32,
}

/// A frequency in Hz, known to lie within `error` of `hz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Most likely frequency.
    pub hz: u64,
    /// Largest possible deviation.
    pub error: u64,
}

impl Estimate {
    /// The bound in parts per million, rounded up.
    #[must_use]
    pub const fn error_ppm(self) -> u64 {
        ((self.error as u128 * 1_000_000).div_ceil(self.hz as u128)) as u64
    }
}

/// Why samples gave no frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Fewer than two usable samples: the timer stands still, or every bracket is useless.
    TooFewSamples,
    /// The bounds exclude each other: one of the two counters misbehaves.
    Inconsistent,
}

/// A kept sample with the ticks since the first, which lost ticks may have made too small.
#[derive(Clone, Copy)]
struct Point {
    before: u64,
    after: u64,
    ticks: u64,
    /// Number of gaps with lost ticks up to here.
    run: u32,
}

/// The frequency of the counter read in `before`/`after` from readings of `counter`.
///
/// # Errors
/// [`Error`], when nothing sound can be said.
pub fn estimate(samples: &[Sample], counter: Counter) -> Result<Estimate, Error> {
    let mut points = keep_tightest(samples, counter);
    let mut high = pairs(&points).filter_map(|(a, b)| upper(a, b, counter.hz)).min().ok_or(Error::TooFewSamples)?;
    mark_gaps(&mut points, counter.hz, high);
    let unbroken = || pairs(&points).filter(|(a, b)| a.run == b.run);
    let low = unbroken().filter_map(|(a, b)| lower(a, b, counter.hz)).max().ok_or(Error::TooFewSamples)?;
    if low > high {
        // Rounding alone may cross the bounds of an exact counter by a hair.
        if (low - high) as u128 * 1_000_000 > high as u128 {
            return Err(Error::Inconsistent);
        }
        high = low;
    }
    let hz = low + (high - low) / 2;
    if hz == 0 {
        return Err(Error::Inconsistent);
    }
    Ok(Estimate { hz, error: (high - low).div_ceil(2) })
}

/// Drops wide, disordered and backward samples and adds the counter's wraps up.
fn keep_tightest(samples: &[Sample], counter: Counter) -> ArrayVec<Point, MAX_SAMPLES> {
    let mut points: ArrayVec<Point, MAX_SAMPLES> = ArrayVec::new();
    let width = |s: &Sample| s.after.checked_sub(s.before);
    let Some(tightest) = samples.iter().filter_map(width).min() else { return points };
    let limit = tightest.max(1).saturating_mul(WIDTH_LIMIT);
    let mask = if counter.bits >= 64 { u64::MAX } else { (1 << counter.bits) - 1 };
    let mut last: Option<(Sample, u64)> = None;
    for sample in samples.iter().filter(|s| width(s).is_some_and(|w| w <= limit)).take(MAX_SAMPLES) {
        let ticks = match last {
            None => 0,
            Some((previous, ticks)) => {
                let step = sample.count.wrapping_sub(previous.count) & mask;
                // Seven eighths of a turn forward is really a small step back: the reading is not to be trusted.
                if sample.before < previous.after || step > mask - mask / 8 {
                    continue;
                }
                let Some(ticks) = ticks.checked_add(step) else { continue };
                ticks
            }
        };
        last = Some((*sample, ticks));
        points.push(Point { before: sample.before, after: sample.after, ticks, run: 0 });
    }
    points
}

fn pairs(points: &[Point]) -> impl Iterator<Item = (Point, Point)> + '_ {
    points.iter().enumerate().flat_map(|(i, b)| points[..i].iter().map(move |a| (*a, *b)))
}

/// Least frequency that fits the pair: the shortest TSC distance during the longest time.
fn lower(a: Point, b: Point, hz: u64) -> Option<u64> {
    let time = u128::from(b.ticks - a.ticks) + 1;
    u64::try_from(u128::from(b.before.checked_sub(a.after)?) * u128::from(hz) / time).ok()
}

/// Greatest frequency that fits the pair; `None` when the pair is too short to say.
fn upper(a: Point, b: Point, hz: u64) -> Option<u64> {
    let time = u128::from((b.ticks - a.ticks).checked_sub(1).filter(|t| *t > 0)?);
    u64::try_from((u128::from(b.after - a.before) * u128::from(hz)).div_ceil(time)).ok()
}

/// Numbers the runs of points between which no ticks were lost.
fn mark_gaps(points: &mut [Point], hz: u64, high: u64) {
    let mut run = 0;
    for i in 1..points.len() {
        // A hundredth of slack: rounding must not break a good run, and a lost wrap changes the rate far more.
        let limit = high.saturating_add(high / 100);
        if lower(points[i - 1], points[i], hz).is_none_or(|low| low > limit) {
            run += 1;
        }
        points[i].run = run;
    }
}

/// How far a frequency may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Two timers agree.
    Confirmed,
    /// Only one timer gave an estimate.
    Unconfirmed,
    /// Two timers disagree by more than their error bounds.
    Disputed,
}

/// The better of two timers' estimates and whether the other supports it. `None` when neither has one.
#[must_use]
pub fn cross_check(first: Option<Estimate>, second: Option<Estimate>) -> Option<(Estimate, Confidence)> {
    let (Some(a), Some(b)) = (first, second) else {
        return first.or(second).map(|only| (only, Confidence::Unconfirmed));
    };
    let (best, other) = if b.error < a.error { (b, a) } else { (a, b) };
    // Crystals of two timers differ by up to some hundred ppm on real boards.
    let tolerance = best.error.saturating_add(other.error).saturating_add(best.hz / 1000);
    let agree = best.hz.abs_diff(other.hz) <= tolerance;
    Some((best, if agree { Confidence::Confirmed } else { Confidence::Disputed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIT: Counter = Counter { hz: 1_193_182, bits: 16 };
    const PM_TIMER: Counter = Counter { hz: 3_579_545, bits: 24 };

    /// A host that runs the guest at `tsc_hz` and stalls it as told; times are in picoseconds.
    struct Host {
        tsc_hz: u64,
        counter: Counter,
        now_ps: u128,
        random: u64,
    }

    impl Host {
        fn new(tsc_hz: u64, counter: Counter, seed: u64) -> Self {
            Self { tsc_hz, counter, now_ps: u128::from(seed) * 7_919_333 + 1, random: seed * 2 + 1 }
        }

        fn random(&mut self, below: u64) -> u64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % below
        }

        fn pass_us(&mut self, us: u64) {
            self.now_ps += u128::from(us) * 1_000_000;
        }

        fn tsc(&self) -> u64 {
            (self.now_ps * u128::from(self.tsc_hz) / 1_000_000_000_000) as u64
        }

        /// A reading that takes about 2 µs, and `stall_us` more at a random side of the latch.
        fn sample(&mut self, stall_us: u64) -> Sample {
            let before = self.tsc();
            let early = self.random(2) == 0;
            let jitter = self.random(500_000);
            self.now_ps += u128::from(700_000 + jitter);
            self.pass_us(if early { stall_us } else { 0 });
            let ticks = (self.now_ps * u128::from(self.counter.hz) / 1_000_000_000_000) as u64;
            self.now_ps += u128::from(600_000 + jitter);
            self.pass_us(if early { 0 } else { stall_us });
            Sample { before, after: self.tsc(), count: ticks & ((1 << self.counter.bits) - 1) }
        }

        /// A series of samples 300 µs apart; `stall` gives the stall inside and after sample `i`, in µs.
        fn series(&mut self, stall: impl FnMut(&mut Self, usize) -> (u64, u64)) -> Vec<Sample> {
            self.series_of(300, stall)
        }

        /// As `series`, with samples `step_us` apart.
        fn series_of(&mut self, step_us: u64, mut stall: impl FnMut(&mut Self, usize) -> (u64, u64)) -> Vec<Sample> {
            (0..MAX_SAMPLES)
                .map(|i| {
                    let (inside, after) = stall(self, i);
                    let sample = self.sample(inside);
                    self.pass_us(step_us + after);
                    sample
                })
                .collect()
        }
    }

    fn assert_right(estimate: Estimate, hz: u64, ppm: u64, what: &str) {
        let off = estimate.hz.abs_diff(hz);
        assert!(off <= estimate.error + 2, "{what}: {estimate:?} does not contain {hz}");
        assert!(off * 1_000_000 / hz <= ppm, "{what}: {estimate:?} is {} ppm off", off * 1_000_000 / hz);
    }

    #[test]
    fn a_quiet_host_gives_a_tight_estimate() {
        for seed in 1..200 {
            for hz in [999_999_937, 2_399_998_713, 3_700_000_000] {
                let samples = Host::new(hz, PIT, seed).series(|_, _| (0, 0));
                let found = estimate(&samples, PIT).expect("consistent");
                assert_right(found, hz, 100, "quiet");
                assert!(found.error_ppm() < 300, "{found:?}");
            }
        }
    }

    #[test]
    fn a_short_series_of_slow_readings_is_right_and_says_that_it_is_loose() {
        for seed in 1..200 {
            let samples = Host::new(2_399_998_713, PIT, seed).series_of(15, |_, _| (0, 0));
            let found = estimate(&samples, PIT).expect("consistent");
            assert!(found.hz.abs_diff(2_399_998_713) <= found.error + 2, "{found:?}");
            assert!(found.error_ppm() > 300, "a longer one is due: {found:?}");
        }
    }

    #[test]
    fn stalls_inside_readings_only_drop_those() {
        for seed in 1..200 {
            let samples = Host::new(2_500_000_000, PIT, seed).series(|_, i| (if i % 3 == 0 { 4000 } else { 0 }, 0));
            assert_right(estimate(&samples, PIT).expect("consistent"), 2_500_000_000, 200, "stalled readings");
        }
    }

    #[test]
    fn a_stall_longer_than_the_counter_wraps_does_not_fool_it() {
        for seed in 1..200 {
            for at in 0..MAX_SAMPLES {
                for stall in [54_925, 60_000, 164_775, 1_000_000] {
                    let samples =
                        Host::new(2_500_000_000, PIT, seed).series(|_, i| (0, if i == at { stall } else { 0 }));
                    let found = estimate(&samples, PIT).expect("most samples are good");
                    assert_right(found, 2_500_000_000, 400, "one long stall");
                }
            }
        }
    }

    #[test]
    fn a_stall_longer_than_a_wrap_inside_a_reading_does_not_fool_it() {
        for seed in 1..200 {
            for at in 0..MAX_SAMPLES {
                let samples =
                    Host::new(2_500_000_000, PIT, seed).series(|_, i| (if i == at { 100_000 } else { 0 }, 0));
                let found = estimate(&samples, PIT).expect("most samples are good");
                assert_right(found, 2_500_000_000, 400, "one long stall in a reading");
            }
        }
    }

    #[test]
    fn a_host_that_stalls_at_random_is_survived() {
        for seed in 1..2000 {
            let samples = Host::new(3_000_000_000, PIT, seed).series(|host, _| {
                let inside = if host.random(4) == 0 { host.random(80_000) } else { 0 };
                let after = if host.random(4) == 0 { host.random(200_000) } else { 0 };
                (inside, after)
            });
            let found = estimate(&samples, PIT).expect("some samples are good");
            assert_right(found, 3_000_000_000, 2000, "random stalls");
        }
    }

    #[test]
    fn a_counter_that_stands_still_or_is_absent_gives_no_estimate() {
        let still = |count| {
            let mut host = Host::new(2_000_000_000, PIT, 3);
            let mut samples = host.series(|_, _| (0, 0));
            samples.iter_mut().for_each(|s| s.count = count);
            estimate(&samples, PIT)
        };
        assert_eq!(still(0), Err(Error::TooFewSamples));
        assert_eq!(still(0xffff), Err(Error::TooFewSamples));
        assert_eq!(estimate(&[], PIT), Err(Error::TooFewSamples));
    }

    #[test]
    fn garbage_never_panics() {
        let mut host = Host::new(1, PIT, 99);
        for _ in 0..2000 {
            let samples: Vec<_> = (0..40)
                .map(|_| {
                    let (before, after) = (host.random(u64::MAX), host.random(u64::MAX));
                    Sample { before, after, count: host.random(u64::MAX) }
                })
                .collect();
            let _ = estimate(&samples, PIT);
            let _ = estimate(&samples, Counter { hz: u64::MAX, bits: 64 });
        }
    }

    #[test]
    fn a_reading_that_jumps_back_is_dropped() {
        let mut host = Host::new(2_000_000_000, PM_TIMER, 5);
        let mut samples = host.series(|_, _| (0, 0));
        samples[10].count -= 4000;
        assert_right(estimate(&samples, PM_TIMER).expect("one bad sample"), 2_000_000_000, 200, "backward");
    }

    #[test]
    fn two_timers_confirm_or_dispute_each_other() {
        let e = |hz, error| Some(Estimate { hz, error });
        assert_eq!(cross_check(None, None), None);
        assert_eq!(cross_check(None, e(5, 1)), Some((Estimate { hz: 5, error: 1 }, Confidence::Unconfirmed)));
        let (best, confidence) = cross_check(e(2_000_000_000, 500_000), e(2_000_100_000, 40_000)).expect("two");
        assert_eq!((best.hz, confidence), (2_000_100_000, Confidence::Confirmed));
        let (_, confidence) = cross_check(e(2_000_000_000, 1000), e(7_000_000_000, 1000)).expect("two");
        assert_eq!(confidence, Confidence::Disputed);
    }
}
