//! Threads: clone, unshare, exit, thread numbers.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::mem::size_of;

use addr::VirtAddr;
use kernel::mm::AddressSpace;
use kernel::thread::{self, Begin, ProgramThread, spawn_program};
use linux_abi::Errno;
use linux_abi::raw::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_DETACHED, CLONE_FILES, CLONE_FS, CLONE_IO, CLONE_PARENT,
    CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_PTRACE, CLONE_SETTLS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD, CLONE_UNTRACED, CLONE_VFORK,
    CLONE_VM,
};
use linux_abi::signal::Signal;
use linux_abi::sched::{CLONE_ARGS_SIZE_VER0, CloneArgs};
use zerocopy::{FromZeros, IntoBytes};

use crate::calls;
use crate::ctx::{Ctx, SysResult};
use crate::entry::Personality;
use crate::exec;
use crate::exit;
use crate::family;
use crate::process::{self, Belongings, Place, Process, Task};
use crate::signal::{ProcessSignals, TaskSignals};
use crate::sys::ipc::{self, UndoList};
use crate::sys::{file, pidfd};
use crate::user_ptr::UserPtr;

/// What has no namespaces but the first of each kind refuses: `CLONE_NEWTIME`, and the other `CLONE_NEW*`.
const NEW_NAMESPACES: u64 = 0x80 | 0x7e02_0000;
/// Linux's limit on the size argument of versioned structures.
const PAGE: usize = addr::PAGE_SIZE;
const SIGCHLD: u64 = Signal::SIGCHLD.number() as u64;

fn has(flags: u64, flag: u32) -> bool {
    flags & u64::from(flag) != 0
}

/// The TLS pointer of what `clone` makes.
fn first_fs_base(args: &CloneArgs) -> Result<u64, Errno> {
    let fs_base = if has(args.flags, CLONE_SETTLS) { args.tls } else { thread::fs_base() };
    if VirtAddr(fs_base).is_user() { Ok(fs_base) } else { Err(Errno::EPERM) }
}

/// What the kernel needs to start `task`.
fn first_program<'a>(ctx: &'a Ctx<'_>, args: &CloneArgs, task: &Arc<Task>, fs_base: u64, space: Arc<AddressSpace>) -> ProgramThread<'a> {
    ProgramThread {
        name: task.shared_name(),
        frame: ctx.frame(),
        begin: Begin::Return { rsp: (args.stack != 0).then(|| args.stack.wrapping_add(args.stack_size)) },
        fs_base,
        space,
        policy: task.sched().policy(),
        personality: Box::new(Personality(task.clone())),
        wants_rseq: task.rseq.is_set(),
    }
}

/// Starts a thread of the caller's process.
fn clone_thread(ctx: &Ctx<'_>, args: &CloneArgs, place: Place) -> SysResult {
    thread::reap();
    let parent = ctx.task();
    let process = parent.process_ref();
    let tid = number_for(ctx, args)?;
    let signals = TaskSignals::new(parent.signals.mask());
    let task = Task::new(tid, process.clone(), parent.shared_name(), signals, ctx.belongings_of_new(args.flags, Some(place))?);
    task.inherit_sched(parent);
    if has(args.flags, CLONE_CHILD_CLEARTID) {
        task.set_clear_child_tid(args.child_tid);
    }
    if has(args.flags, CLONE_PARENT_SETTID) {
        UserPtr::new(args.parent_tid).write(&tid)?;
    }
    if has(args.flags, CLONE_CHILD_SETTID) {
        UserPtr::new(args.child_tid).write(&tid)?;
    }
    let fs_base = first_fs_base(args)?;
    let space = thread::with_current(|thread| thread.space().cloned()).unwrap_or_else(|| process.space());
    let program = first_program(ctx, args, &task, fs_base, space);
    process.add_task(&task, || spawn_program(program).map_err(|_| Errno::EAGAIN))?;
    if has(args.flags, CLONE_VFORK) {
        process.wait_for_thread(parent, tid);
    }
    Ok(tid as usize)
}

/// What may be asked for. `CLONE_DETACHED` and `CLONE_IO` have nothing to act on, nor those about tracers, since nobody traces.
const KNOWN_FLAGS: u64 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_VFORK
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_PARENT
    | CLONE_PIDFD
    | CLONE_PTRACE
    | CLONE_UNTRACED
    | CLONE_IO) as u64
    | CLONE_CLEAR_SIGHAND;
