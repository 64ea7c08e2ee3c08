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
//! Threads that switch often need not go through the exponential every time: within [`BRIEF_NS`] of the last
//! [`RunQueue::account`], [`RunQueue::charge_briefly`] charges a run as if the factor stood still.
//!
//! Every account begins a new *epoch*, a number that no other queue has. An entity that carries the queue's epoch is up to
//! date there: its R is at this CPU's factor and needs no translation.
//!
//! Threads that wake each other and wait would be linked and unlinked at every turn. For them there is a place before the heap, `front`:
//! a thread that goes before all others, and comes within an epoch that it is up to date in, is not numbered and not linked. Whatever
//! looks further than at the first thread puts it in the heap before.
//!
//! Real-time threads that have had their [`crate::RealTimeShare`] of a period get a rank behind all others, among which they keep their order, until the next
//! one. That changes in [`RunQueue::account`] alone, which begins a new epoch: threads in the queue and the running one are given their rank there, all
//! others when they come, since their epoch is an older one.
//!
//! Hysteresis: a running thread goes on until its R is above the first one's by the R of `HYSTERESIS_NS`; two equal
//! threads therefore alternate at twice that.
#![expect(unsafe_code, reason = "queued threads are held as raw references")]

mod changes;

use lockfree::mpsc::OwningPtr;
use pairing_heap::{HeapLink, HeapNode, PairingHeap};

use crate::budget::Budget;
use crate::entity::{Policy, SchedEntity, shares};
use crate::measure::{BRIEF_NS, Factor, PRICE_ONE, Rate, SWITCH_PENALTY_NS, renormalised};

