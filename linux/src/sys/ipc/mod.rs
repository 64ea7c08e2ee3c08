//! System V semaphores, message queues and shared memory, POSIX message queues. What they do is in the `ipc` crate, but for shared memory; these functions turn
//! registers into its terms.
//!
//! | file | calls |
//! |---|---|
//! | `semaphore.rs` | semget, semop, semtimedop, semctl |
//! | `message.rs` | msgget, msgsnd, msgrcv, msgctl |
//! | `shm.rs` | shmget, shmat, shmdt, shmctl |
//! | `mqueue.rs` | mq_open, mq_unlink, mq_timedsend, mq_timedreceive, mq_notify, mq_getsetattr; /dev/mqueue |

mod message;
mod mqueue;
mod semaphore;
pub(crate) mod shm;

pub use message::*;
pub use mqueue::*;
pub use semaphore::*;
pub use shm::{shmat, shmctl, shmdt, shmget};

use ipc::{Caller, Permissions};
use kernel::clock::realtime_ns;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::ctx::Ctx;

const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;

/// `struct ipc64_perm`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
struct RawPermissions {
    key: i32,
    uid: u32,
    gid: u32,
    creator_uid: u32,
    creator_gid: u32,
    mode: u32,
    sequence: u16,
    pad: [u16; 3],
    unused: [u64; 2],
}

impl RawPermissions {
    /// The permissions of the object with number `id`.
    fn new(p: Permissions, id: i32) -> Self {
        Self {
            key: p.key,
            uid: p.uid,
            gid: p.gid,
            creator_uid: p.creator_uid,
            creator_gid: p.creator_gid,
            mode: p.mode,
            sequence: (id >> 15) as u16,
            ..Self::default()
        }
    }

    /// What `IPC_SET` may change.
    fn changes(&self) -> (u32, u32, u32) {
        (self.uid, self.gid, self.mode)
    }
}

fn caller(ctx: &Ctx<'_>) -> Caller {
    let cred = ctx.cred();
    Caller { pid: ctx.process().pid(), uid: cred.euid, gid: cred.egid, groups: cred.groups.clone() }
}

/// The wall clock in seconds.
fn now_s() -> i64 {
    (realtime_ns() / 1_000_000_000) as i64
}
