//! The scheduler of one CPU: its run queue, its timers, its incoming wake-ups.
//!
//! # Theory
//! Each CPU owns a [`Local`]: run queue and timer queue. Only code that runs on that CPU with interrupts off touches it, so
//! there is no lock. Everything another CPU (or an interrupt handler) wants of it goes through [`Shared`]: a lock-free list of
//! threads to make runnable, a set of CPUs that ask for work, and counters to look at.
//!
//! **Wake-up.** [`unpark`] gives the thread's park token. If the thread was waiting, its context is saved, exactly one caller is
//! told so and now holds the scheduler reference: it chooses a CPU, pushes the thread on that CPU's incoming list and, if the
//! list was empty, sends an interrupt (a non-empty list means that one is on its way). The target takes the whole list whenever
//! it schedules. For its own CPU a caller with interrupts on does at once what the next pass of the scheduler would: such a
//! caller is not inside the scheduler.
//! A thread whose timer is set can only go to its home CPU, whose queue the timer is in.
//!
//! **Brief turns.** A full pass ([`schedule`]) reads the clock, lets the fairness factor grow, looks at timers, requests and the
//! incoming list, and sets the hardware timer. Threads that wake each other and wait switch far more often than any of that
//! changes. So a full pass leaves a promise, `brief_until_tsc`: until then the factor counts as constant, and the hardware timer
//! fires soon enough for whatever may be due. While it holds, waking, waiting and yielding only charge the time-stamp
//! counter's difference and take the first thread of the queue. Whatever comes from outside (an incoming thread, a request, the
//! timer) comes with an interrupt, which asks for a full pass.
//!
//! **Balance.** An idle CPU asks the most loaded one for a thread (`wanted_by`); the owner hands one over the next time it
//! schedules. A balancer thread on each CPU evens out lasting differences every 100 ms while more than one thread is runnable.
#![expect(unsafe_code, reason = "state that belongs to one CPU by discipline")]

mod mischief;

use super::switch::{self, Departure, Leaving};
use super::{Class, Stack, Thread, ThreadRef};
use mischief::Fate;
use crate::mm::KernelStack;
use crate::percpu::{self, MAX_CPUS, PreemptGuard};
use crate::interrupt::send_ipi;
use crate::trap::{RESCHEDULE_VECTOR, TIMER_VECTOR};
use crate::{clock, mm, rcu, tlb, torture};
use alloc::boxed::Box;
use arch_x86_64::percpu as block;
use arch_x86_64::{apic, cpu as processor};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use lockfree::mpsc::{MpscList, Push};
use runqueue::measure::{BRIEF_NS, HYSTERESIS_NS};
use runqueue::{Enqueue, RunQueue, SchedEntity, Scheduled, Unpark};
use sync::{OnceCell, ThreadHandle};
use timer::{Timed, TimerNode, TimerQueue};

/// How long program code runs at most before an interrupt looks whether it has halted the CPU.
const LONGEST_RUN_NS: u64 = 1_000_000_000;
/// About the length of a turn: when the hardware timer fires within it, a turn's end is not computed.
const SOON_NS: u64 = 2 * HYSTERESIS_NS;
/// How often a balancer compares its CPU with the others.
const BALANCE_INTERVAL_NS: u64 = 100_000_000;
/// Difference of runnable threads from which moving one helps.
const IMBALANCE: usize = 2;
/// Hardware timer not set.
const NEVER: u64 = u64::MAX;

// SAFETY: always the same field.
unsafe impl Scheduled for Thread {
    fn sched_entity(&self) -> &SchedEntity {
        &self.entity
    }
}

// SAFETY: always the same field.
unsafe impl Timed for Thread {
    fn timer_node(&self) -> &TimerNode {
        &self.timer
    }
}

/// What only its own CPU touches, with interrupts off.
struct Local {
    cpu: usize,
    queue: RunQueue<ThreadRef>,
    timers: TimerQueue<Thread>,
    /// When the hardware timer fires.
    armed_ns: u64,
    /// Until when turns are brief, see the module; 0: they are not.
    brief_until_tsc: u64,
    /// How long that is after a full pass.
    brief_ticks: u64,
    /// Nanoseconds per tick of the time-stamp counter, Q32.
    ns_per_tick: u64,
    idle: Option<ThreadRef>,
}

impl Local {
    /// The idle thread; an address that no thread has before there is one.
    fn idle_ptr(&self) -> NonNull<Thread> {
        self.idle.as_ref().map_or(NonNull::dangling(), ThreadRef::as_ptr)
    }

