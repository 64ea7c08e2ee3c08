//! [`WaitQueue`]: threads that wait for a condition, and pollers that want to hear of a change.
//!
//! # Theory
//! The condition is the caller's; the queue only makes sure that a change followed by a wake is not missed. A waiter
//! links itself, *then* looks at the condition, then sleeps; a waker changes the condition, *then* looks for waiters.
//! Both sides put a `SeqCst` fence between the two steps, so at least one sees the other (store-load, Dekker). That
//! lets a wake of an idle queue cost one fence and two loads.
//!
//! A waiter re-checks its own record before every sleep, not the park token: the condition may itself have slept (on
//! a mutex) and eaten the token.
//!
//! `wake_one` stands for one item of something. A waiter that was chosen but leaves without success (deadline or
//! signal) passes the wake on.
//!
//! Pollers: the registered [`Notify`]s lie in numbered slots behind a lock; registration and removal change one slot, however many
//! there are. A wake copies references to a few of them at a time and calls out without holding any lock, so `notify` may take
//! locks, also ones held around registration. The price: a `Notify` may be called once more shortly after its registration was
//! dropped, and one that is registered during a wake may or may not be called (it looks at the condition itself).
//! A wake may say which events it can have brought about; those who want none of them are passed by. What one wants may change: it
//! stores that, *then* looks at the condition, with a `SeqCst` fence between, the same exchange as a waiter's.

#![expect(
    unsafe_code,
    reason = "waiters are linked on the stack; the notify list is a lazily made Arc"
)]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ptr;
use lockfree::shim::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};
use lockfree::shim::fence_after_read_modify_write;

use lockfree::mutex::Told;

use crate::backend::{self, WaitRecord};
use crate::mutex::Mutex;
use crate::wait_list::{WaitList, Waiter};

/// Whether a signal ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// A pending signal ends it with [`WaitError::Interrupted`].
    Allowed,
    /// Signals are not looked at.
    Ignored,
}

/// Why a wait ended without its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The deadline passed (ETIMEDOUT, EAGAIN or 0, as the call defines).
    TimedOut,
    /// A signal is pending (EINTR, or restart).
    Interrupted,
}

/// Somebody who wants to hear that a queue was woken: an epoll item, a poll call.
pub trait Notify: Send + Sync {
    /// The condition may have changed. May be called from any thread, several times for one change, concurrently, and
    /// once more just after the registration was dropped. Must not sleep long; may take `sync` locks; must not
    /// assume anything about locks its caller holds.
    fn notify(&self);

    /// Whether a change is of interest that can have brought about these events and no others. The bits are the queue's owner's: those
    /// of `poll`. Takes no lock. Who begins to be interested looks at the condition afterwards, behind a full fence.
    fn wants(&self, events: u32) -> bool {
        let _ = events;
        true
    }

    /// As [`Notify::notify`], for one that was registered as exclusive: whether that is enough, and no other exclusive one
    /// need be told.
    fn notify_exclusive(&self) -> bool {
        self.notify();
        true
    }
}

/// Whom a wake is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    All,
    /// Of those that are exclusive, the first that says it is enough.
    One,
}

/// Who is registered, and how.
#[derive(Clone)]
struct Entry {
    notify: Arc<dyn Notify>,
    exclusive: bool,
}

/// The events of a change that nothing more is known of.
const ANY: u32 = u32::MAX;

/// How many pollers a wake takes references to at a time.
const BATCH: usize = 8;

#[derive(Default)]
struct Entries {
    slots: Vec<Option<Entry>>,
    /// Slots that are empty.
    free: Vec<usize>,
}

impl Entries {
    /// Nobody is registered any more. What a few need is kept for the next; a queue that thousands polled once is not searched for them
    /// ever after.
    fn clear(&mut self) {
        if self.slots.len() > BATCH {
            *self = Self::default();
        } else {
            self.slots.clear();
            self.free.clear();
        }
    }
}

