//! [`Semaphore`]: a count of permits.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::wait_queue::{Interrupt, WaitError, WaitQueue};

/// A counting semaphore.
pub struct Semaphore {
    permits: AtomicUsize,
    queue: WaitQueue,
}

impl Semaphore {
    /// A semaphore with some permits.
    #[must_use]
    pub const fn new(permits: usize) -> Self {
        Self { permits: AtomicUsize::new(permits), queue: WaitQueue::new() }
    }

    /// Takes a permit if there is one.
    pub fn try_acquire(&self) -> bool {
        self.permits
            .try_update(Ordering::Acquire, Ordering::Relaxed, |permits| permits.checked_sub(1))
            .is_ok()
    }

    /// Takes a permit, sleeping while there is none.
    pub fn acquire(&self) {
        self.queue.wait(|| self.try_acquire().then_some(()));
    }

    /// Takes a permit, at most until the deadline or a signal.
    ///
    /// # Errors
    /// As [`WaitQueue::wait_until`].
    pub fn acquire_until(
        &self,
        deadline_ns: Option<u64>,
        interrupt: Interrupt,
    ) -> Result<(), WaitError> {
        self.queue
            .wait_until(deadline_ns, interrupt, || self.try_acquire().then_some(()))
    }

    /// Gives permits.
    pub fn release(&self, permits: usize) {
        self.permits.fetch_add(permits, Ordering::Release);
        for _ in 0..permits {
            self.queue.wake_one();
        }
    }
}
