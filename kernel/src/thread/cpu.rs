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
//! A timer that is set stays in its CPU's queue, wherever the thread goes (`sleep.rs`).
//!
//! **Brief turns.** A full pass ([`schedule`]) reads the clock, lets the fairness factor grow, looks at timers, requests and the
//! incoming list, and sets the hardware timer. Threads that wake each other and wait switch far more often than any of that
//! changes. So a full pass leaves a promise, `brief_until_tsc`: until then the factor counts as constant, and the hardware timer
//! fires soon enough for whatever may be due. While it holds, waking, waiting and yielding only charge the time-stamp
//! counter's difference and take the first thread of the queue. Whatever comes from outside (an incoming thread, a request, the
//! timer) comes with an interrupt, which asks for a full pass.
//!
//! `brief.rs` has waking, waiting and yielding, `placement.rs` which CPU a thread goes to, `balance.rs` how loads even out, `accounts.rs` who is charged.
#![expect(unsafe_code, reason = "state that belongs to one CPU by discipline")]

mod accounts;
mod balance;
mod brief;
mod mischief;
mod placement;

pub(super) use accounts::{cpu_time_ns, last_pass_ns};
pub(crate) use balance::start_balancers;
pub(super) use brief::{tell, unpark, wait, yield_now};
pub(super) use placement::{affinity_changed, kick, offer_this_cpu, policy_changed, review_all, send_elsewhere, start, stay};

use accounts::end_ready;
use balance::give;
use brief::next_at_once;
use placement::{IDLE, allows, send, wake_target};
use super::switch::{self, Departure, Leaving};
use super::sleep::{self, AbandonedTimer, SleepTimer};
use super::{Class, Stack, Thread, ThreadRef, real_time};
use mischief::Fate;
use crate::mm::KernelStack;
use crate::percpu::{self, MAX_CPUS};
use crate::trap::TIMER_VECTOR;
use crate::{clock, rcu, tlb, torture};
use alloc::sync::Arc;
use arch_x86_64::percpu as block;
use arch_x86_64::{apic, cpu as processor};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use lockfree::mpsc::MpscList;
use platform::clock::steal::StealTime;
use runqueue::measure::{BRIEF_NS, HYSTERESIS_NS};
use runqueue::{Enqueue, IMBALANCE, Mode, ModeSamples, PollFlag, PollWindow, RunQueue, SchedEntity, Scheduled, Unpark};
use sync::{OnceCell, ThreadHandle};
use timer::TimerQueue;

/// About the length of a turn: when the hardware timer fires within it, a turn's end is not computed.
const SOON_NS: u64 = 2 * HYSTERESIS_NS;
/// Hardware timer not set.
const NEVER: u64 = u64::MAX;

// SAFETY: always the same field.
unsafe impl Scheduled for Thread {
    fn sched_entity(&self) -> &SchedEntity {
        &self.entity
    }
}

/// What only its own CPU touches, with interrupts off.
struct Local {
    cpu: usize,
    queue: RunQueue<ThreadRef>,
    timers: TimerQueue<SleepTimer>,
    /// When the hardware timer fires.
    armed_ns: u64,
    /// When the hardware timer should have fired that did last; 0 once that is accounted for.
    missed_ns: u64,
    /// The host's account of the time that it took from this CPU, and what it said at the last look.
    steal: Option<&'static StealTime>,
    stolen_ns: u64,
    /// Until when turns are brief, see the module; 0: they are not.
    brief_until_tsc: u64,
    /// How long that is after a full pass.
    brief_ticks: u64,
    /// When the idle thread began to run last.
    idle_since_tsc: u64,
    poll_window: PollWindow,
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

    /// Whether `current` should make way now that `woken` was accepted.
    fn preempted_by(&self, woken: NonNull<Thread>, current: &Thread) -> bool {
        // Only the first of the queue can preempt, and only it is known to be here.
        self.queue.first().is_some_and(|first| {
            if NonNull::from(first) == woken { self.queue.wake_preempts(first, current) } else { self.queue.should_preempt(current) }
        })
    }

}

