//! x86-64 four-level page tables as pure logic over a frame source.

#![cfg_attr(not(test), no_std)]
