//! Futexes (futex(2)): what a key is, and the operations on [`sync::WaitTable`], whose theory statement has the protocol.
//!
//! A waiter compares the word under the lock of its key's bucket, which closes the race with a waker that changes the word
//! first. That read may fault: the fault path never takes a bucket.
//!
//! **Keys.** A private futex is its address space and address. A shared one is the object behind the mapping and the offset in
//! it, so that it is the same through every mapping. A [`Role`] tells those apart who wait at one word for different things: whoever
//! wakes plain waiters does not see those who wait to own the word (`pi.rs`).

mod modern;
mod pi;

pub use modern::{futex_requeue, futex_wait, futex_waitv, futex_wake};
pub(crate) use pi::{Owned, abandon_all};

use addr::VirtAddr;
use kernel::mm::SharedKey;
use kernel::thread;
use linux_abi::Errno;
use linux_abi::raw::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME, FUTEX_CMD_MASK, FUTEX_CMP_REQUEUE,
    FUTEX_CMP_REQUEUE_PI, FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_TRYLOCK_PI, FUTEX_UNLOCK_PI,
    FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};
use linux_abi::time::Timespec;
use sync::{WaitKey, WaitTable, Woken};

use crate::ctx::{Ctx, SysResult};
use crate::sys::time;
use crate::user_ptr::UserPtr;

/// A power of two; 16 times the CPUs we aim at.
const BUCKETS: usize = 1024;

/// What a futex is, independent of who looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    /// Address, or offset in the object; both are multiples of 4, and the two bits below are the [`Role`].
    offset: u64,
    /// The address space ([`thread::space_id`]), or inode.
    object: u64,
    /// [`PRIVATE`], or the inode's device.
    device: u64,
}

/// What somebody waits for at a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// For the word to be handed to it: it then owns the word.
    Owner = 1,
    /// To be moved to another word, as one who waits to own that.
    Condition = 2,
}

impl Key {
    /// The same word, for those who wait in `role`.
    fn with_role(self, role: Role) -> Self {
        Self { offset: self.offset & !3 | role as u64, ..self }
    }
}

/// In place of a device: the key is an address space and an address.
const PRIVATE: u64 = u64::MAX;

impl WaitKey for Key {
    fn hash(&self) -> usize {
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let word = self.offset ^ self.object.rotate_left(32) ^ self.device.rotate_left(48);
        // The product's upper bits are the well-spread ones.
        (word.wrapping_mul(MULTIPLIER) >> (u64::BITS - BUCKETS.ilog2())) as usize
    }
}

/// Which mapping of the word counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    Private,
    Shared,
}

impl Scope {
    fn of(op: u32) -> Self {
        if op & FUTEX_PRIVATE_FLAG != 0 { Self::Private } else { Self::Shared }
    }
}

static TABLE: WaitTable<Key, BUCKETS> = WaitTable::new();

/// The key of the word at `address` for the running thread.
#[inline(always)]
fn key_of(address: u64, scope: Scope) -> Result<Key, Errno> {
    check_address(address)?;
    if scope == Scope::Private { Ok(private_key(address)) } else { shared_key(address) }
}

/// Whether a futex may be there.
#[inline(always)]
fn check_address(address: u64) -> Result<(), Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if VirtAddr(address).is_user() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// The key of a word that only the running thread's process knows by this address.
#[inline(always)]
fn private_key(address: u64) -> Key {
    Key { offset: address, object: thread::space_id(), device: PRIVATE }
}

/// The key of a word that others may have mapped, too; the private one if it is in no shared mapping.
#[inline(never)]
fn shared_key(address: u64) -> Result<Key, Errno> {
    let shared = thread::with_current(|t| t.space().map(|space| space.shared_key(VirtAddr(address))));
    match shared {
        Some(Ok(SharedKey::Object(id, offset))) => Ok(Key { offset, object: id.inode, device: id.device }),
        Some(Ok(SharedKey::Private(_))) => Ok(private_key(address)),
        Some(Err(_)) | None => Err(Errno::EFAULT),
    }
}

