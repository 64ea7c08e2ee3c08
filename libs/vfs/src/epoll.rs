//! [`Epoll`]: waits for many files at once, as `epoll(7)` describes it.
//!
//! # Theory
//! Every watched file is an [`Item`], registered as a notifier on the file's wait queues. A wake of the file puts the item on
//! the ready list (once; `queued` says it is there) and wakes the waiters. `wait` takes the list, asks each file what is really
//! ready, and reports that. A level-triggered item that reported goes back on the list, an edge-triggered one only when
//! its file wakes again; a one-shot item is disarmed.
//! An item leaves the list's `queued` state *before* its file is polled: a wake in between puts it back, so no edge is lost.
//!
//! Items do not keep their file open: the key is the address of the open file and its descriptor, the reference is weak, and
//! an item whose file is gone removes itself, which is "closing the last descriptor removes it from all epoll sets".
//!
//! Locks: `items`, then `ready`; file locks are taken with neither held. Nesting is at most five deep and without cycles,
//! checked when an epoll file is added (under one lock of the caller's, [`NESTING`]).

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashMap;
use sync::{Interrupt, Mutex, Notify, OnceCell, Registration, WaitError, WaitQueue};

use crate::file::File;
use crate::io::{Sink, Source};
use crate::types::{Events, OpenFlags};
use crate::{Errno, OpenFile, Result};

/// `EPOLLEXCLUSIVE`
pub const EXCLUSIVE: u32 = 1 << 28;
/// `EPOLLWAKEUP`
pub const WAKEUP: u32 = 1 << 29;
/// `EPOLLONESHOT`
pub const ONESHOT: u32 = 1 << 30;
/// `EPOLLET`
pub const EDGE: u32 = 1 << 31;

/// Deepest chain of epoll files watching epoll files.
const MAX_DEPTH: usize = 5;

/// What is watched for, and what to report then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interest {
    /// `EPOLLIN`… and the mode bits ([`EDGE`], [`ONESHOT`], …).
    pub events: u32,
    /// Given back with every event.
    pub data: u64,
}

/// An event to report.
pub type Event = Interest;

/// A watched file.
struct Item {
    me: Weak<Item>,
    epoll: Weak<Epoll>,
    file: Weak<OpenFile>,
    key: Key,
    interest: Mutex<Interest>,
    /// On the ready list.
    queued: AtomicBool,
    registrations: OnceCell<Vec<Registration>>,
}

/// Address of the open file, and descriptor.
type Key = (usize, i32);

/// An epoll file.
pub struct Epoll {
    me: Weak<Epoll>,
    items: Mutex<HashMap<Key, Arc<Item>>>,
    ready: Mutex<VecDeque<Arc<Item>>>,
    waiters: WaitQueue,
}

fn key(file: &Arc<OpenFile>, fd: i32) -> Key {
    (Arc::as_ptr(file).addr(), fd)
}

impl Notify for Item {
    fn notify(&self) {
        if let (Some(epoll), Some(item)) = (self.epoll.upgrade(), self.me.upgrade()) {
            epoll.queue(&item);
        }
    }
}

impl Item {
    /// What is ready of what is watched for.
    fn look(&self, file: &OpenFile) -> Events {
        let interest = self.interest.lock().events;
        // A disarmed one-shot item has no event bits, and reports not even errors.
        if interest & !(EDGE | ONESHOT | EXCLUSIVE | WAKEUP) == 0 && interest & ONESHOT != 0 {
            return Events::empty();
        }
        file.file().poll() & (Events::from_bits_truncate(interest) | Events::ALWAYS)
    }
}

