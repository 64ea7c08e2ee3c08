//! Words that have an owner: the futex operations behind mutexes with priority inheritance.
//!
//! The word holds its owner's thread number, `FUTEX_WAITERS` when somebody waits in the kernel, and `FUTEX_OWNER_DIED`. Without
//! contention the program changes it alone (0 to its number and back).
//!
//! # Theory
//! Waiters are in [`TABLE`] under the word's key in the role [`Role::Owner`], with their thread numbers as bits. All changes of a word
//! that has waiters happen with its bucket locked, so *the word names an owner, or one who waited is on its way to take it, or nobody
//! waits*.
//!
//! - *lock*: a word without owner is taken. Otherwise set `FUTEX_WAITERS`, note the key with the owner's task, link, sleep.
//! - *unlock*: chooses the most urgent waiter (first come among equals). If it is more urgent than the owner, a real-time thread, or
//!   has lost too often, the word is *handed over*: its number is written. Otherwise the word is *released* and the waiter woken to take
//!   it, while others may be faster; who is too late waits again. Handing over always would make every contended pass a switch to
//!   another thread, often on another CPU, though the one that runs could go on.
//!   `FUTEX_WAITERS` stays only while somebody waits, so the last one unlocks without the kernel.
//! - *end of the owner*: each key noted with it wakes one waiter, the *heir*, which takes the word itself, with `FUTEX_OWNER_DIED`: it
//!   knows the word's address in its own memory. From the moment a task is `gone` it takes no notes; whoever comes then finds no owner.
//!   The robust list is walked before that, so words on it are marked already.
//!
//! Priority inheritance: a waiter lends its scheduling policy to the owner, if it is the more urgent one, and along the chain to those
//! that the owner waits for. The owner has its own back when it unlocks, or what those who still wait for it lend it.
//!
//! Deadlock: a waiter first says at which word it waits, then follows the chain from owner to word; of two that close a cycle at least
//! one sees the other. Owners in other address spaces end the search.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use kernel::thread::Policy;
use linux_abi::Errno;
use linux_abi::raw::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use sync::{Mutex, Woken};

use super::{Key, Role, Scope, TABLE, expect, key_of, park_until};
use crate::ctx::{Ctx, SysResult};
use crate::process::{Task, find_task};
use crate::user_ptr::UserPtr;

/// So often others may be faster than one who was woken.
const MAX_LOSSES: u32 = 8;
/// Longest chain of owners that is followed.
const LONGEST_CHAIN: usize = 1024;

type Word = UserPtr<u32>;

/// What a task has to do with words that have an owner.
#[derive(Default)]
pub(crate) struct Owned {
    contended: Mutex<Contended>,
    /// Address of the word that it waits to own; 0 for none.
    waits_at: AtomicU64,
    /// How often others were faster since it waits for this word.
    losses: AtomicU32,
}

#[derive(Default)]
struct Contended {
    /// Words that it owns and others wait for.
    keys: Vec<Key>,
    /// It has ended.
    gone: bool,
    /// Its own policy, while another is lent to it.
    own_policy: Option<Policy>,
}

impl Owned {
    /// Notes that somebody waits for a word of this task. False: the task has ended.
    #[must_use]
    fn note(&self, key: Key) -> bool {
        let mut contended = self.contended.lock();
        if !contended.gone && !contended.keys.contains(&key) {
            contended.keys.push(key);
        }
        !contended.gone
    }

    /// The task no longer owns the word.
    fn forget(&self, key: Key) {
        self.contended.lock().keys.retain(|noted| *noted != key);
    }
}

/// Why an attempt to own a word does not wait.
enum Refusal {
    /// It succeeded.
    Owned,
    Failed(Errno),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

/// Whether the caller waited for the word when its owner ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Newcomer,
    Heir,
}

fn owner_of(value: u32) -> u32 {
    value & FUTEX_TID_MASK
}

/// Changes the word from `value`; the value found if that is another.
fn change(word: Word, value: u32, new: u32) -> Result<Result<(), u32>, Errno> {
    let found = word.compare_exchange(value, new)?;
    Ok(if found == value { Ok(()) } else { Err(found) })
}

