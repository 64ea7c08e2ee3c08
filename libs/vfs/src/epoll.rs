//! [`Epoll`]: waits for many files at once, as `epoll(7)` describes it.
//!
//! # Theory
//! Every watched file is an [`Item`], registered as a notifier on the file's wait queues. A wake of the file puts the item on
//! the ready list (once; `queued` says it is there) and wakes the waiters. `wait` takes the list, asks each file what is really
//! ready, and reports that. A level-triggered item that reported goes back on the list, an edge-triggered one only when
//! its file wakes again; a one-shot item is disarmed.
//! Changes that cannot have brought about what an item watches for pass it by ([`Notify::wants`]): who waits for data is not woken
//! whenever there is room.
//! An item leaves the list's `queued` state *before* its file is polled: a wake in between puts it back, so no edge is lost. (Both
//! sides have a full fence between their store and their load: `swap` here, the one of [`WaitQueue`]'s wake there.)
//! A level-triggered item that is ready and alone on the list is reported where it is ([`Epoll::single`]).
//! Whoever looks through the list takes it away as a whole, one at a time (`taking`), so nobody finds it empty while somebody else
//! has what is ready in his hands.
//!
//! Items do not keep their file open: the key is the address of the open file and its descriptor, the reference is weak, and
//! an item whose file is gone removes itself, which is "closing the last descriptor removes it from all epoll sets".
//!
//! Locks: `taking`, under which files are polled; `items`, then `ready`, with which nothing else is held. A file that goes away
//! meanwhile may wake, and so queue, but never take. Nesting is at most five deep and without cycles,
//! checked when an epoll file is added (under one lock of the caller's, [`NESTING`]).

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use hashbrown::HashMap;
use sync::{Interrupt, Mutex, Notify, Registration, WaitError, WaitQueue};

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

/// The bits of an interest that are no events.
const MODES: u32 = EDGE | ONESHOT | EXCLUSIVE | WAKEUP;

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
    /// All bits that [`Interest::wanted`] has, perhaps more; to be looked at without the lock.
    wanted: AtomicU32,
    /// On the ready list.
    queued: AtomicBool,
    /// Watched no more.
    removed: AtomicBool,
    /// Where it hears of the file; nowhere once it is removed.
    registrations: Mutex<Vec<Registration>>,
}

/// Address of the open file, and descriptor.
type Key = (usize, i32);

/// An epoll file.
pub struct Epoll {
    me: Weak<Epoll>,
    items: Mutex<HashMap<Key, Arc<Item>>>,
    ready: Mutex<VecDeque<Arc<Item>>>,
    taking: Mutex<()>,
    waiters: WaitQueue,
}

impl Epoll {
    /// The identity ([`OpenFile::id`]) of a file that is watched as `fd`: of several, the one with `nth` smaller ones.
    #[must_use]
    pub fn file_watched_as(&self, fd: i32, nth: usize) -> Option<usize> {
        let mut found: Vec<_> = self.items.lock().keys().filter(|key| key.1 == fd).map(|key| key.0).collect();
        found.sort_unstable();
        found.get(nth).copied()
    }
}

fn key(file: &Arc<OpenFile>, fd: i32) -> Key {
    (Arc::as_ptr(file).addr(), fd)
}

impl Notify for Item {
    fn notify(&self) {
        self.notify_exclusive();
    }

    fn wants(&self, events: u32) -> bool {
        self.wanted.load(Ordering::Relaxed) & events != 0
    }

    /// `EPOLLEXCLUSIVE`: it is enough if a thread waits here.
    fn notify_exclusive(&self) -> bool {
        let (Some(epoll), Some(item)) = (self.epoll.upgrade(), self.me.upgrade()) else { return false };
        if self.removed.load(Ordering::Acquire) {
            return false;
        }
        let waits = epoll.waiters.has_waiters();
        epoll.queue(&item);
        waits
    }
}

