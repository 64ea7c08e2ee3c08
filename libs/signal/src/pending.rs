//! Signals sent and not yet delivered: [`PendingQueue`].

use alloc::collections::VecDeque;

use linux_abi::signal::{SigInfo, SigSet, Signal, code};

/// What became of a signal given to [`PendingQueue::push`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It is pending now.
    Yes,
    /// A standard signal that was pending already: the second one is lost, as POSIX says.
    Merged,
    /// The queue is full; only real-time signals are refused.
    Full,
}

/// Signals sent and not yet delivered, in delivery order: synchronous ones first, then by number, equal ones first come first served.
#[derive(Clone, Debug, Default)]
pub struct PendingQueue {
    set: SigSet,
    infos: VecDeque<SigInfo>,
}

impl PendingQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { set: SigSet::EMPTY, infos: VecDeque::new() }
    }

    /// Adds a signal. At most `limit` queue up (RLIMIT_SIGPENDING); a standard signal is never refused for that. A timer's has a place of its own:
    /// the timer sends the next one only when this one was taken.
    pub fn push(&mut self, signal: Signal, info: SigInfo, limit: usize) -> Queued {
        let is_timers = info.code == code::SI_TIMER;
        if !signal.is_realtime() && !is_timers && self.set.contains(signal) {
            return Queued::Merged;
        }
        if self.infos.len() >= limit && signal.is_realtime() && !is_timers {
            return Queued::Full;
        }
        self.set = self.set.with(signal);
        self.infos.push_back(info);
        Queued::Yes
    }

    /// Adds all of `others`, without a limit, but for standard signals that are pending already.
    pub fn append(&mut self, others: Self) {
        for info in others.infos {
            if let Some(signal) = Signal::new(info.signo as u32) {
                let _merged = self.push(signal, info, usize::MAX);
            }
        }
    }

    /// Takes the next signal that is in `wanted`.
    pub fn take(&mut self, wanted: SigSet) -> Option<(Signal, SigInfo)> {
        let signal = self.set.intersection(wanted).first()?;
        let number = signal.number() as i32;
        let info = match self.infos.front() {
            Some(first) if first.signo == number => self.infos.pop_front()?,
            _ => self.infos.remove(self.infos.iter().position(|i| i.signo == number)?)?,
        };
        if !self.infos.iter().any(|i| i.signo == number) {
            self.set = self.set.without(SigSet::of(signal));
        }
        Some((signal, info))
    }

    /// Drops every signal in `set`.
    pub fn discard(&mut self, set: SigSet) {
        self.infos.retain(|i| Signal::new(i.signo as u32).is_some_and(|s| !set.contains(s)));
        self.set = self.set.without(set);
    }

    /// Which signals are pending.
    #[must_use]
    pub const fn set(&self) -> SigSet {
        self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: SigSet = SigSet(u64::MAX);

    fn queue(numbers: &[u32]) -> PendingQueue {
        let mut q = PendingQueue::new();
        for (i, &n) in numbers.iter().enumerate() {
            let s = Signal::new(n).unwrap();
            let mut info = SigInfo::new(s, code::SI_USER);
            info.fields[1] = i as u64;
            let _ = q.push(s, info, 100);
        }
        q
    }

    fn drain(q: &mut PendingQueue) -> Vec<(u32, u64)> {
        core::iter::from_fn(|| q.take(ALL)).map(|(s, i)| (s.number(), i.fields[1])).collect()
    }

    #[test]
    fn standard_signals_merge_and_real_time_ones_queue() {
        assert_eq!(drain(&mut queue(&[15, 15, 40, 40, 34])), [(15, 0), (34, 4), (40, 2), (40, 3)]);
    }

    #[test]
    fn synchronous_signals_are_delivered_first() {
        assert_eq!(drain(&mut queue(&[1, 11])), [(11, 1), (1, 0)]);
    }

    #[test]
    fn only_wanted_signals_are_taken() {
        let mut q = queue(&[10, 12]);
        assert_eq!(q.take(SigSet::of(Signal::SIGTERM)).map(|(s, _)| s), None);
        assert_eq!(q.take(SigSet::of(Signal::SIGUSR2)).map(|(s, _)| s), Some(Signal::SIGUSR2));
        assert_eq!(q.set(), SigSet::of(Signal::SIGUSR1));
    }

    #[test]
    fn a_full_queue_refuses_real_time_signals_only() {
        let mut q = queue(&[40]);
        let rt = Signal::new(41).unwrap();
        assert_eq!(q.push(rt, SigInfo::new(rt, 0), 1), Queued::Full);
        assert_eq!(q.push(Signal::SIGTERM, SigInfo::new(Signal::SIGTERM, 0), 1), Queued::Yes);
    }

    #[test]
    fn the_signals_of_two_timers_do_not_merge() {
        let mut q = queue(&[14]);
        for id in [3, 5] {
            assert_eq!(q.push(Signal::SIGALRM, SigInfo::timer(Signal::SIGALRM, id, 0, 0), 1), Queued::Yes);
        }
        let ids: Vec<_> = core::iter::from_fn(|| q.take(ALL)).map(|(_, info)| (info.code == code::SI_TIMER, info.timer_id())).collect();
        assert_eq!(ids[1..], [(true, 3), (true, 5)]);
        assert!(q.set().is_empty());
    }

    #[test]
    fn appended_signals_come_last_and_standard_ones_merge() {
        let mut q = queue(&[15, 40]);
        q.append(queue(&[40, 15, 12]));
        assert_eq!(q.infos.len(), 4);
        assert_eq!(drain(&mut q).iter().map(|&(number, _)| number).collect::<Vec<_>>(), [12, 15, 40, 40]);
    }

    #[test]
    fn discarded_signals_are_gone() {
        let mut q = queue(&[10, 40, 40, 15]);
        q.discard(SigSet::of(Signal::new(40).unwrap()).with(Signal::SIGUSR1));
        assert_eq!(drain(&mut q), [(15, 3)]);
    }

    proptest::proptest! {
        #[test]
        fn the_set_always_matches_the_queue(numbers in proptest::collection::vec(1_u32..=64, 0..50), taken in 0_usize..60) {
            let mut q = queue(&numbers);
            for _ in 0..taken {
                q.take(ALL);
            }
            let expected = q.infos.iter().fold(SigSet::EMPTY, |set, i| set.with(Signal::new(i.signo as u32).unwrap()));
            proptest::prop_assert_eq!(q.set(), expected);
        }
    }
}
