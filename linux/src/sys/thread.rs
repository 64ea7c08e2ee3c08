//! Threads: clone, exit, scheduling.
