//! [`Inbox`]: a queue with its lock, the end of its life, and who waits for something to be in it.
//!
//! The lock is held while the program's memory is copied; page faults never need it. It comes after the list of what is on its way
//! ([`super::in_flight`]), so nothing with rights is dropped while it is held.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sync::{Mutex, MutexGuard, WaitQueue};
use vfs::io::{Sink, Source};

use super::in_flight::Rights;
use super::queue::{Attached, Look, PacketQueue, StreamQueue, Taken, Urgent};
use crate::{Errno, Result};

/// A queue and those who wait for it.
pub(super) struct Inbox<Q> {
    queue: Mutex<Q>,
    /// Nothing more will be put in. Set under the lock, once.
    closed: AtomicBool,
    /// How many bytes of a stream may wait here, as its sender said last.
    limit: AtomicUsize,
    /// An urgent byte is received in its place in the stream.
    pub(super) urgent_inline: AtomicBool,
    /// Whoever receives wants to know who sent.
    pub(super) wants_credentials: AtomicBool,
    /// Woken when something came, or the end.
    pub(super) readable: WaitQueue,
    /// Woken when an urgent byte came.
    pub(super) urgent_came: WaitQueue,
}

impl<Q: Default> Inbox<Q> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Q::default()),
            closed: AtomicBool::new(false),
            limit: AtomicUsize::new(usize::MAX),
            urgent_inline: AtomicBool::new(false),
            wants_credentials: AtomicBool::new(false),
            readable: WaitQueue::new(),
            urgent_came: WaitQueue::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Q> {
        self.queue.lock()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Nothing more is let in; what is there can still be received.
    pub(super) fn close(&self) {
        let queue = self.queue.lock();
        self.closed.store(true, Ordering::Release);
        drop(queue);
        self.readable.wake_all();
    }
}

/// What was received, and whether the sender should hear that there is room again.
pub(super) struct Outcome {
    pub(super) taken: Taken,
    /// At least three quarters are free.
    pub(super) has_room: bool,
}

impl Inbox<StreamQueue> {
    /// Appends what fits below `limit`; `None` when nothing does.
    pub(super) fn try_put(&self, source: &mut dyn Source, limit: usize, attached: &mut Attached) -> Option<Result<usize>> {
        let mut queue = self.queue.lock();
        if self.is_closed() {
            return Some(Err(Errno::EPIPE));
        }
        self.limit.store(limit, Ordering::Relaxed);
        let room = limit.saturating_sub(queue.len());
        if room == 0 {
            return None;
        }
        let result = queue.put(source, room, attached);
        drop(queue);
        self.readable.wake_all();
        Some(result)
    }

    /// Receives what is there; `None` when nothing is and more may come, nothing at the end.
    pub(super) fn try_take(
        &self,
        sink: &mut dyn Sink,
        look: Look,
        credentials: bool,
        error: impl FnOnce() -> Option<Errno>,
    ) -> Option<Result<Outcome>> {
        let mut queue = self.queue.lock();
        let skip = queue.pass_urgent(look, self.urgent());
        let look = if look == Look::Take { look } else { Look::Peek(skip) };
        if queue.len() <= skip {
            if let Some(error) = error() {
                return Some(Err(error));
            }
            return self.is_closed().then(|| Ok(Outcome { taken: Taken::default(), has_room: false }));
        }
        let result = queue.take(sink, look, credentials);
        let has_room = queue.len() <= self.limit.load(Ordering::Relaxed) / 4;
        drop(queue);
        Some(result.map(|taken| Outcome { taken, has_room }))
    }
}

impl Inbox<StreamQueue> {
    fn urgent(&self) -> Urgent {
        if self.urgent_inline.load(Ordering::Relaxed) { Urgent::Inline } else { Urgent::Apart }
    }

    /// Appends an urgent byte; `None` when there is no room below `limit`.
    pub(super) fn try_put_urgent(&self, source: &mut dyn Source, limit: usize) -> Option<Result<usize>> {
        let mut queue = self.queue.lock();
        if self.is_closed() {
            return Some(Err(Errno::EPIPE));
        }
        self.limit.store(limit, Ordering::Relaxed);
        if queue.len() >= limit {
            return None;
        }
        let result = queue.put_urgent(source);
        drop(queue);
        if result.is_ok() {
            self.urgent_came.wake_all();
        }
        self.readable.wake_all();
        Some(result)
    }

    /// Receives the urgent byte.
    ///
    /// # Errors
    /// `EINVAL` when there is none, or it is received in its place.
    pub(super) fn take_urgent(&self, sink: &mut dyn Sink, look: Look) -> Result<usize> {
        if self.urgent() == Urgent::Inline {
            return Err(Errno::EINVAL);
        }
        self.queue.lock().take_urgent(sink, look).ok_or(Errno::EINVAL)?
    }
}

/// What comes in to a socket.
#[derive(Clone)]
pub(super) enum Incoming {
    Bytes(Arc<Inbox<StreamQueue>>),
    Packets(Arc<Inbox<PacketQueue>>),
}

impl Incoming {
    pub(super) fn readable(&self) -> &WaitQueue {
        match self {
            Self::Bytes(inbox) => &inbox.readable,
            Self::Packets(inbox) => &inbox.readable,
        }
    }

    pub(super) fn close(&self) {
        match self {
            Self::Bytes(inbox) => inbox.close(),
            Self::Packets(inbox) => inbox.close(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Bytes(inbox) => inbox.is_closed(),
            Self::Packets(inbox) => inbox.is_closed(),
        }
    }

    pub(super) fn wants_credentials(&self) -> &AtomicBool {
        match self {
            Self::Bytes(inbox) => &inbox.wants_credentials,
            Self::Packets(inbox) => &inbox.wants_credentials,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Bytes(inbox) => inbox.lock().len() == 0,
            Self::Packets(inbox) => inbox.lock().count() == 0,
        }
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Bytes(inbox) => inbox.lock().len(),
            Self::Packets(inbox) => inbox.lock().bytes(),
        }
    }

    /// The identities of all files on their way in it.
    pub(super) fn passing_ids(&self, ids: &mut Vec<usize>) {
        let mut add = |rights: &Rights| ids.extend(rights.files().iter().map(|file| file.id()));
        match self {
            Self::Bytes(inbox) => inbox.lock().marks_rights().for_each(&mut add),
            Self::Packets(inbox) => inbox.lock().packets_rights().for_each(&mut add),
        }
    }

    /// Takes all rights out, to be dropped with no lock held.
    pub(super) fn take_rights(&self) -> Vec<Rights> {
        match self {
            Self::Bytes(inbox) => inbox.lock().take_rights(),
            Self::Packets(inbox) => inbox.lock().take_rights(),
        }
    }

    /// Forgets everything in it.
    pub(super) fn clear(&self) {
        match self {
            Self::Bytes(inbox) => drop(core::mem::take(&mut *inbox.lock())),
            Self::Packets(inbox) => {
                let packets = inbox.lock().clear();
                drop(packets);
            }
        }
    }
}
