//! TLB shootdown: other CPUs forget translations, and the one that asks sleeps until they have.
//!
//! # Theory
//! A CPU has translations of the kernel and of the one space whose root is in its CR3 (loading CR3 drops the others). `STATE` says, for
//! each CPU, which root that is, whether the CPU is idle, and whether it must flush before it runs a thread again.
//!
//! *Who must be told.* The requester has changed entries, then (fence) reads the states. A CPU that loads a root first shows `ANY_ROOT`,
//! which stands for every root (sequentially consistent), then loads, then shows the root itself. So either the requester sees that the CPU
//! may have the root, or the CPU walks the tables after the change. A CPU with another root is left alone. An idle one is
//! marked in its state word, which is also where it stops being idle: it cannot run a thread without seeing the mark. It runs
//! kernel code only meanwhile, and never uses a stale translation of the program's half.
//!
//! *Tables.* It may walk tables speculatively, though. When tables are freed, an idle CPU with their root is interrupted, too: it changes
//! to the kernel's own root, as does a CPU that runs a kernel thread, and so is left alone from then on. Roots are never freed.
//!
//! *Rounds.* Requests are collected in a batch. Whoever gets `TURN` and finds its request not done takes the batch and makes a round for
//! all of it: publishes the requests in `ROUND`, marks each CPU concerned in `ASKED`, counts it in `PENDING`, interrupts it and parks.
//! Those who come meanwhile fill the next batch: n requesters at once cost two rounds, not n. Each CPU takes its mark, flushes, counts
//! itself out; the last one unparks the requester. The mark is taken once, so that an interrupt which nobody sent (a program can
//! execute `int 0xf2` in ring 0) counts nobody out twice.
#![expect(unsafe_code, reason = "takes a counted reference out of a global, loads CR3")]

use crate::interrupt::send_ipi;
use crate::mm::kernel_cr3;
use crate::percpu::{self, MAX_CPUS, PreemptGuard};
use crate::trap::FLUSH_VECTOR;
use addr::{PAGE_SIZE, PhysAddr, VirtAddr};
use arch_x86_64::{paging, percpu as block};
use core::mem::{self, ManuallyDrop};
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use sync::{Mutex, ThreadHandle};

/// Ranges longer than this many pages are flushed whole.
const MAX_SINGLE: u64 = 32;
/// Ranges that a round keeps apart.
const REQUESTS: usize = 4;

/// Flags of a state, below the root's address.
const IDLE: u64 = 1;
const MUST_FLUSH: u64 = 2;
const ANY_ROOT: u64 = 4;
const ROOT: u64 = !0xfff;

/// What concerns one CPU, in a cache line of its own.
#[repr(align(64))]
struct Cpu {
    state: AtomicU64,
    asked: AtomicBool,
}

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu { state: AtomicU64::new(0), asked: AtomicBool::new(false) } }; MAX_CPUS];

static BATCH: Mutex<Batch> = Mutex::new(Batch { round: 0, requests: [Request::NONE; REQUESTS], used: 0 });
static TURN: Mutex<()> = Mutex::new(());
/// Rounds that are over.
static DONE: AtomicU64 = AtomicU64::new(0);

/// The requests of the round in flight. Written by the owner of `TURN` before it asks, read by CPUs that are asked.
static ROUND: [Published; REQUESTS] = [const { Published::new() }; REQUESTS];
static PENDING: AtomicUsize = AtomicUsize::new(0);
/// The requester, counted by [`round`] for as long as `PENDING` is not 0.
static REQUESTER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Whether page tables are about to be freed, and not only pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freed {
    /// No table goes away.
    PagesOnly,
    /// Some do.
    Tables,
}

/// Translations to forget.
#[derive(Clone, Copy)]
struct Request {
    /// Root of the tables; 0: whatever root.
    root: u64,
    start: u64,
    end: u64,
    freed: Freed,
}

impl Request {
    const NONE: Self = Self { root: 0, start: 0, end: 0, freed: Freed::PagesOnly };

    fn join(&mut self, other: &Self) {
        if self.root != other.root {
            self.root = 0;
        }
        (self.start, self.end) = (self.start.min(other.start), self.end.max(other.end));
        if other.freed == Freed::Tables {
            self.freed = Freed::Tables;
        }
    }

    const fn concerns(&self, root: u64) -> bool {
        self.root == 0 || self.root == root
    }

