//! Clocks, sleeping and timers.

use core::sync::atomic::{AtomicU32, Ordering};

use linux_abi::Errno;
use linux_abi::raw::{
    CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, CLOCK_REALTIME_ALARM, CLOCK_REALTIME_COARSE, CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID, ITIMER_REAL, TIMER_ABSTIME,
};
use linux_abi::signal::{SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD_ID, SigEvent, Signal};
use linux_abi::time::{Itimerspec, Itimerval, NANOS_PER_SEC, Timespec, Timeval, Timezone, Tms};

use sync::{Interrupt, WaitError, WaitQueue};

use crate::ctx::{Ctx, SysResult};
use crate::process::{self, Process, Task};
use crate::timers::{self, Counts, Notification, Setting, Target};
use crate::user_ptr::UserPtr;

/// Granularity the coarse clocks claim, as a Linux with 250 ticks a second.
const COARSE_RESOLUTION_NS: u64 = 4_000_000;
const TICK_NS: u64 = NANOS_PER_SEC / 100;

/// Whether `clock` follows the time of day.
fn is_realtime(clock: u32) -> bool {
    matches!(clock, CLOCK_REALTIME | CLOCK_REALTIME_COARSE | CLOCK_REALTIME_ALARM | CLOCK_TAI)
}

/// An absolute time of `clock` as a monotonic deadline.
#[must_use]
pub fn monotonic_deadline(clock: u32, ns: u64) -> u64 {
    if is_realtime(clock) {
        let offset = kernel::clock::realtime_ns().saturating_sub(kernel::clock::monotonic_ns());
        ns.saturating_sub(offset)
    } else {
        ns
    }
}

/// A clock as `clock_gettime` names it.
enum Clock {
    Realtime,
    Monotonic,
    Process(alloc::sync::Arc<Process>),
    Thread(alloc::sync::Arc<Task>),
    OwnProcess,
    OwnThread,
}

impl Clock {
    fn find(id: u32) -> Result<Self, Errno> {
        Ok(match id {
            CLOCK_MONOTONIC | CLOCK_MONOTONIC_RAW | CLOCK_MONOTONIC_COARSE | CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => {
                Self::Monotonic
            }
            CLOCK_PROCESS_CPUTIME_ID => Self::OwnProcess,
            CLOCK_THREAD_CPUTIME_ID => Self::OwnThread,
            _ if is_realtime(id) => Self::Realtime,
            _ if (id as i32) < 0 => return Self::find_cpu_clock(id),
            _ => return Err(Errno::EINVAL),
        })
    }

    /// `pthread_getcpuclockid` and `clock_getcpuclockid` encode the number inverted above three bits.
    fn find_cpu_clock(id: u32) -> Result<Self, Errno> {
        const PER_THREAD: u32 = 4;
        const KIND_MASK: u32 = 3;
        const DYNAMIC_FD: u32 = 3;
        let number = !((id as i32) >> 3) as u32;
        if id & KIND_MASK == DYNAMIC_FD {
            return Err(Errno::EINVAL);
        }
        if id & PER_THREAD != 0 {
            return if number == 0 { Ok(Self::OwnThread) } else { process::find_task(number).map(Self::Thread).ok_or(Errno::EINVAL) };
        }
        if number == 0 { Ok(Self::OwnProcess) } else { process::find_process(number).map(Self::Process).ok_or(Errno::EINVAL) }
    }

    /// What a timer on this clock counts for `task`.
    fn counts(&self, task: &Task) -> Counts {
        match self {
            Self::Realtime | Self::Monotonic => Counts::Time,
            Self::Process(process) => Counts::Process(process.pid()),
            Self::Thread(task) => Counts::Thread(task.tid()),
            Self::OwnProcess => Counts::Process(task.process().pid()),
            Self::OwnThread => Counts::Thread(task.tid()),
        }
    }

    fn now_ns(&self, task: &Task) -> u64 {
        match self {
            Self::Realtime => kernel::clock::realtime_ns(),
            Self::Monotonic => kernel::clock::monotonic_ns(),
            Self::Process(p) => p.cpu_time_ns(),
            Self::Thread(t) => t.cpu_time_ns(),
            Self::OwnProcess => task.process().cpu_time_ns(),
            Self::OwnThread => task.cpu_time_ns(),
        }
    }
}

