//! Requests that wait for a file to be ready (`IOCB_CMD_POLL`), and the [`PollService`], whose thread completes them.
//!
//! A wake of a file's queue puts the request on the service's list; the service's thread looks whether the file is ready for what was asked, and if so completes
//! the request. A thread of its own, because completing tells an eventfd, for which another request may wait, and so on: a chain of any length, which must not
//! run on the stack of whoever wrote to a pipe. Who submits looks at the file after it has registered, so no change is missed.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering, fence};

use sync::{Mutex, Notify, Registration};

use super::{AioContext, Request};
use crate::types::Events;
use crate::OpenFile;

/// Requests whose files have changed.
pub struct PollService {
    changed: Mutex<Vec<Weak<PollRequest>>>,
    /// Has the owner's thread call [`PollService::run`].
    wake: fn(),
}

impl PollService {
    /// A service without requests.
    #[must_use]
    pub const fn new(wake: fn()) -> Self {
        Self { changed: Mutex::new(Vec::new()), wake }
    }

    fn add(&self, poll: Weak<PollRequest>) {
        self.changed.lock().push(poll);
        (self.wake)();
    }

    /// Looks at all requests whose files have changed.
    pub fn run(&self) {
        loop {
            let changed = core::mem::take(&mut *self.changed.lock());
            if changed.is_empty() {
                return;
            }
            changed.iter().filter_map(Weak::upgrade).for_each(|poll| poll.look());
        }
    }
}

pub(super) struct PollRequest {
    me: Weak<PollRequest>,
    pub(super) request: Request,
    context: Weak<AioContext>,
    service: &'static PollService,
    wanted: Events,
    /// `None` when it is completed: what it waits for is not kept by it any more.
    waits: Mutex<Option<Waits>>,
    /// It is on the service's list.
    listed: AtomicBool,
}

struct Waits {
    file: Arc<OpenFile>,
    registrations: Vec<Registration>,
}

impl PollRequest {
    pub(super) fn new(
        request: Request,
        file: Arc<OpenFile>,
        wanted: Events,
        service: &'static PollService,
        context: &Arc<AioContext>,
    ) -> Arc<Self> {
        let waits = Mutex::new(Some(Waits { file, registrations: Vec::new() }));
        let wanted = wanted | Events::ALWAYS;
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            request,
            context: Arc::downgrade(context),
            service,
            wanted,
            waits,
            listed: AtomicBool::new(false),
        })
    }

    /// Registers with the file and looks at it.
    pub(super) fn begin(self: &Arc<Self>) {
        let file = self.waits.lock().as_ref().map(|waits| waits.file.clone());
        let Some(file) = file else { return };
        let mut registrations = Vec::new();
        file.file().poll_queues(&mut |queue| registrations.push(queue.register(self.clone())));
        match &mut *self.waits.lock() {
            Some(waits) => core::mem::swap(&mut waits.registrations, &mut registrations),
            // Cancelled meanwhile: the registrations end here.
            None => return,
        }
        self.look();
    }

    /// Completes the request if the file is ready.
    fn look(&self) {
        // Before the look: a change from now on lists it again.
        self.listed.store(false, Ordering::Relaxed);
        // Pairs with the fence of the wake: either we see the change, or the wake sees that we are not listed.
        fence(Ordering::SeqCst);
        let file = self.waits.lock().as_ref().map(|waits| waits.file.clone());
        let ready = file.map_or(Events::empty(), |file| file.poll() & self.wanted);
        if !ready.is_empty()
            && let Some(context) = self.context.upgrade()
        {
            context.finish(self, i64::from(ready.bits()));
        }
    }

    /// It is completed.
    pub(super) fn end(&self) {
        let waits = self.waits.lock().take();
        // The last reference to the file may go here, with no lock held.
        drop(waits);
    }
}

impl Notify for PollRequest {
    fn notify(&self) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.service.add(self.me.clone());
        }
    }
}
