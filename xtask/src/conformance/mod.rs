//! `cargo xtask conformance SUITE`: test suites of others, on this machine's Linux first, then in oxv.
//!
//! What fails on Linux does not count. Programs that fail in oxv among others are run again alone, so that a slow machine is not
//! taken for a wrong one. What still fails, and on Linux, too, when there are only local sockets, waits for the network. The result is a section of
//! `doc/conformance.md`, with the reason of each failure from `tests/conformance/SUITE.reasons`.

mod crates;
mod file_data;
mod kept;
mod posix;
mod python;
pub(crate) mod quick;
mod report;
mod runner;
mod stress_ng;

use anyhow::Result;
use clap::ValueEnum;
use std::collections::HashSet;

use crate::build;
use kept::System;
use report::Results;
use runner::{Outcome, Outcomes, Plan, Sockets, Test};

/// Options of `cargo xtask conformance`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which suite.
    suite: Suite,
    /// Only tests whose name contains one of these; the page is not written then.
    filter: Vec<String>,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Programs at a time [default: 6; 2 for python, fsx and fio; 1 for stress-ng].
    #[arg(long)]
    parallel: Option<u32>,
    /// Seconds for each program [default: 40; 300 for python, fsx and fio].
    #[arg(long)]
    seconds: Option<u64>,
    /// Seconds that each stressor of stress-ng works; it gets as many as `--seconds` says besides.
    #[arg(long, default_value_t = 5)]
    work: u64,
    /// Do not run again what earlier runs have found out.
    #[arg(long)]
    resume: bool,
    /// Run nothing: write the page from what earlier runs have found out.
    #[arg(long)]
    kept: bool,
    /// Use the quickly built kernel, with its assertions.
    #[arg(long)]
    dev: bool,
}

/// A suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Suite {
    /// The Open POSIX Test Suite, a Debian source package.
    Posix,
    /// The tests of a crate.
    Nix,
    /// The tests of a crate.
    Tokio,
    /// The tests of a crate.
    Rustix,
    /// The tests of a crate.
    Polling,
    /// The tests of a crate.
    Socket2,
    /// The tests of a crate.
    Memmap2,
    /// CPython's regression suite, by module.
    Python,
    /// The stressors of stress-ng.
    StressNg,
    /// The file system exerciser.
    Fsx,
    /// fio with `verify`.
    Fio,
}

impl Suite {
    fn prepare(self, options: &Options) -> Result<runner::Suite> {
        match self {
            Self::Posix => posix::prepare(None),
            Self::Nix => crates::prepare(&crates::NIX),
            Self::Tokio => crates::prepare(&crates::TOKIO),
            Self::Rustix => crates::prepare(&crates::RUSTIX),
            Self::Polling => crates::prepare(&crates::POLLING),
            Self::Socket2 => crates::prepare(&crates::SOCKET2),
            Self::Memmap2 => crates::prepare(&crates::MEMMAP2),
            Self::Python => python::prepare(python::Programs::All),
            Self::StressNg => stress_ng::prepare(options.work),
            Self::Fsx => file_data::fsx(),
            Self::Fio => file_data::fio(),
        }
    }

    fn plan(self, options: &Options) -> Plan {
        let (parallel, seconds) = match self {
            Self::StressNg => (1, 40),
            Self::Python | Self::Fsx | Self::Fio => (2, 300),
            _ => (6, 40),
        };
        let work = if self == Self::StressNg { options.work } else { 0 };
        // The others say of each test that fails whether it waits for the network; most of Python's would do so, and they take long. Those of POSIX need none.
        let sockets = if matches!(self, Self::Python | Self::Posix) { Sockets::Local } else { Sockets::All };
        Plan { smp: options.smp, parallel: options.parallel.unwrap_or(parallel), seconds: options.seconds.unwrap_or(seconds) + work, dev: options.dev, sockets, urgent: matches!(self, Self::Posix | Self::StressNg) }
    }
}

/// Runs a suite.
///
/// # Errors
/// When it cannot be fetched or built, or a machine cannot be started. Failed tests are no errors.
pub(crate) fn command(options: &Options) -> Result<()> {
    let (suite, plan) = (options.suite.prepare(options)?, options.suite.plan(options));
    let wanted = |test: &&Test| options.filter.is_empty() || options.filter.iter().any(|filter| test.name.contains(filter));
    let tests: Vec<_> = suite.tests.iter().filter(wanted).cloned().collect();
    let results = if options.kept {
        known(&suite, &plan)?
    } else {
        build::kernel(&build::Options { dev: options.dev })?;
        results(&suite, &tests, &plan, options.resume)?
    };
    let section = report::section(&suite, &results)?;
    println!("{section}");
    if options.filter.is_empty() { report::write(&suite, &section) } else { Ok(()) }
}

/// Runs `tests` wherever they have to be run.
fn results(suite: &runner::Suite, tests: &[Test], plan: &Plan, resume: bool) -> Result<Results> {
    let passed = |outcomes: &Outcomes, test: &Test| outcomes.get(&test.name).is_some_and(Outcome::passed);
    let known = |system| if resume { kept::read(suite.name, system) } else { Ok(Outcomes::new()) };
    let left = |tests: &[Test], known: &Outcomes| tests.iter().filter(|test| !known.contains_key(&test.name)).cloned().collect::<Vec<_>>();
    let mut host = known(plan.linux())?;
    host.extend(runner::host(suite, &left(tests, &host), plan)?);
    let mut counted: Vec<_> = tests.iter().filter(|test| passed(&host, test)).cloned().collect();
    counted.sort_by_key(|test| host.get(&test.name).map_or(0, Outcome::took_ms));
    let on_linux = host.len().min(tests.len());
    eprintln!("conformance: {} of {} pass on Linux", counted.len(), tests.len());
    let mut guest = known(System::Oxv)?;
    guest.extend(runner::guest(suite, &left(&counted, &guest), plan)?);
    let failed = |guest: &Outcomes| counted.iter().filter(|test| !passed(guest, test)).cloned().collect::<Vec<_>>();
    let without_network = match plan.sockets {
        Sockets::All => runner::host(suite, &failed(&guest), &Plan { sockets: Sockets::Local, ..*plan })?,
        Sockets::Local => host,
    };
    let (again, waiting): (Vec<_>, Vec<_>) = failed(&guest).into_iter().partition(|test| passed(&without_network, test));
    if !again.is_empty() && plan.parallel > 1 {
        eprintln!("conformance: {} again, alone", again.len());
        guest.extend(runner::guest(suite, &again, &Plan { parallel: 1, ..*plan })?);
    }
    let waiting: HashSet<_> = waiting.into_iter().map(|test| test.name).collect();
    Ok(Results { all: tests.len(), on_linux, counted, waiting, guest })
}

/// What earlier runs have found out about the whole suite.
fn known(suite: &runner::Suite, plan: &Plan) -> Result<Results> {
    let [host, guest, local] = [plan.linux(), System::Oxv, System::LinuxLocal].map(|system| kept::read(suite.name, system));
    let (host, guest, local) = (host?, guest?, local?);
    let counted: Vec<_> = suite.tests.iter().filter(|test| host.get(&test.name).is_some_and(Outcome::passed)).cloned().collect();
    let waits = |name: &String| guest.get(name).is_some_and(|outcome| !outcome.passed()) && local.get(name).is_some_and(|outcome| !outcome.passed());
    let waiting = counted.iter().map(|test| test.name.clone()).filter(waits).collect();
    Ok(Results { all: suite.tests.len(), on_linux: host.len(), counted, waiting, guest })
}
