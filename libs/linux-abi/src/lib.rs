//! The Linux x86-64 user ABI as data: errno values, structures, flag bits. No behaviour.

#![cfg_attr(not(test), no_std)]

mod errno;
pub use errno::Errno;
