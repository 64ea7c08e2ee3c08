//! Memory: frames, kernel heap, kernel mappings, address spaces.
//!
//! | file | what |
//! |---|---|
//! | `boot.rs` | `init`: from the loader's memory map to the final page tables |
//! | `frames.rs` | the frame allocator: per-CPU stocks in front of the buddy allocator; the back end of `frame::Frame` |
//! | `prezero.rs` | frames zeroed while a CPU has nothing else to do |
//! | `block.rs` | references to the frames of a large page |
//! | `release.rs` | many frames freed at once |
//! | `reporting.rs` | memory lent to the host, and free memory reported to it |
//! | `shrink.rs` | memory pressure: who can give something back |
//! | `heap.rs` | the kernel heap (`GlobalAlloc`) |
//! | `kernel_space.rs` | kernel page tables, MMIO, kernel stacks |
//! | `space/` | `AddressSpace`: areas, page faults, mmap and its relatives |
//! | `shared.rs` | shared anonymous memory |
//!
//! Logic that can be tested without a machine is in the crates `frame-alloc`, `page-table` and `vma`.
//! Next stop on the reading path: `boot.rs` of this folder, then `space/mod.rs`.

mod block;
mod boot;
mod frames;
mod gather;
mod heap;
mod kernel_space;
mod prezero;
mod release;
mod reporting;
mod shared;
pub mod shrink;
mod space;

pub use boot::{MemoryKind, MemoryRegion, drop_identity_map, init};
pub use heap::{SlabInfo, slab_info};
pub(crate) use frames::let_torture_decide;
pub use frames::{ContiguousFrames, MemoryInfo, free_blocks, has_frame_for_program, has_memory_for, memory_info, memory_is_scarce};
pub(crate) use prezero::{has_idle_work, idle_work};
pub(crate) use reporting::{Lender, wait_for_unreported};
pub use kernel_space::{KernelStack, kernel_cr3, map_mmio};
pub use shared::SharedMemory;
pub use space::*;
