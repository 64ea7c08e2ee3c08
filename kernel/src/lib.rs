//! The operating system proper: boot, per-CPU blocks, threads, memory, clock, log, panic.

#![cfg_attr(not(test), no_std)]
