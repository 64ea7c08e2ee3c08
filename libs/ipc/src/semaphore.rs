//! Semaphore sets of System V (`semop(2)`): several operations on a set's values, all at once or none.
//!
//! # Theory
//! One lock per set. A `semop` tries its operations on the values under the lock; if one would block, nothing is changed, the caller
//! notes for what it waits ([`State::waiting`], which `GETNCNT` counts) and sleeps on the set's queue. Every change wakes all who
//! sleep, and each tries again: a change can let any of them go, or several. `SEM_UNDO` keeps, by the number of a list that threads have
//! in common, what is to be added to each value when the last of them ends.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use linux_abi::Errno;
use sync::{Mutex, WaitQueue};

use crate::{Caller, Ends, IPC_NOWAIT, Permissions, READ, Result, WRITE, wait};

/// Largest value.
pub const MAX_VALUE: i32 = 32767;
/// Most semaphores of a set.
pub const MAX_IN_SET: usize = 32_000;
/// Most sets.
pub const MAX_SETS: usize = 32_000;
/// Most semaphores.
pub const MAX_SEMAPHORES: i32 = 1_024_000_000;
/// Most operations of one call.
pub const MAX_OPERATIONS: usize = 500;
/// `sem_flg`: take it back when the process ends.
pub const SEM_UNDO: u32 = 0x1000;

/// `struct sembuf`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Which semaphore.
    pub number: u16,
    /// What to add; 0 waits for zero.
    pub change: i16,
    /// [`IPC_NOWAIT`], [`SEM_UNDO`].
    pub flags: u32,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: u32,
}

/// What a blocked operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum For {
    Zero,
    Increase,
}

struct State {
    permissions: Permissions,
    semaphores: Vec<Semaphore>,
    /// By the number of a list: what is added to each value at its end.
    undo: BTreeMap<u64, Vec<i32>>,
    /// By ticket: who sleeps for what.
    waiting: BTreeMap<u64, (u16, For)>,
    tickets: u64,
    operated_s: i64,
    changed_s: i64,
    removed: bool,
}

/// What `IPC_STAT` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Whose it is.
    pub permissions: Permissions,
    /// When values were last changed by `semop`.
    pub operated_s: i64,
    /// When the set was made or changed by `semctl`.
    pub changed_s: i64,
    /// How many semaphores.
    pub count: usize,
}

/// A set of semaphores.
pub struct Set {
    state: Mutex<State>,
    changed: WaitQueue,
}

/// Why operations cannot be done now.
enum Blocked {
    Never(Errno),
    /// By this operation.
    On(Operation),
}

impl State {
    fn alive(&self) -> Result<()> {
        if self.removed { Err(Errno::EIDRM) } else { Ok(()) }
    }

    /// The values after `operations`, and what is on list `undo` then.
    fn attempt(&self, operations: &[Operation], undo: u64) -> core::result::Result<(Vec<i32>, Option<Vec<i32>>), Blocked> {
        let mut values: Vec<i32> = self.semaphores.iter().map(|semaphore| semaphore.value).collect();
        let mut undo = self.undo.get(&undo).cloned();
        for operation in operations {
            let (at, change) = (usize::from(operation.number), i32::from(operation.change));
            let value = values[at] + change;
            if change == 0 && values[at] != 0 || value < 0 {
                return Err(Blocked::On(*operation));
            }
            if value > MAX_VALUE {
                return Err(Blocked::Never(Errno::ERANGE));
            }
            values[at] = value;
            if operation.flags & SEM_UNDO != 0 {
                let undo = undo.get_or_insert_with(|| vec![0; values.len()]);
                undo[at] -= change;
                if !(-MAX_VALUE - 1..=MAX_VALUE).contains(&undo[at]) {
                    return Err(Blocked::Never(Errno::ERANGE));
                }
            }
        }
        Ok((values, undo))
    }

