//! What a process leaves behind: how it ended, and what it used of the CPUs.

use linux_abi::signal::{DefaultAction, Signal};

/// How a process ends. Packed into one word so that exactly one thread decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// `exit_group` with this code.
    Exited(u8),
    /// Killed by this signal.
    Signalled(Signal),
    /// Killed by this signal, and RLIMIT_CORE permits a core file: what `wait` tells is the same as on Linux, though none is written.
    Dumped(Signal),
}

impl ExitStatus {
    const SET: u32 = 1 << 31;
    const CORE: u32 = 0x80;

    pub(super) const fn encode(self) -> u32 {
        Self::SET
            | match self {
                Self::Exited(code) => (code as u32) << 8,
                Self::Signalled(signal) => signal.number(),
                Self::Dumped(signal) => signal.number() | Self::CORE,
            }
    }

    /// The end by `signal`'s default action.
    #[must_use]
    pub fn by_signal(signal: Signal, core_limit: u64) -> Self {
        if signal.default_action() == DefaultAction::Core && core_limit > 0 { Self::Dumped(signal) } else { Self::Signalled(signal) }
    }

    pub(super) fn decode(word: u32) -> Option<Self> {
        if word & Self::SET == 0 {
            return None;
        }
        let status = word & !Self::SET;
        let by_signal = if status & Self::CORE != 0 { Self::Dumped } else { Self::Signalled };
        Some(Signal::new(status & 0x7f).map_or(Self::Exited((status >> 8) as u8), by_signal))
    }
}

/// What a thread, a process or its children used of the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in program code.
    pub user_ns: u64,
    /// CPU time in the kernel.
    pub system_ns: u64,
    /// How often a CPU was given up to wait.
    pub waits: u64,
    /// How often it was lost otherwise.
    pub preemptions: u64,
}

impl Usage {
    /// CPU time. Exact, while its parts are sampled.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        self.user_ns + self.system_ns
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            user_ns: self.user_ns + other.user_ns,
            system_ns: self.system_ns + other.system_ns,
            waits: self.waits + other.waits,
            preemptions: self.preemptions + other.preemptions,
        }
    }
}
