//! ELF images: what the loader maps, and the initial stack of a new program.

#![cfg_attr(not(test), no_std)]
