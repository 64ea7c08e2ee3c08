//! ELF images: what the loader maps, and the initial stack of a new program.
//!
//! Pure logic over bytes; the caller reads the file and does the mapping. In order of use: [`Header::parse`] on the first
//! 64 bytes, [`Image::parse`] on the program headers, [`Image::plan`] once the load bias is chosen,
//! [`stack::StackImage::build`] for what lies at the new stack pointer, [`script::parse`] for `#!` files. Every check
//! that fails says what is wrong with the file ([`ElfError`]).
//!
//! Reference: System V gABI chapter 5, the x86-64 psABI §3.4, and what Linux's loader accepts.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod error;
mod header;
mod image;
pub mod script;
pub mod stack;

pub use error::ElfError;
pub use header::{HEADER_SIZE, Header, Kind, PHDR_SIZE};
pub use image::{Image, Plan, PlanStep, Protection, Segment};
