//! Message queues of System V (`msgop(2)`).
//!
//! One lock per queue; who waits for room and who waits for a message sleep on queues of their own, and all of them look again after
//! every change that could let one of them go.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use linux_abi::Errno;
use sync::{Mutex, WaitQueue};

use crate::{Caller, Ends, IPC_NOWAIT, Permissions, READ, Result, WRITE, wait};

/// Largest message.
pub const MAX_MESSAGE: usize = 8192;
/// Bytes that fit into a new queue.
pub const DEFAULT_BYTES: usize = 16_384;
/// Most queues.
pub const MAX_QUEUES: usize = 32_000;
/// `msgrcv`: cut a message that is too long.
pub const MSG_NOERROR: u32 = 0o10000;
/// `msgrcv`: the first message of another type.
pub const MSG_EXCEPT: u32 = 0o20000;
/// `msgrcv`: copy the message at an index, and leave it.
pub const MSG_COPY: u32 = 0o40000;

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its type, positive.
    pub kind: i64,
    /// Its text.
    pub text: Vec<u8>,
}

/// What `IPC_STAT` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Whose it is.
    pub permissions: Permissions,
    /// Last `msgsnd`.
    pub sent_s: i64,
    /// Last `msgrcv`.
    pub received_s: i64,
    /// Last change by `msgctl`.
    pub changed_s: i64,
    /// Bytes in it.
    pub bytes: usize,
    /// Messages in it.
    pub count: usize,
    /// Bytes that fit.
    pub max_bytes: usize,
    /// Who sent last.
    pub sender: u32,
    /// Who received last.
    pub receiver: u32,
}

struct State {
    status: Status,
    messages: VecDeque<Message>,
    removed: bool,
}

/// A message queue.
pub struct Queue {
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
}

const ENDS: Ends = Ends { late: Errno::EAGAIN, interrupted: Errno::ERESTARTNOHAND };

impl State {
    fn alive(&self) -> Result<()> {
        if self.removed { Err(Errno::EIDRM) } else { Ok(()) }
    }

    fn fits(&self, len: usize) -> bool {
        let status = &self.status;
        status.bytes + len <= status.max_bytes && status.count < status.max_bytes
    }

    /// The message that a `msgrcv` for `kind` gets.
    fn choose(&self, kind: i64, flags: u32) -> Option<usize> {
        let kinds = || self.messages.iter().map(|message| message.kind);
        if flags & MSG_COPY != 0 {
            return usize::try_from(kind).ok().filter(|index| *index < self.messages.len());
        }
        match kind {
            0 => (!self.messages.is_empty()).then_some(0),
            wanted if wanted > 0 && flags & MSG_EXCEPT != 0 => kinds().position(|kind| kind != wanted),
            wanted if wanted > 0 => kinds().position(|kind| kind == wanted),
            below => {
                let most = below.checked_neg().unwrap_or(i64::MAX);
                let lowest = kinds().filter(|kind| *kind <= most).min()?;
                kinds().position(|kind| kind == lowest)
            }
        }
    }
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(permissions: Permissions, now_s: i64) -> Self {
        let status = Status { permissions, changed_s: now_s, max_bytes: DEFAULT_BYTES, ..Status::default() };
        Self {
            state: Mutex::new(State { status, messages: VecDeque::new(), removed: false }),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        }
    }

    /// `msgsnd`. `now_s` gives the wall clock.
    ///
    /// # Errors
    /// Those of `msgsnd(2)`.
    pub fn send(&self, message: Message, flags: u32, caller: &Caller, now_s: fn() -> i64) -> Result<()> {
        if message.kind < 1 || message.text.len() > MAX_MESSAGE {
            return Err(Errno::EINVAL);
        }
        let mut message = Some(message);
        wait(&self.writable, None, ENDS, || {
            let mut state = self.state.lock();
            if let Err(error) = state.alive().and_then(|()| state.status.permissions.check(caller, WRITE)) {
                return Some(Err(error));
            }
            let len = message.as_ref().map_or(0, |message| message.text.len());
            if !state.fits(len) {
                return (flags & IPC_NOWAIT != 0).then_some(Err(Errno::EAGAIN));
            }
            state.messages.extend(message.take());
            state.status.bytes += len;
            state.status.count += 1;
            state.status.sender = caller.pid;
            state.status.sent_s = now_s();
            Some(Ok(()))
        })?;
        self.readable.wake_all();
        Ok(())
    }

