//! Port I/O instructions.

use core::arch::asm;

macro_rules! port_io {
    ($in_name:ident, $out_name:ident, $t:ty, $reg:tt) => {
        /// Reads one value from `port`.
        ///
        /// # Safety
        /// Reading a device register may change the device's state; the caller owns that device.
        #[inline]
        #[must_use]
        pub unsafe fn $in_name(port: u16) -> $t {
            let value: $t;
            // SAFETY: the caller vouches for the device; the instruction touches no memory.
            unsafe { asm!(concat!("in ", $reg, ", dx"), in("dx") port, out($reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        /// Writes one value to `port`.
        ///
        /// # Safety
        /// The caller owns the device behind `port`.
        #[inline]
        pub unsafe fn $out_name(port: u16, value: $t) {
            // SAFETY: the caller vouches for the device; the instruction touches no memory.
            unsafe { asm!(concat!("out dx, ", $reg), in("dx") port, in($reg) value, options(nomem, nostack, preserves_flags)) };
        }
    };
}

port_io!(inb, outb, u8, "al");
port_io!(inw, outw, u16, "ax");
port_io!(inl, outl, u32, "eax");