    /// Whether the hardware timer fires within a turn from `now`.
    fn fires_soon(&self, now: u64) -> bool {
        self.armed_ns <= now + SOON_NS
    }

    fn is_idle(&self, thread: &Thread) -> bool {
        self.idle_ptr() == NonNull::from(thread)
    }

    /// Brings the accounts up to date; `current` is the running thread. Returns the time.
    fn account(&mut self, shared: &Shared, current: &Thread) -> u64 {
        let tsc = processor::rdtsc();
        let now = clock::at_tsc(tsc);
        let is_idle = self.is_idle(current);
        shared.begin_charge();
        self.queue.account((!is_idle).then_some(current), now);
        shared.end_charge(tsc);
        // If the timer fires soon, turns may be brief until it does.
        let calm = !is_idle && self.fires_soon(now);
        self.brief_until_tsc = if calm { tsc + self.brief_ticks } else { 0 };
        now
    }

    /// Charges `current` for a brief turn that ends at `tsc`.
    #[inline(always)]
    fn charge_briefly(&mut self, shared: &Shared, current: &Thread, tsc: u64) {
        let ticks = tsc.wrapping_sub(shared.since_tsc.load(Ordering::Relaxed));
        shared.begin_charge();
        self.queue.charge_briefly(current, (ticks * self.ns_per_tick) >> 32);
        shared.end_charge(tsc);
    }
}

/// What any CPU may touch.
struct Shared {
    incoming: MpscList<ThreadRef>,
    /// Runnable threads, as of the CPU's last look.
    load: AtomicUsize,
    /// Idle CPUs that ask for a thread, bit N for CPU N.
    wanted_by: AtomicU64,
    /// Since when (by the time-stamp counter) the running thread is not charged; 0 while it is being charged.
    since_tsc: AtomicU64,
    /// A queued thread may have lost the right to run here, or got another policy.
    review: AtomicBool,
    balancer: OnceCell<ThreadHandle>,
    balancer_sleeps: AtomicBool,
}

impl Shared {
    #[inline(always)]
    fn begin_charge(&self) {
        self.since_tsc.store(0, Ordering::Release);
    }

    #[inline(always)]
    fn end_charge(&self, tsc: u64) {
        self.since_tsc.store(tsc, Ordering::Release);
    }
}

#[repr(align(64))]
struct Scheduler {
    local: UnsafeCell<Local>,
    shared: Shared,
}

// SAFETY: `local` is reached only through `local()`, whose callers run on that CPU with interrupts off.
unsafe impl Sync for Scheduler {}

impl Scheduler {
    const fn new() -> Self {
        let local = Local {
            cpu: 0,
            queue: RunQueue::new(0),
            timers: TimerQueue::new(),
            armed_ns: NEVER,
            brief_until_tsc: 0,
            brief_ticks: 0,
            ns_per_tick: 0,
            idle: None,
        };
        Self {
            local: UnsafeCell::new(local),
            shared: Shared {
                incoming: MpscList::new(),
                load: AtomicUsize::new(0),
                wanted_by: AtomicU64::new(0),
                since_tsc: AtomicU64::new(0),
                review: AtomicBool::new(false),
                balancer: OnceCell::new(),
                balancer_sleeps: AtomicBool::new(false),
            },
        }
    }
}

/// CPUs that run their idle thread, bit N for CPU N. Each CPU changes its own bit, when it becomes idle and when it no longer is.
static IDLE: AtomicU64 = AtomicU64::new(0);

static SCHEDULERS: [Scheduler; MAX_CPUS] = [const { Scheduler::new() }; MAX_CPUS];

/// This CPU's scheduler.
///
/// # Safety
/// Interrupts are off, and the result is not kept across a switch; its local part is not used while another one is alive.
#[inline(always)]
unsafe fn this_cpu() -> (&'static mut Local, &'static Shared) {
    debug_assert!(!processor::interrupts_enabled());
    let scheduler = block::scheduler().cast::<Scheduler>();
    // SAFETY: `adopt_idle` set it, before anything can wait or be woken; per the contract nobody else uses the local part.
    unsafe { (&mut *(*scheduler).local.get(), &(*scheduler).shared) }
}

fn shared(cpu: usize) -> &'static Shared {
    &SCHEDULERS[cpu].shared
}

