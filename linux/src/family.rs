//! Parents and children: [`Family`], what `wait` finds, what the end of a process does to its relatives.
//!
//! A parent lists its children until it has taken their exit status. A child whose parent ends is taken over by the first process.
//! A child of `vfork` borrows its parent's memory until it runs a program of its own or ends; the parent's thread sleeps that long.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use linux_abi::Errno;
use linux_abi::signal::{SIG_IGN, SigInfo, Signal, code, sa};
use sync::{Interrupt, Mutex, WaitQueue};

use crate::exit::FIRST_PID;
use crate::process::{self, ExitStatus, Process, Usage};

/// A process's relatives.
pub(crate) struct Family {
    parent: AtomicU32,
    children: Mutex<Vec<Arc<Process>>>,
    /// Woken when a child ends.
    child_ended: WaitQueue,
    /// What the parent is sent at the end; 0 for nothing.
    exit_signal: AtomicU32,
    /// No thread is left; the exit status waits for the parent.
    ended: AtomicBool,
    borrows: AtomicBool,
    /// Woken when borrowed memory is given back.
    released: WaitQueue,
}

impl Family {
    pub(crate) const fn new() -> Self {
        Self {
            parent: AtomicU32::new(0),
            children: Mutex::new(Vec::new()),
            child_ended: WaitQueue::new(),
            exit_signal: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            borrows: AtomicBool::new(false),
            released: WaitQueue::new(),
        }
    }

    pub(crate) fn parent(&self) -> u32 {
        self.parent.load(Ordering::Acquire)
    }

    pub(crate) fn set_parent(&self, pid: u32) {
        self.parent.store(pid, Ordering::Release);
    }

    pub(crate) fn set_exit_signal(&self, number: u32) {
        self.exit_signal.store(number, Ordering::Relaxed);
    }

    /// The memory is the parent's (`vfork`).
    pub(crate) fn borrow_memory(&self) {
        self.borrows.store(true, Ordering::Release);
    }

    pub(crate) fn borrows_memory(&self) -> bool {
        self.borrows.load(Ordering::Acquire)
    }

    /// The parent may go on in its memory.
    pub(crate) fn release_parent(&self) {
        self.borrows.store(false, Ordering::Release);
        self.released.wake_all();
    }

    /// Sleeps until the child has given the memory back.
    pub(crate) fn wait_for_release(&self) {
        let done = || (!self.borrows_memory()).then_some(());
        // Without deadline and deaf to signals, it cannot fail.
        let _released = self.released.wait_until(None, Interrupt::Ignored, done);
    }

    pub(crate) fn add_child(&self, child: Arc<Process>) {
        self.children.lock().push(child);
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

/// Whether `wait` sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    Yes,
    No,
}

impl Blocking {
    pub(crate) const fn from_options(options: u32) -> Self {
        const WNOHANG: u32 = 1;
        if options & WNOHANG != 0 { Self::No } else { Self::Yes }
    }
}

/// Whether the child is forgotten afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    Yes,
    No,
}

/// A child that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    uid: u32,
    status: ExitStatus,
    /// Its own, and its children's.
    pub(crate) usage: Usage,
}

impl Ended {
    fn of(child: &Process) -> Self {
        Self {
            pid: child.pid(),
            uid: child.ids().ruid,
            status: child.exit_status().unwrap_or(ExitStatus::Exited(0)),
            usage: child.usage().plus(child.children_usage()),
        }
    }

    /// The word `wait4` stores.
    pub(crate) fn wait_status(&self) -> i32 {
        match self.status {
            ExitStatus::Exited(code) => i32::from(code) << 8,
            ExitStatus::Signalled(signal) => signal.number() as i32,
        }
    }

    pub(crate) fn sig_info(&self, signal: Signal) -> SigInfo {
        let (code, status) = match self.status {
            ExitStatus::Exited(code) => (code::CLD_EXITED, i32::from(code)),
            ExitStatus::Signalled(by) => (code::CLD_KILLED, by.number() as i32),
        };
        SigInfo::child(signal, code, self.pid, self.uid, status)
    }
}

/// A child that has ended, as soon as there is one; `None` when there is none yet and the caller does not wait.
///
/// # Errors
/// `ECHILD` when no child matches, `ERESTARTSYS`.
pub(crate) fn wait(process: &Process, which: Which, blocking: Blocking, take: Take) -> Result<Option<Ended>, Errno> {
    let look = || {
        let children = process.family.children.lock();
        let mut matching = children.iter().filter(|c| which.matches(c)).peekable();
        if matching.peek().is_none() {
            return Some(Err(Errno::ECHILD));
        }
        let ended = matching.find(|c| c.family.ended.load(Ordering::Acquire)).map(|c| Ok(Ended::of(c)));
        match blocking {
            Blocking::Yes => ended.map(|e| e.map(Some)),
            Blocking::No => Some(ended.transpose()),
        }
    };
    let found = process
        .family
        .child_ended
        .wait_until(None, Interrupt::Allowed, look)
        .map_err(|_| Errno::ERESTARTSYS)??;
    if let (Some(child), Take::Yes) = (found, take) {
        process.add_child_usage(child.usage);
        process.family.remove_child(child.pid);
        process::remove_process(child.pid);
    }
    Ok(found)
}

/// Forgets a child that could not be started.
pub(crate) fn abandon(parent: &Process, child: &Process) {
    parent.family.remove_child(child.pid());
    process::remove_process(child.pid());
    if !child.family.borrows_memory() {
        crate::exit::retire(child.space());
    }
}

/// The last thread of `process` is gone: tells the parent, hands the children on.
pub(crate) fn bury(process: &Process) {
    let orphans = core::mem::take(&mut *process.family.children.lock());
    if let Some(first) = process::find_process(FIRST_PID) {
        for orphan in orphans {
            orphan.family.set_parent(FIRST_PID);
            first.family.add_child(orphan);
        }
        first.family.child_ended.wake_all();
    }
    process.family.ended.store(true, Ordering::Release);
    let Some(parent) = process::find_process(process.family.parent()) else {
        return process::remove_process(process.pid());
    };
    let action = parent.signals.action(Signal::SIGCHLD);
    if action.handler == SIG_IGN || action.flags & sa::NOCLDWAIT != 0 {
        // Nobody wants the status (POSIX, SA_NOCLDWAIT).
        parent.family.remove_child(process.pid());
        process::remove_process(process.pid());
    }
    if let Some(signal) = Signal::new(process.family.exit_signal.load(Ordering::Relaxed)) {
        // A standard signal is never refused.
        let _merged = parent.send_signal(signal, Ended::of(process).sig_info(signal));
    }
    parent.family.child_ended.wake_all();
}