/// Wakes up to `count` waiters at `address`, which the kernel itself changed (end of the running thread).
///
/// # Errors
/// `EFAULT`, `EINVAL`.
pub(crate) fn wake_address(address: u64, count: usize) -> SysResult {
    Ok(TABLE.wake(key_of(address, Scope::Shared)?, count, FUTEX_BITSET_MATCH_ANY))
}

/// Parks until woken, the deadline, or a signal.
#[inline(always)]
fn park_until(deadline_ns: Option<u64>, woken: &Woken<'_, Key>) -> Result<(), Errno> {
    loop {
        if woken.is_woken() {
            return Ok(());
        }
        if sync::interrupted() {
            return Err(Errno::ERESTARTSYS);
        }
        if deadline_ns.is_some_and(|d| sync::monotonic_ns() >= d) {
            return Err(Errno::ETIMEDOUT);
        }
        sync::park(deadline_ns);
    }
}

#[inline(always)]
fn expect(word: UserPtr<u32>, expected: u32) -> Result<(), Errno> {
    if word.load()? == expected { Ok(()) } else { Err(Errno::EAGAIN) }
}

#[inline(always)]
fn wait(ctx: &Ctx<'_>, word: UserPtr<u32>, op: u32, expected: u32, timeout: u64, bitset: u32) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key_of(word.address(), Scope::of(op))?;
    let is_relative = op & FUTEX_CMD_MASK as u32 == FUTEX_WAIT;
    let deadline = if is_relative { relative_deadline(ctx, UserPtr::new(timeout))? } else { deadline(op, UserPtr::new(timeout))? };
    let result = TABLE.wait(key, bitset, || expect(word, expected), |woken| park_until(deadline, woken));
    match (result, deadline) {
        // Without a handler the wait goes on for the time that is left.
        (Err(Errno::ERESTARTSYS), Some(deadline)) if is_relative => Err(ctx.task().continuation.interrupted(ctx.frame().orig_rax, deadline)),
        (result, deadline) => waited(result, deadline),
    }
}

/// The deadline of FUTEX_WAIT.
#[inline(never)]
fn relative_deadline(ctx: &Ctx<'_>, timeout: UserPtr<Timespec>) -> Result<Option<u64>, Errno> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let ns = timeout.read()?.to_ns().ok_or(Errno::EINVAL)?;
    Ok(Some(ctx.task().continuation.deadline(ns)))
}

/// What a wait returns.
#[inline(always)]
fn waited(result: Result<(), Errno>, deadline: Option<u64>) -> SysResult {
    match result {
        Ok(()) => Ok(0),
        // A restart would begin a relative wait anew, so a handler always ends a timed wait (as on Linux).
        Err(Errno::ERESTARTSYS) if deadline.is_some() => Err(Errno::ERESTARTNOHAND),
        Err(error) => Err(error),
    }
}

#[inline(always)]
fn wake(word: UserPtr<u32>, op: u32, val: u32, bitset: u32) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(TABLE.wake(key_of(word.address(), Scope::of(op))?, count(val).max(1), bitset))
}

/// The ordinary wait: private, for any wake-up, without a deadline.
#[inline(never)]
fn wait_private(word: UserPtr<u32>, expected: u32) -> Result<(), Errno> {
    check_address(word.address())?;
    TABLE.wait(private_key(word.address()), FUTEX_BITSET_MATCH_ANY, || expect(word, expected), |woken| {
        while !woken.is_woken() {
            if sync::interrupted() {
                return Err(Errno::ERESTARTSYS);
            }
            thread::park_inline();
        }
        Ok(())
    })
}

/// The ordinary wake-up: private, of anybody, but of one only.
#[inline(always)]
fn wake_one_private(word: UserPtr<u32>) -> SysResult {
    check_address(word.address())?;
    Ok(usize::from(TABLE.wake_one(private_key(word.address()), FUTEX_BITSET_MATCH_ANY)))
}

