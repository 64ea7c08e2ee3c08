//! Switching from one thread to another: stack, FS base, page tables, and vector state where it is live.
//!
//! A switch happens with interrupts off and a preemption count of 0. What the next thread must do for the
//! previous one (let it sleep now that its context is saved, free it if it ended) is `finish`, the first thing every context
//! does when it comes to run.
#![expect(unsafe_code, reason = "changes the running context")]

use super::{Begin, Thread, ThreadRef};
use super::cpu as cpu_queue;
use crate::tlb;
use alloc::alloc::{alloc, dealloc};
use alloc::boxed::Box;
use arch_x86_64::percpu::{self as block};
use arch_x86_64::switch::{Before, Saved};
use arch_x86_64::{TrapFrame, cpu, fpu, switch};
use core::alloc::Layout;
use core::mem;
use core::ptr::NonNull;
use linux_abi::Errno;
use runqueue::FallAsleep;

/// How the thread that is switched away from came here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    /// By waiting or yielding in a system call: the ABI leaves only what [`fpu::is_live`] reports.
    Voluntarily,
    /// At an arbitrary instruction.
    Preempted,
}

/// Where the thread that is switched away from goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(super) enum Departure {
    /// Into this CPU's run queue, where it is already.
    Queued = 0,
    /// To sleep, if nobody has woken it meanwhile.
    Parked = 1,
    /// To another CPU, as soon as its context is saved.
    Migrates = 2,
    /// Nowhere.
    Exited = 3,
}

impl Departure {
    const QUEUED: usize = Self::Queued as usize;
    const PARKED: usize = Self::Parked as usize;
    const MIGRATES: usize = Self::Migrates as usize;
}

/// What is kept of a thread that does not run. It belongs to the holder of the thread's scheduler reference.
pub(super) struct Context {
    saved: Saved,
    /// Where its frame lies on its kernel stack ([`block::frame_place`]).
    frame: u64,
    fs_base: u64,
    /// The root of its page tables; 0: it does not mind which are loaded.
    root: u64,
    /// What of its extended state may be live when it waits.
    liveness: Liveness,
    /// What is to be done before it goes on: bits of `RESTORE`, `INTERRUPTED`, `MOVED`.
    pending: u8,
    extended: Option<ExtendedState>,
}

/// What may be live of the state that system calls leave in the registers when a thread waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Liveness {
    /// What [`fpu::is_live`] reports: it is in a system call.
    Look,
    /// All of it: it is in an exception of program code.
    Live,
    /// Nothing, nor does it have an FS base: a kernel thread.
    None,
}

/// Its extended state was saved.
const RESTORE: u8 = 1;
/// It lost its CPU in program code.
const INTERRUPTED: u8 = 2;
/// It comes to run on another CPU than before.
const MOVED: u8 = 4;

impl Context {
    pub(super) const fn new(frame: u64) -> Self {
        Self { saved: Saved::none(), frame, fs_base: 0, root: 0, liveness: Liveness::None, pending: 0, extended: None }
    }

    /// The thread will go on on another CPU.
    pub(super) fn note_move(&mut self) {
        self.pending |= MOVED;
    }

    /// Keeps what the next thread may change and loads that thread's, for a thread that leaves in another way than a system call that waits, or on a
    /// processor without instructions for the FS base.
    #[inline(never)]
    fn exchange_for(&mut self, new: &Self, leaving: Leaving) {
        self.keep(leaving);
        if new.root != block::root() {
            enter_space(new.root);
        }
        cpu::set_fs_base(new.fs_base);
    }

    fn keep(&mut self, leaving: Leaving) {
        if self.liveness == Liveness::None {
            return;
        }
        self.fs_base = cpu::fs_base();
        if leaving == Leaving::Preempted || self.liveness == Liveness::Live {
            self.pending |= INTERRUPTED;
            self.save_extended();
        } else if fpu::is_live() {
            self.save_extended();
        }
    }

    #[inline(never)]
    fn save_extended(&mut self) {
        if let Some(extended) = &self.extended {
            extended.save();
            self.pending |= RESTORE;
        }
    }
}

/// Says what may be live from now on of a thread's state. A kernel thread has none, whatever is said.
///
/// # Safety
/// `context` is that of the running thread.
pub(super) unsafe fn set_liveness(context: *mut Context, liveness: Liveness) {
    // SAFETY: per the contract. An interrupt handler that switches away in between finds the old or the new.
    unsafe {
        if (*context).liveness != Liveness::None {
            (*context).liveness = liveness;
        }
    }
}

/// A program thread's save area for x87 and the upper vector halves.
struct ExtendedState {
    area: NonNull<u8>,
    layout: Layout,
}

impl ExtendedState {
    fn alloc() -> Result<Self, Errno> {
        let layout = Layout::from_size_align(fpu::xsave_size(), fpu::AREA_ALIGN).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the size is not zero.
        let area = NonNull::new(unsafe { alloc(layout) }).ok_or(Errno::ENOMEM)?;
        // SAFETY: the area is ours and has that size.
        unsafe { fpu::prepare_area(area.as_ptr()) };
        Ok(Self { area, layout })
    }

    fn save(&self) {
        // SAFETY: the area was allocated for this.
        unsafe { fpu::save(self.area.as_ptr()) };
        fpu::reset();
    }

    /// After [`ExtendedState::save`].
    fn restore(&self) {
        // SAFETY: saved by `save`.
        unsafe { fpu::restore(self.area.as_ptr()) };
    }
}

impl Drop for ExtendedState {
    fn drop(&mut self) {
        // SAFETY: allocated by `alloc` with this layout.
        unsafe { dealloc(self.area.as_ptr(), self.layout) };
    }
}

