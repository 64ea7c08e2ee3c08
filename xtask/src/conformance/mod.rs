//! `cargo xtask conformance SUITE`: test suites of others, on this machine's Linux first, then in oxv.
//!
//! What fails on Linux does not count. Programs that fail in oxv among others are run again alone, so that a slow machine is not
//! taken for a wrong one. The result is a section of `doc/conformance.md`, with the reason of each failure from
//! `tests/conformance/SUITE.reasons`.

mod posix;
mod report;
mod runner;

use anyhow::Result;
use clap::ValueEnum;

use crate::build;
use runner::Plan;

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
}

/// Runs a suite.
///
/// # Errors
/// When it cannot be fetched or built, or a machine cannot be started. Failed tests are no errors.
pub(crate) fn command(options: &Options) -> Result<()> {
    let suite = match options.suite {
        Suite::Posix => posix::prepare()?,
    };
    build::kernel(&build::Options { dev: options.dev })?;
    let wanted = |test: &&runner::Test| options.filter.as_ref().is_none_or(|filter| test.name.contains(filter));
    let tests: Vec<_> = suite.tests.iter().filter(wanted).cloned().collect();
    let plan = Plan { smp: options.smp, parallel: options.parallel, seconds: options.seconds, dev: options.dev };
    let host = runner::host(&suite, &tests, &plan)?;
    let counted: Vec<_> = tests.iter().filter(|test| host.get(&test.name).is_some_and(runner::Outcome::passed)).cloned().collect();
    eprintln!("conformance: {} of {} pass on Linux", counted.len(), tests.len());
    let mut guest = runner::guest(&suite, &counted, &plan)?;
    let again: Vec<_> = counted.iter().filter(|test| !guest.get(&test.name).is_some_and(runner::Outcome::passed)).cloned().collect();
    if !again.is_empty() {
        eprintln!("conformance: {} again, alone", again.len());
        guest.extend(runner::guest(&suite, &again, &Plan { parallel: 1, ..plan })?);
    }
    let section = report::section(&suite, tests.len(), &counted, &guest)?;
    println!("{section}");
    if options.filter.is_none() { report::write(&suite, &section) } else { Ok(()) }
}
