//! Switching from one thread to another: stack, FS base, page tables, and vector state where it is live.
//!
//! A switch happens with interrupts off and a preemption count of 0. What the next thread must do for the
//! previous one (let it sleep now that its context is saved, free it if it ended) is `finish`, the first thing every context
//! does when it comes to run.
#![expect(unsafe_code, reason = "changes the running context")]

use super::{Thread, ThreadRef};
use super::cpu as cpu_queue;
use crate::tlb;
use alloc::alloc::{alloc, dealloc};
use alloc::boxed::Box;
use arch_x86_64::percpu::{self as block};
use arch_x86_64::switch::Before;
use arch_x86_64::{TrapFrame, cpu, fpu, switch};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
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

/// What is kept of a thread that does not run. Touched by the CPU that switches from or to it.
pub(super) struct Context {
    stack_pointer: u64,
    fs_base: u64,
    /// The root of its page tables; 0: it does not mind which are loaded.
    root: u64,
    extended: Option<ExtendedState>,
}

impl Context {
    pub(super) const fn new() -> Self {
        Self { stack_pointer: 0, fs_base: 0, root: 0, extended: None }
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
        let area = NonNull::new(unsafe { alloc(layout) }).ok_or(Errno::ENOMEM)?;
        // SAFETY: the area is ours and has that size.
        unsafe { fpu::prepare_area(area.as_ptr()) };
        Ok(Self { area, layout, saved: false })
    }

    #[inline(never)]
    fn save(&mut self) {
        // SAFETY: the area was allocated for this.
        unsafe { fpu::save(self.area.as_ptr()) };
        self.saved = true;
        fpu::reset();
    }

    #[inline(never)]
    fn restore(&mut self) {
        self.saved = false;
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
    if let Some(extended) = &mut old.extended {
        old.fs_base = cpu::fs_base();
        if leaving == Leaving::Preempted || from.trapped.load(Ordering::Relaxed) || fpu::is_live() {
            extended.save();
        }
    }
    if new.extended.is_some() {
        // SAFETY: every address space maps the kernel. Interrupts are off.
        unsafe { tlb::load_root(new.root) };
        cpu::set_fs_base(new.fs_base);
    }
    let before = Before { from: core::ptr::from_ref(from) as usize, departure: departure as usize };
    // SAFETY: interrupts are off; the stack of `to` is live.
    let before = unsafe {
        block::set_current(&raw const to.block, to.stack.bottom());
        switch::switch_stack(&raw mut old.stack_pointer, new.stack_pointer, before)
    };
    finish(before);
    if old.extended.is_some() {
        from.block.switched_in(leaving == Leaving::Preempted || from.trapped.load(Ordering::Relaxed));
    }
    if let Some(extended) = &mut old.extended
        && extended.saved
    {
        extended.restore();
    }
}

/// First duty of a context that comes to run: see the one before it off.
#[inline(always)]
fn finish(before: Before) {
    // SAFETY: `switch_to` passes a reference.
    let thread = unsafe { NonNull::new_unchecked(before.from as *mut Thread) };
    if before.departure == Departure::PARKED {
        // SAFETY: until it sleeps the scheduler reference is this CPU's.
        if unsafe { thread.as_ref() }.state.fall_asleep() == FallAsleep::AlreadyWoken {
            see_off(thread, before.departure);
        }
    } else if before.departure != Departure::QUEUED {
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
