//! The bootable kernel binary: links the kernel and the Linux personality together, nothing else.
//!
//! Execution starts at `pvh_start` (arch/x86_64/src/boot.S), which calls `kernel_main` (kernel/src/boot.rs).

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "defines the unwinder symbols that the prebuilt `alloc` refers to")]

use kernel as _;
use linux as _;

/// Referenced by the prebuilt standard crates; never called, because panics do not unwind here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Referenced by the prebuilt standard crates; never called, because panics do not unwind here.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding started in a kernel that cannot unwind")
}
