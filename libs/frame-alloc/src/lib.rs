//! The buddy allocator behind the physical frame allocator, as pure logic.

#![cfg_attr(not(test), no_std)]
