//! Processes and the system: names, limits, usage.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::time::Timeval;

/// `struct new_utsname`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Utsname {
    /// `"Linux"`.
    pub sysname: [u8; 65],
    /// Host name.
    pub nodename: [u8; 65],
    /// Kernel release.
    pub release: [u8; 65],
    /// Kernel build.
    pub version: [u8; 65],
    /// `"x86_64"`.
    pub machine: [u8; 65],
    /// NIS domain.
    pub domainname: [u8; 65],
}

/// `struct sysinfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sysinfo {
    /// Seconds since boot.
    pub uptime: i64,
    /// Load averages, fixed point with 16 fraction bits.
    pub loads: [u64; 3],
    /// Memory in all.
    pub totalram: u64,
    /// Unused memory.
    pub freeram: u64,
    /// Shared memory.
    pub sharedram: u64,
    /// Buffers.
    pub bufferram: u64,
    /// Swap in all.
    pub totalswap: u64,
    /// Unused swap.
    pub freeswap: u64,
    /// Threads.
    pub procs: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub pad1: u32,
    /// High memory in all.
    pub totalhigh: u64,
    /// Unused high memory.
    pub freehigh: u64,
    /// Bytes the memory fields count.
    pub mem_unit: u32,
    /// Zero.
    pub pad2: u32,
}

/// `struct rlimit64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rlimit {
    /// Soft limit.
    pub cur: u64,
    /// Hard limit.
    pub max: u64,
}

/// No limit.
pub const RLIM_INFINITY: u64 = u64::MAX;

/// `struct rusage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rusage {
    /// User time.
    pub utime: Timeval,
    /// System time.
    pub stime: Timeval,
    /// Largest resident set, in KiB.
    pub maxrss: i64,
    /// Unused by Linux.
    pub unused: [i64; 3],
    /// Page faults without I/O.
    pub minflt: i64,
    /// Page faults with I/O.
    pub majflt: i64,
    /// Unused by Linux.
    pub nswap: i64,
    /// Blocks read.
    pub inblock: i64,
    /// Blocks written.
    pub oublock: i64,
    /// Unused by Linux.
    pub messages: [i64; 3],
    /// Voluntary switches.
    pub nvcsw: i64,
    /// Preemptions.
    pub nivcsw: i64,
}

/// `struct __user_cap_header_struct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapHeader {
    /// Structure version.
    pub version: u32,
    /// Process, 0 = the caller.
    pub pid: i32,
}

/// `struct __user_cap_data_struct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapData {
    /// In force.
    pub effective: u32,
    /// May be put in force.
    pub permitted: u32,
    /// Kept over exec.
    pub inheritable: u32,
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;
    use crate::{raw, system};

    #[test]
    fn layouts_match_the_headers() {
        assert_eq!(size_of::<Utsname>(), size_of::<system::new_utsname>());
        assert_eq!(size_of::<Sysinfo>(), size_of::<system::sysinfo>());
        assert_eq!(size_of::<Rusage>(), size_of::<raw::rusage>());
    }
}
