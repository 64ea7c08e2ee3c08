//! Futexes (futex(2)): what a key is, and the operations on [`sync::WaitTable`], whose theory statement has the protocol.
//!
//! A waiter compares the word under the lock of its key's bucket, which closes the race with a waker that changes the word
//! first. That read may fault: the fault path never takes a bucket.
//!
//! **Keys.** A private futex is its address space and address. A shared one is the object behind the mapping and the offset in
//! it, so that it is the same through every mapping.

use alloc::sync::Arc;
use alloc::vec::Vec;

use addr::VirtAddr;
use kernel::mm::{AddressSpace, SharedKey};
use kernel::thread;
use linux_abi::Errno;
use linux_abi::raw::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME, FUTEX_CMD_MASK, FUTEX_CMP_REQUEUE,
    FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};
use linux_abi::sched::FutexWaitv;
use linux_abi::time::Timespec;
use sync::{WaitKey, WaitTable, Woken};

use crate::ctx::{Ctx, SysResult};
use crate::process::Task;
use crate::sys::time;
use crate::user_ptr::UserPtr;

/// A power of two; 16 times the CPUs we aim at.
const BUCKETS: usize = 1024;
/// `FUTEX2_*` flags: size 32 bits, private.
const FUTEX2_SIZE_U32: u32 = 2;
const FUTEX2_PRIVATE: u32 = FUTEX_PRIVATE_FLAG;
const FUTEX_WAITV_MAX: usize = 128;

/// What a futex is, independent of who looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    /// Address, or offset in the object.
    offset: u64,
    /// The address space (by address of the object), or inode.
    object: u64,
    /// [`PRIVATE`], or the inode's device.
    device: u64,
}

/// In place of a device: the key is an address space and an address.
const PRIVATE: u64 = u64::MAX;

