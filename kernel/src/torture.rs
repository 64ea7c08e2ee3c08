//! Torture: the kernel makes its own life hard, so that races show (`oxv run --torture`).
//!
//! Off, each hook costs one branch on [`ON`], which is written once, at boot. On, every CPU draws from a generator of its own, seeded
//! from one number; `thread/cpu/mischief.rs` uses it to preempt, to hold wake-ups back, to migrate and to wake without reason, [`delays_ipi`] to
//! send interrupts late, [`fails_allocation`] to refuse memory. Nothing here may break a promise that the kernel makes: a held
//! wake-up is let go within a few milliseconds, a delayed interrupt is sent, and an allocation is refused only where that is an error of a
//! system call or the program's end.
//!
//! With several virtual CPUs the emulator's own timing adds to the chance, so a seed repeats the mixture, not every step.

use crate::percpu::{self, MAX_CPUS, PreemptGuard};
use arch_x86_64::cpu as processor;
use crate::trap::RESCHEDULE_VECTOR;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use linux_abi::Errno;
use platform::cmdline::CommandLine;
use sync::Mutex;

/// Whether `/dev/oxv-torture` exists.
static HAS_DEVICE: AtomicBool = AtomicBool::new(false);
static ON: AtomicBool = AtomicBool::new(false);
static SEED: AtomicU64 = AtomicU64::new(0);
/// One in so many allocations fails; 0: none.
static FAIL_ONE_IN: AtomicU64 = AtomicU64::new(0);

/// A CPU's generator (splitmix64: any state is a good one) and the interrupts it has still to send.
#[repr(align(64))]
struct Chance {
    state: AtomicU64,
    /// By vector from [`RESCHEDULE_VECTOR`] on, bit N for CPU N.
    owed: [AtomicU64; DELAYED_VECTORS],
}

/// The reschedule, the flush and the barrier vector.
const DELAYED_VECTORS: usize = 3;

static CHANCES: [Chance; MAX_CPUS] =
    [const { Chance { state: AtomicU64::new(0), owed: [const { AtomicU64::new(0) }; DELAYED_VECTORS] } }; MAX_CPUS];

/// Reads `torture=SEED` and `torture_fail=N` from the command line. `torture=device` is the device alone.
pub(crate) fn init(command_line: &CommandLine<'_>) {
    HAS_DEVICE.store(command_line.get("torture").is_some(), Ordering::Relaxed);
    let Some(seed) = command_line.number("torture") else { return };
    SEED.store(seed, Ordering::Relaxed);
    for (cpu, chance) in CHANCES.iter().enumerate() {
        chance.state.store(mix(seed ^ (cpu as u64) << 56), Ordering::Relaxed);
    }
    ON.store(true, Ordering::Relaxed);
    log::info!("torture with seed {seed:#x}");
}

/// From now on, with the program about to start, allocations may fail.
pub(crate) fn start_failing(command_line: &CommandLine<'_>) {
    FAIL_ONE_IN.store(command_line.number("torture_fail").unwrap_or(0), Ordering::Relaxed);
    if refuses_memory() {
        crate::mm::let_torture_decide();
    }
}

/// Whether torture is on.
#[inline]
#[must_use]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Whether the program has the test device.
#[must_use]
pub fn has_device() -> bool {
    HAS_DEVICE.load(Ordering::Relaxed)
}

/// The seed, for reports, if torture is on.
pub(crate) fn seed() -> Option<u64> {
    is_on().then(|| SEED.load(Ordering::Relaxed))
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `limit`. Context: any.
#[cold]
pub(crate) fn below(limit: u64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let state = &CHANCES[percpu::cpu_id()].state;
    mix(state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP)) % limit
}

/// True once in `times` times. Context: any.
pub(crate) fn once_in(times: u64) -> bool {
    below(times) == 0
}

/// When the next forced interruption comes, in nanoseconds from now: mostly within a millisecond, sometimes at once.
pub(crate) fn interval_ns() -> u64 {
    match below(4) {
        0 => 1_000 + below(50_000),
        1 | 2 => 50_000 + below(500_000),
        _ => 500_000 + below(1_500_000),
    }
}