    fn commit(&mut self, operations: &[Operation], (pid, list): (u32, u64), (values, undo): (Vec<i32>, Option<Vec<i32>>), now_s: i64) {
        for (semaphore, value) in self.semaphores.iter_mut().zip(values) {
            semaphore.value = value;
        }
        for operation in operations {
            self.semaphores[usize::from(operation.number)].pid = pid;
        }
        if let Some(undo) = undo {
            self.undo.insert(list, undo);
        }
        self.operated_s = now_s;
    }
}

impl Set {
    /// A set of `count` semaphores of value zero.
    #[must_use]
    pub fn new(permissions: Permissions, count: usize, now_s: i64) -> Self {
        let state = State {
            permissions,
            semaphores: vec![Semaphore::default(); count],
            undo: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tickets: 0,
            operated_s: 0,
            changed_s: now_s,
            removed: false,
        };
        Self { state: Mutex::new(state), changed: WaitQueue::new() }
    }

    /// `semop` and `semtimedop`: waits until the monotonic `deadline_ns`, if there is one. `undo` is the caller's list, `now_s` gives the wall clock.
    ///
    /// # Errors
    /// Those of `semop(2)`.
    pub fn operate(
        &self,
        operations: &[Operation],
        caller: &Caller,
        undo: u64,
        deadline_ns: Option<u64>,
        now_s: fn() -> i64,
    ) -> Result<()> {
        let alters = operations.iter().any(|operation| operation.change != 0);
        {
            let state = self.state.lock();
            if operations.iter().any(|operation| usize::from(operation.number) >= state.semaphores.len()) {
                return Err(Errno::EFBIG);
            }
            state.permissions.check(caller, if alters { WRITE } else { READ })?;
        }
        let mut ticket = None;
        let ends = Ends { late: Errno::EAGAIN, interrupted: Errno::EINTR };
        let outcome = wait(&self.changed, deadline_ns, ends, || self.try_operate(operations, (caller.pid, undo), &mut ticket, now_s));
        if let Some(ticket) = ticket {
            self.state.lock().waiting.remove(&ticket);
        }
        if outcome.is_ok() && alters {
            self.changed.wake_all();
        }
        outcome
    }

    fn try_operate(
        &self,
        operations: &[Operation],
        (pid, undo): (u32, u64),
        ticket: &mut Option<u64>,
        now_s: fn() -> i64,
    ) -> Option<Result<()>> {
        let mut state = self.state.lock();
        if let Err(error) = state.alive() {
            return Some(Err(error));
        }
        match state.attempt(operations, undo) {
            Ok(outcome) => {
                state.commit(operations, (pid, undo), outcome, now_s());
                Some(Ok(()))
            }
            Err(Blocked::Never(error)) => Some(Err(error)),
            Err(Blocked::On(operation)) if operation.flags & IPC_NOWAIT != 0 => Some(Err(Errno::EAGAIN)),
            Err(Blocked::On(operation)) => {
                let waits_for = if operation.change == 0 { For::Zero } else { For::Increase };
                let ticket = *ticket.get_or_insert_with(|| {
                    state.tickets += 1;
                    state.tickets
                });
                state.waiting.insert(ticket, (operation.number, waits_for));
                None
            }
        }
    }

    /// What `IPC_STAT` tells, to whoever may read.
    ///
    /// # Errors
    /// `EACCES`, `EIDRM`.
    pub fn status(&self, reader: Option<&Caller>) -> Result<Status> {
        let state = self.state.lock();
        state.alive()?;
        if let Some(caller) = reader {
            state.permissions.check(caller, READ)?;
        }
        let count = state.semaphores.len();
        Ok(Status { permissions: state.permissions, operated_s: state.operated_s, changed_s: state.changed_s, count })
    }