impl WaitKey for Key {
    fn hash(&self) -> usize {
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let word = self.offset ^ self.object.rotate_left(32) ^ self.device.rotate_left(48);
        ((word >> 2).wrapping_mul(MULTIPLIER) >> 48) as usize
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
#[inline]
fn key_of(address: u64, scope: Scope) -> Result<Key, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if !VirtAddr(address).is_user() {
        return Err(Errno::EFAULT);
    }
    thread::with_current(|t| {
        let space = t.space().ok_or(Errno::EFAULT)?;
        let private = Key { offset: address, object: Arc::as_ptr(space) as u64, device: PRIVATE };
        if scope == Scope::Private { Ok(private) } else { shared_key(space, address, private) }
    })
}

/// The key of a word that others may have mapped, too; `private` if it is in no shared mapping.
#[inline(never)]
fn shared_key(space: &AddressSpace, address: u64, private: Key) -> Result<Key, Errno> {
    match space.shared_key(VirtAddr(address)) {
        Ok(SharedKey::Object(id, offset)) => Ok(Key { offset, object: id.inode, device: id.device }),
        Ok(SharedKey::Private(_)) => Ok(private),
        Err(_) => Err(Errno::EFAULT),
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
fn park_until(task: &Task, deadline_ns: Option<u64>, woken: &Woken<'_, Key>) -> Result<(), Errno> {
    loop {
        if woken.is_woken() {
            return Ok(());
        }
        if task.is_interrupted() {
            return Err(Errno::ERESTARTSYS);
        }
        if deadline_ns.is_some_and(|d| sync::monotonic_ns() >= d) {
            return Err(Errno::ETIMEDOUT);
        }
        sync::park(deadline_ns);
    }
}

fn expect(word: UserPtr<u32>, expected: u32) -> Result<(), Errno> {
    if word.load()? == expected { Ok(()) } else { Err(Errno::EAGAIN) }
}

#[inline]
fn wait(ctx: &Ctx<'_>, word: UserPtr<u32>, op: u32, expected: u32, timeout: u64, bitset: u32) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key_of(word.address(), Scope::of(op))?;
    let deadline = deadline(op, UserPtr::new(timeout))?;
    match TABLE.wait(key, bitset, || expect(word, expected), |woken| park_until(ctx.task(), deadline, woken)) {
        Ok(()) => Ok(0),
        // A restart would begin a relative wait anew, so a handler always ends a timed wait (as on Linux).
        Err(Errno::ERESTARTSYS) if deadline.is_some() => Err(Errno::ERESTARTNOHAND),
        Err(error) => Err(error),
    }
}

#[inline]
fn wake(word: UserPtr<u32>, op: u32, val: u32, bitset: u32) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(TABLE.wake(key_of(word.address(), Scope::of(op))?, count(val).max(1), bitset))
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

/// The deadline of a wait: relative for FUTEX_WAIT, absolute otherwise.
#[inline]
fn deadline(op: u32, timeout: UserPtr<Timespec>) -> Result<Option<u64>, Errno> {
    timeout.non_null().map(|timeout| deadline_at(op, timeout)).transpose()
}

#[inline(never)]
fn deadline_at(op: u32, timeout: UserPtr<Timespec>) -> Result<u64, Errno> {
    let ns = timeout.read()?.to_ns().ok_or(Errno::EINVAL)?;
    let clock = if op & FUTEX_CLOCK_REALTIME != 0 { CLOCK_REALTIME } else { CLOCK_MONOTONIC };
    Ok(if op & FUTEX_CMD_MASK as u32 == FUTEX_WAIT {
        sync::monotonic_ns().saturating_add(ns)
    } else {
        time::monotonic_deadline(clock, ns)
    })
}

/// A count argument: an `int`, negative meaning "none". (To wake, Linux counts after the first: 0 and less wake one.)
fn count(value: u32) -> usize {
    (value as i32).max(0) as usize
}

/// `futex`: waits for, wakes and moves waiters on a word of memory.
///
/// # Errors
/// `EAGAIN` when the word differs, `ETIMEDOUT`, `EINTR`, `EINVAL`, `EFAULT`; `ENOSYS` for the priority-inheritance operations.
pub fn futex(
    ctx: &Ctx<'_>,
    word: UserPtr<u32>,
    op: u32,
    val: u32,
    timeout: u64,
    word2: UserPtr<u32>,
    val3: u32,
) -> SysResult {
    match op & FUTEX_CMD_MASK as u32 {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => wait(ctx, word, op, val, timeout, bitset(op, val3)),
        FUTEX_WAKE | FUTEX_WAKE_BITSET => wake(word, op, val, bitset(op, val3)),
        _ => two_words(word, op, count(val), count(timeout as u32), word2, val3),
    }
}

/// The bits of a wait or wake: any, unless the operation is one of those with a bitset.
fn bitset(op: u32, val3: u32) -> u32 {
    match op & FUTEX_CMD_MASK as u32 {
        FUTEX_WAIT | FUTEX_WAKE => FUTEX_BITSET_MATCH_ANY,
        _ => val3,
    }
}

/// The operations on two words.
#[inline(never)]
fn two_words(
    word: UserPtr<u32>,
    op: u32,
    val: usize,
    val2: usize,
    word2: UserPtr<u32>,
    val3: u32,
) -> SysResult {
    let scope = Scope::of(op);
    let keys = || Ok::<_, Errno>((key_of(word.address(), scope)?, key_of(word2.address(), scope)?));
    match op & FUTEX_CMD_MASK as u32 {
        FUTEX_REQUEUE => {
            let (from, to) = keys()?;
            TABLE.requeue(from, to, val, val2, || Ok(())).map(|(woken, _)| woken)
        }
        FUTEX_CMP_REQUEUE => {
            let (from, to) = keys()?;
            TABLE.requeue(from, to, val, val2, || expect(word, val3)).map(|(woken, moved)| woken + moved)
        }
        FUTEX_WAKE_OP => {
            let (first, second) = keys()?;
            TABLE.wake_two(first, second, [val, val2], FUTEX_BITSET_MATCH_ANY, || apply_wake_op(word2, val3))
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// `futex_waitv`: waits for any of several words; returns the index of one that was woken.
///
/// # Errors
/// As `futex`.
pub fn futex_waitv(
    ctx: &Ctx<'_>,
    waiters: UserPtr<FutexWaitv>,
    count: u32,
    flags: u32,
    timeout: UserPtr<Timespec>,
    clock: u32,
) -> SysResult {
    if flags != 0 || count == 0 || count as usize > FUTEX_WAITV_MAX {
        return Err(Errno::EINVAL);
    }
    let list = waiters.read_vec(count as usize)?;
    let deadline = match timeout.non_null() {
        Some(t) => Some(time::monotonic_deadline(clock, t.read()?.to_ns().ok_or(Errno::EINVAL)?)),
        None => None,
    };
    let keys = list.iter().map(waitv_key).collect::<Result<Vec<_>, _>>()?;
    let check = |index: usize| {
        let item: &FutexWaitv = &list[index];
        expect(UserPtr::new(item.uaddr), item.val as u32)
    };
    TABLE.wait_any(&keys, FUTEX_BITSET_MATCH_ANY, check, |woken| park_until(ctx.task(), deadline, woken))
}

fn waitv_key(item: &FutexWaitv) -> Result<Key, Errno> {
    if item.flags & !(FUTEX2_PRIVATE) != FUTEX2_SIZE_U32 || item.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let scope = if item.flags & FUTEX2_PRIVATE != 0 { Scope::Private } else { Scope::Shared };
    key_of(item.uaddr, scope)
}
