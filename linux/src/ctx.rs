//! What a system call gets: [`Ctx`], the calling [`Task`] and its registers; and how registers become typed arguments.
//!
//! A handler is an ordinary function `fn name(ctx: &Ctx<'_>, fd: i32, buffer: UserPtr<u8>, count: usize) -> SysResult`
//! (`&mut Ctx<'_>` when it changes registers). `table.rs` turns it into a [`Handler`] by converting each register with
//! [`FromRegister`]; the return value or negated errno goes into RAX.

#![expect(unsafe_code, reason = "the caller's own table and directories are not counted")]

use alloc::sync::Arc;

use arch_x86_64::TrapFrame;
use arch_x86_64::percpu::WORK_INTERRUPTED;
use kernel::thread;
use linux_abi::Errno;

use crate::fdtable::FdTable;
use crate::process::{Cred, FsState, Process, Task};

/// What a system call returns: a value for RAX, or an errno.
pub type SysResult = Result<usize, Errno>;

/// An entry of the system call table. Returns what goes into RAX, so that nothing passes through memory.
pub type Handler = extern "C" fn(&Task, &mut TrapFrame) -> isize;

/// A [`SysResult`] as RAX has it: the value, or the negated errno.
#[inline(always)]
pub(crate) fn to_register(result: SysResult) -> isize {
    match result {
        Ok(value) => value as isize,
        Err(error) if error.0 >= FIRST_INTERNAL => interrupted(error),
        Err(error) => error.to_ret(),
    }
}

/// The first of the internal errors that ask for a restart.
pub(crate) const FIRST_INTERNAL: u16 = Errno::ERESTARTSYS.0;

/// A call that a signal interrupted: the signal decides how it ends, on the way back to the program.
#[cold]
#[inline(never)]
fn interrupted(error: Errno) -> isize {
    thread::with_current(|t| t.work().add_work(WORK_INTERRUPTED));
    error.to_ret()
}

/// The caller of a system call.
pub struct Ctx<'a> {
    task: &'a Task,
    frame: &'a mut TrapFrame,
}

impl<'a> Ctx<'a> {
    /// # Safety
    /// `task` is the running thread's, and the lifetime at most that of a system call, fault or return to the program.
    pub(crate) unsafe fn new(task: &'a Task, frame: &'a mut TrapFrame) -> Self {
        Self { task, frame }
    }

    /// The calling thread.
    #[must_use]
    pub fn task(&self) -> &'a Task {
        self.task
    }

    /// The calling process.
    #[must_use]
    pub fn process(&self) -> &'a Process {
        self.task.process()
    }

    /// The calling thread's open files.
    #[inline(always)]
    #[must_use]
    pub fn files(&self) -> &'a FdTable {
        // SAFETY: see `Ctx::new`; what the handle is changed to is asked for anew.
        unsafe { self.task.files.own() }
    }

    /// The calling thread's root, working directory and umask.
    #[must_use]
    pub fn fs(&self) -> &'a FsState {
        // SAFETY: as in `files`.
        unsafe { self.task.fs.own() }
    }

    /// On whose behalf the calling thread acts.
    #[must_use]
    pub fn cred(&self) -> Arc<Cred> {
        // SAFETY: only the thread itself changes them.
        unsafe { self.task.own_cred() }.clone()
    }

    /// The program's registers.
    #[must_use]
    pub fn frame(&self) -> &TrapFrame {
        self.frame
    }

    /// The program's registers, to be changed.
    pub fn frame_mut(&mut self) -> &mut TrapFrame {
        self.frame
    }

    /// Argument `N` (0..6) as the type the handler wants.
    #[must_use]
    pub fn arg<T: FromRegister, const N: usize>(&self) -> T {
        let f = &self.frame;
        T::from_register(match N {
            0 => f.rdi,
            1 => f.rsi,
            2 => f.rdx,
            3 => f.r10,
            4 => f.r8,
            _ => f.r9,
        })
    }
}

/// A value that fits into one argument register. Narrow integers take the low bits, as C callers leave the rest undefined.
pub trait FromRegister {
    /// Converts the register's content.
    fn from_register(value: u64) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => {
        $(impl FromRegister for $t {
            fn from_register(value: u64) -> Self {
                value as Self
            }
        })*
    };
}
integers!(i16, u16, i32, u32, i64, u64, isize, usize);
