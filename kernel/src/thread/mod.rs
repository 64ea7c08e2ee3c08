//! Threads: what one is, starting and ending them, waiting.
//!
//! Every thread, the program's included, is a [`Thread`] with one small kernel stack. `cpu.rs` decides which runs
//! (per-CPU queues, lock-free wake-ups); `switch.rs` does the switch; `backend.rs` lends threads to the `sync` crate.
//!
//! # Who may touch what
//! - `state` is the atomic word of [`runqueue::ThreadState`]. Whoever wins the transition out of *waiting* owns the
//!   thread's **scheduler reference** and puts the thread in its own run queue or on another CPU's incoming list.
//! - The scheduler reference is one count that travels: a running thread's CPU holds it, then the run queue, the incoming
//!   list, or (while it waits) the state word itself. It ends in `switch::finish` after the thread has exited.
//! - `home` and the saved context belong to the holder of the scheduler reference; `home` changes only once the context
//!   is saved.
//! - Threads are freed by the reaper thread, never in the middle of a switch or an interrupt.
#![expect(unsafe_code, reason = "counted references, and state that discipline keeps private to one CPU")]

mod backend;
mod cpu;
mod idle;
mod real_time;
mod reference;
mod sleep;
mod switch;

use crate::mm::{AddressSpace, KernelStack};
use crate::personality::Part;
use alloc::boxed::Box;
use alloc::sync::Arc;
use arch_x86_64::percpu::{self as block, KERNEL_STACK_SIZE, ThreadBlock, WORK_SIGNAL};
use arch_x86_64::{TrapFrame, cpu as processor};
use core::any::Any;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use linux_abi::Errno;
use lockfree::mpsc::MpscLink;
pub use runqueue::{Mode, Policy, RealTimeShare, RR_QUANTUM_NS, Sampled, ShownTimes};
use runqueue::{ModeSamples, SchedEntity, ThreadState};
use sleep::Timers;

pub(crate) use cpu::{init_ap, init_cpu, preempt, start_balancers, timer_fired};
pub(crate) use idle::run_idle;
pub use real_time::{change_real_time_share, real_time_share};
pub use reference::{ThreadRef, reap};
pub(crate) use reference::start_reaper;

/// About how long one of several equal threads runs at a time.
pub const TURN_NS: u64 = 2 * runqueue::measure::HYSTERESIS_NS;

/// Nice value of driver threads: they run soon after their interrupt, and shortly.
const DRIVER_NICE: i8 = -15;

/// What a thread is for, which decides how it is scheduled at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A device's interrupt thread.
    Driver,
    /// The program, and ordinary kernel work.
    Normal,
    /// Only when nothing else is runnable.
    Idle,
}

impl Class {
    const fn policy(self) -> Policy {
        match self {
            Self::Driver => Policy::Normal(DRIVER_NICE),
            Self::Normal => Policy::Normal(0),
            Self::Idle => Policy::Idle(0),
        }
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A thread of the kernel or of the program.
#[repr(C)]
pub struct Thread {
    /// What the entry code reads; first, at its fixed offset.
    block: ThreadBlock,
    references: AtomicUsize,
    state: ThreadState,
    /// Links the thread into an incoming list, or into the reaper's list after its end.
    link: MpscLink,
    entity: SchedEntity,
    timers: Timers,
    modes: ModeSamples,
    home: AtomicU32,
    /// How often it gave the CPU up to wait, and how often it lost it otherwise. Written by the CPU it leaves.
    waits: AtomicU64,
    preemptions: AtomicU64,
    /// When (by the time-stamp counter) it became ready last, and how long it was ready without running before.
    ready_tsc: AtomicU64,
    ready_ticks: AtomicU64,
    affinity: AtomicU64,
    id: u64,
    name: Arc<str>,
    stack: Stack,
    context: UnsafeCell<switch::Context>,
    space: Option<Arc<AddressSpace>>,
    /// A kernel thread's is `()`.
    personality: Part,
}

// SAFETY: the fields that are not themselves shareable follow the rules of the module.
unsafe impl Sync for Thread {}
// SAFETY: as above.
unsafe impl Send for Thread {}

enum Stack {
    Own(KernelStack),
    /// The stack that the first CPU booted on; its idle thread keeps it.
    Boot(u64),
}

impl Stack {
    fn bottom(&self) -> u64 {
        match self {
            Self::Own(stack) => stack.bottom().0,
            Self::Boot(bottom) => *bottom,
        }
    }
}

/// What a new program thread starts with.
pub struct ProgramThread<'a> {
    /// For diagnostics.
    pub name: Arc<str>,
    /// Its registers, before what `begin` says.
    pub frame: &'a TrapFrame,
    /// How it begins.
    pub begin: Begin,
    /// Its TLS pointer.
    pub fs_base: u64,
    /// The address space it runs in.
    pub space: Arc<AddressSpace>,
    /// How it is scheduled.
    pub policy: Policy,
    /// The personality's own part; [`Thread::personality`] finds it again.
    pub personality: Box<dyn Any + Send + Sync>,
    /// Whether it wants to know from the start when it loses its CPU.
    pub wants_rseq: bool,
}

/// What a new program thread does first.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// It starts a program.
    Program,
    /// It returns 0 from the system call that made it, whose caller's registers it has, on the stack at `rsp` if there is another one for it.
    Return {
        /// Where that begins.
        rsp: Option<u64>,
    },
}

