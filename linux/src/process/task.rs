//! A thread as the program knows it.
#![expect(unsafe_code, reason = "a thread looks at what it alone changes")]

use alloc::string::String;
use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::thread::{ShownTimes, ThreadRef};
use linux_abi::Errno;
use sync::{Mutex, RwLock};

use super::ids::Identity;
use super::{Belongings, Cred, FsState, OwnId, Place, Process, Usage};
use crate::fdtable::FdTable;
use crate::held::Held;
use crate::rseq::Registration;
use crate::signal::TaskSignals;
use crate::signal::continuation::Continuation;
use crate::sys::futex::Owned;
use crate::sys::ipc::UndoList;
use crate::sys::sched::Attributes;

/// A thread of a process.
pub struct Task {
    pub(super) tid: u32,
    process: Arc<Process>,
    /// A copy of numbers in `process` and `cred`, where [`crate::calls`] finds them.
    pub(super) identity: Identity,
    /// Files by descriptor.
    pub(crate) files: Held<FdTable>,
    /// Root, working directory, umask.
    pub(crate) fs: Held<FsState>,
    /// What is undone of its semaphores at its end.
    pub(crate) undo: Held<UndoList>,
    /// Only the thread itself changes it.
    pub(super) cred: RwLock<Arc<Cred>>,
    /// It is not root to the file system. See [`Task::minds_writes`].
    pub(super) unprivileged: AtomicBool,
    /// `PR_SET_NO_NEW_PRIVS`, which what it makes inherits and `execve` keeps.
    pub no_new_privileges: AtomicBool,
    /// Its place among those of its user; not that of a process's first thread.
    pub(super) own_place: Mutex<Option<Place>>,
    /// `setuid` has led to a user that has too many.
    pub(super) place_in_doubt: AtomicBool,
    pub(super) thread: Mutex<Option<ThreadRef>>,
    name: Mutex<Arc<str>>,
    /// Mask, pending signals, alternate stack.
    pub signals: TaskSignals,
    clear_child_tid: AtomicU64,
    robust_list: AtomicU64,
    timer_slack_ns: AtomicU64,
    /// Restartable sequences.
    pub rseq: Registration,
    /// A wait that goes on after a stop.
    pub continuation: Continuation,
    /// Futex words that it owns or waits to own.
    pub(crate) owned: Owned,
    sched: Mutex<Attributes>,
    shown: Mutex<ShownTimes>,
}

impl Task {
    /// Where the thread's number and its [`Identity`] are.
    pub(crate) const TID: usize = offset_of!(Self, tid);
    pub(crate) const IDENTITY: usize = offset_of!(Self, identity);

    /// A thread that is not running yet; [`Process::add_task`] starts it.
    #[must_use]
    pub(crate) fn new(tid: u32, process: Arc<Process>, name: Arc<str>, signals: TaskSignals, own: Belongings) -> Arc<Self> {
        Arc::new(Self {
            tid,
            identity: Identity::new(process.pid(), &own.cred),
            process,
            files: own.files,
            fs: own.fs,
            undo: own.undo,
            unprivileged: AtomicBool::new(!own.cred.for_files().privileged()),
            cred: RwLock::new(own.cred),
            no_new_privileges: AtomicBool::new(own.no_new_privileges),
            own_place: Mutex::new(own.place),
            place_in_doubt: AtomicBool::new(false),
            thread: Mutex::new(None),
            name: Mutex::new(name),
            signals,
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            timer_slack_ns: AtomicU64::new(50_000),
            rseq: Registration::default(),
            continuation: Continuation::new(),
            owned: Owned::default(),
            sched: Mutex::new(Attributes::NORMAL),
            shown: Mutex::new(ShownTimes::default()),
        })
    }

    /// One of the identities.
    #[must_use]
    pub fn own_id(&self, which: OwnId) -> u32 {
        self.identity.get(which)
    }

    /// On whose behalf the running thread, `self`, acts.
    ///
    /// # Safety
    /// It is the running thread, and changes its credentials only after the last use of the reference.
    #[inline(always)]
    pub(crate) unsafe fn own_cred(&self) -> &Arc<Cred> {
        // SAFETY: the thread itself would write, and does not.
        unsafe { self.cred.peek() }
    }

    /// The thread id, unique in the system; the first thread's equals the process id.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.tid
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The process, to keep.
    #[must_use]
    pub fn process_ref(&self) -> &Arc<Process> {
        &self.process
    }

