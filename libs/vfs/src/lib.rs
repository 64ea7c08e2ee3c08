//! The virtual file system: inodes, path walk, mounts, tmpfs, pipes, poll.
//!
//! Pure logic with Linux's semantics: no globals, no clock, no hardware. Blocking comes from `sync`, memory from `frame`,
//! the time and randomness from function arguments. Layers, lowest first:
//! - [`io`], [`types`]: how bytes move, and plain values;
//! - [`inode`], [`file`]: the two traits every file implements, and [`OpenFile`];
//! - [`dentry`], [`keeper`], [`mount`], [`walk`], [`ops`]: names: from a path to an inode, and the operations on names;
//! - file systems: [`tmpfs`] (also the writable layer over a read-only tree), [`erofs_fs`], [`synth`] (procfs, sysfs);
//! - files that are no file system's: [`pipe`], [`eventfd`], [`timerfd`], [`epoll`], [`inotify`], [`dnotify`], [`devices`], [`tty`].
//!
//! The `linux` crate's `sys/file` and `sys/event` are thin callers of this crate.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod aio;
pub mod anon;
pub mod byte_queue;
pub mod channel;
pub mod dentry;
pub mod devices;
pub mod dnotify;
pub mod epoll;
pub mod erofs_fs;
pub mod eventfd;
pub mod file;
mod handle;
pub mod inode;
pub mod inotify;
pub mod io;
pub mod keeper;
pub mod locks;
pub mod mount;
pub mod ops;
pub mod page;
pub mod pipe;
pub mod poll;
pub mod running;
pub mod synth;
pub mod timerfd;
pub mod tmpfs;
pub mod tty;
pub mod types;
pub mod walk;

pub use dentry::Dentry;
pub use file::{File, OpenFile, SeekFrom};
pub use inode::{Inode, RenameMode};
pub use linux_abi::Errno;
pub use mount::{Location, Mount, MountTable};
pub use types::{
    Access, Clock, Credentials, DirEntry, Events, FileKind, Metadata, NewInode, OpenFlags, SetAttributes, StatFs, Timespec,
};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tree_tests;

/// What every operation of this crate returns: a value, or the error number the system call gives.
pub type Result<T> = core::result::Result<T, Errno>;
