//! Lock-free structures: the mutex core, MPSC list, SPSC ring.

#![cfg_attr(not(test), no_std)]
