//! Timers that send signals: `alarm`, `setitimer`, `timer_create`.
//!
//! A timer that counts processor time is looked at when it can have run out at the earliest, with all CPUs running the
//! process from now on, and again when less is left than it takes; so it costs nothing at a switch.
//!
//! A POSIX timer that repeats has one signal on its way at a time. What it misses meanwhile is counted when a thread takes the signal
//! (POSIX, timer_getoverrun), and only then it is armed again; so a period of a nanosecond costs nothing but what it asks for.
//!
//! One kernel thread, `ktimers`, sleeps until the earliest deadline of all processes and fires what is due. A timer that is
//! set again or deleted gets a new generation; queue entries of an older generation are dropped when they come up.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use linux_abi::Errno;
use linux_abi::signal::{SigInfo, Signal, code};
use signal::Queued;
use sync::{Mutex, OnceCell, ThreadHandle};

use crate::process::{self, Process};
use crate::sys::time::monotonic_deadline;

/// Most POSIX timers of one process.
const MAX_TIMERS: usize = 4096;

/// Who gets the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nobody.
    None,
    /// The process.
    Process,
    /// One thread of it.
    Thread(u32),
}

/// What a timer sends.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// To whom.
    pub target: Target,
    /// Which signal.
    pub signal: Signal,
    /// `si_value`.
    pub value: u64,
    /// `None` for interval timers, whose signal comes from "the kernel".
    pub id: Option<i32>,
}

/// What a timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Monotonic time.
    Time,
    /// Processor time of a process.
    Process(u32),
    /// Of that, what it spent in program code.
    UserTime(u32),
    /// Processor time of a thread.
    Thread(u32),
}

impl Counts {
    /// What has been counted, in nanoseconds; `None` when who is counted has ended.
    fn counted(self) -> Option<u64> {
        match self {
            Self::Time => Some(sync::monotonic_ns()),
            Self::Process(pid) => process::find_process(pid).map(|process| process.cpu_time_ns()),
            Self::UserTime(pid) => process::find_process(pid).map(|process| process.usage().user_ns),
            Self::Thread(tid) => process::find_task(tid).map(|task| task.cpu_time_ns()),
        }
    }

    /// What has been counted, in nanoseconds; 0 when who is counted has ended.
    #[must_use]
    pub fn now(self) -> u64 {
        self.counted().unwrap_or(0)
    }

    /// The earliest monotonic time at which the count can reach `deadline`; `None` when it has.
    #[must_use]
    pub fn earliest(self, deadline: u64) -> Option<u64> {
        // Nobody counts any more: the deadline is never reached.
        let Some(now) = self.counted() else { return Some(u64::MAX) };
        let left = deadline.checked_sub(now).filter(|left| *left > 0)?;
        let at_once = match self {
            Self::Time => return Some(deadline),
            Self::Thread(_) => 1,
            Self::Process(_) | Self::UserTime(_) => kernel::percpu::cpu_count() as u64,
        };
        Some(sync::monotonic_ns().saturating_add((left / at_once).max(CPU_TIME_STEP_NS)))
    }
}

/// Shortest wait before a processor-time timer is looked at again.
const CPU_TIME_STEP_NS: u64 = 500_000;

#[derive(Clone, Copy, Default)]
struct State {
    /// In nanoseconds of what the timer counts; `None` when disarmed.
    deadline: Option<u64>,
    interval: u64,
    generation: u64,
    overrun: u32,
    /// A periodic timer's signal has been sent and not been taken; `deadline` is the expiration that it is for.
    on_its_way: bool,
    /// The deadline as a time of day, for absolute times of clocks that can be set.
    wall: Option<u64>,
}

impl State {
    /// Moves on to the first expiration after `now`; how many were passed beyond the first.
    fn forward(&mut self, deadline: u64, now: u64) -> u64 {
        let missed = now.saturating_sub(deadline).checked_div(self.interval).unwrap_or(0);
        let step = (missed + 1).saturating_mul(self.interval);
        self.deadline = Some(deadline.saturating_add(step));
        self.wall = self.wall.map(|wall| wall.saturating_add(step));
        missed
    }
}

/// Whether a timer's signal waits to be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Yes,
    /// Ignored (one that is blocked is not: its handler may come), or nobody is told.
    No,
}

/// A timer.
pub struct Timer {
    pid: u32,
    /// The clock its times are on.
    pub clock: u32,
    counts: Counts,
    notification: Notification,
    state: Mutex<State>,
}

/// Time left and period, in nanoseconds; (0, 0) when disarmed.
pub type Setting = (u64, u64);

impl Timer {
    fn new(process: &Process, clock: u32, counts: Counts, notification: Notification) -> Arc<Self> {
        Arc::new(Self { pid: process.pid(), clock, counts, notification, state: Mutex::new(State::default()) })
    }

