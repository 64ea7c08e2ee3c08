//! Starting a program on the host or under `oxv run`, with a time limit.
#![expect(unsafe_code, reason = "the disposition of a signal is the whole process's")]

use crate::case::{Case, Stderr, Stdin};
use crate::starved::starved;
use crate::{paths, toolchain};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a program did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Everything written to standard output.
    pub stdout: Vec<u8>,
    /// Everything written to standard error.
    pub stderr: Vec<u8>,
    /// Exit code, 128+n for signal n; `None`: the time limit passed.
    pub exit: Option<i32>,
    /// How long it took.
    pub elapsed: Duration,
}

/// The environment both sides get; nothing else is inherited.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("TZ", "UTC"),
    ("GREETING", "good day"),
];

/// Gives this process, and so the programs it starts, the default actions of the signals that whoever started it may have had
/// ignored: a shell does so for what runs in the background, and Python then installs no handler.
pub fn default_signals() {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        // SAFETY: a default action is no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Runs the case's program on the host.
///
/// # Errors
/// When the program is not available or cannot be started.
pub fn host(case: &Case) -> Result<Outcome, toolchain::Unavailable> {
    let program = toolchain::program(&case.program)?;
    let mut command = Command::new(program);
    command.args(&case.args).current_dir("/").env_clear().envs(ENVIRONMENT);
    command.envs(case.env.iter().map(|(key, value)| (key, value)));
    Ok(outcome(&mut command, &case.stdin, case.time_limit.max(Duration::from_secs(60))))
}

/// Runs the case's program under `oxv run` with `cpus` virtual CPUs.
///
/// # Errors
/// When the program is not available.
pub fn guest(case: &Case, cpus: u32) -> Result<Outcome, toolchain::Unavailable> {
    Ok(outcome(&mut guest_command(case, cpus)?, &case.stdin, case.time_limit))
}

/// The command that [`guest`] runs.
///
/// # Errors
/// When the program is not available.
pub fn guest_command(case: &Case, cpus: u32) -> Result<Command, toolchain::Unavailable> {
    let program = toolchain::program(&case.program)?;
    let mut command = Command::new(paths::oxv());
    command.args(["run", "--cwd", "/", "--smp"]).arg(cpus.to_string());
    for (key, value) in ENVIRONMENT.iter().map(|&(k, v)| (k, v)).chain(case.env.iter().map(|(k, v)| (k.as_str(), v.as_str()))) {
        command.arg("--env").arg(format!("{key}={value}"));
    }
    for what in &case.add {
        command.arg("--add").arg(what);
    }
    for name in &case.packages {
        command.args(["--package", name]);
    }
    if let Some(machine) = case.machine {
        command.args(["--machine", machine]);
    }
    if let Some(memory) = case.memory {
        command.args(["--memory", memory]);
    }
    // With --verbose the kernel log goes to standard error: it is there when the test fails.
    if case.stderr == Stderr::Ignore {
        command.arg("--verbose");
    }
    command.arg("--").arg(program).args(&case.args);
    Ok(command)
}

/// Adds options to an `oxv run` before its program.
pub fn insert_options(command: &mut Command, options: &[String]) {
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let environment: Vec<_> = command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
    let mut changed = Command::new(command.get_program());
    changed.args(&arguments[..1]).args(options).args(&arguments[1..]).envs(environment);
    *command = changed;
}

/// Runs a command to its end or to the time limit.
///
/// # Panics
/// When it cannot be started.
pub fn outcome(command: &mut Command, stdin: &Stdin, limit: Duration) -> Outcome {
    outcome_or(command, stdin, limit, |_| None)
}

/// As [`outcome`]; `late` is called when the time limit has passed, before the command is ended.
///
/// # Panics
/// When it cannot be started.
pub fn outcome_or(command: &mut Command, stdin: &Stdin, limit: Duration, late: impl FnOnce(Pid) -> Option<Duration>) -> Outcome {
    let start = Instant::now();
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().to_string_lossy()));
    feed(&mut child, stdin);
    let stdout = collect(child.stdout.take().expect("was piped"));
    let stderr = collect(child.stderr.take().expect("was piped"));
    let status = wait(&mut child, start, limit, late);
    Outcome {
        exit: status.map(exit_code),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        elapsed: start.elapsed(),
    }
}

/// Writes the input from a thread of its own; a program need not read it all.
fn feed(child: &mut Child, stdin: &Stdin) {
    let mut pipe = child.stdin.take().expect("was piped");
    let stdin = stdin.clone();
    std::thread::spawn(move || match stdin {
        Stdin::Empty => {}
        Stdin::Text(text) => drop(pipe.write_all(text.as_bytes())),
        Stdin::File(file) => {
            if let Ok(mut file) = File::open(file()) {
                drop(std::io::copy(&mut file, &mut pipe));
            }
        }
    });
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        bytes
    })
}

/// Most that a busy host lengthens a time limit.
const MOST_PATIENCE: u32 = 10;

/// Waits as long as `limit` says, not counting the time that a busy host kept the program from running, and as much longer as `late` says
/// then; after that it ends the whole process group: `oxv` gets time to end its emulator.
fn wait(child: &mut Child, start: Instant, limit: Duration, late: impl FnOnce(Pid) -> Option<Duration>) -> Option<ExitStatus> {
    let group = Pid::from_child(child);
    let mut granted = Duration::ZERO;
    loop {
        if let Some(status) = poll(child, start + limit + granted) {
            return Some(status);
        }
        let starved = starved(group).min(limit * MOST_PATIENCE);
        if starved <= granted {
            break;
        }
        granted = starved;
    }
    let more = late(group);
    if let Some(status) = more.and_then(|more| poll(child, Instant::now() + more)) {
        return Some(status);
    }
    let _gone = kill_process_group(group, Signal::TERM);
    if poll(child, Instant::now() + Duration::from_secs(5)).is_none() {
        let _gone = kill_process_group(group, Signal::KILL);
        drop(child.wait());
    }
    let _gone = kill_process_group(group, Signal::KILL);
    None
}

fn poll(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A shell's exit code.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Keeps what a failed run left, and says where.
///
/// # Panics
/// When the log cannot be written.
#[must_use]
pub fn keep_log(name: &str, bytes: &[u8]) -> PathBuf {
    let path = paths::guest_dir("logs").join(format!("{}.log", name.replace('/', "-")));
    std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    path
}

/// A command as one would type it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let quote = |text: &str| match text.chars().all(|c| c.is_ascii_alphanumeric() || "-_=/.:,@%+".contains(c)) {
        true if !text.is_empty() => text.to_owned(),
        _ => format!("'{}'", text.replace('\'', "'\\''")),
    };
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}
