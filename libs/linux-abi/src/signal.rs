//! Signals: numbers, sets, actions, the frame a handler sees.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of signals; they are 1..=64.
pub const NSIG: usize = 64;
/// `SIG_DFL` as a handler address.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN` as a handler address.
pub const SIG_IGN: u64 = 1;

/// A signal number, 1..=64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $value:literal;)*) => {
        impl Signal {
            $(#[doc = concat!("`", stringify!($name), "`.")] pub const $name: Self = Self($value);)*

            /// The symbolic name, such as `"SIGSEGV"`; real-time signals are `"SIGRT"`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    _ => "SIGRT",
                }
            }
        }
    };
}

signals! {
    SIGHUP = 1; SIGINT = 2; SIGQUIT = 3; SIGILL = 4; SIGTRAP = 5; SIGABRT = 6; SIGBUS = 7; SIGFPE = 8; SIGKILL = 9;
    SIGUSR1 = 10; SIGSEGV = 11; SIGUSR2 = 12; SIGPIPE = 13; SIGALRM = 14; SIGTERM = 15; SIGSTKFLT = 16; SIGCHLD = 17;
    SIGCONT = 18; SIGSTOP = 19; SIGTSTP = 20; SIGTTIN = 21; SIGTTOU = 22; SIGURG = 23; SIGXCPU = 24; SIGXFSZ = 25;
    SIGVTALRM = 26; SIGPROF = 27; SIGWINCH = 28; SIGIO = 29; SIGPWR = 30; SIGSYS = 31;
}

/// What happens by default when a signal is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// End the process.
    Terminate,
    /// End the process; Linux would write a core file.
    Core,
    /// Nothing.
    Ignore,
    /// Stop the process.
    Stop,
    /// Continue a stopped process.
    Continue,
}

impl Signal {
    /// From a number; `None` outside 1..=64.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number >= 1 && number <= NSIG as u32 { Some(Self(number as u8)) } else { None }
    }

    /// The number, 1..=64.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// Index into a table of 64.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// Real-time signals (32..=64) queue, standard ones collapse.
    #[must_use]
    pub const fn is_realtime(self) -> bool {
        self.0 >= 32
    }

    /// Signals whose cause is the instruction itself; a blocked one kills.
    #[must_use]
    pub const fn is_synchronous(self) -> bool {
        matches!(self, Self::SIGSEGV | Self::SIGBUS | Self::SIGILL | Self::SIGTRAP | Self::SIGFPE | Self::SIGSYS)
    }

    /// signal(7)'s table of default dispositions.
    #[must_use]
    pub const fn default_action(self) -> DefaultAction {
        match self {
            Self::SIGCHLD | Self::SIGURG | Self::SIGWINCH => DefaultAction::Ignore,
            Self::SIGCONT => DefaultAction::Continue,
            Self::SIGSTOP | Self::SIGTSTP | Self::SIGTTIN | Self::SIGTTOU => DefaultAction::Stop,
            Self::SIGQUIT
            | Self::SIGILL
            | Self::SIGTRAP
            | Self::SIGABRT
            | Self::SIGBUS
            | Self::SIGFPE
            | Self::SIGSEGV
            | Self::SIGXCPU
            | Self::SIGXFSZ
            | Self::SIGSYS => DefaultAction::Core,
            _ => DefaultAction::Terminate,
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_realtime() { write!(f, "SIGRT{}", self.0) } else { f.write_str(self.name()) }
    }
}

