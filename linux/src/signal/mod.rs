//! Signals: dispositions, masks, sending, waiting. Delivery is in [`deliver`], frames in [`frame`], faults in [`fault`].
//!
//! A signal is sent by putting it on a pending queue, of one thread or of the process, and telling a thread that can take it to
//! look ([`Task::set_work`]). It is delivered by the receiving thread itself, on its way back to program code.
//!
//! **Theory of the race.** Sender: pending bit set (SeqCst), then mask read. Receiver changing its mask: mask written
//! (SeqCst), then pending bits read. Whatever the order, one of the two sees the other, so no unblocked signal stays unnoticed. Only
//! the thread itself writes its mask.

pub mod continuation;
pub mod deliver;
pub mod fault;
pub mod frame;
mod report;

use core::{mem, ptr};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use alloc::sync::Arc;
use arch_x86_64::percpu::WORK_SIGNAL;
use kernel::thread;
use linux_abi::Errno;
use linux_abi::raw::RLIMIT_SIGPENDING;
use linux_abi::signal::{
    NSIG, SIG_DFL, SIG_IGN, SS_DISABLE, SigAction, SigInfo, SigSet, SigStack, Signal, code, sa,
};
use signal::{PendingQueue, Queued};
use sync::{Mutex, WaitQueue};

use crate::entry;
use crate::jobs::STOP_SIGNALS;
use crate::process::{ExitStatus, OwnId, Process, Task};
use crate::shared::Shared;

/// A pending queue with its set readable without the lock.
struct Pending {
    queue: Mutex<PendingQueue>,
    bits: AtomicU64,
}

impl Pending {
    const fn new() -> Self {
        Self { queue: Mutex::new(PendingQueue::new()), bits: AtomicU64::new(0) }
    }

    fn set(&self) -> SigSet {
        SigSet(self.bits.load(Ordering::SeqCst))
    }

    fn change<R>(&self, f: impl FnOnce(&mut PendingQueue) -> R) -> R {
        let mut queue = self.queue.lock();
        let result = f(&mut queue);
        self.bits.store(queue.set().0, Ordering::SeqCst);
        result
    }

    fn take(&self, wanted: SigSet) -> Option<(Signal, SigInfo)> {
        if self.set().intersection(wanted).is_empty() {
            return None;
        }
        self.change(|q| q.take(wanted))
    }
}

/// What the threads of a process share about signals.
pub struct ProcessSignals {
    actions: Shared<Mutex<[SigAction; NSIG]>>,
    pending: Pending,
    /// Woken whenever a signal is sent to the process or one of its threads: signalfd.
    pub arrivals: Arc<WaitQueue>,
}

impl ProcessSignals {
    /// All dispositions default, nothing pending.
    #[must_use]
    pub fn new() -> Self {
        Self {
            actions: Shared::new(Mutex::new([SigAction::default(); NSIG])),
            pending: Pending::new(),
            arrivals: Arc::new(WaitQueue::new()),
        }
    }

    /// Nothing pending, with the dispositions of `other` as they are and will be.
    #[must_use]
    pub(crate) fn sharing(other: &Self) -> Self {
        Self { actions: other.actions.share(), ..Self::new() }
    }

    /// Where the dispositions are: the same for all who share them.
    pub(crate) fn address(&self) -> usize {
        self.actions.address()
    }

    /// Whether another process has the same dispositions.
    pub(crate) fn are_shared(&self) -> bool {
        self.actions.has_other_users()
    }

    /// Goes on with dispositions of its own: `execve`.
    pub(crate) fn own(&self) {
        let copy = |actions: &Mutex<_>| Ok::<_, core::convert::Infallible>(Mutex::new(*actions.lock()));
        let Ok(_left) = self.actions.own(copy);
    }

    /// The process ends.
    pub(crate) fn leave(&self) {
        let _nothing_to_do = self.actions.leave();
    }

    /// The disposition of `signal`.
    #[must_use]
    pub fn action(&self, signal: Signal) -> SigAction {
        self.actions.lock()[signal.index()]
    }

    /// Replaces the disposition of `signal`; returns the old one.
    pub fn set_action(&self, signal: Signal, new: SigAction) -> SigAction {
        core::mem::replace(&mut self.actions.lock()[signal.index()], new)
    }

