//! The split virtqueue of the virtio specification, driver side.

#![cfg_attr(not(test), no_std)]
