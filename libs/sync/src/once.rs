//! [`OnceCell`], [`Once`]: initialisation by the first comer; the others sleep until it is done.
#![expect(unsafe_code, reason = "the value is shared once it is published")]

use core::cell::UnsafeCell;
use lockfree::shim::atomic::{AtomicU32, Ordering};

use crate::wait_queue::WaitQueue;

const EMPTY: u32 = 0;
const RUNNING: u32 = 1;
const FULL: u32 = 2;

/// A value that is set once. The Release store of `FULL` pairs with the Acquire load in `get`.
pub struct OnceCell<T> {
    state: AtomicU32,
    value: UnsafeCell<Option<T>>,
    queue: WaitQueue,
}

// SAFETY: the value is written by the thread that won EMPTY → RUNNING, and only shared after FULL.
unsafe impl<T: Send + Sync> Sync for OnceCell<T> {}

impl<T> Default for OnceCell<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> OnceCell<T> {
    const_unless_loom! {
        /// An empty cell.
        #[must_use]
        pub const fn new() -> Self {
            Self {
                state: AtomicU32::new(EMPTY),
                value: UnsafeCell::new(None),
                queue: WaitQueue::new(),
            }
        }
    }

    /// The value, if it is set.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != FULL {
            return None;
        }
        // SAFETY: FULL: nobody writes any more.
        unsafe { (*self.value.get()).as_ref() }
    }

    /// The value; the first caller makes it, the others sleep meanwhile.
    ///
    /// Context: may sleep. `make` must not ask this cell.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if self.get().is_none() && self.claim() {
            self.publish(make());
        }
        self.queue.wait(|| self.get())
    }

    /// Sets the value.
    ///
    /// # Errors
    /// The value, if the cell was set or is being set.
    pub fn set(&self, value: T) -> Result<(), T> {
        if !self.claim() {
            return Err(value);
        }
        self.publish(value);
        Ok(())
    }

    fn claim(&self) -> bool {
        self.state
            .compare_exchange(EMPTY, RUNNING, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    fn publish(&self, value: T) {
        // SAFETY: we claimed the cell; nobody reads before FULL.
        unsafe { *self.value.get() = Some(value) };
        if mistaken!(OnceWakesTooEarly) {
            self.queue.wake_all();
            self.state.store(FULL, Ordering::Release);
            return;
        }
        self.state.store(FULL, Ordering::Release);
        self.queue.wake_all();
    }
}

/// Runs something once.
#[derive(Default)]
pub struct Once(OnceCell<()>);

impl Once {
    const_unless_loom! {
        /// Not run yet.
        #[must_use]
        pub const fn new() -> Self {
            Self(OnceCell::new())
        }
    }

    /// Runs `f` if nobody has; returns when it has been run.
    pub fn call_once(&self, f: impl FnOnce()) {
        self.0.get_or_init(f);
    }

    /// Whether it has been run.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.0.get().is_some()
    }
}