#[derive(Default)]
struct NotifyList {
    entries: Mutex<Entries>,
    count: AtomicUsize,
    /// How often exclusive ones were asked.
    turn: AtomicUsize,
}

impl NotifyList {
    fn add(&self, entry: Entry) -> usize {
        let mut entries = self.entries.lock();
        let id = entries.free.pop().unwrap_or(entries.slots.len());
        if id == entries.slots.len() {
            entries.slots.push(None);
        }
        entries.slots[id] = Some(entry);
        self.count.fetch_add(1, Ordering::Relaxed);
        id
    }

    fn remove(&self, id: usize) {
        let mut entries = self.entries.lock();
        let old = entries.slots[id].take();
        entries.free.push(id);
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            entries.clear();
        }
        drop(entries);
        // The last reference to a `Notify` may go here, with no lock held.
        drop(old);
    }

    #[cold]
    fn notify(&self, wake: Wake, events: u32) {
        // The exclusive ones take turns at being asked first.
        let mut exclusive: Vec<Arc<dyn Notify>> = Vec::new();
        let mut next = 0;
        while self.count.load(Ordering::Relaxed) != 0 {
            let mut batch = [const { None }; BATCH];
            let entries = self.entries.lock();
            let mut found = 0;
            while found < BATCH && let Some(slot) = entries.slots.get(next) {
                next += 1;
                match slot {
                    Some(entry) if entry.exclusive && wake == Wake::One => exclusive.push(entry.notify.clone()),
                    Some(entry) => {
                        batch[found] = Some(entry.notify.clone());
                        found += 1;
                    }
                    None => {}
                }
            }
            drop(entries);
            if found == 0 {
                break;
            }
            batch.iter().flatten().filter(|notify: &&Arc<dyn Notify>| notify.wants(events)).for_each(|notify| notify.notify());
        }
        if !exclusive.is_empty() {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % exclusive.len();
            exclusive.rotate_left(first);
            let _enough = exclusive.iter().any(|notify| notify.wants(events) && notify.notify_exclusive());
        }
    }
}

/// A [`Notify`] on a queue. Dropping it unregisters. It keeps nothing of the queue's owner alive and may outlive it.
#[must_use = "dropping the registration ends it"]
pub struct Registration {
    list: Arc<NotifyList>,
    id: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.list.remove(self.id);
    }
}

/// Threads and pollers waiting for a condition. Put it next to the state it is about.
pub struct WaitQueue {
    list: WaitList,
    /// Null, or an `Arc<NotifyList>` made by the first registration.
    notifiers: AtomicPtr<NotifyList>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    const_unless_loom! {
        /// An empty queue.
        #[must_use]
        pub const fn new() -> Self {
            Self {
                list: WaitList::new(),
                notifiers: AtomicPtr::new(ptr::null_mut()),
            }
        }
    }

    /// Waits until `cond` gives a value. `cond` is called first of all, and after every wake; it may take locks and
    /// sleep. With [`WaitQueue::wake_one`], a `cond` that gives a value should take the item it saw.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`] when the monotonic `deadline_ns` has passed, [`WaitError::Interrupted`] when a signal
    /// is pending and `interrupt` allows it. Not if `cond` holds at that time.
    pub fn wait_until<T>(
        &self,
        deadline_ns: Option<u64>,
        interrupt: Interrupt,
        mut cond: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        if let Some(value) = cond() {
            return Ok(value);
        }
        self.wait_linked(deadline_ns.unwrap_or(u64::MAX), interrupt, &mut cond)
    }

    /// As [`WaitQueue::wait_until`], for a caller that has just seen that there is no value: `cond` is called first when the thread has joined
    /// the queue.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    /// As [`WaitQueue::wait_until`].
    pub fn block_until<T>(
        &self,
        deadline_ns: Option<u64>,
        interrupt: Interrupt,
        mut cond: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        self.wait_linked(deadline_ns.unwrap_or(u64::MAX), interrupt, &mut cond)
    }

