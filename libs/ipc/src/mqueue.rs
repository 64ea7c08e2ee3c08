//! POSIX message queues (`mq_overview(7)`): messages by priority, files that can be waited for, and one who is told when the first
//! message arrives.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_abi::Errno;
use sync::{Mutex, WaitQueue};
use vfs::io::{Sink, Source};
use vfs::{Events, File, OpenFlags};

use crate::{Ends, Result, wait};

/// Priorities end here.
pub const PRIORITIES: u32 = 32_768;
/// What a queue holds if nobody says: messages, and bytes of each.
pub const DEFAULT_SIZE: Size = Size { messages: 10, bytes: 8192 };
/// Most of both without privilege.
pub const MAX_SIZE: Size = Size { messages: 10, bytes: 8192 };
/// Most of both with privilege.
pub const HARD_MAX_SIZE: Size = Size { messages: 65_536, bytes: 16 << 20 };
/// Most queues.
pub const MAX_QUEUES: usize = 256;

/// How much fits into a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of one.
    pub bytes: usize,
}

impl Size {
    /// Fails unless a queue of this size may be made.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn check(self, most: Self) -> Result<()> {
        let fits = (1..=most.messages).contains(&self.messages) && (1..=most.bytes).contains(&self.bytes);
        if fits { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Bytes it counts for against `RLIMIT_MSGQUEUE`: the texts, and Linux's own for each message.
    #[must_use]
    pub fn charge(self) -> u64 {
        let own = self.messages * 48 + self.messages.min(PRIORITIES as usize) * 48;
        (self.messages * self.bytes + own) as u64
    }
}

/// Who is to be told of the first message (`mq_notify(3)`).
pub struct Notification {
    /// The process that asked.
    pub pid: u32,
    /// `SIGEV_SIGNAL`, `SIGEV_NONE`.
    pub method: u32,
    /// The signal.
    pub signal: u32,
    /// Tells it; the sender of the message calls it.
    pub tell: alloc::boxed::Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct State {
    /// By priority.
    messages: BTreeMap<u32, VecDeque<Vec<u8>>>,
    count: usize,
    bytes: usize,
    /// Receivers that wait: they get a message before anybody is told of it.
    receivers: usize,
    notification: Option<Notification>,
}

/// A queue.
pub struct Queue {
    /// How much fits.
    pub size: Size,
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
}

const ENDS: Ends = Ends { late: Errno::ETIMEDOUT, interrupted: Errno::ERESTARTSYS };

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(size: Size) -> Arc<Self> {
        Arc::new(Self {
            size,
            state: Mutex::new(State::default()),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        })
    }

    /// Messages in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state.lock().count
    }

    /// `mq_timedsend`: waits until the monotonic `deadline_ns`, if there is one.
    ///
    /// # Errors
    /// Those of `mq_send(3)`.
    pub fn send(&self, text: Vec<u8>, priority: u32, nonblocking: bool, deadline_ns: Option<u64>) -> Result<()> {
        if priority >= PRIORITIES {
            return Err(Errno::EINVAL);
        }
        if text.len() > self.size.bytes {
            return Err(Errno::EMSGSIZE);
        }
        let mut text = Some(text);
        let told = wait(&self.writable, deadline_ns, ENDS, || {
            let mut state = self.state.lock();
            if state.count >= self.size.messages {
                return nonblocking.then_some(Err(Errno::EAGAIN));
            }
            let text = text.take()?;
            state.bytes += text.len();
            state.count += 1;
            state.messages.entry(priority).or_default().push_back(text);
            let first = state.count == 1 && state.receivers == 0;
            Some(Ok(if first { state.notification.take() } else { None }))
        })?;
        self.readable.wake_one();
        if let Some(notification) = told {
            (notification.tell)();
        }
        Ok(())
    }

