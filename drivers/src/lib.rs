//! Device drivers, one folder each.

#![cfg_attr(not(test), no_std)]
