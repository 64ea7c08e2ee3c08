//! Restartable sequences (`rseq`): a thread's critical section on a CPU is cut short when the thread loses that CPU.
//!
//! A thread registers a structure in its memory. The kernel keeps the number of its CPU there, and, before program code goes on
//! after a preemption, a migration, a signal or another CPU's `membarrier`, looks whether the thread was in the critical section that
//! the structure points to; then it goes on at that section's abort address.
//!
//! The scheduler asks for this (`WORK_RSEQ`) only when the CPU has changed or program code was interrupted, so threads that stay
//! where they are, and switch in system calls, pay nothing.

use core::mem::size_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use addr::layout;
use arch_x86_64::TrapFrame;
use kernel::thread;
use linux_abi::Errno;
use linux_abi::sched::{RSEQ_FEATURE_SIZE, Rseq, RseqCs};
use linux_abi::signal::{SigInfo, Signal, code};

use crate::ctx::{Ctx, SysResult};
use crate::process::Task;
use crate::signal::deliver;
use crate::user_ptr::UserPtr;

const FLAG_UNREGISTER: u32 = 1;
/// What `cpu_id` reads while nothing is registered.
const CPU_ID_UNINITIALIZED: u32 = u32::MAX;
/// Offsets in [`Rseq`].
const CPU_ID_START: u64 = 0;
const CPU_ID: u64 = 4;
const RSEQ_CS: u64 = 8;
const NODE_ID: u64 = 20;
const MM_CID: u64 = 24;

/// A thread's registration. Changed by the thread alone.
#[derive(Default)]
pub struct Registration {
    /// Where the structure is; 0 for none.
    address: AtomicU64,
    len: AtomicU32,
    signature: AtomicU32,
}

impl Registration {
    fn get(&self) -> Option<(u64, u32)> {
        let address = self.address.load(Ordering::Relaxed);
        (address != 0).then(|| (address, self.signature.load(Ordering::Relaxed)))
    }

    /// Whether something is registered.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.get().is_some()
    }

    /// The same, in a copy of the memory: `fork`.
    pub fn copy_from(&self, other: &Self) {
        self.set(other.address.load(Ordering::Relaxed), other.len.load(Ordering::Relaxed), other.signature.load(Ordering::Relaxed));
    }

    fn set(&self, address: u64, len: u32, signature: u32) {
        self.len.store(len, Ordering::Relaxed);
        self.signature.store(signature, Ordering::Relaxed);
        self.address.store(address, Ordering::Relaxed);
    }

    /// Fails unless exactly this is registered.
    fn check(&self, address: u64, len: u32, signature: u32) -> Result<(), Errno> {
        if address != self.address.load(Ordering::Relaxed) || len != self.len.load(Ordering::Relaxed) {
            return Err(Errno::EINVAL);
        }
        if signature == self.signature.load(Ordering::Relaxed) { Ok(()) } else { Err(Errno::EPERM) }
    }
}

/// `rseq`: registers the calling thread's structure, or takes it back.
///
/// # Errors
/// `EINVAL`, `EPERM` for another signature, `EBUSY` when it is registered already, `EFAULT`.
pub fn rseq(ctx: &Ctx<'_>, address: u64, len: u32, flags: u32, signature: u32) -> SysResult {
    let registration = &ctx.task().rseq;
    match flags {
        FLAG_UNREGISTER if !registration.is_set() => Err(Errno::EINVAL),
        FLAG_UNREGISTER => {
            registration.check(address, len, signature)?;
            store(address, 0, CPU_ID_UNINITIALIZED)?;
            registration.set(0, 0, 0);
            thread::with_current(|t| t.work().forget_rseq());
            Ok(0)
        }
        0 if registration.is_set() => registration.check(address, len, signature).and(Err(Errno::EBUSY)),
        0 => register(ctx.task(), address, len, signature),
        _ => Err(Errno::EINVAL),
    }
}

