//! Times and clocks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// `struct timespec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, 0..1e9 in a valid value.
    pub nsec: i64,
}

impl Timespec {
    /// From nanoseconds since the clock's zero.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self { sec: (ns / NANOS_PER_SEC) as i64, nsec: (ns % NANOS_PER_SEC) as i64 }
    }

    /// As nanoseconds; saturates at `u64::MAX`. `None` when a field is out of range (the system call's `EINVAL`).
    #[must_use]
    pub const fn to_ns(self) -> Option<u64> {
        if self.sec < 0 || self.nsec < 0 || self.nsec >= NANOS_PER_SEC as i64 {
            return None;
        }
        Some((self.sec as u64).saturating_mul(NANOS_PER_SEC).saturating_add(self.nsec as u64))
    }
}

/// `struct timeval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub sec: i64,
    /// Microseconds, 0..1e6 in a valid value.
    pub usec: i64,
}

impl Timeval {
    /// From nanoseconds, rounded down to microseconds.
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self { sec: (ns / NANOS_PER_SEC) as i64, usec: (ns % NANOS_PER_SEC / 1000) as i64 }
    }

    /// As nanoseconds; saturates. `None` when a field is out of range.
    #[must_use]
    pub const fn to_ns(self) -> Option<u64> {
        if self.sec < 0 || self.usec < 0 || self.usec >= 1_000_000 {
            return None;
        }
        Some((self.sec as u64).saturating_mul(NANOS_PER_SEC).saturating_add(self.usec as u64 * 1000))
    }
}

/// `struct itimerval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Itimerval {
    /// Period, zero for a one-shot timer.
    pub interval: Timeval,
    /// Time left, zero when disarmed.
    pub value: Timeval,
}

/// `struct itimerspec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Itimerspec {
    /// Period, zero for a one-shot timer.
    pub interval: Timespec,
    /// Time left, zero when disarmed.
    pub value: Timespec,
}

/// `struct timezone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timezone {
    /// Minutes west of Greenwich.
    pub minuteswest: i32,
    /// Obsolete.
    pub dsttime: i32,
}

/// `struct tms`, in clock ticks of 1/100 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tms {
    /// User time of the process.
    pub utime: i64,
    /// System time of the process.
    pub stime: i64,
    /// User time of waited-for children.
    pub cutime: i64,
    /// System time of waited-for children.
    pub cstime: i64,
}

/// `struct timex`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Timex {
    /// What to set.
    pub modes: u32,
    /// Zero.
    pub pad0: u32,
    /// Offset to be made up for, microseconds or nanoseconds.
    pub offset: i64,
    /// Frequency, in millionths with 16 fractional bits.
    pub freq: i64,
    /// Largest error, microseconds.
    pub maxerror: i64,
    /// Estimated error, microseconds.
    pub esterror: i64,
    /// What the clock does, and how well.
    pub status: i32,
    /// Zero.
    pub pad1: u32,
    /// Time constant of the phase-locked loop, or the difference of TAI.
    pub constant: i64,
    /// Precision, microseconds.
    pub precision: i64,
    /// Largest frequency.
    pub tolerance: i64,
    /// The time, or what is added to it; microseconds or nanoseconds.
    pub time: Timeval,
    /// Microseconds between ticks.
    pub tick: i64,
    /// What pulses of an outer clock tell; no such clock is known.
    pub pulses: [i64; 8],
    /// Difference of TAI, seconds.
    pub tai: i32,
    /// Zero.
    pub reserved: [i32; 11],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timex_is_laid_out_as_in_the_headers() {
        use core::mem::{offset_of, size_of};
        assert_eq!(size_of::<Timex>(), 208);
        assert_eq!((offset_of!(Timex, status), offset_of!(Timex, constant), offset_of!(Timex, time)), (40, 48, 72));
        assert_eq!((offset_of!(Timex, tick), offset_of!(Timex, tai)), (88, 160));
    }

    #[test]
    fn bad_fields_have_no_nanoseconds() {
        assert_eq!(Timespec { sec: -1, nsec: 0 }.to_ns(), None);
        assert_eq!(Timespec { sec: 0, nsec: 1_000_000_000 }.to_ns(), None);
        assert_eq!(Timespec { sec: i64::MAX, nsec: 0 }.to_ns(), Some(u64::MAX));
        assert_eq!(Timeval { sec: 1, usec: 999_999 }.to_ns(), Some(1_999_999_000));
    }

    #[test]
    fn conversions_round_trip() {
        let t = Timespec::from_ns(12_345_678_901);
        assert_eq!((t.sec, t.nsec), (12, 345_678_901));
        assert_eq!(t.to_ns(), Some(12_345_678_901));
    }
}
