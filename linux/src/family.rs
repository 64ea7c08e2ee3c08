//! Parents and children: [`Family`], what `wait` finds, what the end of a process does to its relatives.
//!
//! A parent lists its children until it has taken their exit status. A child whose parent ends is taken over by the nearest ancestor that
//! wants it, or by nobody.
//! The thread that made a child by `vfork` sleeps until the child runs a program of its own or ends.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use linux_abi::Errno;
use linux_abi::signal::{SIG_IGN, SigInfo, Signal, code, sa};
use sync::{Interrupt, Mutex, WaitQueue};

use crate::exit::FIRST_PID;
use crate::jobs::{self, News};
use crate::process::{self, ExitStatus, Process, Task, Usage};

/// A process's relatives.
pub(crate) struct Family {
    parent: AtomicU32,
    /// The thread of the parent that made it, or took it over.
    maker: AtomicU32,
    children: Mutex<Vec<Arc<Process>>>,
    /// Woken when something happens to a child.
    changes: WaitQueue,
    /// Woken when this process ends: those who hold a file descriptor of it.
    pub(crate) end: Arc<WaitQueue>,
    /// Orphans below it become its children.
    reaper: AtomicBool,
    /// Its parent has ended and nobody took it over.
    adopted: AtomicBool,
    /// What it is sent when its parent ends; 0 for nothing.
    pub(crate) parent_death_signal: AtomicU32,
    /// What the parent is sent at the end; 0 for nothing.
    exit_signal: AtomicU32,
    /// No thread is left; the exit status waits for the parent.
    ended: AtomicBool,
    /// The thread that made it waits.
    holds: AtomicBool,
    /// Woken when borrowed memory is given back.
    released: WaitQueue,
}

impl Family {
    pub(crate) fn new() -> Self {
        Self {
            parent: AtomicU32::new(0),
            maker: AtomicU32::new(0),
            children: Mutex::new(Vec::new()),
            changes: WaitQueue::new(),
            end: Arc::new(WaitQueue::new()),
            reaper: AtomicBool::new(false),
            adopted: AtomicBool::new(false),
            parent_death_signal: AtomicU32::new(0),
            exit_signal: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            holds: AtomicBool::new(false),
            released: WaitQueue::new(),
        }
    }

    pub(crate) fn parent(&self) -> u32 {
        self.parent.load(Ordering::Acquire)
    }

    pub(crate) fn set_parent(&self, pid: u32) {
        self.parent.store(pid, Ordering::Release);
    }

    /// Says which thread of the parent has made it.
    pub(crate) fn set_maker(&self, tid: u32) {
        self.maker.store(tid, Ordering::Relaxed);
    }

    /// The thread `tid` of the parent, whose family this is, goes on as `heir`, or leaves its children to that.
    pub(crate) fn pass_children(&self, tid: u32, heir: u32) -> Vec<Arc<Process>> {
        let children = self.children.lock();
        let left: Vec<_> = children.iter().filter(|child| child.family.maker.load(Ordering::Relaxed) == tid).cloned().collect();
        left.iter().for_each(|child| child.family.set_maker(heir));
        left
    }

    pub(crate) fn set_exit_signal(&self, number: u32) {
        self.exit_signal.store(number, Ordering::Relaxed);
    }

    /// Same parent, same signal at the end (`CLONE_PARENT`).
    pub(crate) fn become_sibling(&self, maker: &Self) {
        self.set_parent(maker.parent());
        self.set_maker(maker.maker.load(Ordering::Relaxed));
        self.set_exit_signal(maker.exit_signal.load(Ordering::Relaxed));
    }

    /// The maker's thread waits until it is released.
    pub(crate) fn hold_maker(&self) {
        self.holds.store(true, Ordering::Release);
    }

    /// The memory is not the maker's any more, or not needed: the maker may go on.
    pub(crate) fn release_maker(&self) {
        self.holds.store(false, Ordering::Release);
        self.released.wake_all();
    }