/// Takes the word, or prepares to wait for its owner. Context: bucket locked.
fn claim(task: &Task, word: Word, key: Key, standing: Standing) -> Result<(), Refusal> {
    let mut value = word.load()?;
    loop {
        let owner = owner_of(value);
        if owner == task.tid() {
            return Err(Errno::EDEADLOCK.into());
        }
        let living = if owner == 0 { None } else { find_task(owner).filter(|owner| owner.owned.note(key)) };
        let new = match (&living, owner, standing) {
            (Some(_), ..) => value | FUTEX_WAITERS,
            (None, 0, _) => value & (FUTEX_WAITERS | FUTEX_OWNER_DIED) | task.tid(),
            (None, _, Standing::Heir) => value & FUTEX_WAITERS | FUTEX_OWNER_DIED | task.tid(),
            (None, _, Standing::Newcomer) => return Err(Errno::ESRCH.into()),
        };
        match change(word, value, new)? {
            Ok(()) => return claimed(task, key, new, living.as_deref()),
            Err(found) => value = found,
        }
    }
}

/// The word was changed to `new`: either `task` owns it, or it waits for `owner`.
fn claimed(task: &Task, key: Key, new: u32, owner: Option<&Task>) -> Result<(), Refusal> {
    match owner {
        Some(owner) => {
            lend(task, owner);
            Ok(())
        }
        None => {
            if new & FUTEX_WAITERS != 0 {
                // Cannot fail: the caller lives.
                let _living = task.owned.note(key);
            }
            Err(Refusal::Owned)
        }
    }
}

/// FUTEX_LOCK_PI.
pub(super) fn lock(ctx: &Ctx<'_>, word: Word, scope: Scope, deadline: Option<u64>) -> SysResult {
    let key = key_of(word.address(), scope)?.with_role(Role::Owner);
    own(ctx.task(), word, key, deadline, Standing::Newcomer)
}

fn own(task: &Task, word: Word, key: Key, deadline: Option<u64>, mut standing: Standing) -> SysResult {
    let mut losses = 0;
    loop {
        task.owned.losses.store(losses, Ordering::Relaxed);
        let claim = || claim(task, word, key, standing);
        match TABLE.wait(key, task.tid(), claim, |woken| sleep(task, word, deadline, woken).map_err(Refusal::Failed)) {
            Err(Refusal::Owned) => return Ok(0),
            Err(Refusal::Failed(Errno::ERESTARTSYS)) => return Err(Errno::ERESTARTNOINTR),
            Err(Refusal::Failed(error)) => return Err(error),
            Ok(()) if owner_of(word.load()?) == task.tid() => return Ok(0),
            Ok(()) => standing = Standing::Heir,
        }
        losses += 1;
    }
}

fn sleep(task: &Task, word: Word, deadline: Option<u64>, woken: &Woken<'_, Key>) -> Result<(), Errno> {
    task.owned.waits_at.store(word.address(), Ordering::Relaxed);
    // Pairs with the same fence of whoever closes the cycle from the other side.
    fence(Ordering::SeqCst);
    let result = if closes_cycle(task, word) { Err(Errno::EDEADLOCK) } else { park_until(deadline, woken) };
    task.owned.waits_at.store(0, Ordering::Relaxed);
    result
}

/// Calls `visit` on the owner of the word, on the owner of the word that this one waits for, and so on, while it says to go on.
fn follow_chain(task: &Task, word: Word, mut visit: impl FnMut(&Arc<Task>) -> bool) {
    let mut at = word;
    for _ in 0..LONGEST_CHAIN {
        let Some(owner) = at.load().ok().and_then(|value| find_task(owner_of(value))) else { return };
        if !visit(&owner) || owner.process().pid() != task.process().pid() {
            return;
        }
        match owner.owned.waits_at.load(Ordering::Relaxed) {
            0 => return,
            next => at = Word::new(next),
        }
    }
}

fn closes_cycle(task: &Task, word: Word) -> bool {
    let (mut length, mut found) = (0, false);
    follow_chain(task, word, |owner| {
        length += 1;
        // The first owner may be the caller: the word was handed to it meanwhile.
        found = owner.tid() == task.tid() && length > 1;
        owner.tid() != task.tid()
    });
    found
}

/// How urgent a policy is: more is more urgent.
fn urgency(policy: Policy) -> i32 {
    match policy {
        Policy::Fifo(priority) | Policy::RoundRobin(priority) => 100 + i32::from(priority),
        Policy::Normal(nice) | Policy::Batch(nice) => 50 - i32::from(nice),
        Policy::Idle(_) => 0,
    }
}

fn policy_of(task: &Task) -> Option<Policy> {
    task.thread().map(|thread| thread.policy())
}

