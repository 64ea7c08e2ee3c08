//! [`Completion`]: something that happens once.

use lockfree::shim::atomic::{AtomicBool, Ordering};

use crate::wait_queue::{Interrupt, WaitError, WaitQueue};

/// An event that happens once and stays happened.
pub struct Completion {
    done: AtomicBool,
    queue: WaitQueue,
}

impl Default for Completion {
    fn default() -> Self {
        Self::new()
    }
}

impl Completion {
    const_unless_loom! {
        /// Not yet.
        #[must_use]
        pub const fn new() -> Self {
            Self { done: AtomicBool::new(false), queue: WaitQueue::new() }
        }
    }

    /// Lets everybody go on who waits now or later.
    pub fn complete(&self) {
        if mistaken!(CompletionWakesTooEarly) {
            self.queue.wake_all();
            self.done.store(true, Ordering::Release);
            return;
        }
        self.done.store(true, Ordering::Release);
        self.queue.wake_all();
    }

    /// Whether it has happened.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Sleeps until it has happened.
    pub fn wait(&self) {
        self.queue.wait(|| self.is_complete().then_some(()));
    }

    /// Sleeps until it has happened, at most until the deadline or a signal.
    ///
    /// # Errors
    /// As [`WaitQueue::wait_until`].
    pub fn wait_until(
        &self,
        deadline_ns: Option<u64>,
        interrupt: Interrupt,
    ) -> Result<(), WaitError> {
        self.queue
            .wait_until(deadline_ns, interrupt, || self.is_complete().then_some(()))
    }
}
