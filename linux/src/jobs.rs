//! Job control: stopping and continuing processes, process groups and sessions, and groups that nobody could continue.
//!
//! **Stopping.** A process stops when one of its threads delivers a stop signal: the thread notes that in [`Job`] and tells the others to
//! look. Each leaves what it waits for, comes to [`stand_still`] on its way back to program code, and stands there. The last one tells the
//! parent. A call that was interrupted for this alone is restarted afterwards.
//!
//! **Continuing** happens when SIGCONT is *sent*, whether or not it is blocked, ignored or caught, and takes back stop signals that are
//! pending (POSIX, Signal Generation and Delivery). A stop signal that a thread has already taken off its queue is taken back by the
//! count of continuations: the thread read it before it took the signal, and [`Process::stop`] refuses when it has changed.
//!
//! SIGKILL ends standing as the end of the process does: [`Task::must_end`].

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_abi::Errno;
use linux_abi::signal::{SIG_IGN, SigInfo, SigSet, Signal, code, sa};
use sync::Mutex;

use crate::process::{self, Process, Task};

/// The signals that stop by default.
pub(crate) const STOP_SIGNALS: SigSet =
    SigSet::of(Signal::SIGSTOP).with(Signal::SIGTSTP).with(Signal::SIGTTIN).with(Signal::SIGTTOU);

/// What became of a process that `wait` may want to hear of, beside its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// All its threads stand, by this signal.
    Stopped(Signal),
    /// It goes on.
    Continued,
}

#[derive(Default)]
struct State {
    /// Threads that stand.
    standing: usize,
    /// All threads stand, and the parent knows.
    complete: bool,
    /// Not yet taken by a `wait`.
    news: Option<News>,
}

/// Whether a process runs or stands.
pub(crate) struct Job {
    /// Number of the signal that stops it; 0 while it runs.
    stop: AtomicU32,
    /// How often it was continued.
    continuations: AtomicU32,
    state: Mutex<State>,
}

impl Job {
    pub(crate) const fn new() -> Self {
        Self {
            stop: AtomicU32::new(0),
            continuations: AtomicU32::new(0),
            state: Mutex::new(State { standing: 0, complete: false, news: None }),
        }
    }

    /// Whether its threads are to stand.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst) != 0
    }

    /// Whether all of them do.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopping() && self.state.lock().complete
    }

    /// To be read before a stop signal is taken off its queue.
    pub(crate) fn continuations(&self) -> u32 {
        self.continuations.load(Ordering::SeqCst)
    }

    /// News that `wanted` is about.
    pub(crate) fn news(&self, wanted: impl Fn(News) -> bool) -> Option<News> {
        self.state.lock().news.filter(|&news| wanted(news))
    }

    /// Nobody is to hear of `news` again.
    pub(crate) fn forget(&self, news: News) {
        let mut state = self.state.lock();
        if state.news == Some(news) {
            state.news = None;
        }
    }
}

impl Process {
    /// A thread has taken stop signal `signal` off its queue, having read `continuations` before.
    pub(crate) fn stop(&self, signal: Signal, continuations: u32) {
        // SIGSTOP stops anyone; the others do not stop whom nobody would continue (POSIX, orphaned process groups).
        if signal != Signal::SIGSTOP && is_orphaned(self.process_group()) {
            return;
        }
        let mut state = self.job.state.lock();
        if self.job.continuations() != continuations || self.job.is_stopping() || self.exit_status().is_some() {
            return;
        }
        state.complete = false;
        self.job.stop.store(signal.number(), Ordering::SeqCst);
        drop(state);
        for task in self.tasks() {
            task.set_work();
        }
    }

    /// SIGCONT was sent.
    pub(crate) fn go_on(&self) {
        let mut state = self.job.state.lock();
        self.job.continuations.fetch_add(1, Ordering::SeqCst);
        if self.job.stop.swap(0, Ordering::SeqCst) == 0 {
            return;
        }
        let told = core::mem::take(&mut state.complete);
        if told {
            state.news = Some(News::Continued);
        }
        drop(state);
        for task in self.tasks() {
            task.unpark();
        }
        if told {
            self.tell_parent(News::Continued);
        }
    }

    /// One thread more stands, or one less is there to stand.
    pub(crate) fn check_stopped(&self) {
        let threads = self.thread_count();
        let mut state = self.job.state.lock();
        let Some(signal) = Signal::new(self.job.stop.load(Ordering::SeqCst)) else { return };
        if state.complete || threads == 0 || state.standing < threads {
            return;
        }
        state.complete = true;
        state.news = Some(News::Stopped(signal));
        drop(state);
        self.tell_parent(News::Stopped(signal));
    }

