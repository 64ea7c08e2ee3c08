//! The local APIC: end of interrupt, inter-processor interrupts, one-shot timer. x2APIC where the CPU has it, memory-mapped
//! xAPIC otherwise (SDM vol. 3, chapter 11).

use crate::{cpu, msr};
use addr::VirtAddr;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const REG_ID: u32 = 0x20;
const REG_TPR: u32 = 0x80;
const REG_EOI: u32 = 0xb0;
const REG_SVR: u32 = 0xf0;
const REG_ICR: u32 = 0x300;
const REG_ICR_HIGH: u32 = 0x310;
const REG_LVT_TIMER: u32 = 0x320;
const REG_LVT_LINT0: u32 = 0x350;
const REG_LVT_LINT1: u32 = 0x360;
const REG_LVT_ERROR: u32 = 0x370;
const REG_TIMER_INITIAL: u32 = 0x380;
const REG_TIMER_CURRENT: u32 = 0x390;
const REG_TIMER_DIVIDE: u32 = 0x3e0;

const X2APIC_MSR: u32 = 0x800;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_NMI: u32 = 4 << 8;
const ICR_TO_SELF: u32 = 1 << 18;
const LVT_NMI: u32 = 4 << 8;
const ICR_INIT: u32 = 5 << 8;
const ICR_STARTUP: u32 = 6 << 8;
const SVR_ENABLE: u32 = 1 << 8;
const DIVIDE_BY_16: u32 = 3;
/// Timer ticks are the bus clock divided by this.
pub const TIMER_DIVISOR: u32 = 16;

/// Vector of spurious interrupts; never acknowledged.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const MODE_XAPIC: u8 = 1;
const MODE_X2APIC: u8 = 2;
static MODE: AtomicU8 = AtomicU8::new(0);
static MMIO: AtomicU64 = AtomicU64::new(0);

/// Physical address of the memory-mapped registers (used in xAPIC mode).
#[must_use]
pub fn mmio_base() -> addr::PhysAddr {
    // SAFETY: APIC_BASE exists on every x86-64 CPU.
    addr::PhysAddr(unsafe { msr::read(msr::APIC_BASE) } & 0x000f_ffff_ffff_f000)
}

/// Whether the CPU has x2APIC; if not, the registers must be mapped before [`init`].
#[must_use]
pub fn has_x2apic() -> bool {
    __cpuid(1).ecx & (1 << 21) != 0
}

/// Enables this CPU's APIC with every local source masked but the NMI line. `mmio` is where the registers are mapped; unused with x2APIC.
pub fn init(mmio: VirtAddr) {
    // SAFETY: APIC_BASE exists; switching the mode on is allowed from the reset state and idempotent.
    unsafe {
        let base = msr::read(msr::APIC_BASE) | BASE_ENABLE;
        msr::write(msr::APIC_BASE, base);
        if has_x2apic() {
            msr::write(msr::APIC_BASE, base | BASE_X2APIC);
        }
    }
    MMIO.store(mmio.0, Ordering::Relaxed);
    MODE.store(if has_x2apic() { MODE_X2APIC } else { MODE_XAPIC }, Ordering::Relaxed);
    write(REG_TPR, 0);
    for lvt in [REG_LVT_TIMER, REG_LVT_LINT0, REG_LVT_ERROR] {
        write(lvt, LVT_MASKED);
    }
    write(REG_LVT_LINT1, LVT_NMI);
    write(REG_TIMER_DIVIDE, DIVIDE_BY_16);
    write(REG_SVR, SVR_ENABLE | u32::from(SPURIOUS_VECTOR));
}

fn is_x2apic() -> bool {
    MODE.load(Ordering::Relaxed) == MODE_X2APIC
}