/// As Linux's nesting of number spaces, of which there is one here.
const MAX_PID_LEVELS: u64 = 32;
/// clone3 only: caught signals become default in the child.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// The process that is to be the parent of one that `caller` makes.
fn parent_of_new(caller: &Arc<Process>, flags: u64) -> Result<Arc<Process>, Errno> {
    if !has(flags, CLONE_PARENT) {
        return Ok(caller.clone());
    }
    // The first process has none, as Linux's has none.
    caller.parent().ok_or(Errno::EINVAL)
}

/// The number of a new thread: the one that is asked for (clone3 alone, and privileged), or any.
fn number_for(ctx: &Ctx<'_>, args: &CloneArgs) -> Result<u32, Errno> {
    if args.set_tid_size == 0 {
        return Ok(process::new_tid());
    }
    let wanted: u32 = UserPtr::new(args.set_tid).read()?;
    if args.set_tid_size != 1 || wanted == 0 || wanted >= process::PID_MAX {
        return Err(Errno::EINVAL);
    }
    if ctx.cred().euid != 0 {
        return Err(Errno::EPERM);
    }
    let taken = process::find_process(wanted).is_some() || process::find_task(wanted).is_some();
    if taken { Err(Errno::EEXIST) } else { Ok(wanted) }
}

/// A new process without threads.
fn new_process(caller: &Task, args: &CloneArgs, pid: u32, space: Arc<AddressSpace>, place: Place) -> Arc<Process> {
    let maker = caller.process();
    let signals = if has(args.flags, CLONE_SIGHAND) { ProcessSignals::sharing(&maker.signals) } else { ProcessSignals::copying(&maker.signals) };
    let child = Process::with_signals(pid, space, caller.cred(), signals, place);
    child.inherit(maker);
    if has(args.flags, CLONE_PARENT) {
        child.family.become_sibling(&maker.family);
    } else {
        child.family.set_exit_signal(args.exit_signal as u32);
        child.family.set_maker(caller.tid());
    }
    if has(args.flags, CLONE_VFORK) {
        child.family.hold_maker();
    }
    if args.flags & CLONE_CLEAR_SIGHAND != 0 {
        child.signals.reset_handlers();
    }
    child
}

/// The first thread of a new process.
fn first_task(caller: &Task, child: &Arc<Process>, args: &CloneArgs, own: Belongings) -> Arc<Task> {
    let task = Task::new(child.pid(), child.clone(), caller.shared_name(), TaskSignals::new(caller.signals.mask()), own);
    task.inherit_sched(caller);
    if !has(args.flags, CLONE_VM) {
        task.signals.set_altstack(caller.signals.altstack());
        task.rseq.copy_from(&caller.rseq);
    }
    if has(args.flags, CLONE_CHILD_CLEARTID) {
        task.set_clear_child_tid(args.child_tid);
    }
    task
}

/// Starts a process: a copy of the caller's memory, or (with `CLONE_VM`) the caller's own until it runs a program.
fn clone_process(ctx: &Ctx<'_>, args: &CloneArgs, place: Place) -> SysResult {
    let (maker, caller) = (ctx.task().process_ref(), ctx.task());
    if args.exit_signal > 64 {
        return Err(Errno::EINVAL);
    }
    let parent = &parent_of_new(maker, args.flags)?;
    let fs_base = first_fs_base(args)?;
    if caller.is_interrupted() {
        // A signal to the whole group must not miss the child.
        return Err(Errno::ERESTARTNOINTR);
    }
    let pid = number_for(ctx, args)?;
    let space = if has(args.flags, CLONE_VM) { maker.space() } else { calls::fork(&maker.space())? };
    if has(args.flags, CLONE_PARENT_SETTID) {
        UserPtr::new(args.parent_tid).write(&pid)?;
    }
    if has(args.flags, CLONE_CHILD_SETTID) {
        exec::write_to(&space, VirtAddr(args.child_tid), &pid.to_le_bytes())?;
    }
    let own = ctx.belongings_of_new(args.flags, None)?;
    let child = new_process(caller, args, pid, space.clone(), place);
    let task = first_task(caller, &child, args, own);
    parent.family.add_child(child.clone());
    let started = start_process(ctx, args, &task, first_program(ctx, args, &task, fs_base, space));
    started.inspect_err(|_| family::abandon(parent, &child))?;
    if has(args.flags, CLONE_VFORK) {
        child.family.wait_for_release(caller);
    }
    Ok(pid as usize)
}