/// Why the scheduler runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// A switch may be due; the thread was interrupted.
    Preempted,
    /// A switch may be due; the thread is at a safe place in the kernel.
    Due,
    Yielded,
    Parking,
    Exiting,
}

/// The full pass: chooses who runs next and switches to it. Returns when `current` runs again.
///
/// Context: interrupts off, preemption count 0; `current` is the running thread.
#[inline(never)]
fn schedule(current: &Thread, why: Why) {
    // SAFETY: interrupts are off; the borrow ends before the switch.
    let (local, shared) = unsafe { this_cpu() };
    rcu::quiescent(local.cpu);
    let now = local.account(shared, current);
    let is_idle = local.is_idle(current);
    if torture::is_on() {
        mischief::pass(local, current);
    }
    hand_over(local, shared);
    wake_expired(local, now);
    take_incoming(local, shared);
    // What the two above asked for is being done.
    block::set_need_resched(false);
    let Some(departure) = depart(local, current, why, is_idle) else {
        return arm_timer(local, current, now);
    };
    let next = pick_allowed(local).map_or(local.idle_ptr(), ThreadRef::into_ptr);
    publish_load(local, shared);
    // SAFETY: the queue, or this CPU's idle slot, kept it alive; now this CPU holds its scheduler reference.
    let next_thread = unsafe { next.as_ref() };
    arm_timer(local, next_thread, now);
    if next == NonNull::from(current) {
        return;
    }
    let cpu = local.cpu;
    if is_idle {
        IDLE.fetch_and(!(1 << cpu), Ordering::Relaxed);
        rcu::leave_idle(cpu);
        tlb::leave_idle(cpu);
    } else if next == local.idle_ptr() {
        local.brief_until_tsc = 0;
        IDLE.fetch_or(1 << cpu, Ordering::Relaxed);
        tlb::enter_idle(cpu);
        rcu::enter_idle(cpu);
    }
    count_switch(current, departure);
    let tsc = shared.since_tsc.load(Ordering::Relaxed);
    if departure == Departure::Queued {
        current.ready_tsc.store(tsc, Ordering::Relaxed);
    }
    end_ready(next_thread, tsc);
    let leaving = if why == Why::Preempted { Leaving::Preempted } else { Leaving::Voluntarily };
    // SAFETY: as required: interrupts off, count 0; `next` is not running and its context is saved.
    unsafe { switch::switch_to(current, next_thread, leaving, departure) };
}

/// The first thread of the queue that may run here; those before it, which may not any more, are sent on.
fn pick_allowed(local: &mut Local) -> Option<ThreadRef> {
    loop {
        let next = local.queue.pick_next()?;
        if allows(&next, local.cpu) {
            return Some(next);
        }
        send_elsewhere(next);
    }
}

/// `thread` comes to run: what it waited since it became ready.
#[inline(always)]
fn end_ready(thread: &Thread, tsc: u64) {
    let waited = tsc.saturating_sub(thread.ready_tsc.load(Ordering::Relaxed));
    thread.ready_ticks.store(thread.ready_ticks.load(Ordering::Relaxed) + waited, Ordering::Relaxed);
}

