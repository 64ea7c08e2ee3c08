//! Terminal tests: `oxv run` on a pseudo-terminal, driven like a user would.
//!
//! Each session is a list of steps, wait for a text, then type; [`Session`] keeps everything the terminal showed. The terminal's
//! settings before and after must be equal, however the session ended.

use crate::bad_input::{Check, Entry};
use crate::case::{Build, Program};
use crate::{paths, run, toolchain};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Prompt of shells.
const PROMPT: &str = "ready> ";
const LIMIT: Duration = Duration::from_secs(30);

/// Every terminal test.
#[must_use]
pub fn all() -> Vec<Check> {
    let checks: [Entry; 10] = [
        ("tty/lines", lines),
        ("tty/editing", editing),
        ("tty/ctrl-c-ends", ctrl_c_ends),
        ("tty/ctrl-c-handled", ctrl_c_handled),
        ("tty/window-size", window_size),
        ("tty/raw-keys", raw_keys),
        ("tty/ctrl-a-x", ctrl_a_x),
        ("tty/killed-restores", killed_restores),
        ("tty/bash-jobs", bash_jobs),
        ("tty/ash-jobs", ash_jobs),
    ];
    checks.into_iter().map(|(name, run)| Check { name, run }).collect()
}

/// A running program with its terminal.
struct Session {
    master: File,
    /// Kept open so that settings can be read when the program has ended.
    slave: File,
    before: Termios,
    child: Child,
    shown: Vec<u8>,
    seen: usize,
}

/// A failed session leaves nothing running.
impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Session {
    /// Starts `oxv run` (or the program itself when `OXV_HOST_ONLY` is set) on a terminal of 33 × 101.
    fn start(how: &str) -> Result<Self, String> {
        Self::run(&[], &tty_program()?, &[how])
    }

    /// The same for `program`; `options` are for `oxv run`.
    fn run(options: &[&str], program: &Path, args: &[&str]) -> Result<Self, String> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).map_err(error("cannot open a terminal"))?;
        grantpt(&master).and_then(|()| unlockpt(&master)).map_err(error("cannot unlock the terminal"))?;
        let name = ptsname(&master, Vec::new()).map_err(error("the terminal has no name"))?;
        let name = name.to_string_lossy().into_owned();
        let slave = OpenOptions::new().read(true).write(true).open(&name).map_err(|e| format!("cannot open {name}: {e}"))?;
        resize(&slave, 33, 101)?;
        let before = tcgetattr(&slave).map_err(error("tcgetattr"))?;
        // setsid makes the terminal the controlling one, so that it can send signals.
        let mut command = Command::new("setsid");
        command.arg("--ctty");
        if std::env::var_os("OXV_HOST_ONLY").is_none() {
            command.arg(paths::oxv()).arg("run").args(options).arg("--");
        }
        command.arg(program).args(args).env("PS1", PROMPT);
        let end = || slave.try_clone().map(OwnedFd::from).map_err(|e| e.to_string());
        command.stdin(end()?).stdout(end()?).stderr(end()?);
        let child = command.spawn().map_err(|e| format!("cannot start setsid: {e}"))?;
        Ok(Self { master: File::from(master), slave, before, child, shown: Vec::new(), seen: 0 })
    }

    /// Waits until the terminal shows `text`, after what was waited for before.
    fn expect(&mut self, text: &str) -> Result<&mut Self, String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let rest = &self.shown[self.seen..];
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.seen += at + text.len();
                return Ok(self);
            }
            if Instant::now() > deadline || !self.read_some() {
                return Err(format!("the terminal never showed {text:?}; it showed:\n{}", self.text()));
            }
        }
    }

    /// Reads what is there within a fifth of a second; false when the terminal is closed.
    fn read_some(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        if poll(&mut fds, Some(&wait)).unwrap_or(0) == 0 {
            return !matches!(self.child.try_wait(), Ok(Some(_)));
        }
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(n) if n > 0 => {
                self.shown.extend_from_slice(&buffer[..n]);
                true
            }
            _ => false,
        }
    }

    fn send(&mut self, keys: &str) -> Result<&mut Self, String> {
        self.master.write_all(keys.as_bytes()).map_err(|error| format!("cannot type: {error}"))?;
        Ok(self)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Waits for the end: this exit code, if one is given, and the terminal as it was.
    fn finish(mut self, exit: Option<i32>) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            self.read_some();
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                _ if Instant::now() > deadline => {
                    return Err(format!("no end; the terminal showed:\n{}", self.text()));
                }
                _ => {}
            }
        };
        let code = run::exit_code(status);
        if exit.is_some_and(|exit| exit != code) {
            return Err(format!("exit code {code}, expected {exit:?}; the terminal showed:\n{}", self.text()));
        }
        self.restored()
    }

    /// The terminal's settings are those of the start.
    fn restored(&self) -> Result<(), String> {
        let after = tcgetattr(&self.slave).map_err(error("tcgetattr"))?;
        let same = after.input_modes == self.before.input_modes
            && after.output_modes == self.before.output_modes
            && after.local_modes == self.before.local_modes
            && after.control_modes == self.before.control_modes;
        match same {
            true => Ok(()),
            false => Err(format!("the terminal is not restored:\nbefore {:?}\nafter  {after:?}", self.before)),
        }
    }
}