/// Starts the first thread of a process that its parent knows, and opens the process if its maker wants that.
fn start_process(ctx: &Ctx<'_>, args: &CloneArgs, task: &Arc<Task>, program: ProgramThread<'_>) -> Result<(), Errno> {
    let child = task.process_ref();
    let pidfd = if has(args.flags, CLONE_PIDFD) { Some(open_pidfd(ctx, args, child)?) } else { None };
    if child.add_task(task, || spawn_program(program)).is_err() {
        if let Some(fd) = pidfd {
            // Nobody else can have closed what it was never told of; if so, nothing is left to do.
            let _gone = ctx.files().remove(fd);
        }
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

/// `CLONE_PIDFD`: opens the new process and stores the descriptor.
fn open_pidfd(ctx: &Ctx<'_>, args: &CloneArgs, child: &Arc<Process>) -> Result<i32, Errno> {
    let fd = pidfd::install(ctx, child.clone(), false)?;
    let stored = UserPtr::new(args.pidfd).write(&fd);
    if stored.is_err() {
        // As in `start_process`.
        let _gone = ctx.files().remove(fd);
    }
    stored.map(|()| fd)
}

fn clone_any(ctx: &Ctx<'_>, args: &CloneArgs) -> SysResult {
    if has(args.flags, CLONE_PIDFD) && has(args.flags, CLONE_DETACHED)
        || args.flags & CLONE_CLEAR_SIGHAND != 0 && has(args.flags, CLONE_SIGHAND)
    {
        return Err(Errno::EINVAL);
    }
    if has(args.flags, CLONE_SIGHAND) && !has(args.flags, CLONE_VM)
        || has(args.flags, CLONE_THREAD) && !has(args.flags, CLONE_SIGHAND)
    {
        return Err(Errno::EINVAL);
    }
    if args.flags & NEW_NAMESPACES != 0 {
        return Err(Errno::EPERM);
    }
    if args.flags & !KNOWN_FLAGS != 0 || has(args.flags, CLONE_THREAD) && has(args.flags, CLONE_PIDFD) {
        log::debug!("clone with flags {:#x} is not supported: ENOSYS", args.flags);
        return Err(Errno::ENOSYS);
    }
    let place = ctx.task().claim_place()?;
    if has(args.flags, CLONE_THREAD) { clone_thread(ctx, args, place) } else { clone_process(ctx, args, place) }
}

/// `clone`: threads and processes.
///
/// # Errors
/// `EINVAL`, `EAGAIN`, `EPERM` (also for namespaces), `EFAULT`, `ENOMEM`; `ENOSYS` for the descriptor of a thread.
pub fn clone(ctx: &Ctx<'_>, flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> SysResult {
    const EXIT_SIGNAL: u64 = 0xff;
    let args = CloneArgs {
        flags: flags & !EXIT_SIGNAL,
        exit_signal: flags & EXIT_SIGNAL,
        stack,
        // One argument for both: they exclude each other.
        pidfd: parent_tid,
        parent_tid,
        child_tid,
        tls,
        ..CloneArgs::default()
    };
    if has(args.flags, CLONE_PIDFD) && has(args.flags, CLONE_PARENT_SETTID) {
        return Err(Errno::EINVAL);
    }
    clone_any(ctx, &args)
}

/// `clone3`.
///
/// # Errors
/// As `clone`; `E2BIG` for fields this kernel does not know.
pub fn clone3(ctx: &Ctx<'_>, args: UserPtr<u8>, size: usize) -> SysResult {
    let args = read_clone_args(args, size)?;
    let makes_sibling = args.flags & u64::from(CLONE_THREAD | CLONE_PARENT) != 0;
    if args.cgroup != 0 || args.exit_signal > 64 || makes_sibling && args.exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    if args.set_tid_size > MAX_PID_LEVELS || (args.set_tid == 0) != (args.set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    if (args.stack == 0) != (args.stack_size == 0) {
        return Err(Errno::EINVAL);
    }
    clone_any(ctx, &args)
}

/// Reads a structure that may be older or newer than ours: what is missing is zero, what is unknown must be.
fn read_clone_args(pointer: UserPtr<u8>, size: usize) -> Result<CloneArgs, Errno> {
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL);
    }
    if size > PAGE {
        return Err(Errno::E2BIG);
    }
    let bytes = pointer.read_vec(size)?;
    let known = size.min(size_of::<CloneArgs>());
    if bytes[known..].iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    let mut args = CloneArgs::new_zeroed();
    args.as_mut_bytes()[..known].copy_from_slice(&bytes[..known]);
    Ok(args)
}

/// `fork`.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub fn fork(ctx: &Ctx<'_>) -> SysResult {
    clone_any(ctx, &CloneArgs { exit_signal: SIGCHLD, ..CloneArgs::default() })
}

