//! Processes and their threads: [`Process`], [`Task`], and the registry that finds them by number.
//!
//! One program runs, so there normally is one process; nothing here assumes it. A [`Task`] is the personality of a kernel
//! thread: the kernel thread owns it, the process lists it, and it refers back to its kernel thread only while it lives
//! (cleared at exit, or the two would keep each other alive).
//!
//! Lock order: [`TASKS`] or [`PROCESSES`], then `Process::threads`, then a task's own locks. None is held while program memory
//! is touched.

mod belongings;
mod cred;
mod fs_state;
mod ids;
mod limits;
mod outcome;
mod registry;
mod task;
mod users;
mod view;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use kernel::mm::AddressSpace;
use kernel::thread::ThreadRef;
use linux_abi::Errno;
use sync::{Interrupt, Mutex, RwLock, WaitQueue};
use vfs::Location;
use vfs::running::Running;

use crate::exec::Rights;
use crate::family::{self, Family};
use crate::jobs::Job;
use crate::signal::ProcessSignals;
use crate::timers::ProcessTimers;

pub(crate) use belongings::Belongings;
pub use cred::Cred;
pub use fs_state::FsState;
pub(crate) use ids::Identity;
pub use ids::{Ids, OwnId};
pub use outcome::{ExitStatus, Usage};
pub(crate) use registry::remove_process;
pub use registry::{PID_MAX, all_processes, all_tables, find_process, find_task, new_tid, task_count};
use limits::{Limits, default_limits};
use registry::{PROCESSES, TASKS};
pub use task::Task;
pub(crate) use users::Place;

/// What was started: for `/proc/PID`.
#[derive(Clone, Default)]
pub struct Executable {
    /// The file.
    pub location: Option<Location>,
    /// Nobody may write to it meanwhile.
    pub running: Option<Arc<Running>>,
    /// Address range of the argument strings.
    pub args: (u64, u64),
    /// Address range of the environment strings.
    pub env: (u64, u64),
    /// The auxiliary vector, as on the stack.
    pub auxv: Vec<u8>,
    /// Initial stack pointer.
    pub stack_start: u64,
}

/// A process: what its threads share.
pub struct Process {
    pid: u32,
    /// Signal dispositions and process-wide pending signals.
    pub signals: ProcessSignals,
    /// Interval and POSIX timers.
    pub timers: ProcessTimers,
    /// The program.
    pub executable: RwLock<Executable>,
    space: RwLock<Arc<AddressSpace>>,
    /// The first thread's.
    cred: RwLock<Arc<Cred>>,
    limits: Mutex<Limits>,
    /// See [`Task::minds_writes`].
    limits_writes: AtomicBool,
    threads: Mutex<BTreeMap<u32, Arc<Task>>>,
    /// The first thread's, until somebody has waited for the process.
    place: Mutex<Option<Place>>,
    /// Parents, children and what they wait for.
    pub(crate) family: Family,
    exit: AtomicU32,
    /// The thread that is replacing the program, 0 for none; all others are to end.
    exec_tid: AtomicU32,
    thread_ended: WaitQueue,
    process_group: AtomicU32,
    session: AtomicU32,
    /// Number of the controlling terminal and one; 0 for none.
    terminal: AtomicU32,
    /// Whether it runs or stands.
    pub(crate) job: Job,
    /// It has replaced the program it was made with.
    exec_done: AtomicBool,
    dumpable: AtomicU32,
    /// `PR_MCE_KILL`, which a child inherits.
    pub memory_failure_policy: AtomicU32,
    start_ns: u64,
    /// What it has registered for with `membarrier`.
    pub membarrier: AtomicU32,
    /// What the ended threads used, and the children that were waited for with theirs.
    dead_threads: Mutex<Usage>,
    dead_children: Mutex<Usage>,
    /// `/proc/PID/oom_score_adj`: -1000 … 1000.
    pub oom_score_adj: AtomicI32,
}

impl Process {
    /// The first process, without threads, registered under `pid`. `place` is its own among those of its user.
    #[must_use]
    pub(crate) fn new(pid: u32, space: Arc<AddressSpace>, cred: Arc<Cred>, place: Place) -> Arc<Self> {
        Self::with_signals(pid, space, cred, ProcessSignals::new(), place)
    }