/// `sigset_t` of the kernel: bit n−1 is signal n.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);
    /// Signals that cannot be blocked, caught or ignored.
    pub const UNBLOCKABLE: Self = Self::of(Signal::SIGKILL).with(Signal::SIGSTOP);

    /// The set of one signal.
    #[must_use]
    pub const fn of(signal: Signal) -> Self {
        Self(1 << signal.index())
    }

    /// This set and `signal`.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | Self::of(signal).0)
    }

    /// This set without the members of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Members of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Members of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `signal` is a member.
    #[must_use]
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & Self::of(signal).0 != 0
    }

    /// Whether the set has no member.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The member delivered first: synchronous signals, then the lowest number.
    #[must_use]
    pub const fn first(self) -> Option<Signal> {
        const SYNCHRONOUS: u64 = SigSet::of(Signal::SIGSEGV).0
            | SigSet::of(Signal::SIGBUS).0
            | SigSet::of(Signal::SIGILL).0
            | SigSet::of(Signal::SIGTRAP).0
            | SigSet::of(Signal::SIGFPE).0
            | SigSet::of(Signal::SIGSYS).0;
        let set = if self.0 & SYNCHRONOUS != 0 { self.0 & SYNCHRONOUS } else { self.0 };
        if set == 0 { None } else { Signal::new(set.trailing_zeros() + 1) }
    }
}

impl fmt::Debug for SigSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigSet({:#x})", self.0)
    }
}

/// Flags of [`SigAction`] that oxv acts on; unknown bits are kept and ignored, as Linux does.
pub mod sa {
    /// No `SIGCHLD` when a child stops.
    pub const NOCLDSTOP: u64 = 1;
    /// Children do not become zombies.
    pub const NOCLDWAIT: u64 = 2;
    /// The handler takes three arguments.
    pub const SIGINFO: u64 = 4;
    /// `restorer` is valid.
    pub const RESTORER: u64 = 0x0400_0000;
    /// Run on the alternate stack.
    pub const ONSTACK: u64 = 0x0800_0000;
    /// Restart interrupted calls.
    pub const RESTART: u64 = 0x1000_0000;
    /// Do not block the signal in its own handler.
    pub const NODEFER: u64 = 0x4000_0000;
    /// Reset to `SIG_DFL` on delivery.
    pub const RESETHAND: u64 = 0x8000_0000;
}

/// The kernel's `struct sigaction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    /// `SIG_DFL`, `SIG_IGN` or a program address.
    pub handler: u64,
    /// See [`sa`].
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

impl SigAction {
    /// Whether it makes `signal` vanish.
    #[must_use]
    pub const fn is_ignored(&self, signal: Signal) -> bool {
        match self.handler {
            SIG_IGN => true,
            SIG_DFL => matches!(signal.default_action(), DefaultAction::Ignore | DefaultAction::Continue),
            _ => false,
        }
    }
}

/// `stack_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigStack {
    /// Lowest address.
    pub sp: u64,
    /// `SS_*`.
    pub flags: i32,
    /// Zero.
    pub pad0: u32,
    /// Bytes.
    pub size: u64,
}

/// [`SigStack::flags`]: running on the alternate stack.
pub const SS_ONSTACK: i32 = 1;
/// [`SigStack::flags`]: no alternate stack.
pub const SS_DISABLE: i32 = 2;
/// [`SigStack::flags`]: the alternate stack is disarmed while a handler runs on it.
pub const SS_AUTODISARM: i32 = i32::MIN;
/// Smallest alternate stack Linux accepts.
pub const MINSIGSTKSZ: u64 = 2048;

/// `siginfo_t` as 128 bytes with the fields this kernel fills.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigInfo {
    /// Signal number.
    pub signo: i32,
    /// errno, usually 0.
    pub errno: i32,
    /// `SI_*`, `SEGV_*`, ….
    pub code: i32,
    /// Zero.
    pub pad0: i32,
    /// The union; which member is valid depends on `code`.
    pub fields: [u64; 14],
}

