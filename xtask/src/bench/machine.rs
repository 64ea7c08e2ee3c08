//! Starting a guest and reading what it prints.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How the emulator counts time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Clock {
    /// Wall time.
    Real,
    /// One nanosecond per instruction.
    Instructions,
}

/// What the emulator emulates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Virtual CPUs.
    pub(super) cpus: u32,
    /// Memory.
    pub(super) memory_mib: u64,
    /// Time.
    pub(super) clock: Clock,
}

impl Machine {
    /// A machine with one CPU.
    pub(super) fn one_cpu(memory_mib: u64, clock: Clock) -> Self {
        Self { cpus: 1, memory_mib, clock }
    }
}

/// A running guest and its lines.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

fn start(command: &mut Command) -> Result<Running> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot start the guest")?;
    let stdout = child.stdout.take().context("standard output was piped")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    Ok(Running { child, lines })
}

/// The number of a line `… RESULT NAME VALUE`.
pub(super) fn result_of(line: &str, name: &str) -> Option<f64> {
    let (_, rest) = line.split_once("RESULT ")?;
    let (found, value) = rest.split_once(' ')?;
    if found == name { value.trim().parse().ok() } else { None }
}

/// A run's result line and how long it took to appear.
pub(super) struct Line {
    /// The number after `RESULT name`.
    pub(super) value: f64,
    /// From the start of the emulator.
    pub(super) after: Duration,
}

/// Runs a command until it prints `RESULT NAME VALUE`, then ends it.
///
/// # Errors
/// When the line does not come in time.
pub(super) fn result_line(command: &mut Command, name: &str, limit: Duration) -> Result<Line> {
    let begin = Instant::now();
    let mut running = start(command)?;
    let found = loop {
        match running.lines.recv_timeout(limit.saturating_sub(begin.elapsed())) {
            Ok(line) => {
                if let Some(value) = result_of(&line, name) {
                    break Ok(Line { value, after: begin.elapsed() });
                }
            }
            Err(RecvTimeoutError::Timeout) => break Err(anyhow::anyhow!("no result after {} s", limit.as_secs())),
            Err(RecvTimeoutError::Disconnected) => break Err(anyhow::anyhow!("it ended without a result")),
        }
    };
    finish(&mut running.child);
    found
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it printed nothing; one that does not end in time is ended, with a warning.
pub(super) fn all_lines(command: &mut Command, limit: Duration) -> Result<Vec<String>> {
    let begin = Instant::now();
    let mut running = start(command)?;
    let mut lines = Vec::new();
    loop {
        match running.lines.recv_timeout(limit.saturating_sub(begin.elapsed())) {
            Ok(line) => lines.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("bench: ended after {} s", limit.as_secs());
                break;
            }
        }
    }
    finish(&mut running.child);
    if lines.is_empty() {
        bail!("it printed nothing");
    }
    Ok(lines)
}

/// Lets the guest end by itself for a moment, then ends it.
fn finish(child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(Command::new("kill").arg(child.id().to_string()).status());
    std::thread::sleep(Duration::from_millis(300));
    drop(child.kill());
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use super::result_of;

    #[test]
    fn a_result_is_found_behind_other_text_and_by_its_whole_name() {
        assert_eq!(result_of("[ 0.5] RESULT a_b 12.5\r", "a_b"), Some(12.5));
        assert_eq!(result_of("RESULT a_b_c 12.5", "a_b"), None);
        assert_eq!(result_of("RESULT a_b", "a_b"), None);
    }
}
