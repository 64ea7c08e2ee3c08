//! The ordered map of virtual memory areas of one address space.
//!
//! Key types: [`Area`] (a range with one protection, one set of flags and one backing), [`AreaMap`] (disjoint areas in order, which
//! split where a change begins or ends and merge again where neighbours continue each other), [`place`] (where `mmap` puts a mapping).
//! What backs an area is a type parameter, see [`Backing`]. Page tables, locks and files are `kernel::mm`'s.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod area;
mod map;
mod node;
pub mod place;
mod tree;
#[cfg(test)]
mod tests;

pub use area::{Area, AreaFlags, Backing, Prot};
pub use map::AreaMap;
pub use node::OutOfMemory;
