//! `Frame`: a counted reference to one 4 KiB page of physical memory.

#![cfg_attr(not(test), no_std)]