    /// The disposition for delivery; SA_RESETHAND resets it.
    fn action_for_delivery(&self, signal: Signal) -> SigAction {
        let mut actions = self.actions.lock();
        let action = actions[signal.index()];
        if action.handler > SIG_IGN && action.flags & sa::RESETHAND != 0 {
            actions[signal.index()].handler = SIG_DFL;
        }
        action
    }

    /// Nothing pending, with another process's dispositions as they are now: `fork`.
    #[must_use]
    pub(crate) fn copying(other: &Self) -> Self {
        Self { actions: Shared::new(Mutex::new(*other.actions.lock())), ..Self::new() }
    }

    /// What `execve` leaves: caught signals become default.
    pub fn reset_handlers(&self) {
        for action in &mut *self.actions.lock() {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = SigAction { handler, ..SigAction::default() };
        }
    }

    fn ignores(&self, signal: Signal) -> bool {
        self.action(signal).is_ignored(signal)
    }
}

impl Default for ProcessSignals {
    fn default() -> Self {
        Self::new()
    }
}

/// An alternate stack, in parts: the thread alone looks at it and changes it.
struct AltStack {
    sp: AtomicU64,
    flags: AtomicI32,
    size: AtomicU64,
}

/// A thread's signal state.
pub struct TaskSignals {
    mask: AtomicU64,
    /// The mask to go back to when a handler returns or none ran (`rt_sigsuspend`, `ppoll`), and whether there is one. The thread's own.
    saved_mask: AtomicU64,
    has_saved_mask: AtomicBool,
    /// Signals that `rt_sigtimedwait` waits for although they are blocked.
    awaited: AtomicU64,
    pending: Pending,
    altstack: AltStack,
    /// Vector, error code and CR2 of the last fault, for signal frames.
    fault: [AtomicU64; 3],
}

const NO_STACK: SigStack = SigStack { sp: 0, flags: SS_DISABLE, pad0: 0, size: 0 };

impl TaskSignals {
    /// With this mask and nothing else.
    #[must_use]
    pub const fn new(mask: SigSet) -> Self {
        Self {
            mask: AtomicU64::new(mask.0),
            saved_mask: AtomicU64::new(0),
            has_saved_mask: AtomicBool::new(false),
            awaited: AtomicU64::new(0),
            pending: Pending::new(),
            altstack: AltStack { sp: AtomicU64::new(0), flags: AtomicI32::new(SS_DISABLE), size: AtomicU64::new(0) },
            fault: [const { AtomicU64::new(0) }; 3],
        }
    }

    /// Blocked signals.
    #[must_use]
    pub fn mask(&self) -> SigSet {
        SigSet(self.mask.load(Ordering::SeqCst))
    }

    /// The alternate stack. Only the thread itself asks, or its maker before it runs.
    #[must_use]
    pub fn altstack(&self) -> SigStack {
        let AltStack { sp, flags, size } = &self.altstack;
        SigStack { sp: sp.load(Ordering::Relaxed), flags: flags.load(Ordering::Relaxed), pad0: 0, size: size.load(Ordering::Relaxed) }
    }

    /// Replaces the alternate stack. As [`TaskSignals::altstack`].
    pub fn set_altstack(&self, stack: SigStack) {
        self.altstack.sp.store(stack.sp, Ordering::Relaxed);
        self.altstack.flags.store(stack.flags, Ordering::Relaxed);
        self.altstack.size.store(stack.size, Ordering::Relaxed);
    }

    /// What is pending for the thread `old` is so for this one, which takes its place.
    pub(crate) fn inherit_pending(&self, old: &Self) {
        if !old.pending.set().is_empty() {
            let pending = old.pending.change(mem::take);
            self.pending.change(|queue| queue.append(pending));
        }
    }

    /// The mask to go back to, if there is one.
    fn saved_mask(&self) -> Option<SigSet> {
        self.has_saved_mask.load(Ordering::Relaxed).then(|| SigSet(self.saved_mask.load(Ordering::Relaxed)))
    }

    /// There is no mask to go back to any more.
    fn forget_saved_mask(&self) {
        self.has_saved_mask.store(false, Ordering::Relaxed);
    }

