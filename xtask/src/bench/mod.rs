//! `cargo xtask bench`: measures oxv beside a Linux guest; `bench/README.md` says what and how.
//!
//! * [`guest`]: the two systems under test, [`guest::Oxv`] and [`guest::Linux`], behind one trait;
//! * [`counts`]: metrics in guest instructions; [`times`]: boot time; [`sizes`]: memory and file sizes;
//! * [`report`]: table, JSON, `doc/performance.md`.

mod counts;
mod guest;
mod report;
mod sizes;
mod times;

use crate::{paths, run};
use anyhow::{Context, Result};
use guest::{Guest, Linux, Oxv};
use std::path::PathBuf;
use std::process::Command;

/// Options of `cargo xtask bench`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// The metrics to measure [default: all folders of bench/].
    names: Vec<String>,
    /// Measure only Linux.
    #[arg(long)]
    linux_only: bool,
    /// Print the table, but leave doc/performance.md as it is.
    #[arg(long)]
    no_write: bool,
}

/// One line of the table; `None`: could not be measured.
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    oxv: Option<f64>,
    linux: Option<f64>,
}

/// How a metric is measured in one guest.
type Measure = fn(&dyn Guest) -> Result<f64>;

/// All metrics, in the order of the table.
const METRICS: [(&str, &str, Measure); 7] = [
    ("null_syscall", "instructions", |guest| counts::instructions(guest, "null_syscall")),
    ("futex_pingpong", "instructions", |guest| counts::instructions(guest, "futex_pingpong")),
    ("anon_fault", "instructions", |guest| counts::instructions(guest, "anon_fault")),
    ("boot_to_output", "ms", times::boot_to_output),
    ("min_memory", "MiB", sizes::min_memory),
    ("kernel_size", "bytes", |guest| guest.kernel_size()),
    ("image_size", "bytes", sizes::image_size),
];

/// Measures and reports.
///
/// # Errors
/// When no guest can be set up or the report cannot be written; a metric that fails is a gap in the table.
pub(crate) fn command(options: &Options) -> Result<()> {
    let linux = Linux::prepare().map_err(|error| eprintln!("no Linux guest: {error:#}")).ok();
    let oxv = if options.linux_only { None } else { Some(Oxv::prepare()?) };
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|wanted| wanted == name);
    let mut rows = Vec::new();
    for (name, unit, measure) in METRICS.into_iter().filter(|(name, ..)| wanted(name)) {
        eprintln!("bench: {name}");
        let value = |guest: Option<&dyn Guest>| {
            let guest = guest?;
            measure(guest).map_err(|error| eprintln!("{}: {name}: {error:#}", guest.name())).ok()
        };
        rows.push(Row { name, unit, oxv: value(oxv.as_ref().map(|g| g as &dyn Guest)), linux: value(linux.as_ref().map(|g| g as &dyn Guest)) });
    }
    report::print(&rows);
    report::json(&rows)?;
    if !options.no_write && options.names.is_empty() && !options.linux_only {
        report::page(&rows)?;
    }
    Ok(())
}

/// `target/bench`, created.
fn work_dir() -> Result<PathBuf> {
    let dir = paths::target().join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Compiles `bench/NAME/main.c` to a static program that both guests run.
fn program(name: &str) -> Result<PathBuf> {
    let output = work_dir()?.join(name);
    let source = paths::root().join("bench").join(name).join("main.c");
    run::check(Command::new("gcc").args(["-O2", "-static", "-fno-pie", "-no-pie", "-o"]).arg(&output).arg(source).arg("-lpthread"))?;
    Ok(output)
}