/// Lends the policy of `task` to the owner that it is about to wait for, and to those that the owner waits for.
fn lend(task: &Task, owner: &Task) {
    let Some(policy) = policy_of(task) else { return };
    lend_policy(policy, owner);
    let waits_at = owner.owned.waits_at.load(Ordering::Relaxed);
    if waits_at != 0 && owner.process().pid() == task.process().pid() {
        follow_chain(task, Word::new(waits_at), |next| lend_policy(policy, next));
    }
}

/// Returns whether the policy was more urgent than the owner's.
fn lend_policy(policy: Policy, owner: &Task) -> bool {
    let Some(thread) = owner.thread() else { return false };
    let mut contended = owner.owned.contended.lock();
    let present = thread.policy();
    let more = urgency(policy) > urgency(present);
    if more {
        contended.own_policy.get_or_insert(present);
        thread.set_policy(policy);
    }
    more
}

/// Gives a task that has unlocked a word its own policy back, but for what the waiters of its other words lend it.
fn give_back(task: &Task) {
    let mut contended = task.owned.contended.lock();
    let Some(own) = contended.own_policy.take() else { return };
    let keys = contended.keys.clone();
    drop(contended);
    if let Some(thread) = task.thread() {
        thread.set_policy(own);
    }
    for key in keys {
        let mut waiting = Vec::new();
        let _none = TABLE.wake_chosen(key, |waiters| {
            waiting.extend(waiters);
            Ok::<_, Errno>(None)
        });
        waiting.into_iter().filter_map(find_task).for_each(|waiter| {
            if let Some(policy) = policy_of(&waiter) {
                lend_policy(policy, task);
            }
        });
    }
}

/// FUTEX_TRYLOCK_PI.
pub(super) fn try_lock(ctx: &Ctx<'_>, word: Word, scope: Scope) -> SysResult {
    let (task, key) = (ctx.task(), key_of(word.address(), scope)?.with_role(Role::Owner));
    let mut value = word.load()?;
    loop {
        match owner_of(value) {
            0 => {}
            owner if owner == task.tid() => return Err(Errno::EDEADLOCK),
            owner => return Err(if find_task(owner).is_some() { Errno::EAGAIN } else { Errno::ESRCH }),
        }
        let new = value & (FUTEX_WAITERS | FUTEX_OWNER_DIED) | task.tid();
        match change(word, value, new)? {
            Ok(()) => {
                if new & FUTEX_WAITERS != 0 {
                    let _living = task.owned.note(key);
                }
                return Ok(0);
            }
            Err(found) => value = found,
        }
    }
}

/// FUTEX_UNLOCK_PI.
pub(super) fn unlock(ctx: &Ctx<'_>, word: Word, scope: Scope) -> SysResult {
    let (task, key) = (ctx.task(), key_of(word.address(), scope)?.with_role(Role::Owner));
    if owner_of(word.load()?) != task.tid() {
        return Err(Errno::EPERM);
    }
    task.owned.forget(key);
    TABLE.wake_chosen(key, |waiters| hand_over(task, word, key, waiters))?;
    give_back(task);
    Ok(0)
}

/// Writes the next owner into the word, or none; returns the position of the one to wake among those who wait. Context: bucket locked.
fn hand_over(task: &Task, word: Word, key: Key, waiters: &mut dyn Iterator<Item = u32>) -> Result<Option<usize>, Errno> {
    let waiting: Vec<u32> = waiters.collect();
    let next = most_urgent(&waiting);
    let owner = next.map(|(_, tid)| tid).filter(|&tid| must_have(tid, task));
    let others = if waiting.len() > 1 { FUTEX_WAITERS } else { 0 };
    let new = owner.unwrap_or(0) | others;
    let mut value = word.load()?;
    loop {
        if owner_of(value) != task.tid() {
            return Err(Errno::EPERM);
        }
        match change(word, value, new)? {
            Ok(()) => break,
            Err(found) => value = found,
        }
    }
    if let Some(tid) = owner {
        pass_waiters(tid, key, &waiting);
    }
    Ok(next.map(|(position, _)| position))
}

/// The most urgent of some threads, the first among equals, with its position.
fn most_urgent(waiting: &[u32]) -> Option<(usize, u32)> {
    if waiting.len() < 2 {
        return waiting.first().map(|&tid| (0, tid));
    }
    let urgency_of = |tid: u32| find_task(tid).and_then(|task| policy_of(&task)).map_or(0, urgency);
    let positions = waiting.iter().copied().enumerate();
    positions.min_by_key(|&(_, tid)| -urgency_of(tid))
}

