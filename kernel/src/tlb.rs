//! TLB shootdown: other CPUs forget translations, and the one that asks sleeps until they have.
//!
//! Protocol. One request at a time (`TURN`). The requester publishes the range, counts the CPUs it must hear from in
//! `PENDING`, sends them [`FLUSH_VECTOR`] and parks. Each target flushes in its handler and decrements `PENDING`; the last
//! one unparks the requester. An idle CPU is not interrupted: it is marked, and flushes before it runs a thread again.
//! The mark and the idle state are one word (`STATE`), so a CPU cannot become busy without seeing the mark.
#![expect(unsafe_code, reason = "takes a counted reference out of a global")]

use crate::percpu::{self, MAX_CPUS, PreemptGuard};
use crate::trap::FLUSH_VECTOR;
use addr::{PAGE_SIZE, VirtAddr};
use arch_x86_64::{apic, paging};
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use sync::{Mutex, ThreadHandle};

/// Ranges longer than this many pages are flushed whole.
const MAX_SINGLE: u64 = 32;

const BUSY: u8 = 0;
const IDLE: u8 = 1;
const IDLE_MUST_FLUSH: u8 = 2;

static STATE: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(BUSY) }; MAX_CPUS];
static TURN: Mutex<()> = Mutex::new(());
static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
static PENDING: AtomicUsize = AtomicUsize::new(0);
/// The requester, counted by [`shootdown`] for as long as `PENDING` is not 0.
static REQUESTER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Makes every CPU forget the translations of `start..end`. Page-table entries have been changed before.
///
/// Context: thread, may sleep; not with preemption disabled unless only one CPU runs.
pub fn shootdown(start: VirtAddr, end: VirtAddr) {
    if percpu::cpu_count() == 1 {
        flush_local(start, end);
        return;
    }
    let _turn = TURN.lock();
    START.store(start.0, Ordering::Relaxed);
    END.store(end.0, Ordering::Relaxed);
    let me = ThreadHandle::current();
    REQUESTER.store(me.as_raw().as_ptr(), Ordering::Relaxed);
    {
        let _here = PreemptGuard::new();
        flush_local(start, end);
        // One count is ours, so that the number cannot reach zero before all have been asked.
        PENDING.store(1, Ordering::Release);
        let this = percpu::cpu_id();
        for cpu in (0..percpu::cpu_count()).filter(|&cpu| cpu != this && !leave_for_later(cpu)) {
            PENDING.fetch_add(1, Ordering::AcqRel);
            apic::send_ipi(percpu::apic_id_of(cpu), FLUSH_VECTOR);
        }
    }
    PENDING.fetch_sub(1, Ordering::AcqRel);
    while PENDING.load(Ordering::Acquire) != 0 {
        crate::thread::park(u64::MAX);
    }
}

/// The other side, in interrupt context: flushes, and wakes the requester if this CPU was the last.
pub(crate) fn flush_requested() {
    if PENDING.load(Ordering::Acquire) == 0 {
        return;
    }
    flush_local(VirtAddr(START.load(Ordering::Relaxed)), VirtAddr(END.load(Ordering::Relaxed)));
    let requester = NonNull::new(REQUESTER.load(Ordering::Relaxed)).expect("set before PENDING");
    // The requester may be gone as soon as PENDING is 0, so hold it first.
    // SAFETY: PENDING counts this CPU, so the requester is still parked and holds a reference to itself.
    let requester = ManuallyDrop::new(unsafe { ThreadHandle::from_raw(requester) }).deref().clone();
    if PENDING.fetch_sub(1, Ordering::AcqRel) == 1 {
        requester.unpark();
    }
}

fn flush_local(start: VirtAddr, end: VirtAddr) {
    let start = start.align_down(PAGE_SIZE as u64);
    let pages = (end - start).div_ceil(PAGE_SIZE as u64);
    if pages <= MAX_SINGLE {
        (0..pages).for_each(|page| paging::invlpg(start + page * PAGE_SIZE as u64));
    } else if start.is_user() {
        paging::flush_all();
    } else {
        paging::flush_all_global();
    }
}

/// Marks an idle CPU to flush before it runs anything. False if it is not idle.
fn leave_for_later(cpu: usize) -> bool {
    match STATE[cpu].compare_exchange(IDLE, IDLE_MUST_FLUSH, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(state) => state == IDLE_MUST_FLUSH,
    }
}

/// This CPU runs only its idle thread from now on. Context: scheduler, interrupts off.
pub(crate) fn enter_idle(cpu: usize) {
    STATE[cpu].store(IDLE, Ordering::Release);
}

/// This CPU is about to run a thread again. Context: scheduler, interrupts off.
pub(crate) fn leave_idle(cpu: usize) {
    if STATE[cpu].swap(BUSY, Ordering::AcqRel) == IDLE_MUST_FLUSH {
        paging::flush_all_global();
    }
}
