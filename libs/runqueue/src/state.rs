//! The thread's state: one atomic word with named transitions.
//!
//! # Theory
//! Problem: several CPUs, also from interrupt handlers, wake a thread that is about to sleep, sleeping, or being
//! woken by another; exactly one of them must put it on a run queue, and no wake-up may be lost.
//!
//! | state | means | who may leave it |
//! |---|---|---|
//! | `Running` | on a CPU | the thread itself, on its CPU |
//! | `Ready` | in its CPU's run queue | that CPU |
//! | `Parking` | decided to sleep, registers not saved yet | its CPU (`switched_out`), or the first `unpark` |
//! | `Waiting` | asleep, registers saved | the first `unpark` |
//! | `Waking` | woken; on its way through a CPU's incoming list | the CPU that takes it off the list |
//! | `Exited` | never runs again | nobody |
//!
//! A further bit, the park *token*, remembers an `unpark` that found the thread awake; the next `prepare_park`
//! consumes it instead of sleeping. Only `unpark` sets it, only the running thread clears it, so every other
//! transition is a single exclusive-or of the state bits that leaves the token alone.
//!
//! No lost wake-up: `unpark` is a read-modify-write in every state, and `prepare_park` moves to `Parking` by a CAS that
//! fails if the token is there. No double enqueue: `Parking`/`Waiting` → `Waking` is one CAS, and one caller wins.
//! A thread woken out of `Parking` still runs on its CPU's stack: it must go to that same CPU, which looks at
//! its incoming list only after the switch began ([`Placement::Home`]).
//!
//! Orderings: `unpark` releases, and `prepare_park` (token) or `dequeued` (enqueued) acquires, so what was written
//! before the unpark is seen after the park. `switched_out` releases the saved registers to the waker (Acquire).
use lockfree::shim::atomic::{AtomicU32, Ordering};

const RUNNING: u32 = 0;
const READY: u32 = 1;
const PARKING: u32 = 2;
const WAITING: u32 = 3;
const WAKING: u32 = 4;
const EXITED: u32 = 5;
const STATE: u32 = 7;
const TOKEN: u32 = 8;

/// What [`ThreadState::prepare_park`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Park {
    /// An unpark came first; it is used up, and the thread goes on.
    TokenConsumed,
    /// The thread is `Parking`: switch away from it.
    Committed,
}

/// What [`ThreadState::switched_out`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SwitchedOut {
    /// The thread sleeps; any CPU may wake it to anywhere.
    Asleep,
    /// Somebody woke it meanwhile; it is on this CPU's incoming list.
    AlreadyWoken,
}

/// Where a woken thread may be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the incoming list of the CPU it last ran on: its registers may not be saved yet.
    Home,
    /// On any CPU's incoming list.
    Anywhere,
}

/// What [`ThreadState::unpark`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Unpark {
    /// The thread is awake; its next park returns at once.
    TokenSet,
    /// The caller won: it alone must push the thread on an incoming list.
    MustEnqueue(Placement),
    /// The thread has exited.
    Exited,
}

/// The word. See the module.
pub struct ThreadState {
    word: AtomicU32,
}

impl ThreadState {
    /// A new thread: `Waking`. Its creator pushes it on an incoming list.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            word: AtomicU32::new(WAKING),
        }
    }

    /// A thread that already runs: the first one of a CPU, the idle thread.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new_running() -> Self {
        Self {
            word: AtomicU32::new(RUNNING),
        }
    }

    /// A new thread, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(WAKING),
        }
    }

    /// A running thread, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new_running() -> Self {
        Self {
            word: AtomicU32::new(RUNNING),
        }
    }

    /// `Running` → `Parking`, unless there is a token.
    ///
    /// Context: the thread itself, from here to the switch with interrupts disabled on its CPU.
    pub fn prepare_park(&self) -> Park {
        let parked =
            self.word
                .compare_exchange(RUNNING, PARKING, Ordering::AcqRel, Ordering::Relaxed);
        if parked.is_ok() {
            return Park::Committed;
        }
        let before = self.word.fetch_and(!TOKEN, Ordering::Acquire);
        debug_assert_eq!(before, RUNNING | TOKEN);
        Park::TokenConsumed
    }

    /// `Parking` → `Waiting`: the registers are saved.
    ///
    /// Context: the thread's CPU, on the next thread's stack, interrupts disabled. After `Asleep` the thread may run
    /// elsewhere at once: touch it no more.
    pub fn switched_out(&self) -> SwitchedOut {
        let slept =
            self.word
                .compare_exchange(PARKING, WAITING, Ordering::AcqRel, Ordering::Relaxed);
        match slept {
            Ok(_) => SwitchedOut::Asleep,
            Err(_) => SwitchedOut::AlreadyWoken,
        }
    }

    /// Wakes the thread, or leaves a token.
    ///
    /// Context: any, interrupt handlers included.
    pub fn unpark(&self) -> Unpark {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (next, outcome) = match word & STATE {
                PARKING => (WAKING, Unpark::MustEnqueue(Placement::Home)),
                WAITING => (WAKING, Unpark::MustEnqueue(Placement::Anywhere)),
                EXITED => return Unpark::Exited,
                // Even if the token is there: the write publishes what this caller did before.
                _ => (word | TOKEN, Unpark::TokenSet),
            };
            match self
                .word
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return outcome,
                Err(now) => word = now,
            }
        }
    }

    /// `Waking` → `Ready`. Context: the CPU that took the thread off its incoming list.
    pub fn dequeued(&self) {
        self.change(WAKING, READY);
    }

    /// `Ready` → `Running`. Context: the thread's CPU, before the switch to it.
    pub fn switched_in(&self) {
        self.change(READY, RUNNING);
    }

    /// `Running` → `Ready`: preempted, or yielding. Context: the thread's CPU, which then enqueues it.
    pub fn preempted(&self) {
        self.change(RUNNING, READY);
    }

    /// `Ready` → `Waking`: its CPU took it off the run queue and will push it on another's incoming list.
    pub fn migrating(&self) {
        self.change(READY, WAKING);
    }

    /// `Running` → `Exited`. Context: the thread itself, before its last switch.
    pub fn exit(&self) {
        self.change(RUNNING, EXITED);
    }

    /// Whether the thread is on a CPU at this instant. A hint.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.word.load(Ordering::Relaxed) & STATE, RUNNING | PARKING)
    }

    /// Whether the thread has exited.
    #[must_use]
    pub fn is_exited(&self) -> bool {
        self.word.load(Ordering::Acquire) & STATE == EXITED
    }

    /// Whether the thread sleeps (`/proc`'s S) at this instant. A hint.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        matches!(self.word.load(Ordering::Relaxed) & STATE, PARKING | WAITING)
    }

    /// A transition that nobody else can make at the same time; the token may come and stays.
    fn change(&self, from: u32, to: u32) {
        let before = self.word.fetch_xor(from ^ to, Ordering::AcqRel);
        debug_assert_eq!(before & STATE, from, "a transition from the wrong state");
    }
}

impl Default for ThreadState {
    fn default() -> Self {
        Self::new()
    }
}
