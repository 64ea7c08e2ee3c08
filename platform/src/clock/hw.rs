//! The hardware side of the clocks: TSC, CPUID, PIT, ACPI PM timer, HPET, CMOS clock, KVM's clock MSRs.
//!
//! [`tsc_frequency`] is the entry: what CPUID states, otherwise calibration against up to two timers. It polls timers
//! with a bounded number of reads, before other CPUs and threads run; nothing here may be called later, except
//! [`tsc`] and the reading of a [`KvmClock`].
#![expect(unsafe_code, reason = "port I/O, MSRs and memory-mapped timer registers")]

use super::calibrate::{self, Confidence, Counter, Estimate, MAX_SAMPLES, Sample};
use super::cpuid::{self, Hypervisor, KvmClockMsrs, Leaf};
use super::pvclock::{VcpuTime, WallClock};
use super::steal::StealTime;
use super::{NS_PER_SEC, wall};
use crate::acpi::fadt::PmTimer;
use addr::PhysAddr;
use arch_x86_64::{msr, port};
use arrayvec::ArrayVec;

/// The time stamp counter, read after everything before it in program order.
#[inline]
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: both instructions exist on every x86-64 processor and touch no memory.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// Executes CPUID with sub-leaf 0.
#[must_use]
pub fn cpuid(leaf: u32) -> Leaf {
    let r = core::arch::x86_64::__cpuid_count(leaf, 0);
    Leaf { eax: r.eax, ebx: r.ebx, ecx: r.ecx, edx: r.edx }
}

/// Who runs this machine.
#[must_use]
pub fn hypervisor() -> Hypervisor {
    Hypervisor::detect(cpuid)
}

/// A timer of known frequency to calibrate against.
pub trait Reference {
    /// Its frequency and width.
    fn counter(&self) -> Counter;
    /// Reads it between two readings of the TSC, as close together as it goes.
    fn sample(&mut self) -> Sample;
}

/// Channel 0 of the 8254, free-running; stopped again when dropped.
#[derive(Debug)]
pub struct Pit(());

const PIT_CHANNEL_0: u16 = 0x40;
const PIT_COMMAND: u16 = 0x43;

impl Pit {
    /// Starts channel 0 counting down from 65536 over and over. Its interrupt must be masked.
    ///
    /// # Safety
    /// Nobody else uses the PIT while the value lives.
    #[must_use]
    pub unsafe fn start() -> Self {
        // SAFETY: the caller grants the device. Channel 0, low then high byte, mode 2 (rate generator), count 0 = 65536.
        unsafe {
            port::outb(PIT_COMMAND, 0x34);
            port::outb(PIT_CHANNEL_0, 0);
            port::outb(PIT_CHANNEL_0, 0);
        }
        Self(())
    }
}

impl Reference for Pit {
    fn counter(&self) -> Counter {
        Counter { hz: 1_193_182, bits: 16 }
    }

    fn sample(&mut self) -> Sample {
        let before = tsc();
        // SAFETY: the device is ours while `self` lives. The latch command freezes the count, which is then read out.
        unsafe { port::outb(PIT_COMMAND, 0x00) };
        let after = tsc();
        // SAFETY: as above.
        let count = unsafe { u16::from_le_bytes([port::inb(PIT_CHANNEL_0), port::inb(PIT_CHANNEL_0)]) };
        Sample { before, after, count: count.wrapping_neg().into() }
    }
}

impl Drop for Pit {
    fn drop(&mut self) {
        // SAFETY: the device is ours. Mode 0 with count 1 ends at once and stays silent.
        unsafe {
            port::outb(PIT_COMMAND, 0x30);
            port::outb(PIT_CHANNEL_0, 1);
            port::outb(PIT_CHANNEL_0, 0);
        }
    }
}

/// The PIT as a timer that raises its line once, after its longest time (55 ms).
#[derive(Debug)]
pub struct OneShotPit(());

impl OneShotPit {
    /// Takes the PIT over; it stays silent until [`Self::start`].
    ///
    /// # Safety
    /// Nobody else uses the PIT from now on.
    #[must_use]
    pub const unsafe fn claim() -> Self {
        Self(())
    }

