//! Switching from one thread to another: stack, FS base, page tables, and vector state where it is live.
//!
//! A switch happens with interrupts off and a preemption count of exactly 1. What the next thread must do for the
//! previous one (mark its context saved, free it if it ended) is `finish`, the first thing every context does when it
//! comes to run.
#![expect(unsafe_code, reason = "changes the running context")]

use super::{Thread, ThreadRef};
use super::cpu as cpu_queue;
use crate::percpu::{self, MAX_CPUS, PerCpu};
use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use arch_x86_64::percpu::{self as block};
use arch_x86_64::{TrapFrame, cpu, fpu, paging, switch};
use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use linux_abi::Errno;
use runqueue::SwitchedOut;

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
pub(super) enum Departure {
    /// Into this CPU's run queue, where it is already.
    Queued,
    /// To sleep, if nobody has woken it meanwhile.
    Parked,
    /// To another CPU, as soon as its context is saved.
    Migrates,
    /// Nowhere.
    Exited,
}

/// What is kept of a thread that does not run. Touched by the CPU that switches from or to it.
pub(super) struct Context {
    stack_pointer: u64,
    fs_base: u64,
    extended: Option<ExtendedState>,
}

impl Context {
    pub(super) const fn new() -> Self {
        Self { stack_pointer: 0, fs_base: 0, extended: None }
    }
}

/// A program thread's save area for x87 and the upper vector halves.
struct ExtendedState {
    area: NonNull<u8>,
    layout: Layout,
    saved: bool,
}

impl ExtendedState {
    fn alloc() -> Result<Self, Errno> {
        let layout = Layout::from_size_align(fpu::xsave_size(), fpu::AREA_ALIGN).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the size is not zero.
        let area = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Errno::ENOMEM)?;
        Ok(Self { area, layout, saved: false })
    }
}

impl Drop for ExtendedState {
    fn drop(&mut self) {
        // SAFETY: allocated by `alloc` with this layout.
        unsafe { dealloc(self.area.as_ptr(), self.layout) };
    }
}

/// The thread this CPU just switched away from, until `finish` has seen to it.
static PREVIOUS: PerCpu<Previous> = PerCpu::new([const { Previous(Cell::new(None)) }; MAX_CPUS]);

struct Previous(Cell<Option<(NonNull<Thread>, Departure)>>);
// SAFETY: a thread may be seen off by whatever code runs on its CPU; each slot is used by its own CPU only.
unsafe impl Send for Previous {}

// SAFETY: a thread pointer may be handed from CPU to CPU; each slot is used by its own CPU only.
unsafe impl Send for Context {}

/// Lays out a new kernel thread's first context: it will run `body`.
pub(super) fn prepare_kernel(thread: &mut Thread, body: *mut Box<dyn FnOnce() + Send>) {
    let bottom = thread.stack.bottom();
    // SAFETY: the stack is new and ours; `run_body` never returns, so the frame is not used.
    let sp = unsafe { switch::prepare(bottom, &TrapFrame::new(), fpu::INITIAL_CONTROL, run_body, body as usize) };
    thread.context.get_mut().stack_pointer = sp;
}

/// Lays out a new program thread's first context: it will go on in program code with the registers of `frame`.
pub(super) fn prepare_program(thread: &mut Thread, frame: &TrapFrame, fs_base: u64) -> Result<(), Errno> {
    let bottom = thread.stack.bottom();
    // SAFETY: the stack is new and ours.
    let sp = unsafe { switch::prepare(bottom, frame, inherited_control(), enter_program, 0) };
    let context = thread.context.get_mut();
    context.stack_pointer = sp;
    context.fs_base = fs_base;
    context.extended = Some(ExtendedState::alloc()?);
    Ok(())
}

/// A thread that a program thread makes starts with its maker's rounding modes and exception masks, as on Linux.
fn inherited_control() -> u64 {
    super::with_current(|maker| if maker.space.is_some() { fpu::control_words() } else { fpu::INITIAL_CONTROL })
}

extern "C" fn run_body(body: usize) {
    finish();
    block_enable();
    super::reschedule();
    // SAFETY: the pointer comes from `Box::into_raw` in `spawn`, and a thread starts once.
    let body = unsafe { Box::from_raw(body as *mut Box<dyn FnOnce() + Send>) };
    body();
    super::exit()
}

extern "C" fn enter_program(_: usize) {
    finish();
    block_enable();
}

fn block_enable() {
    // The callers look whether a switch is due: `run_body` at once, a program's thread on its way to program code.
    let _due = block::preempt_enable();
}

/// Switches from `from` to `to` on this CPU. Returns when somebody switches back, possibly on another CPU.
///
/// # Safety
/// Interrupts are off, the preemption count is 1, `from` runs here, `to` does not run and its context is saved.
pub(super) unsafe fn switch_to(from: &Thread, to: &Thread, leaving: Leaving, departure: Departure) {
    // SAFETY: `from` runs here, and `to` was handed to this CPU, so both contexts are ours.
    let (old, new) = unsafe { (&mut *from.context.get(), &mut *to.context.get()) };
    if let Some(extended) = &mut old.extended {
        old.fs_base = cpu::fs_base();
        if leaving == Leaving::Preempted || from.trapped.load(Ordering::Relaxed) || fpu::is_live() {
            // SAFETY: the area was allocated for this.
            unsafe { fpu::save(extended.area.as_ptr()) };
            extended.saved = true;
            fpu::reset();
        }
    }
    if let Some(space) = &to.space
        && space.cr3() != paging::read_cr3()
    {
        // SAFETY: every address space maps the kernel.
        unsafe { paging::write_cr3(space.cr3()) };
    }
    if new.extended.is_some() {
        cpu::set_fs_base(new.fs_base);
    }
    set_previous(from, departure);
    // SAFETY: interrupts are off; the stack of `to` is live.
    unsafe {
        block::set_current(&raw const to.block, to.stack.bottom());
        switch::switch_stack(&raw mut old.stack_pointer, new.stack_pointer);
    }
    finish();
    if old.extended.is_some() {
        from.block.switched_in(leaving == Leaving::Preempted || from.trapped.load(Ordering::Relaxed));
    }
    if let Some(extended) = &mut old.extended
        && extended.saved
    {
        extended.saved = false;
        // SAFETY: saved above.
        unsafe { fpu::restore(extended.area.as_ptr()) };
    }
}

fn set_previous(thread: &Thread, departure: Departure) {
    // SAFETY: with interrupts off this is, and stays, this CPU's slot.
    unsafe { PREVIOUS.of(percpu::cpu_id()) }.0.set(Some((NonNull::from(thread), departure)));
}

/// First duty of a context that comes to run: see the one before it off.
fn finish() {
    // SAFETY: as in `set_previous`.
    let Some((thread, departure)) = unsafe { PREVIOUS.of(percpu::cpu_id()) }.0.take() else { return };
    match departure {
        Departure::Queued => {}
        Departure::Parked => {
            // SAFETY: the thread's scheduler reference is in its state word, which only this call (or a waker, who can
            // bring it to this CPU only) makes available.
            match unsafe { thread.as_ref() }.state.switched_out() {
                SwitchedOut::Asleep | SwitchedOut::AlreadyWoken => {}
            }
        }
        // SAFETY: the scheduler reference of a thread that left the CPU without being queued is this CPU's.
        Departure::Migrates => cpu_queue::send_elsewhere(unsafe { ThreadRef::from_ptr(thread) }),
        // SAFETY: as above.
        Departure::Exited => drop(unsafe { ThreadRef::from_ptr(thread) }),
    }
}