    fn record_fault(&self, vector: u64, error: u64, cr2: u64) {
        for (slot, value) in self.fault.iter().zip([vector, error, cr2]) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    fn last_fault(&self) -> [u64; 3] {
        self.fault.each_ref().map(|v| v.load(Ordering::Relaxed))
    }
}

impl Task {
    /// Replaces the mask (SIGKILL and SIGSTOP cannot be blocked) and looks whether something became deliverable.
    /// Only the thread itself does this. What is pending for the process and blocked from now on, others are told of: this thread may have been the one that was.
    pub fn set_sigmask(&self, mask: SigSet) {
        let before = self.signals.mask();
        self.signals.mask.store(mask.without(SigSet::UNBLOCKABLE).0, Ordering::SeqCst);
        if self.has_deliverable_signal() {
            self.set_work();
        }
        let blocked = self.process().signals.pending.set().intersection(mask.without(before));
        if !blocked.is_empty() {
            self.process().notify_again(blocked);
        }
    }

    /// Replaces the mask until the current system call has returned: the old mask comes back after a handler, or at once
    /// when none runs.
    pub fn set_temporary_sigmask(&self, mask: SigSet) {
        self.signals.saved_mask.store(self.signals.mask().0, Ordering::Relaxed);
        self.signals.has_saved_mask.store(true, Ordering::Relaxed);
        self.set_sigmask(mask);
    }

    /// Undoes [`Task::set_temporary_sigmask`] when the call was not interrupted.
    pub fn restore_sigmask(&self) {
        if let Some(mask) = self.signals.saved_mask() {
            self.signals.forget_saved_mask();
            self.set_sigmask(mask);
        }
    }

    /// Whether an unblocked signal waits for this thread or its process.
    #[must_use]
    pub fn has_deliverable_signal(&self) -> bool {
        !self.pending_signals().without(self.signals.mask()).is_empty()
    }

    /// Whether the thread must leave a wait: a signal to deliver, or the process is ending or stopping.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.has_deliverable_signal() || self.must_end() || self.process().job.is_stopping()
    }

    /// Pending signals of the thread and of its process, blocked or not.
    #[must_use]
    pub fn pending_signals(&self) -> SigSet {
        self.signals.pending.set().union(self.process().signals.pending.set())
    }

    /// Takes a pending signal in `wanted`, the thread's own first.
    pub fn take_signal(&self, wanted: SigSet) -> Option<(Signal, SigInfo)> {
        let (signal, mut info) = self.signals.pending.take(wanted).or_else(|| self.process().signals.pending.take(wanted))?;
        if info.code == code::SI_TIMER {
            info.set_overrun(self.process().timers.delivered(info.timer_id()));
        }
        Some((signal, info))
    }

    /// Lets `rt_sigtimedwait` be woken for `set`; the empty set ends that.
    pub(crate) fn await_signals(&self, set: SigSet) {
        self.signals.awaited.store(set.0, Ordering::SeqCst);
    }

    fn wants(&self, signal: Signal) -> bool {
        !self.signals.mask().contains(signal) || self.awaits(signal)
    }

    fn awaits(&self, signal: Signal) -> bool {
        SigSet(self.signals.awaited.load(Ordering::SeqCst)).contains(signal)
    }

    /// Whether this is the calling thread.
    fn runs_here(&self) -> bool {
        thread::with_current(|t| t.work().task() == ptr::from_ref(self).cast())
    }

    /// Tells the thread that `signal` is pending, if it can take it.
    fn notify_signal(&self, signal: Signal) {
        if !self.signals.mask().contains(signal) {
            if self.runs_here() {
                // It sleeps no more without having looked, and is on its way to program code.
                return thread::with_current(|t| t.work().add_work(WORK_SIGNAL));
            }
            self.set_work();
        } else if self.awaits(signal) {
            self.unpark();
        }
    }

    /// Sends a signal to this thread.
    ///
    /// # Errors
    /// `EAGAIN` when the queue of real-time signals is full.
    pub fn send_signal(&self, signal: Signal, info: SigInfo) -> Result<(), Errno> {
        accepted(self.queue_signal(signal, info))
    }

    /// As [`Task::send_signal`]; what became of it, `None` if it is ignored.
    pub(crate) fn queue_signal(&self, signal: Signal, info: SigInfo) -> Option<Queued> {
        self.process().before_signal(signal);
        if self.process().signals.ignores(signal) && self.wants(signal) && !self.awaits(signal) {
            return None;
        }
        let limit = queue_limit(self.process(), signal);
        let queued = self.signals.pending.change(|q| q.push(signal, info, limit));
        if queued != Queued::Full {
            self.notify_signal(signal);
            self.process().signals.arrivals.wake_all();
        }
        Some(queued)
    }
}

