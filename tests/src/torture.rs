//! Torture: programs that wait in every way, in a kernel that preempts, delays and migrates at random (`oxv run --torture`), on virtual CPUs
//! that are stopped from outside. Output and exit code must be the host's all the same.
//!
//! `cargo xtask torture` runs it for as long as wanted (`OXV_TORTURE`, seconds), the boot tests for a short while.

use crate::case::{Build, Case, Program};
use crate::machine::{self, Door, Monitor};
use crate::run::{self, Outcome};
use crate::{cases, compare};
use rustix::process::{Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// splitmix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence for each seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1000 + self.below((to - from) * 1000))
    }
}

/// What is tortured, with how often each is drawn.
fn programs() -> Vec<Case> {
    // Not those that expect something to happen, or not to happen, within some time.
    const NAMED: [&str; 11] = [
        "c/threads", "c/pipes", "c/signals_async", "c/signals_sync", "c/signal_taker", "c/exec_signals", "c/memory", "c/threads1000", "go/program", "cxx/cpp", "c/patch",
    ];
    let stress = |name: &str, args: &[&str]| {
        let program = Program::Source("stress.c", Build::Dynamic);
        Case::new(format!("stress/{name}"), program).args(args.iter().copied())
    };
    let mut all = vec![
        stress("all", &["all"]),
        stress("all-again", &["all"]),
        stress("waits", &["rings", "tosses", "polls"]),
        stress("memory", &["mapping", "forks", "threads"]),
        stress("signals", &["signals", "threads", "tosses"]),
        stress("pipes", &["chains", "polls", "forks"]),
        stress("ends", &["ends"]),
        stress("moves", &["moves", "tosses"]),
        stress("ends-busy", &["ends", "rings", "mapping"]),
    ];
    all.extend(cases::all().into_iter().filter(|case| NAMED.contains(&case.name.as_str())));
    all
}

/// How a run is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Torture alone.
    Plain,
    /// And virtual CPUs are stopped from outside.
    Stalls,
    /// And allocations fail: any end is right but a hang or a panic of the kernel. In long runs only (`cargo xtask torture`), since programs that look not
    /// at what their calls return then wait or loop for ever, until a signal ends them.
    NoMemory,
}

/// Tortures machines with `cpus` virtual CPUs until `time` is up; returns how many runs there were.
///
/// # Errors
/// The first run that hung or did something else than the host, with the command that repeats it.
pub fn torture(cpus: u32, time: Duration, seed: u64) -> Result<usize, String> {
    let end = Instant::now() + time;
    let mut random = Random::new(seed ^ u64::from(cpus));
    let programs = programs();
    let mut runs = 0;
    while Instant::now() < end {
        let case = &programs[random.below(programs.len() as u64) as usize];
        let plan = match random.below(6) {
            0 if std::env::var_os("OXV_TORTURE").is_some() => Plan::NoMemory,
            0..=2 => Plan::Plain,
            _ => Plan::Stalls,
        };
        one(case, cpus, plan, random.below(u64::MAX))?;
        runs += 1;
    }
    Ok(runs)
}

fn one(case: &Case, cpus: u32, plan: Plan, seed: u64) -> Result<(), String> {
    let host = run::host(case).map_err(|error| error.to_string())?;
    let mut command = run::guest_command(case, cpus).map_err(|error| error.to_string())?;
    let mut options = vec![format!("--torture={seed:#x}")];
    if plan == Plan::NoMemory {
        options.push("--torture-fail=40".to_owned());
    }
    run::insert_options(&mut command, &options);
    // An interrupt can then come between any two instructions, not only between blocks of them.
    let single_steps = plan == Plan::Plain && case.name.starts_with("stress/") && machine::can_single_step();
    let door = Door::open(&mut command, if single_steps { machine::SINGLE_STEP } else { "" });
    let over = AtomicBool::new(false);
    let guest = std::thread::scope(|scope| {
        if plan == Plan::Stalls {
            scope.spawn(|| stall(&door, &over, seed));
        }
        let guest = run::outcome_or(&mut command, &case.stdin, case.time_limit, |oxv| {
            ask_where(&door);
            (plan == Plan::NoMemory && kill_process(oxv, Signal::TERM).is_ok()).then_some(TERM_TIME)
        });
        over.store(true, Ordering::Relaxed);
        guest
    });
    let wrong = match plan {
        Plan::NoMemory => died(&guest),
        Plan::Plain | Plan::Stalls => compare::difference(case, &host, &guest),
    };
    match wrong {
        None => Ok(()),
        Some(difference) => Err(describe(case, cpus, plan, &command, &guest, &difference)),
    }
}

/// More than `oxv` grants a program after SIGTERM.
const TERM_TIME: Duration = Duration::from_secs(20);
/// What `oxv` says of a program that even SIGTERM did not end.
const NOT_ENDED: &str = "the program did not end within";
/// What `oxv` says of a machine that ended before its program did.
const KERNEL_DIED: &str = "kernel stopped before the program ended";

/// The only wrong ends of a program that gets no memory.
fn died(guest: &Outcome) -> Option<String> {
    let says = |text| String::from_utf8_lossy(&guest.stderr).contains(text);
    match guest.exit {
        None => Some("no end".to_owned()),
        Some(125) if says(KERNEL_DIED) => Some("the kernel died".to_owned()),
        Some(_) if says(NOT_ENDED) => Some("no end, not even by SIGTERM".to_owned()),
        Some(_) => None,
    }
}

fn describe(case: &Case, cpus: u32, plan: Plan, command: &std::process::Command, guest: &Outcome, difference: &str) -> String {
    let log = run::keep_log(&format!("torture-{}-{cpus}cpu", case.name), &guest.stderr);
    format!(
        "{} ({plan:?}): {difference}\nafter {:.1} s; log: {}\nagain: {}\nlast lines of the log:\n{}",
        case.name,
        guest.elapsed.as_secs_f64(),
        log.display(),
        run::shown(command),
        compare::tail(&guest.stderr, 40)
    )
}

/// Has a machine that hangs say where each of its CPUs is.
fn ask_where(door: &Door) {
    if let Ok(mut monitor) = door.enter(Duration::from_secs(1)) {
        let _late = monitor.execute("inject-nmi");
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Stops the machine, or one of its CPUs, again and again until the run is over.
fn stall(door: &Door, over: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    let Ok(mut monitor) = door.enter(Duration::from_secs(20)) else { return };
    let threads = monitor.cpu_threads().unwrap_or_default();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(random.millis(2, 120));
        if stall_once(&mut monitor, &threads, &mut random).is_none() {
            return;
        }
    }
}

fn stall_once(monitor: &mut Monitor, threads: &[i32], random: &mut Random) -> Option<()> {
    if random.below(4) == 0 {
        monitor.execute("stop").ok()?;
        std::thread::sleep(random.millis(1, 60));
        return monitor.execute("cont").ok().map(drop);
    }
    let thread = *threads.get(random.below(threads.len().max(1) as u64) as usize)?;
    let _stopped = machine::stop(thread)?;
    std::thread::sleep(random.millis(1, 80));
    Some(())
}
