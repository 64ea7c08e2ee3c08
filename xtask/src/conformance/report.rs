//! `doc/conformance.md`: a section for each suite, between two marks, so that one can be written without the others.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::runner::{Outcomes, Suite, Test};
use crate::paths;

const PAGE: &str = "doc/conformance.md";
const HEAD: &str = "# Conformance\n\nTest suites of others, run by `cargo xtask conformance SUITE` (which writes this page) on Linux first, then in oxv. What fails on Linux does \
not count. A program that fails among others is run again alone.\n";

/// Why tests fail, by name: lines `NAME REASON`.
fn reasons(suite: &Suite) -> Result<BTreeMap<String, String>> {
    let path = paths::root().join("tests/conformance").join(format!("{}.reasons", suite.name));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = |line: &str| line.split_once(' ').map(|(name, reason)| (name.to_owned(), reason.trim().to_owned()));
    Ok(text.lines().filter_map(line).collect())
}

/// The section of `suite`: of `all` tests, those `counted` pass on Linux; what became of these.
///
/// # Errors
/// When the reasons cannot be read.
pub(super) fn section(suite: &Suite, all: usize, counted: &[Test], outcomes: &Outcomes) -> Result<String> {
    let reasons = reasons(suite)?;
    let passed = |test: &&Test| outcomes.get(&test.name).is_some_and(super::runner::Outcome::passed);
    let good = counted.iter().filter(passed).count();
    let percent = good as f64 * 100.0 / counted.len().max(1) as f64;
    let mut text = format!("## {}\n\n{all} tests; {} pass on Linux; of these **{good}** ({percent:.1} %) pass in oxv.\n", suite.title, counted.len());
    let failed: Vec<_> = counted.iter().filter(|test| !passed(test)).collect();
    if !failed.is_empty() {
        text += "\n| test | how it ends | why |\n|---|---|---|\n";
    }
    for test in failed {
        let (how, said) = outcomes.get(&test.name).map_or(("not run", ""), |o| (o.how.as_str(), o.said.as_str()));
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
