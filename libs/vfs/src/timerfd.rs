//! [`TimerFd`]: a timer that can be read and polled, as `timerfd_create(2)` describes it, and [`TimerService`], which wakes pollers.
//!
//! Expirations are counted when somebody looks, from the deadline and the period; a blocked reader sleeps until the
//! deadline by itself. Only pollers need to be woken at the deadline: the service keeps the deadlines of all armed timers in order, and one
//! thread of the owner runs [`TimerService::run_due`] and sleeps until the time it returns.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use sync::{Interrupt, Mutex, WaitError, WaitQueue};

use crate::file::File;
use crate::io::{Sink, Source};
use crate::types::{Events, OpenFlags};
use crate::{Errno, Result};

#[derive(Clone, Copy, Default)]
struct State {
    /// Next expiration in monotonic nanoseconds; `None` when disarmed.
    deadline: Option<u64>,
    interval: u64,
    /// Expirations not read yet.
    expired: u64,
    /// Grows with every setting: deadlines of older ones are dropped by the service.
    generation: u64,
    /// What setting the wall clock means for it.
    on_clock_set: OnClockSet,
    /// That has happened, and nobody was told yet.
    canceled: bool,
}

/// What setting the wall clock means for a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnClockSet {
    /// Nothing.
    #[default]
    Goes,
    /// Its deadline is a time of the wall clock, and comes when that shows it.
    Follows,
    /// As `Follows`, and a read fails, so that the reader looks at the clock again (`TFD_TIMER_CANCEL_ON_SET`).
    Cancels,
}

impl State {
    /// Counts the expirations up to `now`.
    fn advance(&mut self, now: u64) {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return };
        match (now - deadline).checked_div(self.interval) {
            None => {
                self.expired += 1;
                self.deadline = None;
            }
            Some(missed) => {
                self.expired += missed + 1;
                self.deadline = Some(deadline + (missed + 1) * self.interval);
            }
        }
    }
}

/// A timer's setting: nanoseconds to the next expiration (0 = disarmed), and the period (0 = once).
pub type Setting = (u64, u64);

/// A timer with a descriptor.
pub struct TimerFd {
    me: Weak<TimerFd>,
    service: &'static TimerService,
    /// The clock id it was made with.
    pub clock: u32,
    state: Mutex<State>,
    queue: WaitQueue,
}

impl TimerFd {
    /// A disarmed timer.
    #[must_use]
    pub fn new(service: &'static TimerService, clock: u32) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            service,
            clock,
            state: Mutex::new(State::default()),
            queue: WaitQueue::new(),
        })
    }

    /// Arms it for the monotonic `deadline_ns`, or disarms it; returns the old setting.
    pub fn set(&self, deadline_ns: Option<u64>, interval_ns: u64, on_clock_set: OnClockSet) -> Setting {
        if on_clock_set != OnClockSet::Goes {
            self.service.add_follower(&self.me);
        }
        let old = self.setting();
        let generation = {
            let mut state = self.state.lock();
            let generation = state.generation + 1;
            *state =
                State { deadline: deadline_ns, interval: interval_ns, expired: 0, generation, on_clock_set, canceled: false };
            generation
        };
        if let Some(deadline) = deadline_ns {
            self.service.add(deadline, Entry { timer: self.me.clone(), generation });
        }
        self.queue.wake_all();
        old
    }

    /// Time to the next expiration, and the period.
    #[must_use]
    pub fn setting(&self) -> Setting {
        let now = sync::monotonic_ns();
        let mut state = self.state.lock();
        state.advance(now);
        (state.deadline.map_or(0, |deadline| (deadline - now).max(1)), state.interval)
    }

    fn try_take(&self) -> Option<Result<u64>> {
        let mut state = self.state.lock();
        if core::mem::take(&mut state.canceled) {
            state.expired = 0;
            return Some(Err(Errno::ECANCELED));
        }
        state.advance(sync::monotonic_ns());
        let expired = core::mem::take(&mut state.expired);
        (expired > 0).then_some(Ok(expired))
    }

    fn wait_take(&self) -> Result<u64> {
        loop {
            let deadline = self.state.lock().deadline;
            match self.queue.wait_until(deadline, Interrupt::Allowed, || self.try_take()) {
                Ok(expired) => return expired,
                Err(WaitError::Interrupted) => return Err(Errno::ERESTARTSYS),
                // The deadline is the very thing waited for; it may also have been moved meanwhile.
                Err(WaitError::TimedOut) => {}
            }
        }
    }

    /// The wall clock was set forward by so much (back, if it is negative).
    fn clock_was_set(&self, forward_ns: i64) {
        let now = sync::monotonic_ns();
        let armed = {
            let mut state = self.state.lock();
            state.advance(now);
            state.canceled |= state.on_clock_set == OnClockSet::Cancels;
            if state.on_clock_set != OnClockSet::Goes && let Some(deadline) = state.deadline {
                state.deadline = Some(deadline.saturating_add_signed(forward_ns.saturating_neg()));
                state.generation += 1;
            }
            state.deadline.map(|deadline| (deadline, state.generation))
        };
        if let Some((deadline, generation)) = armed {
            self.service.add(deadline, Entry { timer: self.me.clone(), generation });
        }
        self.queue.wake_all();
    }

    /// Wakes the pollers of a timer whose deadline came; returns its next deadline.
    fn expire(&self, generation: u64, now: u64) -> Option<u64> {
        let next = {
            let mut state = self.state.lock();
            if state.generation != generation {
                return None;
            }
            state.advance(now);
            state.deadline
        };
        self.queue.wake_all();
        next
    }
}

