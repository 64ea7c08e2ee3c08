//! [`SchedEntity`]: the scheduler's part of a thread.
//!
//! # Theory
//! All fields are relaxed atomics, but only one CPU writes them at any time, the one the thread's state word gives the
//! thread to: the CPU it runs on, the CPU whose run queue it is in, or the CPU that takes it off its incoming list.
//! That hand-over (state word, incoming list) orders the accesses. Exception: `requested`, which anybody may set; it
//! becomes effective when the owner looks next.
//!
//! R is only meaningful with the factor (`c`, `shift`) and the time (`stamp`) it was last right at; while the thread
//! sleeps nothing is updated.
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use pairing_heap::HeapLink;

use crate::measure::{Factor, Price, Rate, price_of_nice, renormalised};

const NO_CPU: u32 = u32::MAX;
/// The rank of the normal class; real-time priority n has rank `RANK_NORMAL − n`.
pub(crate) const RANK_NORMAL: u32 = 100;
const RANK_IDLE: u32 = 101;
/// Added to the rank of real-time threads that have used up their CPU's time for them: behind all others, in the order that they have.
const RANK_HELD: u32 = RANK_IDLE;
/// How long a `SCHED_RR` thread runs before its equals.
pub const QUANTUM_NS: u64 = 100_000_000;

/// A scheduling policy with its parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_FIFO`, priority 1 to 99.
    Fifo(u8),
    /// `SCHED_RR`, priority 1 to 99.
    RoundRobin(u8),
    /// `SCHED_OTHER`, nice −20 to 19.
    Normal(i8),
    /// `SCHED_BATCH`, nice −20 to 19: as `Normal`, but being woken preempts nobody.
    Batch(i8),
    /// `SCHED_IDLE`: only when nothing else is ready. Its nice value matters among its like.
    Idle(i8),
}

impl Policy {
    const fn encode(self) -> u32 {
        match self {
            Self::Fifo(priority) => priority as u32,
            Self::RoundRobin(priority) => 1 << 8 | priority as u32,
            Self::Normal(nice) => 2 << 8 | nice.cast_unsigned() as u32,
            Self::Idle(nice) => 3 << 8 | nice.cast_unsigned() as u32,
            Self::Batch(nice) => 4 << 8 | nice.cast_unsigned() as u32,
        }
    }

    const fn decode(word: u32) -> Self {
        let low = (word & 0xff) as u8;
        match word >> 8 {
            0 => Self::Fifo(low),
            1 => Self::RoundRobin(low),
            2 => Self::Normal(low.cast_signed()),
            3 => Self::Idle(low.cast_signed()),
            _ => Self::Batch(low.cast_signed()),
        }
    }

    /// Small ranks run first.
    pub(crate) const fn rank(self) -> u32 {
        match self {
            Self::Fifo(priority) | Self::RoundRobin(priority) => {
                RANK_NORMAL - if priority > 99 { 99 } else { priority as u32 }
            }
            Self::Normal(_) | Self::Batch(_) => RANK_NORMAL,
            Self::Idle(_) => RANK_IDLE,
        }
    }

    pub(crate) const fn price(self) -> Price {
        match self {
            Self::Normal(nice) | Self::Batch(nice) | Self::Idle(nice) => price_of_nice(nice),
            _ => price_of_nice(0),
        }
    }

    pub(crate) const fn is_real_time(self) -> bool {
        matches!(self, Self::Fifo(_) | Self::RoundRobin(_))
    }
}

/// Whether threads of a rank share by R; those of all others go one after the other, each as long as it wants.
#[inline(always)]
pub(crate) const fn shares(rank: u32) -> bool {
    matches!(rank, RANK_NORMAL | RANK_IDLE)
}

