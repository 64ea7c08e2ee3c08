//! [`Semaphore`]: a count of permits.

use lockfree::shim::atomic::{AtomicUsize, Ordering};

use crate::wait_queue::{Interrupt, WaitError, WaitQueue};

/// A counting semaphore.
pub struct Semaphore {
    permits: AtomicUsize,
    queue: WaitQueue,
}

impl Semaphore {
    const_unless_loom! {
        /// A semaphore with some permits.
        #[must_use]
        pub const fn new(permits: usize) -> Self {
            Self { permits: AtomicUsize::new(permits), queue: WaitQueue::new() }
        }
    }

    /// Takes a permit if there is one.
    pub fn try_acquire(&self) -> bool {
        let mut permits = self.permits.load(Ordering::Relaxed);
        while let Some(left) = permits.checked_sub(1) {
            let taken =
                self.permits
                    .compare_exchange(permits, left, Ordering::Acquire, Ordering::Relaxed);
            match taken {
                Ok(_) => return true,
                Err(now) => permits = now,
            }
        }
        false
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
        if mistaken!(SemaphoreWakesTooEarly) {
            self.queue.wake_all();
            self.permits.fetch_add(permits, Ordering::Release);
            return;
        }
        self.permits.fetch_add(permits, Ordering::Release);
        for _ in 0..permits {
            self.queue.wake_one();
        }
    }
}