/// The operation that FUTEX_WAKE_OP encodes in `val3`.
fn apply_wake_op(word: UserPtr<u32>, encoded: u32) -> Result<bool, Errno> {
    const SHIFT_ARGUMENT: u32 = 8;
    let sign_extend = |v: u32| ((v << 20) as i32 >> 20) as u32;
    let (op, comparison) = (encoded >> 28, encoded >> 24 & 15);
    let mut argument = sign_extend(encoded >> 12 & 0xfff);
    let compared = sign_extend(encoded & 0xfff) as i32;
    if op & SHIFT_ARGUMENT != 0 {
        argument = 1_u32.wrapping_shl(argument);
    }
    let mut old = word.load()?;
    loop {
        let new = match op & 7 {
            0 => argument,
            1 => old.wrapping_add(argument),
            2 => old | argument,
            3 => old & !argument,
            4 => old ^ argument,
            _ => return Err(Errno::ENOSYS),
        };
        let found = word.compare_exchange(old, new)?;
        if found == old {
            break;
        }
        old = found;
    }
    let old = old as i32;
    Ok(match comparison {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        5 => old >= compared,
        _ => return Err(Errno::ENOSYS),
    })
}

/// The deadline of all waits but FUTEX_WAIT: an absolute time.
#[inline]
fn deadline(op: u32, timeout: UserPtr<Timespec>) -> Result<Option<u64>, Errno> {
    timeout.non_null().map(|timeout| deadline_at(op, timeout)).transpose()
}

#[inline(never)]
fn deadline_at(op: u32, timeout: UserPtr<Timespec>) -> Result<u64, Errno> {
    let ns = timeout.read()?.to_ns().ok_or(Errno::EINVAL)?;
    let clock = if op & FUTEX_CLOCK_REALTIME != 0 { CLOCK_REALTIME } else { CLOCK_MONOTONIC };
    Ok(time::monotonic_deadline(clock, ns))
}

/// A count argument: an `int`, negative meaning "none". (To wake, Linux counts after the first: 0 and less wake one.)
fn count(value: u32) -> usize {
    (value as i32).max(0) as usize
}

/// `futex`: waits for, wakes and moves waiters on a word of memory.
///
/// # Errors
/// `EAGAIN` when the word differs, `ETIMEDOUT`, `EINTR`, `EINVAL`, `EFAULT`; `EPERM`, `ESRCH`, `EDEADLK` from the operations on words
/// that have an owner; `ENOSYS` for an operation that does not exist.
pub fn futex(
    ctx: &Ctx<'_>,
    word: UserPtr<u32>,
    op: u32,
    val: u32,
    timeout: u64,
    word2: UserPtr<u32>,
    val3: u32,
) -> SysResult {
    const WAIT: u32 = FUTEX_WAIT | FUTEX_PRIVATE_FLAG;
    const WAIT_BITSET: u32 = FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG;
    const WAIT_BITSET_BY_WALL_CLOCK: u32 = WAIT_BITSET | FUTEX_CLOCK_REALTIME;
    const WAKE: u32 = FUTEX_WAKE | FUTEX_PRIVATE_FLAG;
    match op {
        WAKE if val == 1 => wake_one_private(word),
        WAIT if timeout == 0 => wait_private(word, val).map(|()| 0),
        WAIT_BITSET | WAIT_BITSET_BY_WALL_CLOCK if timeout == 0 && val3 == FUTEX_BITSET_MATCH_ANY => wait_private(word, val).map(|()| 0),
        _ => other(ctx, word, op, val, timeout, word2, val3),
    }
}

