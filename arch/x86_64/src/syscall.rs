//! Enabling the `syscall` instruction at CPL 0 (linux-abi.md §2.1).

use crate::{gdt, msr};

/// System-call numbers with a handler and a route; the last one's stands for all larger numbers.
pub const COUNT: usize = 512;

/// What a brief handler answers in other cases than the usual one. No call returns it.
pub const NOT_BRIEF: isize = -4096;

unsafe extern "C" {
    static syscall_entry: u8;
    fn syscall_route_whole();
    fn syscall_route_full();
    fn syscall_route_quiet();
    fn syscall_route_brief();
    static syscall_patched_whole: u8;
    static syscall_patched_full: u8;
    static syscall_patched_quiet: u8;
    static syscall_patched_brief: u8;
    fn call_loudly(function: extern "C" fn(*mut ()), argument: *mut ());
    static syscall_patched_any: u8;
}

/// How much of the program's registers a handler finds in its frame, and what happens to the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// All: for handlers that copy or change the whole frame.
    Whole,
    /// Those that compiled code does not preserve. The rest stays in the registers.
    Full,
    /// As `Full` without the vector registers, which the handler must not touch; so it must not wait either.
    Quiet,
    /// Two handlers: one as with `Quiet` that does the usual case, or answers [`NOT_BRIEF`] and has done nothing; and one as with `Full`.
    Brief,
}

impl Route {
    /// Where the entry code goes on, for the personality's table `linux_routes`.
    #[must_use]
    pub const fn entry(self) -> unsafe extern "C" fn() {
        match self {
            Self::Whole => syscall_route_whole,
            Self::Full => syscall_route_full,
            Self::Quiet => syscall_route_quiet,
            Self::Brief => syscall_route_brief,
        }
    }

    /// Where a stub goes that has the number in RAX and the return address in RCX.
    #[must_use]
    pub fn patched(self) -> u64 {
        match self {
            Self::Whole => &raw const syscall_patched_whole as u64,
            Self::Full => &raw const syscall_patched_full as u64,
            Self::Quiet => &raw const syscall_patched_quiet as u64,
            Self::Brief => &raw const syscall_patched_brief as u64,
        }
    }
}

/// As [`Route::patched`], for whatever number is in RAX.
#[must_use]
pub fn patched_any() -> u64 {
    &raw const syscall_patched_any as u64
}

/// Calls `function` with the program's vector registers saved: for quiet code that comes to something rare. It may wait.
///
/// # Safety
/// The function may be called with the argument.
#[inline]
pub unsafe fn loudly(function: extern "C" fn(*mut ()), argument: *mut ()) {
    // SAFETY: per the contract; the routine keeps all registers that a call keeps.
    unsafe { call_loudly(function, argument) }
}

const EFER_SCE: u64 = 1;
/// RFLAGS bits that `syscall` clears: TF, DF, NT, RF, AC. IF stays: interrupts remain enabled in system calls.
const SFMASK: u64 = 1 << 8 | 1 << 10 | 1 << 14 | 1 << 16 | 1 << 18;

/// Points `syscall` at the kernel's entry on this CPU.
pub fn init() {
    // SAFETY: the registers exist on every x86-64 CPU; the selectors are those of `gdt`.
    unsafe {
        msr::write(msr::EFER, msr::read(msr::EFER) | EFER_SCE);
        msr::write(msr::STAR, u64::from(gdt::CODE) << 32);
        msr::write(msr::LSTAR, &raw const syscall_entry as u64);
        msr::write(msr::SFMASK, SFMASK);
    }
}
