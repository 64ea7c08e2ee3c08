//! eventfd and timerfd.

use alloc::sync::Arc;

use linux_abi::Errno;
use linux_abi::raw::{self, CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_REALTIME_ALARM};
use linux_abi::time::{Itimerspec, Timespec};
use sync::{OnceCell, ThreadHandle};
use vfs::anon::open_anonymous;
use vfs::eventfd::{EventFd, Take};
use vfs::timerfd::{OnClockSet, Setting, TimerFd, TimerService};
use vfs::{File, OpenFile, OpenFlags};

use crate::ctx::{Ctx, SysResult};
use crate::sys::file::{install, new_ino};
use crate::sys::time::monotonic_deadline;
use crate::user_ptr::UserPtr;

/// Opens a nameless object under a descriptor; `flags` may hold `O_NONBLOCK` and `O_CLOEXEC`.
pub(crate) fn install_anonymous(ctx: &Ctx<'_>, file: Arc<dyn File>, label: &str, flags: u32) -> SysResult {
    let flags = OpenFlags::from_bits_retain(flags);
    install(ctx, open_anonymous(file, label, new_ino(), OpenFlags::RDWR | flags), flags)
}

/// `eventfd2`.
///
/// # Errors
/// `EINVAL`, `EMFILE`.
pub fn eventfd2(ctx: &Ctx<'_>, initial: u32, flags: u32) -> SysResult {
    const SEMAPHORE: u32 = 1;
    if flags & !(SEMAPHORE | raw::O_CLOEXEC | raw::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let take = if flags & SEMAPHORE != 0 { Take::One } else { Take::All };
    install_anonymous(ctx, EventFd::new(initial, take), "anon_inode:[eventfd]", flags & !SEMAPHORE)
}

/// `eventfd`.
///
/// # Errors
/// `EMFILE`.
pub fn eventfd(ctx: &Ctx<'_>, initial: u32) -> SysResult {
    eventfd2(ctx, initial, 0)
}

static TIMERS: TimerService = TimerService::new(wake_timers);
static TIMER_THREAD: OnceCell<ThreadHandle> = OnceCell::new();

/// Has the timer thread look at the deadlines; the first timer starts it.
fn wake_timers() {
    let thread = TIMER_THREAD.get_or_init(|| {
        let thread = kernel::thread::spawn("ktimerfd", kernel::thread::Class::Normal, run_timers);
        kernel::thread::handle(&thread.expect("memory for the timer thread"))
    });
    thread.unpark();
}

/// The wall clock was set forward by so much.
pub(crate) fn clock_was_set(forward_ns: i64) {
    TIMERS.clock_was_set(forward_ns);
}

fn run_timers() {
    loop {
        let next = TIMERS.run_due(sync::monotonic_ns());
        sync::park(next);
    }
}

/// `timerfd_create`.
///
/// # Errors
/// `EINVAL`, `EMFILE`.
pub fn timerfd_create(ctx: &Ctx<'_>, clock: u32, flags: u32) -> SysResult {
    let known =
        matches!(clock, CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM);
    if !known || flags & !(raw::O_CLOEXEC | raw::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    install_anonymous(ctx, TimerFd::new(&TIMERS, clock), "anon_inode:[timerfd]", flags)
}

fn timer(file: &OpenFile) -> Result<&TimerFd, Errno> {
    file.downcast::<TimerFd>().ok_or(Errno::EINVAL)
}

fn itimerspec((left, interval): Setting) -> Itimerspec {
    Itimerspec { interval: Timespec::from_ns(interval), value: Timespec::from_ns(left) }
}

/// `timerfd_settime`.
///
/// # Errors
/// Those of `timerfd_settime(2)`.
pub fn timerfd_settime(
    ctx: &Ctx<'_>,
    fd: i32,
    flags: u32,
    new: UserPtr<Itimerspec>,
    old: UserPtr<Itimerspec>,
) -> SysResult {
    const ABSOLUTE: u32 = 1;
    const CANCEL_ON_SET: u32 = 2;
    let file = ctx.files().get(fd)?;
    let timer = timer(&file)?;
    if flags & !(ABSOLUTE | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let new = new.read()?;
    let value = new.value.to_ns().ok_or(Errno::EINVAL)?;
    let interval = new.interval.to_ns().ok_or(Errno::EINVAL)?;
    let deadline = match (value, flags & ABSOLUTE != 0) {
        (0, _) => None,
        (at, true) => Some(monotonic_deadline(timer.clock, at)),
        (after, false) => Some(sync::monotonic_ns().saturating_add(after)),
    };
    let wall = matches!(timer.clock, CLOCK_REALTIME | CLOCK_REALTIME_ALARM);
    let on_clock_set = match (wall && flags & ABSOLUTE != 0, flags & CANCEL_ON_SET != 0) {
        (false, _) => OnClockSet::Goes,
        (true, false) => OnClockSet::Follows,
        (true, true) => OnClockSet::Cancels,
    };
    let before = timer.set(deadline, interval, on_clock_set);
    old.write_optional(&itimerspec(before)).map(|()| 0)
}

/// `timerfd_gettime`.
///
/// # Errors
/// `EBADF`, `EINVAL`, `EFAULT`.
pub fn timerfd_gettime(ctx: &Ctx<'_>, fd: i32, out: UserPtr<Itimerspec>) -> SysResult {
    let file = ctx.files().get(fd)?;
    out.write(&itimerspec(timer(&file)?.setting())).map(|()| 0)
}