    /// Counts down from 65536 once: channel 0, mode 0 (the output rises at the end). Context: any, NMI handlers included.
    pub fn start(&self) {
        // SAFETY: the device is ours since `claim`.
        unsafe {
            port::outb(PIT_COMMAND, 0x30);
            port::outb(PIT_CHANNEL_0, 0);
            port::outb(PIT_CHANNEL_0, 0);
        }
    }

    /// Whether it has counted to its end since it was started. Context: as `start`.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        const READ_BACK_STATUS: u8 = 0xe2;
        const OUTPUT: u8 = 0x80;
        // SAFETY: the device is ours since `claim`. Read-back command: latch the status of channel 0, which holds the output's level.
        unsafe {
            port::outb(PIT_COMMAND, READ_BACK_STATUS);
            port::inb(PIT_CHANNEL_0) & OUTPUT != 0
        }
    }
}

/// ACPI's power management timer.
#[derive(Debug)]
pub struct AcpiPmTimer(PmTimer);

impl AcpiPmTimer {
    /// A reader for the timer that the FADT describes.
    ///
    /// # Safety
    /// The FADT told the truth: reading the port has no side effect.
    #[must_use]
    pub unsafe fn new(timer: PmTimer) -> Self {
        Self(timer)
    }
}

impl Reference for AcpiPmTimer {
    fn counter(&self) -> Counter {
        // Some chips implement 24 bits whatever they announce: 24 are enough.
        Counter { hz: 3_579_545, bits: 24 }
    }

    fn sample(&mut self) -> Sample {
        let before = tsc();
        // SAFETY: the creator vouched for the port.
        let count = unsafe { port::inl(self.0.port) };
        Sample { before, after: tsc(), count: (count & 0xff_ffff).into() }
    }
}

/// The HPET's main counter, of which the low 32 bits are used.
#[derive(Debug)]
pub struct HpetCounter {
    registers: *mut u32,
    hz: u64,
}

const HPET_PERIOD: usize = 1;
const HPET_CONFIG: usize = 4;
const HPET_COUNTER: usize = 0x3c;
const FS_PER_SEC: u64 = 1_000_000_000_000_000;

impl HpetCounter {
    /// Starts the counter; `None` when its period register is nonsense.
    ///
    /// # Safety
    /// `registers` is the device's 1 KiB register block, mapped uncached, and nobody else uses it.
    #[must_use]
    pub unsafe fn start(registers: *mut u32) -> Option<Self> {
        // SAFETY: the caller vouches for the mapping; the register is in its first KiB.
        let period_fs = u64::from(unsafe { registers.add(HPET_PERIOD).read_volatile() });
        // IA-PC HPET 1.0a §2.3.4: at most 100 ns.
        if !(1000..=100_000_000).contains(&period_fs) {
            return None;
        }
        // SAFETY: as above; bit 0 starts the counter.
        unsafe {
            let config = registers.add(HPET_CONFIG);
            config.write_volatile(config.read_volatile() | 1);
        }
        Some(Self { registers, hz: FS_PER_SEC / period_fs })
    }
}

impl Reference for HpetCounter {
    fn counter(&self) -> Counter {
        Counter { hz: self.hz, bits: 32 }
    }

    fn sample(&mut self) -> Sample {
        let before = tsc();
        // SAFETY: the creator vouched for the mapping.
        let count = unsafe { self.registers.add(HPET_COUNTER).read_volatile() };
        Sample { before, after: tsc(), count: count.into() }
    }
}

/// A counter that somebody else drives, such as the local APIC's timer: QEMU and KVM run it at 1 GHz divided by its
/// divisor, which makes it a second timer on machines that only have a PIT.
pub struct Polled<R> {
    counter: Counter,
    read: R,
}

impl<R: FnMut() -> u64> Polled<R> {
    /// A timer of which `read` gives the present count, counting upwards.
    #[must_use]
    pub const fn new(counter: Counter, read: R) -> Self {
        Self { counter, read }
    }
}

impl<R: FnMut() -> u64> Reference for Polled<R> {
    fn counter(&self) -> Counter {
        self.counter
    }

    fn sample(&mut self) -> Sample {
        let before = tsc();
        let count = (self.read)();
        Sample { before, after: tsc(), count }
    }
}

