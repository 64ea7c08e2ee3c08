//! Entry from the kernel: the symbols that `kernel` declares and this crate defines.
//!
//! `linux_syscall` is the hot path: no lock, no allocation, no reference count between the registers and the handler.
//! Came from `syscall_entry` in arch/x86_64/src/entry.S; next stop: [`crate::table`].

#![expect(unsafe_code, reason = "defines link-time symbols")]

use alloc::sync::Arc;
use core::ops::RangeInclusive;
use core::sync::atomic::Ordering;

use arch_x86_64::TrapFrame;
use arch_x86_64::percpu::{WORK_RESTORE, WORK_RSEQ, WORK_SIGNAL};
use kernel::thread;
use kernel::trap::Fault;
use linux_abi::Errno;

use crate::ctx::Ctx;
use crate::oom;
use crate::process::Task;
use crate::rseq;
use crate::signal::{deliver, fault};
use crate::table;

/// What a program thread's kernel thread carries.
pub(crate) struct Personality(pub(crate) Arc<Task>);

/// Runs `f` on the running thread's task; `None` on a kernel thread.
pub fn with_task<R>(f: impl FnOnce(&Task) -> R) -> Option<R> {
    thread::with_current(|t| t.personality::<Personality>().map(|p| f(&p.0)))
}

/// A system call: number in `orig_rax`, arguments in the registers, result to `rax`.
#[unsafe(no_mangle)]
extern "C" fn linux_syscall(frame: &mut TrapFrame) {
    thread::with_current(|t| {
        let Some(personality) = t.personality::<Personality>() else { return };
        let mut ctx = Ctx::new(&personality.0, frame);
        let result = table::dispatch(&mut ctx);
        ctx.frame_mut().rax = result as u64;
        if INTERRUPTED.contains(&result) {
            interrupted_call(&mut ctx, Errno(result.unsigned_abs() as u16));
        }
    });
}

/// What the internal errors that ask for a restart look like in RAX.
const INTERRUPTED: RangeInclusive<isize> = -4095..=Errno::ERESTARTSYS.to_ret();

/// A call that a signal interrupted: the signal decides how it ends.
#[cold]
fn interrupted_call(ctx: &mut Ctx<'_>, error: Errno) {
    if thread::with_current(|t| t.work().work.load(Ordering::Relaxed) & WORK_RESTORE != 0) {
        // `rt_sigreturn`: RAX is the program's, and means nothing.
        return;
    }
    // Until a handler or the restart says otherwise.
    ctx.frame_mut().rax = Errno::EINTR.to_ret() as u64;
    ctx.frame_mut().set_syscall_clobbers();
    thread::with_current(|t| t.clear_work());
    deliver::deliver(ctx, Some(error));
}

/// Work to do before program code goes on: signals, process end.
#[unsafe(no_mangle)]
fn linux_exit_work(frame: &mut TrapFrame) {
    thread::with_current(|t| {
        // Cleared before the queues are looked at: a signal sent from here on sets it again.
        let work = t.work().take_work(WORK_SIGNAL | WORK_RESTORE | WORK_RSEQ);
        if let Some(personality) = t.personality::<Personality>() {
            let mut ctx = Ctx::new(&personality.0, frame);
            if work & WORK_RSEQ != 0 {
                rseq::before_program(&mut ctx);
            }
            deliver::deliver(&mut ctx, None);
            // The exit path restores the whole frame from here on anyway; delivery need not ask for it again.
            t.work().take_work(WORK_RESTORE);
        }
    });
}

/// A fault of program code.
#[unsafe(no_mangle)]
fn linux_fault(frame: &mut TrapFrame, fault: Fault) {
    thread::with_current(|t| {
        if let Some(personality) = t.personality::<Personality>() {
            fault::raise(&mut Ctx::new(&personality.0, frame), fault);
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