    /// Fails unless an existing set serves a `semget` for `count` semaphores with the bits of `mode`.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn check_get(&self, count: usize, mode: u32, caller: &Caller) -> Result<()> {
        let state = self.state.lock();
        if count > state.semaphores.len() {
            return Err(Errno::EINVAL);
        }
        state.permissions.check(caller, mode >> 6 | mode >> 3 | mode)
    }

    /// `IPC_SET`.
    ///
    /// # Errors
    /// `EPERM`, `EIDRM`.
    pub fn set_permissions(&self, caller: &Caller, new: (u32, u32, u32), now_s: i64) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.permissions.change(caller, new)?;
        state.changed_s = now_s;
        Ok(())
    }

    /// `IPC_RMID`: all who wait get `EIDRM`.
    ///
    /// # Errors
    /// `EPERM`, `EIDRM`.
    pub fn remove(&self, caller: &Caller) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.permissions.check_owner(caller)?;
        state.removed = true;
        drop(state);
        self.changed.wake_all();
        Ok(())
    }

    fn read<T>(&self, caller: &Caller, number: usize, read: impl FnOnce(&State) -> T) -> Result<T> {
        let state = self.state.lock();
        state.alive()?;
        state.permissions.check(caller, READ)?;
        if number < state.semaphores.len() { Ok(read(&state)) } else { Err(Errno::EINVAL) }
    }

    /// `GETVAL`.
    ///
    /// # Errors
    /// `EACCES`, `EINVAL`, `EIDRM`.
    pub fn value(&self, caller: &Caller, number: usize) -> Result<i32> {
        self.read(caller, number, |state| state.semaphores[number].value)
    }

    /// `GETPID`: who changed it last.
    ///
    /// # Errors
    /// As [`Set::value`].
    pub fn last_pid(&self, caller: &Caller, number: usize) -> Result<u32> {
        self.read(caller, number, |state| state.semaphores[number].pid)
    }

    /// `GETNCNT`: how many wait for it to grow.
    ///
    /// # Errors
    /// As [`Set::value`].
    pub fn waiting_for_increase(&self, caller: &Caller, number: usize) -> Result<usize> {
        self.waiting(caller, number, For::Increase)
    }

    /// `GETZCNT`: how many wait for it to be zero.
    ///
    /// # Errors
    /// As [`Set::value`].
    pub fn waiting_for_zero(&self, caller: &Caller, number: usize) -> Result<usize> {
        self.waiting(caller, number, For::Zero)
    }

    fn waiting(&self, caller: &Caller, number: usize, what: For) -> Result<usize> {
        let wanted = (number as u16, what);
        self.read(caller, number, |state| state.waiting.values().filter(|waits| **waits == wanted).count())
    }

    /// `GETALL`.
    ///
    /// # Errors
    /// `EACCES`, `EIDRM`.
    pub fn values(&self, caller: &Caller) -> Result<Vec<u16>> {
        self.read(caller, 0, |state| state.semaphores.iter().map(|semaphore| semaphore.value as u16).collect())
    }

    /// `SETVAL`, or with all values `SETALL`; nothing is left to undo for what is set.
    ///
    /// # Errors
    /// `EACCES`, `EINVAL`, `EIDRM`, `ERANGE`.
    pub fn set_values(&self, caller: &Caller, first: usize, values: &[i32], now_s: i64) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        let range = first..first + values.len();
        if range.end > state.semaphores.len() {
            return Err(Errno::EINVAL);
        }
        if values.iter().any(|value| !(0..=MAX_VALUE).contains(value)) {
            return Err(Errno::ERANGE);
        }
        state.permissions.check(caller, WRITE)?;
        for (semaphore, value) in state.semaphores[range.clone()].iter_mut().zip(values) {
            *semaphore = Semaphore { value: *value, pid: caller.pid };
        }
        for undo in state.undo.values_mut() {
            undo[range.clone()].fill(0);
        }
        state.changed_s = now_s;
        drop(state);
        self.changed.wake_all();
        Ok(())
    }

    /// Nobody has the list `undo` any more, `pid` had it last: what is on it is done.
    pub fn undo(&self, undo: u64, pid: u32, now_s: i64) {
        let mut state = self.state.lock();
        let Some(undo) = state.undo.remove(&undo) else { return };
        for (semaphore, change) in state.semaphores.iter_mut().zip(undo).filter(|(_, change)| *change != 0) {
            semaphore.value = (semaphore.value + change).clamp(0, MAX_VALUE);
            semaphore.pid = pid;
        }
        state.operated_s = now_s;
        drop(state);
        self.changed.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn caller(pid: u32) -> Caller {
        Caller { pid, ..Caller::default() }
    }

    fn set(count: usize) -> Arc<Set> {
        Arc::new(Set::new(Permissions::new(1, 0o600, &caller(1)), count, 0))
    }

    fn op(number: u16, change: i16, flags: u32) -> Operation {
        Operation { number, change, flags: flags | IPC_NOWAIT }
    }

    fn now_s() -> i64 {
        7
    }

    fn run(set: &Set, pid: u32, operations: &[Operation]) -> Result<()> {
        set.operate(operations, &caller(pid), u64::from(pid) + 100, None, now_s)
    }

    #[test]
    fn operations_are_done_all_or_none() {
        let set = set(3);
        run(&set, 5, &[op(0, 2, 0), op(1, 1, 0)]).unwrap();
        assert_eq!(run(&set, 5, &[op(0, -1, 0), op(2, -1, 0)]), Err(Errno::EAGAIN));
        assert_eq!(set.values(&caller(1)), Ok(vec![2, 1, 0]));
        run(&set, 6, &[op(0, -2, 0), op(0, 0, 0), op(0, 5, 0)]).unwrap();
        assert_eq!((set.value(&caller(1), 0), set.last_pid(&caller(1), 0)), (Ok(5), Ok(6)));
        assert_eq!(run(&set, 5, &[op(0, 0, 0)]), Err(Errno::EAGAIN));
        assert_eq!(run(&set, 5, &[op(1, 32767, 0)]), Err(Errno::ERANGE));
        assert_eq!(run(&set, 5, &[op(3, 1, 0)]), Err(Errno::EFBIG));
    }

    #[test]
    fn what_a_process_did_is_undone_when_it_ends() {
        let set = set(2);
        set.set_values(&caller(1), 0, &[5, 5], 0).unwrap();
        run(&set, 9, &[op(0, -3, SEM_UNDO), op(1, 2, SEM_UNDO)]).unwrap();
        run(&set, 9, &[op(0, 1, SEM_UNDO)]).unwrap();
        run(&set, 8, &[op(1, -6, 0)]).unwrap();
        set.undo(109, 9, 0);
        assert_eq!(set.values(&caller(1)), Ok(vec![5, 0]), "never below zero");
        run(&set, 9, &[op(0, -3, SEM_UNDO)]).unwrap();
        set.set_values(&caller(1), 0, &[1], 0).unwrap();
        set.undo(109, 9, 0);
        assert_eq!(set.value(&caller(1), 0), Ok(1), "setting a value forgets what was to be undone");
    }

    #[test]
    fn waiters_are_counted_and_let_go() {
        let set = set(1);
        let other = set.clone();
        let waiter = std::thread::spawn(move || {
            let wait = Operation { number: 0, change: -2, flags: 0 };
            other.operate(&[wait], &caller(3), 103, None, now_s)
        });
        while set.waiting_for_increase(&caller(1), 0) != Ok(1) {
            std::thread::sleep(Duration::from_millis(1));
        }
        run(&set, 1, &[op(0, 1, 0)]).unwrap();
        run(&set, 1, &[op(0, 1, 0)]).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(()));
        assert_eq!((set.waiting_for_increase(&caller(1), 0), set.waiting_for_zero(&caller(1), 0)), (Ok(0), Ok(0)));
    }

    #[test]
    fn a_removed_set_lets_waiters_go_with_an_error_and_time_does_too() {
        let set = set(1);
        let wait = Operation { number: 0, change: -1, flags: 0 };
        let soon = sync::monotonic_ns() + 3_000_000;
        assert_eq!(set.operate(&[wait], &caller(3), 103, Some(soon), now_s), Err(Errno::EAGAIN));
        let other = set.clone();
        let waiter = std::thread::spawn(move || other.operate(&[wait], &caller(3), 103, None, now_s));
        std::thread::sleep(Duration::from_millis(10));
        set.remove(&caller(1)).unwrap();
        assert_eq!(waiter.join().unwrap(), Err(Errno::EIDRM));
        assert_eq!(set.value(&caller(1), 0), Err(Errno::EIDRM));
    }
}