/// Fails unless there is such a clock.
///
/// # Errors
/// `EINVAL`.
pub(super) fn require_clock(clock: u32) -> Result<(), Errno> {
    Clock::find(clock).map(|_| ())
}

/// `clock_gettime`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn clock_gettime(ctx: &Ctx<'_>, clock: u32, out: UserPtr<Timespec>) -> SysResult {
    let ns = Clock::find(clock)?.now_ns(ctx.task());
    out.write(&Timespec::from_ns(ns)).map(|()| 0)
}

/// `clock_getres`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn clock_getres(_ctx: &Ctx<'_>, clock: u32, out: UserPtr<Timespec>) -> SysResult {
    Clock::find(clock)?;
    let coarse = matches!(clock, CLOCK_REALTIME_COARSE | CLOCK_MONOTONIC_COARSE);
    let resolution = if coarse { COARSE_RESOLUTION_NS } else { 1 };
    out.write_optional(&Timespec::from_ns(resolution)).map(|()| 0)
}

/// `clock_settime`: sets the time of day.
///
/// # Errors
/// `EINVAL` for another clock or a bad time, `EPERM`, `EFAULT`.
pub fn clock_settime(ctx: &Ctx<'_>, clock: u32, time: UserPtr<Timespec>) -> SysResult {
    if clock != CLOCK_REALTIME {
        return Err(Errno::EINVAL);
    }
    let ns = time.read()?.to_ns().ok_or(Errno::EINVAL)?;
    set_time_of_day(ctx, ns)
}

/// Sets the time of day.
///
/// # Errors
/// `EPERM`.
pub(super) fn set_time_of_day(ctx: &Ctx<'_>, ns: u64) -> SysResult {
    if ctx.cred().euid != 0 {
        return Err(Errno::EPERM);
    }
    let forward = ns.cast_signed().wrapping_sub(kernel::clock::realtime_ns().cast_signed());
    kernel::clock::set_realtime_ns(ns);
    crate::vdso::update();
    CLOCK_SETTINGS.fetch_add(1, Ordering::SeqCst);
    CLOCK_SET.wake_all();
    timers::clock_was_set();
    crate::sys::event::clock_was_set(forward);
    Ok(0)
}

/// `gettimeofday`.
///
/// # Errors
/// `EFAULT`.
pub fn gettimeofday(_ctx: &Ctx<'_>, time: UserPtr<Timeval>, zone: UserPtr<Timezone>) -> SysResult {
    time.write_optional(&Timeval::from_ns(kernel::clock::realtime_ns()))?;
    zone.write_optional(&Timezone::default()).map(|()| 0)
}

/// `settimeofday`; the time zone is accepted and ignored.
///
/// # Errors
/// `EPERM`, `EINVAL`, `EFAULT`.
pub fn settimeofday(ctx: &Ctx<'_>, time: UserPtr<Timeval>, _zone: UserPtr<Timezone>) -> SysResult {
    match time.non_null() {
        Some(time) => set_time_of_day(ctx, time.read()?.to_ns().ok_or(Errno::EINVAL)?),
        None => Ok(0),
    }
}

/// `time`.
///
/// # Errors
/// `EFAULT`.
pub fn time(_ctx: &Ctx<'_>, out: UserPtr<i64>) -> SysResult {
    let seconds = kernel::clock::realtime_ns() / NANOS_PER_SEC;
    out.write_optional(&(seconds as i64))?;
    Ok(seconds as usize)
}

/// `times`.
///
/// # Errors
/// `EFAULT`.
pub fn times(ctx: &Ctx<'_>, out: UserPtr<Tms>) -> SysResult {
    let ticks = |ns: u64| (ns / TICK_NS) as i64;
    let (own, children) = (ctx.process().usage(), ctx.process().children_usage());
    out.write_optional(&Tms {
        utime: ticks(own.user_ns),
        stime: ticks(own.system_ns),
        cutime: ticks(children.user_ns),
        cstime: ticks(children.system_ns),
    })?;
    Ok((kernel::clock::monotonic_ns() / TICK_NS) as usize)
}

