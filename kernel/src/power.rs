//! Ending: exit status to the host, power off.
//!
//! The status goes through the control port (see `control`), because the emulator's own exit code has only 7 bits of
//! room; QEMU's isa-debug-exit device then ends the machine, or ACPI where that is missing.
#![expect(unsafe_code, reason = "port I/O")]

use arch_x86_64::{cpu, port};
use core::sync::atomic::{AtomicU32, Ordering};
use drivers::debug_exit;
use platform::acpi::fadt::PowerOff;

/// What ACPI says: port and value, 16 bits each; 0: nothing.
static ACPI_OFF: AtomicU32 = AtomicU32::new(0);

/// Notes how the machine is switched off.
pub(crate) fn init(power_off: Option<PowerOff>) {
    ACPI_OFF.store(power_off.map_or(0, |off| u32::from(off.port) << 16 | u32::from(off.value)), Ordering::Relaxed);
}

/// How the program ended, as the host is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitStatus {
    /// By `exit` with this code, 0..=255.
    Exited(u8),
    /// By this signal.
    Signalled(u8),
    /// It could not be started, or the kernel could not go on.
    Failed(u8),
}

/// Tells the host how the program ended and powers off.
///
/// Context: thread, may sleep.
pub fn exit(status: ExitStatus) -> ! {
    crate::control::send_exit(status);
    crate::control::flush();
    crate::log::show_all();
    off(debug_exit::DONE)
}

/// Powers off after a panic; the message has been written.
pub(crate) fn off_after_panic() -> ! {
    off(debug_exit::PANIC)
}

/// Powers off because the kernel could not have memory that it cannot do without.
pub(crate) fn off_without_memory() -> ! {
    off(debug_exit::NO_MEMORY)
}

fn off(code: u8) -> ! {
    cpu::disable_interrupts();
    // SAFETY: the port belongs to the debug-exit device; where that is missing, the write does nothing.
    unsafe { debug_exit::exit(code) };
    // No such device.
    let acpi = ACPI_OFF.load(Ordering::Relaxed);
    if acpi != 0 {
        // SAFETY: ACPI names the port for this purpose.
        unsafe { port::outw((acpi >> 16) as u16, acpi as u16) };
    }
    // The machine cannot be switched off. Reset through the keyboard controller, then stop.
    // SAFETY: pulses the reset line of a PC; ends everything.
    unsafe { port::outb(0x64, 0xfe) };
    cpu::halt_forever()
}
