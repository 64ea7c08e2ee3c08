//! Memory barriers on other CPUs ([`everywhere`]), for `membarrier`: the one that asks sleeps until they have passed one.
//!
//! Protocol, as in `tlb.rs`: one request at a time (`TURN`). The requester marks the CPUs it must hear from, counts them in `PENDING` ([`Round`]), sends
//! them [`BARRIER_VECTOR`] and parks. An interrupt is a full barrier, and the `iretq` that ends it serialises the instruction stream. Each
//! handler takes its CPU's mark and counts itself out; the last one unparks the requester. An interrupt that nobody sent (a program's `int n`) finds no mark, or passes the
//! barrier that was about to be asked for.
//!
//! No CPU is passed over: an idle one may be about to run a thread, and would go on without having serialised.
#![expect(unsafe_code, reason = "takes a counted reference out of a global")]

use crate::interrupt::send_ipi;
use crate::percpu::{self, MAX_CPUS, PreemptGuard};
use crate::thread;
use crate::trap::BARRIER_VECTOR;
use arch_x86_64::cpu as processor;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
use shootdown::{Asked, Round};
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
static PENDING: Round = Round::new();
static ASKED: [Asked; MAX_CPUS] = [const { Asked::new() }; MAX_CPUS];
static LOST_CPU: AtomicBool = AtomicBool::new(false);
/// The requester, counted by [`on_cpus`] for as long as `PENDING` is not over.
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
        PENDING.begin();
        let this = percpu::cpu_id();
        for cpu in (0..percpu::cpu_count()).filter(|&cpu| wanted(cpu)) {
            if cpu == this {
                processor::serialise();
                tell_running(notice);
            } else {
                PENDING.ask(&ASKED[cpu]);
                send_ipi(cpu, BARRIER_VECTOR);
            }
        }
    }
    PENDING.all_asked();
    while !PENDING.is_over() {
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
    if !ASKED[percpu::cpu_id()].take() {
        return;
    }
    tell_running(if LOST_CPU.load(Ordering::Relaxed) { Notice::LostCpu } else { Notice::None });
    fence(Ordering::SeqCst);
    let requester = NonNull::new(REQUESTER.load(Ordering::Relaxed)).expect("set before PENDING");
    // The requester may be gone as soon as PENDING is over, so hold it first.
    // SAFETY: PENDING counts this CPU, so the requester is still parked and holds a reference to itself.
    let requester = ManuallyDrop::new(unsafe { ThreadHandle::from_raw(requester) }).deref().clone();
    if PENDING.answer() {
        requester.unpark();
    }
}