#[inline(always)]
fn count_switch(from: &Thread, departure: Departure) {
    let counter = if departure == Departure::Parked { &from.waits } else { &from.preemptions };
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Decides whether `current` stops running, and if so where it goes. `None`: it goes on.
fn depart(local: &mut Local, current: &Thread, why: Why, is_idle: bool) -> Option<Departure> {
    if is_idle {
        return (!local.queue.is_empty()).then_some(Departure::Queued);
    }
    match why {
        Why::Parking => return Some(Departure::Parked),
        Why::Exiting => return Some(Departure::Exited),
        Why::Yielded | Why::Due | Why::Preempted => {}
    }
    if !allows(current, local.cpu) {
        return Some(Departure::Migrates);
    }
    let stays = if why == Why::Yielded { local.queue.is_empty() } else { !local.queue.should_preempt(current) };
    if stays {
        match if torture::is_on() { mischief::fate() } else { Fate::Stays } {
            Fate::Stays => return None,
            Fate::Preempted => {}
            Fate::Migrates => return Some(Departure::Migrates),
        }
    }
    let why = if why == Why::Yielded { Enqueue::Yielded } else { Enqueue::Preempted };
    // SAFETY: the running thread's scheduler reference is this CPU's, so it is ours to link.
    unsafe { local.queue.enqueue(ThreadRef::from_ptr(NonNull::from(current)), why) };
    Some(Departure::Queued)
}

/// Gives a thread to each CPU that asked, while more than one is runnable, and away those that may not run here any more.
fn hand_over(local: &mut Local, shared: &Shared) {
    if shared.review.load(Ordering::Relaxed) && shared.review.swap(false, Ordering::Acquire) {
        let cpu = local.cpu;
        local.queue.requeue_changed();
        while let Some(thread) = local.queue.take_for_migration(|thread| !allows(thread, cpu)) {
            send_elsewhere(thread);
        }
    }
    if shared.wanted_by.load(Ordering::Relaxed) == 0 {
        return;
    }
    let wanted = shared.wanted_by.swap(0, Ordering::Acquire);
    for target in (0..percpu::cpu_count()).filter(|target| wanted & 1 << target != 0) {
        if local.queue.load() >= IMBALANCE {
            give(local, target);
        }
    }
}

/// Moves one queued thread to `target`, if one may go there.
fn give(local: &mut Local, target: usize) {
    if let Some(thread) = local.queue.take_for_migration(|thread| allows(thread, target)) {
        send(target, thread);
    }
}

fn wake_expired(local: &mut Local, now: u64) {
    while let Some(thread) = local.timers.pop_expired(now) {
        // SAFETY: a thread with a timer waits for this CPU, which alone can let it go on.
        unpark(unsafe { thread.as_ref() });
    }
}

/// Makes the threads runnable that were woken for this CPU.
fn take_incoming(local: &mut Local, shared: &Shared) {
    for thread in shared.incoming.take_all() {
        if let Some(thread) = let_in(local, thread) {
            accept(local, thread);
        }
    }
}

/// A woken thread, unless torture holds it back.
#[inline(always)]
fn let_in(local: &Local, thread: ThreadRef) -> Option<ThreadRef> {
    if torture::is_on() { mischief::sift(local.cpu, thread) } else { Some(thread) }
}

/// Puts a woken or new thread in the queue, or sends it on if it may not run here.
#[inline(always)]
fn accept(local: &mut Local, thread: ThreadRef) {
    // SAFETY: a timer that is set is in the home CPU's queue, and timed waits go home.
    unsafe { local.timers.remove(&thread) };
    if !allows(&thread, local.cpu) {
        return send_elsewhere(thread);
    }
    // SAFETY: the scheduler reference of a woken thread makes it this CPU's to link.
    unsafe { local.queue.enqueue(thread, Enqueue::Woken) };
}

fn publish_load(local: &Local, shared: &Shared) {
    let load = local.queue.load();
    shared.load.store(load, Ordering::Relaxed);
    if load >= IMBALANCE
        && shared.balancer_sleeps.load(Ordering::Relaxed)
        && let Some(balancer) = shared.balancer.get()
    {
        shared.balancer_sleeps.store(false, Ordering::Relaxed);
        balancer.unpark();
    }
}

/// Sets the hardware timer for the next thing that time brings: a timer, the end of `running`'s turn, the look for a halt.
/// If it fires soon, turns end then: threads that switch often need no new end each time.
#[inline]
fn arm_timer(local: &mut Local, running: &Thread, now: u64) {
    let timer = local.timers.next_deadline().unwrap_or(NEVER);
    if local.armed_ns > timer || !local.fires_soon(now) {
        rearm_timer(local, running, timer, now);
    }
}

#[inline(never)]
fn rearm_timer(local: &mut Local, running: &Thread, timer: u64, now: u64) {
    let mut deadline = timer;
    if let Some(end) = local.queue.next_preemption(running) {
        deadline = deadline.min(end);
    }
    if running.space.is_some() {
        deadline = deadline.min(now + LONGEST_RUN_NS);
    }
    if torture::is_on() {
        deadline = deadline.min(now + torture::interval_ns());
    }
    if local.armed_ns > deadline {
        local.armed_ns = deadline;
        clock::arm_timer(deadline);
        if local.fires_soon(now) && local.brief_until_tsc == 0 {
            local.brief_until_tsc = processor::rdtsc() + local.brief_ticks / 2;
        }
    }
}

/// The hardware timer fired. Context: interrupt.
pub(crate) fn timer_fired() {
    // SAFETY: interrupt handlers run with interrupts off, and `schedule` is not in progress with them on.
    let (local, _) = unsafe { this_cpu() };
    local.armed_ns = NEVER;
    local.brief_until_tsc = 0;
    block::set_need_resched(true);
}

#[inline(always)]
fn allows(thread: &Thread, cpu: usize) -> bool {
    thread.affinity.load(Ordering::Relaxed) & 1 << cpu != 0
}

/// The least loaded CPU that the thread may run on.
fn allowed_cpu(thread: &Thread) -> usize {
    if torture::is_on() {
        return mischief::any_of(thread.affinity() & u64::MAX >> (64 - percpu::cpu_count()));
    }
    (0..percpu::cpu_count())
        .filter(|&cpu| allows(thread, cpu))
        .min_by_key(|&cpu| shared(cpu).load.load(Ordering::Relaxed))
        .unwrap_or(0)
}

/// Puts a thread on `target`'s incoming list and makes that CPU look.
#[inline(never)]
fn send(target: usize, thread: ThreadRef) {
    let _here = PreemptGuard::new();
    thread.home.store(target as u32, Ordering::Relaxed);
    thread.ready_tsc.store(processor::rdtsc(), Ordering::Relaxed);
    // SAFETY: whoever calls holds the scheduler reference of a thread that is nowhere else, and so alone may link it.
    let push = unsafe { shared(target).incoming.push(thread) };
    if target == percpu::cpu_id() {
        block::set_need_resched(true);
    } else if push == Push::WasEmpty {
        send_ipi(target, RESCHEDULE_VECTOR);
    }
}

/// Sends a thread that is nowhere to a CPU that it may run on.
pub(super) fn send_elsewhere(thread: ThreadRef) {
    send(allowed_cpu(&thread), thread);
}

/// Keeps a thread runnable here that was woken while it fell asleep. Context: interrupts off.
pub(super) fn stay(thread: ThreadRef) {
    send(percpu::cpu_id(), thread);
}

/// Where a woken thread goes: home if that CPU is idle, else to an idle CPU, else home.
#[inline(always)]
fn wake_target(thread: &Thread) -> usize {
    let home = thread.cpu();
    let idle = IDLE.load(Ordering::Relaxed);
    if idle == 0 && allows(thread, home) || thread.timed.load(Ordering::Relaxed) { home } else { idle_target(thread, home, idle) }
}

#[inline(never)]
fn idle_target(thread: &Thread, home: usize, idle: u64) -> usize {
    if torture::is_on() && mischief::misplaces() {
        return allowed_cpu(thread);
    }
    let idle = idle & thread.affinity();
    if idle == 0 {
        return if allows(thread, home) { home } else { allowed_cpu(thread) };
    }
    if idle & 1 << home != 0 { home } else { idle.trailing_zeros() as usize }
}

/// See [`Thread::unpark`].
pub(super) fn unpark(thread: &Thread) {
    if thread.state.unpark() == Unpark::MustEnqueue {
        // SAFETY: the transition gave us the scheduler reference.
        make_runnable(unsafe { ThreadRef::from_ptr(NonNull::from(thread)) });
    }
}

/// Makes a thread runnable that is nowhere, where it is best.
#[inline(always)]
fn make_runnable(thread: ThreadRef) {
    let enabled = processor::interrupts_enabled();
    processor::disable_interrupts();
    let target = wake_target(&thread);
    // SAFETY: interrupts are off. With interrupts on before, no pass of the scheduler is under way.
    if enabled && target == unsafe { this_cpu() }.0.cpu {
        accept_now(thread);
    } else {
        send(target, thread);
    }
    if enabled {
        processor::enable_interrupts();
        if block::need_resched() {
            super::reschedule();
        }
    }
}

/// Makes a woken thread runnable on this CPU, and asks for a switch if it should run at once.
/// Context: interrupts off, not in the scheduler.
#[inline(always)]
fn accept_now(thread: ThreadRef) {
    // SAFETY: interrupts are off, and no pass of the scheduler is under way.
    let (local, shared) = unsafe { this_cpu() };
    let Some(thread) = let_in(local, thread) else { return };
    super::with_current(|current| {
        let tsc = processor::rdtsc();
        thread.ready_tsc.store(tsc, Ordering::Relaxed);
        if tsc >= local.brief_until_tsc || thread.timed.load(Ordering::Relaxed) {
            return accept_late(local, shared, current, thread);
        }
        let woken = thread.as_ptr();
        thread.home.store(local.cpu as u32, Ordering::Relaxed);
        // SAFETY: the scheduler reference of a woken thread makes it this CPU's to link.
        unsafe { local.queue.enqueue(thread, Enqueue::Woken) };
        shared.load.store(local.queue.load(), Ordering::Relaxed);
        // SAFETY: it is in the queue.
        if local.queue.wake_preempts(unsafe { woken.as_ref() }, current) {
            block::set_need_resched(true);
        }
    });
}

/// [`accept_now`] when turns are not brief.
#[inline(never)]
fn accept_late(local: &mut Local, shared: &Shared, current: &Thread, thread: ThreadRef) {
    let now = local.account(shared, current);
    thread.home.store(local.cpu as u32, Ordering::Relaxed);
    accept(local, thread);
    publish_load(local, shared);
    if local.is_idle(current) || local.queue.should_preempt(current) {
        block::set_need_resched(true);
    } else {
        arm_timer(local, current, now);
    }
}

/// Puts a new thread on the least loaded CPU.
pub(super) fn start(thread: ThreadRef) {
    if block::current().is_null() {
        return send(0, thread);
    }
    super::with_current(|creator| thread.entity.inherit(&creator.entity));
    let target = allowed_cpu(&thread);
    // Until the target looks itself, so that the next of a burst of new threads goes elsewhere.
    shared(target).load.fetch_add(1, Ordering::Relaxed);
    send(target, thread);
}

/// Makes the CPU that `thread` runs on, or will run on next, pass through the exit path of a trap.
///
/// A thread that comes to run elsewhere meanwhile travelled there by read-modify-writes that came after the caller's own, on
/// the word that says what it is kicked for; so it sees that word.
pub(super) fn kick(thread: &Thread) {
    let _here = PreemptGuard::new();
    let cpu = thread.cpu();
    if cpu == percpu::cpu_id() {
        block::set_need_resched(true);
    } else if !thread.state.is_sleeping() {
        send_ipi(cpu, RESCHEDULE_VECTOR);
    }
}

/// Has the thread's CPU look whether it may still run there.
pub(super) fn affinity_changed(thread: &Thread) {
    shared(thread.cpu()).review.store(true, Ordering::Release);
    kick(thread);
}

/// Has the thread's CPU look where the thread now belongs.
pub(super) fn policy_changed(thread: &Thread) {
    affinity_changed(thread);
}

/// See [`Thread::cpu_time_ns`]. A running thread's share since it was last charged is added, by its CPU's word for that: if the
/// word stands still while the account is read, both belong together.
pub(super) fn cpu_time_ns(thread: &Thread) -> u64 {
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let cpu = thread.cpu();
        let since = shared(cpu).since_tsc.load(Ordering::Acquire);
        let accounted = thread.entity.cpu_time_ns();
        let runs = percpu::current_of(cpu).cast::<Thread>() == core::ptr::from_ref(thread);
        core::sync::atomic::fence(Ordering::Acquire);
        if since != 0 && since == shared(cpu).since_tsc.load(Ordering::Relaxed) && cpu == thread.cpu() {
            let now = processor::rdtsc();
            return accounted + if runs { clock::at_tsc(now).saturating_sub(clock::at_tsc(since)) } else { 0 };
        }
    }
    thread.entity.cpu_time_ns()
}

