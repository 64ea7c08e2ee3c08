//! epoll.

use linux_abi::Errno;
use linux_abi::fs::EpollEvent;
use linux_abi::raw;
use linux_abi::signal::SigSet;
use linux_abi::time::Timespec;
use vfs::epoll::{Epoll, Interest};

use super::counters::install_anonymous;
use super::{deadline_ms, deadline_timespec, with_mask};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

/// Most events one call can ask for, as on Linux.
const MAX_EVENTS: i32 = i32::MAX / size_of::<EpollEvent>() as i32;
/// Events that are stored in the program's memory at a time.
const BATCH: usize = 16;

/// `epoll_create1`.
///
/// # Errors
/// `EINVAL`, `EMFILE`.
pub fn epoll_create1(ctx: &Ctx<'_>, flags: u32) -> SysResult {
    if flags & !raw::O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    install_anonymous(ctx, Epoll::new(), "anon_inode:[eventpoll]", flags)
}

/// `epoll_create`.
///
/// # Errors
/// `EINVAL`, `EMFILE`.
pub fn epoll_create(ctx: &Ctx<'_>, size: i32) -> SysResult {
    if size <= 0 { Err(Errno::EINVAL) } else { epoll_create1(ctx, 0) }
}

/// `epoll_ctl`.
///
/// # Errors
/// Those of `epoll_ctl(2)`.
pub fn epoll_ctl(ctx: &Ctx<'_>, epfd: i32, operation: u32, fd: i32, event: UserPtr<EpollEvent>) -> SysResult {
    const ADD: u32 = 1;
    const DELETE: u32 = 2;
    const MODIFY: u32 = 3;
    let interest = if operation == DELETE {
        Interest::default()
    } else {
        let event = event.read()?;
        Interest { events: event.events, data: event.data }
    };
    let epoll_file = ctx.files().get(epfd)?;
    let file = ctx.files().get(fd)?;
    file.require_open()?;
    let epoll = epoll_file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    match operation {
        ADD => epoll.add(&file, fd, interest),
        DELETE => epoll.remove(&file, fd),
        MODIFY => epoll.modify(&file, fd, interest),
        _ => Err(Errno::EINVAL),
    }
    .map(|()| 0)
}

/// Events on their way to the program.
struct Report {
    out: UserPtr<EpollEvent>,
    batch: [EpollEvent; BATCH],
    filled: usize,
    outcome: Result<(), Errno>,
}

impl Report {
    fn new(out: UserPtr<EpollEvent>) -> Self {
        Self { out, batch: [EpollEvent { events: 0, data: 0 }; BATCH], filled: 0, outcome: Ok(()) }
    }

    fn add(&mut self, event: Interest) {
        if self.filled == BATCH {
            self.flush();
        }
        self.batch[self.filled] = EpollEvent { events: event.events, data: event.data };
        self.filled += 1;
    }

    fn flush(&mut self) {
        let written = self.out.write_slice(&self.batch[..self.filled]);
        self.out = self.out.add(self.filled);
        self.filled = 0;
        self.outcome = self.outcome.and(written);
    }
}

/// Waits until the time that `deadline` gives; it is asked for only if nothing is ready.
fn wait_until(
    ctx: &Ctx<'_>,
    epfd: i32,
    out: UserPtr<EpollEvent>,
    max: i32,
    deadline: impl FnOnce() -> Option<u64>,
) -> SysResult {
    if max <= 0 || max > MAX_EVENTS {
        return Err(Errno::EINVAL);
    }
    let file = ctx.files().find(epfd)?;
    let epoll = file.epoll().ok_or(Errno::EINVAL)?;
    match epoll.single() {
        Some(event) => out.write(&EpollEvent { events: event.events, data: event.data }).map(|()| 1),
        None => wait_for_events(epoll, out, max, deadline),
    }
}

#[inline(never)]
fn wait_for_events(epoll: &Epoll, out: UserPtr<EpollEvent>, max: i32, deadline: impl FnOnce() -> Option<u64>) -> SysResult {
    let mut report = Report::new(out);
    let mut found = epoll.take(max as usize, &mut |event| report.add(event));
    if found == 0 {
        let deadline = deadline();
        if deadline != Some(0) {
            found = epoll.wait(max as usize, deadline, &mut |event| report.add(event))?;
        }
    }
    report.flush();
    report.outcome.map(|()| found)
}

/// `epoll_wait`.
///
/// # Errors
/// Those of `epoll_wait(2)`.
pub fn epoll_wait(ctx: &Ctx<'_>, epfd: i32, out: UserPtr<EpollEvent>, max: i32, timeout_ms: i32) -> SysResult {
    wait_until(ctx, epfd, out, max, || deadline_ms(timeout_ms))
}

/// `epoll_pwait`.
///
/// # Errors
/// Those of `epoll_pwait(2)`.
pub fn epoll_pwait(
    ctx: &Ctx<'_>,
    epfd: i32,
    out: UserPtr<EpollEvent>,
    max: i32,
    timeout_ms: i32,
    mask: UserPtr<SigSet>,
    mask_size: usize,
) -> SysResult {
    with_mask(ctx, mask, mask_size, || wait_until(ctx, epfd, out, max, || deadline_ms(timeout_ms)))
}

/// `epoll_pwait2`: the timeout is a `struct timespec`.
///
/// # Errors
/// Those of `epoll_pwait2(2)`.
pub fn epoll_pwait2(
    ctx: &Ctx<'_>,
    epfd: i32,
    out: UserPtr<EpollEvent>,
    max: i32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<SigSet>,
    mask_size: usize,
) -> SysResult {
    let deadline = deadline_timespec(timeout)?;
    with_mask(ctx, mask, mask_size, || wait_until(ctx, epfd, out, max, || deadline))
}