/// Values of [`SigInfo::code`].
pub mod code {
    /// Sent by `kill`.
    pub const SI_USER: i32 = 0;
    /// Sent by the kernel.
    pub const SI_KERNEL: i32 = 0x80;
    /// Sent by `sigqueue`.
    pub const SI_QUEUE: i32 = -1;
    /// A POSIX timer expired.
    pub const SI_TIMER: i32 = -2;
    /// Sent by `tkill` or `tgkill`.
    pub const SI_TKILL: i32 = -6;
    /// `SIGCHLD`: the child exited.
    pub const CLD_EXITED: i32 = 1;
    /// `SIGCHLD`: a signal killed the child.
    pub const CLD_KILLED: i32 = 2;
    /// `SIGCHLD`: a signal killed the child, and Linux would have written a core file.
    pub const CLD_DUMPED: i32 = 3;
    /// `SIGCHLD`: the child stopped.
    pub const CLD_STOPPED: i32 = 5;
    /// `SIGCHLD`: the child goes on.
    pub const CLD_CONTINUED: i32 = 6;
    /// `SIGSEGV`: nothing mapped there.
    pub const SEGV_MAPERR: i32 = 1;
    /// `SIGSEGV`: mapped without the permission.
    pub const SEGV_ACCERR: i32 = 2;
    /// `SIGBUS`: beyond the end of the file.
    pub const BUS_ADRERR: i32 = 2;
    /// `SIGBUS`: unaligned.
    pub const BUS_ADRALN: i32 = 1;
    /// `SIGFPE`: integer division by zero.
    pub const FPE_INTDIV: i32 = 1;
    /// `SIGFPE`: integer overflow.
    pub const FPE_INTOVF: i32 = 2;
    /// `SIGFPE`: floating-point division by zero.
    pub const FPE_FLTDIV: i32 = 3;
    /// `SIGFPE`: floating-point overflow.
    pub const FPE_FLTOVF: i32 = 4;
    /// `SIGFPE`: floating-point underflow.
    pub const FPE_FLTUND: i32 = 5;
    /// `SIGFPE`: inexact result.
    pub const FPE_FLTRES: i32 = 6;
    /// `SIGFPE`: invalid operation.
    pub const FPE_FLTINV: i32 = 7;
    /// `SIGILL`: illegal operand.
    pub const ILL_ILLOPN: i32 = 2;
    /// `SIGTRAP`: breakpoint.
    pub const TRAP_BRKPT: i32 = 1;
    /// `SIGTRAP`: single step.
    pub const TRAP_TRACE: i32 = 2;
}

impl SigInfo {
    /// With `signo` and `code` and everything else zero.
    #[must_use]
    pub const fn new(signal: Signal, code: i32) -> Self {
        Self { signo: signal.number() as i32, errno: 0, code, pad0: 0, fields: [0; 14] }
    }

    /// All zero: `waitid` without a child.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self { signo: 0, errno: 0, code: 0, pad0: 0, fields: [0; 14] }
    }

    /// A child's end (`si_pid`, `si_uid`, `si_status`).
    #[must_use]
    pub const fn child(signal: Signal, code: i32, pid: u32, uid: u32, status: i32) -> Self {
        let mut info = Self::from_process(signal, code, pid, uid);
        info.fields[1] = status as u32 as u64;
        info
    }

    /// Sent by a process (`si_pid`, `si_uid`).
    #[must_use]
    pub const fn from_process(signal: Signal, code: i32, pid: u32, uid: u32) -> Self {
        let mut info = Self::new(signal, code);
        info.fields[0] = pid as u64 | (uid as u64) << 32;
        info
    }

    /// A fault at `address` (`si_addr`).
    #[must_use]
    pub const fn fault(signal: Signal, code: i32, address: u64) -> Self {
        let mut info = Self::new(signal, code);
        info.fields[0] = address;
        info
    }

    /// A POSIX timer (`si_timerid`, `si_overrun`, `si_value`).
    #[must_use]
    pub const fn timer(signal: Signal, id: u32, overrun: u32, value: u64) -> Self {
        let mut info = Self::new(signal, code::SI_TIMER);
        info.fields[0] = id as u64 | (overrun as u64) << 32;
        info.fields[1] = value;
        info
    }

    /// `si_timerid`, meaningful for timers.
    #[must_use]
    pub const fn timer_id(&self) -> i32 {
        self.fields[0] as i32
    }

    /// Sets `si_overrun` of a timer's signal.
    pub const fn set_overrun(&mut self, overrun: u32) {
        self.fields[0] = self.fields[0] as u32 as u64 | (overrun as u64) << 32;
    }

    /// `si_addr`, meaningful for faults.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.fields[0]
    }
}

