//! Asynchronous I/O as `io_setup(2)` and its relatives describe it: an [`AioContext`], to which requests are submitted, and whose [`Ring`] tells what
//! they came to.
//!
//! Reads, writes and `fsync` are done when they are submitted, as on Linux where files are in memory: the caller does them and hands the result to the
//! request's [`Slot`]. What goes on by itself is a request to poll (`poll.rs`).
//!
//! # Theory
//! A submitted request first takes a slot ([`AioContext::reserve`]): a place in the ring for its event, so that a completion always finds one. The
//! slot is free again when the event has been taken, which the program may do without a call; `reserve` sees that by the ring's `head`. The program can
//! write anything there. A wrong head loses events of its own, and harms nobody else: it is only ever used modulo the ring's capacity.
//!
//! `tail` and the number of slots change under the lock of `state`. `taking` keeps calls that take events apart (not the program's own taking, which is
//! the program's business, as on Linux). A poll request is on `polls` until it is completed, by whoever takes it off under the lock: because its file is
//! ready, because it is cancelled, or because the context ends.

mod poll;
mod ring;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use frame::Frame;
use linux_abi::aio::IoEvent;
use sync::{Interrupt, Mutex, WaitError, WaitQueue};

pub use poll::PollService;
use poll::PollRequest;
pub use ring::Size;
use ring::Ring;

use crate::eventfd::EventFd;
use crate::types::Events;
use crate::{Errno, OpenFile, Result};

/// Requests that all contexts together were made for (`/proc/sys/fs/aio-nr`).
static REQUESTS: AtomicU64 = AtomicU64::new(0);
/// How many that may be (`/proc/sys/fs/aio-max-nr`).
pub static MAX_REQUESTS: AtomicU64 = AtomicU64::new(65536);

/// Events that are handed on at a time.
const BATCH: usize = 16;

/// Requests that all contexts together were made for.
#[must_use]
pub fn requests() -> u64 {
    REQUESTS.load(Ordering::Relaxed)
}

/// A share of [`MAX_REQUESTS`].
struct Share(u64);

impl Share {
    fn claim(wanted: u64) -> Result<Self> {
        let most = MAX_REQUESTS.load(Ordering::Relaxed);
        let more = |all: u64| all.checked_add(wanted).filter(|sum| *sum <= most);
        // Nothing else depends on the number.
        REQUESTS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::EAGAIN)?;
        Ok(Self(wanted))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        REQUESTS.fetch_sub(self.0, Ordering::Relaxed);
    }
}

struct State {
    /// The place that is filled next. The ring shows a copy.
    tail: u32,
    /// Requests that have no event yet.
    running: u32,
    polls: Vec<Arc<PollRequest>>,
    /// Given back when the context ends, though somebody may still refer to it.
    share: Option<Share>,
}

/// What the program calls an `io_context_t`.
pub struct AioContext {
    ring: Ring,
    state: Mutex<State>,
    taking: Mutex<()>,
    /// Woken when there is an event, and when the context ends.
    changed: WaitQueue,
}

/// What an event says of its request.
pub struct Request {
    /// `iocb.aio_data`.
    pub data: u64,
    /// Address of the `iocb`.
    pub object: u64,
    /// The eventfd that is told.
    pub eventfd: Option<Arc<OpenFile>>,
}

impl Request {
    fn event(&self, result: i64) -> IoEvent {
        IoEvent { data: self.data, object: self.object, result, result2: 0 }
    }

    /// The event is in the ring.
    fn tell(&self) {
        if let Some(counter) = self.eventfd.as_ref().and_then(|file| file.downcast::<EventFd>()) {
            counter.signal();
        }
    }
}

/// A place in the ring for an event to come; dropped without [`Slot::complete`], it is given back.
#[must_use]
pub struct Slot<'a>(&'a Arc<AioContext>);

impl Slot<'_> {
    /// The request is done.
    pub fn complete(self, request: &Request, result: i64) {
        let context = self.0;
        context.ring_in(&mut context.state.lock(), &request.event(result));
        core::mem::forget(self);
        context.announce(request);
    }

    /// The request goes on by itself: waits for `file` to be ready for what is `wanted`, which it may be already.
    pub fn poll(self, request: Request, file: Arc<OpenFile>, wanted: Events, service: &'static PollService) {
        let context = self.0;
        let poll = PollRequest::new(request, file, wanted, service, context);
        let ended = {
            let mut state = context.state.lock();
            state.polls.push(poll.clone());
            state.share.is_none()
        };
        // The slot is the poll request's now.
        core::mem::forget(self);
        poll.begin();
        if ended {
            // Whoever ended the context may have looked before the request was there.
            context.finish(&poll, 0);
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
    }
}

