//! When a source is too loud: see the crate's theory statement, *storms*.

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
