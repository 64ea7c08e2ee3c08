//! Calls with a relative timeout that a stop, or a signal without a handler, interrupted: they go on until the time that they first waited for.
//!
//! Such a call notes its number and its deadline and returns `ERESTART_RESTARTBLOCK`. If no handler runs, the thread comes back by
//! `restart_syscall`, which runs the call once more with the registers it had; its timeout then is the noted one. A handler forgets the
//! note, so that a `restart_syscall` behind it fails with EINTR, as Linux's does. Only the thread itself touches it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use linux_abi::Errno;

/// A thread's note.
pub struct Continuation {
    /// The call, 0 for none (`read` has no timeout).
    number: AtomicU32,
    deadline: AtomicU64,
    /// The deadline of the call that is going on right now, 0 for none.
    current: AtomicU64,
}

impl Continuation {
    /// Nothing noted.
    #[must_use]
    pub const fn new() -> Self {
        Self { number: AtomicU32::new(0), deadline: AtomicU64::new(0), current: AtomicU64::new(0) }
    }

    /// The monotonic deadline of a wait for `timeout_ns`, or of the wait that this one is the continuation of.
    #[must_use]
    pub fn deadline(&self, timeout_ns: u64) -> u64 {
        self.deadline_from(sync::monotonic_ns(), timeout_ns)
    }

    /// The same by another clock, which reads `now_ns`.
    #[must_use]
    pub fn deadline_from(&self, now_ns: u64, timeout_ns: u64) -> u64 {
        match self.current.swap(0, Relaxed) {
            0 => now_ns.saturating_add(timeout_ns),
            deadline => deadline,
        }
    }

    /// Call `number`, which waits until `deadline`, is interrupted; what it returns.
    pub fn interrupted(&self, number: u64, deadline: u64) -> Errno {
        self.number.store(number as u32, Relaxed);
        self.deadline.store(deadline, Relaxed);
        Errno::ERESTART_RESTARTBLOCK
    }

    /// Goes on with the call that is noted; its number.
    pub(crate) fn go_on(&self) -> Option<u64> {
        let number = self.number.swap(0, Relaxed);
        self.current.store(self.deadline.load(Relaxed), Relaxed);
        (number != 0).then_some(u64::from(number))
    }

    /// The call that went on has returned, or is not to go on.
    pub(crate) fn forget(&self) {
        self.number.store(0, Relaxed);
        self.current.store(0, Relaxed);
    }

    /// The call that went on has returned.
    pub(crate) fn returned(&self) {
        self.current.store(0, Relaxed);
    }
}

impl Default for Continuation {
    fn default() -> Self {
        Self::new()
    }
}
