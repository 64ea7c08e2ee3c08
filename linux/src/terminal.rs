//! The terminal: the line discipline of `vfs::tty` between the host's streams and the program; and what terminals, pseudo terminals too,
//! ask of processes.
//!
//! It exists when one of the first three descriptors is a terminal (`t` in the command line's `stdio=`). A kernel thread feeds
//! it what is typed.

use alloc::sync::Arc;

use kernel::boot_info;
use kernel::thread::{self, Class};
use linux_abi::Errno;
use linux_abi::signal::{SIG_IGN, SigInfo, Signal, code};
use sync::OnceCell;
use vfs::channel::{Blocking, Channel};
use vfs::tty::{Background, Caller, Ending, Jobs, Tty, TtySignal, WindowSize};
use vfs::{File, OpenFlags};

use crate::entry::with_task;
use crate::exit::FIRST_PID;
use crate::jobs;
use crate::process::{self, OwnId, Process};
use crate::pty;
use crate::stdio::HostPort;

static TERMINAL: OnceCell<Option<Arc<Tty>>> = OnceCell::new();

/// Bytes taken from the host at once.
const CHUNK: usize = 256;
/// Size until the host tells another.
const DEFAULT_WINDOW: WindowSize = WindowSize::new(24, 80);
/// It is `/dev/pts/0`.
pub(crate) const NUMBER: u32 = 0;

/// Whether the program has a terminal.
#[must_use]
pub fn wanted() -> bool {
    boot_info().command_line.get("stdio").is_some_and(|kinds| kinds.bytes().any(|kind| kind == b't'))
}

/// The terminal, made at the first call.
///
/// # Errors
/// `ENXIO` when the program has none.
pub fn get() -> Result<Arc<Tty>, Errno> {
    TERMINAL.get_or_init(|| if wanted() { start() } else { None }).clone().ok_or(Errno::ENXIO)
}

fn start() -> Option<Arc<Tty>> {
    let output = HostPort::open("stdout")?;
    let tty = Tty::new(NUMBER, output, Arc::new(Processes), DEFAULT_WINDOW);
    // As after a login: the first program leads the session, and is in the foreground.
    tty.adopt(FIRST_PID, FIRST_PID);
    if let Some(input) = HostPort::open("stdin") {
        let receiver = tty.clone();
        if let Err(error) = thread::spawn("tty", Class::Normal, move || feed(&*input, &receiver)) {
            log::error!("the terminal hears nothing: {error}");
        }
    }
    Some(tty)
}

/// Passes on what is typed until the host closes its end.
fn feed(input: &dyn Channel, tty: &Tty) {
    let mut buffer = [0; CHUNK];
    while let Ok(n @ 1..) = input.read(&mut buffer, Blocking::Uninterruptible) {
        tty.receive(&buffer[..n]);
    }
    tty.hang_up();
}

/// Tells the terminal its new size.
pub fn set_window_size(rows: u16, columns: u16) {
    if let Ok(tty) = get() {
        tty.resize(WindowSize::new(rows, columns));
    }
}

/// Opens it by one of its names but /dev/tty.
///
/// # Errors
/// `ENXIO` when the program has none.
pub(crate) fn open(flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    let tty = get()?;
    tty.opened(flags);
    Ok(tty)
}

/// Opens /dev/tty: the caller's controlling terminal, whichever that is.
///
/// # Errors
/// `ENXIO` when it has none.
pub(crate) fn open_controlling(flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    match Processes.caller().terminal {
        None => Err(Errno::ENXIO),
        Some(NUMBER) if wanted() => Ok(get()?),
        Some(number) => pty::open_slave(number, flags),
    }
}

/// A terminal by its number.
fn find(number: u32) -> Option<Arc<Tty>> {
    if number == NUMBER && wanted() { get().ok() } else { pty::find(number) }
}

/// A process's terminal and the foreground process group there, as `/proc/PID/stat` shows them: 0 and -1 for none.
pub(crate) fn shown(process: &Process) -> (u32, i32) {
    const MAJOR: u32 = 136;
    match process.terminal().and_then(find) {
        Some(tty) => (MAJOR << 8 | tty.number(), tty.foreground() as i32),
        None => (0, -1),
    }
}

/// The leader of a session is ending: its terminal is free.
pub(crate) fn leader_ended(leader: &Process) {
    if let Some(tty) = leader.terminal().and_then(find) {
        tty.leader_ended(leader.session());
    }
}

/// Processes as terminals see them.
pub(crate) struct Processes;

const fn signal(signal: TtySignal) -> Signal {
    match signal {
        TtySignal::Interrupt => Signal::SIGINT,
        TtySignal::Quit => Signal::SIGQUIT,
        TtySignal::Suspend => Signal::SIGTSTP,
        TtySignal::WindowChange => Signal::SIGWINCH,
        TtySignal::HangUp => Signal::SIGHUP,
        TtySignal::Continue => Signal::SIGCONT,
        TtySignal::BackgroundRead => Signal::SIGTTIN,
        TtySignal::BackgroundWrite => Signal::SIGTTOU,
    }
}

fn send_group(group: u32, signal: Signal) {
    jobs::signal_group(group, signal, SigInfo::new(signal, code::SI_KERNEL));
}

impl Jobs for Processes {
    fn signal(&self, what: TtySignal, group: u32) {
        send_group(group, signal(what));
    }

    fn caller(&self) -> Caller {
        let nobody = Caller { process: 0, group: 0, session: u32::MAX, terminal: None, privileged: false };
        with_task(|task| {
            let process = task.process();
            Caller {
                process: process.pid(),
                group: process.process_group(),
                session: process.session(),
                terminal: process.terminal(),
                privileged: task.own_id(OwnId::Euid) == 0,
            }
        })
        .unwrap_or(nobody)
    }

    fn background(&self, what: TtySignal) -> Background {
        let signal = signal(what);
        with_task(|task| {
            let process = task.process();
            let ignored = process.signals.action(signal).handler == SIG_IGN;
            let group = process.process_group();
            if ignored || task.signals.mask().contains(signal) {
                return Background::Deaf;
            }
            if jobs::is_orphaned(group) {
                return Background::Orphaned;
            }
            send_group(group, signal);
            Background::Signalled
        })
        .unwrap_or(Background::Deaf)
    }

    fn session_of_group(&self, group: u32) -> Option<u32> {
        jobs::session_of_group(group)
    }

    fn gain(&self, tty: u32) {
        with_task(|task| task.process().set_terminal(Some(tty)));
    }

    fn lose(&self) {
        with_task(|task| task.process().set_terminal(None));
    }

    fn end_session(&self, session: u32, ending: Ending) {
        for process in process::all_processes() {
            if process.session() == session {
                process.set_terminal(None);
            }
        }
        let leader = process::find_process(session).filter(|_| ending == Ending::HangUp);
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            if let Some(leader) = &leader {
                // A standard signal is never refused.
                let _merged = leader.send_signal(signal, SigInfo::new(signal, code::SI_KERNEL));
            }
        }
    }
}
