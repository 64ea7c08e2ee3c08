//! System V semaphores.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ipc::semaphore::{MAX_IN_SET, MAX_OPERATIONS, MAX_SEMAPHORES, MAX_SETS, MAX_VALUE, Operation, SEM_UNDO, Set};
use ipc::{Permissions, Registry};
use linux_abi::Errno;
use linux_abi::time::Timespec;
use sync::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, RawPermissions, caller, now_s};
use crate::ctx::{Ctx, SysResult};
use crate::held::Common;
use crate::user_ptr::UserPtr;

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

static SETS: Mutex<Registry<Set>> = Mutex::new(Registry::new());

/// `struct semid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
struct Status {
    permissions: RawPermissions,
    operated_s: i64,
    unused1: u64,
    changed_s: i64,
    unused2: u64,
    count: u64,
    unused3: [u64; 2],
}

/// `semget`.
///
/// # Errors
/// Those of `semget(2)`.
pub fn semget(ctx: &Ctx<'_>, key: i32, count: i32, flags: u32) -> SysResult {
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_IN_SET).ok_or(Errno::EINVAL)?;
    let caller = caller(ctx);
    let make = || {
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Set::new(Permissions::new(key, flags, &caller), count, now_s()))
    };
    let id = SETS.lock().get((key, flags), MAX_SETS, |set| set.check_get(count, flags, &caller), make)?;
    Ok(id as usize)
}

/// `semop`.
///
/// # Errors
/// Those of `semop(2)`.
pub fn semop(ctx: &Ctx<'_>, id: i32, operations: UserPtr<[i16; 3]>, count: usize) -> SysResult {
    semtimedop(ctx, id, operations, count, UserPtr::new(0))
}

/// `semtimedop`.
///
/// # Errors
/// Those of `semop(2)`.
pub fn semtimedop(
    ctx: &Ctx<'_>,
    id: i32,
    operations: UserPtr<[i16; 3]>,
    count: usize,
    timeout: UserPtr<Timespec>,
) -> SysResult {
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count > MAX_OPERATIONS {
        return Err(Errno::E2BIG);
    }
    let operation = |[number, change, flags]: [i16; 3]| Operation {
        number: number as u16,
        change,
        flags: u32::from(flags as u16),
    };
    let operations: Vec<_> = operations.read_vec(count)?.into_iter().map(operation).collect();
    let deadline = match timeout.non_null() {
        None => None,
        Some(timeout) => Some(sync::monotonic_ns().saturating_add(timeout.read()?.to_ns().ok_or(Errno::EINVAL)?)),
    };
    let set = SETS.lock().by_id(id)?;
    let undo = ctx.task().undo.get().ok_or(Errno::EINVAL)?;
    if operations.iter().any(|operation| operation.flags & SEM_UNDO != 0) {
        undo.used.store(true, Ordering::Relaxed);
    }
    set.operate(&operations, &caller(ctx), undo.number, deadline, now_s).map(|()| 0)
}