    fn tell_parent(&self, news: News) {
        let Some(parent) = self.parent() else { return };
        let action = parent.signals.action(Signal::SIGCHLD);
        if action.handler != SIG_IGN && action.flags & sa::NOCLDSTOP == 0 {
            let (code, status) = match news {
                News::Stopped(signal) => (code::CLD_STOPPED, signal.number()),
                News::Continued => (code::CLD_CONTINUED, Signal::SIGCONT.number()),
            };
            let info = SigInfo::child(Signal::SIGCHLD, code, self.pid(), self.cred().ruid, status as i32);
            // A standard signal is never refused.
            let _merged = parent.send_signal(Signal::SIGCHLD, info);
        }
        parent.family.wake_waiters();
    }
}

/// Stands while the process does. Called by a thread on its way to program code, with nothing held.
pub(crate) fn stand_still(task: &Task) {
    let process = task.process();
    let job = &process.job;
    job.state.lock().standing += 1;
    process.check_stopped();
    while job.is_stopping() && !task.must_end() {
        sync::park(None);
    }
    job.state.lock().standing -= 1;
}

/// Sends `signal` to every process of `group`; whether there was one.
pub(crate) fn signal_group(group: u32, signal: Signal, info: SigInfo) -> bool {
    let mut found = false;
    for member in members(group) {
        found = true;
        // A standard signal is never refused.
        let _merged = member.send_signal(signal, info);
    }
    found
}

/// The processes of a group, those that have ended and were not waited for included.
pub(crate) fn members(group: u32) -> impl Iterator<Item = Arc<Process>> {
    process::all_processes().into_iter().filter(move |p| p.process_group() == group)
}

/// The session of process group `group`; `None` when nobody is in it.
pub(crate) fn session_of_group(group: u32) -> Option<u32> {
    members(group).next().map(|member| member.session())
}

/// Whether no member of `group` has a parent in another group of the same session: nobody would continue it. The first program's own
/// group is one: its parent is not here.
pub(crate) fn is_orphaned(group: u32) -> bool {
    !members(group).filter(|member| !member.family.has_ended()).any(|member| is_held(&member))
}

/// Whether the process's parent would continue its group.
fn is_held(process: &Process) -> bool {
    process
        .parent()
        .is_some_and(|parent| parent.process_group() != process.process_group() && parent.session() == process.session())
}

/// Process groups that `process`, which is about to end, holds or has a part in holding: its own, if its parent would continue it, and
/// those of its children.
pub(crate) fn held_groups(process: &Process) -> Vec<u32> {
    let own = is_held(process).then(|| process.process_group());
    own.into_iter().chain(process.family.child_groups(process)).collect()
}

/// Stopped groups among `groups` that nobody would continue any more get SIGHUP and SIGCONT (POSIX, `_exit`).
pub(crate) fn release_orphans(groups: &[u32]) {
    for &group in groups {
        let stopped = members(group).any(|member| member.job.is_stopped());
        if stopped && is_orphaned(group) {
            for signal in [Signal::SIGHUP, Signal::SIGCONT] {
                signal_group(group, signal, SigInfo::new(signal, code::SI_KERNEL));
            }
        }
    }
}

/// `setpgid`.
///
/// # Errors
/// `ESRCH` for one that is neither the caller nor its child, `EACCES` for a child that runs a program of its own, `EPERM` for the leader
/// of a session and for groups of other sessions.
pub(crate) fn set_group(caller: &Process, pid: u32, group: u32) -> Result<(), Errno> {
    let pid = if pid == 0 { caller.pid() } else { pid };
    let target = process::find_process(pid).ok_or(Errno::ESRCH)?;
    if pid != caller.pid() {
        if target.parent_pid() != caller.pid() {
            return Err(Errno::ESRCH);
        }
        if target.session() != caller.session() {
            return Err(Errno::EPERM);
        }
        if target.has_run_exec() {
            return Err(Errno::EACCES);
        }
    }
    if target.session() == target.pid() {
        return Err(Errno::EPERM);
    }
    let group = if group == 0 { pid } else { group };
    if group != pid && session_of_group(group) != Some(caller.session()) {
        return Err(Errno::EPERM);
    }
    target.set_process_group(group);
    Ok(())
}

/// `setsid`.
///
/// # Errors
/// `EPERM` when there is a process group with the caller's number.
pub(crate) fn new_session(caller: &Process) -> Result<u32, Errno> {
    if members(caller.pid()).next().is_some() {
        return Err(Errno::EPERM);
    }
    caller.set_process_group(caller.pid());
    caller.set_session(caller.pid());
    caller.set_terminal(None);
    Ok(caller.pid())
}
