//! Time: the monotonic and real-time clocks, and this CPU's one-shot timer.
//!
//! The monotonic clock is the TSC, scaled (platform::clock finds its frequency). The vDSO reads the same parameters.
#![expect(unsafe_code, reason = "the boot-time timers are hardware")]

use crate::machine::Machine;
use crate::percpu::MAX_CPUS;
use addr::{PhysAddr, layout};
use arch_x86_64::{apic, cpu};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use platform::clock::hw::{self, TscFrequency};
use platform::clock::pvclock::{VcpuTime, WallClock};
use platform::clock::steal::StealTime;
use platform::clock::{Confidence, Counter, Estimate, Hypervisor, Scale};

static BASE_TSC: AtomicU64 = AtomicU64::new(0);
static MULT: AtomicU64 = AtomicU64::new(1);
static SHIFT: AtomicU32 = AtomicU32::new(0);
static HZ: AtomicU64 = AtomicU64::new(0);
/// Unix time in nanoseconds when the monotonic clock read 0.
static REALTIME_BASE: AtomicU64 = AtomicU64::new(0);
/// APIC timer ticks per second; 0 with TSC deadlines, and before it is known.
static APIC_HZ: AtomicU64 = AtomicU64::new(0);

/// What the vDSO needs to compute the clocks: `(tsc - base_tsc) * mult >> shift` nanoseconds, with a 128-bit product.
#[derive(Clone, Copy, Debug)]
pub struct VdsoParameters {
    /// TSC at monotonic time 0.
    pub base_tsc: u64,
    /// Multiplier.
    pub mult: u64,
    /// Right shift, 0..=63.
    pub shift: u32,
    /// Unix time in nanoseconds at monotonic time 0.
    pub realtime_base_ns: u64,
}

/// Finds out how fast the TSC runs and what time it is. On the first CPU, its APIC enabled, before threads.
pub(crate) fn init(machine: &Machine) {
    let found = kvm_frequency().or_else(|| calibrated(machine));
    let hz = found.as_ref().map_or(FALLBACK_HZ, |found| found.estimate.hz);
    let scale = Scale::ticks_to_ns(hz).expect("a frequency is not zero");
    MULT.store(scale.mult, Ordering::Relaxed);
    SHIFT.store(scale.shift, Ordering::Relaxed);
    HZ.store(hz, Ordering::Relaxed);
    BASE_TSC.store(cpu::rdtsc(), Ordering::Relaxed);
    REALTIME_BASE.store(boot_time_ns(machine), Ordering::Relaxed);
    match found {
        Some(found) => log::info!("clock: TSC at {hz} Hz ({found:?})"),
        None => log::warn!("clock: no timer to calibrate the TSC with; assuming {FALLBACK_HZ} Hz, times will be wrong"),
    }
}

static KVM_TIME: VcpuTime = VcpuTime::new();
static KVM_WALL: WallClock = WallClock::new();

fn physical<T>(page: &'static T) -> PhysAddr {
    PhysAddr(page as *const T as u64 - layout::KERNEL_OFFSET)
}

static STEAL_ACCOUNTS: [StealTime; MAX_CPUS] = [const { StealTime::new() }; MAX_CPUS];

/// The account of the time that the host takes from this CPU, number `cpu`, if it keeps one. Once per CPU, on it.
pub(crate) fn open_steal_account(cpu: usize) -> Option<&'static StealTime> {
    let account = &STEAL_ACCOUNTS[cpu];
    // SAFETY: the structure is a static of the kernel image, and only this CPU has the number.
    unsafe { hw::open_steal_account(account, physical(account)) }
}

/// What KVM says about the TSC, if this is KVM.
fn kvm_frequency() -> Option<TscFrequency> {
    let msrs = hw::KvmClock::offered()?;
    // SAFETY: the page is a static of the kernel image, used by this CPU only.
    let clock = unsafe { hw::KvmClock::enable(msrs, &KVM_TIME, physical(&KVM_TIME)) };
    let (snapshot, _) = clock.page().read(hw::tsc)?;
    Some(TscFrequency { estimate: Estimate { hz: snapshot.tsc_hz()?, error: 0 }, source: hw::Source::Cpuid })
}

/// Ticks per second of the APIC timer that QEMU and KVM emulate.
const EMULATED_APIC_HZ: u64 = 1_000_000_000 / apic::TIMER_DIVISOR as u64;

/// Measures the TSC against the two best timers of the machine: the ACPI PM timer, the PIT, the APIC's timer where its rate
/// is known (QEMU and KVM run it at 1 GHz before division). If the PIT confirms that rate, the APIC's timer need not be measured again.
fn calibrated(machine: &Machine) -> Option<TscFrequency> {
    // SAFETY: nobody else uses these timers.
    let mut pit = unsafe { hw::Pit::start() };
    // SAFETY: as above; ACPI names the port.
    let mut pm = machine.fadt.as_ref().and_then(|fadt| fadt.pm_timer).map(|timer| unsafe { hw::AcpiPmTimer::new(timer) });
    let apic_counter = Counter { hz: EMULATED_APIC_HZ, bits: 32 };
    let mut apic_timer = hw::Polled::new(apic_counter, || u64::from(u32::MAX - apic::timer_ticks()));
    let apic_known = matches!(hw::hypervisor(), Hypervisor::Tcg | Hypervisor::Kvm);
    match &mut pm {
        Some(pm) => hw::tsc_frequency(&mut [pm, &mut pit]),
        None if apic_known => {
            apic::set_timer_ticks(u32::MAX);
            let found = hw::tsc_frequency(&mut [&mut pit, &mut apic_timer]);
            apic::set_timer_ticks(0);
            let is_right = found.as_ref().is_some_and(|found| found.source == hw::Source::Calibration(Confidence::Confirmed));
            APIC_HZ.store(if is_right { EMULATED_APIC_HZ } else { 0 }, Ordering::Relaxed);
            found
        }
        None => hw::tsc_frequency(&mut [&mut pit]),
    }
}