fn accepted(queued: Option<Queued>) -> Result<(), Errno> {
    if queued == Some(Queued::Full) { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// Sends the calling thread a signal for what it just did: SIGPIPE, SIGXFSZ.
pub fn raise(task: &Task, signal: Signal) {
    let process = task.process();
    let info = SigInfo::from_process(signal, code::SI_USER, process.pid(), task.own_id(OwnId::Uid));
    // A standard signal is never refused.
    let _merged = task.send_signal(signal, info);
}

/// How many signals may queue up when this one comes: for a standard signal there is no limit.
fn queue_limit(process: &Process, signal: Signal) -> usize {
    let limit = if signal.is_realtime() { process.limit(RLIMIT_SIGPENDING) } else { None };
    limit.map_or(usize::MAX, |limit| limit.cur as usize)
}

impl Process {
    /// Sends a signal to the process: any thread that does not block it may take it.
    ///
    /// # Errors
    /// `EAGAIN` when the queue of real-time signals is full.
    pub fn send_signal(&self, signal: Signal, info: SigInfo) -> Result<(), Errno> {
        accepted(self.queue_signal(signal, info))
    }

    /// As [`Process::send_signal`]; what became of it, `None` if it is ignored.
    pub(crate) fn queue_signal(&self, signal: Signal, info: SigInfo) -> Option<Queued> {
        self.before_signal(signal);
        if self.signals.ignores(signal) && self.find_own_task(|task| task.wants(signal)).is_some_and(|task| !task.awaits(signal)) {
            return None;
        }
        let limit = queue_limit(self, signal);
        let queued = self.signals.pending.change(|q| q.push(signal, info, limit));
        if queued != Queued::Full {
            self.notify_signal(signal);
            self.signals.arrivals.wake_all();
        }
        Some(queued)
    }

    /// What is pending for the process, other threads are told of than the one that is off the lists now and may have been told before.
    pub(crate) fn notify_heirs(&self) {
        let pending = self.signals.pending.set();
        if !pending.is_empty() {
            self.notify_again(pending);
        }
    }

    #[cold]
    #[inline(never)]
    fn notify_again(&self, mut signals: SigSet) {
        while let Some(signal) = signals.first() {
            signals = signals.without(SigSet::of(signal));
            self.notify_taker(signal);
        }
    }

    /// Tells one thread that can take it that `signal` is pending: the first thread if that can. One that unblocks the signal later sees it in its own check.
    fn notify_signal(&self, signal: Signal) {
        let own = |task: &Task| {
            let is_taker = ptr::eq(task.process(), self) && task.tid() == self.pid() && task.wants(signal);
            if is_taker {
                task.notify_signal(signal);
            }
            is_taker
        };
        if entry::with_task(own) == Some(true) {
            return;
        }
        self.notify_taker(signal);
    }

    fn notify_taker(&self, signal: Signal) {
        if let Some(task) = self.find_own_task(|task| task.wants(signal)) {
            task.notify_signal(signal);
        }
    }

    /// What sending does at once, whoever blocks or ignores the signal: SIGKILL decides the end, SIGCONT continues, and it and the stop
    /// signals take each other back.
    fn before_signal(&self, signal: Signal) {
        match signal {
            // The dead stay as they are.
            Signal::SIGKILL if self.thread_count() > 0 => {
                self.begin_exit(ExitStatus::Signalled(Signal::SIGKILL));
            }
            Signal::SIGCONT => {
                self.discard(STOP_SIGNALS);
                self.go_on();
            }
            _ if STOP_SIGNALS.contains(signal) => self.discard(SigSet::of(Signal::SIGCONT)),
            _ => {}
        }
    }

    /// Takes back pending signals, the process's and its threads'.
    fn discard(&self, set: SigSet) {
        if !self.signals.pending.set().intersection(set).is_empty() {
            self.signals.pending.change(|q| q.discard(set));
        }
        for task in self.tasks() {
            if !task.signals.pending.set().intersection(set).is_empty() {
                task.signals.pending.change(|q| q.discard(set));
            }
        }
    }

    /// Applies `rt_sigaction`: a signal that is now ignored is dropped wherever it is pending (POSIX).
    pub fn change_action(&self, signal: Signal, new: SigAction) -> SigAction {
        let old = self.signals.set_action(signal, new);
        if new.is_ignored(signal) {
            self.discard(SigSet::of(signal));
        }
        old
    }
}
