//! Sleeping synchronisation on the lock-free cores of `lockfree`.
//!
//! - [`Mutex`], [`RwLock`], [`CondVar`], [`Semaphore`], [`Completion`], [`OnceCell`]: what their names say.
//! - [`WaitQueue`]: wait for a condition, with deadline and signals; wake one or all; [`Notify`] registration for
//!   poll and epoll, which wait on many queues at once.
//! - [`WaitTable`]: wait for a key; wake or move those who wait for one. The base of futexes.
//! - [`ThreadHandle`], [`park`]: threads as the backend provides them (see [`backend`]).
//!
//! Nothing here spins. Everything except [`ThreadHandle::unpark`] is for thread context: wake functions take sleeping
//! locks too, so interrupt handlers only unpark a thread. All waits tolerate spurious wake-ups.
//!
//! Neighbours: below, `lockfree::mutex` (the protocol of the mutex); above, everyone. The rules of locking are in
//! `doc/locking.md`.
#![cfg_attr(not(any(test, loom, feature = "std")), no_std)]

extern crate alloc;

/// Declares a `const fn`, or a plain one for models (loom's atomics cannot be made in constants).
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis const fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$meta])*
        $vis const fn $name($($arg: $ty),*) -> $ret $body

        #[cfg(loom)]
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}

/// Whether a model asks for a mistake; never so outside of models.
macro_rules! mistaken {
    ($mistake:ident) => {{
        #[cfg(all(test, loom))]
        let made = crate::mistake::is_made(crate::mistake::Mistake::$mistake);
        #[cfg(not(all(test, loom)))]
        let made = false;
        made
    }};
}

pub mod backend;
mod completion;
mod condvar;
#[cfg(all(test, loom))]
mod mistake;
mod mutex;
mod once;
mod rwlock;
mod semaphore;
#[cfg(all(not(loom), any(test, feature = "std")))]
pub mod std_backend;
mod wait_list;
mod wait_queue;
mod wait_table;

pub use backend::{ThreadHandle, interrupted, loudly, monotonic_ns, park};
pub use completion::Completion;
pub use condvar::CondVar;
pub use mutex::{BriefGuard, Mutex, MutexGuard};
pub use once::{Once, OnceCell};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::Semaphore;
pub use wait_queue::{Interrupt, Notify, Registration, WaitError, WaitQueue};
pub use wait_table::{WaitKey, WaitTable, Woken};

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod stress;
#[cfg(all(test, not(loom)))]
mod wait_table_tests;
