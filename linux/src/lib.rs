//! The Linux personality: program loading, system calls, signals, /proc.
//!
//! A system call enters at `linux_syscall` (`entry.rs`), goes through [`table`], and ends in a function of [`sys`].
//! Program memory is reached only through [`user_ptr`]. [`process`] holds what a process and a thread are.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod ctx;
pub mod process;
pub mod sys;
pub mod table;
pub mod user_ptr;
