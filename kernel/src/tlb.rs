//! TLB shootdown: other CPUs forget translations, and the one that asks sleeps until they have.
//!
//! Which CPUs must be told, and how a requester knows that all have heard, is the crate `shootdown`'s: its theory, its models. Here are the
//! requests, the interrupts and the sleep.
//!
//! # Theory
//! *Batches.* Requests are collected in a batch. Whoever gets `TURN` and finds its request not done takes the batch and makes a round for
//! all of it: publishes the requests in `ROUND`, asks each CPU concerned, interrupts it and parks. Those who come meanwhile fill the next batch:
//! n requesters at once cost two rounds, not n.
//!
//! *The interrupt.* Its handler takes the mark, which acquires what was published, flushes, and answers. While it has not answered, the requester is
//! parked, and keeps itself.
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
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use shootdown::{Asked, CpuState, Needs, Round, announce};
use sync::{Mutex, ThreadHandle};

pub(crate) use shootdown::Freed;

/// Ranges longer than this many pages are flushed whole.
const MAX_SINGLE: u64 = 32;
/// Ranges that a round keeps apart.
const REQUESTS: usize = 4;

/// What concerns one CPU.
struct Cpu {
    state: CpuState,
    asked: Asked,
}

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu { state: CpuState::new(), asked: Asked::new() } }; MAX_CPUS];

static BATCH: Mutex<Batch> = Mutex::new(Batch { round: 0, requests: [Request::NONE; REQUESTS], used: 0 });
static TURN: Mutex<()> = Mutex::new(());
/// Rounds that are over.
static DONE: AtomicU64 = AtomicU64::new(0);

/// The requests of the round in flight. Written by the owner of `TURN` before it asks, read by CPUs that are asked.
static ROUND: [Published; REQUESTS] = [const { Published::new() }; REQUESTS];
static PENDING: Round = Round::new();
/// The requester, which keeps itself until the round is over.
static REQUESTER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

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
    announce();
    request.flush();
    let this = percpu::cpu_id();
    (0..percpu::cpu_count()).filter(|&cpu| cpu != this).any(|cpu| must_interrupt(cpu, request))
}

/// Whether a CPU must be interrupted for a request; if it is enough to mark it, does that.
fn must_interrupt(cpu: usize, request: &Request) -> bool {
    CPUS[cpu].state.needs(request.root, request.freed) == Needs::Interrupt
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
        PENDING.begin();
        let this = percpu::cpu_id();
        requests.iter().for_each(Request::flush);
        for cpu in (0..percpu::cpu_count()).filter(|&cpu| cpu != this) {
            if requests.iter().any(|request| must_interrupt(cpu, request)) {
                PENDING.ask(&CPUS[cpu].asked);
                send_ipi(cpu, FLUSH_VECTOR);
            }
        }
    }
    PENDING.all_asked();
    while !PENDING.is_over() {
        crate::thread::park(u64::MAX);
    }
}

/// The other side, in interrupt context: flushes, and wakes the requester if this CPU was the last.
pub(crate) fn flush_requested() {
    let cpu = percpu::cpu_id();
    if !CPUS[cpu].asked.take() {
        return;
    }
    let root = CPUS[cpu].state.root();
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
    if PENDING.answer() {
        requester.unpark();
    }
}

/// This CPU runs a kernel thread or nothing: from now on with the kernel's own tables, which nobody else's unmapping concerns.
fn leave_root(cpu: usize) {
    // SAFETY: the kernel's tables map the kernel, and no space is in use here. Interrupts are off.
    unsafe { block::load_root(kernel_cr3().0) };
    CPUS[cpu].state.has_left_root(kernel_cr3().0);
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
    // SAFETY: the caller's promise. Interrupts are off.
    CPUS[percpu::cpu_id()].state.change_root(root, || unsafe { block::load_root(root) });
}

fn flush_local(start: VirtAddr, end: VirtAddr) {
    let start = start.align_down(PAGE_SIZE as u64);
    let pages = (end - start).div_ceil(PAGE_SIZE as u64);
    if pages <= MAX_SINGLE {
        (0..pages).for_each(|page| paging::invlpg(start + page * PAGE_SIZE as u64));
    } else if end.0 <= addr::layout::DIRECT_MAP {
        // An interrupt in between may change the root.
        arch_x86_64::cpu::without_interrupts(paging::flush_all);
    } else {
        paging::flush_all_global();
    }
}

/// This CPU runs only its idle thread from now on. Context: scheduler, interrupts off.
pub(crate) fn enter_idle(cpu: usize) {
    CPUS[cpu].state.enter_idle();
}

/// This CPU is about to run a thread again. Context: scheduler, interrupts off.
pub(crate) fn leave_idle(cpu: usize) {
    if CPUS[cpu].state.leave_idle() {
        paging::flush_all_global();
    }
}
