//! Leaf calls: system calls that a patched call site makes without taking a stack.
//!
//! They answer with a number that lies at hand. Each only loads: into R11, which system calls clobber, and at last into RAX, and then jumps to
//! RCX. So they may be abandoned before the jump as if they had not begun (`syscall_exit_position` in arch/x86_64/src/idt.rs), which is
//! how a thread that is interrupted in one gets its signals. `cargo xtask lint` looks at their instructions.

#![expect(unsafe_code, reason = "assembly between two link-time symbols")]

use core::arch::global_asm;

use arch_x86_64::percpu::{CURRENT, THREAD_TASK};
use syscalls::Sysno;

use crate::process::{Identity, Task};

global_asm!(
    ".section .text.leaf_calls, \"ax\"",
    ".globl leaf_calls_start",
    "leaf_calls_start:",
    ".globl leaf_gettid",
    "leaf_gettid:",
    "mov r11, gs:[{current}]",
    "mov r11, [r11 + {task}]",
    "mov eax, [r11 + {tid}]",
    "jmp rcx",
    ".macro OWN name, offset",
    ".globl leaf_\\name",
    "leaf_\\name:",
    "mov r11, gs:[{current}]",
    "mov r11, [r11 + {task}]",
    "mov eax, [r11 + {identity} + \\offset]",
    "jmp rcx",
    ".endm",
    "OWN getpid, {pid}",
    "OWN getuid, {ruid}",
    "OWN geteuid, {euid}",
    "OWN getgid, {rgid}",
    "OWN getegid, {egid}",
    ".globl leaf_calls_end",
    "leaf_calls_end:",
    ".text",
    current = const CURRENT,
    task = const THREAD_TASK,
    tid = const Task::TID,
    identity = const Task::IDENTITY,
    pid = const Identity::PID,
    ruid = const Identity::RUID,
    euid = const Identity::EUID,
    rgid = const Identity::RGID,
    egid = const Identity::EGID,
);

unsafe extern "C" {
    static leaf_gettid: u8;
    static leaf_getpid: u8;
    static leaf_getuid: u8;
    static leaf_geteuid: u8;
    static leaf_getgid: u8;
    static leaf_getegid: u8;
}

/// Where a patched call site for the call `number` goes, if it is a leaf call.
pub(super) fn entry(number: u32) -> Option<u64> {
    let leaf = match Sysno::new(number as usize)? {
        Sysno::gettid => &raw const leaf_gettid,
        Sysno::getpid => &raw const leaf_getpid,
        Sysno::getuid => &raw const leaf_getuid,
        Sysno::geteuid => &raw const leaf_geteuid,
        Sysno::getgid => &raw const leaf_getgid,
        Sysno::getegid => &raw const leaf_getegid,
        _ => return None,
    };
    Some(leaf as u64)
}
