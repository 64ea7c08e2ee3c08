//! The Linux personality: program loading, system calls, signals, /proc.

#![cfg_attr(not(test), no_std)]
