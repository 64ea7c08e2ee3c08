//! `cargo xtask test`: every kind of test, and one closing line that counts them all.
//!
//! Steps: host tests of each crate, loom models, lint, the kernel's build, boot tests. Each package is tested by a cargo invocation of its own:
//! in a common one, features that one crate's tests need would reach the others.

use crate::conformance::quick;
use crate::{build, lint, paths, run};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Packages that only run in the virtual machine: they bring their own panic handler, entry code and link address. The boot tests test them.
const NOT_HOST: [&str; 4] = ["image", "kernel", "linux", "arch-x86_64"];

/// A word that test names must contain.
#[derive(clap::Args, Default, Clone)]
pub(crate) struct Filter {
    /// Run only tests whose name contains this.
    filter: Option<String>,
}

/// Options of `cargo xtask test` and `cargo xtask guest`.
#[derive(clap::Args, Default, Clone)]
pub(crate) struct Options {
    /// Host tests and lint only: nothing is booted, no loom models.
    #[arg(long)]
    fast: bool,
    /// Pass over tests whose compilers or programs are not installed.
    #[arg(long)]
    allow_missing: bool,
    /// Also run the slow tests.
    #[arg(long)]
    slow: bool,
    /// Run the boot tests' programs on this machine instead of in oxv.
    #[arg(long)]
    host_only: bool,
    /// Use the quickly built kernel.
    #[arg(long)]
    dev: bool,
    #[command(flatten)]
    filter: Filter,
}

impl Options {
    /// The usual options, with one of the two kernels.
    pub(crate) fn with_kernel(dev: bool) -> Self {
        Self { dev, ..Self::default() }
    }
}

/// What was counted so far, and what failed.
#[derive(Default)]
pub(crate) struct Summary {
    passed: usize,
    failed: usize,
    skipped: usize,
    failures: Vec<String>,
}

impl Summary {
    /// Runs one step that is itself a single test.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        self.step_of_many(name, || step().map(|()| 1));
    }

    /// Runs one step that says how many tests it has passed.
    fn step_of_many(&mut self, name: &str, step: impl FnOnce() -> Result<usize>) {
        eprintln!("== {name}");
        let start = Instant::now();
        match step() {
            Ok(passed) => self.passed += passed,
            Err(error) => {
                eprintln!("{error:#}");
                self.fail(name);
            }
        }
        eprintln!("   {name}: {:.1} s", start.elapsed().as_secs_f64());
    }

    fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    /// Runs a test command, passes its output on, and adds up its `test result:` lines.
    fn count(&mut self, name: &str, command: &mut Command) -> Result<()> {
        eprintln!("== {name}");
        let start = Instant::now();
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("standard output was piped")?;
        let failed_before = self.failed;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read the tests' output")?;
            if !is_noise(&line) {
                println!("{line}");
            }
            self.add(&line);
        }
        let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
        if self.failed > failed_before {
            self.failures.push(name.to_owned());
        } else if !status.success() {
            self.fail(name); // it did not compile, or crashed
        }
        eprintln!("   {name}: {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// `test result: ok. 3 passed; 0 failed; 1 ignored; …`
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        for part in rest.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(kind)) = (words.next().map(str::parse::<usize>), words.next()) else { continue };
            match kind {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }

    /// Prints the closing line.
    ///
    /// # Errors
    /// When a test failed or none ran.
    fn finish(&self) -> Result<()> {
        if !self.failures.is_empty() {
            println!("\nfailed: {}", self.failures.join(", "));
        }
        println!("\n{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        match (self.passed, self.failed) {
            (0, 0) => bail!("no test matched"),
            (_, 0) => Ok(()),
            _ => bail!("tests failed"),
        }
    }
}

/// Lines that would drown the others.
fn is_noise(line: &str) -> bool {
    line.is_empty() || line == "running 0 tests" || line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored")
}

/// Everything.
///
/// # Errors
/// When a test fails.
pub(crate) fn command(options: &Options) -> Result<()> {
    let mut summary = Summary::default();
    let filter = options.filter.filter.as_deref();
    host(&mut summary, filter)?;
    if filter.is_none() {
        summary.step("lint", || lint::command(&lint::Options::default()));
    }
    if !options.fast {
        loom_models(&mut summary, filter)?;
        boot(&mut summary, options)?;
    }
    summary.finish()
}

