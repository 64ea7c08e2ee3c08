//! The scheduler of one CPU: its run queue, its timers, its incoming wake-ups.
//!
//! # Theory
//! Each CPU owns a [`Local`]: run queue and timer queue. Only code that runs on that CPU with interrupts off touches it, so
//! there is no lock. Everything another CPU (or an interrupt handler) wants of it goes through [`Shared`]: a lock-free list of
//! threads to make runnable, a set of CPUs that ask for work, and counters to look at.
//!
//! **Wake-up.** [`unpark`] gives the thread's park token. If the thread was waiting, exactly one caller is told so and now holds
//! the scheduler reference: it chooses a CPU, pushes the thread on that CPU's incoming list and, if the list was empty, sends an
//! interrupt (a non-empty list means that one is on its way). The target takes the whole list whenever it schedules.
//! For its own CPU a caller with interrupts on does at once what the next pass of the scheduler would: such a caller is not
//! inside the scheduler, and every thread that left this CPU has its context saved.
//! A thread whose context is not yet saved (`on_cpu`), or whose timer is set, can only go to its home CPU: that CPU cannot look
//! at its list before it has finished the switch, and the timer is in that CPU's queue.
//!
//! **Balance.** An idle CPU asks the most loaded one for a thread (`wanted_by`); the owner hands one over the next time it
//! schedules. A balancer thread on each CPU evens out lasting differences every 100 ms while more than one thread is runnable.
#![expect(unsafe_code, reason = "state that belongs to one CPU by discipline")]

use super::switch::{self, Departure, Leaving};
use super::{Class, Stack, Thread, ThreadRef};
use crate::mm::KernelStack;
use crate::percpu::{self, MAX_CPUS, PreemptGuard};
use crate::trap::{RESCHEDULE_VECTOR, TIMER_VECTOR};
use crate::{clock, mm, rcu, tlb};
use alloc::boxed::Box;
use arch_x86_64::percpu as block;
use arch_x86_64::{apic, cpu as processor};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use lockfree::mpsc::{MpscList, Push};
use runqueue::measure::HYSTERESIS_NS;
use runqueue::{Enqueue, Park, Placement, RunQueue, SchedEntity, Scheduled, ThreadState, Unpark};
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
    queue: RunQueue<ThreadRef>,
    timers: TimerQueue<Thread>,
    /// When the hardware timer fires.
    armed_ns: u64,
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
}

/// What any CPU may touch.
struct Shared {
    incoming: MpscList<ThreadRef>,
    /// Runnable threads, as of the CPU's last look.
    load: AtomicUsize,
    /// Idle CPUs that ask for a thread, bit N for CPU N.
    wanted_by: AtomicU64,
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
        let local = Local { queue: RunQueue::new(0), timers: TimerQueue::new(), armed_ns: NEVER, idle: None };
        Self {
            local: UnsafeCell::new(local),
            shared: Shared {
                incoming: MpscList::new(),
                load: AtomicUsize::new(0),
                wanted_by: AtomicU64::new(0),
                balancer: OnceCell::new(),
                balancer_sleeps: AtomicBool::new(false),
            },
        }
    }
}

/// CPUs that run their idle thread, bit N for CPU N. Each CPU changes its own bit, when it becomes idle and when it no longer is.
static IDLE: AtomicU64 = AtomicU64::new(0);

static SCHEDULERS: [Scheduler; MAX_CPUS] = [const { Scheduler::new() }; MAX_CPUS];

/// This CPU's own part.
///
/// # Safety
/// Interrupts are off, and the result is not kept across a switch or used while another one is alive.
unsafe fn local() -> &'static mut Local {
    debug_assert!(!processor::interrupts_enabled());
    // SAFETY: per the contract.
    unsafe { &mut *SCHEDULERS[percpu::cpu_id()].local.get() }
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

