//! The PVH entry point in `boot.S`; it calls `kernel_main` (kernel/src/boot.rs).

use core::arch::global_asm;

global_asm!(include_str!("boot.S"), options(att_syntax));
