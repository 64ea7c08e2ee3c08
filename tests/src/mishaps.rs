//! What the kernel reports when things go wrong in it or around it: NMI, machine check, double fault, stack overflow, stuck CPUs; and that a
//! stopped virtual CPU which holds a mutex stops only those who want it.

use crate::bad_input::{Check, Entry};
use crate::case::{Build, Program, Stdin};
use crate::machine::{self, Door};
use crate::{compare, paths, run, toolchain};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Every check of this file.
#[must_use]
pub fn all() -> Vec<Check> {
    let checks: [Entry; 12] = [
        ("report/double-fault", || request("double-fault", &["double fault", "kernel panic on CPU", "rip", "#0"])),
        ("report/stack-overflow", || request("overflow", &["kernel stack overflow of thread", "deeper", "rip"])),
        ("report/panic-twice", || request("panic-twice", &["kernel panic on CPU"])),
        ("report/nmi", nmi),
        ("report/nmi-panic", nmi_panics),
        ("report/machine-check", machine_check),
        ("watchdog/interrupts-off", || watchdog("interrupts-off 5000", 0, "watchdog: interrupts off for")),
        ("watchdog/no-switch", || watchdog("preemption-off 5000", 0, "watchdog: no switch for")),
        ("watchdog/cli", || watchdog("cli", 139, "SIGSEGV")),
        ("watchdog/cli-hlt", || watchdog("cli-hlt", 139, "SIGSEGV")),
        ("watchdog/popf", || watchdog("popf", 0, "the program had turned interrupts off")),
        ("lock-holder/stopped", || lock_holder(2).and_then(|()| lock_holder(3))),
    ];
    checks.into_iter().map(|(name, run)| Check { name, run }).collect()
}

pub(crate) fn oxv(cpus: u32, options: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(paths::oxv());
    command.args(["run", "--cwd", "/", "--smp", &cpus.to_string()]).args(options).arg("--").args(program);
    command
}

fn compiled(source: &'static str) -> Result<String, String> {
    let program = toolchain::program(&Program::Source(source, Build::Dynamic)).map_err(|error| error.to_string())?;
    Ok(program.to_string_lossy().into_owned())
}

/// Runs a command; it must exit so, and say all these words on standard error.
pub(crate) fn expect(command: &mut Command, exit: i32, words: &[&str]) -> Result<String, String> {
    let outcome = run::outcome(command, &Stdin::Empty, Duration::from_secs(120));
    let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
    let missing: Vec<_> = words.iter().filter(|&&word| !text.contains(word)).collect();
    if outcome.exit == Some(exit) && missing.is_empty() {
        return Ok(text);
    }
    let shown = run::shown(command);
    Err(format!("{shown}\nexit code {:?}, expected {exit}; not said: {missing:?}\n{}", outcome.exit, compare::tail(text.as_bytes(), 60)))
}

/// The kernel dies of what the program asks of the test device, and says how.
fn request(what: &str, words: &[&str]) -> Result<(), String> {
    let line = format!("echo {what} > /dev/oxv-torture");
    for cpus in [1, 4] {
        expect(&mut oxv(cpus, &["--append", "torture=device"], &["/bin/busybox", "sh", "-c", &line]), 125, words)?;
    }
    Ok(())
}

/// Runs `command` and talks to its machine as soon as the program has started, which takes less than `wait`.
fn with_monitor(command: &mut Command, exit: i32, words: &[&str], wait: Duration, talk: fn(&mut machine::Monitor)) -> Result<String, String> {
    let door = Door::open(command, "");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Ok(mut monitor) = door.enter(Duration::from_secs(20)) {
                std::thread::sleep(wait);
                talk(&mut monitor);
            }
        });
        expect(command, exit, words)
    })
}

/// Longer than a boot takes on a busy machine.
const BOOTED: Duration = Duration::from_secs(4);

