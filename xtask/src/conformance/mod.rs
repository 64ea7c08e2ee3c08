//! `cargo xtask conformance SUITE`: test suites of others, on this machine's Linux first, then in oxv.
//!
//! What fails on Linux does not count. Programs that fail in oxv among others are run again alone, so that a slow machine is not
//! taken for a wrong one. What still fails, and on Linux, too, when there are only local sockets, waits for the network. The result is a section of
//! `doc/conformance.md`, with the reason of each failure from `tests/conformance/SUITE.reasons`.

mod crates;
mod posix;
mod report;
mod runner;

use anyhow::Result;
use clap::ValueEnum;
use std::collections::HashSet;

use crate::build;
use report::Results;
use runner::{Outcome, Outcomes, Plan, Sockets, Test};

/// Options of `cargo xtask conformance`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which suite.
    suite: Suite,
    /// Only tests whose name contains this; the page is not written then.
    filter: Option<String>,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Programs at a time.
    #[arg(long, default_value_t = 6)]
    parallel: u32,
    /// Seconds for each program.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
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
}

/// Runs a suite.
///
/// # Errors
/// When it cannot be fetched or built, or a machine cannot be started. Failed tests are no errors.
pub(crate) fn command(options: &Options) -> Result<()> {
    let suite = match options.suite {
        Suite::Posix => posix::prepare()?,
        Suite::Nix => crates::prepare(&crates::NIX)?,
        Suite::Tokio => crates::prepare(&crates::TOKIO)?,
        Suite::Rustix => crates::prepare(&crates::RUSTIX)?,
        Suite::Polling => crates::prepare(&crates::POLLING)?,
        Suite::Socket2 => crates::prepare(&crates::SOCKET2)?,
        Suite::Memmap2 => crates::prepare(&crates::MEMMAP2)?,
    };
    build::kernel(&build::Options { dev: options.dev })?;
    let wanted = |test: &&Test| options.filter.as_ref().is_none_or(|filter| test.name.contains(filter));
    let tests: Vec<_> = suite.tests.iter().filter(wanted).cloned().collect();
    let plan = Plan { smp: options.smp, parallel: options.parallel, seconds: options.seconds, dev: options.dev, sockets: Sockets::All };
    let results = results(&suite, &tests, &plan)?;
    let section = report::section(&suite, &results)?;
    println!("{section}");
    if options.filter.is_none() { report::write(&suite, &section) } else { Ok(()) }
}

/// Runs `tests` wherever they have to be run.
fn results(suite: &runner::Suite, tests: &[Test], plan: &Plan) -> Result<Results> {
    let passed = |outcomes: &Outcomes, test: &Test| outcomes.get(&test.name).is_some_and(Outcome::passed);
    let host = runner::host(suite, tests, plan)?;
    let counted: Vec<_> = tests.iter().filter(|test| passed(&host, test)).cloned().collect();
    eprintln!("conformance: {} of {} pass on Linux", counted.len(), tests.len());
    let mut guest = runner::guest(suite, &counted, plan)?;
    let failed = |guest: &Outcomes| counted.iter().filter(|test| !passed(guest, test)).cloned().collect::<Vec<_>>();
    let without_network = runner::host(suite, &failed(&guest), &Plan { sockets: Sockets::Local, ..*plan })?;
    let (again, waiting): (Vec<_>, Vec<_>) = failed(&guest).into_iter().partition(|test| passed(&without_network, test));
    if !again.is_empty() {
        eprintln!("conformance: {} again, alone", again.len());
        guest.extend(runner::guest(suite, &again, &Plan { parallel: 1, ..*plan })?);
    }
    let waiting: HashSet<_> = waiting.into_iter().map(|test| test.name).collect();
    Ok(Results { all: tests.len(), counted, waiting, guest })
}
