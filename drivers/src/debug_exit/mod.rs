//! QEMU's `isa-debug-exit` device: a byte written to its port ends QEMU with status `2 × byte + 1`.
#![expect(unsafe_code, reason = "port I/O")]

use arch_x86_64::port::outb;

/// Where `oxv` puts the device.
pub const PORT: u16 = 0xf4;
/// The program ended; QEMU exits with 1.
pub const DONE: u8 = 0x00;
/// The kernel panicked; QEMU exits with 253.
pub const PANIC: u8 = 0x7e;
/// The kernel itself needed memory and there was none, so the program was ended; QEMU exits with 251.
pub const NO_MEMORY: u8 = 0x7d;

/// Ends QEMU. Returns when there is no such device: then nothing has happened.
///
/// # Safety
/// Nothing else may be at [`PORT`].
pub unsafe fn exit(code: u8) {
    // SAFETY: the caller knows what is at the port.
    unsafe { outb(PORT, code) };
}
