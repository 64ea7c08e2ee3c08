//! What becomes of a system call that a signal interrupted (signal(7), "Interruption of system calls").

use linux_abi::Errno;
use linux_abi::signal::{SigAction, sa};

/// What happened to the signals that were pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// No handler runs: the signal was ignored, or another thread took it.
    NoHandler,
    /// This handler runs.
    Handler(&'a SigAction),
}

/// How the system call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The `syscall` instruction runs again: RIP − 2, RAX = its number.
    Restart,
    /// It runs again as `restart_syscall`, which goes on with what the call has noted.
    GoOn,
    /// It returns this error.
    Fail(Errno),
}

/// Decides for the internal error `error` (`ERESTARTSYS` and its like); other errors are returned as they are.
#[must_use]
pub fn resume(error: Errno, outcome: Outcome<'_>) -> Resume {
    match (error, outcome) {
        (Errno::ERESTARTNOINTR, _) => Resume::Restart,
        (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND, Outcome::NoHandler) => Resume::Restart,
        (Errno::ERESTARTSYS, Outcome::Handler(action)) if action.flags & sa::RESTART != 0 => Resume::Restart,
        (Errno::ERESTART_RESTARTBLOCK, Outcome::NoHandler) => Resume::GoOn,
        (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK, _) => Resume::Fail(Errno::EINTR),
        (other, _) => Resume::Fail(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sa_restart_decides_when_a_handler_runs() {
        let plain = SigAction::default();
        let restarting = SigAction { flags: sa::RESTART, ..plain };
        assert_eq!(resume(Errno::ERESTARTSYS, Outcome::Handler(&restarting)), Resume::Restart);
        assert_eq!(resume(Errno::ERESTARTSYS, Outcome::Handler(&plain)), Resume::Fail(Errno::EINTR));
        assert_eq!(resume(Errno::ERESTARTNOHAND, Outcome::Handler(&restarting)), Resume::Fail(Errno::EINTR));
        assert_eq!(resume(Errno::ERESTARTNOHAND, Outcome::NoHandler), Resume::Restart);
        assert_eq!(resume(Errno::ERESTART_RESTARTBLOCK, Outcome::NoHandler), Resume::GoOn);
        assert_eq!(resume(Errno::ERESTART_RESTARTBLOCK, Outcome::Handler(&restarting)), Resume::Fail(Errno::EINTR));
        assert_eq!(resume(Errno::ERESTARTNOINTR, Outcome::Handler(&plain)), Resume::Restart);
        assert_eq!(resume(Errno::EINTR, Outcome::NoHandler), Resume::Fail(Errno::EINTR));
    }
}
