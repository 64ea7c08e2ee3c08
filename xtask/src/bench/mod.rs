//! `cargo xtask bench`: measures oxv beside a Linux guest; `bench/README.md` says what and how.
//!
//! * [`metrics`]: what is measured, with units and goals;
//! * [`guest`]: the two systems under test, [`guest::Oxv`] and [`guest::Linux`], behind one trait; [`initramfs`]: Linux's root;
//! * [`apps`]: what people run, in both;
//! * [`machine`]: starting a guest and reading its lines; [`programs`]: compiling `bench/`;
//! * [`times`]: boot time; [`sizes`]: memory and file sizes; [`cache`]: what Linux said last time;
//! * [`table`]: the numbers of a run; [`report`]: terminal, JSON, `doc/performance.md`; [`plots`]: `doc/plots/`.

mod apps;
mod cache;
mod guest;
mod initramfs;
mod machine;
mod metrics;
mod plots;
mod programs;
mod report;
mod sizes;
mod table;
mod times;

use crate::paths;
use anyhow::{Context, Result, bail};
use cache::Cache;
use guest::{Guest, Linux, Oxv};
use machine::{Clock, Machine};
use metrics::{FOLDERS, Folder, Source};
use std::path::PathBuf;
use table::{Phase, Side, Table};

/// Options of `cargo xtask bench`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// What to measure: parts of the names of metrics or folders of bench/, or `counts`, `growth`, `times`, `apps`, `outside` [default: all].
    names: Vec<String>,
    /// List the metrics and their goals.
    #[arg(long)]
    list: bool,
    /// Measure only oxv.
    #[arg(long, conflicts_with = "linux_only")]
    oxv_only: bool,
    /// Measure only Linux.
    #[arg(long)]
    linux_only: bool,
    /// Take Linux's numbers from an earlier run of the same kernel and program where there is one; they are marked in the table.
    #[arg(long)]
    cached_linux: bool,
    /// Runs of each metric that a program prints [default: 3 of counts and apps, 5 of times].
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Print the tables, but leave doc/ as it is.
    #[arg(long)]
    no_write: bool,
}

/// The systems under test of this run.
struct Guests {
    oxv: Option<Oxv>,
    linux: Option<Linux>,
}

impl Guests {
    fn prepare(options: &Options) -> Result<Self> {
        let oxv = if options.linux_only { None } else { Some(Oxv::prepare()?) };
        let linux = if options.oxv_only { None } else { Linux::prepare().map_err(|error| eprintln!("no Linux guest: {error:#}")).ok() };
        Ok(Self { oxv, linux })
    }

    /// oxv first.
    fn each(&self) -> impl Iterator<Item = (Side, &dyn Guest)> {
        let oxv = self.oxv.as_ref().map(|guest| (Side::Oxv, guest as &dyn Guest));
        let linux = self.linux.as_ref().map(|guest| (Side::Linux, guest as &dyn Guest));
        oxv.into_iter().chain(linux)
    }
}

/// Measures and reports.
///
/// # Errors
/// When no guest can be set up or the report cannot be written; a metric that fails is a gap in the table.
pub(crate) fn command(options: &Options) -> Result<()> {
    let wanted = |folder: &&Folder| options.names.is_empty() || options.names.iter().any(|name| folder.matches(name));
    let folders: Vec<&'static Folder> = FOLDERS.iter().filter(wanted).collect();
    if folders.is_empty() {
        bail!("nothing in bench/ is called {}; `cargo xtask bench --list` lists what is", options.names.join(" or "));
    }
    if options.list {
        report::list(&folders);
        return Ok(());
    }
    let guests = Guests::prepare(options)?;
    let mut run = Run { table: Table::new(&folders), cache: Cache::open(options.cached_linux)?, guests };
    run.measure(&folders, options.repeat)?;
    report::print(&run.table);
    report::json(&run.table)?;
    if !options.no_write && !options.oxv_only && !options.linux_only {
        report::page(&run.table)?;
    }
    Ok(())
}

