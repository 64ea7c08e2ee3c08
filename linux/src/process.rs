//! Processes and their threads: [`Process`], [`Task`].

use alloc::sync::Arc;

/// A process: what its threads share.
pub struct Process {
    pid: u32,
}

impl Process {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// A thread of a process.
pub struct Task {
    tid: u32,
    process: Arc<Process>,
}

impl Task {
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
}