    /// `mq_timedreceive`: the oldest message of the highest priority, and that.
    ///
    /// # Errors
    /// Those of `mq_receive(3)`.
    pub fn receive(&self, room: usize, nonblocking: bool, deadline_ns: Option<u64>) -> Result<(Vec<u8>, u32)> {
        if room < self.size.bytes {
            return Err(Errno::EMSGSIZE);
        }
        if let Some(message) = self.take() {
            return Ok(message);
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        self.state.lock().receivers += 1;
        let outcome = wait(&self.readable, deadline_ns, ENDS, || self.take().map(Ok));
        self.state.lock().receivers -= 1;
        outcome
    }

    fn take(&self) -> Option<(Vec<u8>, u32)> {
        let mut state = self.state.lock();
        let mut highest = state.messages.last_entry()?;
        let priority = *highest.key();
        let text = highest.get_mut().pop_front()?;
        if highest.get().is_empty() {
            highest.remove();
        }
        state.count -= 1;
        state.bytes -= text.len();
        drop(state);
        self.writable.wake_one();
        Some((text, priority))
    }

    /// `mq_notify`: has somebody told of the next message that comes to an empty queue.
    ///
    /// # Errors
    /// `EBUSY` when somebody else is to be told.
    pub fn notify(&self, notification: Notification) -> Result<()> {
        let mut state = self.state.lock();
        if state.notification.is_some() {
            return Err(Errno::EBUSY);
        }
        state.notification = Some(notification);
        Ok(())
    }

    /// `mq_notify` without anybody to tell: the process `pid` wants to hear nothing.
    pub fn forget(&self, pid: u32) {
        let mut state = self.state.lock();
        let gone = state.notification.take_if(|notification| notification.pid == pid);
        drop(state);
        drop(gone);
    }

    /// What its file in /dev/mqueue says.
    #[must_use]
    pub fn text(&self) -> String {
        let state = self.state.lock();
        let (method, signal, pid) =
            state.notification.as_ref().map_or((0, 0, 0), |told| (told.method, told.signal, told.pid));
        format!("QSIZE:{:<10} NOTIFY:{method:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n", state.bytes)
    }
}

/// An open queue.
pub struct QueueFile {
    queue: Arc<Queue>,
}

impl QueueFile {
    /// The open file of `queue`.
    #[must_use]
    pub fn new(queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { queue })
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

impl File for QueueFile {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        let text = self.queue.text();
        let rest = text.as_bytes().get(*position as usize..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(0);
        }
        let n = sink.write(rest)?;
        *position += n as u64;
        Ok(n)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn poll(&self) -> Events {
        let count = self.queue.count();
        let mut events = Events::empty();
        events.set(Events::READABLE, count > 0);
        events.set(Events::WRITABLE, count < self.queue.size.messages);
        events
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.queue.readable);
        visit(&self.queue.writable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::vec;

    fn queue() -> Arc<Queue> {
        Queue::new(Size { messages: 3, bytes: 10 })
    }

    fn send(queue: &Queue, text: &[u8], priority: u32) -> Result<()> {
        queue.send(text.to_vec(), priority, true, None)
    }

    #[test]
    fn the_highest_priority_comes_first_and_then_the_oldest() {
        let queue = queue();
        for (text, priority) in [(b"a", 1), (b"b", 5), (b"c", 1)] {
            send(&queue, text, priority).unwrap();
        }
        assert_eq!(send(&queue, b"d", 9), Err(Errno::EAGAIN));
        let order: Vec<_> = (0..3).map(|_| queue.receive(10, true, None).unwrap()).collect();
        assert_eq!(order, [(b"b".to_vec(), 5), (b"a".to_vec(), 1), (b"c".to_vec(), 1)]);
        assert_eq!(queue.receive(10, true, None), Err(Errno::EAGAIN));
        assert_eq!((queue.receive(9, true, None), send(&queue, &[0; 11], 0)), (Err(Errno::EMSGSIZE), Err(Errno::EMSGSIZE)));
        assert_eq!(send(&queue, b"", PRIORITIES), Err(Errno::EINVAL));
    }

    #[test]
    fn one_is_told_once_of_the_first_message() {
        static TOLD: AtomicU32 = AtomicU32::new(0);
        let queue = queue();
        let ask = |pid| {
            let tell = std::boxed::Box::new(|| {
                TOLD.fetch_add(1, Ordering::Relaxed);
            });
            queue.notify(Notification { pid, method: 0, signal: 10, tell })
        };
        ask(1).unwrap();
        assert_eq!(ask(2), Err(Errno::EBUSY));
        assert!(queue.text().contains("SIGNO:10 "));
        send(&queue, b"x", 0).unwrap();
        send(&queue, b"y", 0).unwrap();
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);
        ask(2).expect("that of the first is used up");
        queue.forget(1);
        assert_eq!(ask(1), Err(Errno::EBUSY));
        queue.forget(2);
        ask(1).unwrap();
    }

    #[test]
    fn both_sides_wait_and_time_ends_that() {
        let queue = queue();
        let soon = || Some(sync::monotonic_ns() + 3_000_000);
        assert_eq!(queue.receive(10, false, soon()), Err(Errno::ETIMEDOUT));
        let other = queue.clone();
        let sender = std::thread::spawn(move || (0..100_u8).all(|i| other.send(vec![i], 0, false, None).is_ok()));
        let got: Vec<u8> = (0..100).map(|_| queue.receive(10, false, None).unwrap().0[0]).collect();
        assert!(sender.join().unwrap() && got.into_iter().eq(0..100));
        (0..3).for_each(|_| send(&queue, b"full", 0).unwrap());
        assert_eq!(queue.send(vec![], 0, false, soon()), Err(Errno::ETIMEDOUT));
    }

    #[test]
    fn sizes_have_limits() {
        for (messages, bytes, fits) in [(10, 8192, true), (11, 1, false), (0, 1, false), (1, 0, false), (1, 8193, false)] {
            assert_eq!(Size { messages, bytes }.check(MAX_SIZE).is_ok(), fits);
        }
    }
}
