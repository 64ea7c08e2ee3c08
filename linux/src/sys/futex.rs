//! Futexes (futex(2)): a table of hashed buckets, each a sleeping mutex over the waiters of its keys.
//!
//! **Protocol.** A waiter locks its bucket, compares the word, enqueues itself, unlocks, and parks until its `woken` flag is
//! set. A waker locks the bucket, takes waiters out, sets their flags and unparks them. Comparing under the lock closes the
//! race with a waker that changes the word first. A waiter that gives up (time, signal) locks the bucket it is in now
//! (requeueing may have moved it) and takes itself out; if it is no longer there, it was woken after all. The word is read
//! under the bucket's lock and may fault: the fault path never takes a bucket.
//!
//! **Keys.** A private futex is its address space and address. A shared one is the object behind the mapping and the offset in
//! it, so that it is the same through every mapping.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use addr::VirtAddr;
use kernel::mm::SharedKey;
use linux_abi::Errno;
use linux_abi::raw::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME, FUTEX_CMD_MASK, FUTEX_CMP_REQUEUE,
    FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};
use linux_abi::sched::FutexWaitv;
use linux_abi::time::Timespec;
use sync::{Mutex, MutexGuard, ThreadHandle};

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
enum Key {
    /// Address space (by address of the object) and address.
    Private(usize, u64),
    /// Device, inode and offset.
    Shared(u64, u64, u64),
}

impl Key {
    fn bucket(&self) -> usize {
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let word = match *self {
            Self::Private(space, address) => address ^ (space as u64).rotate_left(32),
            Self::Shared(device, inode, offset) => offset ^ inode.rotate_left(32) ^ device.rotate_left(48),
        };
        ((word >> 2).wrapping_mul(MULTIPLIER) >> 48) as usize % BUCKETS
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

/// A waiting thread.
struct Waiter {
    thread: ThreadHandle,
    woken: AtomicBool,
    /// The bucket it is in; changes under the locks of both buckets.
    bucket: AtomicUsize,
}

struct Entry {
    key: Key,
    bitset: u32,
    waiter: Arc<Waiter>,
}

type Bucket = VecDeque<Entry>;

static TABLE: [Mutex<Bucket>; BUCKETS] = [const { Mutex::new(VecDeque::new()) }; BUCKETS];

fn key_of(task: &Task, address: u64, scope: Scope) -> Result<Key, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if !VirtAddr(address).is_user() {
        return Err(Errno::EFAULT);
    }
    let space = task.process().space();
    let private = Key::Private(Arc::as_ptr(&space) as usize, address);
    if scope == Scope::Private {
        return Ok(private);
    }
    match space.shared_key(VirtAddr(address)) {
        Ok(SharedKey::Object(id, offset)) => Ok(Key::Shared(id.device, id.inode, offset)),
        Ok(SharedKey::Private(_)) => Ok(private),
        Err(_) => Err(Errno::EFAULT),
    }
}

/// Takes out and wakes up to `count` waiters of `key` whose bits meet `bitset`.
fn wake_in(bucket: &mut Bucket, key: Key, count: usize, bitset: u32) -> usize {
    let mut woken = 0;
    let mut at = 0;
    while woken < count && at < bucket.len() {
        if bucket[at].key != key || bucket[at].bitset & bitset == 0 {
            at += 1;
            continue;
        }
        if let Some(entry) = bucket.remove(at) {
            entry.waiter.woken.store(true, Ordering::Release);
            entry.waiter.thread.unpark();
            woken += 1;
        }
    }
    woken
}

fn wake(key: Key, count: usize, bitset: u32) -> usize {
    wake_in(&mut TABLE[key.bucket()].lock(), key, count, bitset)
}

/// Wakes up to `count` waiters at `address`, which the kernel itself changed (end of a thread).
///
/// # Errors
/// `EFAULT`, `EINVAL`.
pub(crate) fn wake_address(task: &Task, address: u64, count: usize) -> SysResult {
    let key = key_of(task, address, Scope::Shared)?;
    Ok(wake(key, count, FUTEX_BITSET_MATCH_ANY))
}

impl Waiter {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            thread: ThreadHandle::current(),
            woken: AtomicBool::new(false),
            bucket: AtomicUsize::new(0),
        })
    }

    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Takes the waiter out of whatever bucket it is in; false if it was woken before.
    fn withdraw(self: &Arc<Self>) -> bool {
        loop {
            let index = self.bucket.load(Ordering::Acquire);
            let mut bucket = TABLE[index].lock();
            if self.is_woken() {
                return false;
            }
            if self.bucket.load(Ordering::Acquire) != index {
                continue;
            }
            bucket.retain(|e| !Arc::ptr_eq(&e.waiter, self));
            return true;
        }
    }
}

