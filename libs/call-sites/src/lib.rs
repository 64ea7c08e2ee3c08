//! Call sites: `syscall` instructions of a program that are replaced by a jump.
//!
//! The program runs in ring 0, so a system call need not be more than a call. A site that is executed often is rewritten to a five-byte jump
//! to a *stub* beside the program's code, which goes to the kernel's entry with the return address in RCX, where `syscall` would have put it.
//! Nothing is pushed: the program's red zone survives.
//!
//! [`pattern`] decides what may be rewritten, [`stub`] what it is rewritten to, [`Table`] remembers it. How the bytes get into the program's
//! memory while other CPUs execute them is `linux/src/calls/` and `kernel/src/text_poke.rs`.
//!
//! | pattern | at the site | in the stub |
//! |---|---|---|
//! | [`Pattern::Number`] | `mov $nr,%eax` (`syscall` stays behind it) | `mov $nr,%eax; lea site+7(%rip),%rcx; jmp *entry` |
//! | [`Pattern::Compare`] | `syscall` and most of `cmp $-4095,%rax` | `lea 1f(%rip),%rcx; jmp *entry; 1: cmp $-4095,%rax; jmp site+8` |
//!
//! **What the program sees.** A thread may be interrupted in a stub. No debugger or unwinder of the program knows that place, so a signal
//! frame shows an address at the site instead that means the same ([`Table::program_point`]). With `Number` that always exists. With
//! `Compare`, behind the call, it is the instruction after the comparison, with the flags that this one would have set.
//!
//! **What is in flight.** `Number` replaces one instruction, so no thread can stand inside it. With `Compare` a thread may stand at `site+2`: in the
//! kernel, or in a signal frame that was saved earlier. [`Table::settled`] says where it goes on. The table learns of a site before its
//! first byte changes, and forgets the stub of a site never, so every question has an answer.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod pattern;
pub mod stub;
mod table;

pub use pattern::{Pattern, Rejection, Site};
pub use stub::{JUMP, STUB};
pub use table::{Patched, Point, Table, place_near};