    /// What the timer counts has reached this, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.counts.now()
    }

    /// The earliest monotonic time at which `deadline` can be reached.
    fn earliest(&self, deadline: u64) -> u64 {
        self.counts.earliest(deadline).unwrap_or(0)
    }

    /// Time left and period.
    #[must_use]
    pub fn setting(&self) -> Setting {
        let mut state = *self.state.lock();
        let now = self.now();
        if let Some(deadline) = state.deadline.filter(|&deadline| state.interval != 0 && deadline <= now) {
            // What will be the next one.
            state.forward(deadline, now);
        }
        match state.deadline {
            // An expired timer whose signal is on its way shows the smallest time, not "disarmed".
            Some(deadline) => (deadline.saturating_sub(now).max(1), state.interval),
            None => (0, state.interval),
        }
    }

    /// Arms the timer for `deadline`, on the scale of [`Timer::now`], or disarms it; returns the old setting.
    pub fn set(self: &Arc<Self>, deadline: Option<u64>, interval: u64) -> Setting {
        self.set_at(deadline, interval, None)
    }

    /// Arms it for the time of day `wall`, which `deadline` is by the clock as it is now set.
    pub fn set_at(self: &Arc<Self>, deadline: Option<u64>, interval: u64, wall: Option<u64>) -> Setting {
        let old = self.setting();
        let generation = {
            let mut state = self.state.lock();
            *state = State { deadline, interval, generation: state.generation + 1, overrun: 0, on_its_way: false, wall };
            state.generation
        };
        if let Some(deadline) = deadline {
            enqueue(self.earliest(deadline), generation, self);
        }
        old
    }

    /// Expirations beyond the first of the last signal.
    #[must_use]
    pub fn overrun(&self) -> u32 {
        self.state.lock().overrun
    }

    /// A thread has taken the signal; the expirations that it missed.
    fn delivered(self: &Arc<Self>) -> u32 {
        let now = self.now();
        let (next, generation, overrun) = {
            let mut state = self.state.lock();
            let Some(deadline) = state.deadline.filter(|_| state.on_its_way) else { return state.overrun };
            state.on_its_way = false;
            state.overrun = state.forward(deadline, now).min(i32::MAX as u64) as u32;
            (state.deadline, state.generation, state.overrun)
        };
        if let Some(deadline) = next {
            enqueue(self.earliest(deadline), generation, self);
        }
        overrun
    }

    /// The time of day was set: an absolute deadline by it is another one now.
    fn clock_was_set(self: &Arc<Self>) {
        let (deadline, generation) = {
            let mut state = self.state.lock();
            let (Some(wall), false, Some(_)) = (state.wall, state.on_its_way, state.deadline) else { return };
            state.generation += 1;
            let deadline = monotonic_deadline(self.clock, wall);
            state.deadline = Some(deadline);
            (deadline, state.generation)
        };
        enqueue(deadline, generation, self);
    }

    /// Handles a queue entry that has come due.
    fn expire(self: &Arc<Self>, generation: u64) {
        let now = self.now();
        let mut early = None;
        {
            let mut state = self.state.lock();
            let (Some(deadline), true) = (state.deadline, state.generation == generation) else { return };
            if deadline > now {
                early = Some(deadline);
            } else if state.interval == 0 {
                (state.deadline, state.wall) = (None, None);
            } else {
                // Before it is sent: who takes it may be quick.
                state.on_its_way = true;
            }
        }
        if let Some(deadline) = early {
            return enqueue(self.earliest(deadline), generation, self);
        }
        if self.send() == Sent::No || self.notification.id.is_none() {
            self.go_on(generation, now);
        }
    }

    /// Nobody will take a signal for the expiration at hand: on to the next one.
    fn go_on(self: &Arc<Self>, generation: u64, now: u64) {
        let next = {
            let mut state = self.state.lock();
            let Some(deadline) = state.deadline.filter(|_| state.on_its_way && state.generation == generation) else { return };
            state.on_its_way = false;
            state.forward(deadline, now);
            state.deadline
        };
        if let Some(deadline) = next {
            enqueue(self.earliest(deadline), generation, self);
        }
    }

    fn send(&self) -> Sent {
        let n = self.notification;
        let Some(process) = process::find_process(self.pid) else { return Sent::No };
        let info = match n.id {
            Some(id) => SigInfo::timer(n.signal, id as u32, 0, n.value),
            None => SigInfo::new(n.signal, code::SI_KERNEL),
        };
        let queued = match n.target {
            Target::None => None,
            Target::Process => process.queue_signal(n.signal, info),
            Target::Thread(tid) => process.task(tid).and_then(|task| task.queue_signal(n.signal, info)),
        };
        if queued == Some(Queued::Yes) { Sent::Yes } else { Sent::No }
    }
}

/// The timers of a process.
pub struct ProcessTimers {
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
    interval: [OnceCell<Arc<Timer>>; 3],
    posix: Mutex<BTreeMap<i32, Arc<Timer>>>,
    next_id: AtomicI32,
}