/// Waits; `thread` is the running one. Context: thread, preemption count 0.
#[inline(always)]
pub(super) fn wait(thread: &Thread, deadline_ns: u64) {
    processor::disable_interrupts();
    if !thread.state.take_token() {
        // SAFETY: interrupts are off; the borrow ends before the switch.
        let next = if deadline_ns == NEVER { unsafe { next_at_once(thread) } } else { None };
        match next {
            Some(next) => {
                count_switch(thread, Departure::Parked);
                // SAFETY: as required; the queue has given the scheduler reference of `next` to this CPU.
                unsafe { switch::switch_to(thread, next.as_ref(), Leaving::Voluntarily, Departure::Parked) };
            }
            None => wait_long(thread, deadline_ns),
        }
    }
    processor::enable_interrupts();
    if block::need_resched() {
        super::reschedule();
    }
}

/// The thread that runs after `current`, which waits, if turns are brief and one is ready.
///
/// # Safety
/// Interrupts are off and no pass of the scheduler is under way.
#[inline(always)]
unsafe fn next_at_once(current: &Thread) -> Option<NonNull<Thread>> {
    // SAFETY: per the contract.
    let (local, shared) = unsafe { this_cpu() };
    let tsc = processor::rdtsc();
    if tsc >= local.brief_until_tsc || block::need_resched() || !allows(local.queue.first()?, local.cpu) {
        return None;
    }
    local.charge_briefly(shared, current, tsc);
    let next = local.queue.pick_next()?;
    end_ready(&next, tsc);
    let next = next.into_ptr();
    shared.load.store(local.queue.load(), Ordering::Relaxed);
    Some(next)
}