fn register(task: &Task, address: u64, len: u32, signature: u32) -> SysResult {
    let aligned = address.is_multiple_of(size_of::<Rseq>() as u64);
    if !aligned || (len as usize) < size_of::<Rseq>() || address == 0 {
        return Err(Errno::EINVAL);
    }
    if address.checked_add(u64::from(len)).is_none_or(|end| end > layout::USER_MAX) {
        return Err(Errno::EFAULT);
    }
    task.rseq.set(address, len, signature);
    thread::with_current(|t| t.work().begin_rseq());
    Ok(0)
}

/// Stores the number of the CPU, and what goes with it.
fn store(address: u64, cpu_id_start: u32, cpu_id: u32) -> Result<(), Errno> {
    let field = |offset: u64| UserPtr::<u32>::new(address + offset);
    field(CPU_ID_START).store(cpu_id_start)?;
    field(CPU_ID).store(cpu_id)?;
    field(NODE_ID).store(0)?;
    // Unique among the threads that run at the same time, which is what it is for.
    field(MM_CID).store(cpu_id_start)
}

/// Before program code goes on: says on which CPU, and aborts the critical section that was interrupted.
pub(crate) fn before_program(ctx: &mut Ctx<'_>) {
    let Some((address, signature)) = ctx.task().rseq.get() else { return };
    // From here on a migration sets the work bit again.
    let cpu = thread::with_current(|t| t.work().note_rseq_cpu());
    let done = abort(ctx.frame_mut(), address, signature).and_then(|()| store(address, cpu, cpu));
    if done.is_err() {
        deliver::force(ctx, Signal::SIGSEGV, SigInfo::new(Signal::SIGSEGV, code::SI_KERNEL));
    }
}

/// A handler is about to run: the section that the signal interrupted is aborted first, so that the handler returns to its abort
/// address. False: the structure is bad, and SIGSEGV is due.
#[must_use]
pub(crate) fn before_handler(ctx: &mut Ctx<'_>) -> bool {
    match ctx.task().rseq.get() {
        Some((address, signature)) => abort(ctx.frame_mut(), address, signature).is_ok(),
        None => true,
    }
}

/// If the program was interrupted in the critical section that the structure at `address` points to, makes it go on at the abort
/// address.
///
/// # Errors
/// Any error means that structure or section are not as they must be.
fn abort(frame: &mut TrapFrame, address: u64, signature: u32) -> Result<(), Errno> {
    let pointer = UserPtr::<u64>::new(address + RSEQ_CS);
    let section_at = pointer.read()?;
    if section_at == 0 {
        return Ok(());
    }
    let section: RseqCs = UserPtr::new(section_at).read()?;
    check(&section, signature)?;
    // Whether it was interrupted in there or has left: the program sets the pointer anew when it enters the next time.
    pointer.write(&0)?;
    if frame.rip.wrapping_sub(section.start_ip) < section.post_commit_offset {
        frame.rip = section.abort_ip;
    }
    Ok(())
}

fn check(section: &RseqCs, signature: u32) -> Result<(), Errno> {
    let end = section.start_ip.checked_add(section.post_commit_offset).ok_or(Errno::EINVAL)?;
    let inside = section.abort_ip.wrapping_sub(section.start_ip) < section.post_commit_offset;
    if end > layout::USER_MAX || section.abort_ip >= layout::USER_MAX || section.version > 0 || inside {
        return Err(Errno::EINVAL);
    }
    // The word before the abort address shows that somebody meant it to be one.
    let found = UserPtr::<u32>::new(section.abort_ip.wrapping_sub(size_of::<u32>() as u64)).read()?;
    if found == signature { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Auxiliary vector: how much of [`Rseq`] the kernel knows.
pub(crate) const FEATURE_SIZE: u64 = RSEQ_FEATURE_SIZE;
/// Auxiliary vector: how it must be aligned.
pub(crate) const ALIGNMENT: u64 = size_of::<Rseq>() as u64;