    /// The running thread, `task`, sleeps until the child runs a program or has ended, or it must end itself.
    pub(crate) fn wait_for_release(&self, task: &Task) {
        let done = || (!self.holds.load(Ordering::Acquire) || task.must_end()).then_some(());
        // Without deadline and deaf to signals, it cannot fail.
        let _released = self.released.wait_until(None, Interrupt::Ignored, done);
    }

    pub(crate) fn add_child(&self, child: Arc<Process>) {
        self.children.lock().push(child);
    }

    /// No thread is left; perhaps the parent has still to take the exit status.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// `PR_GET_CHILD_SUBREAPER`.
    pub(crate) fn is_reaper(&self) -> bool {
        self.reaper.load(Ordering::Relaxed)
    }

    /// `PR_SET_CHILD_SUBREAPER`.
    pub(crate) fn set_reaper(&self, reaper: bool) {
        self.reaper.store(reaper, Ordering::Relaxed);
    }

    /// Whether its parent has ended without anybody taking it over.
    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted.load(Ordering::Acquire)
    }

    fn leave_to_nobody(&self, pid: u32) {
        self.set_parent(FIRST_PID);
        self.adopted.store(true, Ordering::Release);
        if self.has_ended() {
            process::remove_process(pid);
        }
    }

    /// Something has happened to a child.
    pub(crate) fn wake_waiters(&self) {
        self.changes.wake_all();
    }

    /// The children that live, for `/proc`.
    pub(crate) fn child_pids(&self) -> Vec<u32> {
        self.children.lock().iter().filter(|child| !child.family.has_ended()).map(|child| child.pid()).collect()
    }

    /// Process groups of children of `process`, whose family this is, that it would continue.
    pub(crate) fn child_groups(&self, process: &Process) -> Vec<u32> {
        let (group, session) = (process.process_group(), process.session());
        let other = |child: &&Arc<Process>| child.process_group() != group && child.session() == session;
        self.children.lock().iter().filter(other).map(|child| child.process_group()).collect()
    }

    fn remove_child(&self, pid: u32) {
        let mut children = self.children.lock();
        let removed = children.iter().position(|c| c.pid() == pid).map(|at| children.swap_remove(at));
        drop(children);
        drop(removed);
    }
}

/// Which children `wait` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Any,
    Child(u32),
    Group(u32),
}

impl Which {
    fn matches(self, child: &Process) -> bool {
        match self {
            Self::Any => true,
            Self::Child(pid) => child.pid() == pid,
            Self::Group(group) => child.process_group() == group,
        }
    }
}

bitflags::bitflags! {
    /// The options of `wait4` and `waitid`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct WaitOptions: u32 {
        /// Do not sleep.
        const NOHANG = 1;
        /// Children that stopped.
        const STOPPED = 2;
        /// Children that ended.
        const EXITED = 4;
        /// Children that go on.
        const CONTINUED = 8;
        /// Leave what was found to be found again.
        const NOWAIT = 0x0100_0000;
        /// Only children of this thread.
        const NOTHREAD = 0x2000_0000;
        /// Children of both kinds.
        const ALL = 0x4000_0000;
        /// Children that end with another signal than SIGCHLD, instead of the others.
        const CLONE = 0x8000_0000;
    }
}

impl WaitOptions {
    /// Whether `child` is of the kind that the thread `tid` asks for.
    fn about(self, child: &Process, tid: u32) -> bool {
        if self.contains(Self::NOTHREAD) && child.family.maker.load(Ordering::Relaxed) != tid {
            return false;
        }
        let ordinary = child.family.exit_signal.load(Ordering::Relaxed) == Signal::SIGCHLD.number();
        self.contains(Self::ALL) || ordinary != self.contains(Self::CLONE)
    }
}

/// What happened to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Ended(ExitStatus),
    News(News),
}

/// A child to which something has happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) pid: u32,
    uid: u32,
    what: What,
    /// Its own, and its children's.
    pub(crate) usage: Usage,
}

