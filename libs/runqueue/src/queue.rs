//! [`RunQueue`]: the ready threads of one CPU.
//!
//! # Theory
//! Only the owning CPU touches its queue, with interrupts disabled; there is no lock. Other CPUs push woken threads on
//! the CPU's incoming list, and the owner enqueues them. Nothing allocates. One heap orders everything: by rank (real
//! time by priority, normal, idle), then, below real time, by R, then by sequence.
//!
//! How a scheduler uses it, at every entry with the time `now`:
//! 1. [`RunQueue::account`] charges the running thread (`None`: the idle one) and lets the factor grow;
//! 2. the incoming list is drained with [`RunQueue::enqueue`];
//! 3. if the running thread stops, or [`RunQueue::should_preempt`]: enqueue it if it still wants to run, and
//!    [`RunQueue::pick_next`];
//! 4. the timer is set for [`RunQueue::next_preemption`].
//!
//! Hysteresis: a running thread goes on until its R is above the first one's by the R of `HYSTERESIS_NS`; two equal
//! threads therefore alternate at twice that.
#![expect(unsafe_code, reason = "queued threads are held as raw references")]

use lockfree::mpsc::OwningPtr;
use pairing_heap::{HeapLink, HeapNode, PairingHeap};

use crate::entity::{Policy, QUANTUM_NS, SchedEntity};
use crate::measure::{Factor, HYSTERESIS_NS, PRICE_ONE, SWITCH_PENALTY_NS, renormalised};

/// A thread, as the run queue sees it.
///
/// # Safety
/// `sched_entity` always returns the same field of `self`.
pub unsafe trait Scheduled {
    /// The scheduler's part.
    fn sched_entity(&self) -> &SchedEntity;
}

/// Why a thread is enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueue {
    /// It was woken, is new, or comes from another CPU.
    Woken,
    /// It was running and another is to run before it.
    Preempted,
    /// It gave the CPU up (`sched_yield`).
    Yielded,
}

/// `T` as the heap sees it.
#[repr(transparent)]
struct ByKey<T>(T);

// SAFETY: always the same field, by the contract of `Scheduled`; only this file uses the link.
unsafe impl<T: Scheduled> HeapNode for ByKey<T> {
    fn heap_link(&self) -> &HeapLink {
        &self.0.sched_entity().link
    }

    fn before(&self, other: &Self) -> bool {
        self.0.sched_entity().before(other.0.sched_entity())
    }
}

/// The ready threads of one CPU. See the module.
pub struct RunQueue<P: OwningPtr>
where
    P::Target: Scheduled,
{
    cpu: u32,
    heap: PairingHeap<ByKey<P::Target>>,
    factor: Factor,
    /// The time `factor` is right at.
    now_ns: u64,
    first_sequence: i64,
    last_sequence: i64,
    /// The thread that was preempted last, only to be compared.
    displaced: *const P::Target,
    running: bool,
}

// SAFETY: the queue holds counted references to threads; it is used by one CPU at a time.
unsafe impl<P: OwningPtr + Send> Send for RunQueue<P> where P::Target: Scheduled + Sync {}

