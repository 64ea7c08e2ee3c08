//! The ordered map of virtual memory areas of one address space.

#![cfg_attr(not(test), no_std)]
