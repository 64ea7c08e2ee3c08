//! Any bytes as a function's configuration registers: everything a driver asks is asked of it.
#![no_main]

#[path = "../../tests/support/walk.rs"]
mod walk;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| walk::walk(bytes));
