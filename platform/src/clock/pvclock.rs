//! pvclock: the clock page that KVM and Xen keep up to date for each virtual CPU.
//!
//! **Protocol** (Linux `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_SYSTEM_TIME_NEW). The host makes `version` odd,
//! changes the fields, makes it even. The guest reads `version`, the fields and the TSC, and `version` again; unless both
//! were the same even number it tries again. The page of a virtual CPU is only written while that CPU is not running or
//! is in the host, so one retry is the rule; [`MAX_TRIES`] bounds a host that never finishes. Every field is an atomic:
//! the host writes behind the compiler's back. The `Acquire` loads keep the order version → fields → version.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Acquire};

/// Reads of a page before it is given up as broken.
pub const MAX_TRIES: usize = 1000;
/// Flag: the TSCs of all CPUs are in step, one CPU's page is good for all.
const TSC_STABLE: u8 = 1;

/// One CPU's clock page (`pvclock_vcpu_time_info`). Its physical address is given to the host, so it must not move.
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub struct VcpuTime {
    version: AtomicU32,
    pad0: u32,
    tsc_timestamp: AtomicU64,
    system_time: AtomicU64,
    tsc_to_system_mul: AtomicU32,
    tsc_shift: AtomicU8,
    flags: AtomicU8,
    pad: [u8; 2],
}

/// The contents of a clock page at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// TSC at which `system_time` was right.
    pub tsc_timestamp: u64,
    /// Nanoseconds since the guest's boot, as the host counts them.
    pub system_time: u64,
    /// Nanoseconds per (shifted) tick, as a fraction of 2³².
    pub mul: u32,
    /// The tick count is shifted left by this before it is multiplied.
    pub shift: i8,
    /// The TSCs of all CPUs are in step.
    pub stable: bool,
}

impl VcpuTime {
    /// An empty page; the host fills it when its address is written to the MSR.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            pad0: 0,
            tsc_timestamp: AtomicU64::new(0),
            system_time: AtomicU64::new(0),
            tsc_to_system_mul: AtomicU32::new(0),
            tsc_shift: AtomicU8::new(0),
            flags: AtomicU8::new(0),
            pad: [0; 2],
        }
    }

    /// A consistent copy of the page, with the TSC read while it was valid. `None` when the host never filled the page
    /// or never stopped changing it.
    pub fn read(&self, mut tsc: impl FnMut() -> u64) -> Option<(Snapshot, u64)> {
        for _ in 0..MAX_TRIES {
            let version = self.version.load(Acquire);
            let snapshot = self.fields();
            let now = tsc();
            if version & 1 == 0 && self.version.load(Acquire) == version {
                return (snapshot.mul != 0).then_some((snapshot, now));
            }
        }
        None
    }

    fn fields(&self) -> Snapshot {
        Snapshot {
            tsc_timestamp: self.tsc_timestamp.load(Acquire),
            system_time: self.system_time.load(Acquire),
            mul: self.tsc_to_system_mul.load(Acquire),
            shift: self.tsc_shift.load(Acquire).cast_signed(),
            stable: self.flags.load(Acquire) & TSC_STABLE != 0,
        }
    }
}

impl Snapshot {
    /// Nanoseconds since boot at `tsc`. A TSC slightly behind the timestamp (another CPU's) gives the timestamp's time.
    #[must_use]
    pub fn ns_at(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc_timestamp));
        let shift = u32::from(self.shift.unsigned_abs()).min(32);
        let ticks = if self.shift >= 0 { ticks << shift } else { ticks >> shift };
        // At most 96 + 32 bits: ticks of 2^64 shifted by 32 times a 32-bit factor just fit.
        let ns = (ticks * u128::from(self.mul)) >> 32;
        self.system_time.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// The TSC frequency these factors stand for.
    #[must_use]
    pub fn tsc_hz(&self) -> Option<u64> {
        let shift = u32::from(self.shift.unsigned_abs()).min(32);
        let base = 1_000_000_000u128 << 32;
        let per_mul = if self.shift >= 0 { base >> shift } else { base << shift };
        u64::try_from(per_mul.checked_div(self.mul.into())?).ok().filter(|hz| *hz != 0)
    }
}

