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
//! | [`Pattern::Compare`] | `syscall` (`cmp $-4095,%rax` stays behind it) | `lea site+2(%rip),%rcx; jmp *entry` |
//!
//! **One instruction.** Either way the jump takes the place of exactly one instruction, so no thread can stand inside what changes, however long
//! it waited in the kernel or lay in a signal frame, and no jump of the program leads there. A `syscall` has two bytes, a jump five. So
//! the distance of the jump is chosen such that its other three bytes are those which are there already: the first three of the comparison. `cmp
//! $-4095,%rax` is `48 3d 01 f0 ff ff`, so the stub lies in one of the 256 bytes from `site+5+0x013d4800` on; with −4096 from `site+5+0x003d4800`
//! on ([`Site::stub_window`]). The call returns to the comparison, in the program's code.
//!
//! **What the program sees.** A thread may be interrupted in a stub. No debugger or unwinder of the program knows that place, so a signal
//! frame shows the `syscall` instead ([`Table::program_point`]), which has not been made yet. The table learns of a site before its first byte
//! changes, and forgets the stub of a site never, so every question has an answer.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod pattern;
pub mod stub;
mod table;

pub use pattern::{Pattern, Rejection, Site};
pub use stub::{JUMP, STUB};
pub use table::{Patched, Point, Table, place_for};
