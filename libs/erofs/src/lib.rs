//! EROFS, the standard Linux read-only file system: the program's image is one, mapped in place.
//!
//! * [`Image`] and [`Inode`] read an image that lies in memory, without copying: names, symbolic links, extended
//!   attributes and file blocks are slices of it. [`Inode::block`] gives a page of a file as an aligned page of
//!   the image, which the kernel maps into the program. The reader allocates nothing.
//! * `write` (cargo feature `write`, host only) builds images from a tree description. `fsck.erofs` and the
//!   Linux kernel accept them.
//!
//! The format is described in Linux's `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`.
//!
//! # What is supported
//! 4 KiB blocks, compact and extended inodes, the layouts flat-plain and flat-inline, inline and shared extended
//! attributes. Compressed and chunk-based files, several devices and long attribute prefixes are refused with
//! [`Error::Unsupported`].
//!
//! # Trust
//! The reader trusts nothing in the image. Every offset is checked before use, so that a damaged image gives an
//! [`Error`] that names the damage, never a panic, and every call does work bounded by the size of what it was
//! asked for. What the reader does *not* check is the graph: a hostile directory may contain itself, so whoever
//! walks the whole tree bounds the depth.
//!
//! # Why not a crate
//! Looked at: `erofs-rs` 0.3 (no_std reader, MIT/Apache; goes through a backend trait and `bytes`, offers no
//! aligned pages of the image, and does not write) and `composefs` 0.9 (its writer makes composefs images, in
//! which regular files have no data; needs std). The subset that oxv needs is smaller than an adaptor would be.
//!
//! Neighbours: `vfs` mounts an [`Image`] as the root file system; `cli` writes images.

#![cfg_attr(not(any(test, feature = "write")), no_std)]

mod crc32c;
mod dir;
mod error;
mod image;
mod inode;
pub mod layout;
mod xattr;

#[cfg(feature = "write")]
pub mod write;

pub use dir::{DirEntry, ReadDir};
pub use error::{Damage, Error, Unsupported};
pub use image::Image;
pub use inode::{BlockRef, DeviceNumber, Inode, Kind};
pub use xattr::{Xattr, Xattrs};

/// Bytes in a block, the only block size supported: that of a page.
pub const BLOCK_SIZE: usize = 4096;
