//! Device drivers, one folder each.
//!
//! No globals: a driver is a value made from a [`virtio::Transport`] and a [`DmaMemory`], both given by the kernel.
//! **Interrupts only wake threads**: each virtio driver has a `service` function, which the kernel calls from a thread
//! of its own whenever the device's interrupt has fired (and may call at any other time). `service` acknowledges the
//! device, collects finished buffers and wakes waiting threads. All other functions are for ordinary threads, which
//! sleep on [`sync::WaitQueue`]s.
//!
//! [`msix`] is the table by which PCI devices of any kind interrupt. [`serial`] and [`debug_exit`] are for the kernel's log, its panic path and its end; they need nothing at all.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod debug_exit;
mod dma;
pub mod msix;
pub mod serial;
pub mod virtio;
pub mod virtio_balloon;
pub mod virtio_console;
pub mod virtio_rng;

pub use dma::DmaMemory;
pub use virtio::Error;