impl Begin {
    fn change(self, frame: &mut TrapFrame) {
        if let Self::Return { rsp } = self {
            frame.rax = 0;
            frame.set_syscall_clobbers();
            frame.rsp = rsp.unwrap_or(frame.rsp);
        }
    }
}

unsafe extern "Rust" {
    /// Defined by the `linux` crate: what its handlers of system calls get, out of a thread's personality.
    safe fn linux_task(personality: &(dyn Any + Send + Sync)) -> *const ();
}

impl Thread {
    fn new(name: Arc<str>, policy: Policy, stack: Stack, space: Option<Arc<AddressSpace>>) -> Box<Self> {
        let frame = block::frame_place(stack.bottom());
        // Written in place: a thread is large.
        Box::write(Box::new_uninit(), Self {
            block: ThreadBlock::new(),
            references: AtomicUsize::new(1),
            state: ThreadState::new(),
            link: MpscLink::new(),
            entity: SchedEntity::new(policy),
            timers: Timers::new(),
            modes: ModeSamples::new(),
            home: AtomicU32::new(0),
            waits: AtomicU64::new(0),
            preemptions: AtomicU64::new(0),
            ready_tsc: AtomicU64::new(0),
            ready_ticks: AtomicU64::new(0),
            affinity: AtomicU64::new(u64::MAX),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name,
            stack,
            context: UnsafeCell::new(switch::Context::new(frame)),
            space,
            personality: Part::of(Box::new(())),
        })
    }

    /// The kernel's number for the thread, never reused.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address space, for program threads.
    #[must_use]
    pub fn space(&self) -> Option<&Arc<AddressSpace>> {
        self.space.as_ref()
    }