#[inline(never)]
fn wait_long(thread: &Thread, deadline_ns: u64) {
    if deadline_ns != NEVER {
        thread.timed.store(true, Ordering::Relaxed);
        // SAFETY: interrupts are off; the thread stays alive and in place while it waits, and only this CPU's
        // `accept` or `wake_expired`, which unlink it, let it go on.
        unsafe { this_cpu().0.timers.insert(deadline_ns, NonNull::from(thread)) };
    }
    schedule(thread, Why::Parking);
    thread.timed.store(false, Ordering::Relaxed);
}

/// See [`super::yield_now`].
pub(super) fn yield_now() {
    processor::disable_interrupts();
    super::with_current(|current| {
        // SAFETY: interrupts are off; the borrow ends before the switch.
        let (local, shared) = unsafe { this_cpu() };
        if local.queue.is_empty() && shared.incoming.is_empty() && !block::need_resched() {
            return;
        }
        let tsc = processor::rdtsc();
        if tsc >= local.brief_until_tsc || block::need_resched() || !local.queue.first().is_some_and(|next| allows(next, local.cpu)) {
            return schedule(current, Why::Yielded);
        }
        local.charge_briefly(shared, current, tsc);
        // SAFETY: the running thread's scheduler reference is this CPU's, so it is ours to link.
        unsafe { local.queue.enqueue(ThreadRef::from_ptr(NonNull::from(current)), Enqueue::Yielded) };
        let next = local.queue.pick_next().expect("one was there, and one was added").into_ptr();
        if next != NonNull::from(current) {
            count_switch(current, Departure::Queued);
            current.ready_tsc.store(tsc, Ordering::Relaxed);
            // SAFETY: it is this CPU's.
            end_ready(unsafe { next.as_ref() }, tsc);
            // SAFETY: as required; the queue has given the scheduler reference of `next` to this CPU.
            unsafe { switch::switch_to(current, next.as_ref(), Leaving::Voluntarily, Departure::Queued) };
        }
    });
    processor::enable_interrupts();
    if block::need_resched() {
        super::reschedule();
    }
}