/// Epochs of one queue are so far apart: more than there are CPUs.
const EPOCH_STEP: u64 = 1 << 10;

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
    /// The first thread of the queue, if it is not in the heap; null otherwise.
    front: *const P::Target,
    heap: PairingHeap<ByKey<P::Target>>,
    factor: Factor,
    rate: Rate,
    /// The time `factor` is right at.
    now_ns: u64,
    /// Until when the running threads have been charged: `now_ns` or, by `charge_briefly`, later.
    charged_ns: u64,
    epoch: u64,
    first_sequence: i64,
    last_sequence: i64,
    /// The thread that was preempted last, only to be compared.
    displaced: *const P::Target,
    running: bool,
    /// Of real-time threads.
    budget: Budget,
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
            front: core::ptr::null(),
            heap: PairingHeap::new(),
            factor: Factor::new(),
            rate: Rate::new(),
            now_ns: 0,
            charged_ns: 0,
            epoch: EPOCH_STEP + cpu as u64,
            first_sequence: 0,
            last_sequence: 0,
            displaced: core::ptr::null(),
            running: false,
            budget: Budget::new(),
        }
    }

    /// Runnable threads: those in the queue and the one picked last, the idle thread excluded.
    #[inline]
    #[must_use]
    pub fn load(&self) -> usize {
        self.len() + usize::from(self.running)
    }

    /// Threads in the queue.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.heap.len() + !self.front.is_null() as usize
    }

    /// Whether no thread is in the queue.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.front.is_null() && self.heap.is_empty()
    }

    /// The thread that would run next.
    #[inline]
    #[must_use]
    pub fn first(&self) -> Option<&P::Target> {
        // SAFETY: alive by the reference that the queue was given.
        let front = unsafe { self.front.as_ref() };
        front.or_else(|| self.heap.first().map(|first| &first.0))
    }

    /// Whether an entity that is up to date goes before everything in the heap, where it has no equal.
    #[inline(always)]
    fn precedes_heap(&self, entity: &SchedEntity) -> bool {
        self.heap.first().is_none_or(|first| entity.precedes(first.0.sched_entity()))
    }

    /// Puts a thread that is before the heap into it.
    #[inline]
    fn settle(&mut self) {
        if !self.front.is_null() {
            self.link_front();
        }
    }

    #[inline(never)]
    fn link_front(&mut self) {
        let thread = core::mem::replace(&mut self.front, core::ptr::null());
        // SAFETY: alive by the reference that the queue was given.
        self.number(unsafe { &*thread }.sched_entity(), Enqueue::Woken);
        // SAFETY: it was in the queue, but not linked.
        unsafe { self.heap.insert(thread.cast::<ByKey<P::Target>>()) };
    }

    /// Until when the running threads have been charged.
    #[must_use]
    pub fn charged_ns(&self) -> u64 {
        self.charged_ns.max(self.now_ns)
    }

    /// Lets time pass: charges the running thread for it (`None`: the CPU was idle).
    pub fn account(&mut self, current: Option<&P::Target>, now_ns: u64) {
        let before_ns = self.now_ns;
        if self.charged_ns > self.now_ns {
            self.pass(None, self.charged_ns);
        }
        self.pass(current, now_ns);
        self.charged_ns = self.now_ns;
        let is_real_time = current.is_some_and(|current| !shares(current.sched_entity().rank()));
        if is_real_time || self.budget.is_spent() {
            // What was charged briefly counts as the running thread's, too.
            self.look_at_budget(if is_real_time { self.now_ns - before_ns } else { 0 });
        }
        self.rate = self.factor.rate();
        self.epoch += EPOCH_STEP;
        if let Some(entity) = current.map(Scheduled::sched_entity) {
            entity.set_factor(self.factor, self.now_ns, self.cpu);
            self.begin_epoch(entity);
        }
    }

    /// The entity, which is in no heap, is up to date from now on.
    #[inline(always)]
    fn begin_epoch(&self, entity: &SchedEntity) {
        if self.budget.is_spent() || entity.is_held() {
            entity.hold(self.budget.is_spent());
        }
        entity.begin_epoch(self.epoch, self.rate);
    }

    fn pass(&mut self, current: Option<&P::Target>, now_ns: u64) {
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
        entity.arrive(self.cpu, self.factor, self.now_ns);
        entity.refresh_policy();
        entity.charge(step.charge(entity.price()), ran_ns);
    }

    /// Charges the running thread for the `ran_ns` since it was last charged or picked, as if the factor stood still.
    /// Only until [`RunQueue::brief_until_ns`].
    #[inline(always)]
    pub fn charge_briefly(&mut self, current: &P::Target, ran_ns: u64) {
        let entity = current.sched_entity();
        if entity.epoch() != self.epoch {
            self.catch_up(entity);
        }
        self.charged_ns += ran_ns;
        entity.charge_briefly(ran_ns);
    }

    /// Until when [`RunQueue::charge_briefly`] is good.
    #[must_use]
    pub const fn brief_until_ns(&self) -> u64 {
        self.now_ns + BRIEF_NS
    }

    /// Makes an entity current that is not of this epoch, or whose policy was changed.
    #[inline(never)]
    fn catch_up(&mut self, entity: &SchedEntity) {
        entity.arrive(self.cpu, self.factor, self.now_ns);
        entity.refresh_policy();
        self.begin_epoch(entity);
    }

    /// Scales every queued R. Order is kept; sequence numbers are untouched, so new equals may come out in either order.
    #[cold]
    fn renormalise(&mut self, bits: u64) {
        self.settle();
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
    /// The thread is in no run queue and this CPU alone may link it: it woke it, took it off its incoming list, or ran it.
    #[inline]
    pub unsafe fn enqueue(&mut self, thread: P, why: Enqueue) {
        let thread = thread.into_raw();
        // SAFETY: alive as long as the reference given up here.
        let entity = unsafe { &*thread }.sched_entity();
        if entity.epoch() != self.epoch || entity.policy_changed() {
            self.catch_up(entity);
        }
        match why {
            Enqueue::Woken => {}
            Enqueue::Preempted => self.displaced = thread,
            Enqueue::Yielded => self.give_way(entity),
        }
        self.settle();
        self.number(entity, why);
        // SAFETY: not linked, by the caller's promise.
        unsafe { self.heap.insert(thread.cast::<ByKey<P::Target>>()) };
    }

    /// [`RunQueue::enqueue`] of a woken thread in the simplest case: it goes before all others, and was up to date when this epoch
    /// began or ran here since. That also says that nobody asked for another policy, if whoever does has [`RunQueue::account`] called
    /// after it. Otherwise nothing is done, and the thread given back.
    ///
    /// # Errors
    /// The thread.
    ///
    /// # Safety
    /// As for [`RunQueue::enqueue`].
    #[inline(always)]
    pub unsafe fn enqueue_in_front(&mut self, thread: P) -> Result<(), P> {
        let raw = thread.into_raw();
        // SAFETY: alive as long as the reference given up here.
        let entity = unsafe { &*raw }.sched_entity();
        if entity.epoch() != self.epoch || !self.front.is_null() || !self.precedes_heap(entity) {
            // SAFETY: given up above.
            return Err(unsafe { P::from_raw(raw) });
        }
        self.front = raw;
        Ok(())
    }

    /// Takes the first thread if it is not in the heap, which is the ordinary case after [`RunQueue::enqueue_in_front`].
    #[inline(always)]
    pub fn pick_front(&mut self) -> Option<P> {
        if self.front.is_null() {
            return None;
        }
        // Who is displaced is put in the heap, and all others with it; so is the first until the next one is picked.
        debug_assert!(self.displaced.is_null());
        let picked = core::mem::replace(&mut self.front, core::ptr::null());
        // SAFETY: `enqueue_in_front` or `exchange` gave up a reference.
        Some(unsafe { P::from_raw(picked) })
    }

    /// Puts the running thread, which yields, behind the first of the queue and takes that: what [`RunQueue::enqueue`] and
    /// [`RunQueue::pick_next`] would do, at the cost of one. Call [`RunQueue::charge_briefly`] or [`RunQueue::account`] first.
    ///
    /// # Errors
    /// The thread, if only lower classes are ready: it goes on.
    ///
    /// # Safety
    /// As for [`RunQueue::enqueue`].
    #[inline(always)]
    pub unsafe fn exchange(&mut self, current: P) -> Result<P, P> {
        let raw = current.into_raw();
        let front = self.front;
        if !front.is_null() && self.heap.is_empty() {
            // SAFETY: the queue's reference, and the one given up here, keep them alive.
            let (first, entity) = unsafe { ((*front).sched_entity(), (*raw).sched_entity()) };
            if first.rank() == entity.rank() {
                // Two threads that yield to each other: they change places.
                debug_assert!(self.displaced.is_null());
                entity.set_runtime(entity.runtime().max(first.runtime()));
                self.front = raw;
                // SAFETY: `enqueue_in_front` or this function gave up a reference.
                return Ok(unsafe { P::from_raw(front) });
            }
        }
        // SAFETY: per the contract.
        unsafe { self.exchange_with_any(raw) }
    }

    /// [`RunQueue::exchange`] with whoever is the first.
    ///
    /// # Safety
    /// As for [`RunQueue::exchange`]; `raw` is a reference that was given up.
    #[inline(never)]
    unsafe fn exchange_with_any(&mut self, raw: *const P::Target) -> Result<P, P> {
        // SAFETY: alive as long as the reference given up.
        let entity = unsafe { &*raw }.sched_entity();
        let (rank, runtime) = (entity.rank(), entity.runtime());
        let Some(first) = self.first().map(Scheduled::sched_entity) else {
            // SAFETY: given up above.
            return Err(unsafe { P::from_raw(raw) });
        };
        let first_rank = first.rank();
        if first_rank == rank {
            entity.set_runtime(runtime.max(first.runtime()));
        } else if first_rank > rank {
            // SAFETY: given up above.
            return Err(unsafe { P::from_raw(raw) });
        }
        let next = match self.pick_front() {
            Some(next) => next,
            // SAFETY: given up above; the queue is not empty.
            None => self.pick_another().ok_or_else(|| unsafe { P::from_raw(raw) })?,
        };
        if self.precedes_heap(entity) {
            self.front = raw;
        } else {
            self.number(entity, Enqueue::Yielded);
            // SAFETY: not linked, by the caller's promise.
            unsafe { self.heap.insert(raw.cast::<ByKey<P::Target>>()) };
        }
        Ok(next)
    }

    /// Chooses the place among equals. POSIX: a preempted FIFO thread, or RR thread with quantum left, stays first.
    #[inline(always)]
    fn number(&mut self, entity: &SchedEntity, why: Enqueue) {
        let keeps_place = why == Enqueue::Preempted
            && match entity.effective() {
                Policy::Fifo(_) => true,
                Policy::RoundRobin(_) => entity.quantum_left_ns() > 0,
                _ => false,
            };
        if keeps_place {
            self.first_sequence -= 1;
            entity.set_sequence(self.first_sequence);
        } else {
            self.last_sequence += 1;
            entity.set_sequence(self.last_sequence);
            entity.begin_quantum();
        }
    }

    /// A thread that yields goes behind the first of its class.
    fn give_way(&self, entity: &SchedEntity) {
        let first = self.first().map(Scheduled::sched_entity);
        if let Some(first) = first.filter(|first| first.rank() == entity.rank()) {
            entity.set_runtime(entity.runtime().max(first.runtime()));
        }
    }

    /// Takes the thread that is to run now. None: idle.
    pub fn pick_next(&mut self) -> Option<P> {
        let picked = self.pick_another();
        self.running = picked.is_some();
        picked
    }

    /// [`RunQueue::pick_next`] when a thread was running, and none only if the queue is empty: then nothing is done.
    #[inline(always)]
    pub fn pick_another(&mut self) -> Option<P> {
        let picked = self.take_first()?;
        if !self.displaced.is_null() {
            self.charge_penalty(picked);
        }
        // SAFETY: `enqueue` gave up a reference for every linked thread.
        Some(unsafe { P::from_raw(picked) })
    }

    /// Who displaces another thread pays for the switch.
    #[inline(never)]
    fn charge_penalty(&mut self, picked: *const P::Target) {
        let displaced = core::mem::replace(&mut self.displaced, core::ptr::null());
        if !core::ptr::eq(displaced, picked) {
            // SAFETY: its reference is the queue's to give out.
            let entity = unsafe { &*picked }.sched_entity();
            entity.charge(self.factor.short_run(SWITCH_PENALTY_NS, PRICE_ONE), 0);
        }
    }

    #[inline(always)]
    fn take_first(&mut self) -> Option<*const P::Target> {
        if !self.front.is_null() {
            return Some(core::mem::replace(&mut self.front, core::ptr::null()));
        }
        Some(self.heap.pop()?.cast())
    }

    /// Whether another thread should run instead of the running one. Call [`RunQueue::account`] first.
    #[inline(always)]
    #[must_use]
    pub fn should_preempt(&self, current: &P::Target) -> bool {
        self.first().is_some_and(|first| self.goes_before(first.sched_entity(), current.sched_entity()))
    }

    /// Whether a thread that was just woken, and is the first of the queue, should run instead of the running one: as
    /// [`RunQueue::should_preempt`], but batch work never should.
    #[inline(always)]
    #[must_use]
    pub fn wake_preempts(&self, woken: &P::Target, current: &P::Target) -> bool {
        let (woken, current) = (woken.sched_entity(), current.sched_entity());
        self.goes_before(woken, current) && !woken.is_batch_among_equals(current)
    }

    /// Whether `first`, the first of the queue, should run instead of the running thread.
    #[inline(always)]
    fn goes_before(&self, first: &SchedEntity, current: &SchedEntity) -> bool {
        let rank = current.rank();
        if first.rank() != rank {
            return first.rank() < rank;
        }
        if !shares(rank) {
            return matches!(current.effective(), Policy::RoundRobin(_)) && current.quantum_left_ns() == 0;
        }
        current.runtime() > first.runtime() + self.hysteresis(current)
    }

    #[inline(always)]
    fn hysteresis(&self, current: &SchedEntity) -> u64 {
        match current.price() {
            PRICE_ONE => self.rate.hysteresis_of_one(),
            price => self.rate.hysteresis(price),
        }
    }

    /// When [`RunQueue::should_preempt`] will become true if nothing else happens; None: never. Too early only when real-time threads are held or let
    /// go, which [`RunQueue::account`] does at that time.
    #[must_use]
    pub fn next_preemption(&self, current: &P::Target) -> Option<u64> {
        let turn = self.end_of_turn(current);
        let concerns = self.budget.is_spent() || !self.is_empty() && !shares(current.sched_entity().rank());
        let change = if concerns { self.budget.next_change(self.now_ns) } else { None };
        turn.into_iter().chain(change).min()
    }

    fn end_of_turn(&self, current: &P::Target) -> Option<u64> {
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
            Policy::RoundRobin(_) => current.quantum_left_ns(),
            _ => {
                let bound = first.runtime().saturating_add(self.hysteresis(current));
                let gap = bound.saturating_sub(current.runtime());
                self.factor.time_to_earn(gap, current.price())
            }
        };
        Some(self.now_ns.saturating_add(left_ns))
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