    /// A process without threads, registered under `pid`.
    pub(crate) fn with_signals(pid: u32, space: Arc<AddressSpace>, cred: Arc<Cred>, signals: ProcessSignals, place: Place) -> Arc<Self> {
        let process = Arc::new(Self {
            pid,
            signals,
            timers: ProcessTimers::new(),
            executable: RwLock::new(Executable::default()),
            space: RwLock::new(space),
            cred: RwLock::new(cred),
            limits: Mutex::new(default_limits()),
            limits_writes: AtomicBool::new(false),
            threads: Mutex::new(BTreeMap::new()),
            place: Mutex::new(Some(place)),
            family: Family::new(),
            exit: AtomicU32::new(0),
            exec_tid: AtomicU32::new(0),
            thread_ended: WaitQueue::new(),
            process_group: AtomicU32::new(pid),
            session: AtomicU32::new(pid),
            terminal: AtomicU32::new(0),
            job: Job::new(),
            exec_done: AtomicBool::new(false),
            dumpable: AtomicU32::new(1),
            memory_failure_policy: AtomicU32::new(linux_abi::prctl::PR_MCE_KILL_DEFAULT),
            start_ns: kernel::clock::monotonic_ns(),
            membarrier: AtomicU32::new(0),
            dead_threads: Mutex::new(Usage::default()),
            dead_children: Mutex::new(Usage::default()),
            oom_score_adj: AtomicI32::new(0),
        });
        PROCESSES.write().insert(pid, process.clone());
        process
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The parent's process id; 0 for the first process, as for Linux's init, since nothing else started it.
    #[must_use]
    pub fn parent_pid(&self) -> u32 {
        self.family.parent()
    }

    /// The parent, if it cares for its child.
    pub(crate) fn parent(&self) -> Option<Arc<Self>> {
        find_process(self.parent_pid()).filter(|_| !self.family.is_adopted())
    }

    /// What a child of `fork` inherits beside memory, files and identities.
    pub(crate) fn inherit(&self, parent: &Self) {
        *self.executable.write() = parent.executable.read().clone();
        *self.limits.lock() = *parent.limits.lock();
        self.look_at_writes();
        self.set_process_group(parent.process_group());
        self.set_session(parent.session());
        self.set_terminal(parent.terminal());
        self.set_dumpable(parent.dumpable());
        self.memory_failure_policy.store(parent.memory_failure_policy.load(Ordering::Relaxed), Ordering::Relaxed);
        self.membarrier.store(parent.membarrier.load(Ordering::Relaxed), Ordering::Relaxed);
        self.oom_score_adj.store(parent.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
        self.family.set_parent(parent.pid);
    }

    /// The process group.
    #[must_use]
    pub fn process_group(&self) -> u32 {
        self.process_group.load(Ordering::Relaxed)
    }

    /// Moves the process into another group.
    pub fn set_process_group(&self, group: u32) {
        self.process_group.store(group, Ordering::Relaxed);
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> u32 {
        self.session.load(Ordering::Relaxed)
    }

    /// Makes the process the leader of a session of its own.
    pub fn set_session(&self, session: u32) {
        self.session.store(session, Ordering::Relaxed);
    }

    /// The controlling terminal, by its number.
    #[must_use]
    pub fn terminal(&self) -> Option<u32> {
        self.terminal.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Replaces the controlling terminal.
    pub fn set_terminal(&self, number: Option<u32>) {
        self.terminal.store(number.map_or(0, |number| number + 1), Ordering::Relaxed);
    }

    /// Whether it runs another program than it was made with.
    #[must_use]
    pub fn has_run_exec(&self) -> bool {
        self.exec_done.load(Ordering::Relaxed)
    }

    /// `PR_GET_DUMPABLE`.
    #[must_use]
    pub fn dumpable(&self) -> u32 {
        self.dumpable.load(Ordering::Relaxed)
    }

    /// `PR_SET_DUMPABLE`.
    pub fn set_dumpable(&self, value: u32) {
        self.dumpable.store(value, Ordering::Relaxed);
    }

    /// When the process started, in monotonic nanoseconds.
    #[must_use]
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// CPU time of all threads, the ended ones included.
    #[must_use]
    pub fn cpu_time_ns(&self) -> u64 {
        self.usage().cpu_ns()
    }

    /// What all threads used, the ended ones included.
    #[must_use]
    pub fn usage(&self) -> Usage {
        // Under the lock, so that no thread counts twice or not at all.
        let threads = self.threads.lock();
        threads.values().fold(*self.dead_threads.lock(), |sum, t| sum.plus(t.usage()))
    }

    /// What the children used that have ended and were waited for, with theirs.
    #[must_use]
    pub fn children_usage(&self) -> Usage {
        *self.dead_children.lock()
    }

    /// A child was waited for.
    pub(crate) fn add_child_usage(&self, usage: Usage) {
        let mut sum = self.dead_children.lock();
        *sum = sum.plus(usage);
    }

    /// The address space.
    #[must_use]
    pub fn space(&self) -> Arc<AddressSpace> {
        self.space.read().clone()
    }

    /// Replaces the address space: `execve`.
    pub fn set_space(&self, space: Arc<AddressSpace>) {
        *self.space.write() = space;
    }

    /// The threads, in order of their numbers.
    #[must_use]
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.threads.lock().values().cloned().collect()
    }

    /// The first thread that `is_wanted`.
    pub(crate) fn find_own_task(&self, is_wanted: impl Fn(&Task) -> bool) -> Option<Arc<Task>> {
        self.threads.lock().values().find(|task| is_wanted(task)).cloned()
    }

    /// How many threads live.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }

    /// The thread `tid` of this process.
    #[must_use]
    pub fn task(&self, tid: u32) -> Option<Arc<Task>> {
        self.threads.lock().get(&tid).cloned()
    }

    /// Adds a thread that `spawn` starts. It finds itself listed from its first instruction on; the locks held over `spawn` keep
    /// it from ending, and others from using it, before its kernel thread is known. A process's first thread takes no place but the process's.
    ///
    /// # Errors
    /// What `spawn` returns; `EAGAIN` when the process is ending.
    pub fn add_task(
        &self,
        task: &Arc<Task>,
        spawn: impl FnOnce() -> Result<ThreadRef, Errno>,
    ) -> Result<(), Errno> {
        let mut threads = self.threads.lock();
        if task.must_end() {
            return Err(Errno::EAGAIN);
        }
        let started = start_listed(&mut threads, task, spawn);
        drop(threads);
        task.look_for_work();
        started
    }

    /// `new`, which `spawn` starts, takes the place of the last thread, `old`, which has handed on what it had: `execve`. There is no moment without a
    /// thread, and what is pending for `old` is so for `new`.
    ///
    /// # Errors
    /// As [`Process::add_task`]; `old` stays on the lists then.
    pub(crate) fn replace_task(
        &self,
        old: &Task,
        new: &Arc<Task>,
        spawn: impl FnOnce() -> Result<ThreadRef, Errno>,
    ) -> Result<(), Errno> {
        let mut threads = self.threads.lock();
        if new.must_end() {
            return Err(Errno::EAGAIN);
        }
        start_listed(&mut threads, new, spawn)?;
        if old.tid != new.tid {
            threads.remove(&old.tid);
            TASKS.write().remove(&old.tid);
        }
        self.count_usage_of(old);
        new.signals.inherit_pending(&old.signals);
        drop(threads);
        new.look_for_work();
        self.has_ended(old);
        Ok(())
    }

    /// Takes an ending thread off the lists; returns how many are left.
    pub(crate) fn remove_task(&self, task: &Task) -> usize {
        let mut threads = self.threads.lock();
        threads.remove(&task.tid);
        TASKS.write().remove(&task.tid);
        self.count_usage_of(task);
        let left = threads.len();
        let heir = threads.keys().next().copied();
        drop(threads);
        if let Some(heir) = heir {
            family::thread_ended(self, task.tid, heir);
            self.notify_heirs();
        }
        self.has_ended(task);
        left
    }

    /// From now on what an ending thread has used counts as that of a dead one. With the lock of the threads.
    fn count_usage_of(&self, task: &Task) {
        let mut sum = self.dead_threads.lock();
        *sum = sum.plus(task.usage());
        *task.thread.lock() = None;
    }

    /// A thread is off the lists.
    fn has_ended(&self, task: &Task) {
        task.give_back_place();
        self.thread_ended.wake_all();
        if self.job.is_stopping() {
            self.check_stopped();
        }
    }

    /// The running thread, `task`, waits until the thread `tid` has ended, or it must end itself.
    pub(crate) fn wait_for_thread(&self, task: &Task, tid: u32) {
        let over = || (task.must_end() || self.task(tid).is_none()).then_some(());
        // Without deadline and deaf to signals, it cannot fail.
        let _over = self.thread_ended.wait_until(None, Interrupt::Ignored, over);
    }

    /// Ends all threads but `task`, which is about to replace the program. [`Process::finish_exec`] ends this state.
    ///
    /// # Errors
    /// `ERESTARTSYS` when another thread was first: the caller is one of those to end.
    pub(crate) fn begin_exec(&self, task: &Task) -> Result<(), Errno> {
        if self.exec_tid.compare_exchange(0, task.tid, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Err(Errno::ERESTARTSYS);
        }
        for other in self.tasks() {
            if other.tid != task.tid {
                other.set_work();
            }
        }
        self.thread_ended.wake_all();
        let alone = || (self.thread_count() == 1).then_some(());
        // Never interrupted, never late: the others end by themselves.
        let _alone = self.thread_ended.wait_until(None, Interrupt::Ignored, alone);
        self.exec_done.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The last thread, `task`, runs a new program as `ids`; returns the credentials of that.
    pub(crate) fn finish_exec(&self, task: &Task, ids: Ids, rights: Rights) -> Arc<Cred> {
        const SUID_DUMP_DISABLE: u32 = 0;
        const SUID_DUMP_USER: u32 = 1;
        let lent = rights == Rights::Lent;
        self.set_dumpable(if lent { SUID_DUMP_DISABLE } else { SUID_DUMP_USER });
        if lent {
            self.family.parent_death_signal.store(0, Ordering::Relaxed);
        }
        let cred = Arc::new(Cred::of_new_program(ids, task.cred().capabilities.inheritable));
        self.set_cred(cred.clone());
        task.keep_place();
        self.exec_tid.store(0, Ordering::Release);
        cred
    }

    /// Its rights to files have changed (credentials(7)): others may not look into it any more, and it hears nothing of its parent's end.
    fn rights_changed(&self) {
        const SUID_DUMP_DISABLE: u32 = 0;
        self.set_dumpable(SUID_DUMP_DISABLE);
        self.family.parent_death_signal.store(0, Ordering::Relaxed);
    }

    /// How the process is ending, once that is decided.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        ExitStatus::decode(self.exit.load(Ordering::Acquire))
    }

    /// Decides that the process ends and wakes all its threads to do so. The first decision counts; it is returned.
    pub fn begin_exit(&self, status: ExitStatus) -> ExitStatus {
        let decided = self.exit.compare_exchange(0, status.encode(), Ordering::AcqRel, Ordering::Acquire);
        for task in self.threads.lock().values() {
            task.set_work();
        }
        self.thread_ended.wake_all();
        decided.map_or_else(|old| ExitStatus::decode(old).unwrap_or(status), |_| status)
    }
}

/// Lists `task` among its process's `threads` and lets `spawn` start it. Whose number it takes goes back if that fails.
fn start_listed(
    threads: &mut BTreeMap<u32, Arc<Task>>,
    task: &Arc<Task>,
    spawn: impl FnOnce() -> Result<ThreadRef, Errno>,
) -> Result<(), Errno> {
    let before = threads.insert(task.tid, task.clone());
    TASKS.write().insert(task.tid, task.clone());
    let mut thread = task.thread.lock();
    let spawned = spawn().map(|spawned| *thread = Some(spawned));
    drop(thread);
    if spawned.is_err() {
        if let Some(before) = before {
            TASKS.write().insert(before.tid, before.clone());
            threads.insert(before.tid, before);
        } else {
            TASKS.write().remove(&task.tid);
            threads.remove(&task.tid);
        }
    }
    spawned
}
