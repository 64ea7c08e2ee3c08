//! Entry from the kernel: the symbols that `kernel` declares and this crate defines.
//!
//! System calls do not come here: `syscall_entry` in arch/x86_64/src/entry.S calls the handlers of [`crate::table`] itself, without a
//! lock, an allocation or a reference count in between.

#![expect(unsafe_code, reason = "defines link-time symbols")]

use alloc::sync::Arc;
use core::any::Any;
use core::ptr;

use arch_x86_64::TrapFrame;
use arch_x86_64::percpu::{WORK_INTERRUPTED, WORK_RESTORE, WORK_RSEQ, WORK_SIGNAL};
use kernel::thread;
use kernel::trap::{Fault, FaultKind};
use linux_abi::Errno;

use crate::calls;
use crate::ctx::Ctx;
use crate::oom;
use crate::process::Task;
use crate::rseq;
use crate::signal::{deliver, fault};

/// What a program thread's kernel thread carries.
pub(crate) struct Personality(pub(crate) Arc<Task>);

/// Runs `f` on the running thread's task; `None` on a kernel thread.
pub fn with_task<R>(f: impl FnOnce(&Task) -> R) -> Option<R> {
    thread::with_current(|t| t.personality::<Personality>().map(|p| f(&p.0)))
}

/// What the handlers in `table.rs` get: the running thread's task.
#[unsafe(no_mangle)]
fn linux_task(personality: &(dyn Any + Send + Sync)) -> *const () {
    personality.downcast_ref::<Personality>().map_or(ptr::null(), |personality| Arc::as_ptr(&personality.0).cast())
}

/// The internal error of a system call that was interrupted. Until a handler or the restart says otherwise, it fails with `EINTR`.
#[cold]
fn interrupted_call(frame: &mut TrapFrame) -> Errno {
    let error = Errno((frame.rax as i64).unsigned_abs() as u16);
    frame.rax = Errno::EINTR.to_ret() as u64;
    error
}

/// Work to do before program code goes on: signals, process end.
#[unsafe(no_mangle)]
fn linux_exit_work(frame: &mut TrapFrame) {
    thread::with_current(|t| {
        // Cleared before the queues are looked at: a signal sent from here on sets it again.
        let work = t.work().take_work(WORK_SIGNAL | WORK_RESTORE | WORK_RSEQ | WORK_INTERRUPTED);
        if let Some(personality) = t.personality::<Personality>() {
            let interrupted = (work & WORK_INTERRUPTED != 0).then(|| interrupted_call(frame));
            // SAFETY: it is the running thread's.
            let mut ctx = unsafe { Ctx::new(&personality.0, frame) };
            if work & WORK_RSEQ != 0 {
                rseq::before_program(&mut ctx);
            }
            deliver::deliver(&mut ctx, interrupted);
            // The exit path restores the whole frame from here on anyway; delivery need not ask for it again.
            t.work().take_work(WORK_RESTORE);
        }
    });
}

/// A fault of program code.
#[unsafe(no_mangle)]
fn linux_fault(frame: &mut TrapFrame, fault: Fault) {
    if fault.kind == FaultKind::Breakpoint && calls::with_space(|space| calls::at_breakpoint(space, frame)) == Some(true) {
        return;
    }
    thread::with_current(|t| {
        if let Some(personality) = t.personality::<Personality>() {
            // SAFETY: it is the running thread's.
            fault::raise(&mut unsafe { Ctx::new(&personality.0, frame) }, fault);
        }
    });
}

/// Whether a wait of the running thread must end for a signal.
#[unsafe(no_mangle)]
fn thread_interrupted() -> bool {
    with_task(Task::is_interrupted).unwrap_or(false)
}

/// There is no page for the running program. Whether it should try again, since another one dies for it.
#[unsafe(no_mangle)]
fn linux_make_room() -> bool {
    with_task(oom::make_room).unwrap_or(false)
}

/// The kernel could not have a page for the running program's memory.
#[unsafe(no_mangle)]
fn linux_out_of_memory() {
    with_task(oom::kill);
}