    /// Waits for ever, deaf to signals, until `cond` gives a value.
    ///
    /// Context: may sleep.
    pub fn wait<T>(&self, cond: impl FnMut() -> Option<T>) -> T {
        self.wait_until(None, Interrupt::Ignored, cond)
            .expect("neither a deadline nor signals can end this wait")
    }

    fn wait_linked<T>(
        &self,
        deadline_ns: u64,
        interrupt: Interrupt,
        cond: &mut impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        loop {
            let mut place = MaybeUninit::uninit();
            if mistaken!(QueueLooksTooEarly)
                && let Some(value) = cond()
            {
                return Ok(value);
            }
            // SAFETY: on our stack, and we do not leave before it was removed or told.
            let waiter = self.list.with(|list| unsafe { list.push_new(&mut place, 0) });
            // The unlock was one.
            fence_after_read_modify_write();
            let end = loop {
                if !mistaken!(QueueLooksTooEarly)
                    && let Some(value) = cond()
                {
                    break Some(Ok(value));
                }
                if waiter.record.told() != Told::Nothing {
                    break None;
                }
                if interrupt == Interrupt::Allowed && backend::interrupted() {
                    break Some(Err(WaitError::Interrupted));
                }
                if deadline_ns != u64::MAX && backend::monotonic_ns() >= deadline_ns {
                    break Some(Err(WaitError::TimedOut));
                }
                backend::park((deadline_ns != u64::MAX).then_some(deadline_ns));
            };
            let chosen = self.unlink(waiter);
            match end {
                Some(Err(error)) => return self.leave_without(error, chosen, cond),
                Some(Ok(value)) => return Ok(value),
                // Woken: the ordinary case is that the condition holds now, and costs no lock of the list.
                None => {
                    if let Some(value) = cond() {
                        return Ok(value);
                    }
                }
            }
        }
    }

    /// Makes sure that nobody will touch the waiter any more. True: a wake was spent on it.
    fn unlink(&self, waiter: &Waiter) -> bool {
        if waiter.record.told() != Told::Nothing {
            return true;
        }
        let chosen = !self.list.with(|list| list.remove(waiter));
        if chosen {
            // The waker may still be about to tell us; the record must live until then.
            let _ = waiter.record.wait();
        }
        chosen
    }

    /// A wait ends in failure. If a wake was spent on it, looks once more, else passes the wake on.
    fn leave_without<T>(
        &self,
        error: WaitError,
        chosen: bool,
        cond: &mut impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        if !chosen {
            return Err(error);
        }
        cond().ok_or_else(|| {
            self.list.with(|list| list.hand_front());
            error
        })
    }

    /// Wakes the thread that has waited longest, and calls every registered [`Notify`] (of the exclusive ones, one that can make use
    /// of it). Change the condition first.
    ///
    /// Context: thread; may sleep (briefly).
    #[inline]
    pub fn wake_one(&self) {
        fence(Ordering::SeqCst);
        if !self.list.looks_empty() {
            self.hand_one();
        }
        self.notify_pollers(Wake::One, ANY);
    }

    /// Wakes every waiting thread, and calls every registered [`Notify`]. Change the condition first.
    ///
    /// Context: thread; may sleep (briefly).
    #[inline]
    pub fn wake_all(&self) {
        self.wake_all_for(ANY);
    }

    /// As [`WaitQueue::wake_all`], after a change that can have brought about no other events than these ([`Notify::wants`]).
    ///
    /// Context: thread; may sleep (briefly).
    #[inline]
    pub fn wake_all_for(&self, events: u32) {
        fence(Ordering::SeqCst);
        if !self.list.looks_empty() {
            self.hand_all();
        }
        self.notify_pollers(Wake::All, events);
    }

    /// As [`WaitQueue::wake_all`], in a brief system call: touches no vector register.
    #[inline(always)]
    pub fn wake_all_briefly(&self) {
        self.wake_all_for_briefly(ANY);
    }

