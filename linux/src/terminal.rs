//! The terminal: the line discipline of `vfs::tty` between the host's streams and the program.
//!
//! It exists when one of the first three descriptors is a terminal (`t` in the command line's `stdio=`). A kernel thread feeds
//! it what is typed.

use alloc::sync::Arc;

use kernel::boot_info;
use kernel::thread::{self, Class};
use linux_abi::Errno;
use linux_abi::signal::{SigInfo, Signal, code};
use sync::OnceCell;
use vfs::channel::{Blocking, Channel};
use vfs::tty::{Foreground, Tty, TtySignal, WindowSize};

use crate::entry::with_task;
use crate::exit::FIRST_PID;
use crate::process::{self, Process};
use crate::stdio::HostPort;

static TERMINAL: OnceCell<Option<Arc<Tty>>> = OnceCell::new();

/// Bytes taken from the host at once.
const CHUNK: usize = 256;
/// Size until the host tells another.
const DEFAULT_WINDOW: WindowSize = WindowSize { rows: 24, columns: 80 };

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
    let tty = Tty::new(output, Arc::new(Jobs), DEFAULT_WINDOW);
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
        tty.resize(WindowSize { rows, columns });
    }
}

/// Sends the terminal's signals to process groups.
struct Jobs;

impl Foreground for Jobs {
    fn signal(&self, signal: TtySignal, group: u32) {
        let signal = match signal {
            TtySignal::Interrupt => Signal::SIGINT,
            TtySignal::Quit => Signal::SIGQUIT,
            TtySignal::Suspend => Signal::SIGTSTP,
            TtySignal::WindowChange => Signal::SIGWINCH,
            TtySignal::HangUp => Signal::SIGHUP,
        };
        let send = |process: &Process| {
            // A standard signal is never refused.
            let _merged = process.send_signal(signal, SigInfo::new(signal, code::SI_KERNEL));
        };
        match group {
            0 => process::find_process(FIRST_PID).iter().for_each(|process| send(process)),
            _ => {
                let all = process::all_processes();
                all.iter().filter(|process| process.process_group() == group).for_each(|process| send(process));
            }
        }
    }

    fn caller_group(&self) -> u32 {
        with_task(|task| task.process().process_group()).unwrap_or(0)
    }

    fn caller_session(&self) -> u32 {
        with_task(|task| task.process().session()).unwrap_or(0)
    }
}