impl ProcessTimers {
    /// None armed.
    #[must_use]
    pub const fn new() -> Self {
        Self { interval: [const { OnceCell::new() }; 3], posix: Mutex::new(BTreeMap::new()), next_id: AtomicI32::new(0) }
    }

    /// Interval timer `which` of `process`, which owns this: ITIMER_REAL, ITIMER_VIRTUAL (time in program code) or
    /// ITIMER_PROF (all CPU time).
    ///
    /// # Errors
    /// `EINVAL` for another number.
    pub fn interval(&self, process: &Process, which: u32) -> Result<&Arc<Timer>, Errno> {
        let cell = self.interval.get(which as usize).ok_or(Errno::EINVAL)?;
        let (signal, counts) = match which {
            linux_abi::raw::ITIMER_REAL => (Signal::SIGALRM, Counts::Time),
            linux_abi::raw::ITIMER_VIRTUAL => (Signal::SIGVTALRM, Counts::UserTime(process.pid())),
            _ => (Signal::SIGPROF, Counts::Process(process.pid())),
        };
        let notification = Notification { target: Target::Process, signal, value: 0, id: None };
        Ok(cell.get_or_init(|| Timer::new(process, linux_abi::raw::CLOCK_MONOTONIC, counts, notification)))
    }

    /// Makes a POSIX timer. `notification` gets the new number; where it names no value, the number is the value (POSIX).
    ///
    /// # Errors
    /// `EAGAIN` when there are too many.
    pub(crate) fn create(
        &self,
        process: &Process,
        clock: u32,
        counts: Counts,
        notification: impl FnOnce(i32) -> Notification,
    ) -> Result<i32, Errno> {
        let mut timers = self.posix.lock();
        if timers.len() >= MAX_TIMERS {
            return Err(Errno::EAGAIN);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        timers.insert(id, Timer::new(process, clock, counts, notification(id)));
        Ok(id)
    }

    /// A POSIX timer.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn get(&self, id: i32) -> Result<Arc<Timer>, Errno> {
        self.posix.lock().get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// A thread has taken the signal of timer `id`; how many expirations it missed.
    pub(crate) fn delivered(&self, id: i32) -> u32 {
        let timer = self.posix.lock().get(&id).cloned();
        timer.map_or(0, |timer| timer.delivered())
    }

    /// Deletes a POSIX timer.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn delete(&self, id: i32) -> Result<(), Errno> {
        let timer = self.posix.lock().remove(&id).ok_or(Errno::EINVAL)?;
        timer.set(None, 0);
        Ok(())
    }

    /// Deletes all POSIX timers: `execve`, exit.
    pub fn delete_all(&self) {
        for timer in core::mem::take(&mut *self.posix.lock()).into_values() {
            timer.set(None, 0);
        }
    }
}

impl Default for ProcessTimers {
    fn default() -> Self {
        Self::new()
    }
}

/// The time of day was set.
pub(crate) fn clock_was_set() {
    for process in process::all_processes() {
        let timers: Vec<_> = process.timers.posix.lock().values().cloned().collect();
        timers.iter().for_each(Timer::clock_was_set);
    }
}

struct QueueEntry {
    timer: Weak<Timer>,
    generation: u64,
}

static QUEUE: Mutex<BTreeMap<(u64, u64), QueueEntry>> = Mutex::new(BTreeMap::new());
static SEQUENCE: AtomicU64 = AtomicU64::new(0);
static THREAD: OnceCell<ThreadHandle> = OnceCell::new();

fn enqueue(deadline: u64, generation: u64, timer: &Arc<Timer>) {
    let key = (deadline, SEQUENCE.fetch_add(1, Ordering::Relaxed));
    QUEUE.lock().insert(key, QueueEntry { timer: Arc::downgrade(timer), generation });
    thread().unpark();
}

/// The timer thread, started by the first timer.
fn thread() -> &'static ThreadHandle {
    THREAD.get_or_init(|| {
        let thread = kernel::thread::spawn("ktimers", kernel::thread::Class::Normal, run);
        kernel::thread::handle(&thread.expect("memory for the timer thread"))
    })
}

fn run() {
    loop {
        let now = sync::monotonic_ns();
        let (due, next) = take_due(now);
        if due.is_empty() {
            // Nothing between the look at the queue and here may sleep: it would use up the token of an `enqueue`.
            sync::park(next);
        }
        for entry in due {
            if let Some(timer) = entry.timer.upgrade() {
                timer.expire(entry.generation);
            }
        }
    }
}

/// Takes out what is due; also says when the next one is.
fn take_due(now: u64) -> (Vec<QueueEntry>, Option<u64>) {
    let mut queue = QUEUE.lock();
    let later = queue.split_off(&(now.saturating_add(1), 0));
    let due = core::mem::replace(&mut *queue, later).into_values().collect();
    (due, queue.keys().next().map(|&(deadline, _)| deadline))
}
