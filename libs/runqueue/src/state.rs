//! The thread's state: one atomic word with named transitions.
//!
//! # Theory
//! Problem: several CPUs, also from interrupt handlers, wake a thread that is about to sleep, sleeping, or being
//! woken by another; exactly one of them must put it on a run queue, and no wake-up may be lost.
//!
//! | state | means | who may leave it |
//! |---|---|---|
//! | `Awake` | on a CPU, in a run queue, or on its way to one | its CPU (`fall_asleep`, `exit`) |
//! | `Waiting` | asleep, registers saved | the first `unpark` |
//! | `Exited` | never runs again | nobody |
//!
//! A further bit, the park *token*, remembers an `unpark` that found the thread awake. Only `unpark` sets it; it is taken
//! by the thread before it parks, or by its CPU when the thread would fall asleep.
//!
//! A thread sleeps in two steps. It looks for the token, and without one its CPU saves its registers and switches to
//! another; *then*, on the other's stack, the CPU tries `Awake` → `Waiting` by one CAS. The CAS fails if a token came in
//! between: the CPU takes the token and keeps the thread runnable. So `Waiting` implies that the registers are saved, and
//! whoever wakes the thread may put it anywhere; where an awake thread is (running, queued, travelling) is no business of
//! wakers, and not in the word.
//!
//! No lost wake-up: `unpark` is a read-modify-write in every state, and the CAS to `Waiting` fails if the token is
//! there. No double enqueue: `Waiting` → `Awake` is one CAS, and one caller wins.
//!
//! Orderings: `unpark` releases and `take_token`, `fall_asleep` acquire, so what was written before the unpark is seen
//! after the park. `fall_asleep` releases the saved registers to the waker, whose `unpark` acquires them.
//!
//! Rejected: a state of its own between the decision to sleep and the saved registers (one more read-modify-write per
//! switch, and wake-ups bound to the old CPU); states for *ready* and *running* (two more).
use lockfree::shim::atomic::{AtomicU32, Ordering};

const AWAKE: u32 = 0;
const WAITING: u32 = 1;
const EXITED: u32 = 2;
const STATE: u32 = 3;
const TOKEN: u32 = 4;

/// What [`ThreadState::fall_asleep`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum FallAsleep {
    /// The thread sleeps; any CPU may wake it to anywhere. Touch it no more.
    Asleep,
    /// Somebody woke it meanwhile: it is still the caller's, to be made runnable.
    AlreadyWoken,
}

/// What [`ThreadState::unpark`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Unpark {
    /// The thread is awake; its next park returns at once.
    TokenSet,
    /// The caller won: it alone must make the thread runnable.
    MustEnqueue,
    /// The thread has exited.
    Exited,
}

/// The word. See the module.
pub struct ThreadState {
    word: AtomicU32,
}

impl ThreadState {
    /// A new thread: `Awake`. Its creator makes it runnable.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            word: AtomicU32::new(AWAKE),
        }
    }

    /// A new thread, modelled.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(AWAKE),
        }
    }

    /// Whether an unpark came before the park; it is used up. If not: switch away, then [`ThreadState::fall_asleep`].
    ///
    /// Context: the thread itself.
    #[inline]
    #[must_use]
    pub fn take_token(&self) -> bool {
        // A token that is not seen here makes `fall_asleep` fail.
        if self.word.load(Ordering::Relaxed) & TOKEN == 0 {
            return false;
        }
        self.word.fetch_and(!TOKEN, Ordering::Acquire);
        true
    }

    /// `Awake` → `Waiting`, unless there is a token. The registers are saved.
    ///
    /// Context: the thread's CPU, on the next thread's stack, interrupts disabled.
    #[inline]
    pub fn fall_asleep(&self) -> FallAsleep {
        let slept = self
            .word
            .compare_exchange(AWAKE, WAITING, Ordering::AcqRel, Ordering::Relaxed);
        match slept {
            Ok(_) => FallAsleep::Asleep,
            Err(_) => {
                let before = self.word.fetch_and(!TOKEN, Ordering::Acquire);
                debug_assert_eq!(before, AWAKE | TOKEN);
                FallAsleep::AlreadyWoken
            }
        }
    }

    /// The common [`ThreadState::unpark`]: wakes the thread if it sleeps; the caller must then make it runnable. If not,
    /// nothing has happened.
    #[inline(always)]
    #[must_use]
    pub fn wake(&self) -> bool {
        self.word
            .compare_exchange(WAITING, AWAKE, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Wakes the thread, or leaves a token.
    ///
    /// Context: any, interrupt handlers included.
    pub fn unpark(&self) -> Unpark {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (next, outcome) = match word & STATE {
                WAITING => (AWAKE, Unpark::MustEnqueue),
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

    /// `Awake` → `Exited`. Context: the thread itself, before its last switch.
    pub fn exit(&self) {
        self.word.swap(EXITED, Ordering::AcqRel);
    }

    /// Whether the thread has exited.
    #[must_use]
    pub fn is_exited(&self) -> bool {
        self.word.load(Ordering::Acquire) & STATE == EXITED
    }

    /// Whether the thread sleeps (`/proc`'s S) at this instant. A hint.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.word.load(Ordering::Relaxed) & STATE == WAITING
    }
}

impl Default for ThreadState {
    fn default() -> Self {
        Self::new()
    }
}
