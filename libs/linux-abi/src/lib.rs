//! The Linux x86-64 user ABI as data: errno values, structures, flag bits. No behaviour.
//!
//! Constants come from `linux-raw-sys` (generated from the kernel headers) through [`raw`], [`auxvec`], [`ioctl`],
//! [`prctl`] and [`system`]. Structures that cross the system-call boundary are written out here, with explicit padding,
//! so that they can be copied as bytes ([`zerocopy`]); their sizes and offsets are checked against the headers by tests.
//!
//! Modules: [`time`], [`fs`], [`signal`], [`sched`], [`process`].

#![cfg_attr(not(test), no_std)]

pub mod aio;
mod errno;
pub mod fs;
pub mod process;
pub mod sched;
pub mod signal;
pub mod time;

pub use errno::Errno;
pub use linux_raw_sys::{auxvec, general as raw, ioctl, prctl, system};