/// One run of the command.
struct Run {
    guests: Guests,
    table: Table,
    cache: Cache,
}

impl Run {
    fn measure(&mut self, folders: &[&'static Folder], repeat: Option<usize>) -> Result<()> {
        let of = |kind: fn(&Source) -> bool| folders.iter().copied().filter(|folder| kind(&folder.source)).collect::<Vec<_>>();
        // Linux has no transparent huge pages with 512 MiB or less.
        let counts = of(|source| matches!(source, Source::Counts(_)));
        for _ in 0..repeat.unwrap_or(3) {
            self.programs(&counts, Machine::one_cpu(1024, Clock::Instructions), Phase::Value)?;
            if self.guests.each().count() > 1 {
                self.programs(&counts, Machine::one_cpu(1024, Clock::Real), Phase::Ticks)?; // only their ratio says anything
            }
        }
        self.programs(&of(|source| matches!(source, Source::Growth(_))), Machine::one_cpu(2048, Clock::Instructions), Phase::Value)?;
        let times = of(|source| matches!(source, Source::Times(_)));
        for _ in 0..repeat.unwrap_or(5) {
            self.programs(&times, Machine { cpus: 2, memory_mib: 512, clock: Clock::Real }, Phase::Value)?;
        }
        for round in 0..repeat.unwrap_or(3) {
            folders.iter().for_each(|folder| self.app(folder, round));
        }
        for folder in folders {
            self.outside(folder);
        }
        self.cache.save()
    }

    /// Runs the folders' programs in both guests.
    fn programs(&mut self, folders: &[&'static Folder], machine: Machine, phase: Phase) -> Result<()> {
        let programs = folders.iter().map(|folder| programs::compile(folder.name)).collect::<Result<Vec<_>>>()?;
        for (side, guest) in self.guests.each() {
            let (known, unknown): (Vec<_>, Vec<_>) = programs.iter().partition(|program| self.cache.has(guest, machine, program));
            for program in known {
                self.table.record(side, phase, &self.cache.take(guest, machine, program), table::Origin::Cache);
            }
            if unknown.is_empty() {
                continue;
            }
            eprintln!("bench: {} on {}", names(&unknown), guest.name());
            for (program, lines) in unknown.iter().zip(guest.batch(&unknown, machine)?) {
                self.table.record(side, phase, &lines, table::Origin::Run);
                self.cache.put(guest, machine, program, lines);
            }
        }
        Ok(())
    }

    /// What people run.
    fn app(&mut self, folder: &Folder, round: usize) {
        let Source::Apps(app, _) = &folder.source else { return };
        let image = match app.image(folder.name) {
            Ok(image) => image,
            Err(error) => return eprintln!("{}: {error:#}", folder.name),
        };
        for (side, guest) in self.guests.each() {
            eprintln!("bench: {} on {}, round {}", folder.name, guest.name(), round + 1);
            match guest.app(app, folder.name, &image) {
                Ok(lines) => self.table.record(side, Phase::Value, &lines, table::Origin::Run),
                Err(error) => eprintln!("{}: {}: {error:#}", guest.name(), folder.name),
            }
        }
    }

    /// A metric that is not printed by a program.
    fn outside(&mut self, folder: &Folder) {
        let Source::Outside(metric, measure) = &folder.source else { return };
        for (side, guest) in self.guests.each() {
            eprintln!("bench: {} on {}", folder.name, guest.name());
            match measure(guest) {
                Ok(value) => self.table.record(side, Phase::Value, &[format!("RESULT {} {value}", metric.name)], table::Origin::Run),
                Err(error) => eprintln!("{}: {}: {error:#}", guest.name(), folder.name),
            }
        }
    }
}

fn names(programs: &[&PathBuf]) -> String {
    let names: Vec<_> = programs.iter().map(|program| programs::name(program)).collect();
    names.join(" ")
}

/// `target/bench`, created.
fn work_dir() -> Result<PathBuf> {
    let dir = paths::target().join("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
