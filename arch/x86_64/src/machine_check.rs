//! The machine-check banks (SDM vol. 3, chapter 16).

use crate::{cpu, msr};
use core::arch::asm;
use core::arch::x86_64::__cpuid;

const CAP: u32 = 0x179;
const STATUS: u32 = 0x17a;
const CONTROL: u32 = 0x17b;
const BANK_CONTROL: u32 = 0x400;
const BANK_STATUS: u32 = 0x401;
const BANK_ADDRESS: u32 = 0x402;
const REGISTERS_PER_BANK: u32 = 4;

const CAP_CONTROL: u64 = 1 << 8;
const CR4_MCE: u64 = 1 << 6;
/// The interrupted program can be gone on with.
const STATUS_RESTARTABLE: u64 = 1;
const BANK_VALID: u64 = 1 << 63;
const BANK_UNCORRECTED: u64 = 1 << 61;
const BANK_HAS_ADDRESS: u64 = 1 << 58;
const BANK_CONTEXT_CORRUPT: u64 = 1 << 57;
const BANK_SIGNALLED: u64 = 1 << 56;
const BANK_ACTION_REQUIRED: u64 = 1 << 55;

/// CPUID: machine-check exception and architecture.
fn has_banks() -> bool {
    const MCE_AND_MCA: u32 = 1 << 7 | 1 << 14;
    __cpuid(1).edx & MCE_AND_MCA == MCE_AND_MCA
}

fn bank_count() -> u32 {
    // SAFETY: CPUID reports the register.
    if has_banks() { (unsafe { msr::read(CAP) } & 0xff) as u32 } else { 0 }
}

/// Enables every bank and the exception on this CPU. Without it, a machine check is a reset.
pub fn init() {
    if !has_banks() {
        return;
    }
    // SAFETY: CPUID reports the registers, and CAP says how many banks and whether there is a common control register.
    unsafe {
        if msr::read(CAP) & CAP_CONTROL != 0 {
            msr::write(CONTROL, u64::MAX);
        }
        for bank in 0..bank_count() {
            msr::write(BANK_CONTROL + bank * REGISTERS_PER_BANK, u64::MAX);
            msr::write(BANK_STATUS + bank * REGISTERS_PER_BANK, 0);
        }
        cpu::without_interrupts(|| {
            let mut cr4: u64;
            asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags));
            cr4 |= CR4_MCE;
            asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
        });
    }
}

/// The global status.
#[derive(Clone, Copy, Debug)]
pub struct State(pub u64);

impl State {
    /// Whether what was interrupted can be gone on with.
    #[must_use]
    pub const fn can_go_on(self) -> bool {
        self.0 & STATUS_RESTARTABLE != 0
    }
}

/// Reads the global status.
#[must_use]
pub fn state() -> State {
    // SAFETY: where there are banks, there is the register.
    State(if has_banks() { unsafe { msr::read(STATUS) } } else { 0 })
}

/// What a bank has recorded.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// Its number.
    pub number: u32,
    /// `IA32_MCi_STATUS`.
    pub status: u64,
    /// Where, if it tells; else 0.
    pub address: u64,
}

impl Bank {
    /// Whether the error damaged the state of the CPU, or must be acted upon before going on (SDM vol. 3, 16.6.3).
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        let is_signalled = self.status & BANK_SIGNALLED != 0;
        let needs_action = self.status & BANK_ACTION_REQUIRED != 0 || !is_signalled;
        self.status & BANK_CONTEXT_CORRUPT != 0 || self.status & BANK_UNCORRECTED != 0 && needs_action
    }
}

/// The banks that have recorded something.
pub fn banks() -> impl Iterator<Item = Bank> {
    (0..bank_count()).filter_map(|number| {
        let base = number * REGISTERS_PER_BANK;
        // SAFETY: CAP counts this bank.
        let status = unsafe { msr::read(BANK_STATUS + base) };
        // SAFETY: as above; the status says that the register holds something.
        let address = if status & BANK_HAS_ADDRESS != 0 { unsafe { msr::read(BANK_ADDRESS + base) } } else { 0 };
        (status & BANK_VALID != 0).then_some(Bank { number, status, address })
    })
}

/// Forgets what the banks have recorded, so that the next machine check does not reset the machine.
pub fn clear() {
    for bank in 0..bank_count() {
        // SAFETY: CAP counts this bank.
        unsafe { msr::write(BANK_STATUS + bank * REGISTERS_PER_BANK, 0) };
    }
    if has_banks() {
        // SAFETY: where there are banks, there is the register.
        unsafe { msr::write(STATUS, 0) };
    }
}