/// [`MAX_SAMPLES`] steps make a series; of each the tightest reading is kept. Where readings are quick and a timer
/// is fine-grained, half a millisecond says enough; the bounds tell, so a short series that does not suffice is only followed by longer ones.
const SERIES: [Series; 5] = [Series { steps_per_sec: 64_000, good_ppm: 100 }, LONG, LONG, LONG, LONG];
const LONG: Series = Series { steps_per_sec: 6000, good_ppm: 300 };

/// How to read a timer, and how tight an estimate must be to be the last.
#[derive(Clone, Copy)]
struct Series {
    steps_per_sec: u64,
    good_ppm: u64,
}

/// So many equal readings in a row mean that the timer stands still.
const DEAD_AFTER_READS: u32 = 20_000;

/// A series of [`MAX_SAMPLES`] readings; fewer from a timer that stands still.
fn series(reference: &mut dyn Reference, steps_per_sec: u64) -> ArrayVec<Sample, MAX_SAMPLES> {
    let counter = reference.counter();
    let mask = if counter.bits >= 64 { u64::MAX } else { (1 << counter.bits) - 1 };
    let step = (counter.hz / steps_per_sec).max(1);
    let mut samples = ArrayVec::new();
    let mut step_start = reference.sample();
    let mut best = step_start;
    let (mut last_count, mut unchanged) = (step_start.count, 0);
    while !samples.is_full() && unchanged < DEAD_AFTER_READS {
        let sample = reference.sample();
        unchanged = if sample.count == last_count { unchanged + 1 } else { 0 };
        last_count = sample.count;
        if sample.after.wrapping_sub(sample.before) < best.after.wrapping_sub(best.before) {
            best = sample;
        }
        if sample.count.wrapping_sub(step_start.count) & mask >= step {
            samples.push(best);
            step_start = reference.sample();
            best = step_start;
        }
    }
    samples
}

/// Where a TSC frequency comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CPUID or the hypervisor stated it.
    Cpuid,
    /// Measured against timers.
    Calibration(Confidence),
}

/// The TSC's frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscFrequency {
    /// Frequency and error bound (zero when stated).
    pub estimate: Estimate,
    /// How it was found.
    pub source: Source,
}

/// The TSC's frequency, stated or measured. The first of `timers` is the preferred one, the second confirms it. `None`
/// when nothing states it and no timer runs. Takes no time when stated, otherwise half a
/// millisecond for each timer, 5 ms where readings are slow, up to 20 ms on a busy host.
///
/// Context: boot, one CPU, interrupts off.
#[must_use]
pub fn tsc_frequency(timers: &mut [&mut dyn Reference]) -> Option<TscFrequency> {
    if let Some(hz) = cpuid::tsc_hz(cpuid) {
        return Some(TscFrequency { estimate: Estimate { hz, error: 0 }, source: Source::Cpuid });
    }
    let mut result = None;
    for Series { steps_per_sec, good_ppm } in SERIES {
        let mut estimates = timers.iter_mut().map(|timer| measure(&mut **timer, steps_per_sec));
        let (first, second) = (estimates.next().flatten(), estimates.next().flatten());
        let Some((estimate, confidence)) = calibrate::cross_check(first, second) else { continue };
        let estimate = snap_to_gigahertz(estimate);
        result = better(result, TscFrequency { estimate, source: Source::Calibration(confidence) });
        if confidence != Confidence::Disputed && estimate.error_ppm() <= good_ppm {
            break;
        }
    }
    result
}

fn measure(timer: &mut dyn Reference, steps_per_sec: u64) -> Option<Estimate> {
    let samples = series(timer, steps_per_sec);
    calibrate::estimate(&samples, timer.counter()).ok()
}

fn better(old: Option<TscFrequency>, new: TscFrequency) -> Option<TscFrequency> {
    let disputed = |f: &TscFrequency| f.source == Source::Calibration(Confidence::Disputed);
    match old {
        Some(old) if (disputed(&old), old.estimate.error) <= (disputed(&new), new.estimate.error) => Some(old),
        _ => Some(new),
    }
}

/// QEMU with `-icount` counts nanoseconds in the TSC: a measurement that allows exactly 1 GHz means it.
fn snap_to_gigahertz(estimate: Estimate) -> Estimate {
    if hypervisor() == Hypervisor::Tcg && estimate.hz.abs_diff(NS_PER_SEC) <= estimate.error {
        return Estimate { hz: NS_PER_SEC, error: 0 };
    }
    estimate
}

