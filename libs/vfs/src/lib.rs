//! The virtual file system: inodes, path walk, mounts, tmpfs, pipes, poll.

#![cfg_attr(not(test), no_std)]