/// `vfork`: the child borrows the caller's memory until it runs a program or ends.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub fn vfork(ctx: &Ctx<'_>) -> SysResult {
    let flags = u64::from(CLONE_VM | CLONE_VFORK);
    clone_any(ctx, &CloneArgs { flags, exit_signal: SIGCHLD, ..CloneArgs::default() })
}

/// `unshare`: what the calling thread has in common with others; new namespaces are not to be had.
///
/// # Errors
/// `EINVAL` for unknown flags and for what cannot be parted, `EPERM` for namespaces, `ENOMEM`.
pub fn unshare(ctx: &Ctx<'_>, flags: u64) -> SysResult {
    const INSEPARABLE: u64 = (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD) as u64;
    const SEPARABLE: u64 = (CLONE_FS | CLONE_FILES | CLONE_SYSVSEM) as u64;
    let process = ctx.process();
    let is_alone = process.thread_count() == 1;
    if flags & !(NEW_NAMESPACES | INSEPARABLE | SEPARABLE) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & INSEPARABLE != 0 && (!is_alone || process.signals.are_shared()) {
        return Err(Errno::EINVAL);
    }
    if flags & NEW_NAMESPACES != 0 {
        return Err(Errno::EPERM);
    }
    if flags & u64::from(CLONE_FS) != 0
        && let Some(fs) = ctx.task().fs.part(|fs| Ok::<_, Errno>(fs.duplicate()))?
    {
        fs.let_go();
    }
    if flags & u64::from(CLONE_FILES) != 0 {
        file::own_files(ctx)?;
    }
    if flags & u64::from(CLONE_SYSVSEM) != 0
        && let Some(list) = ctx.task().undo.replace(UndoList::new())
    {
        ipc::undo_semaphores(process.pid(), &list);
    }
    Ok(0)
}

/// `exit`: ends the calling thread.
///
/// # Errors
/// None.
pub fn exit(ctx: &Ctx<'_>, code: i32) -> SysResult {
    let process = ctx.process();
    // The last thread's code is the process's.
    if process.thread_count() == 1 {
        exit::end_process(ctx.task(), process::ExitStatus::Exited(code as u8));
    }
    exit::end_thread(ctx.task())
}

/// `exit_group`: ends the process.
///
/// # Errors
/// None.
pub fn exit_group(ctx: &Ctx<'_>, code: i32) -> SysResult {
    exit::end_process(ctx.task(), process::ExitStatus::Exited(code as u8))
}

/// `gettid`.
///
/// # Errors
/// None.
pub fn gettid(ctx: &Ctx<'_>) -> SysResult {
    Ok(ctx.task().tid() as usize)
}

/// `set_tid_address`.
///
/// # Errors
/// None.
pub fn set_tid_address(ctx: &Ctx<'_>, address: u64) -> SysResult {
    ctx.task().set_clear_child_tid(address);
    gettid(ctx)
}

/// `set_robust_list`.
///
/// # Errors
/// `EINVAL` for another size.
pub fn set_robust_list(ctx: &Ctx<'_>, head: u64, size: usize) -> SysResult {
    if size != size_of::<linux_abi::sched::RobustListHead>() {
        return Err(Errno::EINVAL);
    }
    ctx.task().set_robust_list(head);
    Ok(0)
}

/// `get_robust_list`.
///
/// # Errors
/// `ESRCH`, `EFAULT`.
pub fn get_robust_list(ctx: &Ctx<'_>, tid: u32, head: UserPtr<u64>, size: UserPtr<usize>) -> SysResult {
    let list = with_task(ctx, tid, |t| Ok(t.robust_list()))?;
    size.write(&size_of::<linux_abi::sched::RobustListHead>())?;
    head.write(&list).map(|()| 0)
}

/// Calls `f` on the thread `tid`, 0 being the caller.
fn with_task<R>(ctx: &Ctx<'_>, tid: u32, f: impl FnOnce(&Task) -> Result<R, Errno>) -> Result<R, Errno> {
    if tid == 0 || tid == ctx.task().tid() {
        return f(ctx.task());
    }
    f(&*process::find_task(tid).ok_or(Errno::ESRCH)?)
}

/// `getcpu`.
///
/// # Errors
/// `EFAULT`.
pub fn getcpu(_ctx: &Ctx<'_>, cpu: UserPtr<u32>, node: UserPtr<u32>) -> SysResult {
    cpu.write_optional(&(kernel::percpu::cpu_id() as u32))?;
    node.write_optional(&0).map(|()| 0)
}