    fn flush(&self) {
        flush_local(VirtAddr(self.start), VirtAddr(self.end));
    }
}

/// Requests that wait for round number `round`.
struct Batch {
    round: u64,
    requests: [Request; REQUESTS],
    used: usize,
}

impl Batch {
    /// Adds a request; returns the number of its round.
    fn add(&mut self, request: &Request) -> u64 {
        let used = self.used;
        if let Some(same) = self.requests[..used].iter_mut().find(|r| r.root == request.root) {
            same.join(request);
        } else if used < REQUESTS {
            self.requests[used] = *request;
            self.used += 1;
        } else {
            self.requests[0].join(request);
        }
        self.round
    }

    fn take(&mut self) -> Self {
        let next = Self { round: self.round + 1, requests: [Request::NONE; REQUESTS], used: 0 };
        mem::replace(self, next)
    }
}

/// A request where interrupt handlers can read it; an empty range is none.
struct Published {
    root: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
}

impl Published {
    const fn new() -> Self {
        Self { root: AtomicU64::new(0), start: AtomicU64::new(0), end: AtomicU64::new(0) }
    }

    fn store(&self, request: &Request) {
        self.root.store(request.root, Ordering::Relaxed);
        self.start.store(request.start, Ordering::Relaxed);
        self.end.store(request.end, Ordering::Relaxed);
    }

    fn load(&self) -> Request {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        Request { root: load(&self.root), start: load(&self.start), end: load(&self.end), freed: Freed::PagesOnly }
    }
}

/// Makes every CPU forget the translations of `start..end` in all spaces. Page-table entries have been changed before.
///
/// Context: thread, may sleep; not with preemption disabled unless only one CPU runs.
pub fn shootdown(start: VirtAddr, end: VirtAddr) {
    shootdown_in(None, start, end, Freed::PagesOnly);
}

/// Makes every CPU forget the translations of `start..end` in the space with this root, or in all spaces.
///
/// Context: as [`shootdown`].
pub(crate) fn shootdown_in(root: Option<PhysAddr>, start: VirtAddr, end: VirtAddr, freed: Freed) {
    request(&Request { root: root.map_or(0, |root| root.0), start: start.0, end: end.0, freed });
}

#[inline]
fn request(request: &Request) {
    if percpu::cpu_count() == 1 {
        request.flush();
    } else {
        request_everywhere(request);
    }
}

#[inline(never)]
fn request_everywhere(request: &Request) {
    if !flush_here_and_mark(request) {
        return;
    }
    let round = BATCH.lock().add(request);
    let _turn = TURN.lock();
    if DONE.load(Ordering::Acquire) <= round {
        let batch = BATCH.lock().take();
        make_round(&batch);
        DONE.store(batch.round + 1, Ordering::Release);
    }
}

/// Flushes on this CPU and marks idle ones. Returns whether another one must be interrupted; then a round sees to the others.
fn flush_here_and_mark(request: &Request) -> bool {
    let _here = PreemptGuard::new();
    // The caller's changes of entries, before the states.
    fence(Ordering::SeqCst);
    request.flush();
    let this = percpu::cpu_id();
    (0..percpu::cpu_count()).filter(|&cpu| cpu != this).any(|cpu| must_interrupt(cpu, request))
}

/// Whether a CPU must be interrupted for a request; if it is enough to mark it, does that.
fn must_interrupt(cpu: usize, request: &Request) -> bool {
    let word = &CPUS[cpu].state;
    let mut state = word.load(Ordering::SeqCst);
    loop {
        if state & ANY_ROOT == 0 && !request.concerns(state & ROOT) {
            return false;
        }
        if state & IDLE == 0 || request.freed == Freed::Tables {
            return true;
        }
        match word.compare_exchange(state, state | MUST_FLUSH, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return false,
            Err(now) => state = now,
        }
    }
}