    /// The name that `PR_SET_NAME` and `/proc/PID/comm` show, at most 15 bytes.
    #[must_use]
    pub fn name(&self) -> String {
        String::from(&**self.name.lock())
    }

    /// [`Task::name`], not copied.
    #[must_use]
    pub fn shared_name(&self) -> Arc<str> {
        self.name.lock().clone()
    }

    /// Renames the thread; the name is cut to 15 bytes.
    pub fn set_name(&self, name: &[u8]) {
        let cut = &name[..name.len().min(15)];
        *self.name.lock() = Arc::from(&*String::from_utf8_lossy(cut));
    }

    /// Whether the thread is to end: its process is ending, or another thread is replacing the program.
    #[must_use]
    pub fn must_end(&self) -> bool {
        let exec = self.process.exec_tid.load(Ordering::Acquire);
        self.process.exit_status().is_some() || exec != 0 && exec != self.tid
    }

    /// The kernel thread, while it lives.
    #[must_use]
    pub fn thread(&self) -> Option<ThreadRef> {
        self.thread.lock().clone()
    }

    /// Policy, priority and nice value.
    #[must_use]
    pub fn sched(&self) -> Attributes {
        *self.sched.lock()
    }

    /// Changes policy, priority and nice value; in force at once.
    ///
    /// # Errors
    /// What `change` returns; nothing changes then.
    pub fn change_sched(&self, change: impl FnOnce(Attributes) -> Result<Attributes, Errno>) -> Result<(), Errno> {
        let mut sched = self.sched.lock();
        *sched = change(*sched)?;
        if let Some(thread) = self.thread() {
            thread.set_policy(sched.policy());
        }
        Ok(())
    }

    /// A new thread's beginning, before it is started.
    pub(crate) fn inherit_sched(&self, maker: &Self) {
        *self.sched.lock() = maker.sched().child();
    }

    /// The same thread goes on in a new program, before it is started.
    pub(crate) fn keep_sched(&self, old: &Self) {
        *self.sched.lock() = old.sched();
    }

    /// Has the thread look at its signals before it goes on with program code, waking it if it sleeps interruptibly.
    pub fn set_work(&self) {
        if let Some(thread) = self.thread() {
            thread.set_work();
        }
    }

    /// Tells the thread, which has just been listed, of what came before: nobody has told it of a signal, a stop, or the end of all threads but one.
    pub(super) fn look_for_work(&self) {
        if self.is_interrupted() {
            self.set_work();
        }
    }

    /// Wakes the thread from a wait it will check again.
    pub fn unpark(&self) {
        if let Some(thread) = self.thread() {
            thread.unpark();
        }
    }

    /// CPU time so far.
    #[must_use]
    pub fn cpu_time_ns(&self) -> u64 {
        self.thread().map_or(0, |t| t.cpu_time_ns())
    }

    /// CPU time and switches so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.thread().map_or_else(Usage::default, |t| {
            let (waits, preemptions) = t.switches();
            let ShownTimes { user_ns, system_ns } = self.shown.lock().update(t.sampled_modes(), t.cpu_time_ns());
            Usage { user_ns, system_ns, waits, preemptions }
        })
    }

    /// Where `set_tid_address` wants a zero and a futex wake at exit; 0 for nowhere.
    #[must_use]
    pub fn clear_child_tid(&self) -> u64 {
        self.clear_child_tid.load(Ordering::Relaxed)
    }

    /// Sets [`Task::clear_child_tid`].
    pub fn set_clear_child_tid(&self, address: u64) {
        self.clear_child_tid.store(address, Ordering::Relaxed);
    }

    /// Address of the robust list's head, 0 for none.
    #[must_use]
    pub fn robust_list(&self) -> u64 {
        self.robust_list.load(Ordering::Relaxed)
    }

    /// Sets [`Task::robust_list`].
    pub fn set_robust_list(&self, head: u64) {
        self.robust_list.store(head, Ordering::Relaxed);
    }

    /// `PR_GET_TIMERSLACK`.
    #[must_use]
    pub fn timer_slack_ns(&self) -> u64 {
        self.timer_slack_ns.load(Ordering::Relaxed)
    }

    /// `PR_SET_TIMERSLACK`.
    pub fn set_timer_slack_ns(&self, slack: u64) {
        self.timer_slack_ns.store(slack, Ordering::Relaxed);
    }
}