    /// As [`WaitQueue::wake_all_for`], in a brief system call: touches no vector register.
    #[inline(always)]
    pub fn wake_all_for_briefly(&self, events: u32) {
        fence(Ordering::SeqCst);
        if self.has_waiters() {
            backend::loudly(|| self.wake_all_for(events));
        }
    }

    /// As [`WaitQueue::wake_one`], in a brief system call: touches no vector register.
    #[inline(always)]
    pub fn wake_one_briefly(&self) {
        fence(Ordering::SeqCst);
        if self.has_waiters() {
            backend::loudly(|| self.wake_one());
        }
    }

    /// Out of line: `wake_one` is inlined where queues are mostly idle. Tells the waiter after the lock is released, so that it does
    /// not run into it.
    #[inline(never)]
    fn hand_one(&self) {
        if let Some(waiter) = self.list.with(|list| list.pop_front()) {
            // SAFETY: unlinked by us just now, so alive and ours to tell.
            unsafe { WaitRecord::hand(&raw const (*waiter).record) };
        }
    }

    #[inline(never)]
    fn hand_all(&self) {
        let first = self.list.with(|list| {
            let first = list.pop_front();
            let mut more = first.is_some();
            while more {
                more = list.hand_front();
            }
            first
        });
        if let Some(waiter) = first {
            // SAFETY: unlinked by us just now, so alive and ours to tell.
            unsafe { WaitRecord::hand(&raw const (*waiter).record) };
        }
    }

    /// Registers a poller: from now on every wake calls `notify`. Look at the condition *after* registering.
    ///
    /// Works on any queue, wherever it lives: the registration holds only the queue's list of pollers.
    pub fn register(&self, notify: Arc<dyn Notify>) -> Registration {
        self.register_entry(Entry { notify, exclusive: false })
    }

    /// As [`WaitQueue::register`], but [`WaitQueue::wake_one`] calls only as many of these as it takes for one to say that it is
    /// enough ([`Notify::notify_exclusive`]).
    pub fn register_exclusive(&self, notify: Arc<dyn Notify>) -> Registration {
        self.register_entry(Entry { notify, exclusive: true })
    }

    fn register_entry(&self, entry: Entry) -> Registration {
        let list = self.notify_list();
        let id = list.add(entry);
        fence(Ordering::SeqCst);
        Registration { list, id }
    }

    /// Whether a thread waits or a poller is registered at this instant.
    #[inline(always)]
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        !self.list.looks_empty()
            || self
                .notifiers()
                .is_some_and(|list| list.count.load(Ordering::Relaxed) != 0)
    }

    #[inline(always)]
    fn notify_pollers(&self, wake: Wake, events: u32) {
        if let Some(list) = self.notifiers()
            && list.count.load(Ordering::Relaxed) != 0
        {
            list.notify(wake, events);
        }
    }

    #[inline(always)]
    fn notifiers(&self) -> Option<&NotifyList> {
        // SAFETY: once set, the pointer is an Arc that the queue owns until it is dropped.
        unsafe { self.notifiers.load(Ordering::Acquire).as_ref() }
    }

    fn notify_list(&self) -> Arc<NotifyList> {
        if self.notifiers().is_none() {
            let fresh = Arc::into_raw(Arc::<NotifyList>::default()).cast_mut();
            let published = self.notifiers.compare_exchange(
                ptr::null_mut(),
                fresh,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if published.is_err() {
                // SAFETY: nobody has seen ours.
                drop(unsafe { Arc::from_raw(fresh) });
            }
        }
        let list = self.notifiers.load(Ordering::Acquire);
        // SAFETY: set above, and never changed again: an Arc that the queue keeps alive while we add a reference.
        unsafe {
            Arc::increment_strong_count(list);
            Arc::from_raw(list)
        }
    }
}

impl Drop for WaitQueue {
    fn drop(&mut self) {
        let list = self.notifiers.load(Ordering::Acquire);
        if !list.is_null() {
            // SAFETY: the queue's own reference.
            drop(unsafe { Arc::from_raw(list) });
        }
    }
}