/// Embedded in every thread.
pub struct SchedEntity {
    pub(crate) link: HeapLink,
    /// The policy somebody asked for.
    requested: AtomicU32,
    /// The policy in force, its rank and its price.
    policy: AtomicU32,
    rank: AtomicU32,
    price: AtomicU32,
    /// R, and where and when it was right.
    runtime: AtomicU64,
    c: AtomicU64,
    shift: AtomicU64,
    stamp_ns: AtomicU64,
    cpu: AtomicU32,
    /// The epoch of the run queue that knew this entity to be up to date; see [`crate::RunQueue`].
    epoch: AtomicU64,
    /// What a nanosecond of a short run costs in that epoch, as [`Rate::of_price`] has it.
    rate: AtomicU64,
    /// The CPU time at which the `SCHED_RR` quantum is over.
    quantum_end_ns: AtomicU64,
    /// Order among equals.
    sequence: AtomicI64,
    /// CPU time used since the thread began.
    cpu_time_ns: AtomicU64,
}

macro_rules! field {
    ($get:ident, $set:ident, $field:ident, $type:ty) => {
        #[inline]
        pub(crate) fn $get(&self) -> $type {
            self.$field.load(Ordering::Relaxed)
        }
        #[inline]
        pub(crate) fn $set(&self, value: $type) {
            self.$field.store(value, Ordering::Relaxed);
        }
    };
}