/// Wall clock time at boot (`pvclock_wall_clock`): add the system time to get the present.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct WallClock {
    version: AtomicU32,
    sec: AtomicU32,
    nsec: AtomicU32,
}

impl WallClock {
    /// An empty structure; the host fills it when its address is written to the MSR.
    #[must_use]
    pub const fn new() -> Self {
        Self { version: AtomicU32::new(0), sec: AtomicU32::new(0), nsec: AtomicU32::new(0) }
    }

    /// Unix time at boot in nanoseconds; `None` when the host did not fill it.
    #[must_use]
    pub fn boot_time_ns(&self) -> Option<u64> {
        for _ in 0..MAX_TRIES {
            let version = self.version.load(Acquire);
            let (sec, nsec) = (self.sec.load(Acquire), self.nsec.load(Acquire));
            if version & 1 == 0 && self.version.load(Acquire) == version {
                return (sec != 0).then(|| u64::from(sec) * 1_000_000_000 + u64::from(nsec));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};
    use core::sync::atomic::Ordering::{Relaxed, SeqCst};

    fn page(mul: u32, shift: i8) -> VcpuTime {
        let page = VcpuTime::new();
        page.version.store(2, Relaxed);
        page.tsc_timestamp.store(1000, Relaxed);
        page.system_time.store(5_000_000, Relaxed);
        page.tsc_to_system_mul.store(mul, Relaxed);
        page.tsc_shift.store(shift.cast_unsigned(), Relaxed);
        page
    }

    #[test]
    fn the_layout_is_the_hosts() {
        assert_eq!(size_of::<VcpuTime>(), 32);
        assert_eq!(offset_of!(VcpuTime, tsc_timestamp), 8);
        assert_eq!(offset_of!(VcpuTime, tsc_to_system_mul), 24);
        assert_eq!(offset_of!(VcpuTime, tsc_shift), 28);
        assert_eq!(offset_of!(VcpuTime, flags), 29);
        assert_eq!(offset_of!(WallClock, nsec), 8);
    }

    #[test]
    fn time_is_system_time_plus_scaled_ticks() {
        // 2 GHz: half a nanosecond a tick.
        let (snapshot, tsc) = page(1 << 31, 0).read(|| 3000).expect("filled");
        assert_eq!(snapshot.ns_at(tsc), 5_001_000);
        assert_eq!(snapshot.tsc_hz(), Some(2_000_000_000));
        // The same by a shift of -1 and the largest factor.
        let (snapshot, tsc) = page(u32::MAX, -1).read(|| 3000).expect("filled");
        assert_eq!(snapshot.ns_at(tsc), 5_000_999);
    }

    #[test]
    fn a_tsc_behind_the_timestamp_does_not_run_backwards() {
        let (snapshot, _) = page(1 << 31, 0).read(|| 0).expect("filled");
        assert_eq!(snapshot.ns_at(500), 5_000_000);
    }

    #[test]
    fn a_change_during_the_read_is_retried() {
        let page = page(1 << 31, 0);
        let mut reads = 0;
        let (snapshot, _) = page
            .read(|| {
                reads += 1;
                if reads == 1 {
                    page.version.store(4, SeqCst);
                    page.system_time.store(9_000_000, SeqCst);
                }
                1000
            })
            .expect("settles");
        assert_eq!((reads, snapshot.system_time), (2, 9_000_000));
    }

    #[test]
    fn a_host_that_never_finishes_is_given_up() {
        let page = page(1 << 31, 0);
        page.version.store(3, Relaxed);
        assert_eq!(page.read(|| 0), None);
        assert_eq!(VcpuTime::new().read(|| 0), None, "never filled");
        let wall = WallClock::new();
        assert_eq!(wall.boot_time_ns(), None);
        wall.sec.store(7, Relaxed);
        assert_eq!(wall.boot_time_ns(), Some(7_000_000_000));
        wall.version.store(1, Relaxed);
        assert_eq!(wall.boot_time_ns(), None);
    }

    #[test]
    fn hostile_factors_do_not_overflow() {
        for shift in [i8::MIN, -33, -32, 0, 32, 33, i8::MAX] {
            let (snapshot, _) = page(u32::MAX, shift).read(|| u64::MAX).expect("filled");
            let _ = snapshot.ns_at(u64::MAX);
            let _ = snapshot.tsc_hz();
        }
    }
}