/// Has all CPUs that a batch concerns flush, and waits for them. The caller has `TURN`.
fn make_round(batch: &Batch) {
    let requests = &batch.requests[..batch.used];
    for (place, request) in ROUND.iter().zip(&batch.requests) {
        place.store(request);
    }
    let me = ThreadHandle::current();
    REQUESTER.store(me.as_raw().as_ptr(), Ordering::Relaxed);
    {
        let _here = PreemptGuard::new();
        // One count is ours, so that the number cannot reach zero before all have been asked.
        PENDING.store(1, Ordering::Release);
        let this = percpu::cpu_id();
        requests.iter().for_each(Request::flush);
        for cpu in (0..percpu::cpu_count()).filter(|&cpu| cpu != this) {
            if requests.iter().any(|request| must_interrupt(cpu, request)) {
                PENDING.fetch_add(1, Ordering::AcqRel);
                CPUS[cpu].asked.store(true, Ordering::Release);
                send_ipi(cpu, FLUSH_VECTOR);
            }
        }
    }
    PENDING.fetch_sub(1, Ordering::AcqRel);
    while PENDING.load(Ordering::Acquire) != 0 {
        crate::thread::park(u64::MAX);
    }
}

/// The other side, in interrupt context: flushes, and wakes the requester if this CPU was the last.
pub(crate) fn flush_requested() {
    let cpu = percpu::cpu_id();
    if !CPUS[cpu].asked.swap(false, Ordering::AcqRel) {
        return;
    }
    let root = CPUS[cpu].state.load(Ordering::Relaxed) & ROOT;
    let concerned = |request: &Request| request.start < request.end && request.concerns(root);
    for request in ROUND.iter().map(Published::load).filter(concerned) {
        request.flush();
    }
    if crate::thread::current_space().is_none() && root != kernel_cr3().0 {
        leave_root(cpu);
    }
    let requester = NonNull::new(REQUESTER.load(Ordering::Relaxed)).expect("set before PENDING");
    // The requester may be gone as soon as PENDING is 0, so hold it first.
    // SAFETY: PENDING counts this CPU, so the requester is still parked and holds a reference to itself.
    let requester = ManuallyDrop::new(unsafe { ThreadHandle::from_raw(requester) }).deref().clone();
    if PENDING.fetch_sub(1, Ordering::AcqRel) == 1 {
        requester.unpark();
    }
}

/// This CPU runs a kernel thread or nothing: from now on with the kernel's own tables, which nobody else's unmapping concerns.
fn leave_root(cpu: usize) {
    // SAFETY: the kernel's tables map the kernel, and no space is in use here. Interrupts are off.
    unsafe { block::load_root(kernel_cr3().0) };
    let shown = |state: u64| Some(state & !ROOT | kernel_cr3().0);
    let _always = CPUS[cpu].state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, shown);
}

/// Loads the tables of a space on this CPU, unless they are. Context: scheduler, interrupts off; the CPU is not idle.
///
/// # Safety
/// `root` is that of a space, which maps the kernel.
#[inline(always)]
pub(crate) unsafe fn load_root(root: u64) {
    if block::root() != root {
        // SAFETY: the caller's promise.
        unsafe { change_root(root) };
    }
}

/// # Safety
/// As [`load_root`].
#[inline(never)]
unsafe fn change_root(root: u64) {
    let state = &CPUS[percpu::cpu_id()].state;
    state.swap(ANY_ROOT, Ordering::SeqCst);
    // SAFETY: the caller's promise. Interrupts are off.
    unsafe { block::load_root(root) };
    state.store(root, Ordering::Release);
}

fn flush_local(start: VirtAddr, end: VirtAddr) {
    let start = start.align_down(PAGE_SIZE as u64);
    let pages = (end - start).div_ceil(PAGE_SIZE as u64);
    if pages <= MAX_SINGLE {
        (0..pages).for_each(|page| paging::invlpg(start + page * PAGE_SIZE as u64));
    } else if end.0 <= addr::layout::DIRECT_MAP {
        paging::flush_all();
    } else {
        paging::flush_all_global();
    }
}

/// This CPU runs only its idle thread from now on. Context: scheduler, interrupts off.
pub(crate) fn enter_idle(cpu: usize) {
    // Nobody else changes the word of a busy CPU.
    let state = CPUS[cpu].state.load(Ordering::Relaxed);
    CPUS[cpu].state.store(state | IDLE, Ordering::Release);
}

/// This CPU is about to run a thread again. Context: scheduler, interrupts off.
pub(crate) fn leave_idle(cpu: usize) {
    if CPUS[cpu].state.fetch_and(!(IDLE | MUST_FLUSH), Ordering::AcqRel) & MUST_FLUSH != 0 {
        paging::flush_all_global();
    }
}