/// What any CPU may touch.
pub(super) struct Shared {
    pub(super) incoming: MpscList<ThreadRef>,
    /// Timers of threads that were woken elsewhere.
    abandoned: MpscList<AbandonedTimer>,
    /// Runnable threads, as of the CPU's last look.
    pub(super) load: AtomicUsize,
    /// Idle CPUs that ask for a thread, bit N for CPU N.
    pub(super) wanted_by: AtomicU64,
    /// Whether the idle thread looks at `incoming` without being told, and how long it would.
    pub(super) poll: PollFlag,
    pub(super) poll_window_ns: AtomicU64,
    /// Since when (by the time-stamp counter) the running thread is not charged; 0 while it is being charged.
    since_tsc: AtomicU64,
    /// A queued thread may have lost the right to run here, or got another policy; or real-time threads have got another share.
    review: AtomicBool,
    balancer: OnceCell<ThreadHandle>,
    balancer_sleeps: AtomicBool,
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
            missed_ns: 0,
            steal: None,
            stolen_ns: 0,
            brief_until_tsc: 0,
            brief_ticks: 0,
            idle_since_tsc: 0,
            poll_window: PollWindow::new(),
            ns_per_tick: 0,
            idle: None,
        };
        Self {
            local: UnsafeCell::new(local),
            shared: Shared {
                incoming: MpscList::new(),
                abandoned: MpscList::new(),
                poll: PollFlag::new(),
                poll_window_ns: AtomicU64::new(0),
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

pub(super) fn shared(cpu: usize) -> &'static Shared {
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
    if is_idle {
        // From here on this CPU looks at its list only when told.
        shared.poll.end();
    }
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
    let next = pick_allowed(local, current).map_or(local.idle_ptr(), ThreadRef::into_ptr);
    publish_load(local, shared);
    // SAFETY: the queue, or this CPU's idle slot, kept it alive; now this CPU holds its scheduler reference.
    let next_thread = unsafe { next.as_ref() };
    arm_timer(local, next_thread, now);
    if next == NonNull::from(current) {
        return;
    }
    let cpu = local.cpu;
    let tsc = shared.since_tsc.load(Ordering::Relaxed);
    if is_idle {
        IDLE.fetch_and(!(1 << cpu), Ordering::Relaxed);
        local.poll_window.learn(clock::ticks_to_ns(tsc - local.idle_since_tsc));
        shared.poll_window_ns.store(local.poll_window.window_ns(), Ordering::Relaxed);
        rcu::leave_idle(cpu);
        tlb::leave_idle(cpu);
    } else if next == local.idle_ptr() {
        local.brief_until_tsc = 0;
        local.idle_since_tsc = tsc;
        offer_this_cpu();
        tlb::enter_idle(cpu);
        rcu::enter_idle(cpu);
    }
    count_switch(current, departure);
    if departure == Departure::Queued {
        current.ready_tsc.store(tsc, Ordering::Relaxed);
    }
    end_ready(next_thread, tsc);
    let leaving = if why == Why::Preempted { Leaving::Preempted } else { Leaving::Voluntarily };
    // SAFETY: as required: interrupts off, count 0; `next` is not running and its context is saved.
    unsafe { switch::switch_to(current, next_thread, leaving, departure) };
}

/// The first thread of the queue that may run here; those before it, which may not any more, are sent on. Never `current`, whose registers are
/// not saved yet: if its mask has changed since [`depart`] looked, the full pass that its CPU is asked for sees to that.
fn pick_allowed(local: &mut Local, current: &Thread) -> Option<ThreadRef> {
    loop {
        let next = local.queue.pick_next()?;
        if next.as_ptr() == NonNull::from(current) || allows(&next, local.cpu) {
            return Some(next);
        }
        send_elsewhere(next);
    }
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
        local.queue.set_real_time_share(real_time::real_time_share());
        local.queue.requeue_changed();
        while let Some(thread) = local.queue.take_for_migration(|thread| !allows(thread, cpu)) {
            send_elsewhere(thread);
        }
    }
    for timer in shared.abandoned.take_all() {
        // SAFETY: it was abandoned to this CPU; interrupts are off.
        unsafe { timer.give_back(&mut local.timers) };
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

fn wake_expired(local: &mut Local, now: u64) {
    while let Some(thread) = sleep::pop_expired(&mut local.timers, now) {
        // The thread may be the one that is about to sleep: then this leaves a token. It may have been woken elsewhere just now:
        // then the token, or the wake-up, is one too many, which does no harm. In the second case it may even wait again, with its
        // other timer set somewhere else: that one is not this CPU's to unlink; `send` abandons it.
        // SAFETY: alive, see `pop_expired`.
        let thread = unsafe { thread.as_ref() };
        if thread.state.unpark() == Unpark::MustEnqueue {
            if thread.timers.cpu() == Some(local.cpu) {
                // SAFETY: it was set here; interrupts are off, and the wake-up is ours.
                unsafe { sleep::clear(&mut local.timers, thread) };
            }
            // SAFETY: the transition gave us the scheduler reference.
            let thread = unsafe { ThreadRef::from_ptr(NonNull::from(thread)) };
            send(wake_target(&thread), thread);
        }
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
    // SAFETY: a timer that is still set was set here, else `send` would have abandoned it; interrupts are off.
    unsafe { sleep::clear(&mut local.timers, &thread) };
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

/// Sets the hardware timer for the next thing that time brings: a timer, the end of `running`'s turn, the next sample of its mode.
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
        // The interrupt also looks whether the program has halted the CPU.
        deadline = deadline.min(now + ModeSamples::interval_ns(running.entity.cpu_time_ns()));
    }
    if torture::is_on() {
        deadline = deadline.min(now + torture::interval_ns());
    }
    if local.armed_ns > deadline {
        local.armed_ns = deadline;
        clock::arm_timer(deadline);
        // The idle thread's turns are not brief: it never waits.
        if local.fires_soon(now) && local.brief_until_tsc == 0 && !local.is_idle(running) {
            local.brief_until_tsc = processor::rdtsc() + local.brief_ticks / 2;
        }
    }
}

/// The hardware timer fired, with the running thread in `mode`. Context: interrupt.
pub(crate) fn timer_fired(mode: Mode) {
    // SAFETY: interrupt handlers run with interrupts off, and `schedule` is not in progress with them on.
    let (local, _) = unsafe { this_cpu() };
    local.missed_ns = local.armed_ns;
    local.armed_ns = NEVER;
    local.brief_until_tsc = 0;
    block::set_need_resched(true);
    super::with_current(|current| {
        if current.space.is_some() {
            current.modes.sample(mode, cpu_time_ns(current));
        }
    });
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
        // SAFETY: interrupts are off; the borrow ends before the switch.
        match unsafe { next_at_once(thread) } {
            // SAFETY: as required; the queue has given the scheduler reference of `next` to this CPU.
            Some(next) => unsafe { switch::switch_to(thread, next.as_ref(), Leaving::Voluntarily, Departure::Exited) },
            None => schedule(thread, Why::Exiting),
        }
    });
    panic!("an ended thread was switched to")
}