/// `semctl`.
///
/// # Errors
/// Those of `semctl(2)`.
pub fn semctl(ctx: &Ctx<'_>, id: i32, number: i32, command: i32, argument: u64) -> SysResult {
    match command {
        IPC_INFO | SEM_INFO => return limits(command, UserPtr::new(argument)),
        SEM_STAT | SEM_STAT_ANY => {
            let id = SETS.lock().id_at(id)?;
            stat(ctx, id, command != SEM_STAT_ANY, UserPtr::new(argument))?;
            return Ok(id as usize);
        }
        IPC_STAT => return stat(ctx, id, true, UserPtr::new(argument)).map(|()| 0),
        _ => {}
    }
    let (caller, set) = (caller(ctx), SETS.lock().by_id(id)?);
    let number = || usize::try_from(number).map_err(|_| Errno::EINVAL);
    match command {
        IPC_SET => {
            let wanted: Status = UserPtr::new(argument).read()?;
            set.set_permissions(&caller, wanted.permissions.changes(), now_s()).map(|()| 0)
        }
        IPC_RMID => {
            set.remove(&caller)?;
            SETS.lock().remove(id);
            Ok(0)
        }
        GETVAL => set.value(&caller, number()?).map(|value| value as usize),
        GETPID => set.last_pid(&caller, number()?).map(|pid| pid as usize),
        GETNCNT => set.waiting_for_increase(&caller, number()?),
        GETZCNT => set.waiting_for_zero(&caller, number()?),
        GETALL => UserPtr::<u16>::new(argument).write_slice(&set.values(&caller)?).map(|()| 0),
        SETVAL => set.set_values(&caller, number()?, &[argument as i32], now_s()).map(|()| 0),
        SETALL => {
            let values = UserPtr::<u16>::new(argument).read_vec(set.status(None)?.count)?;
            let values: Vec<i32> = values.into_iter().map(i32::from).collect();
            set.set_values(&caller, 0, &values, now_s()).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn stat(ctx: &Ctx<'_>, id: i32, checked: bool, out: UserPtr<Status>) -> Result<(), Errno> {
    let set = SETS.lock().by_id(id)?;
    let caller = caller(ctx);
    let status = set.status(checked.then_some(&caller))?;
    out.write(&Status {
        permissions: RawPermissions::new(status.permissions, id),
        operated_s: status.operated_s,
        changed_s: status.changed_s,
        count: status.count as u64,
        ..Status::default()
    })
}

fn semaphores(sets: &[(i32, Arc<Set>)]) -> usize {
    sets.iter().filter_map(|(_, set)| set.status(None).ok()).map(|status| status.count).sum()
}

/// `struct seminfo`; the highest index in use is returned.
fn limits(command: i32, out: UserPtr<[i32; 10]>) -> SysResult {
    let (sets, highest) = {
        let registry = SETS.lock();
        (registry.all(), registry.highest())
    };
    let (used, extra) =
        if command == SEM_INFO { (sets.len() as i32, semaphores(&sets) as i32) } else { (20, MAX_VALUE) };
    let operations = MAX_OPERATIONS as i32;
    let (most, per_set) = (MAX_SETS as i32, MAX_IN_SET as i32);
    out.write(&[MAX_SEMAPHORES, most, MAX_SEMAPHORES, MAX_SEMAPHORES, per_set, operations, operations, used, MAX_VALUE, extra])?;
    Ok(highest)
}

/// What is undone when the last of the threads ends that have it in common (`CLONE_SYSVSEM`), or leaves it.
pub(crate) struct UndoList {
    number: u64,
    holders: AtomicUsize,
    used: AtomicBool,
}

impl UndoList {
    /// Nothing to undo, for one thread.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), holders: AtomicUsize::new(1), used: AtomicBool::new(false) }
    }

    /// Whether something was ever put on it, or another thread was given it.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl Common for UndoList {
    fn join(&self) {
        self.used.store(true, Ordering::Relaxed);
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn is_common(&self) -> bool {
        self.holders.load(Ordering::Acquire) > 1
    }
}

/// Nobody has `list` any more; a thread of process `pid` had it last. What operations with `SEM_UNDO` did is undone.
pub(crate) fn undo_semaphores(pid: u32, list: &UndoList) {
    if !list.is_used() {
        return;
    }
    let sets = {
        let registry = SETS.lock();
        if registry.is_empty() {
            return;
        }
        registry.all()
    };
    sets.iter().for_each(|(_, set)| set.undo(list.number, pid, now_s()));
}

/// `/proc/sysvipc/sem`.
pub(crate) fn semaphore_table() -> String {
    let mut out =
        String::from("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
    let sets = SETS.lock().all();
    for (id, set) in sets {
        let Ok(s) = set.status(None) else { continue };
        let p = s.permissions;
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "{:10} {id:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
            p.key, p.mode, s.count, p.uid, p.gid, p.creator_uid, p.creator_gid, s.operated_s, s.changed_s,
        );
    }
    out
}
