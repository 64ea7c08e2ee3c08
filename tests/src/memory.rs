//! What the host sees of the guest's memory: the size of the emulator's process, and the balloon by QMP.
//!
//! The bounds are generous: they tell memory that came back from memory that did not.

use crate::bad_input::{Check, Entry};
use crate::case::{Build, Program, Stdin};
use crate::{paths, run, toolchain};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// Every test of this file.
#[must_use]
pub fn all() -> Vec<Check> {
    let checks: [Entry; 3] = [
        ("memory/freed-is-the-hosts", freed_is_the_hosts),
        ("memory/balloon", || balloon("microvm")),
        ("memory/the-largest-dies", the_largest_dies),
    ];
    checks.into_iter().map(|(name, run)| Check { name, run }).collect()
}

/// A running `give_back.c` and its ends.
struct Session {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// A failed session leaves nothing running.
impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Session {
    fn start(options: &[&str]) -> Result<Self, String> {
        let program = toolchain::program(&Program::Source("give_back.c", Build::Static)).map_err(|error| error.to_string())?;
        let mut command = Command::new(paths::oxv());
        command.arg("run").args(options).arg("--").arg(program).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", run::shown(&command)))?;
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Ok(Self { child, to, from: BufReader::new(from) })
    }

    fn tell(&mut self, command: &str) -> Result<(), String> {
        let mut answer = String::new();
        writeln!(self.to, "{command}").and_then(|()| self.from.read_line(&mut answer)).map_err(|error| format!("{command}: {error}"))?;
        if answer == "done\n" { Ok(()) } else { Err(format!("{command}: the program answered {answer:?}")) }
    }

    fn end(mut self) -> Result<(), String> {
        writeln!(self.to, "end").map_err(|error| format!("end: {error}"))?;
        match run::exit_code(self.child.wait().map_err(|error| error.to_string())?) {
            0 => Ok(()),
            code => Err(format!("exit code {code}")),
        }
    }

    /// Bytes that the emulator has in memory.
    fn emulator_bytes(&self) -> Result<u64, String> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).map_err(|error| error.to_string())?;
        let emulator = children.split_whitespace().next().ok_or("oxv has no emulator")?;
        let status = std::fs::read_to_string(format!("/proc/{emulator}/status")).map_err(|error| error.to_string())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|error| format!("{line}: {error}"))?;
        Ok(kib * 1024)
    }
}

/// Waits until `holds`, or says what `what` was at last.
fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<T, String>, holds: impl Fn(&T) -> bool) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    loop {
        let seen = look()?;
        if holds(&seen) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("{what} is {seen:?} at last"));
        }
        sleep(Duration::from_millis(50));
    }
}

/// A guest that has freed 128 MiB does not keep them, and can use them again.
fn freed_is_the_hosts() -> Result<(), String> {
    let mut session = Session::start(&["--memory", "256M"])?;
    for _ in 0..2 {
        session.tell("use 128")?;
        let used = session.emulator_bytes()?;
        session.tell("free")?;
        eventually("the emulator's size", || session.emulator_bytes(), |now| now + 64 * MIB < used).map_err(|e| format!("{e}, from {used}"))?;
    }
    session.end()
}

/// The host takes 160 of 256 MiB; when the program needs 128 of them, it gets them.
pub(crate) fn balloon(machine: &str) -> Result<(), String> {
    let path = paths::guest_dir("bad").join(format!("qmp-{machine}-{}", std::process::id()));
    drop(std::fs::remove_file(&path));
    let mut session = Session::start(&["--machine", machine, "--memory", "256M", "--qmp", &path.to_string_lossy()])?;
    session.tell("use 16")?;
    let mut host = Qmp::connect(&path)?;
    host.command(r#"{"execute":"qmp_capabilities"}"#)?;
    host.command(&format!(r#"{{"execute":"balloon","arguments":{{"value":{}}}}}"#, 96 * MIB))?;
    eventually("the guest's memory", || host.guest_bytes(), |&bytes| bytes == 96 * MIB)?;
    session.tell("use 128")?;
    let left = host.guest_bytes()?;
    if left < 128 * MIB {
        return Err(format!("the program has 128 MiB, and the host says that the guest has {left} bytes"));
    }
    host.command(&format!(r#"{{"execute":"balloon","arguments":{{"value":{}}}}}"#, 256 * MIB))?;
    eventually("the guest's memory", || host.guest_bytes(), |&bytes| bytes == 256 * MIB)?;
    drop(std::fs::remove_file(&path));
    session.end()
}

/// When memory runs out, another process than the one that needs some dies for it, and the report says who has the memory.
fn the_largest_dies() -> Result<(), String> {
    let program = toolchain::program(&Program::Source("oom.c", Build::Static)).map_err(|error| error.to_string())?;
    for cpus in ["1", "4"] {
        let mut command = Command::new(paths::oxv());
        command.args(["run", "--smp", cpus, "--memory", "256M", "--"]).arg(&program).arg("80").current_dir("/");
        let outcome = run::outcome(&mut command, &Stdin::Empty, LIMIT);
        let (said, reported) = (String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
        if outcome.exit != Some(0) || said != "large: killed\nprotected: lives\nsmall: lives\n" {
            return Err(format!("exit code {:?}, it said:\n{said}{reported}", outcome.exit));
        }
        for words in ["was killed", "anonymous memory of programs", "page tables", "--memory"] {
            if !reported.contains(words) {
                return Err(format!("the report lacks {words:?}:\n{reported}"));
            }
        }
    }
    Ok(())
}

/// The emulator's control socket.
struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn connect(path: &Path) -> Result<Self, String> {
        let socket = UnixStream::connect(path).map_err(|error| format!("{}: {error}", path.display()))?;
        socket.set_read_timeout(Some(LIMIT)).map_err(|error| error.to_string())?;
        Ok(Self(BufReader::new(socket)))
    }

    /// Sends a command and returns the answer.
    fn command(&mut self, command: &str) -> Result<String, String> {
        writeln!(self.0.get_mut(), "{command}").map_err(|error| error.to_string())?;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).map_err(|error| format!("{command}: {error}"))?;
            if line.starts_with(r#"{"return""#) {
                return Ok(line);
            }
            if line.is_empty() || line.starts_with(r#"{"error""#) {
                return Err(format!("{command}: {line}"));
            }
        }
    }

    fn guest_bytes(&mut self) -> Result<u64, String> {
        let answer = self.command(r#"{"execute":"query-balloon"}"#)?;
        let digits: String = answer.chars().filter(char::is_ascii_digit).collect();
        digits.parse().map_err(|error| format!("{answer}: {error}"))
    }
}
