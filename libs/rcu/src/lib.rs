//! Read-copy-update: readers that write nothing, and writers that wait until no reader can see what they removed.
//!
//! - [`grace::GracePeriods`]: when has every CPU passed a point at which it reads nothing? Pure; the kernel's part, a thread
//!   that runs what was deferred, is `kernel/src/rcu.rs`.
//! - [`slots::SharedSlots`]: numbered slots with shared objects, looked up without a lock: descriptor tables.
//! - [`Domain`], [`Deferred`]: what a structure needs of its surroundings; [`linked::Linked`]: those that the program is linked with.
//!
//! The rule for users: a reader is code with preemption disabled. It takes what it wants to keep by counting a reference,
//! and does not sleep. Interrupt handlers are no readers: an idle CPU counts as one that reads nothing.
//!
//! Neighbours: `lockfree` (atomics), `sync` (the writers' lock).
#![cfg_attr(not(any(test, loom, feature = "std")), no_std)]
#![expect(unsafe_code, reason = "deferred destruction by raw pointers")]

extern crate alloc;

use alloc::boxed::Box;
use alloc::sync::Weak;

pub mod grace;
pub mod linked;
pub mod slots;
#[cfg(feature = "std")]
mod std_backend;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod stress;

/// Something to be done after a grace period, once.
pub struct Deferred {
    run: unsafe fn(*mut ()),
    data: *mut (),
}

// SAFETY: made only of things that may be dropped by any thread.
unsafe impl Send for Deferred {}

impl Deferred {
    /// Frees what [`Box::into_raw`] gave.
    ///
    /// # Safety
    /// `object` comes from there, and nobody can reach it any more but the readers that the grace period waits for.
    #[must_use]
    pub unsafe fn free<T: Send + 'static>(object: *mut T) -> Self {
        /// # Safety
        /// `data` comes from the call below and is given once.
        unsafe fn run<T>(data: *mut ()) {
            // SAFETY: per the contract.
            drop(unsafe { Box::from_raw(data.cast::<T>()) });
        }
        Self { run: run::<T>, data: object.cast() }
    }

    /// Gives back a weak reference, and with the last one the memory.
    #[must_use]
    pub fn drop_weak<T: Send + Sync + 'static>(object: Weak<T>) -> Self {
        /// # Safety
        /// `data` comes from the call below and is given once.
        unsafe fn run<T>(data: *mut ()) {
            // SAFETY: per the contract.
            drop(unsafe { Weak::from_raw(data.cast_const().cast::<T>()) });
        }
        Self { run: run::<T>, data: object.into_raw().cast_mut().cast() }
    }

    /// Does it. The grace period is over.
    pub fn call(self) {
        // SAFETY: the pair was made by one of the constructors, and `self` is used up.
        unsafe { (self.run)(self.data) }
    }
}

/// Where readers are, and who waits for them: the kernel, or a test.
pub trait Domain {
    /// While it lives, what the running thread has seen stays.
    type Reading;

    /// Begins to read.
    fn read() -> Self::Reading;

    /// Has `action` done after a grace period.
    ///
    /// Context: may sleep; not while reading.
    fn defer(action: Deferred);
}
