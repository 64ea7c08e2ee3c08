//! The per-CPU timer queue.

#![cfg_attr(not(test), no_std)]