impl Epoll {
    /// An epoll file that watches nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            items: Mutex::new(HashMap::new()),
            ready: Mutex::new(VecDeque::new()),
            waiters: WaitQueue::new(),
        })
    }

    /// Puts `item` on the ready list if it is not there.
    fn queue(&self, item: &Arc<Item>) {
        if !item.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(item.clone());
        }
        self.waiters.wake_one();
    }

    /// `EPOLL_CTL_ADD`.
    ///
    /// # Errors
    /// `EEXIST`; `EPERM` for files that are always ready; `ELOOP` for a cycle or too deep a nesting; `EINVAL` for itself or bad
    /// flags beside `EPOLLEXCLUSIVE`.
    pub fn add(&self, file: &Arc<OpenFile>, fd: i32, interest: Interest) -> Result<()> {
        let mut pollable = false;
        file.file().poll_queues(&mut |_| pollable = true);
        if !pollable {
            return Err(Errno::EPERM);
        }
        let nested = file.downcast::<Self>();
        if nested.is_some_and(|inner| core::ptr::eq(inner, self)) {
            return Err(Errno::EINVAL);
        }
        check_exclusive(interest.events, nested.is_some())?;
        let _nesting = nested.is_some().then(|| NESTING.lock());
        if let Some(inner) = nested {
            inner.check_nesting(self, MAX_DEPTH)?;
        }
        let item = Arc::new_cyclic(|me| Item {
            me: me.clone(),
            epoll: self.me.clone(),
            file: Arc::downgrade(file),
            key: key(file, fd),
            interest: Mutex::new(interest),
            queued: AtomicBool::new(false),
            registrations: OnceCell::new(),
        });
        self.insert(&item)?;
        let mut registrations = Vec::new();
        file.file().poll_queues(&mut |queue| registrations.push(queue.register(item.clone())));
        let _first = item.registrations.set(registrations);
        self.queue_if_ready(&item, file);
        Ok(())
    }

    fn insert(&self, item: &Arc<Item>) -> Result<()> {
        let mut items = self.items.lock();
        match items.get(&item.key) {
            Some(old) if old.file.strong_count() > 0 => return Err(Errno::EEXIST),
            _ => {}
        }
        let stale = items.insert(item.key, item.clone());
        drop(items);
        drop(stale);
        Ok(())
    }

    /// Fails if `outer` is watched from here, or the chain gets longer than `depth`.
    fn check_nesting(&self, outer: &Self, depth: usize) -> Result<()> {
        if depth == 0 || core::ptr::eq(self, outer) {
            return Err(Errno::ELOOP);
        }
        let inner: Vec<_> = self.items.lock().values().filter_map(|item| item.file.upgrade()).collect();
        inner.iter().filter_map(|file| file.downcast::<Self>()).try_for_each(|epoll| epoll.check_nesting(outer, depth - 1))
    }

    fn queue_if_ready(&self, item: &Arc<Item>, file: &OpenFile) {
        if !item.look(file).is_empty() {
            self.queue(item);
        }
    }

    /// `EPOLL_CTL_MOD`.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for an item with `EPOLLEXCLUSIVE`.
    pub fn modify(&self, file: &Arc<OpenFile>, fd: i32, interest: Interest) -> Result<()> {
        let item = self.items.lock().get(&key(file, fd)).cloned().ok_or(Errno::ENOENT)?;
        {
            let mut old = item.interest.lock();
            if (old.events | interest.events) & EXCLUSIVE != 0 {
                return Err(Errno::EINVAL);
            }
            *old = interest;
        }
        self.queue_if_ready(&item, file);
        Ok(())
    }

    /// `EPOLL_CTL_DEL`.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, file: &Arc<OpenFile>, fd: i32) -> Result<()> {
        let gone = self.items.lock().remove(&key(file, fd));
        gone.map(drop).ok_or(Errno::ENOENT)
    }

    /// `epoll_wait`: hands up to `max` events to `report`; waits for the first until the monotonic `deadline_ns`
    /// (`Some(0)`: not at all). Returns how many.
    ///
    /// # Errors
    /// `EINTR` when a signal came first.
    pub fn wait(&self, max: usize, deadline_ns: Option<u64>) -> Result<Vec<Event>> {
        let take = || {
            let events = self.take_ready(max);
            (!events.is_empty()).then_some(events)
        };
        if deadline_ns == Some(0) {
            return Ok(self.take_ready(max));
        }
        match self.waiters.wait_until(deadline_ns, Interrupt::Allowed, take) {
            Ok(events) => Ok(events),
            Err(WaitError::TimedOut) => Ok(Vec::new()),
            Err(WaitError::Interrupted) => Err(Errno::EINTR),
        }
    }

    /// Goes once through the ready list.
    fn take_ready(&self, max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let mut again = Vec::new();
        let mut left = self.ready.lock().len();
        while left > 0 && events.len() < max {
            let Some(item) = self.ready.lock().pop_front() else { break };
            left -= 1;
            if let Some(event) = self.take_item(&item, &mut again) {
                events.push(event);
            }
        }
        for item in again {
            if !item.queued.swap(true, Ordering::AcqRel) {
                self.ready.lock().push_back(item);
            }
        }
        // Each wake lets one waiter go; what this one leaves behind is the next one's.
        if !events.is_empty() && !self.ready.lock().is_empty() {
            self.waiters.wake_one();
        }
        events
    }

    /// Asks one item's file; a level-triggered item that is ready goes to `again`.
    fn take_item(&self, item: &Arc<Item>, again: &mut Vec<Arc<Item>>) -> Option<Event> {
        item.queued.store(false, Ordering::Release);
        let listed = self.items.lock().get(&item.key).is_some_and(|listed| Arc::ptr_eq(listed, item));
        if !listed {
            return None;
        }
        let Some(file) = item.file.upgrade() else {
            let gone = self.items.lock().remove(&item.key);
            drop(gone);
            return None;
        };
        let ready = item.look(&file);
        if ready.is_empty() {
            return None;
        }
        let mut interest = item.interest.lock();
        let event = Event { events: ready.bits(), data: interest.data };
        if interest.events & ONESHOT != 0 {
            interest.events &= EDGE | ONESHOT | EXCLUSIVE | WAKEUP;
        } else if interest.events & EDGE == 0 {
            again.push(item.clone());
        }
        Some(event)
    }

    /// Whether a `wait` would report something.
    fn any_ready(&self) -> bool {
        let listed: Vec<_> = self.ready.lock().iter().cloned().collect();
        listed.iter().any(|item| item.file.upgrade().is_some_and(|file| !item.look(&file).is_empty()))
    }
}

/// Serialises the adding of epoll files to epoll files, so that two additions cannot close a cycle together.
static NESTING: Mutex<()> = Mutex::new(());

fn check_exclusive(events: u32, nested: bool) -> Result<()> {
    let allowed = EXCLUSIVE | EDGE | WAKEUP | (Events::READABLE | Events::WRITABLE | Events::ALWAYS).bits();
    if events & EXCLUSIVE != 0 && (nested || events & !allowed != 0) { Err(Errno::EINVAL) } else { Ok(()) }
}

impl File for Epoll {
    fn read(&self, _position: &mut u64, _sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn poll(&self) -> Events {
        if self.any_ready() { Events::READABLE } else { Events::empty() }
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.waiters);
    }
}

#[cfg(test)]
mod tests;