impl File for TimerFd {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let expired = if flags.nonblocking() { self.try_take().ok_or(Errno::EAGAIN)?? } else { self.wait_take()? };
        sink.write(&expired.to_le_bytes())
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn poll(&self) -> Events {
        let mut state = self.state.lock();
        state.advance(sync::monotonic_ns());
        if state.expired > 0 || state.canceled { Events::READABLE } else { Events::empty() }
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.queue);
    }
}

/// Deadlines of armed timers.
pub struct TimerService {
    due: Mutex<Due>,
    /// Timers that hear of it when the wall clock is set.
    followers: Mutex<Vec<Weak<TimerFd>>>,
    /// Called when a new deadline is the earliest.
    wake: fn(),
}

struct Entry {
    timer: Weak<TimerFd>,
    generation: u64,
}

struct Due {
    timers: BTreeMap<(u64, u64), Entry>,
    last: u64,
}

impl TimerService {
    /// A service without timers; `wake` has the thread that calls [`TimerService::run_due`] do so soon.
    #[must_use]
    pub const fn new(wake: fn()) -> Self {
        Self {
            due: Mutex::new(Due { timers: BTreeMap::new(), last: 0 }),
            followers: Mutex::new(Vec::new()),
            wake,
        }
    }

    fn add_follower(&self, timer: &Weak<TimerFd>) {
        let mut followers = self.followers.lock();
        followers.retain(|other| other.strong_count() > 0 && !other.ptr_eq(timer));
        followers.push(timer.clone());
    }

    /// The wall clock was set forward by so much (back, if it is negative): timers by it come at other times now, and those that asked for it tell their
    /// readers.
    pub fn clock_was_set(&self, forward_ns: i64) {
        let timers: Vec<_> = self.followers.lock().iter().filter_map(Weak::upgrade).collect();
        timers.iter().for_each(|timer| timer.clock_was_set(forward_ns));
    }

    fn add(&self, deadline: u64, entry: Entry) {
        let mut due = self.due.lock();
        due.last += 1;
        let key = (deadline, due.last);
        due.timers.insert(key, entry);
        let earliest = due.timers.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(due);
        if earliest {
            (self.wake)();
        }
    }