impl Interest {
    /// The events that are reported.
    fn wanted(self) -> Events {
        // A disarmed one-shot item has no event bits, and reports not even errors.
        if self.events & !MODES == 0 && self.events & ONESHOT != 0 {
            return Events::empty();
        }
        Events::from_bits_truncate(self.events) | Events::ALWAYS
    }
}

impl Item {
    /// Keeps its registrations, unless it was removed meanwhile.
    fn hear_through(&self, registrations: Vec<Registration>) {
        let mut place = self.registrations.lock();
        *place = registrations;
        let late = if self.removed.load(Ordering::Acquire) { core::mem::take(&mut *place) } else { Vec::new() };
        drop(place);
        drop(late);
    }

    /// It is watched no more. It may stay on the ready list for a while, but hears nothing: one that is exclusive would take a wake from another.
    fn end(&self) {
        self.removed.store(true, Ordering::Release);
        let gone = core::mem::take(&mut *self.registrations.lock());
        drop(gone);
    }

    /// What is ready of what is watched for.
    fn look(&self, file: &OpenFile) -> Events {
        let wanted = self.interest.lock().wanted();
        if wanted.is_empty() { wanted } else { file.poll() & wanted }
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
            taking: Mutex::new(()),
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
        let mut queues = 0;
        file.file().poll_queues(&mut |_| queues += 1);
        if queues == 0 {
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
            wanted: AtomicU32::new(interest.wanted().bits()),
            queued: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            registrations: Mutex::new(Vec::new()),
        });
        self.insert(&item)?;
        let mut registrations = Vec::with_capacity(queues);
        file.file().poll_queues(&mut |queue| {
            let exclusive = interest.events & EXCLUSIVE != 0;
            let registration =
                if exclusive { queue.register_exclusive(item.clone()) } else { queue.register(item.clone()) };
            registrations.push(registration);
        });
        item.hear_through(registrations);
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
        if let Some(stale) = stale {
            stale.end();
        }
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
            item.wanted.store(interest.wanted().bits(), Ordering::Relaxed);
        }
        // A wake either sees what is wanted now, or its change is seen below.
        fence(Ordering::SeqCst);
        self.queue_if_ready(&item, file);
        Ok(())
    }

    /// `EPOLL_CTL_DEL`.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, file: &Arc<OpenFile>, fd: i32) -> Result<()> {
        let gone = self.items.lock().remove(&key(file, fd)).ok_or(Errno::ENOENT)?;
        gone.end();
        Ok(())
    }

    /// `epoll_wait` where [`Epoll::take`] has just found nothing: hands at least one event and up to `max` to `report`; waits for the first
    /// until the monotonic `deadline_ns`. Returns how many, 0 at the deadline.
    ///
    /// # Errors
    /// `EINTR` when a signal came first.
    pub fn wait(&self, max: usize, deadline_ns: Option<u64>, report: &mut dyn FnMut(Event)) -> Result<usize> {
        let take = || {
            let found = self.take(max, report);
            (found > 0).then_some(found)
        };
        match self.waiters.block_until(deadline_ns, Interrupt::Allowed, take) {
            Ok(found) => Ok(found),
            Err(WaitError::TimedOut) => Ok(0),
            Err(WaitError::Interrupted) => Err(Errno::EINTR),
        }
    }

    /// What to report if the ready list has a single item, which is ready, and level-triggered. Then it stays where it is: queued, so that
    /// wakes need do nothing, and looked at again next time.
    #[inline]
    pub fn single(&self) -> Option<Event> {
        let item = {
            let ready = self.ready.lock();
            if ready.len() != 1 {
                return None;
            }
            ready.front()?.clone()
        };
        let interest = *item.interest.lock();
        if interest.events & (EDGE | ONESHOT) != 0 || item.removed.load(Ordering::Acquire) {
            return None;
        }
        let ready = item.file.upgrade()?.poll() & interest.wanted();
        if ready.is_empty() {
            return None;
        }
        // As in `take`: what stays is the next waiter's.
        self.waiters.wake_one();
        Some(Event { events: ready.bits(), data: interest.data })
    }

    /// As [`Epoll::single`], for a file that `find` knows by its descriptor and that can be asked at once. `None`: nothing was done.
    ///
    /// The list is locked meanwhile, and the file asked without waiting for its lock.
    #[inline(always)]
    pub fn single_briefly<'f>(&self, find: impl FnOnce(i32) -> Option<&'f OpenFile>) -> Option<Event> {
        let event = {
            let list = self.ready.lock_briefly()?;
            let item = if list.len() == 1 { list.front()? } else { return None };
            let (address, fd) = item.key;
            let interest = *item.interest.lock_briefly()?;
            let file = find(fd).filter(|file| file.id() == address)?;
            if interest.events & (EDGE | ONESHOT) != 0 || item.removed.load(Ordering::Acquire) {
                return None;
            }
            let ready = file.poll_briefly()? & interest.wanted();
            Some(Event { events: ready.bits(), data: interest.data }).filter(|_| !ready.is_empty())?
        };
        self.waiters.wake_one_briefly();
        Some(event)
    }

    /// Hands up to `max` events to `report`, without waiting: goes once through the ready list. Returns how many.
    pub fn take(&self, max: usize, report: &mut dyn FnMut(Event)) -> usize {
        let taking = self.taking.lock();
        let mut batch = {
            let mut ready = self.ready.lock();
            if ready.is_empty() {
                return 0;
            }
            core::mem::take(&mut *ready)
        };
        let (mut left, mut found) = (batch.len(), 0);
        while left > 0
            && found < max
            && let Some(item) = batch.pop_front()
        {
            left -= 1;
            let Some((event, again)) = self.take_item(&item) else { continue };
            report(event);
            found += 1;
            if again && !item.queued.swap(true, Ordering::AcqRel) {
                batch.push_back(item);
            }
        }
        let more = self.put_back(batch);
        drop(taking);
        // Each wake lets one waiter go; what this one leaves behind is the next one's.
        if found > 0 && more {
            self.waiters.wake_one();
        }
        found
    }

    /// Puts what was not reported, and what is to be looked at again, before what has come meanwhile. Whether anything is there.
    fn put_back(&self, mut batch: VecDeque<Arc<Item>>) -> bool {
        let mut ready = self.ready.lock();
        core::mem::swap(&mut *ready, &mut batch);
        ready.append(&mut batch);
        !ready.is_empty()
    }

    /// Asks one item's file: what to report, and whether to look again next time.
    fn take_item(&self, item: &Item) -> Option<(Event, bool)> {
        item.queued.swap(false, Ordering::SeqCst);
        if item.removed.load(Ordering::Acquire) {
            return None;
        }
        let Some(file) = item.file.upgrade() else {
            let gone = self.items.lock().remove(&item.key);
            drop(gone);
            return None;
        };
        let interest = *item.interest.lock();
        let wanted = interest.wanted();
        if wanted.is_empty() {
            return None;
        }
        let ready = file.poll() & wanted;
        if ready.is_empty() {
            return None;
        }
        if interest.events & ONESHOT != 0 {
            let mut now = item.interest.lock();
            // Unless it was armed anew meanwhile.
            if *now == interest {
                now.events &= MODES;
            }
        }
        let event = Event { events: ready.bits(), data: interest.data };
        Some((event, interest.events & (EDGE | ONESHOT) == 0))
    }

    /// What is watched: descriptor, interest, inode number.
    #[must_use]
    pub fn watched(&self) -> Vec<(i32, Interest, u64)> {
        let items: Vec<_> = self.items.lock().values().cloned().collect();
        let line = |item: &Arc<Item>| {
            let ino = item.file.upgrade()?.inode().metadata().ino;
            Some((item.key.1, *item.interest.lock(), ino))
        };
        let mut lines: Vec<_> = items.iter().filter_map(line).collect();
        lines.sort_unstable_by_key(|(fd, ..)| *fd);
        lines
    }

    /// Whether a `wait` would report something.
    fn any_ready(&self) -> bool {
        let taking = self.taking.lock();
        let listed: Vec<_> = self.ready.lock().iter().cloned().collect();
        drop(taking);
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