/// A switch is due in a trap handler. Context: interrupts off (and off again on return), preemption enabled.
pub(crate) fn preempt() {
    super::with_current(|thread| schedule(thread, Why::Preempted));
}

/// A switch is due at a safe place in the kernel. Context: interrupts off, preemption enabled.
pub(super) fn reschedule_voluntarily() {
    super::with_current(|thread| schedule(thread, Why::Due));
}

/// See [`super::exit`].
pub(super) fn exit() -> ! {
    processor::disable_interrupts();
    super::with_current(|thread| {
        thread.state.exit();
        schedule(thread, Why::Exiting);
    });
    panic!("an ended thread was switched to")
}

/// Makes the running context CPU `cpu`'s idle thread, on the stack it runs on.
fn adopt_idle(cpu: usize, stack: Stack) {
    let bottom = stack.bottom();
    let thread = Box::new(Thread::new("idle", Class::Idle.policy(), stack, None));
    thread.home.store(cpu as u32, Ordering::Relaxed);
    let thread = ThreadRef::from_box(thread);
    let ticks = |ns: u64| u128::from(ns) * u128::from(clock::tsc_hz()) / 1_000_000_000;
    let local = Local {
        cpu,
        queue: RunQueue::new(cpu as u32),
        timers: TimerQueue::new(),
        armed_ns: NEVER,
        brief_until_tsc: 0,
        brief_ticks: ticks(BRIEF_NS / 2) as u64,
        ns_per_tick: ((1_000_000_000 << 32) / u128::from(clock::tsc_hz())) as u64,
        idle: Some(thread.clone()),
    };
    block::set_scheduler((&raw const SCHEDULERS[cpu]).cast());
    // SAFETY: interrupts are off, and this is the context that runs.
    unsafe {
        block::set_current(&raw const thread.block, bottom);
        *this_cpu().0 = local;
    }
    IDLE.fetch_or(1 << cpu, Ordering::Relaxed);
    apic::init_timer(TIMER_VECTOR);
}