    /// Wakes the pollers of all timers that are due; returns when to come again.
    pub fn run_due(&self, now_ns: u64) -> Option<u64> {
        let expired: Vec<_> = {
            let mut due = self.due.lock();
            let later = due.timers.split_off(&(now_ns.saturating_add(1), 0));
            core::mem::replace(&mut due.timers, later).into_values().collect()
        };
        for entry in expired {
            if let Some(next) = entry.timer.upgrade().and_then(|timer| timer.expire(entry.generation, now_ns)) {
                self.add(next, entry);
            }
        }
        self.due.lock().timers.first_key_value().map(|((deadline, _), _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SliceSink;

    static SERVICE: TimerService = TimerService::new(|| ());

    fn read(timer: &TimerFd, flags: OpenFlags) -> Result<u64> {
        let mut bytes = [0; 8];
        timer.read(&mut 0, &mut SliceSink::new(&mut bytes), flags)?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[test]
    fn expirations_are_counted_and_taken() {
        let mut state = State { deadline: Some(100), interval: 10, ..State::default() };
        state.advance(99);
        assert_eq!(state.expired, 0);
        state.advance(129);
        assert_eq!((state.expired, state.deadline), (3, Some(130)));
        let mut once = State { deadline: Some(100), interval: 0, ..State::default() };
        once.advance(500);
        once.advance(900);
        assert_eq!((once.expired, once.deadline), (1, None));
    }

    #[test]
    fn a_read_waits_for_the_expiration() {
        let timer = TimerFd::new(&SERVICE, 1);
        assert_eq!(read(&timer, OpenFlags::NONBLOCK), Err(Errno::EAGAIN));
        timer.set(Some(sync::monotonic_ns() + 5_000_000), 0, OnClockSet::Goes);
        assert!(timer.setting().0 > 0);
        assert_eq!(read(&timer, OpenFlags::empty()), Ok(1));
        assert_eq!(timer.setting(), (0, 0));
    }

    #[test]
    fn setting_the_clock_cancels_what_asked_for_it_once() {
        static SERVICE: TimerService = TimerService::new(|| ());
        let [cancels, goes] = [OnClockSet::Cancels, OnClockSet::Goes].map(|on_clock_set| {
            let timer = TimerFd::new(&SERVICE, 0);
            timer.set(Some(u64::MAX), 0, on_clock_set);
            timer
        });
        SERVICE.clock_was_set(0);
        assert_eq!((cancels.poll(), goes.poll()), (Events::READABLE, Events::empty()));
        assert_eq!(read(&cancels, OpenFlags::empty()), Err(Errno::ECANCELED));
        assert_eq!(read(&cancels, OpenFlags::NONBLOCK), Err(Errno::EAGAIN));
        SERVICE.clock_was_set(0);
        cancels.set(Some(u64::MAX), 0, OnClockSet::Goes);
        SERVICE.clock_was_set(0);
        assert_eq!(read(&cancels, OpenFlags::NONBLOCK), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_time_of_the_wall_clock_comes_when_the_clock_shows_it() {
        static SERVICE: TimerService = TimerService::new(|| ());
        const HOUR: u64 = 3_600_000_000_000;
        let [follows, goes] = [OnClockSet::Follows, OnClockSet::Goes].map(|on_clock_set| {
            let timer = TimerFd::new(&SERVICE, 0);
            timer.set(Some(sync::monotonic_ns() + HOUR), HOUR, on_clock_set);
            timer
        });
        SERVICE.clock_was_set(-(HOUR as i64));
        assert!(follows.setting().0 > HOUR && goes.setting().0 <= HOUR);
        SERVICE.clock_was_set(2 * HOUR as i64);
        assert_eq!((follows.poll(), goes.poll()), (Events::READABLE, Events::empty()));
        assert_eq!(read(&follows, OpenFlags::NONBLOCK), Ok(1));
        assert!(follows.setting().0 <= HOUR);
    }

    #[test]
    fn a_poller_is_woken_by_the_service() {
        let timer = TimerFd::new(&SERVICE, 1);
        let deadline = sync::monotonic_ns() + 1_000_000;
        timer.set(Some(deadline), 50_000_000_000, OnClockSet::Goes);
        assert!(timer.poll().is_empty());
        std::thread::sleep(std::time::Duration::from_millis(3));
        let next = SERVICE.run_due(sync::monotonic_ns());
        assert_eq!(timer.poll(), Events::READABLE);
        assert!(next.is_some_and(|next| next > deadline));
        drop(timer);
        SERVICE.run_due(u64::MAX);
    }
}
