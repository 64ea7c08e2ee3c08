//! Threads: clone arguments, scheduling parameters, robust futexes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct clone_args`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CloneArgs {
    /// `CLONE_*`, without the exit signal.
    pub flags: u64,
    /// Where `CLONE_PIDFD` stores the descriptor.
    pub pidfd: u64,
    /// Where the child's tid goes in the child's memory.
    pub child_tid: u64,
    /// Where the child's tid goes in the parent's memory.
    pub parent_tid: u64,
    /// Signal to the parent at the child's death.
    pub exit_signal: u64,
    /// Lowest address of the child's stack.
    pub stack: u64,
    /// Bytes of the child's stack.
    pub stack_size: u64,
    /// TLS pointer.
    pub tls: u64,
    /// Array of chosen pids.
    pub set_tid: u64,
    /// Entries in `set_tid`.
    pub set_tid_size: u64,
    /// cgroup descriptor.
    pub cgroup: u64,
}

/// Size of the first published version of [`CloneArgs`].
pub const CLONE_ARGS_SIZE_VER0: usize = 64;

/// `struct sched_param`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedParam {
    /// Static priority.
    pub priority: i32,
}

/// `struct sched_attr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedAttr {
    /// Bytes of the structure, as its writer knows it.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value, for the policies that have one.
    pub nice: i32,
    /// Static priority, for the real-time policies.
    pub priority: u32,
    /// `SCHED_DEADLINE`: nanoseconds.
    pub runtime: u64,
    /// `SCHED_DEADLINE`: nanoseconds.
    pub deadline: u64,
    /// `SCHED_DEADLINE`: nanoseconds.
    pub period: u64,
    /// Utilisation clamp.
    pub util_min: u32,
    /// Utilisation clamp.
    pub util_max: u32,
}

/// Size of the first published version of [`SchedAttr`].
pub const SCHED_ATTR_SIZE_VER0: usize = 48;

/// `struct robust_list_head`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RobustListHead {
    /// First entry; the list ends where it began.
    pub next: u64,
    /// From an entry to its futex word.
    pub futex_offset: i64,
    /// Entry being locked or unlocked.
    pub list_op_pending: u64,
}

/// `struct futex_waitv`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FutexWaitv {
    /// Expected value.
    pub val: u64,
    /// Address of the word.
    pub uaddr: u64,
    /// `FUTEX2_*`.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// `struct rseq`, the part that every kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rseq {
    /// The CPU's number, always a valid one.
    pub cpu_id_start: u32,
    /// The CPU's number, or that nothing is registered.
    pub cpu_id: u32,
    /// The critical section ([`RseqCs`]) that the thread is in; 0 for none.
    pub rseq_cs: u64,
    /// No longer used.
    pub flags: u32,
    /// NUMA node.
    pub node_id: u32,
    /// A number that no other running thread of the process has.
    pub mm_cid: u32,
    /// Fills the structure.
    pub padding: u32,
}

/// How many bytes of [`Rseq`] mean something (`AT_RSEQ_FEATURE_SIZE`).
pub const RSEQ_FEATURE_SIZE: u64 = core::mem::offset_of!(Rseq, padding) as u64;

/// `struct rseq_cs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RseqCs {
    /// 0.
    pub version: u32,
    /// No longer used.
    pub flags: u32,
    /// First instruction.
    pub start_ip: u64,
    /// From there to the instruction after the last.
    pub post_commit_offset: u64,
    /// Where to go on when it was interrupted.
    pub abort_ip: u64,
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;
    use crate::raw;

    #[test]
    fn layouts_match_the_headers() {
        assert_eq!(size_of::<CloneArgs>(), size_of::<raw::clone_args>());
        assert_eq!(size_of::<SchedAttr>(), 56);
        assert_eq!(size_of::<RobustListHead>(), size_of::<raw::robust_list_head>());
    }
}