/// Makes the boot context the first CPU's idle thread.
pub(crate) fn init_cpu(cpu: usize, boot_stack: u64) {
    adopt_idle(cpu, Stack::Boot(boot_stack));
}

/// Makes the start-up context of another CPU its idle thread.
pub(crate) fn init_ap(cpu: usize, stack: KernelStack) {
    adopt_idle(cpu, Stack::Own(stack));
    tlb::enter_idle(cpu);
}

/// Threads that this CPU could run, as of its last look. Context: any.
pub(super) fn runnable_here() -> usize {
    shared(percpu::cpu_id()).load.load(Ordering::Relaxed)
}

/// Whether this CPU runs its idle thread. Context: any.
pub(super) fn runs_idle() -> bool {
    IDLE.load(Ordering::Relaxed) & 1 << percpu::cpu_id() != 0
}

/// When this CPU's accounts were last brought up to date, in monotonic nanoseconds. Context: any.
pub(super) fn last_pass_ns() -> u64 {
    match shared(percpu::cpu_id()).since_tsc.load(Ordering::Relaxed) {
        0 => clock::monotonic_ns(),
        tsc => clock::at_tsc(tsc),
    }
}

/// Whether a thread waits for this CPU besides the running one. Context: any.
pub(super) fn others_wait_here() -> bool {
    let shared = shared(percpu::cpu_id());
    shared.load.load(Ordering::Relaxed) >= 2 || !shared.incoming.is_empty()
}

/// The idle thread's work: wait for interrupts; ask loaded CPUs for a thread.
pub(crate) fn run_idle() -> ! {
    processor::disable_interrupts();
    let _due = block::preempt_enable();
    loop {
        if block::need_resched() || !shared(percpu::cpu_id()).incoming.is_empty() {
            reschedule_voluntarily();
            continue;
        }
        ask_for_work();
        if mm::has_idle_work() && do_idle_work() {
            continue;
        }
        processor::enable_and_halt();
    }
}

/// A few microseconds of `mm`'s work, interruptible. Context: interrupts off, and off again on return.
fn do_idle_work() -> bool {
    processor::enable_interrupts();
    let progress = mm::idle_work();
    processor::disable_interrupts();
    progress
}

fn ask_for_work() {
    let this = percpu::cpu_id();
    let loads = (0..percpu::cpu_count()).filter(|&cpu| cpu != this).map(|cpu| (shared(cpu).load.load(Ordering::Relaxed), cpu));
    let Some((load, victim)) = loads.max() else { return };
    if load >= IMBALANCE && shared(victim).wanted_by.fetch_or(1 << this, Ordering::Release) & 1 << this == 0 {
        send_ipi(victim, RESCHEDULE_VECTOR);
    }
}

/// Starts the balancer thread of every CPU.
pub(crate) fn start_balancers() -> Result<(), linux_abi::Errno> {
    for cpu in (0..percpu::cpu_count()).filter(|_| percpu::cpu_count() > 1) {
        let thread = super::spawn("balancer", Class::Normal, move || balance(cpu))?;
        thread.set_affinity(1 << cpu)?;
        let _first = shared(cpu).balancer.set(super::handle(&thread));
    }
    Ok(())
}

/// A balancer's life: while more than one thread is runnable here, look every 100 ms whether another CPU has less to do.
fn balance(cpu: usize) {
    loop {
        let shared = shared(cpu);
        if shared.load.load(Ordering::Relaxed) < IMBALANCE {
            shared.balancer_sleeps.store(true, Ordering::Relaxed);
            super::park(NEVER);
        } else {
            super::park(clock::monotonic_ns() + BALANCE_INTERVAL_NS);
        }
        move_one(cpu);
    }
}

/// Moves one thread to the CPU with the least to do, if the difference is worth it. The balancer itself does not count.
fn move_one(cpu: usize) {
    processor::without_interrupts(|| {
        if percpu::cpu_id() != cpu {
            return;
        }
        // SAFETY: interrupts are off.
        let (local, _) = unsafe { this_cpu() };
        let load = local.queue.load() - 1;
        let others = (0..percpu::cpu_count()).filter(|&other| other != cpu);
        let least = others.map(|other| (shared(other).load.load(Ordering::Relaxed), other)).min();
        if let Some((other_load, other)) = least
            && load >= other_load + IMBALANCE
        {
            give(local, other);
        }
    });
}
