//! The 16550 UART at COM1: transmit only, for the kernel's log and its last words.
//!
//! No lock: the one who calls owns the port. In ordinary life that is the log thread; while booting the only CPU; in a
//! panic the panicking CPU, after it stopped the others. Two writers at once would mix bytes and nothing worse.
//! Bytes are polled out with a bounded number of looks at the line status, so that a missing or stuck UART loses
//! output instead of hanging the kernel.
#![expect(unsafe_code, reason = "port I/O")]

use arch_x86_64::port::{inb, outb};
use core::sync::atomic::{AtomicBool, Ordering};

/// The last wait was in vain.
static STUCK: AtomicBool = AtomicBool::new(false);

/// I/O port of COM1.
pub const COM1: u16 = 0x3f8;

/// Looks at the line status before bytes are given up: far more than a real UART needs at 115200 baud, and some seconds of an emulated one whose
/// reader is late.
const MAX_LOOKS: u32 = 3_000_000;
/// Looks, once it has been found stuck.
const FEW_LOOKS: u32 = 100;
const LINE_STATUS: u16 = 5;
const TRANSMITTER_EMPTY: u8 = 0x20;
/// Bytes the transmit FIFO takes once it is empty.
const FIFO_LEN: usize = 16;

/// A UART that is set up for output.
#[derive(Clone, Copy, Debug)]
pub struct Serial {
    port: u16,
}

impl Serial {
    /// Sets the UART at `port` to 115200 baud, 8N1, FIFOs on, no interrupts. `None` when there is none.
    ///
    /// # Safety
    /// `port` to `port + 7` are a UART's or nobody's.
    #[must_use]
    pub unsafe fn open(port: u16) -> Option<Self> {
        // SAFETY: the caller grants the ports. The scratch register tells a UART from an empty bus.
        unsafe {
            outb(port + 7, 0x5a);
            if inb(port + 7) != 0x5a {
                return None;
            }
            // Interrupts off; divisor 1 = 115200 baud; 8 data bits, no parity, 1 stop bit; FIFOs on; DTR, RTS, OUT2.
            for (register, value) in [(1, 0x00), (3, 0x80), (0, 0x01), (1, 0x00), (3, 0x03), (2, 0x07), (4, 0x0b)] {
                outb(port + register, value);
            }
        }
        Some(Self { port })
    }

    /// The UART at `port` as somebody set it up before, for the panic path.
    ///
    /// # Safety
    /// As for [`Self::open`].
    #[must_use]
    pub const unsafe fn already_open(port: u16) -> Self {
        Self { port }
    }

    /// Sends bytes as they are; what a stuck UART does not take is lost.
    ///
    /// Context: any.
    pub fn write(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(FIFO_LEN) {
            if !self.wait_empty() {
                return;
            }
            for byte in chunk {
                // SAFETY: the ports are the UART's, as the creator vouched.
                unsafe { outb(self.port, *byte) };
            }
        }
    }

    /// Sends text, with a carriage return before every line feed.
    ///
    /// Context: any.
    pub fn write_text(&self, text: &[u8]) {
        for line in text.split_inclusive(|b| *b == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    self.write(line);
                    self.write(b"\r\n");
                }
                None => self.write(line),
            }
        }
    }

    /// Waits until the transmitter has room for a FIFO's worth of bytes; `false` when it does not get there.
    fn wait_empty(&self) -> bool {
        let looks = if STUCK.load(Ordering::Relaxed) { FEW_LOOKS } else { MAX_LOOKS };
        // SAFETY: as in `write`.
        let is_empty = (0..looks).any(|_| unsafe { inb(self.port + LINE_STATUS) } & TRANSMITTER_EMPTY != 0);
        STUCK.store(!is_empty, Ordering::Relaxed);
        is_empty
    }
}

impl core::fmt::Write for Serial {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        self.write_text(s.as_bytes());
        Ok(())
    }
}
