//! Read-copy-update in the kernel: the thread that drives grace periods and does what was deferred.
//!
//! Readers disable preemption ([`read`]); every pass of the scheduler is a quiescent state, and a CPU that runs its idle thread is
//! in one all the time. There is no tick: nothing happens while nothing is deferred. The driver first lets more come together, so that
//! a steady stream costs few wakes; it then gives the CPUs time to pass the scheduler by themselves, and interrupts those that have
//! not. If somebody waits in [`synchronize`], or for room, all that is done at once.
//!
//! Memory is bounded: [`defer`] makes its caller wait once [`MOST_PENDING`] actions wait.
//!
//! Theory: `libs/rcu/src/grace.rs`.
#![expect(unsafe_code, reason = "nodes of an intrusive list")]

use crate::interrupt::send_ipi;
use crate::percpu::{self, MAX_CPUS, PreemptGuard};
use crate::thread::{self, Class};
use crate::trap::RESCHEDULE_VECTOR;
use crate::clock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use lockfree::mpsc::{MpscLink, MpscList, MpscNode, Push};
use rcu::grace::{GracePeriods, Outcome};
use rcu::{Deferred, Domain};
use sync::{Completion, OnceCell, ThreadHandle, WaitQueue};

/// How many deferred actions wait at most; about 32 bytes each, and what they free.
const MOST_PENDING: usize = 4096;
/// How long the driver lets deferred actions come together.
const GATHER_NS: u64 = 10_000_000;
/// How long CPUs have to pass the scheduler by themselves before they are interrupted.
const PATIENCE_NS: u64 = 10_000_000;

static PERIODS: GracePeriods<MAX_CPUS> = GracePeriods::new();
static DEFERRED: MpscList<Box<Node>> = MpscList::new();
static PENDING: AtomicUsize = AtomicUsize::new(0);
/// Somebody waits in `synchronize`, or for room.
static URGENT: AtomicBool = AtomicBool::new(false);
static ROOM: WaitQueue = WaitQueue::new();
static DRIVER: OnceCell<ThreadHandle> = OnceCell::new();

struct Node {
    link: MpscLink,
    action: Action,
}

enum Action {
    Deferred(Deferred),
    /// Somebody waits in `synchronize`.
    Tell(Arc<Completion>),
}

// SAFETY: always the same field, used only by `DEFERRED`.
unsafe impl MpscNode for Node {
    fn mpsc_link(&self) -> &MpscLink {
        &self.link
    }
}

/// While it lives, nothing is freed that the running thread has seen through an RCU-protected pointer.
pub type Reading = PreemptGuard;

/// Begins to read. Context: thread; what follows must not sleep.
#[inline]
#[must_use]
pub fn read() -> Reading {
    PreemptGuard::new()
}

/// The kernel as a [`Domain`].
pub struct Kernel;

impl Domain for Kernel {
    type Reading = Reading;

    #[inline]
    fn read() -> Reading {
        read()
    }

    fn defer(action: Deferred) {
        defer(action);
    }
}

/// For [`rcu::linked`].
#[unsafe(no_mangle)]
fn rcu_read_begin() {
    core::mem::forget(PreemptGuard::new());
}

/// For [`rcu::linked`].
///
/// # Safety
/// Once for each `rcu_read_begin`, by the same thread.
#[unsafe(no_mangle)]
unsafe fn rcu_read_end() {
    // SAFETY: per the contract, this is the guard that was forgotten there.
    drop(unsafe { PreemptGuard::resume() });
}

/// For [`rcu::linked`].
#[unsafe(no_mangle)]
fn rcu_defer(action: Deferred) {
    defer(action);
}

/// Has `action` done after a grace period, by a thread of the kernel, so it may sleep and take locks.
///
/// Context: may sleep (when very much is pending); not while reading.
pub fn defer(action: Deferred) {
    if PENDING.load(Ordering::Relaxed) >= MOST_PENDING {
        wait_for_room();
    }
    push(Action::Deferred(action));
}

#[cold]
fn wait_for_room() {
    hurry();
    ROOM.wait(|| (PENDING.load(Ordering::Relaxed) < MOST_PENDING).then_some(()));
}

/// Sleeps until every reader that runs now has ended.
///
/// Context: may sleep; not while reading.
pub fn synchronize() {
    let done = Arc::new(Completion::new());
    push(Action::Tell(done.clone()));
    hurry();
    done.wait();
}

fn push(action: Action) {
    PENDING.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the node is new.
    let push = unsafe { DEFERRED.push(Box::new(Node { link: MpscLink::new(), action })) };
    if push == Push::WasEmpty {
        wake_driver();
    }
}

fn hurry() {
    if !URGENT.swap(true, Ordering::AcqRel) {
        wake_driver();
    }
}

fn wake_driver() {
    if let Some(driver) = DRIVER.get() {
        driver.unpark();
    }
}

/// This CPU passes the scheduler. Context: scheduler, interrupts off.
#[inline]
pub(crate) fn quiescent(cpu: usize) {
    if PERIODS.quiescent(cpu) == Outcome::Over {
        wake_driver();
    }
}

/// This CPU runs only its idle thread from now on. Context: scheduler, interrupts off.
pub(crate) fn enter_idle(cpu: usize) {
    if PERIODS.enter_idle(cpu) == Outcome::Over {
        wake_driver();
    }
}

/// This CPU is about to run a thread again. Context: scheduler, interrupts off.
pub(crate) fn leave_idle(cpu: usize) {
    PERIODS.leave_idle(cpu);
}

/// Starts the driver.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn start() -> Result<(), linux_abi::Errno> {
    let driver = thread::spawn("rcu", Class::Normal, || {
        loop {
            grace_period();
        }
    })?;
    let _first = DRIVER.set(thread::handle(&driver));
    Ok(())
}

/// Does what has been deferred so far, after a grace period; sleeps first if that is nothing.
fn grace_period() {
    while DEFERRED.is_empty() {
        thread::park(u64::MAX);
    }
    gather();
    let batch = DEFERRED.take_all();
    wait(PERIODS.start());
    URGENT.store(false, Ordering::Relaxed);
    for node in batch {
        PENDING.fetch_sub(1, Ordering::Relaxed);
        match node.action {
            Action::Deferred(action) => action.call(),
            Action::Tell(waiter) => waiter.complete(),
        }
    }
    ROOM.wake_all();
}

/// Sleeps for a while, unless somebody is in a hurry.
fn gather() {
    let until = clock::monotonic_ns() + GATHER_NS;
    while !URGENT.load(Ordering::Acquire) && clock::monotonic_ns() < until {
        thread::park(until);
    }
}

/// Sleeps until grace period `number` is over.
fn wait(number: u64) {
    let mut patient_until = clock::monotonic_ns() + PATIENCE_NS;
    while !PERIODS.is_over(number) {
        if URGENT.load(Ordering::Acquire) || clock::monotonic_ns() >= patient_until {
            interrupt_lagging(number);
            patient_until = clock::monotonic_ns() + PATIENCE_NS;
        }
        thread::park(patient_until);
    }
}

/// Makes the CPUs that the grace period waits for pass the scheduler.
fn interrupt_lagging(number: u64) {
    let here = PreemptGuard::new();
    let this = percpu::cpu_id();
    PERIODS.lagging(number).filter(|&cpu| cpu != this).for_each(|cpu| send_ipi(cpu, RESCHEDULE_VECTOR));
    // This CPU passes it when the driver parks.
    drop(here);
}