/// Waits and wake-ups of the less ordinary kinds, and the rest.
#[inline(never)]
fn other(ctx: &Ctx<'_>, word: UserPtr<u32>, op: u32, val: u32, timeout: u64, word2: UserPtr<u32>, val3: u32) -> SysResult {
    const WAIT_BITSET_REALTIME: u32 = FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME;
    match op & !FUTEX_PRIVATE_FLAG {
        FUTEX_WAIT | FUTEX_WAIT_BITSET | WAIT_BITSET_REALTIME => wait(ctx, word, op, val, timeout, bitset(op, val3)),
        FUTEX_WAKE | FUTEX_WAKE_BITSET => wake(word, op, val, bitset(op, val3)),
        _ => rare(ctx, word, op, val, timeout, word2, val3),
    }
}

/// The operations that are not a plain wait or wake.
#[inline(never)]
fn rare(ctx: &Ctx<'_>, word: UserPtr<u32>, op: u32, val: u32, timeout: u64, word2: UserPtr<u32>, val3: u32) -> SysResult {
    let (scope, command) = (Scope::of(op), op & FUTEX_CMD_MASK as u32);
    if op & FUTEX_CLOCK_REALTIME != 0 && !matches!(command, FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI) {
        return Err(Errno::ENOSYS);
    }
    let deadline = |op| deadline(op, UserPtr::new(timeout));
    match command {
        // Always by the wall clock, whatever the flag says.
        FUTEX_LOCK_PI => pi::lock(ctx, word, scope, deadline(op | FUTEX_CLOCK_REALTIME)?),
        FUTEX_LOCK_PI2 => pi::lock(ctx, word, scope, deadline(op)?),
        FUTEX_TRYLOCK_PI => pi::try_lock(ctx, word, scope),
        FUTEX_UNLOCK_PI => pi::unlock(ctx, word, scope),
        FUTEX_WAIT_REQUEUE_PI => pi::wait_requeue(ctx, word, scope, val, deadline(op)?, word2),
        FUTEX_CMP_REQUEUE_PI => pi::requeue(word, scope, val, requeue_count(timeout as u32)?, word2, val3),
        _ => two_words(word, op, val, timeout as u32, word2, val3),
    }
}

/// How many waiters a requeue wakes or moves.
fn requeue_count(value: u32) -> Result<usize, Errno> {
    usize::try_from(value as i32).map_err(|_| Errno::EINVAL)
}

/// The bits of a wait or wake: any, unless the operation is one of the two with a bitset (9 and 10).
fn bitset(op: u32, val3: u32) -> u32 {
    const WITH_BITSET: u32 = FUTEX_WAIT_BITSET & FUTEX_WAKE_BITSET;
    if op & WITH_BITSET == 0 { FUTEX_BITSET_MATCH_ANY } else { val3 }
}

/// The operations on two words.
fn two_words(word: UserPtr<u32>, op: u32, val: u32, val2: u32, word2: UserPtr<u32>, val3: u32) -> SysResult {
    let scope = Scope::of(op);
    let keys = || Ok::<_, Errno>((key_of(word.address(), scope)?, key_of(word2.address(), scope)?));
    match op & FUTEX_CMD_MASK as u32 {
        FUTEX_REQUEUE => requeue(keys()?, val, val2, || Ok(())),
        FUTEX_CMP_REQUEUE => requeue(keys()?, val, val2, || expect(word, val3)),
        FUTEX_WAKE_OP => {
            let (first, second) = keys()?;
            TABLE.wake_two(first, second, [count(val), count(val2)], FUTEX_BITSET_MATCH_ANY, || apply_wake_op(word2, val3))
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// Wakes some and moves others; returns how many of both (also for FUTEX_REQUEUE, whatever futex(2) says).
fn requeue(keys: (Key, Key), wake: u32, limit: u32, check: impl FnOnce() -> Result<(), Errno>) -> SysResult {
    let (wake, limit) = (requeue_count(wake)?, requeue_count(limit)?);
    let (woken, moved) = TABLE.requeue(keys.0, keys.1, wake.saturating_add(limit), |_| check().map(|()| wake))?;
    Ok(woken + moved)
}