/// Chooses who runs next and switches to it. Returns when `current` runs again.
///
/// Context: interrupts off, preemption count 1; `current` is the running thread.
fn schedule(current: &Thread, why: Why) {
    let cpu = percpu::cpu_id();
    // SAFETY: interrupts are off; the borrow ends before the switch.
    let local = unsafe { local() };
    let now = clock::monotonic_ns();
    let idle = local.idle_ptr();
    let is_idle = idle == NonNull::from(current);
    block::set_need_resched(false);
    rcu::quiescent(cpu);
    local.queue.account((!is_idle).then_some(current), now);
    hand_over(cpu, local);
    wake_expired(local, now);
    take_incoming(cpu, local, current);
    current.unaccounted_since_ns.store(now, Ordering::Relaxed);
    let Some(departure) = depart(cpu, local, current, why, is_idle) else {
        return arm_timer(local, current, now);
    };
    let next = match local.queue.pick_next() {
        Some(next) => {
            next.state.switched_in();
            next.into_ptr()
        }
        None => idle,
    };
    publish_load(cpu, local);
    // SAFETY: the queue, or this CPU's idle slot, kept it alive; now this CPU holds its scheduler reference.
    let next_thread = unsafe { next.as_ref() };
    next_thread.unaccounted_since_ns.store(now, Ordering::Relaxed);
    arm_timer(local, next_thread, now);
    if next == NonNull::from(current) {
        return;
    }
    if is_idle {
        IDLE.fetch_and(!(1 << cpu), Ordering::Relaxed);
        rcu::leave_idle(cpu);
        tlb::leave_idle(cpu);
    } else if next == idle {
        IDLE.fetch_or(1 << cpu, Ordering::Relaxed);
        tlb::enter_idle(cpu);
        rcu::enter_idle(cpu);
    }
    let leaving = if why == Why::Preempted { Leaving::Preempted } else { Leaving::Voluntarily };
    // SAFETY: as required: interrupts off, count 1; `next` is not running and its context is saved.
    unsafe { switch::switch_to(current, next_thread, leaving, departure) };
}

/// Decides whether `current` stops running, and if so where it goes. `None`: it goes on.
fn depart(cpu: usize, local: &mut Local, current: &Thread, why: Why, is_idle: bool) -> Option<Departure> {
    if is_idle {
        return (!local.queue.is_empty()).then_some(Departure::Queued);
    }
    match why {
        Why::Parking => return Some(Departure::Parked),
        Why::Exiting => return Some(Departure::Exited),
        Why::Yielded | Why::Due | Why::Preempted => {}
    }
    if !allows(current, cpu) {
        current.state.preempted();
        current.state.migrating();
        return Some(Departure::Migrates);
    }
    let stays = if why == Why::Yielded { local.queue.is_empty() } else { !local.queue.should_preempt(current) };
    if stays {
        return None;
    }
    current.state.preempted();
    let why = if why == Why::Yielded { Enqueue::Yielded } else { Enqueue::Preempted };
    // SAFETY: the running thread's scheduler reference is this CPU's; it was just made ready, so it is ours to link.
    unsafe { local.queue.enqueue(ThreadRef::from_ptr(NonNull::from(current)), why) };
    Some(Departure::Queued)
}

/// Gives a thread to each CPU that asked, while more than one is runnable.
fn hand_over(cpu: usize, local: &mut Local) {
    if shared(cpu).wanted_by.load(Ordering::Relaxed) == 0 {
        return;
    }
    let wanted = shared(cpu).wanted_by.swap(0, Ordering::Acquire);
    for target in (0..percpu::cpu_count()).filter(|target| wanted & 1 << target != 0) {
        if local.queue.load() >= IMBALANCE {
            give(local, target);
        }
    }
}

