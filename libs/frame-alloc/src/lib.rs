//! The allocators below `kernel::mm`, as pure logic: physical frames and the size classes of the kernel heap.
//!
//! Key types: [`FrameTable`] (one small entry per frame: reference count and state), [`Buddy`] (blocks of 4 KiB … 1 GiB with
//! coalescing), [`slab`] (per-CPU object caches and the lock-free depot behind them). The kernel owns the global instances,
//! their locks and the memory; nothing here touches hardware.
#![cfg_attr(not(test), no_std)]

mod buddy;
mod list;
mod ranges;
pub mod slab;
mod table;

pub use buddy::{Buddy, Host, MAX_ORDER};
pub use list::FrameList;
pub use ranges::RangeSet;
pub use table::{FrameMeta, FrameTable, LastReference};
