//! Per-CPU data and preemption.
//!
//! The block behind GS (arch_x86_64::percpu) holds what the entry code needs; everything else per-CPU is a [`PerCpu`].
#![expect(unsafe_code, reason = "per-CPU data is shared memory that discipline, not the compiler, keeps private")]

use arch_x86_64::percpu::{self as block, CpuBlock};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Most CPUs the kernel starts.
pub const MAX_CPUS: usize = 64;

static ONLINE: AtomicUsize = AtomicUsize::new(1);
static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

struct Blocks(UnsafeCell<[CpuBlock; MAX_CPUS]>);
// SAFETY: block N is written only by CPU N.
unsafe impl Sync for Blocks {}
static BLOCKS: Blocks = Blocks(UnsafeCell::new([const { CpuBlock::new() }; MAX_CPUS]));

/// This CPU's number. Stable only while preemption is disabled.
#[inline]
#[must_use]
pub fn cpu_id() -> usize {
    let cpu = block::cpu_id();
    // SAFETY: `install` gives out no other numbers.
    unsafe { core::hint::assert_unchecked(cpu < MAX_CPUS) };
    cpu
}

/// How many CPUs are running; their numbers are `0..cpu_count()`.
#[inline]
#[must_use]
pub fn cpu_count() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// The APIC id of a running CPU.
#[must_use]
pub fn apic_id_of(cpu: usize) -> u32 {
    APIC_IDS[cpu].load(Ordering::Relaxed)
}

/// The thread that `cpu` runs at this instant, for comparison only: it may be gone when this returns.
pub(crate) fn current_of(cpu: usize) -> *const block::ThreadBlock {
    // SAFETY: a block of the table.
    unsafe { block::current_of(BLOCKS.0.get().cast::<CpuBlock>().wrapping_add(cpu % MAX_CPUS)) }
}

/// Gives this CPU its number and block, and a stack for the worst case.
///
/// # Safety
/// Once per CPU, by that CPU, before anything else of this module; no two CPUs get one number.
pub(crate) unsafe fn install(cpu: usize, apic_id: u32, emergency_stack: u64) {
    assert!(cpu < MAX_CPUS, "more CPUs than blocks");
    APIC_IDS[cpu].store(apic_id, Ordering::Relaxed);
    let block = BLOCKS.0.get().cast::<CpuBlock>().wrapping_add(cpu);
    // SAFETY: the caller gives this CPU a number of its own, so the block is used by it alone.
    unsafe { block::install(block, cpu as u32, apic_id, emergency_stack) };
}

/// Notes a CPU's APIC id, once its APIC is on.
pub(crate) fn set_apic_id(cpu: usize, apic_id: u32) {
    APIC_IDS[cpu].store(apic_id, Ordering::Relaxed);
}

/// Counts this CPU as running: others may send it work from now on.
pub(crate) fn set_online(cpu: usize) {
    ONLINE.store(cpu + 1, Ordering::Release);
}

/// One `T` per CPU, usable by the thread that runs there while it cannot be preempted.
///
/// Not protected against interrupt handlers: they do not touch per-CPU data (architecture.md §6).
#[repr(align(64))]
pub struct PerCpu<T> {
    slots: [T; MAX_CPUS],
}

// SAFETY: slot N is reached only through `with` on CPU N with preemption disabled, so by one thread at a time.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// One value for each CPU: `PerCpu::new([const { INIT }; MAX_CPUS])`.
    #[must_use]
    pub const fn new(slots: [T; MAX_CPUS]) -> Self {
        Self { slots }
    }

    /// Runs `f` on this CPU's value with preemption disabled. `f` must not sleep.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let _guard = PreemptGuard::new();
        f(&self.slots[cpu_id()])
    }

    /// The value of any CPU.
    ///
    /// # Safety
    /// Only fields that are themselves safe to share between CPUs may be used.
    #[must_use]
    pub unsafe fn of(&self, cpu: usize) -> &T {
        &self.slots[cpu]
    }
}

/// While it lives, the running thread is not preempted and must not sleep. Nests.
pub struct PreemptGuard {
    _not_send: PhantomData<*const ()>,
}

impl PreemptGuard {
    /// Disables preemption.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        block::preempt_disable();
        Self { _not_send: PhantomData }
    }
}

impl PreemptGuard {
    /// The guard that this thread made and forgot.
    ///
    /// # Safety
    /// There is one, and nobody else takes it.
    pub(crate) const unsafe fn resume() -> Self {
        Self { _not_send: PhantomData }
    }
}

impl Default for PreemptGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PreemptGuard {
    #[inline]
    fn drop(&mut self) {
        if block::preempt_enable() {
            preempt_point();
        }
    }
}

/// A switch was asked for while it was not allowed: do it now, unless interrupts are off (then their enabling does it).
#[cold]
fn preempt_point() {
    if arch_x86_64::cpu::interrupts_enabled() {
        crate::thread::reschedule();
    }
}
