//! Waiting for descriptors, and descriptors that are made to be waited for, by subject.
//!
//! | file | calls |
//! |---|---|
//! | `poll.rs` | poll, ppoll, select, pselect6 |
//! | `epoll.rs` | epoll_create, epoll_ctl, epoll_wait and relatives |
//! | `counters.rs` | eventfd, timerfd |
//! | `signalfd.rs` | signalfd |
//!
//! What they do is in the `vfs` crate; these functions turn registers into its terms.

mod counters;
mod epoll;
mod poll;
mod signalfd;

pub use counters::*;
pub use epoll::*;
pub use poll::*;
pub use signalfd::*;

use linux_abi::Errno;
use linux_abi::signal::SigSet;
use linux_abi::time::Timespec;

use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

/// A relative timeout as a monotonic deadline; 0 stays 0, "do not wait".
fn deadline(timeout_ns: u64) -> u64 {
    if timeout_ns == 0 { 0 } else { sync::monotonic_ns().saturating_add(timeout_ns) }
}

/// A timeout in milliseconds, negative for none.
fn deadline_ms(timeout_ms: i32) -> Option<u64> {
    u64::try_from(timeout_ms).ok().map(|ms| deadline(ms * 1_000_000))
}

/// An optional `struct timespec` as a deadline.
fn deadline_timespec(timeout: UserPtr<Timespec>) -> Result<Option<u64>, Errno> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let ns = timeout.read()?.to_ns().ok_or(Errno::EINVAL)?;
    Ok(Some(deadline(ns)))
}

/// Nanoseconds until `deadline_ns`.
fn left(deadline_ns: u64) -> u64 {
    if deadline_ns == 0 { 0 } else { deadline_ns.saturating_sub(sync::monotonic_ns()) }
}

/// Runs `wait` with another signal mask, if one is given. The old mask comes back at once, or after the handler of the signal that
/// ended the wait.
pub(crate) fn with_mask(
    ctx: &Ctx<'_>,
    mask: UserPtr<SigSet>,
    size: usize,
    wait: impl FnOnce() -> SysResult,
) -> SysResult {
    let Some(mask) = mask.non_null() else { return wait() };
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let task = ctx.task();
    task.set_temporary_sigmask(mask.read()?);
    let result = wait();
    if !matches!(result, Err(Errno::EINTR | Errno::ERESTARTNOHAND)) {
        task.restore_sigmask();
    }
    result
}