/// Whether the word that `task` unlocks is handed to the waiter `tid`, rather than left to whoever is faster.
fn must_have(tid: u32, task: &Task) -> bool {
    let Some(waiter) = find_task(tid) else { return true };
    let (Some(wants), Some(has)) = (policy_of(&waiter), policy_of(task)) else { return true };
    let real_time = matches!(wants, Policy::Fifo(_) | Policy::RoundRobin(_));
    real_time || urgency(wants) > urgency(has) || waiter.owned.losses.load(Ordering::Relaxed) >= MAX_LOSSES
}

/// The new owner of a word is noted as the one whom the others wait for.
fn pass_waiters(owner: u32, key: Key, waiting: &[u32]) {
    let Some(task) = find_task(owner).filter(|_| waiting.len() > 1) else { return };
    // It cannot have ended: it waits until it is told.
    let _living = task.owned.note(key);
    for waiter in waiting.iter().filter(|&&tid| tid != owner).filter_map(|&tid| find_task(tid)) {
        if let Some(policy) = policy_of(&waiter) {
            lend_policy(policy, &task);
        }
    }
}

/// FUTEX_WAIT_REQUEUE_PI: waits at `word` to be moved to `target`, and then to own that.
pub(super) fn wait_requeue(
    ctx: &Ctx<'_>,
    word: Word,
    scope: Scope,
    expected: u32,
    deadline: Option<u64>,
    target: Word,
) -> SysResult {
    if word.address() == target.address() {
        return Err(Errno::EINVAL);
    }
    let (task, key) = (ctx.task(), key_of(word.address(), scope)?.with_role(Role::Condition));
    let target_key = key_of(target.address(), scope)?.with_role(Role::Owner);
    match TABLE.wait(key, task.tid(), || expect(word, expected), |woken| park_until(deadline, woken)) {
        Ok(()) if owner_of(target.load()?) == task.tid() => Ok(0),
        // The owner of the target has ended.
        Ok(()) => own(task, target, target_key, deadline, Standing::Heir),
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOINTR),
        Err(error) => Err(error),
    }
}

/// FUTEX_CMP_REQUEUE_PI: one waiter at `word` gets `target` if that has no owner; up to `limit` others wait for it from now on.
pub(super) fn requeue(word: Word, scope: Scope, wake: u32, limit: usize, target: Word, expected: u32) -> SysResult {
    if wake != 1 || word.address() == target.address() {
        return Err(Errno::EINVAL);
    }
    let from = key_of(word.address(), scope)?.with_role(Role::Condition);
    let to = key_of(target.address(), scope)?.with_role(Role::Owner);
    // One more than `limit` may be moved when nobody is woken.
    let (woken, moved) = TABLE.requeue(from, to, limit.saturating_add(1), |waiters| {
        expect(word, expected)?;
        let waiting: Vec<u32> = waiters.take(limit.saturating_add(1)).collect();
        if waiting.is_empty() { Ok(0) } else { take_for(&waiting, target, to) }
    })?;
    Ok(woken + moved)
}

/// Takes `target` for the first of those who wait, or makes them all wait for its owner; returns how many are to be woken. Context:
/// both buckets locked.
fn take_for(waiting: &[u32], target: Word, key: Key) -> Result<usize, Errno> {
    let mut value = target.load()?;
    loop {
        let owner = owner_of(value);
        if waiting.contains(&owner) {
            return Err(Errno::EDEADLOCK);
        }
        let others = if waiting.len() > 1 { FUTEX_WAITERS } else { 0 };
        let new = match owner {
            0 => value & (FUTEX_WAITERS | FUTEX_OWNER_DIED) | others | waiting[0],
            _ => value | FUTEX_WAITERS,
        };
        if owner != 0 && !find_task(owner).is_some_and(|owner| owner.owned.note(key)) {
            return Err(Errno::ESRCH);
        }
        match change(target, value, new)? {
            Ok(()) if owner == 0 => {
                pass_waiters(waiting[0], key, waiting);
                return Ok(1);
            }
            Ok(()) => return Ok(0),
            Err(found) => value = found,
        }
    }
}

/// The task ends: of those who wait for each word that it owns, one goes on as its heir.
pub(crate) fn abandon_all(task: &Task) {
    let keys = {
        let mut contended = task.owned.contended.lock();
        contended.gone = true;
        core::mem::take(&mut contended.keys)
    };
    for key in keys {
        let heir = TABLE.wake_chosen(key, |waiters| Ok::<_, Errno>(waiters.next().map(|_| 0)));
        debug_assert!(heir.is_ok());
    }
}
