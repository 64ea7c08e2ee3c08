//! `doc/conformance.md`: a section for each suite, between two marks, so that one can be written without the others.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::process::Command;

use super::runner::{Outcome, Outcomes, Suite, Test};
use crate::{paths, run};

const PAGE: &str = "doc/conformance.md";
const HEAD: &str = "# Conformance\n\nTest suites of others, run by `cargo xtask conformance SUITE` (which writes this page) on Linux first, then in oxv. What fails on Linux does \
not count. What fails among others is run again alone. A test waits for the network when it fails in oxv, and on Linux, too, where only local sockets can be made.\n";

/// Why tests fail, by name: lines `NAME REASON`.
///
/// # Errors
/// When they cannot be read.
pub(super) fn reasons(suite: &Suite) -> Result<BTreeMap<String, String>> {
    let path = paths::root().join("tests/conformance").join(format!("{}.reasons", suite.name));
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let line = |line: &str| line.split_once(' ').map(|(name, reason)| (name.to_owned(), reason.trim().to_owned()));
    Ok(text.lines().filter_map(line).collect())
}

/// What became of a suite.
pub(super) struct Results {
    /// How many tests it has.
    pub(super) all: usize,
    /// How many of them were run on Linux.
    pub(super) on_linux: usize,
    /// Those that pass on Linux.
    pub(super) counted: Vec<Test>,
    /// Names of those that fail in oxv, and on Linux without a network.
    pub(super) waiting: HashSet<String>,
    /// How they end in oxv.
    pub(super) guest: Outcomes,
}

impl Results {
    fn passed(&self, test: &Test) -> bool {
        self.guest.get(&test.name).is_some_and(Outcome::passed)
    }
}

/// The section of `suite`.
///
/// # Errors
/// When the reasons cannot be read.
pub(super) fn section(suite: &Suite, results: &Results) -> Result<String> {
    let not_run: Vec<_> = results.counted.iter().filter(|test| !results.guest.contains_key(&test.name)).collect();
    let (all, counted, waiting) = (results.all, results.counted.len(), results.waiting.len());
    let run = counted - waiting - not_run.len();
    let good = results.counted.iter().filter(|test| results.passed(test)).count();
    let percent = good as f64 * 100.0 / run.max(1) as f64;
    let mut text = format!("## {}\n\n`cargo xtask conformance {}`, {}. {all} tests", suite.title, suite.name, commit()?);
    if results.on_linux < all {
        text += &format!(", {} of them run on Linux", results.on_linux);
    }
    text += &format!("; {counted} pass on Linux");
    if waiting > 0 {
        text += &format!(", {waiting} of them only with a network. Of the other {run}");
    } else if !not_run.is_empty() {
        text += &format!("; of these {run} were run in oxv, and of those");
    } else {
        text += "; of these";
    }
    text += &format!(" **{good}** ({percent:.1} %) pass in oxv.\n");
    text += &failures(suite, results)?;
    if !not_run.is_empty() {
        let names = not_run.iter().map(|test| format!("`{}`", test.name));
        text += &format!("\nPass on Linux, and were not run in oxv: {}.\n", names.collect::<Vec<_>>().join(", "));
    }
    if !results.waiting.is_empty() {
        let names = results.counted.iter().filter(|test| results.waiting.contains(&test.name)).map(|test| format!("`{}`", test.name));
        text += &format!("\nWaiting for the network: {}.\n", names.collect::<Vec<_>>().join(", "));
    }
    Ok(text)
}

/// What was measured. Other sections of the page, written before this one, do not matter.
fn commit() -> Result<String> {
    let git = |words: &[&str]| run::output(Command::new("git").arg("-C").arg(paths::root()).args(words));
    let changed = if git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)doc/conformance.md"])?.is_empty() { "" } else { ", with changes" };
    Ok(format!("commit {}{changed}", git(&["rev-parse", "--short=10", "HEAD"])?.trim()))
}

/// A table of what fails here and not on Linux; nothing if there is nothing.
///
/// # Errors
/// When the reasons cannot be read.
pub(super) fn failures(suite: &Suite, results: &Results) -> Result<String> {
    let reasons = reasons(suite)?;
    let mut text = String::new();
    for test in results.counted.iter().filter(|test| !results.passed(test) && !results.waiting.contains(&test.name) && results.guest.contains_key(&test.name)) {
        if text.is_empty() {
            text += "\n| test | how it ends | why |\n|---|---|---|\n";
        }
        let (how, said) = results.guest.get(&test.name).map_or(("not run", ""), |o| (o.how.as_str(), o.said.as_str()));
        let shown = match how {
            "timeout 0" => "does not end".to_owned(),
            "machine 0" => "the machine stops answering".to_owned(),
            _ => format!("{how}: {}", said.replace('|', "/")),
        };
        let reason = reasons.get(&test.name).map_or("not looked into", String::as_str);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| {} | {} | {reason} |", test.name, shown.trim_end_matches(": "));
    }
    Ok(text)
}

/// Puts `section` into the page.
///
/// # Errors
/// When the page cannot be read or written.
pub(super) fn write(suite: &Suite, section: &str) -> Result<()> {
    let path = paths::root().join(PAGE);
    let old = std::fs::read_to_string(&path).unwrap_or_else(|_| HEAD.to_owned());
    let (begin, end) = (format!("<!-- {} -->\n", suite.name), format!("<!-- end of {} -->\n", suite.name));
    let whole = format!("{begin}\n{section}\n{end}");
    let new = match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) => [&old[..from], &whole, &old[to + end.len()..]].concat(),
        _ => format!("{old}\n{whole}"),
    };
    std::fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))
}