fn read(register: u32) -> u32 {
    if is_x2apic() {
        // SAFETY: x2APIC mode is on; the register exists.
        unsafe { msr::read(X2APIC_MSR + (register >> 4)) as u32 }
    } else {
        // SAFETY: `init` was given the mapping of the registers.
        unsafe { ((MMIO.load(Ordering::Relaxed) + u64::from(register)) as *const u32).read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    if is_x2apic() {
        // SAFETY: x2APIC mode is on; the register exists.
        unsafe { msr::write(X2APIC_MSR + (register >> 4), u64::from(value)) }
    } else {
        // SAFETY: `init` was given the mapping of the registers.
        unsafe { ((MMIO.load(Ordering::Relaxed) + u64::from(register)) as *mut u32).write_volatile(value) }
    }
}

/// This CPU's APIC id.
#[must_use]
pub fn id() -> u32 {
    if is_x2apic() { read(REG_ID) } else { read(REG_ID) >> 24 }
}

/// Ends the interrupt in service.
#[inline]
pub fn end_of_interrupt() {
    write(REG_EOI, 0);
}

fn send(apic_id: u32, command: u32) {
    cpu::without_interrupts(|| {
        if is_x2apic() {
            // SAFETY: x2APIC mode is on; one 64-bit write sends the command.
            unsafe { msr::write(X2APIC_MSR + (REG_ICR >> 4), u64::from(apic_id) << 32 | u64::from(command)) }
        } else {
            write(REG_ICR_HIGH, apic_id << 24);
            write(REG_ICR, command);
        }
    });
}

/// Sends `vector` to the CPU with `apic_id`.
pub fn send_ipi(apic_id: u32, vector: u8) {
    // x2APIC writes are not ordered after earlier stores (SDM vol. 3, 11.12.3): the receiver must see what it is woken for.
    core::sync::atomic::fence(Ordering::SeqCst);
    send(apic_id, u32::from(vector) | ICR_ASSERT);
}

/// Sends an NMI to the CPU with `apic_id`. Context: any, NMI handlers included.
pub fn send_nmi(apic_id: u32) {
    if is_x2apic() {
        return send(apic_id, ICR_NMI | ICR_ASSERT);
    }
    // An NMI may have come between the two writes of a `send`, which must find its destination again.
    let destination = read(REG_ICR_HIGH);
    send(apic_id, ICR_NMI | ICR_ASSERT);
    write(REG_ICR_HIGH, destination);
}

/// Sends `vector` to this CPU. Context: any, NMI handlers included.
pub fn send_to_self(vector: u8) {
    const REG_SELF_IPI: u32 = 0x3f0;
    if is_x2apic() { write(REG_SELF_IPI, u32::from(vector)) } else { write(REG_ICR, u32::from(vector) | ICR_ASSERT | ICR_TO_SELF) }
}

/// Sends INIT to the CPU with `apic_id`.
pub fn send_init(apic_id: u32) {
    send(apic_id, ICR_INIT | ICR_ASSERT);
}

/// Sends the start-up interrupt: the CPU begins in real mode at `page << 12`.
pub fn send_startup(apic_id: u32, page: u8) {
    send(apic_id, u32::from(page) | ICR_STARTUP | ICR_ASSERT);
}

/// Whether the timer takes TSC deadlines.
#[must_use]
pub fn has_tsc_deadline() -> bool {
    __cpuid(1).ecx & (1 << 24) != 0
}

/// Prepares this CPU's timer to raise `vector`.
pub fn init_timer(vector: u8) {
    if has_tsc_deadline() {
        write(REG_LVT_TIMER, u32::from(vector) | LVT_TSC_DEADLINE);
        // The mode must be in effect before the first deadline is written (SDM vol. 3, 11.5.4.1).
        core::sync::atomic::fence(Ordering::SeqCst);
    } else {
        write(REG_LVT_TIMER, u32::from(vector));
    }
}

/// Raises the timer interrupt when the TSC reaches `tsc`. Only with [`has_tsc_deadline`].
pub fn set_tsc_deadline(tsc: u64) {
    // SAFETY: CPUID reports the register.
    unsafe { msr::write(msr::TSC_DEADLINE, tsc) };
}

/// Raises the timer interrupt after `ticks` (divided bus clocks); 0 stops the timer.
pub fn set_timer_ticks(ticks: u32) {
    write(REG_TIMER_INITIAL, ticks);
}

/// The timer's current count, in ticks; counts down.
#[must_use]
pub fn timer_ticks() -> u32 {
    read(REG_TIMER_CURRENT)
}
