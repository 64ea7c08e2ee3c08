//! The Linux personality: program loading, system calls, signals, /proc.
//!
//! [`start`] mounts the root and starts the program, [`exec`] loads it. A system call enters at `syscall_entry` in arch, goes
//! through [`table`], and ends in a function of [`sys`]. Program memory is reached only through [`user_ptr`]. [`process`] holds
//! what a process and a thread are, [`signal`] how signals reach them.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod brief;
pub mod cpuinfo;
mod calls;
pub mod capabilities;
pub mod ctx;
pub mod devfs;
pub mod entry;
pub mod exec;
mod exit;
mod family;
pub mod fdtable;
mod held;
mod jobs;
mod kmsg;
pub mod mounts;
mod oom;
pub mod process;
pub mod procfs;
mod pty;
pub mod random;
pub mod rseq;
mod scarcity;
pub mod shared;
pub mod signal;
pub mod start;
pub mod stdio;
pub mod sys;
pub mod sysfs;
pub mod table;
pub mod terminal;
pub mod timers;
mod torture;
pub mod user_ptr;
pub mod vdso;