/// Makes the running context CPU `cpu`'s idle thread, on the stack it runs on.
fn adopt_idle(cpu: usize, stack: Stack) {
    let bottom = stack.bottom();
    let thread = Thread::new(Arc::from("idle"), Class::Idle.policy(), stack, None);
    thread.home.store(cpu as u32, Ordering::Relaxed);
    let thread = ThreadRef::from_box(thread);
    let ticks = |ns: u64| u128::from(ns) * u128::from(clock::tsc_hz()) / 1_000_000_000;
    let local = Local {
        cpu,
        queue: RunQueue::new(cpu as u32),
        timers: TimerQueue::new(),
        armed_ns: NEVER,
        missed_ns: 0,
        steal: clock::open_steal_account(cpu),
        stolen_ns: 0,
        brief_until_tsc: 0,
        brief_ticks: ticks(BRIEF_NS / 2) as u64,
        idle_since_tsc: processor::rdtsc(),
        poll_window: PollWindow::new(),
        ns_per_tick: ((1_000_000_000 << 32) / u128::from(clock::tsc_hz())) as u64,
        idle: Some(thread.clone()),
    };
    block::set_scheduler((&raw const SCHEDULERS[cpu]).cast());
    // SAFETY: interrupts are off, and this is the context that runs.
    unsafe {
        block::set_current(&raw const thread.block, block::frame_place(bottom));
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
    // SAFETY: the idle thread is set before anything else runs and never changes.
    let idle = unsafe { (*SCHEDULERS[percpu::cpu_id()].local.get()).idle_ptr() };
    idle.as_ptr().cast_const() == block::current().cast()
}

/// Whether a thread waits for this CPU besides the running one. Context: any.
pub(super) fn others_wait_here() -> bool {
    let shared = shared(percpu::cpu_id());
    shared.load.load(Ordering::Relaxed) >= 2 || !shared.incoming.is_empty()
}