/// Sleeps until what is counted reaches `deadline`; an error means a signal is to be delivered.
fn sleep_until(task: &Task, counts: Counts, deadline: u64) -> Result<(), Errno> {
    while let Some(until) = counts.earliest(deadline) {
        if task.is_interrupted() {
            return Err(Errno::EINTR);
        }
        sync::park(Some(until));
    }
    Ok(())
}

/// How often the time of day was set, and who sleeps until one.
static CLOCK_SETTINGS: AtomicU32 = AtomicU32::new(0);
static CLOCK_SET: WaitQueue = WaitQueue::new();

/// Sleeps until `clock` shows `ns`, however it is set meanwhile.
fn sleep_until_time(clock: u32, ns: u64) -> Result<(), Errno> {
    loop {
        let settings = CLOCK_SETTINGS.load(Ordering::SeqCst);
        let deadline = monotonic_deadline(clock, ns);
        let set = || (CLOCK_SETTINGS.load(Ordering::SeqCst) != settings).then_some(());
        match CLOCK_SET.wait_until(Some(deadline), Interrupt::Allowed, set) {
            Ok(()) => {}
            Err(WaitError::TimedOut) => return Ok(()),
            Err(WaitError::Interrupted) => return Err(Errno::EINTR),
        }
    }
}

/// `nanosleep`.
///
/// # Errors
/// `EINTR`, `EINVAL`, `EFAULT`.
pub fn nanosleep(ctx: &Ctx<'_>, time: UserPtr<Timespec>, left: UserPtr<Timespec>) -> SysResult {
    clock_nanosleep(ctx, CLOCK_MONOTONIC, 0, time, left)
}

/// `clock_nanosleep`.
///
/// # Errors
/// `EINTR`, `EFAULT`; `EINVAL`, also for the clocks of threads.
pub fn clock_nanosleep(
    ctx: &Ctx<'_>,
    clock: u32,
    flags: u32,
    time: UserPtr<Timespec>,
    left: UserPtr<Timespec>,
) -> SysResult {
    let found = Clock::find(clock)?;
    if matches!(found, Clock::OwnThread | Clock::Thread(_)) {
        return Err(Errno::EINVAL);
    }
    let counts = found.counts(ctx.task());
    let ns = time.read()?.to_ns().ok_or(Errno::EINVAL)?;
    let absolute = flags & TIMER_ABSTIME != 0;
    let continuation = &ctx.task().continuation;
    let deadline = if absolute { monotonic_deadline(clock, ns) } else { continuation.deadline_from(counts.now(), ns) };
    let slept = match absolute && is_realtime(clock) {
        true => sleep_until_time(clock, ns),
        false => sleep_until(ctx.task(), counts, deadline),
    };
    match slept {
        Ok(()) => Ok(0),
        Err(_) if absolute => Err(Errno::ERESTARTNOHAND),
        Err(_) => {
            let remaining = deadline.saturating_sub(counts.now());
            left.write_optional(&Timespec::from_ns(remaining))?;
            Err(continuation.interrupted(ctx.frame().orig_rax, deadline))
        }
    }
}

fn itimerval((left, interval): Setting) -> Itimerval {
    // Rounded up: a timer that is armed never reads as zero.
    let up = |ns: u64| Timeval::from_ns(ns.saturating_add(999));
    Itimerval { interval: Timeval::from_ns(interval), value: up(left) }
}

/// `getitimer`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn getitimer(ctx: &Ctx<'_>, which: u32, out: UserPtr<Itimerval>) -> SysResult {
    let process = ctx.process();
    out.write(&itimerval(process.timers.interval(process, which)?.setting())).map(|()| 0)
}

/// `setitimer`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn setitimer(ctx: &Ctx<'_>, which: u32, new: UserPtr<Itimerval>, old: UserPtr<Itimerval>) -> SysResult {
    let new = match new.non_null() {
        Some(new) => new.read()?,
        None => Itimerval::default(),
    };
    let value = new.value.to_ns().ok_or(Errno::EINVAL)?;
    let interval = new.interval.to_ns().ok_or(Errno::EINVAL)?;
    old.write_optional(&itimerval(set_interval_timer(ctx, which, value, interval)?)).map(|()| 0)
}

