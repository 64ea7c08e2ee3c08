//! The I/O APIC (Intel 82093AA): routes interrupt lines to CPUs.

use addr::VirtAddr;

const SELECT: u64 = 0;
const WINDOW: u64 = 0x10;
const REG_VERSION: u32 = 1;
const REG_REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;

/// How a line signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Level-triggered (as opposed to edge).
    pub level: bool,
    /// Active low (as opposed to high).
    pub active_low: bool,
}

/// One I/O APIC. Two register accesses make one operation, so the owner serialises calls.
#[derive(Debug)]
pub struct IoApic {
    base: VirtAddr,
    gsi_base: u32,
}

impl IoApic {
    /// The I/O APIC whose registers are mapped at `base` and whose first line is `gsi_base`. Masks all its lines.
    ///
    /// # Safety
    /// `base` maps the registers of an I/O APIC that nobody else drives.
    #[must_use]
    pub unsafe fn new(base: VirtAddr, gsi_base: u32) -> Self {
        let this = Self { base, gsi_base };
        for line in 0..this.lines() {
            this.write(REG_REDIRECTION + line * 2, MASKED);
        }
        this
    }

    /// The number of lines.
    #[must_use]
    pub fn lines(&self) -> u32 {
        (self.read(REG_VERSION) >> 16 & 0xff) + 1
    }

    /// Whether `gsi` is one of this I/O APIC's lines.
    #[must_use]
    pub fn owns(&self, gsi: u32) -> bool {
        (self.gsi_base..self.gsi_base + self.lines()).contains(&gsi)
    }

    /// Delivers `gsi` as `vector` to the CPU with `apic_id`.
    pub fn route(&self, gsi: u32, vector: u8, apic_id: u32, line: Line) {
        let register = REG_REDIRECTION + (gsi - self.gsi_base) * 2;
        let flags = if line.level { LEVEL } else { 0 } | if line.active_low { ACTIVE_LOW } else { 0 };
        self.write(register, MASKED);
        self.write(register + 1, apic_id << 24);
        self.write(register, u32::from(vector) | flags);
    }

    /// Delivers `gsi` to nobody.
    pub fn mask(&self, gsi: u32) {
        self.write(REG_REDIRECTION + (gsi - self.gsi_base) * 2, MASKED);
    }

    /// Delivers `gsi`, edge-triggered, as an NMI to the CPU with `apic_id`.
    pub fn route_nmi(&self, gsi: u32, apic_id: u32) {
        const DELIVER_NMI: u32 = 4 << 8;
        let register = REG_REDIRECTION + (gsi - self.gsi_base) * 2;
        self.write(register, MASKED);
        self.write(register + 1, apic_id << 24);
        self.write(register, DELIVER_NMI);
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: `new`'s caller vouched for the mapping.
        unsafe {
            (self.base + SELECT).as_mut_ptr::<u32>().write_volatile(register);
            (self.base + WINDOW).as_ptr::<u32>().read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: `new`'s caller vouched for the mapping.
        unsafe {
            (self.base + SELECT).as_mut_ptr::<u32>().write_volatile(register);
            (self.base + WINDOW).as_mut_ptr::<u32>().write_volatile(value);
        }
    }
}