/// Whether this allocation, which can fail, fails.
#[inline]
pub(crate) fn fails_allocation() -> bool {
    is_on() && unlucky()
}

#[cold]
fn unlucky() -> bool {
    let one_in = FAIL_ONE_IN.load(Ordering::Relaxed);
    one_in != 0 && once_in(one_in)
}

/// Whether some allocations are to fail, so that paths for scarce memory must be taken.
pub(crate) fn refuses_memory() -> bool {
    is_on() && FAIL_ONE_IN.load(Ordering::Relaxed) != 0
}

/// Keeps an interrupt for CPU `target` back, sometimes: it is sent by [`send_owed`]. Returns whether it was kept.
#[cold]
pub(crate) fn delays_ipi(target: usize, vector: u8) -> bool {
    let Some(owed) = vector.checked_sub(RESCHEDULE_VECTOR).and_then(|kind| CHANCES[percpu::cpu_id()].owed.get(usize::from(kind))) else {
        return false;
    };
    if !once_in(4) {
        return false;
    }
    owed.fetch_or(1 << target, Ordering::Release);
    true
}

/// Sends what this CPU still has to send, unless it is put off once more. Called whenever the scheduler passes by, which under torture is every
/// few milliseconds at least.
pub(crate) fn send_owed() {
    for (kind, owed) in CHANCES[percpu::cpu_id()].owed.iter().enumerate() {
        if owed.load(Ordering::Relaxed) == 0 || once_in(2) {
            continue;
        }
        let targets = owed.swap(0, Ordering::Acquire);
        for cpu in (0..percpu::cpu_count()).filter(|cpu| targets & 1 << cpu != 0) {
            arch_x86_64::apic::send_ipi(percpu::apic_id_of(cpu), RESCHEDULE_VECTOR + kind as u8);
        }
    }
}

/// The mutex that a test holds while the holder's CPU is stopped from outside.
static HELD: Mutex<()> = Mutex::new(());
static RELEASED: AtomicBool = AtomicBool::new(false);

/// Does what a test asks for by writing to `/dev/oxv-torture`: a word, and for some a time in milliseconds or the number of a CPU.
///
/// Context: thread, may sleep.
///
/// # Errors
/// `EINVAL`.
pub fn request(text: &str) -> Result<(), Errno> {
    let (word, millis) = text.trim().split_once(' ').unwrap_or((text.trim(), "0"));
    let millis = millis.parse().map_err(|_| Errno::EINVAL)?;
    match word {
        "hold" => hold(),
        "release" => RELEASED.store(true, Ordering::Relaxed),
        "wait" => drop(HELD.lock()),
        "interrupts-off" => processor::without_interrupts(|| compute(millis)),
        "preemption-off" => {
            let _guard = PreemptGuard::new();
            compute(millis);
        }
        "move-interrupts" => crate::interrupt::move_threads(usize::try_from(millis).unwrap_or(usize::MAX))?,
        "overflow" => drop(deeper(millis)),
        "double-fault" => crate::trap::double_fault(),
        "panic-twice" => panic!("{}", PanicsAgain),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Holds the mutex until it is released, computing: the test wants the holder found running. It does not read the clock, for which the emulator
/// takes a lock of its own: stopped there, the holder's CPU would stop all others.
fn hold() {
    let _held = HELD.lock();
    RELEASED.store(false, Ordering::Relaxed);
    while !RELEASED.load(Ordering::Relaxed) {
        below(2);
    }
}

fn compute(millis: u64) {
    let end = crate::clock::monotonic_ns() + millis * 1_000_000;
    while crate::clock::monotonic_ns() < end {
        below(2);
    }
}

/// Uses up the kernel stack.
#[expect(unconditional_recursion, reason = "what it is for")]
fn deeper(depth: u64) -> [u64; 32] {
    let mut some = core::hint::black_box([depth; 32]);
    some[1] = deeper(depth + 1)[2];
    some
}

/// Panics while a panic's message is made.
struct PanicsAgain;

impl core::fmt::Display for PanicsAgain {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        panic!("a panic in the panic message")
    }
}