/// Parks until `done`, the deadline, or a signal.
fn park_until(task: &Task, deadline_ns: Option<u64>, done: impl Fn() -> bool) -> Result<(), Errno> {
    loop {
        if done() {
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

fn wait(ctx: &Ctx<'_>, word: UserPtr<u32>, expected: u32, key: Key, bitset: u32, deadline: Option<u64>) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let waiter = Waiter::new();
    waiter.bucket.store(key.bucket(), Ordering::Relaxed);
    {
        let mut bucket = TABLE[key.bucket()].lock();
        if word.load()? != expected {
            return Err(Errno::EAGAIN);
        }
        bucket.push_back(Entry { key, bitset, waiter: waiter.clone() });
    }
    match park_until(ctx.task(), deadline, || waiter.is_woken()) {
        // A restart would begin a relative wait anew, so a handler always ends a timed wait (as on Linux).
        Err(Errno::ERESTARTSYS) if waiter.withdraw() => {
            Err(if deadline.is_some() { Errno::ERESTARTNOHAND } else { Errno::ERESTARTSYS })
        }
        Err(error) if error != Errno::ERESTARTSYS && waiter.withdraw() => Err(error),
        _ => Ok(0),
    }
}

/// Locks two buckets in the order of their numbers; the second is `None` when both are the same.
fn lock_two(a: usize, b: usize) -> (MutexGuard<'static, Bucket>, Option<MutexGuard<'static, Bucket>>) {
    if a == b {
        return (TABLE[a].lock(), None);
    }
    if a < b {
        let first = TABLE[a].lock();
        (first, Some(TABLE[b].lock()))
    } else {
        let second = TABLE[b].lock();
        (TABLE[a].lock(), Some(second))
    }
}

/// Wakes `wake` waiters of `from` and moves up to `limit` others to `to`.
fn requeue(
    word: UserPtr<u32>,
    from: Key,
    to: Key,
    wake: usize,
    limit: usize,
    expected: Option<u32>,
) -> Result<(usize, usize), Errno> {
    let (mut source, mut target) = lock_two(from.bucket(), to.bucket());
    if let Some(expected) = expected
        && word.load()? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let woken = wake_in(&mut source, from, wake, FUTEX_BITSET_MATCH_ANY);
    let mut moved = 0;
    let mut at = 0;
    while moved < limit && at < source.len() {
        if source[at].key != from {
            at += 1;
            continue;
        }
        moved += 1;
        let Some(target) = &mut target else {
            source[at].key = to;
            at += 1;
            continue;
        };
        if let Some(mut entry) = source.remove(at) {
            entry.key = to;
            entry.waiter.bucket.store(to.bucket(), Ordering::Release);
            target.push_back(entry);
        }
    }
    Ok((woken, moved))
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

fn wake_op(first: Key, second: Key, word2: UserPtr<u32>, counts: [usize; 2], encoded: u32) -> SysResult {
    let (mut a, mut b) = lock_two(first.bucket(), second.bucket());
    let also = apply_wake_op(word2, encoded)?;
    let mut woken = wake_in(&mut a, first, counts[0], FUTEX_BITSET_MATCH_ANY);
    if also {
        woken += wake_in(b.as_mut().unwrap_or(&mut a), second, counts[1], FUTEX_BITSET_MATCH_ANY);
    }
    Ok(woken)
}

/// The deadline of a wait: relative for FUTEX_WAIT, absolute otherwise.
fn deadline(op: u32, timeout: UserPtr<Timespec>) -> Result<Option<u64>, Errno> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let ns = timeout.read()?.to_ns().ok_or(Errno::EINVAL)?;
    let clock = if op & FUTEX_CLOCK_REALTIME != 0 { CLOCK_REALTIME } else { CLOCK_MONOTONIC };
    Ok(Some(if op & FUTEX_CMD_MASK as u32 == FUTEX_WAIT {
        sync::monotonic_ns().saturating_add(ns)
    } else {
        time::monotonic_deadline(clock, ns)
    }))
}

/// A count argument: an `int`, negative meaning "none" here as nowhere useful.
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
    let scope = Scope::of(op);
    let key = |w: UserPtr<u32>| key_of(ctx.task(), w.address(), scope);
    let val2 = count(timeout as u32);
    match op & FUTEX_CMD_MASK as u32 {
        FUTEX_WAIT => wait(ctx, word, val, key(word)?, FUTEX_BITSET_MATCH_ANY, deadline(op, UserPtr::new(timeout))?),
        FUTEX_WAIT_BITSET => wait(ctx, word, val, key(word)?, val3, deadline(op, UserPtr::new(timeout))?),
        FUTEX_WAKE => Ok(wake(key(word)?, count(val), FUTEX_BITSET_MATCH_ANY)),
        FUTEX_WAKE_BITSET if val3 == 0 => Err(Errno::EINVAL),
        FUTEX_WAKE_BITSET => Ok(wake(key(word)?, count(val), val3)),
        FUTEX_REQUEUE => requeue(word, key(word)?, key(word2)?, count(val), val2, None).map(|(woken, _)| woken),
        FUTEX_CMP_REQUEUE => {
            requeue(word, key(word)?, key(word2)?, count(val), val2, Some(val3)).map(|(woken, moved)| woken + moved)
        }
        FUTEX_WAKE_OP => wake_op(key(word)?, key(word2)?, word2, [count(val), val2], val3),
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
    let enqueued = enqueue_all(ctx, &list);
    let result = enqueued.1.map_or(Ok(()), Err).and_then(|()| {
        park_until(ctx.task(), deadline, || enqueued.0.iter().any(|w| w.is_woken()))
    });
    let withdrawn: alloc::vec::Vec<bool> = enqueued.0.iter().map(Waiter::withdraw).collect();
    match withdrawn.iter().position(|&still_there| !still_there) {
        Some(index) => Ok(index),
        None => Err(result.err().unwrap_or(Errno::EAGAIN)),
    }
}

/// Enqueues a waiter for each word, up to the first that fails.
fn enqueue_all(ctx: &Ctx<'_>, list: &[FutexWaitv]) -> (alloc::vec::Vec<Arc<Waiter>>, Option<Errno>) {
    let mut waiters = alloc::vec::Vec::with_capacity(list.len());
    for item in list {
        match enqueue_one(ctx, item) {
            Ok(waiter) => waiters.push(waiter),
            Err(error) => return (waiters, Some(error)),
        }
    }
    (waiters, None)
}

fn enqueue_one(ctx: &Ctx<'_>, item: &FutexWaitv) -> Result<Arc<Waiter>, Errno> {
    if item.flags & !(FUTEX2_PRIVATE) != FUTEX2_SIZE_U32 || item.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let scope = if item.flags & FUTEX2_PRIVATE != 0 { Scope::Private } else { Scope::Shared };
    let key = key_of(ctx.task(), item.uaddr, scope)?;
    let waiter = Waiter::new();
    waiter.bucket.store(key.bucket(), Ordering::Relaxed);
    let mut bucket = TABLE[key.bucket()].lock();
    if UserPtr::<u32>::new(item.uaddr).load()? != item.val as u32 {
        return Err(Errno::EAGAIN);
    }
    bucket.push_back(Entry { key, bitset: FUTEX_BITSET_MATCH_ANY, waiter: waiter.clone() });
    Ok(waiter)
}