/// Moves one queued thread to `target`, if one may go there.
fn give(local: &mut Local, target: usize) {
    if let Some(thread) = local.queue.take_for_migration(|thread| allows(thread, target)) {
        thread.state.migrating();
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
fn take_incoming(cpu: usize, local: &mut Local, current: &Thread) {
    for thread in shared(cpu).incoming.take_all() {
        accept(cpu, local, current, thread);
    }
}

/// Puts a thread in state *waking* in the queue, or sends it on if it may not run here. Unless it is `current`, its context is
/// saved.
fn accept(cpu: usize, local: &mut Local, current: &Thread, thread: ThreadRef) {
    // SAFETY: a timer that is set is in the home CPU's queue, and timed waits go home.
    unsafe { local.timers.remove(&thread) };
    if !allows(&thread, cpu) && thread.as_ptr() != NonNull::from(current) {
        let target = allowed_cpu(&thread);
        return send(target, thread);
    }
    thread.state.dequeued();
    // SAFETY: the scheduler reference of a waking thread makes it this CPU's to link.
    unsafe { local.queue.enqueue(thread, Enqueue::Woken) };
}

fn publish_load(cpu: usize, local: &Local) {
    let shared = shared(cpu);
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
    if local.armed_ns > deadline {
        local.armed_ns = deadline;
        clock::arm_timer(deadline);
    }
}

/// The hardware timer fired. Context: interrupt.
pub(crate) fn timer_fired() {
    // SAFETY: interrupt handlers run with interrupts off, and `schedule` is not in progress with them on.
    unsafe { local() }.armed_ns = NEVER;
    block::set_need_resched(true);
}

fn allows(thread: &Thread, cpu: usize) -> bool {
    thread.affinity.load(Ordering::Relaxed) & 1 << cpu != 0
}

/// The least loaded CPU that the thread may run on.
fn allowed_cpu(thread: &Thread) -> usize {
    (0..percpu::cpu_count())
        .filter(|&cpu| allows(thread, cpu))
        .min_by_key(|&cpu| shared(cpu).load.load(Ordering::Relaxed))
        .unwrap_or(0)
}

/// Puts a thread in state *waking* on `target`'s incoming list and makes that CPU look.
fn send(target: usize, thread: ThreadRef) {
    let _here = PreemptGuard::new();
    thread.home.store(target as u32, Ordering::Relaxed);
    // SAFETY: whoever calls holds the scheduler reference of a waking thread, and so alone may link it.
    let push = unsafe { shared(target).incoming.push(thread) };
    if target == percpu::cpu_id() {
        block::set_need_resched(true);
    } else if push == Push::WasEmpty {
        apic::send_ipi(percpu::apic_id_of(target), RESCHEDULE_VECTOR);
    }
}

/// Sends a waking thread to a CPU that it may run on.
pub(super) fn send_elsewhere(thread: ThreadRef) {
    send(allowed_cpu(&thread), thread);
}

/// Where a woken thread goes: home if that CPU is idle, else to an idle CPU, else home.
fn wake_target(thread: &Thread, placement: Placement) -> usize {
    let home = thread.cpu();
    if placement == Placement::Home || thread.timed.load(Ordering::Relaxed) {
        return home;
    }
    let idle = IDLE.load(Ordering::Relaxed) & thread.affinity();
    if idle == 0 {
        return if allows(thread, home) { home } else { allowed_cpu(thread) };
    }
    if idle & 1 << home != 0 { home } else { idle.trailing_zeros() as usize }
}

/// See [`Thread::unpark`].
pub(super) fn unpark(thread: &Thread) {
    let Unpark::MustEnqueue(placement) = thread.state.unpark() else { return };
    let target = wake_target(thread, placement);
    // SAFETY: the transition gave us the scheduler reference.
    let thread = unsafe { ThreadRef::from_ptr(NonNull::from(thread)) };
    if !processor::interrupts_enabled() {
        return send(target, thread);
    }
    processor::disable_interrupts();
    if target == percpu::cpu_id() {
        accept_now(target, thread);
    } else {
        send(target, thread);
    }
    processor::enable_interrupts();
    if block::need_resched() {
        super::reschedule();
    }
}

/// Makes a woken thread runnable on this CPU, and asks for a switch if it should run at once.
/// Context: interrupts off, not in the scheduler.
fn accept_now(cpu: usize, thread: ThreadRef) {
    // SAFETY: interrupts are off, and no pass of the scheduler is under way.
    let local = unsafe { local() };
    super::with_current(|current| {
        let is_idle = local.idle_ptr() == NonNull::from(current);
        thread.home.store(cpu as u32, Ordering::Relaxed);
        // While the timer fires soon after the last account, that was not long ago, and turns end in time.
        let exact = local.fires_soon(local.queue.now_ns());
        if !exact {
            account_late(local, current);
        }
        accept(cpu, local, current, thread);
        publish_load(cpu, local);
        if is_idle || local.queue.should_preempt(current) {
            block::set_need_resched(true);
        } else if !exact {
            arm_timer(local, current, local.queue.now_ns());
        }
    });
}

#[cold]
fn account_late(local: &mut Local, current: &Thread) {
    let is_idle = local.idle_ptr() == NonNull::from(current);
    local.queue.account((!is_idle).then_some(current), clock::monotonic_ns());
}

/// Puts a new thread, in state *waking*, on the least loaded CPU.
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

/// Makes the CPU that runs `thread` pass through the exit path of a trap.
pub(super) fn kick(thread: &Thread) {
    let _here = PreemptGuard::new();
    if thread.cpu() == percpu::cpu_id() {
        block::set_need_resched(true);
    } else if thread.state.is_running() {
        apic::send_ipi(percpu::apic_id_of(thread.cpu()), RESCHEDULE_VECTOR);
    }
}

/// Waits; `thread` is the running one. Context: thread, preemption count 1.
pub(super) fn wait(thread: &Thread, deadline_ns: u64) {
    processor::disable_interrupts();
    if thread.state.prepare_park() == Park::Committed {
        if deadline_ns != NEVER {
            thread.timed.store(true, Ordering::Relaxed);
            // SAFETY: interrupts are off; the thread stays alive and in place while it waits, and only this CPU's
            // `take_incoming` or `wake_expired`, which unlink it, let it go on.
            unsafe { local().timers.insert(deadline_ns, NonNull::from(thread)) };
        }
        schedule(thread, Why::Parking);
        thread.timed.store(false, Ordering::Relaxed);
    }
    processor::enable_interrupts();
}

/// See [`super::yield_now`].
pub(super) fn yield_now() {
    with_scheduler(Why::Yielded);
    super::reschedule();
}

/// A switch is due in a trap handler. Context: interrupts off (and off again on return), preemption enabled.
pub(crate) fn preempt() {
    with_scheduler(Why::Preempted);
}

/// A switch is due at a safe place in the kernel. Context: interrupts off, preemption enabled.
pub(super) fn reschedule_voluntarily() {
    with_scheduler(Why::Due);
}

fn with_scheduler(why: Why) {
    processor::disable_interrupts();
    block::preempt_disable();
    super::with_current(|thread| schedule(thread, why));
    // Whatever became due meanwhile is the caller's to look at, before it lets program code go on.
    let _due = block::preempt_enable();
}

/// See [`super::exit`].
pub(super) fn exit() -> ! {
    processor::disable_interrupts();
    block::preempt_disable();
    super::with_current(|thread| {
        thread.state.exit();
        schedule(thread, Why::Exiting);
    });
    panic!("an ended thread was switched to")
}

/// Makes the running context CPU `cpu`'s idle thread, on the stack it runs on.
fn adopt_idle(cpu: usize, stack: Stack) {
    let bottom = stack.bottom();
    let mut thread = Box::new(Thread::new("idle", Class::Idle, stack, None));
    thread.state = ThreadState::new_running();
    thread.home.store(cpu as u32, Ordering::Relaxed);
    let thread = ThreadRef::from_box(thread);
    // SAFETY: interrupts are off, and this is the context that runs.
    unsafe {
        block::set_current(&raw const thread.block, bottom);
        *local() = Local { queue: RunQueue::new(cpu as u32), timers: TimerQueue::new(), armed_ns: NEVER, idle: Some(thread) };
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

/// The idle thread's work: wait for interrupts; ask loaded CPUs for a thread.
pub(crate) fn run_idle() -> ! {
    processor::disable_interrupts();
    let _due = block::preempt_enable();
    loop {
        if block::need_resched() || !shared(percpu::cpu_id()).incoming.is_empty() {
            with_scheduler(Why::Due);
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
        apic::send_ipi(percpu::apic_id_of(victim), RESCHEDULE_VECTOR);
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
        let local = unsafe { local() };
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