impl<P: OwningPtr> RunQueue<P>
where
    P::Target: Scheduled,
{
    /// An empty queue. Every CPU has a different number.
    #[must_use]
    pub const fn new(cpu: u32) -> Self {
        Self {
            cpu,
            heap: PairingHeap::new(),
            factor: Factor::new(),
            now_ns: 0,
            first_sequence: 0,
            last_sequence: 0,
            displaced: core::ptr::null(),
            running: false,
        }
    }

    /// Runnable threads: those in the queue and the one picked last, the idle thread excluded.
    #[must_use]
    pub fn load(&self) -> usize {
        self.heap.len() + usize::from(self.running)
    }

    /// Threads in the queue.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no thread is in the queue.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The thread that would run next.
    #[must_use]
    pub fn first(&self) -> Option<&P::Target> {
        self.heap.first().map(|first| &first.0)
    }

    /// The time of the last [`RunQueue::account`].
    #[must_use]
    pub const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Lets time pass: charges the running thread for it (`None`: the CPU was idle).
    #[inline(always)]
    pub fn account(&mut self, current: Option<&P::Target>, now_ns: u64) {
        let ran_ns = now_ns.saturating_sub(self.now_ns);
        self.now_ns = self.now_ns.max(now_ns);
        let step = self.factor.advance(ran_ns);
        let bits = u64::from(step.renormalise);
        if bits != 0 {
            self.renormalise(bits);
        }
        let Some(entity) = current.map(Scheduled::sched_entity) else {
            return;
        };
        if entity.cpu() != self.cpu {
            entity.arrive(self.cpu, self.factor, self.now_ns);
        }
        entity.refresh_policy();
        if bits != 0 {
            entity.set_runtime(renormalised(entity.runtime(), bits));
        }
        entity.charge(step.charge(entity.price()), ran_ns);
        entity.set_factor(self.factor, self.now_ns, self.cpu);
    }

    /// Scales every queued R. Order is kept; sequence numbers are untouched, so new equals may come out in either order.
    #[cold]
    fn renormalise(&mut self, bits: u64) {
        for ByKey(thread) in self.heap.iter() {
            let entity = thread.sched_entity();
            entity.set_runtime(renormalised(entity.runtime(), bits));
            entity.set_factor(self.factor, self.now_ns, self.cpu);
        }
    }

    /// Puts a ready thread in the queue. Call [`RunQueue::account`] first, unless that was a few
    /// milliseconds ago: R is then as exact as the hysteresis.
    ///
    /// # Safety
    /// The thread is in no run queue and this CPU alone may link it: it has just made it `Ready`
    /// (`ThreadState::dequeued` or `ThreadState::preempted`).
    pub unsafe fn enqueue(&mut self, thread: P, why: Enqueue) {
        let thread = thread.into_raw();
        // SAFETY: alive as long as the reference given up here.
        let entity = unsafe { &*thread }.sched_entity();
        entity.arrive(self.cpu, self.factor, self.now_ns);
        entity.refresh_policy();
        match why {
            Enqueue::Woken => {}
            Enqueue::Preempted => self.displaced = thread,
            Enqueue::Yielded => self.give_way(entity),
        }
        self.number(entity, why);
        // SAFETY: not linked, by the caller's promise.
        unsafe { self.heap.insert(thread.cast::<ByKey<P::Target>>()) };
    }

    /// Chooses the place among equals. POSIX: a preempted FIFO thread, or RR thread with quantum left, stays first.
    fn number(&mut self, entity: &SchedEntity, why: Enqueue) {
        let keeps_place = why == Enqueue::Preempted
            && match entity.effective() {
                Policy::Fifo(_) => true,
                Policy::RoundRobin(_) => entity.quantum_ns() > 0,
                _ => false,
            };
        if keeps_place {
            self.first_sequence -= 1;
            entity.set_sequence(self.first_sequence);
        } else {
            self.last_sequence += 1;
            entity.set_sequence(self.last_sequence);
            entity.set_quantum_ns(QUANTUM_NS);
        }
    }

    /// A thread that yields goes behind the first of its class.
    fn give_way(&self, entity: &SchedEntity) {
        let first = self.heap.first().map(|first| first.0.sched_entity());
        if let Some(first) = first.filter(|first| first.rank() == entity.rank()) {
            entity.set_runtime(entity.runtime().max(first.runtime()));
        }
    }

    /// Takes the thread that is to run now. None: idle.
    pub fn pick_next(&mut self) -> Option<P> {
        let picked = self.take_first();
        self.running = picked.is_some();
        let displaced = core::mem::replace(&mut self.displaced, core::ptr::null());
        let picked = picked?;
        if !displaced.is_null() && !core::ptr::eq(displaced, picked) {
            // SAFETY: its reference is ours to give out below.
            let entity = unsafe { &*picked }.sched_entity();
            entity.charge(self.factor.short_run(SWITCH_PENALTY_NS, PRICE_ONE), 0);
        }
        // SAFETY: `enqueue` gave up a reference for every linked thread.
        Some(unsafe { P::from_raw(picked) })
    }

    fn take_first(&mut self) -> Option<*const P::Target> {
        Some(self.heap.pop()?.cast())
    }

    /// Whether another thread should run instead of the running one. Call [`RunQueue::account`] first.
    #[must_use]
    pub fn should_preempt(&self, current: &P::Target) -> bool {
        let Some(first) = self.first().map(Scheduled::sched_entity) else {
            return false;
        };
        let current = current.sched_entity();
        if first.rank() != current.rank() {
            return first.rank() < current.rank();
        }
        match current.effective() {
            Policy::Fifo(_) => false,
            Policy::RoundRobin(_) => current.quantum_ns() == 0,
            _ => current.runtime() > first.runtime().saturating_add(self.hysteresis(current)),
        }
    }

    fn hysteresis(&self, current: &SchedEntity) -> u64 {
        self.factor.short_run(HYSTERESIS_NS, current.price())
    }

    /// When [`RunQueue::should_preempt`] will become true if nothing else happens; None: never. Never too early.
    #[must_use]
    pub fn next_preemption(&self, current: &P::Target) -> Option<u64> {
        let first = self.first()?.sched_entity();
        let current = current.sched_entity();
        if first.rank() < current.rank() {
            return Some(self.now_ns);
        }
        if first.rank() > current.rank() {
            return None;
        }
        let left_ns = match current.effective() {
            Policy::Fifo(_) => return None,
            Policy::RoundRobin(_) => current.quantum_ns(),
            _ => {
                let bound = first.runtime().saturating_add(self.hysteresis(current));
                let gap = bound.saturating_sub(current.runtime());
                self.factor.time_to_earn(gap, current.price())
            }
        };
        Some(self.now_ns.saturating_add(left_ns))
    }

    /// Takes one thread that may go to another CPU; the first one of the queue only if it is the only one allowed, and
    /// real-time threads last. The caller makes it `Waking` and pushes it on the other's incoming list.
    pub fn take_for_migration(&mut self, mut allowed: impl FnMut(&P::Target) -> bool) -> Option<P> {
        let found = {
            let mut candidates = self.heap.iter().filter(|thread| allowed(&thread.0));
            let first = candidates.next()?;
            let other =
                candidates.find(|thread| !thread.0.sched_entity().effective().is_real_time());
            core::ptr::from_ref(other.unwrap_or(first))
        };
        // SAFETY: found in this heap just now, so alive and linked in it.
        unsafe { self.heap.remove(&*found) };
        let thread = found.cast::<P::Target>();
        // SAFETY: alive by the reference that is given out below.
        unsafe { &*thread }
            .sched_entity()
            .set_factor(self.factor, self.now_ns, self.cpu);
        // SAFETY: `enqueue` gave up a reference for every linked thread.
        Some(unsafe { P::from_raw(thread) })
    }

    /// Puts a queued thread in its new place after [`SchedEntity::set_policy`]; false if it is not queued.
    ///
    /// # Safety
    /// If the thread is in a run queue, it is in this one.
    pub unsafe fn requeue(&mut self, thread: &P::Target) -> bool {
        let node = core::ptr::from_ref(thread).cast::<ByKey<P::Target>>();
        // SAFETY: the wrapper is transparent; the caller's promise.
        if !unsafe { self.heap.remove(&*node) } {
            return false;
        }
        thread.sched_entity().refresh_policy();
        self.number(thread.sched_entity(), Enqueue::Woken);
        // SAFETY: removed just now; the queue's reference still keeps it alive.
        unsafe { self.heap.insert(node) };
        true
    }

    /// The factor, for tracing and tests.
    #[must_use]
    pub const fn factor(&self) -> Factor {
        self.factor
    }
}

impl<P: OwningPtr> Drop for RunQueue<P>
where
    P::Target: Scheduled,
{
    fn drop(&mut self) {
        while let Some(thread) = self.take_first() {
            // SAFETY: `enqueue` gave up a reference for every linked thread.
            drop(unsafe { P::from_raw(thread) });
        }
    }
}
