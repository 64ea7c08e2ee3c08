//! Device interrupts: each line wakes one thread, which does the device's work.
//!
//! The handler ([`raise`]) marks the vector and unparks its thread; nothing else happens in interrupt context.
#![expect(unsafe_code, reason = "drives the I/O APICs")]

use crate::percpu;
use crate::thread::{self, Class};
use addr::PhysAddr;
use alloc::string::String;
use alloc::vec::Vec;
use arch_x86_64::ioapic::{IoApic, Line};
use core::sync::atomic::{AtomicBool, Ordering};
use linux_abi::Errno;
use sync::{Mutex, OnceCell, ThreadHandle};

/// Vectors for devices.
const FIRST_DEVICE: u8 = 0x30;
const LAST_DEVICE: u8 = 0xef;

struct Slot {
    pending: AtomicBool,
    thread: OnceCell<ThreadHandle>,
}

static SLOTS: [Slot; 256] = [const { Slot { pending: AtomicBool::new(false), thread: OnceCell::new() } }; 256];
static NEXT_VECTOR: Mutex<u8> = Mutex::new(FIRST_DEVICE);
static IO_APICS: Mutex<Vec<IoApic>> = Mutex::new(Vec::new());

/// Takes over an I/O APIC: registers at `address`, first line `gsi_base`.
pub(crate) fn add_io_apic(address: PhysAddr, gsi_base: u32) {
    let base = crate::mm::map_mmio(address, addr::PAGE_SIZE);
    // SAFETY: ACPI names the device; each is added once and driven only under the lock.
    IO_APICS.lock().push(unsafe { IoApic::new(base, gsi_base) });
}

/// Starts a thread that runs `service` once now and after every interrupt on `gsi`.
///
/// Interrupts that arrive while `service` runs make it run again, so none is lost.
///
/// # Errors
/// `ENODEV` if no I/O APIC has that line, `ENOSPC` if vectors have run out, `ENOMEM`.
pub fn spawn_irq_thread(gsi: u32, line: Line, name: &str, mut service: impl FnMut() + Send + 'static) -> Result<(), Errno> {
    let vector = allocate_vector()?;
    let slot = &SLOTS[usize::from(vector)];
    let handle = thread::spawn(name, Class::Driver, move || {
        service();
        loop {
            if slot.pending.swap(false, Ordering::Acquire) {
                service();
            } else {
                thread::park(u64::MAX);
            }
        }
    })?;
    let _first = slot.thread.set(thread::handle(&handle));
    // An interrupt that came before the thread was known would be lost: run once more after the line is routed.
    route(gsi, vector, line)?;
    let _known = raise(vector);
    log::info!("interrupt line {gsi}: vector {vector:#x}, thread {}", String::from(name));
    Ok(())
}

fn allocate_vector() -> Result<u8, Errno> {
    let mut next = NEXT_VECTOR.lock();
    if *next > LAST_DEVICE {
        return Err(Errno::ENOSPC);
    }
    let vector = *next;
    *next += 1;
    Ok(vector)
}

fn route(gsi: u32, vector: u8, line: Line) -> Result<(), Errno> {
    let io_apics = IO_APICS.lock();
    let io_apic = io_apics.iter().find(|io_apic| io_apic.owns(gsi)).ok_or(Errno::ENODEV)?;
    io_apic.route(gsi, vector, percpu::apic_id_of(0), line);
    Ok(())
}

/// Notes an interrupt and wakes its thread; false if the vector is no device's. Context: interrupt.
pub(crate) fn raise(vector: u8) -> bool {
    let slot = &SLOTS[usize::from(vector)];
    let Some(thread) = slot.thread.get() else { return false };
    slot.pending.store(true, Ordering::Release);
    thread.unpark();
    true
}