    /// The personality's part, if it is a `T`.
    #[inline]
    #[must_use]
    pub fn personality<T: 'static>(&self) -> Option<&T> {
        self.personality.get()
    }

    /// Gives the thread work to look at before it returns to program code, waking it if it sleeps.
    pub fn set_work(&self) {
        self.block.add_work(WORK_SIGNAL);
        // The running thread sleeps no more without having looked, and is on its way to program code.
        if !with_current(|current| core::ptr::eq(current, self)) {
            self.unpark();
            cpu::kick(self);
        }
    }

    /// The word that the way back to program code looks at.
    #[must_use]
    pub fn work(&self) -> &ThreadBlock {
        &self.block
    }

    /// CPU time used so far, in nanoseconds.
    #[must_use]
    pub fn cpu_time_ns(&self) -> u64 {
        cpu::cpu_time_ns(self)
    }

    /// What was sampled of its CPU time, by mode.
    #[must_use]
    pub fn sampled_modes(&self) -> Sampled {
        self.modes.sampled()
    }

    /// How often it gave its CPU up to wait, and how often it lost it otherwise (yielding included, as on Linux).
    #[must_use]
    pub fn switches(&self) -> (u64, u64) {
        (self.waits.load(Ordering::Relaxed), self.preemptions.load(Ordering::Relaxed))
    }

    /// Whether it sleeps at this instant.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.state.is_sleeping()
    }

    /// CPUs it may run on, bit N for CPU N.
    #[must_use]
    pub fn affinity(&self) -> u64 {
        self.affinity.load(Ordering::Relaxed)
    }

    /// Restricts it to the CPUs of `mask`. If it runs or is queued elsewhere it moves at once, else when it is woken.
    ///
    /// # Errors
    /// `EINVAL` if no running CPU is in the mask.
    pub fn set_affinity(&self, mask: u64) -> Result<(), Errno> {
        let online = u64::MAX >> (64 - crate::percpu::cpu_count());
        if mask & online == 0 {
            return Err(Errno::EINVAL);
        }
        self.affinity.store(mask, Ordering::Relaxed);
        cpu::affinity_changed(self);
        Ok(())
    }

    /// Waits until it runs on no CPU that [`Thread::set_affinity`] took from it, as Linux's `sched_setaffinity` does.
    ///
    /// Context: may sleep.
    pub fn leave_forbidden_cpu(&self) {
        if !self.is_sleeping() && self.affinity() & 1 << self.cpu() == 0 {
            // Every CPU makes a full pass of its scheduler meanwhile, where it finds the new mask.
            crate::rcu::synchronize();
        }
    }

    /// How it is scheduled.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.entity.policy()
    }

    /// Changes how it is scheduled, at once.
    pub fn set_policy(&self, policy: Policy) {
        self.entity.set_policy(policy);
        cpu::policy_changed(self);
    }

    /// How long it was runnable without a CPU, in nanoseconds.
    #[must_use]
    pub fn ready_time_ns(&self) -> u64 {
        let ticks = self.ready_ticks.load(Ordering::Relaxed).cast_signed().max(0);
        crate::clock::ticks_to_ns(ticks.cast_unsigned())
    }

    /// Gives it another home.
    ///
    /// # Safety
    /// The caller holds the scheduler reference, and the thread does not run.
    unsafe fn go_to(&self, cpu: usize) {
        if self.cpu() != cpu {
            self.home.store(cpu as u32, Ordering::Relaxed);
            // SAFETY: the context goes with the scheduler reference.
            unsafe { &mut *self.context.get() }.note_move();
        }
    }

    /// The CPU it runs on or ran on last.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.home.load(Ordering::Relaxed) as usize
    }

    /// Wakes the thread, or makes its next [`park`] return at once. Context: any, interrupt handlers included.
    pub fn unpark(&self) {
        cpu::unpark(self);
    }
}

/// Starts a kernel thread that runs `body` and then ends.
///
/// # Errors
/// `ENOMEM`.
pub fn spawn(name: &str, class: Class, body: impl FnOnce() + Send + 'static) -> Result<ThreadRef, Errno> {
    let stack = KernelStack::alloc(KERNEL_STACK_SIZE / addr::PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    let mut thread = Thread::new(Arc::from(name), class.policy(), Stack::Own(stack), None);
    let body: Box<Box<dyn FnOnce() + Send>> = Box::new(Box::new(body));
    switch::prepare_kernel(&mut thread, Box::into_raw(body));
    Ok(start(thread))
}

/// Makes a program thread; it runs once [`ThreadRef::start`] is called on what is returned.
///
/// # Errors
/// `ENOMEM`.
pub fn spawn_program(new: ProgramThread<'_>) -> Result<ThreadRef, Errno> {
    let stack = KernelStack::alloc(KERNEL_STACK_SIZE / addr::PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    let mut thread = Thread::new(new.name, new.policy, Stack::Own(stack), Some(new.space));
    // What the program chose for the maker holds for the new thread.
    with_current(|maker| {
        if maker.space.is_some() {
            *thread.affinity.get_mut() = maker.affinity();
        }
    });
    thread.block.set_task(linux_task(&*new.personality));
    thread.personality = Part::of(new.personality);
    if new.wants_rseq {
        thread.block.begin_rseq();
    }
    switch::prepare_program(&mut thread, new.frame, new.begin, new.fs_base)?;
    Ok(start(thread))
}

/// Puts a new thread on a queue. One reference goes to the scheduler, one to the caller.
fn start(thread: Box<Thread>) -> ThreadRef {
    let thread = ThreadRef::from_box(thread);
    cpu::start(thread.clone());
    thread
}

/// A number that no other address space has while that of the running program thread lives: the root of its page tables, which are
/// loaded.
#[inline(always)]
#[must_use]
pub fn space_id() -> u64 {
    block::root()
}

/// The running thread.
#[must_use]
pub fn current() -> ThreadRef {
    with_current(ThreadRef::share)
}

/// Runs `f` on the running thread without counting a reference.
#[inline]
pub fn with_current<R>(f: impl FnOnce(&Thread) -> R) -> R {
    // SAFETY: GS points to the running thread, which cannot end while it runs this; the block is its first field.
    f(unsafe { &*block::current().cast::<Thread>() })
}

fn try_current() -> Option<&'static Thread> {
    // SAFETY: as in `with_current`; the callers use it only while they run.
    unsafe { block::current().cast::<Thread>().as_ref() }
}

/// The running thread's work word, if threads exist yet.
pub(crate) fn current_block() -> Option<&'static ThreadBlock> {
    try_current().map(|thread| &thread.block)
}