fn tty_program() -> Result<PathBuf, String> {
    toolchain::program(&Program::Source("tty.c", Build::Dynamic)).map_err(|error| error.to_string())
}

fn error<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

fn resize(terminal: &File, rows: u16, columns: u16) -> Result<(), String> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).map_err(error("cannot set the window size"))
}

fn lines() -> Result<(), String> {
    let mut session = Session::start("lines")?;
    session.expect("isatty 1 1 1")?.expect("size 33 101")?.expect("ready")?;
    session.send("hello\r")?.expect("hello")?.expect("got [hello]")?;
    session.send("two words\r")?.expect("got [two words]")?;
    session.send("\x04")?.expect("end of file")?;
    session.finish(Some(3))
}

fn editing() -> Result<(), String> {
    let mut session = Session::start("lines")?;
    session.expect("ready")?;
    session.send("abX\x7fc\r")?.expect("got [abc]")?; // backspace
    session.send("all wrong\x15right\r")?.expect("got [right]")?; // Ctrl-U
    session.send("one two\x17three\r")?.expect("got [one three]")?; // Ctrl-W
    session.send("gr\u{fc}\u{df}e\r")?.expect("got [gr\u{fc}\u{df}e]")?;
    session.send("\x04")?.expect("end of file")?;
    session.finish(Some(3))
}

fn ctrl_c_ends() -> Result<(), String> {
    let mut session = Session::start("wait")?;
    session.expect("ready")?.send("\x03")?;
    session.finish(Some(130))
}

fn ctrl_c_handled() -> Result<(), String> {
    let mut session = Session::start("signals")?;
    session.expect("handlers")?;
    session.send("\x03")?.expect("signal 2")?;
    session.send("\x1c")?.expect("signal 3")?;
    session.send("\x03")?.expect("signal 2")?;
    session.finish(Some(3))
}

fn window_size() -> Result<(), String> {
    let mut session = Session::start("signals")?;
    session.expect("size 33 101")?.expect("handlers")?;
    resize(&session.slave, 50, 120)?;
    session.expect("signal 28")?.expect("size 50 120")?;
    session.send("\x03")?.expect("signal 2")?.send("\x03")?.expect("signal 2")?;
    session.finish(Some(3))
}

fn raw_keys() -> Result<(), String> {
    let mut session = Session::start("raw")?;
    session.expect("raw\r\n")?;
    session.send("\x03")?.expect("key 3")?.send("\r")?.expect("key 13")?.send("q")?.expect("key 113")?.expect("cooked")?;
    session.finish(Some(3))
}

fn ctrl_a_x() -> Result<(), String> {
    if std::env::var_os("OXV_HOST_ONLY").is_some() {
        return Ok(());
    }
    let mut session = Session::start("wait")?;
    session.expect("ready")?.send("\x01x")?;
    session.finish(None)
}

/// SIGTERM to oxv ends the session and leaves the terminal as it was.
fn killed_restores() -> Result<(), String> {
    let mut session = Session::start("wait")?;
    session.expect("ready")?;
    // setsid replaced itself by oxv.
    drop(Command::new("kill").args(["-TERM", &session.child.id().to_string()]).status());
    session.finish(None)
}

/// An interactive shell: a job is stopped from the keyboard, listed, brought back, goes on, and ends; another is interrupted.
fn shell_jobs(shell: &str, options: &[&str]) -> Result<(), String> {
    let program = tty_program()?;
    let program = program.to_string_lossy();
    let prompt = format!("PS1={PROMPT}");
    let add = ["--env", &prompt, "--add", &*program];
    let mut session = Session::run(&add, Path::new(shell), options)?;
    let start = format!("{program} continues\r");
    session.expect(PROMPT)?.send(&start)?.expect("reading")?;
    session.send("one\r")?.expect("got [one]")?;
    session.send("\x1a")?.expect("Stopped")?.expect(PROMPT)?;
    session.send("jobs\r")?.expect("Stopped")?.expect("continues")?.expect(PROMPT)?;
    // The signal's handler runs when the shell has brought the job back, terminal and all.
    session.send("fg\r")?.expect("continued")?;
    session.send("two\r")?.expect("got [two]")?;
    session.send("\x04")?.expect("end of file")?.expect(PROMPT)?;
    session.send(&start)?.expect("reading")?.send("\x03")?.expect(PROMPT)?;
    session.send("echo status $?\r")?.expect("status 130")?.expect(PROMPT)?;
    session.send("exit 5\r")?;
    session.finish(Some(5))
}

fn bash_jobs() -> Result<(), String> {
    shell_jobs("/bin/bash", &["--norc", "--noprofile", "-i"])
}

fn ash_jobs() -> Result<(), String> {
    shell_jobs("/bin/busybox", &["ash", "-i"])
}
