//! Runs the programs of a suite, on the host or in oxv, by `tests/conformance/runner.c`.
//!
//! A machine that stops answering is ended; what ran then has failed, and another machine goes on with the rest.

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::kept::{Keeper, System};
use crate::{paths, run};

/// What programs find in their environment on this machine: the same as in oxv.
const ENVIRONMENT: [(&str, &str); 3] = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("LANG", "C.UTF-8")];

/// A suite that is ready to run.
pub(super) struct Suite {
    /// As in file names.
    pub(super) name: &'static str,
    /// What the page says about it.
    pub(super) title: String,
    /// What the machine needs beside the programs: options of `oxv run`.
    pub(super) options: Vec<String>,
    /// The machine's memory, as for `oxv run`.
    pub(super) memory: &'static str,
    /// What runs the tests instead of the runner, with its arguments; empty for the runner itself.
    pub(super) by: Vec<String>,
    /// Its tests.
    pub(super) tests: Vec<Test>,
}

/// A test: a program, with or without an argument.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// `exit 0`, `signal 11`, `timeout 0`, `machine 0`.
    pub(super) how: String,
    /// The last line it printed.
    pub(super) said: String,
}

impl Outcome {
    /// A program of tests that has none of the wanted name succeeds, too, but passes nothing.
    pub(super) fn passed(&self) -> bool {
        self.how == "exit 0" && !self.said.starts_with("test result: ok. 0 passed")
    }

    /// The processor time that a test says it took, in milliseconds; 0 if it does not say so.
    pub(super) fn took_ms(&self) -> u64 {
        self.said.strip_prefix("passed in ").and_then(|seconds| seconds.parse().ok()).map_or(0, |seconds: f64| (seconds * 1000.0) as u64)
    }
}

/// By name.
pub(super) type Outcomes = BTreeMap<String, Outcome>;

/// How to run them.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) smp: u32,
    pub(super) parallel: u32,
    pub(super) seconds: u64,
    pub(super) dev: bool,
    pub(super) sockets: Sockets,
    /// Whether tests take all processors at real-time priorities, so that the runner must go before them.
    pub(super) urgent: bool,
}

impl Plan {
    /// Where tests have to pass to be counted.
    pub(super) fn linux(&self) -> System {
        match self.sockets {
            Sockets::All => System::Linux,
            Sockets::Local => System::LinuxLocal,
        }
    }
}

/// The sockets that programs may make on this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sockets {
    /// All that there are.
    All,
    /// Those of `AF_UNIX`: the others are refused as where there is no network.
    Local,
}