/// The boot tests alone.
///
/// # Errors
/// When a test fails.
pub(crate) fn guest(options: &Options) -> Result<()> {
    let mut summary = Summary::default();
    boot(&mut summary, options)?;
    summary.finish()
}

/// The loom models alone.
///
/// # Errors
/// When a model fails.
pub(crate) fn loom(filter: &Filter) -> Result<()> {
    let mut summary = Summary::default();
    loom_models(&mut summary, filter.filter.as_deref())?;
    summary.finish()
}

fn host(summary: &mut Summary, filter: Option<&str>) -> Result<()> {
    for package in packages()? {
        if NOT_HOST.contains(&package.as_str()) {
            continue;
        }
        let mut command = run::cargo();
        command.args(["test", "--quiet", "--no-fail-fast", "--package", &package]);
        if package == "guest-tests" {
            command.arg("--lib");
        }
        summary.count(&package, command.arg("--").args(filter))?;
    }
    Ok(())
}

/// The models of each package that depends on loom. A build with `--cfg loom` replaces the atomics, so it has its own directory.
fn loom_models(summary: &mut Summary, filter: Option<&str>) -> Result<()> {
    for package in packages_with_loom()? {
        let mut command = run::cargo();
        command
            .args(["test", "--quiet", "--release", "--lib", "--package", &package, "--target-dir"])
            .arg(paths::target().join("loom"))
            .env("RUSTFLAGS", "--cfg loom -Cpanic=unwind")
            .arg("--")
            .args(filter);
        summary.count(&format!("{package} (loom)"), &mut command)?;
    }
    Ok(())
}

fn boot(summary: &mut Summary, options: &Options) -> Result<()> {
    let mut command = boot_command(options)?;
    command.args(&options.filter.filter);
    if options.slow {
        command.arg("--include-ignored");
    }
    summary.count("boot tests", &mut command)?;
    conformance(summary, options);
    Ok(())
}

/// The quick part of the suites of others.
fn conformance(summary: &mut Summary, options: &Options) {
    let wanted = |name: &str| !options.host_only && options.filter.filter.as_ref().is_none_or(|filter| name.contains(filter));
    for (name, prepare) in quick::PARTS.into_iter().filter(|(name, _)| wanted(name)) {
        match prepare() {
            Err(error) if options.allow_missing => {
                eprintln!("{name} is passed over: {error:#}");
                summary.skipped += 1;
            }
            part => summary.step_of_many(name, || part?.check(options.dev)),
        }
    }
}

/// Builds kernel and `oxv` and returns the command that runs the boot tests; arguments for them may follow.
///
/// # Errors
/// When one of them does not build.
pub(crate) fn boot_command(options: &Options) -> Result<Command> {
    let mut command = run::cargo();
    command.args(["test", "--quiet", "--release", "--package", "guest-tests", "--test", "boot", "--"]);
    if options.allow_missing {
        command.env("OXV_ALLOW_MISSING", "1");
    }
    if options.host_only {
        command.env("OXV_HOST_ONLY", "1");
        return Ok(command);
    }
    command.env("OXV_KERNEL", build::kernel(&build::Options { dev: options.dev })?);
    run::check(run::cargo().args(["build", "--quiet", "--release", "--package", "cli"]))?;
    command.env("OXV", paths::oxv());
    Ok(command)
}

/// The members of the workspace.
fn packages() -> Result<Vec<String>> {
    Ok(manifests()?.into_iter().map(|(name, _)| name).collect())
}

fn packages_with_loom() -> Result<Vec<String>> {
    let has_loom = |(name, text): (String, String)| text.contains("loom").then_some(name);
    Ok(manifests()?.into_iter().filter_map(has_loom).collect())
}

/// Name and manifest text of each member.
fn manifests() -> Result<Vec<(String, String)>> {
    let metadata = run::output(run::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    packages
        .iter()
        .map(|package| {
            let field = |name: &str| package[name].as_str().context("cargo metadata: a package without a name or path");
            let manifest = field("manifest_path")?;
            let text = std::fs::read_to_string(manifest).with_context(|| format!("cannot read {manifest}"))?;
            Ok((field("name")?.to_owned(), text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn result_lines_are_added_up() {
        let mut summary = Summary::default();
        summary.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s");
        summary.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out");
        summary.add("9 passed; 9 failed");
        assert_eq!((summary.passed, summary.failed, summary.skipped), (5, 4, 1));
    }
}
