//! System V message queues.

use alloc::string::String;
use core::fmt::Write;

use ipc::message::{DEFAULT_BYTES, MAX_MESSAGE, MAX_QUEUES, Message, Queue};
use ipc::{Permissions, Registry};
use linux_abi::Errno;
use sync::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, RawPermissions, caller, now_s};
use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

static QUEUES: Mutex<Registry<Queue>> = Mutex::new(Registry::new());

/// `struct msqid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
struct Status {
    permissions: RawPermissions,
    sent_s: i64,
    received_s: i64,
    changed_s: i64,
    bytes: u64,
    count: u64,
    max_bytes: u64,
    sender: u32,
    receiver: u32,
    unused: [u64; 2],
}

/// `struct msginfo`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Limits {
    pool: i32,
    map: i32,
    max: i32,
    max_bytes: i32,
    queues: i32,
    segment_size: i32,
    headers: i32,
    segments: u16,
    pad: u16,
}

/// `msgget`.
///
/// # Errors
/// Those of `msgget(2)`.
pub fn msgget(ctx: &Ctx<'_>, key: i32, flags: u32) -> SysResult {
    let caller = caller(ctx);
    let make = || Ok(Queue::new(Permissions::new(key, flags, &caller), now_s()));
    let id = QUEUES.lock().get((key, flags), MAX_QUEUES, |queue| queue.check_get(flags, &caller), make)?;
    Ok(id as usize)
}

/// `msgsnd`.
///
/// # Errors
/// Those of `msgsnd(2)`.
pub fn msgsnd(ctx: &Ctx<'_>, id: i32, message: UserPtr<i64>, len: usize, flags: u32) -> SysResult {
    if len > MAX_MESSAGE || id < 0 {
        return Err(Errno::EINVAL);
    }
    let kind = message.read()?;
    let text = message.add(1).cast::<u8>().read_vec(len)?;
    let queue = QUEUES.lock().by_id(id)?;
    queue.send(Message { kind, text }, flags, &caller(ctx), now_s).map(|()| 0)
}

/// `msgrcv`.
///
/// # Errors
/// Those of `msgrcv(2)`.
pub fn msgrcv(ctx: &Ctx<'_>, id: i32, message: UserPtr<i64>, room: usize, kind: i64, flags: u32) -> SysResult {
    if room > isize::MAX as usize || id < 0 {
        return Err(Errno::EINVAL);
    }
    let queue = QUEUES.lock().by_id(id)?;
    let received = queue.receive(room, kind, flags, &caller(ctx), now_s)?;
    message.write(&received.kind)?;
    message.add(1).cast::<u8>().write_slice(&received.text)?;
    Ok(received.text.len())
}

/// `msgctl`.
///
/// # Errors
/// Those of `msgctl(2)`.
pub fn msgctl(ctx: &Ctx<'_>, id: i32, command: i32, buffer: u64) -> SysResult {
    match command {
        IPC_INFO | MSG_INFO => return limits(command, UserPtr::new(buffer)),
        MSG_STAT | MSG_STAT_ANY => {
            let id = QUEUES.lock().id_at(id)?;
            stat(ctx, id, command != MSG_STAT_ANY, UserPtr::new(buffer))?;
            return Ok(id as usize);
        }
        IPC_STAT => return stat(ctx, id, true, UserPtr::new(buffer)).map(|()| 0),
        _ => {}
    }
    let (caller, queue) = (caller(ctx), QUEUES.lock().by_id(id)?);
    match command {
        IPC_SET => {
            let wanted: Status = UserPtr::new(buffer).read()?;
            queue.set(&caller, wanted.permissions.changes(), wanted.max_bytes as usize, now_s()).map(|()| 0)
        }
        IPC_RMID => {
            queue.remove(&caller)?;
            QUEUES.lock().remove(id);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn stat(ctx: &Ctx<'_>, id: i32, checked: bool, out: UserPtr<Status>) -> Result<(), Errno> {
    let queue = QUEUES.lock().by_id(id)?;
    let caller = caller(ctx);
    let s = queue.status(checked.then_some(&caller))?;
    out.write(&Status {
        permissions: RawPermissions::new(s.permissions, id),
        sent_s: s.sent_s,
        received_s: s.received_s,
        changed_s: s.changed_s,
        bytes: s.bytes as u64,
        count: s.count as u64,
        max_bytes: s.max_bytes as u64,
        sender: s.sender,
        receiver: s.receiver,
        unused: [0; 2],
    })
}

/// The limits, or with `MSG_INFO` what is in use; the highest index in use is returned.
fn limits(command: i32, out: UserPtr<Limits>) -> SysResult {
    let (queues, highest) = {
        let registry = QUEUES.lock();
        (registry.all(), registry.highest())
    };
    let (pool, map, headers) = if command == MSG_INFO {
        let all = || queues.iter().filter_map(|(_, queue)| queue.status(None).ok());
        (queues.len(), all().map(|s| s.count).sum(), all().map(|s| s.bytes).sum())
    } else {
        (MAX_QUEUES * DEFAULT_BYTES / 1024, DEFAULT_BYTES, DEFAULT_BYTES)
    };
    out.write(&Limits {
        pool: pool as i32,
        map: map as i32,
        max: MAX_MESSAGE as i32,
        max_bytes: DEFAULT_BYTES as i32,
        queues: MAX_QUEUES as i32,
        segment_size: 16,
        headers: headers as i32,
        segments: 0xffff,
        pad: 0,
    })?;
    Ok(highest)
}

/// `/proc/sysvipc/msg`.
pub(crate) fn message_table() -> String {
    let mut out = String::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
    );
    let queues = QUEUES.lock().all();
    for (id, queue) in queues {
        let Ok(s) = queue.status(None) else { continue };
        let p = s.permissions;
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "{:10} {id:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
            p.key, p.mode, s.bytes, s.count, s.sender, s.receiver, p.uid, p.gid, p.creator_uid, p.creator_gid, s.sent_s,
            s.received_s, s.changed_s,
        );
    }
    out
}
