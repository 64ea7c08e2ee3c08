//! Stolen time: how long a virtual CPU that wanted to run did not, by the hypervisor's own account (KVM).
//!
//! **Protocol** (Linux `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_STEAL_TIME). Each CPU gives the host the address of a structure of
//! 64 bytes. Whenever the host lets the CPU run again it makes `version` odd, adds to `steal`, and makes it even. It writes only while
//! that CPU does not run, so a CPU that reads its own structure needs one retry at most; [`MAX_TRIES`] bounds a host that errs.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire};

/// Reads of a structure before it is given up as broken.
pub const MAX_TRIES: usize = 16;

/// One CPU's account (`kvm_steal_time`). Its physical address is given to the host, so it must not move.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct StealTime {
    /// Nanoseconds.
    steal: AtomicU64,
    version: AtomicU32,
    flags: u32,
    preempted: u8,
    pad: [u8; 3],
    rest: [u32; 11],
}

impl StealTime {
    /// An empty account; the host fills it once its address is written to the MSR.
    #[must_use]
    pub const fn new() -> Self {
        Self { steal: AtomicU64::new(0), version: AtomicU32::new(0), flags: 0, preempted: 0, pad: [0; 3], rest: [0; 11] }
    }

    /// Nanoseconds stolen since the account was opened; `None` if the host never stops changing it.
    #[must_use]
    pub fn stolen_ns(&self) -> Option<u64> {
        for _ in 0..MAX_TRIES {
            let version = self.version.load(Acquire);
            let steal = self.steal.load(Acquire);
            if version & 1 == 0 && self.version.load(Acquire) == version {
                return Some(steal);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};
    use core::sync::atomic::Ordering::Relaxed;

    #[test]
    fn the_layout_is_the_hosts() {
        assert_eq!((size_of::<StealTime>(), align_of::<StealTime>()), (64, 64));
        assert_eq!(offset_of!(StealTime, steal), 0);
        assert_eq!(offset_of!(StealTime, version), 8);
        assert_eq!(offset_of!(StealTime, flags), 12);
        assert_eq!(offset_of!(StealTime, preempted), 16);
    }

    #[test]
    fn the_account_is_read_when_it_is_whole() {
        let account = StealTime::new();
        assert_eq!(account.stolen_ns(), Some(0));
        account.steal.store(7_000_000, Relaxed);
        account.version.store(4, Relaxed);
        assert_eq!(account.stolen_ns(), Some(7_000_000));
    }

    #[test]
    fn a_host_that_never_finishes_is_given_up() {
        let account = StealTime::new();
        account.version.store(3, Relaxed);
        assert_eq!(account.stolen_ns(), None);
    }
}
