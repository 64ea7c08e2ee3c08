//! The serial port as the kernel's console, for the log and for last words.
//!
//! Ordinary writers are serialised by a [`sync::Mutex`]; a panicking CPU writes without it.
#![expect(unsafe_code, reason = "claims COM1")]

use drivers::serial::{COM1, Serial};
use sync::{Mutex, OnceCell};

static PORT: Mutex<()> = Mutex::new(());
static SERIAL: OnceCell<Option<Serial>> = OnceCell::new();

/// Sets the port up, if there is one.
pub(crate) fn init() {
    // SAFETY: the kernel drives COM1 and nobody else does.
    let _first = SERIAL.set(unsafe { Serial::open(COM1) });
}

/// Writes `text`. Context: thread, may sleep.
pub(crate) fn write(text: &str) {
    let _port = PORT.lock();
    write_emergency(text);
}

/// Writes `text` at once, in any context; may mix with what another CPU is writing.
pub(crate) fn write_emergency(text: &str) {
    if let Some(Some(serial)) = SERIAL.get() {
        serial.write_text(text.as_bytes());
    }
}