impl fmt::Debug for SigInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigInfo {{ signo: {}, code: {}, field: {:#x} }}", self.signo, self.code, self.fields[0])
    }
}

/// `struct sigcontext` of x86-64 (`uc_mcontext`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "register names")]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

/// `ucontext_t` as the kernel lays it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ucontext {
    /// `UC_*`.
    pub flags: u64,
    /// Unused by the kernel.
    pub link: u64,
    /// The alternate stack at delivery.
    pub stack: SigStack,
    /// Registers.
    pub mcontext: SigContext,
    /// The mask `rt_sigreturn` restores.
    pub sigmask: SigSet,
}

/// [`Ucontext::flags`]: `fpstate` is an XSAVE area.
pub const UC_FP_XSTATE: u64 = 1;
/// [`Ucontext::flags`]: `ss` is valid.
pub const UC_SIGCONTEXT_SS: u64 = 2;
/// [`Ucontext::flags`]: `rt_sigreturn` restores `ss` exactly.
pub const UC_STRICT_RESTORE_SS: u64 = 4;

/// What lies at the handler's stack pointer: `struct rt_sigframe`.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RtSigFrame {
    /// The handler's return address: `sa_restorer`.
    pub pretcode: u64,
    /// Third argument.
    pub uc: Ucontext,
    /// Second argument.
    pub info: SigInfo,
}

/// `struct _fpx_sw_bytes`, at byte 464 of the FXSAVE area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FpxSwBytes {
    /// [`FP_XSTATE_MAGIC1`] when an extended area follows.
    pub magic1: u32,
    /// Bytes of the whole area including the trailing magic.
    pub extended_size: u32,
    /// XSAVE components in the area.
    pub xfeatures: u64,
    /// Bytes of the XSAVE area.
    pub xstate_size: u32,
    /// Zero.
    pub padding: [u32; 7],
}

/// Marks an extended area in [`FpxSwBytes::magic1`].
pub const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// Follows the XSAVE area.
pub const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Offset of [`FpxSwBytes`] in the FXSAVE area.
pub const FPX_SW_OFFSET: usize = 464;

/// `struct sigevent`: how a POSIX timer tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigEvent {
    /// `si_value` of the signal.
    pub value: u64,
    /// Signal number.
    pub signo: i32,
    /// [`SIGEV_SIGNAL`] and its like.
    pub notify: i32,
    /// Thread of [`SIGEV_THREAD_ID`].
    pub tid: i32,
    /// Not used by the kernel.
    pub pad: [i32; 11],
}

/// [`SigEvent::notify`]: a signal to the process.
pub const SIGEV_SIGNAL: i32 = 0;
/// [`SigEvent::notify`]: nothing.
pub const SIGEV_NONE: i32 = 1;
/// [`SigEvent::notify`]: a signal to one thread.
pub const SIGEV_THREAD_ID: i32 = 4;

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn frame_layout_is_linux_s() {
        assert_eq!(size_of::<SigInfo>(), 128);
        assert_eq!(offset_of!(RtSigFrame, uc), 8);
        assert_eq!(offset_of!(Ucontext, mcontext), 40);
        assert_eq!(size_of::<SigContext>(), 256);
        assert_eq!(offset_of!(Ucontext, sigmask), 296);
        assert_eq!(size_of::<Ucontext>(), 304);
        assert_eq!(offset_of!(RtSigFrame, info), 312);
        assert_eq!(size_of::<FpxSwBytes>(), 48);
        assert_eq!(size_of::<SigEvent>(), 64);
    }

    #[test]
    fn synchronous_signals_come_first() {
        let set = SigSet::of(Signal::SIGHUP).with(Signal::SIGSEGV);
        assert_eq!(set.first(), Some(Signal::SIGSEGV));
        assert_eq!(SigSet::EMPTY.first(), None);
        assert_eq!(SigSet(1 << 63).first().map(Signal::number), Some(64));
    }

    #[test]
    fn only_sixty_four_signals_exist() {
        assert!(Signal::new(0).is_none());
        assert!(Signal::new(65).is_none());
        assert_eq!(Signal::SIGURG.default_action(), DefaultAction::Ignore);
    }
}
