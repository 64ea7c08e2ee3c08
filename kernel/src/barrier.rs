//! Memory barriers on other CPUs ([`everywhere`]), for `membarrier`: the one that asks sleeps until they have passed one.
//!
//! Protocol, as in `tlb.rs`: one request at a time (`TURN`). The requester counts the CPUs it must hear from in `PENDING`, sends them
//! [`BARRIER_VECTOR`] and parks. An interrupt is a full barrier, and the `iretq` that ends it serialises the instruction stream. Each
//! handler decrements `PENDING`; the last one unparks the requester.
//!
//! No CPU is passed over: an idle one may be about to run a thread, and would go on without having serialised.
#![expect(unsafe_code, reason = "takes a counted reference out of a global")]

use crate::interrupt::send_ipi;
use crate::percpu::{self, PreemptGuard};
use crate::thread;
use crate::trap::BARRIER_VECTOR;
use arch_x86_64::cpu as processor;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use sync::{Mutex, ThreadHandle};

/// What the threads that run on the other CPUs are to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Nothing: they notice no more than an interrupt.
    None,
    /// That they may have lost their CPU (restartable sequences).
    LostCpu,
}

static TURN: Mutex<()> = Mutex::new(());
static PENDING: AtomicUsize = AtomicUsize::new(0);
static LOST_CPU: AtomicBool = AtomicBool::new(false);
/// The requester, counted by [`on_cpus`] for as long as `PENDING` is not 0.
static REQUESTER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Has every CPU pass a full and serialising barrier, this one included.
///
/// Context: thread, may sleep.
pub fn everywhere(notice: Notice) {
    on_cpus(|_| true, notice);
}

/// As [`everywhere`], on CPU `cpu` alone; nothing if there is no such CPU.
pub fn on_cpu(cpu: usize, notice: Notice) {
    on_cpus(|other| other == cpu, notice);
}

fn on_cpus(wanted: impl Fn(usize) -> bool, notice: Notice) {
    fence(Ordering::SeqCst);
    let _turn = TURN.lock();
    let me = ThreadHandle::current();
    REQUESTER.store(me.as_raw().as_ptr(), Ordering::Relaxed);
    LOST_CPU.store(notice == Notice::LostCpu, Ordering::Relaxed);
    {
        let _here = PreemptGuard::new();
        // One count is ours, so that the number cannot reach zero before all have been asked.
        PENDING.store(1, Ordering::Release);
        let this = percpu::cpu_id();
        for cpu in (0..percpu::cpu_count()).filter(|&cpu| wanted(cpu)) {
            if cpu == this {
                processor::serialise();
                tell_running(notice);
            } else {
                PENDING.fetch_add(1, Ordering::AcqRel);
                send_ipi(cpu, BARRIER_VECTOR);
            }
        }
    }
    PENDING.fetch_sub(1, Ordering::AcqRel);
    while PENDING.load(Ordering::Acquire) != 0 {
        thread::park(u64::MAX);
    }
    fence(Ordering::SeqCst);
}

/// Tells the thread that runs on this CPU.
fn tell_running(notice: Notice) {
    if notice == Notice::LostCpu
        && let Some(block) = thread::current_block()
    {
        block.lost_cpu();
    }
}

/// The other side, in interrupt context.
pub(crate) fn requested() {
    if PENDING.load(Ordering::Acquire) == 0 {
        return;
    }
    tell_running(if LOST_CPU.load(Ordering::Relaxed) { Notice::LostCpu } else { Notice::None });
    fence(Ordering::SeqCst);
    let requester = NonNull::new(REQUESTER.load(Ordering::Relaxed)).expect("set before PENDING");
    // The requester may be gone as soon as PENDING is 0, so hold it first.
    // SAFETY: PENDING counts this CPU, so the requester is still parked and holds a reference to itself.
    let requester = ManuallyDrop::new(unsafe { ThreadHandle::from_raw(requester) }).deref().clone();
    if PENDING.fetch_sub(1, Ordering::AcqRel) == 1 {
        requester.unpark();
    }
}
