//! One run of a machine, from its start to its end.
//!
//! Threads copy the streams (`pump.rs`), read control messages, the kernel log and the emulator's complaints, and take
//! signals; each sends [`Event`]s to the one loop here, which alone decides. The emulator's end shows as the end of the
//! control stream, so there is no thread that waits for it. The loop ends when the control stream and both outputs have
//! ended: then everything the program wrote has been passed on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::console::{self, RawMode, Terminals, say};
use crate::control::{self, Exit, FromGuest, ToGuest};
use crate::error::{Error, Result};
use crate::pump;
use crate::qemu::{Machine, take_stderr};
use crate::report::Symbols;

/// Lines of the kernel log shown when the guest dies.
const LOG_TAIL: usize = 60;
/// How long the machine may take to power off after the program's end.
const POWER_OFF_TIME: Duration = Duration::from_secs(5);
/// How long a program has after SIGTERM or SIGHUP, or after its reader is gone.
const GRACE_TIME: Duration = Duration::from_secs(10);
/// The emulator's status after the kernel wrote 0x7e to the exit port: it panicked.
const PANIC_STATUS: i32 = 0x7e * 2 + 1;
/// The emulator's status after the kernel wrote 0x7d to the exit port: it had no memory left for the program.
const NO_MEMORY_STATUS: i32 = 0x7d * 2 + 1;
/// A shell's status of a program that was killed.
const KILLED: u8 = 128 + 9;

/// What the threads tell the loop.
#[derive(Debug)]
pub(crate) enum Event {
    Guest(FromGuest),
    /// The emulator is gone.
    ControlEnded,
    OutputEnded,
    /// Our standard output or error takes no more.
    OutputBroken,
    Signal(i32),
    /// Ctrl-A x.
    Leave,
}

/// How the session is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) terminals: Terminals,
    pub(crate) verbose: bool,
    /// The kernel log is shown as it comes.
    pub(crate) show_log: bool,
    pub(crate) boot_times: bool,
    pub(crate) started: Instant,
}

/// Runs `machine` to its end and returns oxv's exit status.
///
/// # Errors
/// Those of starting it; `QemuFailed` and `GuestDied` if it ended before the program did.
pub(crate) fn run(machine: &Machine, options: Options, symbols: &Symbols) -> Result<u8> {
    let running = machine.start()?;
    let mut child = running.child;
    let (sender, events) = channel();
    let raw = options.terminals.stdin.then(RawMode::enter).transpose().map_err(Error::system("set the terminal to raw mode"))?;
    watch_signals(sender.clone())?;
    let log = Tail::start(running.com1, options.show_log.then(|| symbols.kernel_only()));
    let complaints = take_stderr(&mut child).map(|fd| Tail::start(File::from(fd), options.verbose.then(|| symbols.kernel_only())));
    let to_guest = running.control.try_clone().map_err(Error::system("copy a socket"))?;
    read_control(running.control, sender.clone());
    pump::output(running.stdout, std::io::stdout(), sender.clone());
    pump::output(running.stderr, std::io::stderr(), sender.clone());
    pump::input(running.stdin, raw.is_some(), sender);
    let mut session = Session { child, to_guest, raw, options, symbols, exit: None, ready: false, deadline: None, broken: false };
    let ending = session.wait(&events);
    let status = session.child.wait().map_err(Error::system("wait for the emulator"))?;
    drop(session.raw.take());
    let complaints = complaints.map(Tail::finish).unwrap_or_default();
    let log = log.finish();
    match (session.exit, ending) {
        (_, Ending::Killed(code)) => Ok(code),
        (Some(exit), Ending::Over) => Ok(finish(exit, &log, options, symbols)),
        (None, Ending::Over) if status.code() == Some(NO_MEMORY_STATUS) => {
            console::print(&symbols.explain_kernel(&log));
            say("the program was killed because the machine's memory was used up; give it more with --memory");
            Ok(KILLED)
        }
        (None, Ending::Over) => Err(death(machine, status, &complaints, &symbols.explain_kernel(&log))),
    }
}

/// How the loop ended.
enum Ending {
    /// The emulator ended.
    Over,
    /// We ended it; our exit status.
    Killed(u8),
}

struct Session<'a> {
    child: Child,
    to_guest: UnixStream,
    raw: Option<RawMode>,
    options: Options,
    symbols: &'a Symbols,
    exit: Option<Exit>,
    /// The guest has been heard, so it hears us too.
    ready: bool,
    /// When the emulator will be killed, and the exit status then.
    deadline: Option<(Instant, u8)>,
    /// Our output was closed.
    broken: bool,
}