impl AioContext {
    /// A context for `requests` requests at a time, with a ring in `pages`, as many as [`Size`] says.
    ///
    /// # Errors
    /// `EAGAIN` when there would be too many requests.
    pub fn new(requests: u32, size: Size, pages: Vec<Frame>) -> Result<Arc<Self>> {
        let share = Share::claim(u64::from(requests))?;
        let state = State { tail: 0, running: 0, polls: Vec::new(), share: Some(share) };
        Ok(Arc::new(Self { ring: Ring::new(size, pages), state: Mutex::new(state), taking: Mutex::new(()), changed: WaitQueue::new() }))
    }

    /// A place for the event of one more request.
    ///
    /// # Errors
    /// `EAGAIN` when the ring has none; `EINVAL` when the context has ended.
    pub fn reserve(self: &Arc<Self>) -> Result<Slot<'_>> {
        let mut state = self.state.lock();
        if state.share.is_none() {
            return Err(Errno::EINVAL);
        }
        if state.running + self.ring.waiting(state.tail) >= self.ring.room() {
            return Err(Errno::EAGAIN);
        }
        state.running += 1;
        Ok(Slot(self))
    }

    /// Bytes of the ring.
    #[must_use]
    pub const fn ring_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    fn ring_in(&self, state: &mut State, event: &IoEvent) {
        state.running -= 1;
        state.tail = self.ring.put(state.tail, event);
    }

    fn announce(&self, request: &Request) {
        request.tell();
        self.changed.wake_all();
    }

    /// Completes a poll request, unless somebody else has.
    fn finish(&self, poll: &PollRequest, result: i64) {
        let mut state = self.state.lock();
        let Some(at) = state.polls.iter().position(|other| core::ptr::eq(Arc::as_ptr(other), poll)) else { return };
        let poll = state.polls.swap_remove(at);
        self.ring_in(&mut state, &poll.request.event(result));
        drop(state);
        poll.end();
        self.announce(&poll.request);
    }

    /// `io_cancel`: ends a request that is waiting. Its event comes all the same.
    ///
    /// # Errors
    /// `EINVAL` when there is none with the address `object`.
    pub fn cancel(&self, object: u64) -> Result<()> {
        let found = self.state.lock().polls.iter().find(|poll| poll.request.object == object).cloned();
        found.map(|poll| self.finish(&poll, 0)).ok_or(Errno::EINVAL)
    }

    /// `io_destroy`, or the end of the memory that the ring is in: cancels everything. Who waits for events is told. False: it had ended before.
    #[must_use]
    pub fn end(&self) -> bool {
        let (share, polls) = {
            let mut state = self.state.lock();
            (state.share.take(), state.polls.clone())
        };
        polls.iter().for_each(|poll| self.finish(poll, 0));
        self.changed.wake_all();
        share.is_some()
    }

    fn has_ended(&self) -> bool {
        self.state.lock().share.is_none()
    }

    /// Takes up to `most` events and hands them to `store`, which may sleep.
    fn take(&self, most: usize, store: &mut dyn FnMut(&[IoEvent]) -> Result<()>) -> Result<usize> {
        let _one_at_a_time = self.taking.lock();
        let mut done = 0;
        while done < most {
            let mut batch = [IoEvent::default(); BATCH];
            let (found, head) = self.ring.peek(&mut batch[..BATCH.min(most - done)]);
            if found == 0 {
                break;
            }
            match store(&batch[..found]) {
                Ok(()) => self.ring.set_head(head),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += found;
        }
        Ok(done)
    }

    /// `io_getevents`: waits until `least` events were handed to `store`, or for as many as there are at the monotonic `deadline_ns`; no more
    /// than `most`. `Some(0)` does not wait.
    ///
    /// # Errors
    /// `EINTR` when a signal comes before the first event, `EINVAL` when the context ends, and those of `store`.
    pub fn wait(
        &self,
        (least, most): (usize, usize),
        deadline_ns: Option<u64>,
        store: &mut dyn FnMut(&[IoEvent]) -> Result<()>,
    ) -> Result<usize> {
        let done = Cell::new(0);
        let mut look = || {
            match self.take(most - done.get(), store) {
                Ok(more) => done.set(done.get() + more),
                Err(error) if done.get() == 0 => return Some(Err(error)),
                Err(_) => return Some(Ok(done.get())),
            }
            match done.get() {
                0 if least > 0 && self.has_ended() => Some(Err(Errno::EINVAL)),
                found => (found >= least || deadline_ns == Some(0)).then_some(Ok(found)),
            }
        };
        if let Some(result) = look() {
            return result;
        }
        match self.changed.wait_until(deadline_ns, Interrupt::Allowed, look) {
            Ok(result) => result,
            Err(WaitError::Interrupted) if done.get() == 0 => Err(Errno::EINTR),
            Err(_) => Ok(done.get()),
        }
    }
}

#[cfg(test)]
mod tests;
