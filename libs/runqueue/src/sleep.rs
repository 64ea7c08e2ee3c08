//! [`SleepTimers`]: a wait with a deadline may begin on one CPU and end on another; where the thread's timers are meanwhile.
//!
//! # Theory
//! A timer is linked in the queue of the CPU on which its thread began to wait, and only that CPU unlinks it. But whoever wakes
//! the thread may put it anywhere, and does not wait for that CPU. So a thread has two timers, each in one of four states:
//!
//! | state | means | who leaves it, to |
//! |---|---|---|
//! | `FREE` | linked nowhere | the thread, when it waits, to `SET` |
//! | `SET` | in the queue of its CPU, or just popped from it | whoever wins the thread's wake-up: that CPU to `FREE`, others to `ABANDONED` |
//! | `ABANDONED` | on its CPU's list of abandoned timers, or on the way there | that CPU to `FREE`; the thread to `WANTED` |
//! | `WANTED` | as `ABANDONED`, and the thread waits for it | that CPU to `FREE`, and it unparks the thread |
//!
//! A CPU empties its list in every full pass of the scheduler. The second timer is for the thread that waits again before that; only if
//! both are abandoned must it wait for one. An abandoned timer may expire before its CPU has looked at the list: then the wake-up
//! it causes may be that of a later wait, whose timer is set elsewhere. So who has won a wake-up asks where the timer is that is set
//! ([`SleepTimers::armed`]).
//!
//! `armed` says which timer is set; like the timer it belongs to the thread while it runs and, from its falling asleep on, to the winner of
//! its wake-up.
//!
//! Orderings: `FREE` is stored with Release and found with Acquire by the thread, so the unlinking comes before the next
//! linking; everything else travels with the thread's state word and the lists.
use lockfree::shim::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const SET: u32 = 1;
const ABANDONED: u32 = 2;
const WANTED: u32 = 3;

/// How many timers a thread has.
pub const TIMERS: usize = 2;

struct TimerState {
    state: AtomicU32,
    /// In whose queue or on whose list it is.
    cpu: AtomicU32,
}

/// One of a thread's timers, and the CPU it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerPlace {
    /// Which of the thread's timers.
    pub index: usize,
    /// In whose queue or on whose list it is.
    pub cpu: usize,
}

/// What has become of a timer that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum GivenBack {
    /// Nobody waits for it.
    Free,
    /// The thread waits for it, and must be unparked.
    Wanted,
}

/// Where a thread's timers are. See the module.
pub struct SleepTimers {
    timers: [TimerState; TIMERS],
    /// One more than the index of the one that is set; 0: none.
    armed: AtomicU32,
}

impl SleepTimers {
    /// All free.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self { timers: [const { TimerState { state: AtomicU32::new(FREE), cpu: AtomicU32::new(0) } }; TIMERS], armed: AtomicU32::new(0) }
    }

    /// All free, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            timers: core::array::from_fn(|_| TimerState { state: AtomicU32::new(FREE), cpu: AtomicU32::new(0) }),
            armed: AtomicU32::new(0),
        }
    }

    /// Whether one is set. Context: the thread, or the winner of its wake-up.
    #[inline(always)]
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed) != 0
    }

    /// The one that is set. Context: the thread, or the winner of its wake-up.
    #[inline]
    #[must_use]
    pub fn armed(&self) -> Option<TimerPlace> {
        let index = (self.armed.load(Ordering::Relaxed) as usize).wrapping_sub(1);
        let timer = self.timers.get(index)?;
        Some(TimerPlace { index, cpu: timer.cpu.load(Ordering::Relaxed) as usize })
    }

    /// `FREE` → `SET`: the index of the timer that the caller must now link in the queue of `cpu`. `None`: all are abandoned.
    ///
    /// Context: the thread, on `cpu`, about to wait.
    #[must_use]
    pub fn set(&self, cpu: usize) -> Option<usize> {
        let index = self.timers.iter().position(|timer| timer.state.load(Ordering::Acquire) == FREE)?;
        let timer = &self.timers[index];
        timer.state.store(SET, Ordering::Relaxed);
        timer.cpu.store(cpu as u32, Ordering::Relaxed);
        self.armed.store(index as u32 + 1, Ordering::Relaxed);
        Some(index)
    }

    /// `SET` → `FREE`, if one is set; `unlink` takes it out of its queue first, if it is still there.
    ///
    /// Context: the CPU on which it was set, having won the thread's wake-up.
    #[inline]
    pub fn clear(&self, unlink: impl FnOnce(usize)) {
        if let Some(TimerPlace { index, .. }) = self.armed() {
            unlink(index);
            self.timers[index].state.store(FREE, Ordering::Release);
            self.armed.store(0, Ordering::Relaxed);
        }
    }

    /// `SET` → `ABANDONED`, if one is set: to be put on its CPU's list, with a reference to the thread.
    ///
    /// Context: any; the caller has won the thread's wake-up.
    #[must_use]
    pub fn abandon(&self) -> Option<TimerPlace> {
        let place = self.armed()?;
        self.timers[place.index].state.store(ABANDONED, Ordering::Release);
        self.armed.store(0, Ordering::Relaxed);
        Some(place)
    }

    /// `ABANDONED` → `WANTED`, after [`SleepTimers::set`] has failed: the CPU that will unpark the thread when it has given the timer
    /// back. `None`: one is free by now.
    ///
    /// Context: the thread.
    #[must_use]
    pub fn want(&self) -> Option<usize> {
        let timer = &self.timers[0];
        match timer.state.compare_exchange(ABANDONED, WANTED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(WANTED) => Some(timer.cpu.load(Ordering::Relaxed) as usize),
            Err(_) => None,
        }
    }

    /// `ABANDONED` or `WANTED` → `FREE`. Context: the CPU on whose list it was, having unlinked it if it was still in the queue.
    pub fn give_back(&self, index: usize) -> GivenBack {
        if self.timers[index].state.swap(FREE, Ordering::AcqRel) == WANTED { GivenBack::Wanted } else { GivenBack::Free }
    }
}

#[cfg(all(test, loom))]
impl SleepTimers {
    /// Whether the thread waits for a timer: for the broken twin.
    pub(crate) fn is_wanted(&self) -> bool {
        self.timers[0].state.load(Ordering::Acquire) == WANTED
    }
}

impl Default for SleepTimers {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_set_and_cleared_where_it_was_set() {
        let timers = SleepTimers::new();
        assert_eq!(timers.set(3), Some(0));
        assert_eq!(timers.armed(), Some(TimerPlace { index: 0, cpu: 3 }));
        let mut unlinked = None;
        timers.clear(|index| unlinked = Some(index));
        assert_eq!((unlinked, timers.is_armed()), (Some(0), false));
        assert_eq!(timers.set(1), Some(0));
    }

    #[test]
    fn with_one_abandoned_the_other_is_set_and_with_both_one_is_wanted() {
        let timers = SleepTimers::new();
        assert_eq!(timers.abandon(), None);
        for (index, cpu) in [(0, 5), (1, 6)] {
            assert_eq!(timers.set(cpu), Some(index));
            assert_eq!(timers.abandon(), Some(TimerPlace { index, cpu }));
        }
        assert_eq!(timers.set(7), None);
        assert_eq!((timers.want(), timers.want()), (Some(5), Some(5)));
        assert_eq!(timers.give_back(1), GivenBack::Free);
        assert_eq!(timers.give_back(0), GivenBack::Wanted);
        assert_eq!(timers.want(), None);
        assert_eq!(timers.set(7), Some(0));
    }
}