// SAFETY: a context goes from CPU to CPU with its thread.
unsafe impl Send for Context {}

/// Lays out a new kernel thread's first context: it will run `body`.
pub(super) fn prepare_kernel(thread: &mut Thread, body: *mut Box<dyn FnOnce() + Send>) {
    let bottom = thread.stack.bottom();
    // SAFETY: the stack is new and ours; `run_body` never returns, so the frame is not used.
    let saved = unsafe { switch::prepare(bottom, &TrapFrame::new(), |_| {}, fpu::INITIAL_CONTROL, run_body, body as usize) };
    thread.context.get_mut().saved = saved;
}

/// Lays out a new program thread's first context: it will go on in program code with the registers of `frame`, after what `begin` says.
pub(super) fn prepare_program(thread: &mut Thread, frame: &TrapFrame, begin: Begin, fs_base: u64) -> Result<(), Errno> {
    let bottom = thread.stack.bottom();
    // SAFETY: the stack is new and ours.
    let saved = unsafe { switch::prepare(bottom, frame, |frame| begin.change(frame), inherited_control(), enter_program, 0) };
    let context = thread.context.get_mut();
    context.saved = saved;
    context.liveness = Liveness::Look;
    context.fs_base = fs_base;
    context.root = thread.space.as_ref().map_or(0, |space| space.cr3().0);
    context.extended = Some(ExtendedState::alloc()?);
    Ok(())
}

/// A thread that a program thread makes starts with its maker's rounding modes and exception masks, as on Linux.
fn inherited_control() -> u64 {
    super::with_current(|maker| if maker.space.is_some() { fpu::control_words() } else { fpu::INITIAL_CONTROL })
}

extern "C" fn run_body(from: usize, departure: usize, body: usize) {
    finish(Before { from, departure });
    super::reschedule();
    // SAFETY: the pointer comes from `Box::into_raw` in `spawn`, and a thread starts once.
    let body = unsafe { Box::from_raw(body as *mut Box<dyn FnOnce() + Send>) };
    body();
    super::exit()
}

/// A program's thread looks whether a switch is due on its way to program code.
extern "C" fn enter_program(from: usize, departure: usize, _: usize) {
    finish(Before { from, departure });
}

/// Switches from `from` to `to` on this CPU. Returns when somebody switches back, possibly on another CPU.
///
/// # Safety
/// Interrupts are off, the preemption count is 0, `from` runs here, `to` does not run and its context is saved.
#[inline(always)]
pub(super) unsafe fn switch_to(from: &Thread, to: &Thread, leaving: Leaving, departure: Departure) {
    // SAFETY: `from` runs here, and `to` was handed to this CPU, so both contexts are ours.
    let (old, new) = unsafe { (&mut *from.context.get(), &mut *to.context.get()) };
    if leaving == Leaving::Voluntarily && old.liveness == Liveness::Look && cpu::has_fsgsbase() {
        // SAFETY: asked.
        old.fs_base = unsafe { cpu::fs_base_at_once() };
        if fpu::is_live() {
            old.save_extended();
        }
        if new.root != block::root() {
            enter_space(new.root);
        }
        // A kernel thread has no use for it, but a question costs as much as the answer.
        // SAFETY: asked.
        unsafe { cpu::set_fs_base_at_once(new.fs_base) };
    } else {
        old.exchange_for(new, leaving);
    }
    let before = Before { from: core::ptr::from_ref(from) as usize, departure: departure as usize };
    // SAFETY: interrupts are off; the stack of `to` is live.
    let before = unsafe {
        block::set_current(&raw const to.block, new.frame);
        switch::switch_stack(&raw mut old.saved, &raw const new.saved, before)
    };
    finish(before);
    if old.pending != 0 {
        resume(from, old);
    }
}

/// Loads the page tables of the thread that comes to run; 0: those that are loaded will do.
#[inline(never)]
fn enter_space(root: u64) {
    if root != 0 {
        // SAFETY: every address space maps the kernel. Interrupts are off.
        unsafe { tlb::load_root(root) };
    }
}

/// The rest of what a thread finds to do that runs again.
#[inline(never)]
fn resume(thread: &Thread, context: &mut Context) {
    let pending = mem::take(&mut context.pending);
    if pending & INTERRUPTED != 0 {
        thread.block.lost_cpu();
    } else if pending & MOVED != 0 {
        thread.block.came_to_cpu();
    }
    if pending & RESTORE != 0
        && let Some(extended) = &context.extended
    {
        extended.restore();
    }
}

/// First duty of a context that comes to run: see the one before it off.
#[inline(always)]
fn finish(before: Before) {
    // SAFETY: `switch_to` passes a reference.
    let thread = unsafe { NonNull::new_unchecked(before.from as *mut Thread) };
    let seen_off = match before.departure {
        // SAFETY: until it sleeps the scheduler reference is this CPU's.
        Departure::PARKED => unsafe { thread.as_ref() }.state.fall_asleep() == FallAsleep::Asleep,
        departure => departure == Departure::QUEUED,
    };
    if !seen_off {
        see_off(thread, before.departure);
    }
}

/// The rarer departures. The scheduler reference of the thread, which left the CPU without being queued, is this CPU's.
#[inline(never)]
fn see_off(thread: NonNull<Thread>, departure: usize) {
    // SAFETY: as said.
    let thread = unsafe { ThreadRef::from_ptr(thread) };
    match departure {
        Departure::PARKED => cpu_queue::stay(thread),
        Departure::MIGRATES => cpu_queue::send_elsewhere(thread),
        _ => drop(thread),
    }
}
