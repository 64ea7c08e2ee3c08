//! The per-CPU run queue: decaying run-time measure, classes, thread state word.

#![cfg_attr(not(test), no_std)]
