//! Signals without a kernel: pending queues, and where a handler's frame goes.
//!
//! Key types: [`PendingQueue`], one per thread and one per process; [`FrameLayout`], the addresses of what the kernel
//! pushes before a handler runs; [`restart`], what becomes of an interrupted system call. The `linux` crate does the rest.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod layout;
mod pending;
mod restart;

pub use layout::{FrameLayout, RED_ZONE, alternate_stack_holds};
pub use pending::{PendingQueue, Queued};
pub use restart::{Outcome, Resume, resume};
