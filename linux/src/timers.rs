//! Timers that send signals: `alarm`, `setitimer`, `timer_create`.
//!
//! A timer that counts processor time is looked at when it can have run out at the earliest, with all CPUs running the
//! process from now on, and again when less is left than it takes; so it costs nothing at a switch.
//!
//! One kernel thread, `ktimers`, sleeps until the earliest deadline of all processes and fires what is due. A timer that is
//! set again or deleted gets a new generation; queue entries of an older generation are dropped when they come up.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use linux_abi::Errno;
use linux_abi::signal::{SigInfo, Signal, code};
use sync::{Mutex, OnceCell, ThreadHandle};

use crate::process::{self, Process};

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
        let state = self.state.lock();
        match state.deadline {
            // An expired timer whose signal is on its way shows the smallest time, not "disarmed".
            Some(deadline) => (deadline.saturating_sub(self.now()).max(1), state.interval),
            None => (0, state.interval),
        }
    }

    /// Arms the timer for `deadline`, on the scale of [`Timer::now`], or disarms it; returns the old setting.
    pub fn set(self: &Arc<Self>, deadline: Option<u64>, interval: u64) -> Setting {
        let old = self.setting();
        let generation = {
            let mut state = self.state.lock();
            *state = State { deadline, interval, generation: state.generation + 1, overrun: 0 };
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

    /// Handles a queue entry that has come due.
    fn expire(self: &Arc<Self>, generation: u64) {
        let now = self.now();
        let reached;
        let next = {
            let mut state = self.state.lock();
            let (Some(deadline), true) = (state.deadline, state.generation == generation) else { return };
            reached = deadline <= now;
            state.deadline = (!reached).then_some(deadline);
            if reached && let Some(missed) = now.saturating_sub(deadline).checked_div(state.interval) {
                state.overrun = missed.min(i32::MAX as u64) as u32;
                state.deadline = Some(deadline.saturating_add((missed + 1).saturating_mul(state.interval)));
            }
            state.deadline
        };
        if let Some(deadline) = next {
            enqueue(self.earliest(deadline), generation, self);
        }
        if reached {
            self.send();
        }
    }

    fn send(&self) {
        let n = self.notification;
        let Some(process) = process::find_process(self.pid) else { return };
        let info = match n.id {
            Some(id) => SigInfo::timer(n.signal, id as u32, self.overrun(), n.value),
            None => SigInfo::new(n.signal, code::SI_KERNEL),
        };
        // A full queue loses the expiration, as on Linux.
        let _lost = match n.target {
            Target::None => Ok(()),
            Target::Process => process.send_signal(n.signal, info),
            Target::Thread(tid) => process.task(tid).map_or(Ok(()), |t| t.send_signal(n.signal, info)),
        };
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
    pub fn create(
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