impl Change {
    fn of(child: &Process, what: What) -> Self {
        Self { pid: child.pid(), uid: child.cred().ruid, what, usage: child.usage().plus(child.children_usage()) }
    }

    fn end_of(child: &Process) -> Self {
        Self::of(child, What::Ended(child.exit_status().unwrap_or(ExitStatus::Exited(0))))
    }

    /// What `child` has to tell that `options` ask for.
    fn look(child: &Process, options: WaitOptions) -> Option<Self> {
        if options.contains(WaitOptions::EXITED) && child.family.has_ended() {
            return Some(Self::end_of(child));
        }
        let wanted = |news| match news {
            News::Stopped(_) => options.contains(WaitOptions::STOPPED),
            News::Continued => options.contains(WaitOptions::CONTINUED),
        };
        child.job.news(wanted).map(|news| Self::of(child, What::News(news)))
    }

    /// The word `wait4` stores.
    pub(crate) fn wait_status(&self) -> i32 {
        const STOPPED: i32 = 0x7f;
        const CONTINUED: i32 = 0xffff;
        const CORE: i32 = 0x80;
        match self.what {
            What::Ended(ExitStatus::Exited(code)) => i32::from(code) << 8,
            What::Ended(ExitStatus::Signalled(signal)) => signal.number() as i32,
            What::Ended(ExitStatus::Dumped(signal)) => signal.number() as i32 | CORE,
            What::News(News::Stopped(signal)) => (signal.number() as i32) << 8 | STOPPED,
            What::News(News::Continued) => CONTINUED,
        }
    }

    pub(crate) fn sig_info(&self, signal: Signal) -> SigInfo {
        let number = |signal: Signal| signal.number() as i32;
        let (code, status) = match self.what {
            What::Ended(ExitStatus::Exited(code)) => (code::CLD_EXITED, i32::from(code)),
            What::Ended(ExitStatus::Signalled(by)) => (code::CLD_KILLED, number(by)),
            What::Ended(ExitStatus::Dumped(by)) => (code::CLD_DUMPED, number(by)),
            What::News(News::Stopped(by)) => (code::CLD_STOPPED, number(by)),
            What::News(News::Continued) => (code::CLD_CONTINUED, number(Signal::SIGCONT)),
        };
        SigInfo::child(signal, code, self.pid, self.uid, status)
    }
}

/// A child to which something has happened, as soon as there is one; `None` when there is none yet and the caller does not wait.
/// Unless it says `NOWAIT`, nobody finds the same again: a child that has ended is forgotten.
///
/// # Errors
/// `ECHILD` when no child matches, `ERESTARTSYS`.
pub(crate) fn wait(task: &Task, which: Which, options: WaitOptions) -> Result<Option<Change>, Errno> {
    let process = task.process();
    let mut gone = None;
    let look = || {
        let mut children = process.family.children.lock();
        let mut matching = false;
        let found = children.iter().enumerate().find_map(|(at, child)| {
            let fits = which.matches(child) && options.about(child, task.tid());
            matching |= fits;
            if fits { Change::look(child, options).map(|change| (at, change)) } else { None }
        });
        let Some((at, change)) = found else {
            return match matching {
                false => Some(Err(Errno::ECHILD)),
                true => options.contains(WaitOptions::NOHANG).then_some(Ok(None)),
            };
        };
        if !options.contains(WaitOptions::NOWAIT) {
            // Under the lock, so that of two threads that wait only one finds it.
            match change.what {
                What::News(news) => children[at].job.forget(news),
                What::Ended(_) => gone = Some(children.swap_remove(at)),
            }
        }
        Some(Ok(Some(change)))
    };
    let found = process.family.changes.wait_until(None, Interrupt::Allowed, look).map_err(|_| Errno::ERESTARTSYS)??;
    if let (Some(change), Some(child)) = (found, gone) {
        process.add_child_usage(change.usage);
        process::remove_process(child.pid());
    }
    Ok(found)
}

/// Forgets a child that could not be started.
pub(crate) fn abandon(parent: &Process, child: &Process) {
    parent.family.remove_child(child.pid());
    process::remove_process(child.pid());
    crate::exit::leave_space(child, child.space());
}

