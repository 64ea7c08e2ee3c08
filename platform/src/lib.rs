//! What the machine is: PVH start info, memory map, command line, ACPI tables, clocks.
//!
//! Everything that only decodes bytes is pure and host-tested: [`pvh`], [`cmdline`], [`acpi`], [`mptable`], and the
//! arithmetic of [`clock`]. What touches ports, MSRs or device registers is in `clock`'s hardware modules ([`clock::hw`])
//! and is a thin layer over the pure part. Nothing here allocates, so all of it works before the heap exists.
//!
//! Physical memory is reached through [`PhysMemory`], which the caller implements for whatever mapping it has at the
//! time (identity map at entry, direct map later). The first user is `kernel::boot`.

#![cfg_attr(not(test), no_std)]

pub mod acpi;
mod bytes;
pub mod clock;
pub mod cmdline;
mod memory;
pub mod memory_map;
pub mod mptable;
pub mod pvh;
pub mod virtio_mmio;

pub use memory::{OffsetMap, PhysMemory};
pub use memory_map::{MemoryKind, MemoryMap, MemoryRegion};
