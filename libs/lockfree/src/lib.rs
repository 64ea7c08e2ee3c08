//! Lock-free structures, each small enough to be checked by loom.
//!
//! - [`mutex::RawMutex`]: the core of every sleeping lock, generic over how a thread parks.
//! - [`mpsc::MpscList`]: intrusive list, many pushers, one taker: wake-ups and remote frees.
//! - [`bag::Bag`]: fixed places, anybody puts and takes: the kernel heap's depots.
//! - [`spsc::SpscRing`]: bounded ring between one producer and one consumer.
//! - [`shim`]: the atomics and cells; loom's under `cfg(loom)`, the language's otherwise.
//!
//! Neighbours: `sync` builds the locks that the rest of the tree uses; `runqueue` holds the thread's state word.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lockfree --release loom_` runs the models.
#![cfg_attr(not(any(test, loom)), no_std)]

extern crate alloc;

pub mod bag;
pub mod mpsc;
pub mod mutex;
pub mod shim;
pub mod spsc;

#[cfg(all(test, loom))]
mod loom_tests;