/// Unix time now, in nanoseconds: from KVM, or in whole seconds from the CMOS clock.
fn boot_time_ns(machine: &Machine) -> u64 {
    // SAFETY: the page is a static of the kernel image.
    let kvm = hw::KvmClock::offered().and_then(|msrs| unsafe { hw::kvm_boot_time_ns(msrs, &KVM_WALL, physical(&KVM_WALL)) });
    let century = machine.fadt.as_ref().and_then(|fadt| fadt.century);
    // SAFETY: only this CPU runs, nobody else uses the CMOS clock.
    kvm.or_else(|| unsafe { hw::cmos_unix_seconds(century) }.map(|seconds| seconds * 1_000_000_000)).unwrap_or(0)
}

/// Assumed when nothing tells: better a wrong clock, said to be wrong, than none.
const FALLBACK_HZ: u64 = 1_000_000_000;

/// Nanoseconds since boot; never goes back.
#[inline]
#[must_use]
pub fn monotonic_ns() -> u64 {
    scale().apply(cpu::rdtsc().wrapping_sub(BASE_TSC.load(Ordering::Relaxed)))
}

/// The monotonic time at which the time-stamp counter read `tsc`.
#[inline]
pub(crate) fn at_tsc(tsc: u64) -> u64 {
    scale().apply(tsc.wrapping_sub(BASE_TSC.load(Ordering::Relaxed)))
}

/// A difference of the time-stamp counter in nanoseconds.
#[inline]
pub(crate) fn ticks_to_ns(ticks: u64) -> u64 {
    scale().apply(ticks)
}

/// Unix time in nanoseconds.
#[inline]
#[must_use]
pub fn realtime_ns() -> u64 {
    REALTIME_BASE.load(Ordering::Relaxed) + monotonic_ns()
}

/// Sets the real-time clock.
pub fn set_realtime_ns(now: u64) {
    REALTIME_BASE.store(now.saturating_sub(monotonic_ns()), Ordering::Relaxed);
}

/// The numbers behind both clocks.
#[must_use]
pub fn vdso_parameters() -> VdsoParameters {
    VdsoParameters {
        base_tsc: BASE_TSC.load(Ordering::Relaxed),
        mult: MULT.load(Ordering::Relaxed),
        shift: SHIFT.load(Ordering::Relaxed),
        realtime_base_ns: REALTIME_BASE.load(Ordering::Relaxed),
    }
}

/// TSC ticks per second.
#[must_use]
pub fn tsc_hz() -> u64 {
    HZ.load(Ordering::Relaxed)
}

fn scale() -> Scale {
    Scale { mult: MULT.load(Ordering::Relaxed), shift: SHIFT.load(Ordering::Relaxed) }
}

/// How long the APIC timer is watched to learn its rate, in nanoseconds.
const APIC_CALIBRATION_NS: u64 = 1_000_000;
/// Readings at each end of the calibration; the one with the tightest TSC bracket counts.
const APIC_READINGS: usize = 8;

/// Measures the APIC timer against the TSC, if it is needed and not known: without TSC deadlines. On the first CPU, before threads.
pub(crate) fn init_apic_timer() {
    if apic::has_tsc_deadline() || APIC_HZ.load(Ordering::Relaxed) != 0 {
        return;
    }
    apic::set_timer_ticks(u32::MAX);
    let (start_ns, start_ticks) = apic_reading();
    while monotonic_ns() < start_ns + APIC_CALIBRATION_NS {
        // Watching the clock; at most a millisecond, before there are threads.
    }
    let (end_ns, end_ticks) = apic_reading();
    apic::set_timer_ticks(0);
    let ticks = u64::from(start_ticks - end_ticks);
    APIC_HZ.store(ticks * 1_000_000_000 / (end_ns - start_ns), Ordering::Relaxed);
}

/// Reads the APIC timer and the clock at the same moment, as nearly as a busy host allows.
fn apic_reading() -> (u64, u32) {
    let one = || {
        let before = monotonic_ns();
        let ticks = apic::timer_ticks();
        let after = monotonic_ns();
        (after - before, before + (after - before) / 2, ticks)
    };
    let (_, ns, ticks) = (0..APIC_READINGS).map(|_| one()).min().expect("at least one reading");
    (ns, ticks)
}

/// Raises this CPU's timer interrupt at `deadline_ns` (monotonic) or a little later; at once if that has passed.
pub(crate) fn arm_timer(deadline_ns: u64) {
    let delta = deadline_ns.saturating_sub(monotonic_ns());
    if apic::has_tsc_deadline() {
        let ticks = u128::from(delta) * u128::from(tsc_hz()) / 1_000_000_000;
        apic::set_tsc_deadline(cpu::rdtsc() + u64::try_from(ticks).unwrap_or(u64::MAX / 2).max(1));
    } else {
        let ticks = u128::from(delta) * u128::from(APIC_HZ.load(Ordering::Relaxed)) / 1_000_000_000 + 1;
        apic::set_timer_ticks(u32::try_from(ticks).unwrap_or(u32::MAX));
    }
}