impl Session<'_> {
    fn wait(&mut self, events: &Receiver<Event>) -> Ending {
        // Control and two outputs.
        let mut open = 3;
        while open > 0 {
            let event = match self.next(events) {
                Some(event) => event,
                None => return self.time_is_up(),
            };
            match event {
                Event::ControlEnded | Event::OutputEnded => open -= 1,
                Event::OutputBroken => {
                    open -= 1;
                    self.output_broken();
                }
                Event::Guest(message) => self.handle(message),
                Event::Leave => {
                    return self.kill(130);
                }
                Event::Signal(number) => {
                    if let Some(ending) = self.signal(number) {
                        return ending;
                    }
                }
            }
        }
        Ending::Over
    }

    /// The program, or the machine, did not end in the time it was given.
    fn time_is_up(&mut self) -> Ending {
        if self.exit.is_none() {
            say(&format!("the program did not end within {} s of being told to; the machine was stopped", GRACE_TIME.as_secs()));
        }
        self.kill(self.deadline.map_or(125, |(_, code)| code))
    }

    /// The next event, or `None` when the deadline has passed.
    fn next(&self, events: &Receiver<Event>) -> Option<Event> {
        let Some((deadline, _)) = self.deadline else { return events.recv().ok() };
        events.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    fn handle(&mut self, message: FromGuest) {
        if !std::mem::replace(&mut self.ready, true) {
            // It may have changed since the kernel's command line was made.
            self.tell(console::window_size());
        }
        match message {
            FromGuest::Exit(exit) => {
                self.exit = Some(exit);
                let code = if self.broken { 128 + SIGPIPE as u8 } else { exit.code() };
                self.deadline = Some((Instant::now() + POWER_OFF_TIME, code));
            }
            FromGuest::Report(text) => console::print(&self.symbols.explain_program(&text)),
            FromGuest::Error(text) => say(&text),
            FromGuest::Log(line) if self.options.verbose => console::print(&line),
            FromGuest::Ready(times) if self.options.boot_times => {
                say(&format!("program starts {} ms after oxv; guest: {times}", self.options.started.elapsed().as_millis()));
            }
            FromGuest::Unknown(kind) if self.options.verbose => say(&format!("the kernel sent a message of unknown type {kind}")),
            FromGuest::Log(_) | FromGuest::Ready(_) | FromGuest::Unknown(_) => {}
        }
    }

    /// What a program meets whose reader is gone: SIGPIPE.
    fn output_broken(&mut self) {
        self.broken = true;
        self.tell(Some(ToGuest::Signal(SIGPIPE as u32)));
        self.deadline.get_or_insert((Instant::now() + GRACE_TIME, 128 + SIGPIPE as u8));
    }

    /// Passes a signal on to the program; ends the machine where that is of no use.
    fn signal(&mut self, number: i32) -> Option<Ending> {
        match number {
            SIGWINCH => self.tell(console::window_size()),
            SIGCONT => {
                self.raw.iter().for_each(RawMode::again);
                self.tell(console::window_size());
            }
            _ if !self.ready || self.deadline.is_some() => return Some(self.kill(128 + number as u8)),
            _ => {
                self.tell(Some(ToGuest::Signal(number as u32)));
                if number != SIGINT {
                    self.deadline = Some((Instant::now() + GRACE_TIME, 128 + number as u8));
                }
            }
        }
        None
    }

    fn tell(&mut self, message: Option<ToGuest>) {
        if let Some(message) = message {
            // The guest may be gone already; the loop learns it by itself.
            let _ = control::write(&mut self.to_guest, message);
        }
    }

    fn kill(&mut self, code: u8) -> Ending {
        // It leads a process group of its own; this fails only if it is gone already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        Ending::Killed(code)
    }
}

/// After the program's end: shows the kernel's log if the kernel was the cause.
fn finish(exit: Exit, log: &str, options: Options, symbols: &Symbols) -> u8 {
    if matches!(exit, Exit::Kernel(_)) && !options.show_log && !log.trim().is_empty() {
        console::print(&symbols.explain_kernel(log));
    }
    exit.code()
}

/// Why a machine ended before its program did.
fn death(machine: &Machine, status: ExitStatus, complaints: &str, log: &str) -> Error {
    let name = machine.qemu.to_string_lossy().into_owned();
    if log.trim().is_empty() && (!complaints.trim().is_empty() || status.signal().is_some() || status.code() != Some(0)) {
        return Error::QemuFailed { name, status: status.to_string(), stderr: complaints.into() };
    }
    let cause = match (status.code(), status.signal()) {
        (Some(PANIC_STATUS), _) => "it panicked".to_owned(),
        (Some(1), _) => "it powered off without reporting the program's exit code".into(),
        (Some(0), _) => "the virtual CPU was reset, as after a triple fault".into(),
        (_, Some(signal)) => format!("the emulator was ended by signal {signal}"),
        _ => format!("the emulator ended with {status}"),
    };
    Error::GuestDied { cause, console: format!("{log}{complaints}") }
}

fn watch_signals(events: Sender<Event>) -> Result<()> {
    let wanted = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH, SIGCONT];
    let mut signals = Signals::new(wanted).map_err(Error::system("watch for signals"))?;
    thread::spawn(move || signals.forever().map(Event::Signal).try_for_each(|event| events.send(event)));
    Ok(())
}

fn read_control(mut stream: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        // A malformed message ends the conversation; what follows cannot be understood.
        while let Ok(Some(message)) = control::read(&mut stream) {
            if events.send(Event::Guest(message)).is_err() {
                return;
            }
        }
        // Keeps the stream drained, so that the guest never blocks on it.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        let _ = events.send(Event::ControlEnded);
    });
}

/// The last lines of a text stream, read by a thread of its own.
struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Tail {
    fn start(stream: impl Read + Send + 'static, shown_with: Option<Symbols>) -> Tail {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let shared = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if let Some(symbols) = &shown_with {
                    console::print(symbols.explain_kernel(&text).trim_end());
                }
                let mut lines = shared.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push_back(text);
                if lines.len() > LOG_TAIL {
                    lines.pop_front();
                }
            }
        });
        Tail { lines, reader }
    }

    /// Waits for the end of the stream, which is there once the emulator is gone.
    fn finish(self) -> String {
        // A reader that panicked has printed its message.
        let _ = self.reader.join();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
