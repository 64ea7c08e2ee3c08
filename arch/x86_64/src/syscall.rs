//! Enabling the `syscall` instruction at CPL 0 (linux-abi.md §2.1).

use crate::{gdt, msr};

unsafe extern "C" {
    static syscall_entry: u8;
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