/// KVM's clock of one CPU. The pages it is made of must stay where they are for ever, so they are `'static`.
#[derive(Clone, Copy, Debug)]
pub struct KvmClock {
    page: &'static VcpuTime,
}

impl KvmClock {
    /// What CPUID offers.
    #[must_use]
    pub fn offered() -> Option<KvmClockMsrs> {
        cpuid::kvm_clock(cpuid)
    }

    /// Makes KVM keep `page`, which lies at `physical`, up to date for the CPU that executes this.
    ///
    /// # Safety
    /// `physical` is the address of `page`; `msrs` comes from [`KvmClock::offered`]; no other CPU uses this page.
    #[must_use]
    pub unsafe fn enable(msrs: KvmClockMsrs, page: &'static VcpuTime, physical: PhysAddr) -> Self {
        // SAFETY: the MSR exists (offered); the host writes only to the page given, which is made of atomics.
        unsafe { msr::write(msrs.system_time, physical.0 | 1) };
        Self { page }
    }

    /// Nanoseconds since boot by the host's account; `None` when the host does not keep the page.
    #[must_use]
    pub fn now_ns(&self) -> Option<u64> {
        let (snapshot, tsc) = self.page.read(tsc)?;
        Some(snapshot.ns_at(tsc))
    }

    /// The page, for its factors and its flag.
    #[must_use]
    pub const fn page(&self) -> &'static VcpuTime {
        self.page
    }
}

/// Opens the account of stolen time of the CPU that executes this, at `physical`, if KVM keeps one.
///
/// # Safety
/// `physical` is the address of `account`, which no other CPU uses.
#[must_use]
pub unsafe fn open_steal_account(account: &'static StealTime, physical: PhysAddr) -> Option<&'static StealTime> {
    const OPEN: u64 = 1;
    let register = cpuid::kvm_steal_time(cpuid)?;
    // SAFETY: the MSR exists (offered); the host writes only to the structure given, which is made of atomics where it is read.
    unsafe { msr::write(register, physical.0 | OPEN) };
    Some(account)
}

/// Asks KVM for the wall clock at boot, in Unix nanoseconds.
///
/// # Safety
/// `physical` is the address of `page`; `msrs` comes from [`KvmClock::offered`].
#[must_use]
pub unsafe fn kvm_boot_time_ns(msrs: KvmClockMsrs, page: &'static WallClock, physical: PhysAddr) -> Option<u64> {
    // SAFETY: as in `KvmClock::enable`; this MSR makes the host fill the structure once.
    unsafe { msr::write(msrs.wall_clock, physical.0) };
    page.boot_time_ns()
}

const CMOS_INDEX: u16 = 0x70;
const CMOS_DATA: u16 = 0x71;
/// Reads of the clock before it counts as broken: an update takes 2 ms at most, a read at least 1 µs.
const CMOS_TRIES: usize = 10_000;

/// Unix time in seconds from the CMOS clock. `century` is the FADT's register number.
///
/// # Safety
/// Nobody else uses ports 0x70 and 0x71 meanwhile.
#[must_use]
pub unsafe fn cmos_unix_seconds(century: Option<u8>) -> Option<u64> {
    let mut last = None;
    for _ in 0..CMOS_TRIES {
        // Bit 7 of register A: an update is under way, the registers are undefined.
        if cmos(0x0a) & 0x80 != 0 {
            continue;
        }
        let now = cmos_registers(century);
        // Two equal readings in a row exclude an update in between.
        if last == Some(now) {
            return now.unix_seconds();
        }
        last = Some(now);
    }
    None
}

fn cmos_registers(century: Option<u8>) -> wall::Registers {
    wall::Registers {
        second: cmos(0),
        minute: cmos(2),
        hour: cmos(4),
        day: cmos(7),
        month: cmos(8),
        year: cmos(9),
        century: century.map(cmos),
        status_b: cmos(0x0b),
    }
}

fn cmos(register: u8) -> u8 {
    // SAFETY: only reached through `cmos_unix_seconds`, whose caller owns the ports.
    unsafe {
        port::outb(CMOS_INDEX, register & 0x7f);
        port::inb(CMOS_DATA)
    }
}
