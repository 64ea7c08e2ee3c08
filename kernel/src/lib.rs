//! The operating system proper: boot, per-CPU blocks, threads, memory, interrupts, clock, log, panic.
//!
//! Mostly wiring: what can be decided without hardware is in `libs/`, what the CPU does is in `arch/`. `boot.rs` is the
//! table of contents. The Linux personality stands above and registers itself through link-time symbols (`linux_*`).

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod barrier;
pub mod boot;
pub mod clock;
mod console;
pub mod control;
pub mod devices;
pub mod interrupt;
pub mod log;
mod machine;
pub mod mm;
mod nmi;
mod panic;
mod pci;
pub mod percpu;
mod personality;
pub mod power;
pub mod rcu;
mod smp;
pub mod text_poke;
pub mod thread;
pub mod tlb;
pub mod torture;
pub mod trap;
mod watchdog;

pub use boot::boot_info;
