//! Clocks: how fast the TSC runs, what time it is.
//!
//! Pure, host-tested parts: [`Scale`] (ticks to nanoseconds), [`calibrate`] (a frequency from samples of another
//! timer, on a host that may stall the guest at any moment), [`pvclock`] (the clock page of KVM and Xen), [`steal`] (what KVM says it took), [`cpuid`]
//! (what the processor itself says), [`wall`] (CMOS date to Unix time). [`hw`] joins them to the hardware:
//! [`hw::tsc_frequency`] is what the kernel calls at boot; `kernel::clock` builds the monotonic clock on its result.

pub mod calibrate;
pub mod cpuid;
pub mod hw;
pub mod pvclock;
mod scale;
pub mod steal;
pub mod wall;

pub use calibrate::{Confidence, Counter, Estimate, Sample};
pub use cpuid::Hypervisor;
pub use scale::Scale;

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;