/// The running thread's name, also before there are threads.
pub(crate) fn current_name() -> &'static str {
    try_current().map_or("boot", |thread| &thread.name)
}

/// The running thread's kernel stack.
pub(crate) fn current_stack() -> Option<Range<u64>> {
    let bottom = try_current()?.stack.bottom();
    Some(bottom..bottom + KERNEL_STACK_SIZE as u64)
}

/// Whether this CPU runs its idle thread. Context: any.
pub(crate) fn runs_idle() -> bool {
    cpu::runs_idle()
}

/// Threads that this CPU could run, as of its last look. Context: any.
pub(crate) fn runnable_here() -> usize {
    cpu::runnable_here()
}

/// When this CPU's scheduler last did its accounts, and whether threads wait besides the running one. Context: any.
pub(crate) fn last_pass_ns() -> (u64, bool) {
    (cpu::last_pass_ns(), cpu::others_wait_here())
}

/// The number of the running thread; 0 before there are threads.
pub(crate) fn current_id() -> u64 {
    try_current().map_or(0, |thread| thread.id)
}

/// The running thread's address space.
pub(crate) fn current_space() -> Option<&'static Arc<AddressSpace>> {
    try_current()?.space.as_ref()
}

/// A handle of `thread` for the `sync` crate.
#[must_use]
pub fn handle(thread: &ThreadRef) -> sync::ThreadHandle {
    backend::handle(thread)
}

/// Sleeps until unparked or spuriously, as [`park`] without a deadline: laid out in the caller, for the place that waits most often.
///
/// Context: thread, preemption enabled.
#[inline(always)]
pub fn park_inline() {
    debug_assert!(block::preempt_count() == 0, "sleeping with preemption disabled");
    with_current(|thread| cpu::wait(thread, u64::MAX));
}

/// Sleeps until unparked, until the monotonic `deadline_ns` (`u64::MAX`: none), or spuriously. An unpark that came first
/// makes it return at once.
///
/// Context: thread, preemption enabled.
pub fn park(deadline_ns: u64) {
    debug_assert!(block::preempt_count() == 0, "sleeping with preemption disabled");
    with_current(|thread| cpu::wait(thread, deadline_ns));
}

/// Lets other runnable threads run.
pub fn yield_now() {
    cpu::yield_now();
}

/// Switches if a switch is due. Context: thread, preemption enabled, interrupts on.
pub(crate) fn reschedule() {
    processor::disable_interrupts();
    while block::need_resched() && block::preempt_count() == 0 {
        cpu::reschedule_voluntarily();
    }
    processor::enable_interrupts();
}

/// Ends the running thread.
pub fn exit() -> ! {
    cpu::exit()
}

/// The TLS pointer of the running program thread.
#[must_use]
pub fn fs_base() -> u64 {
    processor::fs_base()
}

/// Sets the TLS pointer of the running program thread. `base` must be canonical.
pub fn set_fs_base(base: u64) {
    // The context's copy is refreshed from the register at every switch, so the register is all there is to set.
    processor::set_fs_base(base);
}

/// From here to its way back to program code all registers of the running thread count, as in an exception: `rt_sigreturn` has loaded them.
/// It is on the slow way out ([`WORK_RESTORE`](arch_x86_64::percpu::WORK_RESTORE)), which ends this.
pub fn keep_all_registers() {
    set_trapped(true);
}

/// Notes that the running thread is (or is no longer) in an exception of program code.
pub(crate) fn set_trapped(trapped: bool) {
    let liveness = if trapped { switch::Liveness::Live } else { switch::Liveness::Look };
    if let Some(thread) = try_current() {
        // SAFETY: the running thread's context is its CPU's, which looks at this when it switches away.
        unsafe { switch::set_liveness(thread.context.get(), liveness) };
    }
}