/// Where suites are kept.
pub(super) fn directory(suite: &str) -> Result<PathBuf> {
    let directory = paths::target().join("conformance").join(suite);
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// The runner, built.
fn program() -> Result<PathBuf> {
    let program = directory("runner")?.join("runner");
    let source = paths::root().join("tests/conformance/runner.c");
    run::check(Command::new("gcc").args(["-O2", "-Wall", "-o"]).arg(&program).arg(source))?;
    Ok(program)
}

fn write_list(suite: &Suite, tests: &[Test]) -> Result<PathBuf> {
    let list = directory(suite.name)?.join("list");
    let line = |test: &Test| {
        let words = std::iter::once(test.program.to_string_lossy().into_owned()).chain(test.args.iter().cloned());
        test.name.clone() + " " + &words.collect::<Vec<_>>().join(" ") + "\n"
    };
    std::fs::write(&list, tests.iter().map(line).collect::<String>())?;
    Ok(list)
}

fn arguments(suite: &Suite, list: &Path, plan: &Plan) -> Vec<String> {
    let mut words = vec![list.to_string_lossy().into_owned(), plan.seconds.to_string(), plan.parallel.to_string()];
    words.extend((plan.sockets == Sockets::Local).then(|| "local".to_owned()));
    words.extend(plan.urgent.then(|| "urgent".to_owned()));
    if !suite.by.is_empty() {
        words.push("by".to_owned());
        words.extend_from_slice(&suite.by);
    }
    words
}

/// Runs `tests` on this machine.
///
/// # Errors
/// When the runner cannot be built or does not end.
pub(super) fn host(suite: &Suite, tests: &[Test], plan: &Plan) -> Result<Outcomes> {
    if tests.is_empty() {
        return Ok(Outcomes::new());
    }
    let list = write_list(suite, tests)?;
    let mut command = Command::new(program()?);
    command.args(arguments(suite, &list, plan)).env_clear().envs(ENVIRONMENT).stdin(Stdio::null());
    let (outcomes, end) = follow(command, plan, Keeper::open(suite.name, plan.linux())?)?;
    if end != End::Done {
        bail!("the tests did not end on this machine; {} had", outcomes.len());
    }
    Ok(outcomes)
}

/// Runs `tests` in oxv, in as many machines as it takes.
///
/// # Errors
/// When a machine cannot be started.
pub(super) fn guest(suite: &Suite, tests: &[Test], plan: &Plan) -> Result<Outcomes> {
    let mut all = Outcomes::new();
    loop {
        let left: Vec<_> = tests.iter().filter(|test| !all.contains_key(&test.name)).cloned().collect();
        if left.is_empty() {
            return Ok(all);
        }
        let (outcomes, _end) = follow(machine(suite, &left, plan)?, plan, Keeper::open(suite.name, System::Oxv)?)?;
        eprintln!("conformance: {} of {} in oxv", all.len() + outcomes.len(), tests.len());
        if outcomes.is_empty() {
            bail!("a machine ended before it ran any test");
        }
        all.extend(outcomes);
    }
}

/// `oxv run` of the runner with `tests`.
fn machine(suite: &Suite, tests: &[Test], plan: &Plan) -> Result<Command> {
    let (list, runner) = (write_list(suite, tests)?, program()?);
    let mut command = Command::new(paths::oxv());
    if plan.dev {
        command.env("OXV_KERNEL", crate::build::kernel(&crate::build::Options { dev: true })?);
    }
    command.args(["run", "--smp", &plan.smp.to_string(), "--memory", suite.memory]);
    let programs: BTreeSet<_> = suite.tests.iter().map(|test| &test.program).collect();
    for program in programs {
        command.arg("--add").arg(program);
    }
    // The list comes through standard input, so that the image is the same one for every part of a suite.
    let words = arguments(suite, Path::new("/dev/stdin"), &Plan { sockets: Sockets::All, ..*plan });
    command.args(&suite.options).arg("--").arg(runner).args(words).stdin(std::fs::File::open(list)?);
    Ok(command)
}

/// How a run ended.
#[derive(PartialEq, Eq, Debug)]
enum End {
    /// All tests were run.
    Done,
    /// It ended without a word, or was ended.
    Broken,
}

/// Starts `command` and collects what it prints.
fn follow(mut command: Command, plan: &Plan, mut keeper: Keeper) -> Result<(Outcomes, End)> {
    let log = std::fs::File::create(directory("runner")?.join("log"))?;
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().context("cannot start the runner")?;
    let lines = lines(&mut child);
    let patience = Duration::from_secs(plan.seconds + 60);
    let (mut outcomes, mut begun) = (Outcomes::new(), HashSet::new());
    let end = loop {
        match lines.recv_timeout(patience) {
            Ok(line) if line == "runner done" => break End::Done,
            Ok(line) => match outcome(&line) {
                Some((name, outcome)) => {
                    begun.remove(&name);
                    keeper.keep(&name, &outcome)?;
                    outcomes.insert(name, outcome);
                }
                None => begun.extend(line.strip_suffix(" begin 0").map(str::to_owned)),
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break End::Broken,
        }
    };
    if end == End::Broken {
        let broken = Outcome { how: "machine 0".to_owned(), said: String::new() };
        for name in begun {
            keeper.keep(&name, &broken)?;
            outcomes.insert(name, broken.clone());
        }
    }
    // It may have ended by itself.
    let _ended = child.kill();
    child.wait()?;
    // There is none if it ran in oxv.
    let _removed = std::fs::remove_dir_all(format!("/tmp/runner.{}", child.id()));
    Ok((outcomes, end))
}

fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(out) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(out);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    receiver
}

/// What `NAME HOW NUMBER WHAT IT SAID` tells.
pub(super) fn outcome(line: &str) -> Option<(String, Outcome)> {
    let mut words = line.splitn(4, ' ');
    let (name, how, number) = (words.next()?, words.next()?, words.next()?);
    let said = words.next().unwrap_or_default().trim().to_owned();
    ["exit", "signal", "timeout", "machine"].contains(&how).then(|| (name.to_owned(), Outcome { how: format!("{how} {number}"), said }))
}
