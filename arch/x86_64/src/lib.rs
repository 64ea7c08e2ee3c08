//! The x86-64 CPU: boot, descriptor tables, traps, context switch, APIC, SMP start-up.
//!
//! Mechanism only: what a trap means, which thread runs next and where memory comes from is decided in `kernel`.
//! Reading path: `boot.S` (PVH entry) calls `kernel_main` in `kernel/src/boot.rs`.
#![cfg_attr(not(test), no_std)]
#![expect(unsafe_code, reason = "this crate is the processor's registers and instructions")]

pub mod apic;
pub mod boot;
pub mod cpu;
pub mod fpu;
pub mod gdt;
pub mod idt;
pub mod ioapic;
pub mod machine_check;
pub mod msr;
pub mod paging;
pub mod percpu;
pub mod port;
pub mod smp;
pub mod switch;
pub mod syscall;
mod mem;
mod trap_frame;
pub mod user;
pub mod user_state;

pub use mem::zero_pages;
pub use trap_frame::{FRAME_SIZE, TrapFrame};