impl SchedEntity {
    /// A thread that has not run.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            link: HeapLink::new(),
            requested: AtomicU32::new(policy.encode()),
            policy: AtomicU32::new(policy.encode()),
            rank: AtomicU32::new(policy.rank()),
            price: AtomicU32::new(policy.price()),
            runtime: AtomicU64::new(0),
            c: AtomicU64::new(1 << 32),
            shift: AtomicU64::new(0),
            stamp_ns: AtomicU64::new(0),
            cpu: AtomicU32::new(NO_CPU),
            epoch: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            quantum_end_ns: AtomicU64::new(QUANTUM_NS),
            sequence: AtomicI64::new(0),
            cpu_time_ns: AtomicU64::new(0),
        }
    }

    /// Starts a new thread with its creator's R, so that creating threads gains no CPU time. For a thread that was
    /// never enqueued; called by the creator, about itself.
    pub fn inherit(&self, creator: &Self) {
        self.set_runtime(creator.runtime());
        self.set_factor(
            creator.factor(),
            creator.stamp_ns.load(Ordering::Relaxed),
            creator.cpu(),
        );
    }

    /// Asks for a policy. In force when the thread is next charged or enqueued; for a thread in a run queue, at once
    /// if its CPU calls [`crate::RunQueue::requeue`]. Any context, any CPU.
    pub fn set_policy(&self, policy: Policy) {
        self.requested.store(policy.encode(), Ordering::Relaxed);
    }

    /// The policy last asked for.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::decode(self.requested.load(Ordering::Relaxed))
    }

    /// CPU time used, as of the last [`crate::RunQueue::account`].
    #[must_use]
    pub fn cpu_time_ns(&self) -> u64 {
        self.cpu_time_ns.load(Ordering::Relaxed)
    }

    field!(runtime, set_runtime, runtime, u64);
    field!(rank, set_rank, rank, u32);
    field!(sequence, set_sequence, sequence, i64);
    field!(quantum_end_ns, set_quantum_end_ns, quantum_end_ns, u64);

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The entity is up to date in an epoch in which short runs cost `rate`.
    #[inline]
    pub(crate) fn begin_epoch(&self, epoch: u64, rate: Rate) {
        self.rate.store(rate.of_price(self.price()), Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn price(&self) -> Price {
        self.price.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn cpu(&self) -> u32 {
        self.cpu.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn factor(&self) -> Factor {
        Factor::from_parts(
            self.c.load(Ordering::Relaxed),
            self.shift.load(Ordering::Relaxed),
        )
    }

    #[inline]
    pub(crate) fn set_factor(&self, factor: Factor, now_ns: u64, cpu: u32) {
        self.c.store(factor.c(), Ordering::Relaxed);
        self.shift.store(factor.shift(), Ordering::Relaxed);
        self.stamp_ns.store(now_ns, Ordering::Relaxed);
        self.cpu.store(cpu, Ordering::Relaxed);
    }

    /// Whether a policy was asked for that is not yet in force.
    #[inline]
    pub(crate) fn policy_changed(&self) -> bool {
        self.requested.load(Ordering::Relaxed) != self.policy.load(Ordering::Relaxed)
    }

    /// Puts the requested policy in force.
    #[inline]
    pub(crate) fn refresh_policy(&self) {
        if self.policy_changed() {
            self.change_policy(self.requested.load(Ordering::Relaxed));
        }
    }

    #[cold]
    fn change_policy(&self, word: u32) {
        let policy = Policy::decode(word);
        self.policy.store(word, Ordering::Relaxed);
        self.set_rank(policy.rank());
        self.price.store(policy.price(), Ordering::Relaxed);
    }

    /// The policy in force.
    #[inline]
    pub(crate) fn effective(&self) -> Policy {
        Policy::decode(self.policy.load(Ordering::Relaxed))
    }

    /// Whether it stands behind all others.
    #[inline(always)]
    pub(crate) fn is_held(&self) -> bool {
        self.rank() > RANK_IDLE
    }

    /// Puts a real-time thread behind all others, or back where it belongs.
    pub(crate) fn hold(&self, is_held: bool) {
        let policy = self.effective();
        let held = if is_held && policy.is_real_time() { RANK_HELD } else { 0 };
        self.set_rank(policy.rank() + held);
    }

    /// Batch work, compared with ordinary work.
    pub(crate) fn is_batch_among_equals(&self, other: &Self) -> bool {
        matches!(self.effective(), Policy::Batch(_)) && self.rank() == other.rank()
    }

    /// Brings R to the present of a CPU: after sleep or migration.
    #[inline]
    pub(crate) fn arrive(&self, cpu: u32, factor: Factor, now_ns: u64) {
        if self.cpu() != cpu || self.shift.load(Ordering::Relaxed) != factor.shift() {
            self.translate(cpu, factor, now_ns);
        }
        self.set_factor(factor, now_ns, cpu);
    }

    /// Converts R from the factor it was last right at.
    #[cold]
    fn translate(&self, cpu: u32, factor: Factor, now_ns: u64) {
        let then = self.factor();
        let runtime = if self.cpu() == cpu {
            renormalised(self.runtime(), factor.shift().saturating_sub(then.shift()))
        } else {
            let elapsed = now_ns.saturating_sub(self.stamp_ns.load(Ordering::Relaxed));
            factor.import(self.runtime(), then, elapsed)
        };
        self.set_runtime(runtime);
    }

    /// Charges the thread for a short run in the epoch in which it is up to date.
    #[inline(always)]
    pub(crate) fn charge_briefly(&self, ran_ns: u64) {
        self.charge(Rate::cost(self.rate.load(Ordering::Relaxed), ran_ns), ran_ns);
    }

    /// Charges the thread for running.
    #[inline(always)]
    pub(crate) fn charge(&self, charge: u64, ran_ns: u64) {
        // R is below 2⁵⁹ and CPU time below centuries: neither overflows.
        self.set_runtime(self.runtime().wrapping_add(charge));
        let used = self.cpu_time_ns.load(Ordering::Relaxed);
        self.cpu_time_ns.store(used.wrapping_add(ran_ns), Ordering::Relaxed);
    }

    /// Begins a `SCHED_RR` quantum.
    #[inline]
    pub(crate) fn begin_quantum(&self) {
        self.set_quantum_end_ns(self.cpu_time_ns.load(Ordering::Relaxed).wrapping_add(QUANTUM_NS));
    }

    /// What is left of it.
    pub(crate) fn quantum_left_ns(&self) -> u64 {
        self.quantum_end_ns().saturating_sub(self.cpu_time_ns())
    }

    /// Whether `self` runs before `other` and those that are equal to it but for their place.
    #[inline(always)]
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        let (rank, others) = (self.rank(), other.rank());
        rank < others || rank == others && shares(rank) && self.runtime() < other.runtime()
    }

    /// Whether `self` runs strictly before `other`.
    pub(crate) fn before(&self, other: &Self) -> bool {
        self.key() < other.key()
    }

    #[inline]
    fn key(&self) -> (u32, u64, i64) {
        let rank = self.rank();
        let runtime = if shares(rank) { self.runtime() } else { 0 };
        (rank, runtime, self.sequence())
    }
}
