//! The futex calls of Linux 5.16 and 6.7: each operation a call of its own, with the word's size in the flags.

use alloc::vec::Vec;

use linux_abi::Errno;
use linux_abi::raw::{CLOCK_MONOTONIC, CLOCK_REALTIME, FUTEX_BITSET_MATCH_ANY, FUTEX_PRIVATE_FLAG};
use linux_abi::sched::FutexWaitv;
use linux_abi::time::Timespec;

use super::{Key, Scope, TABLE, expect, key_of, park_until, requeue, waited};
use crate::ctx::{Ctx, SysResult};
use crate::sys::time;
use crate::user_ptr::UserPtr;

/// `FUTEX2_*` flags: size 32 bits, the only one that Linux takes so far; private.
const SIZE_U32: u32 = 2;
const PRIVATE: u32 = FUTEX_PRIVATE_FLAG;
const WAITV_MAX: usize = 128;

fn scope(flags: u32) -> Result<Scope, Errno> {
    if flags & !PRIVATE != SIZE_U32 {
        return Err(Errno::EINVAL);
    }
    Ok(if flags & PRIVATE != 0 { Scope::Private } else { Scope::Shared })
}

/// An argument of 64 bits that must fit the word.
fn word_sized(value: u64) -> Result<u32, Errno> {
    u32::try_from(value).map_err(|_| Errno::EINVAL)
}

/// An absolute deadline on one of the two clocks; the clock does not count without one.
fn deadline(timeout: UserPtr<Timespec>, clock: u32) -> Result<Option<u64>, Errno> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    if clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC {
        return Err(Errno::EINVAL);
    }
    let ns = timeout.read()?.to_ns().ok_or(Errno::EINVAL)?;
    Ok(Some(time::monotonic_deadline(clock, ns)))
}

/// `futex_wake`: wakes up to `count` waiters.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn futex_wake(_ctx: &Ctx<'_>, word: UserPtr<u32>, mask: u64, count: i32, flags: u32) -> SysResult {
    let (scope, mask) = (scope(flags)?, word_sized(mask)?);
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key_of(word.address(), scope)?;
    // Unlike the old call's, a count of 0 means none; a negative one still means one, as Linux counts after the first.
    let count = if count == 0 { 0 } else { count.max(1) as usize };
    Ok(TABLE.wake(key, count, mask))
}

/// `futex_wait`: waits while the word has a value.
///
/// # Errors
/// `EAGAIN`, `ETIMEDOUT`, `EINTR`, `EINVAL`, `EFAULT`.
pub fn futex_wait(
    _ctx: &Ctx<'_>,
    word: UserPtr<u32>,
    value: u64,
    mask: u64,
    flags: u32,
    timeout: UserPtr<Timespec>,
    clock: u32,
) -> SysResult {
    let (scope, value, mask) = (scope(flags)?, word_sized(value)?, word_sized(mask)?);
    if mask == 0 {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline(timeout, clock)?;
    let key = key_of(word.address(), scope)?;
    waited(TABLE.wait(key, mask, || expect(word, value), |woken| park_until(deadline, woken)), deadline)
}

/// `futex_requeue`: wakes some waiters of the first word and moves others to the second, if the first has its value.
///
/// # Errors
/// `EAGAIN`, `EINVAL`, `EFAULT`.
pub fn futex_requeue(_ctx: &Ctx<'_>, words: UserPtr<FutexWaitv>, flags: u32, wake: u32, limit: u32) -> SysResult {
    if flags != 0 || words.is_null() {
        return Err(Errno::EINVAL);
    }
    let [from, to] = [words.read()?, words.add(1).read()?];
    let (keys, value) = ((key(&from)?, key(&to)?), word_sized(from.val)?);
    requeue(keys, wake, limit, || expect(UserPtr::new(from.uaddr), value))
}

fn key(item: &FutexWaitv) -> Result<Key, Errno> {
    if item.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    key_of(item.uaddr, scope(item.flags)?)
}

/// `futex_waitv`: waits for any of several words; returns the index of one that was woken.
///
/// # Errors
/// As `futex_wait`.
pub fn futex_waitv(
    _ctx: &Ctx<'_>,
    waiters: UserPtr<FutexWaitv>,
    count: u32,
    flags: u32,
    timeout: UserPtr<Timespec>,
    clock: u32,
) -> SysResult {
    if flags != 0 || count == 0 || count as usize > WAITV_MAX || waiters.is_null() {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline(timeout, clock)?;
    let list = waiters.read_vec(count as usize)?;
    let keys = list.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let values = list.iter().map(|item| word_sized(item.val)).collect::<Result<Vec<_>, _>>()?;
    let check = |index: usize| expect(UserPtr::new(list[index].uaddr), values[index]);
    TABLE.wait_any(&keys, FUTEX_BITSET_MATCH_ANY, check, |woken| park_until(deadline, woken))
}