fn set_interval_timer(ctx: &Ctx<'_>, which: u32, value: u64, interval: u64) -> Result<Setting, Errno> {
    let process = ctx.process();
    let timer = process.timers.interval(process, which)?;
    let deadline = (value != 0).then(|| timer.now().saturating_add(value));
    Ok(timer.set(deadline, interval))
}

/// `alarm`.
///
/// # Errors
/// None.
pub fn alarm(ctx: &Ctx<'_>, seconds: u32) -> SysResult {
    let (left, _) = set_interval_timer(ctx, ITIMER_REAL, u64::from(seconds) * NANOS_PER_SEC, 0)?;
    Ok(left.div_ceil(NANOS_PER_SEC) as usize)
}

/// `timer_create`.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `EAGAIN`.
pub fn timer_create(ctx: &Ctx<'_>, clock: u32, event: UserPtr<SigEvent>, id: UserPtr<i32>) -> SysResult {
    let counts = Clock::find(clock)?.counts(ctx.task());
    let event = match event.non_null() {
        Some(event) => Some(event.read()?),
        None => None,
    };
    let (target, signal) = timer_target(ctx, event.as_ref())?;
    let process = ctx.process();
    let number = process.timers.create(process, clock, counts, |id| {
        let value = event.map_or(id as u64, |e| e.value);
        Notification { target, signal, value, id: Some(id) }
    })?;
    id.write(&number).map(|()| 0)
}

fn timer_target(ctx: &Ctx<'_>, event: Option<&SigEvent>) -> Result<(Target, Signal), Errno> {
    let Some(event) = event else { return Ok((Target::Process, Signal::SIGALRM)) };
    let signal = || Signal::new(event.signo as u32).ok_or(Errno::EINVAL);
    match event.notify {
        SIGEV_NONE => Ok((Target::None, Signal::SIGALRM)),
        SIGEV_SIGNAL => Ok((Target::Process, signal()?)),
        SIGEV_THREAD_ID => {
            let task = ctx.process().task(event.tid as u32).ok_or(Errno::EINVAL)?;
            Ok((Target::Thread(task.tid()), signal()?))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn itimerspec((left, interval): Setting) -> Itimerspec {
    Itimerspec { interval: Timespec::from_ns(interval), value: Timespec::from_ns(left) }
}

/// `timer_settime`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn timer_settime(
    ctx: &Ctx<'_>,
    id: i32,
    flags: u32,
    new: UserPtr<Itimerspec>,
    old: UserPtr<Itimerspec>,
) -> SysResult {
    let timer = ctx.process().timers.get(id)?;
    let new = new.read()?;
    let value = new.value.to_ns().ok_or(Errno::EINVAL)?;
    let interval = new.interval.to_ns().ok_or(Errno::EINVAL)?;
    let absolute = flags & TIMER_ABSTIME != 0;
    let deadline = match value {
        0 => None,
        _ if absolute => Some(monotonic_deadline(timer.clock, value)),
        _ => Some(timer.now().saturating_add(value)),
    };
    let wall = (absolute && is_realtime(timer.clock)).then_some(value);
    old.write_optional(&itimerspec(timer.set_at(deadline, interval, wall))).map(|()| 0)
}

/// `timer_gettime`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn timer_gettime(ctx: &Ctx<'_>, id: i32, out: UserPtr<Itimerspec>) -> SysResult {
    out.write(&itimerspec(ctx.process().timers.get(id)?.setting())).map(|()| 0)
}

/// `timer_getoverrun`.
///
/// # Errors
/// `EINVAL`.
pub fn timer_getoverrun(ctx: &Ctx<'_>, id: i32) -> SysResult {
    Ok(ctx.process().timers.get(id)?.overrun() as usize)
}

/// `timer_delete`.
///
/// # Errors
/// `EINVAL`.
pub fn timer_delete(ctx: &Ctx<'_>, id: i32) -> SysResult {
    ctx.process().timers.delete(id).map(|()| 0)
}