/// The last thread of `process` is gone: tells the parent, hands the children on.
pub(crate) fn bury(process: &Process) {
    let groups = jobs::held_groups(process);
    hand_on_children(process);
    if let Some(parent) = process.parent()
        && is_unwanted(process, &parent)
    {
        // Before anybody sees that it has ended, or a `wait` would find the status that nobody is to have.
        parent.family.remove_child(process.pid());
    }
    process.family.ended.store(true, Ordering::Release);
    process.family.end.wake_all();
    match process.parent() {
        Some(parent) => tell_parent(process, &parent),
        None => process::remove_process(process.pid()),
    }
    jobs::release_orphans(&groups);
}

/// Children get the nearest ancestor that asked for them (`PR_SET_CHILD_SUBREAPER`) as their parent, else nobody: then they count as
/// children of the first process, but the kernel forgets them when they end, as an init process would. The first program is rarely one,
/// and would wonder about children that it has not made.
fn hand_on_children(process: &Process) {
    let orphans = core::mem::take(&mut *process.family.children.lock());
    if orphans.is_empty() {
        return;
    }
    let reaper = find_reaper(process);
    for orphan in orphans {
        tell_of_death(process, &orphan);
        match &reaper {
            Some(reaper) => adopt(reaper, orphan),
            None => orphan.family.leave_to_nobody(orphan.pid()),
        }
    }
}

/// The thread `tid` of `process` has ended, and others go on: its children are those of `heir`. What they wanted to be told when their parent ends, they
/// are told (prctl(2), PR_SET_PDEATHSIG: "the parent" is a thread).
pub(crate) fn thread_ended(process: &Process, tid: u32, heir: u32) {
    for child in process.family.pass_children(tid, heir) {
        tell_of_death(process, &child);
    }
}

fn tell_of_death(parent: &Process, child: &Process) {
    if let Some(signal) = Signal::new(child.family.parent_death_signal.load(Ordering::Relaxed)) {
        let info = SigInfo::from_process(signal, code::SI_USER, parent.pid(), parent.cred().ruid);
        // A standard signal is never refused.
        let _merged = child.send_signal(signal, info);
    }
}

fn find_reaper(process: &Process) -> Option<Arc<Process>> {
    let mut ancestor = process::find_process(process.family.parent());
    while let Some(candidate) = ancestor {
        if candidate.family.is_reaper() && candidate.exit_status().is_none() {
            return Some(candidate);
        }
        ancestor = process::find_process(candidate.family.parent());
    }
    None
}

fn adopt(reaper: &Arc<Process>, orphan: Arc<Process>) {
    orphan.family.set_parent(reaper.pid());
    orphan.family.set_maker(reaper.pid());
    orphan.family.set_exit_signal(Signal::SIGCHLD.number());
    let ended = orphan.family.has_ended();
    reaper.family.add_child(orphan.clone());
    if ended {
        tell_parent(&orphan, reaper);
    }
}

/// Whether `parent` does not want to know how its child ends (POSIX, SA_NOCLDWAIT).
fn is_unwanted(child: &Process, parent: &Process) -> bool {
    let action = parent.signals.action(Signal::SIGCHLD);
    let ordinary = child.family.exit_signal.load(Ordering::Relaxed) == Signal::SIGCHLD.number();
    ordinary && (action.handler == SIG_IGN || action.flags & sa::NOCLDWAIT != 0)
}

/// Tells `parent` that its child has ended; nobody is told twice.
fn tell_parent(child: &Process, parent: &Process) {
    if is_unwanted(child, parent) {
        parent.family.remove_child(child.pid());
        process::remove_process(child.pid());
    }
    if let Some(signal) = Signal::new(child.family.exit_signal.load(Ordering::Relaxed)) {
        // A standard signal is never refused.
        let _merged = parent.send_signal(signal, Change::end_of(child).sig_info(signal));
    }
    parent.family.wake_waiters();
}