fn ask_twice(monitor: &mut machine::Monitor) {
    for _ in 0..2 {
        // The machine may be gone by the second time.
        let _gone = monitor.execute("inject-nmi");
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn nmi() -> Result<(), String> {
    for cpus in [1, 3] {
        let mut command = oxv(cpus, &["--verbose"], &["/bin/sleep", "8"]);
        let last = format!("NMI on CPU {}: thread", cpus - 1);
        let words = ["NMI on CPU 0: thread", &last, "interrupts on", "rip", "idle"];
        let text = with_monitor(&mut command, 0, &words, BOOTED, ask_twice)?;
        // Asked twice; an NMI that comes late on a busy machine is one more question.
        let reports = text.matches("NMI on CPU").count();
        if reports < 2 * cpus as usize || reports > 6 * cpus as usize {
            return Err(format!("{reports} reports of {cpus} CPUs asked twice:\n{text}"));
        }
    }
    Ok(())
}

fn nmi_panics() -> Result<(), String> {
    let mut command = oxv(2, &["--append", "panic_on_nmi"], &["/bin/sleep", "60"]);
    with_monitor(&mut command, 125, &["kernel panic on CPU", "NMI", "rip"], BOOTED, ask_twice).map(drop)
}

fn machine_check() -> Result<(), String> {
    // VAL, UC, EN, ADDRV and PCC in bank 1; MCIP. Then S instead of PCC, with RIPV: that can be gone on from.
    let mut fatal = oxv(2, &[], &["/bin/sleep", "60"]);
    with_monitor(&mut fatal, 125, &["machine check", "bank 1", "0xb600000000000000", "0x1234", "rip"], BOOTED, |monitor| {
        let _gone = monitor.human("mce 0 1 0xb600000000000000 0x4 0x1234 0");
    })?;
    let mut survived = oxv(2, &["--verbose"], &["/bin/sleep", "7"]);
    let words = ["machine check, survived", "0xb500000000000000", "on CPU 1"];
    with_monitor(&mut survived, 0, &words, BOOTED, |monitor| {
        let _gone = monitor.human("mce 1 1 0xb500000000000000 0x5 0x1234 0");
    })
    .map(drop)
}

fn watchdog(how: &str, exit: i32, word: &str) -> Result<(), String> {
    watchdog_on("microvm", how, exit, word)
}

/// The watchdog on a kind of machine: the program gets stuck so, exits so, and the report has that word.
pub(crate) fn watchdog_on(machine: &str, how: &str, exit: i32, word: &str) -> Result<(), String> {
    let program = compiled("hog.c")?;
    for cpus in [1, 2] {
        let mut command = oxv(cpus, &["--machine", machine, "--watchdog=2", "--append", "torture=device"], &[&program, how]);
        expect(&mut command, exit, &[word])?;
    }
    Ok(())
}

/// A program that talks by lines.
pub(crate) struct Dialogue {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Dialogue {
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let lines = BufReader::new(child.stdout.take().expect("was piped")).lines();
        Ok(Self { child, lines })
    }

    pub(crate) fn hear(&mut self, beginning: &str) -> Result<String, String> {
        match self.lines.next() {
            Some(Ok(line)) if line.starts_with(beginning) => Ok(line),
            other => Err(format!("{beginning:?} was expected, not {other:?}")),
        }
    }

    /// Ends the program's input.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("was piped");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).map_err(|error| error.to_string())
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // Over already if all went well.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// The CPU whose thread holds the mutex.
const HOLDER: usize = 1;
/// What a CPU may use, of the time, while all its threads wait: one that spins uses all the host gives it.
const MOST_WHILE_WAITING: f64 = 0.2;
/// Fewest rounds that each worker must make in two seconds, on a busy machine.
const LEAST_PROGRESS: u64 = 20;

/// What was measured with a CPU stopped: how much of the time the others used while all waited, and rounds of each worker.
#[derive(Debug)]
pub struct Stillness {
    /// Share of one host CPU, of the busiest other virtual CPU.
    pub used: f64,
    /// Pipe round trips, mutex rounds, file writes, page faults in two seconds.
    pub progress: Vec<u64>,
}

/// Stops the CPU whose thread holds a mutex.
///
/// # Errors
/// When something else goes wrong than what is measured.
pub fn stop_lock_holder(cpus: u32) -> Result<Stillness, String> {
    let program = compiled("holder.c")?;
    let machine = oxv(cpus, &["--append", "torture=device"], &[&program]);
    // A thread that does not get on may be the one that talks.
    let mut command = Command::new("timeout");
    command.arg("100").arg(machine.get_program()).args(machine.get_args());
    let door = Door::open(&mut command, "");
    let mut dialogue = Dialogue::start(&mut command)?;
    let threads = door.enter(Duration::from_secs(20))?.cpu_threads()?;
    dialogue.hear("waiting")?;
    let stopped = machine::stop(threads[HOLDER]).ok_or("the virtual CPU cannot be stopped")?;
    let used = busiest(&threads, Duration::from_millis(1500));
    dialogue.say("go")?;
    dialogue.hear("working")?;
    std::thread::sleep(Duration::from_secs(2));
    dialogue.say("stop")?;
    let line = dialogue.hear("progress")?;
    drop(stopped);
    dialogue.say("end")?;
    dialogue.hear("done")?;
    Ok(Stillness { used, progress: line.split(' ').filter_map(|word| word.parse().ok()).collect() })
}

/// Share of the time that the busiest virtual CPU but the holder's ran.
fn busiest(threads: &[i32], time: Duration) -> f64 {
    let times = || threads.iter().map(|&thread| machine::cpu_time(thread).unwrap_or_default());
    let (start, before) = (Instant::now(), times().collect::<Vec<_>>());
    std::thread::sleep(time);
    let elapsed = start.elapsed();
    let used = times().zip(before).map(|(after, before)| (after - before).as_secs_f64() / elapsed.as_secs_f64());
    used.enumerate().filter(|&(cpu, _)| cpu != HOLDER).map(|(_, used)| used).fold(0.0, f64::max)
}

fn lock_holder(cpus: u32) -> Result<(), String> {
    let found = stop_lock_holder(cpus)?;
    if found.used > MOST_WHILE_WAITING {
        return Err(format!("with {cpus} CPUs, waiting used {:.0} % of one", found.used * 100.0));
    }
    match found.progress.iter().all(|&rounds| rounds >= LEAST_PROGRESS) && found.progress.len() == 4 {
        true => Ok(()),
        false => Err(format!("with {cpus} CPUs, a worker did not get on: {:?}", found.progress)),
    }
}
