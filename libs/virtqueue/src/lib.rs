//! The split virtqueue of virtio 1.2 (§2.7), driver side, over memory the caller provides.
//!
//! Key types: [`Virtqueue`], a ring of buffer chains each carrying a token of the caller's, and [`Region`], memory both
//! sides can reach. `drivers::virtio` builds queues on it; nothing here knows a transport.
//!
//! **Theory.** The driver owns the descriptor table and the *available* ring; the device owns the *used* ring. Driver →
//! device: descriptors and ring entry are written, then `avail.idx` is stored with `Release`. Device → driver: the used
//! entry is written, then `used.idx`, which [`Virtqueue::pop`] loads with `Acquire`. Each side also tells the other when
//! it wants to be notified (a flag, or with EVENT_IDX an index). "I publish, then look whether you want to know" against
//! "I say I want to know, then look whether you published" is a store followed by a load on both sides; the `SeqCst`
//! fences in [`Virtqueue::needs_notify`] and [`Virtqueue::enable_interrupts`] keep them in order, otherwise both could
//! miss the other and sleep for ever.
//!
//! **Trust.** The device may be anybody's. All state the driver needs back (free list, chain lengths, capacities) is kept
//! in private memory and never read from the shared table. Everything read from the used ring is checked; the first
//! [`Violation`] makes the queue broken for good.

#![cfg_attr(not(test), no_std)]
#![expect(unsafe_code, reason = "rings live in memory shared with a device and are accessed by raw pointers")]

extern crate alloc;
#[cfg(feature = "fake")]
extern crate std;

mod layout;
mod queue;
mod region;

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(test)]
mod tests;

pub use layout::{Layout, MAX_SIZE};
pub use queue::{Completion, CreateError, Features, Full, Segment, Violation, Virtqueue};
pub use region::Region;
