//! The boot tests as trials of a test harness: `cargo xtask guest [FILTER]`.
//!
//! A case's program runs once on the host, when its first trial starts, and once in the guest per number of virtual CPUs.

use guest_tests::case::Case;
use guest_tests::run::{self, Outcome};
use guest_tests::toolchain::Unavailable;
use guest_tests::{bad_input, cases, compare, fuzz, machines, memory, mishaps, privileged, torture, tty};
use libtest_mimic::{Arguments, Failed, Trial};
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Torture among the other tests, for each number of virtual CPUs.
const SHORT_TORTURE: Duration = Duration::from_secs(50);

/// A case and what its program did on the host.
struct Subject {
    case: Case,
    host: OnceLock<Result<Outcome, Unavailable>>,
}

fn main() {
    run::default_signals();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let trials = match (soak_count(), number("OXV_TORTURE"), number("OXV_FUZZ")) {
        (Some(count), ..) => soak(count),
        (None, Some(seconds), _) => tortures(Duration::from_secs(seconds)).collect(),
        (None, None, Some(seconds)) => fuzzers(seconds).collect(),
        (None, None, None) => compared(cases::all()).chain(checks()).chain(tortures(SHORT_TORTURE)).collect(),
    };
    libtest_mimic::run(&arguments, trials).exit();
}

fn soak_count() -> Option<usize> {
    number("OXV_SOAK").map(|count| count as usize)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The seed and the numbers of virtual CPUs of long runs.
fn long_run() -> (u64, Vec<u32>) {
    let seed = number("OXV_TORTURE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let smp = std::env::var("OXV_TORTURE_SMP").unwrap_or_else(|_| "1,2,4".to_owned());
    (seed, smp.split(',').filter_map(|n| n.parse().ok()).collect())
}

/// One trial per number of virtual CPUs, `seconds` each.
fn fuzzers(seconds: u64) -> impl Iterator<Item = Trial> {
    let (seed, cpus) = long_run();
    cpus.into_iter().map(move |cpus| {
        let plan = fuzz::Plan { cpus, seed: seed ^ u64::from(cpus), seconds, torture: true };
        Trial::test(format!("fuzz/{cpus}cpu"), move || fuzz::fuzz(&plan).map_err(Failed::from))
    })
}

/// One trial per number of virtual CPUs, for `time` each.
fn tortures(time: Duration) -> impl Iterator<Item = Trial> {
    let (seed, cpus) = long_run();
    let cpus = if is_set("OXV_HOST_ONLY") { Vec::new() } else { cpus };
    cpus.into_iter().map(move |cpus| {
        let run = move || torture::torture(cpus, time, seed).map(drop).map_err(Failed::from);
        Trial::test(format!("torture/{cpus}cpu"), run)
    })
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some()
}

/// One trial per case and number of CPUs.
fn compared(cases: Vec<Case>) -> impl Iterator<Item = Trial> {
    cases.into_iter().flat_map(|case| {
        let cpus = case.cpus.clone();
        let subject = Arc::new(Subject { case, host: OnceLock::new() });
        cpus.into_iter().map(move |cpus| trial(format!("{}/{cpus}cpu", subject.case.name), &subject, cpus))
    })
}

fn trial(name: String, subject: &Arc<Subject>, cpus: u32) -> Trial {
    let subject = Arc::clone(subject);
    let slow = subject.case.slow;
    let log_name = name.clone();
    Trial::test(name, move || check(&log_name, &subject, cpus)).with_ignored_flag(slow)
}

fn checks() -> impl Iterator<Item = Trial> {
    let host_only = is_set("OXV_HOST_ONLY");
    let checks = if host_only {
        tty::all()
    } else {
        bad_input::all().into_iter().chain(tty::all()).chain(memory::all()).chain(mishaps::all()).chain(machines::all()).chain(privileged::all()).chain(fuzz::all()).collect()
    };
    checks.into_iter().map(|check| Trial::test(check.name, move || (check.run)().map_err(Failed::from)))
}

/// `count` boots: programs and CPU counts in turn, so that neighbours differ.
fn soak(count: usize) -> Vec<Trial> {
    let subjects: Vec<_> = cases::soak().into_iter().map(|case| Arc::new(Subject { case, host: OnceLock::new() })).collect();
    let boot = |n: usize| {
        let subject = &subjects[n % subjects.len()];
        let cpus = [1, 2, 4][(n / subjects.len() + n) % 3];
        trial(format!("soak/{n:04}/{}/{cpus}cpu", subject.case.name), subject, cpus)
    };
    (0..count).map(boot).collect()
}

/// Runs in the guest and compares with the host.
fn check(name: &str, subject: &Subject, cpus: u32) -> Result<(), Failed> {
    let case = &subject.case;
    let host = match subject.host.get_or_init(|| run::host(case)) {
        Ok(host) => host,
        Err(Unavailable::Missing(..)) if is_set("OXV_ALLOW_MISSING") => return Ok(()),
        Err(error) => return Err(error.to_string().into()),
    };
    if host.exit != Some(case.exit) {
        let output = compare::tail(&host.stdout, 15) + &compare::tail(&host.stderr, 15);
        return Err(format!("on the host: exit code {:?}, expected {}\n{output}", host.exit, case.exit).into());
    }
    if is_set("OXV_HOST_ONLY") {
        return Ok(());
    }
    let guest = run::guest(case, cpus).map_err(|error| error.to_string())?;
    match compare::difference(case, host, &guest) {
        None => Ok(()),
        Some(difference) => Err(failure(name, case, cpus, &guest, &difference).into()),
    }
}

/// Everything needed to look into a failure.
fn failure(name: &str, case: &Case, cpus: u32, guest: &Outcome, difference: &str) -> String {
    let mut text = format!("{difference}\n");
    let kept = run::keep_log(name, &guest.stderr);
    let command = run::guest_command(case, cpus).map(|command| run::shown(&command)).unwrap_or_default();
    let input = match &case.stdin {
        guest_tests::case::Stdin::Empty => " < /dev/null".to_owned(),
        guest_tests::case::Stdin::Text(input) => format!(" <<< {input:?}"),
        guest_tests::case::Stdin::File(file) => format!(" < {}", file().display()),
    };
    let _infallible = write!(
        text,
        "after {:.1} s; log: {}\nagain: {command}{input}\nlast lines of the log:\n{}",
        guest.elapsed.as_secs_f64(),
        kept.display(),
        compare::tail(&guest.stderr, 15)
    );
    text
}
