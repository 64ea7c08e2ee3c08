//! EROFS: the read-only file system of the program image (reader, and writer behind `write`).

#![cfg_attr(not(test), no_std)]