    /// `msgrcv`: the message for `kind`, of at most `room` bytes.
    ///
    /// # Errors
    /// Those of `msgrcv(2)`.
    pub fn receive(&self, room: usize, kind: i64, flags: u32, caller: &Caller, now_s: fn() -> i64) -> Result<Message> {
        if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
            return Err(Errno::EINVAL);
        }
        let message = wait(&self.readable, None, ENDS, || {
            let mut state = self.state.lock();
            if let Err(error) = state.alive().and_then(|()| state.status.permissions.check(caller, READ)) {
                return Some(Err(error));
            }
            let Some(at) = state.choose(kind, flags) else {
                return (flags & IPC_NOWAIT != 0).then_some(Err(Errno::ENOMSG));
            };
            if state.messages[at].text.len() > room && flags & MSG_NOERROR == 0 {
                return Some(Err(Errno::E2BIG));
            }
            if flags & MSG_COPY != 0 {
                return Some(Ok(state.messages[at].clone()));
            }
            let message = state.messages.remove(at)?;
            state.status.bytes -= message.text.len();
            state.status.count -= 1;
            state.status.receiver = caller.pid;
            state.status.received_s = now_s();
            Some(Ok(message))
        })?;
        self.writable.wake_all();
        Ok(Message { text: message.text.into_iter().take(room).collect(), ..message })
    }

    /// What `IPC_STAT` tells, to whoever may read.
    ///
    /// # Errors
    /// `EACCES`, `EIDRM`.
    pub fn status(&self, reader: Option<&Caller>) -> Result<Status> {
        let state = self.state.lock();
        state.alive()?;
        if let Some(caller) = reader {
            state.status.permissions.check(caller, READ)?;
        }
        Ok(state.status)
    }

    /// Fails unless the queue serves a `msgget` with the bits of `mode`.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check_get(&self, mode: u32, caller: &Caller) -> Result<()> {
        self.state.lock().status.permissions.check(caller, mode >> 6 | mode >> 3 | mode)
    }

    /// `IPC_SET`: a new owner, new permission bits, a new limit.
    ///
    /// # Errors
    /// `EPERM` (also for a larger limit than the default without privilege), `EIDRM`.
    pub fn set(&self, caller: &Caller, new: (u32, u32, u32), max_bytes: usize, now_s: i64) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.status.permissions.check_owner(caller)?;
        if max_bytes > DEFAULT_BYTES && !caller.privileged() {
            return Err(Errno::EPERM);
        }
        state.status.permissions.change(caller, new)?;
        state.status.max_bytes = max_bytes;
        state.status.changed_s = now_s;
        drop(state);
        // There may be room now, and permissions are looked at again.
        self.readable.wake_all();
        self.writable.wake_all();
        Ok(())
    }

    /// `IPC_RMID`: all who wait get `EIDRM`.
    ///
    /// # Errors
    /// `EPERM`, `EIDRM`.
    pub fn remove(&self, caller: &Caller) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.status.permissions.check_owner(caller)?;
        state.removed = true;
        let messages = core::mem::take(&mut state.messages);
        drop(state);
        drop(messages);
        self.readable.wake_all();
        self.writable.wake_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;
    use std::vec;

    fn now_s() -> i64 {
        7
    }

    fn caller() -> Caller {
        Caller { pid: 5, ..Caller::default() }
    }

    fn queue() -> Arc<Queue> {
        Arc::new(Queue::new(Permissions::new(1, 0o600, &caller()), 0))
    }

    fn send(queue: &Queue, kind: i64, text: &[u8]) -> Result<()> {
        queue.send(Message { kind, text: text.to_vec() }, IPC_NOWAIT, &caller(), now_s)
    }

    fn receive(queue: &Queue, kind: i64, flags: u32) -> Result<(i64, Vec<u8>)> {
        queue.receive(100, kind, flags | IPC_NOWAIT, &caller(), now_s).map(|message| (message.kind, message.text))
    }

    #[test]
    fn types_choose_messages() {
        let queue = queue();
        for kind in [5, 3, 7, 3, 2] {
            send(&queue, kind, &[kind as u8]).unwrap();
        }
        assert_eq!(receive(&queue, 3, 0), Ok((3, vec![3])));
        assert_eq!(receive(&queue, -4, 0), Ok((2, vec![2])), "the lowest type up to four");
        assert_eq!(receive(&queue, 5, MSG_EXCEPT), Ok((7, vec![7])));
        assert_eq!(receive(&queue, 1, MSG_COPY), Ok((3, vec![3])));
        assert_eq!(receive(&queue, 2, MSG_COPY), Err(Errno::ENOMSG));
        assert_eq!((receive(&queue, 0, 0), receive(&queue, 0, 0)), (Ok((5, vec![5])), Ok((3, vec![3]))));
        assert_eq!(receive(&queue, i64::MIN, 0), Err(Errno::ENOMSG));
    }

    #[test]
    fn sizes_are_checked_and_counted() {
        let queue = queue();
        assert_eq!((send(&queue, 0, b""), send(&queue, 1, &[0; 8193])), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
        send(&queue, 1, &[1; 8192]).unwrap();
        send(&queue, 1, &[2; 8192]).unwrap();
        assert_eq!(send(&queue, 1, b"x"), Err(Errno::EAGAIN));
        assert_eq!(receive(&queue, 0, 0), Err(Errno::E2BIG));
        assert_eq!(receive(&queue, 0, MSG_NOERROR).map(|(_, text)| text.len()), Ok(100));
        let status = queue.status(None).unwrap();
        assert_eq!((status.bytes, status.count, status.sender, status.received_s), (8192, 1, 5, 7));
    }

    #[test]
    fn both_sides_wait_for_each_other() {
        let queue = queue();
        let other = queue.clone();
        let sender = std::thread::spawn(move || {
            (0..200).all(|i| {
                let message = Message { kind: 1 + i % 3, text: vec![i as u8; 1000] };
                other.send(message, 0, &caller(), now_s).is_ok()
            })
        });
        let sum: i64 = (0..200).map(|_| queue.receive(1000, 0, 0, &caller(), now_s).unwrap().kind).sum();
        assert_eq!((sender.join().unwrap(), sum), (true, (0..200).map(|i| 1 + i % 3).sum()));
    }

    #[test]
    fn a_removed_queue_lets_waiters_go() {
        let queue = queue();
        let other = queue.clone();
        let waiter = std::thread::spawn(move || other.receive(9, 4, 0, &caller(), now_s).map(drop));
        std::thread::sleep(Duration::from_millis(10));
        send(&queue, 1, b"for another").unwrap();
        queue.remove(&caller()).unwrap();
        assert_eq!((waiter.join().unwrap(), send(&queue, 1, b"")), (Err(Errno::EIDRM), Err(Errno::EIDRM)));
    }
}
