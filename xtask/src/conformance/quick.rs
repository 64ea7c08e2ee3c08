//! The part of the suites that is among the tests (`cargo xtask test`): programs of the Open POSIX Test Suite that end at once
//! (`tests/conformance/posix.quick`), every third of the nix crate's tests but those whose failure has a reason, and short modules of Python's regression
//! suite (`tests/conformance/python.quick`). All that pass on Linux without a network must pass in oxv.

use anyhow::{Context, Result, bail};

use super::runner::{Plan, Sockets, Suite, Test};
use super::{crates, posix, python, report, results};
use crate::paths;

/// Of the tests so many per cent must pass on Linux, or else the run says nothing.
const ENOUGH: usize = 80;

/// A part of a suite, fetched and built.
pub(crate) struct Part {
    suite: Suite,
    tests: Vec<Test>,
    /// Programs at a time.
    parallel: u32,
}

/// How a part is fetched and built.
type Prepare = fn() -> Result<Part>;

/// All parts, by name.
pub(crate) const PARTS: [(&str, Prepare); 3] = [("conformance/posix", posix), ("conformance/nix", nix), ("conformance/python", python)];
/// At a time, where tests do not keep processors busy for long.
const MANY: u32 = 6;

/// The names in `tests/conformance/SUITE.quick`.
fn names(suite: &str) -> Result<Vec<String>> {
    let path = paths::root().join("tests/conformance").join(suite).with_extension("quick");
    let list = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn posix() -> Result<Part> {
    let names = names("posix")?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let suite = posix::prepare(Some(&names))?;
    if suite.tests.len() < names.len() {
        bail!("only {} of {} programs compile", suite.tests.len(), names.len());
    }
    Ok(Part { tests: suite.tests.clone(), suite, parallel: MANY })
}

fn nix() -> Result<Part> {
    let suite = crates::prepare(&crates::NIX)?;
    let known = report::reasons(&suite)?;
    let tests = suite.tests.iter().filter(|test| !known.contains_key(&test.name)).step_by(3).cloned().collect();
    Ok(Part { suite, tests, parallel: MANY })
}

fn python() -> Result<Part> {
    let (suite, names) = (python::prepare(python::Programs::Few)?, names("python")?);
    let tests: Vec<_> = suite.tests.iter().filter(|test| names.contains(&test.name)).cloned().collect();
    if tests.len() < names.len() {
        bail!("only {} of {} modules are there", tests.len(), names.len());
    }
    Ok(Part { suite, tests, parallel: 2 })
}

impl Part {
    /// Runs it on Linux and in oxv. Returns how many tests passed.
    ///
    /// # Errors
    /// When a test fails in oxv, or so many on Linux that the run says nothing.
    pub(crate) fn check(&self, dev: bool) -> Result<usize> {
        let plan = Plan { smp: 2, parallel: self.parallel, seconds: 60, dev, sockets: Sockets::Local, urgent: false };
        let results = results(&self.suite, &self.tests, &plan, false)?;
        if results.counted.len() * 100 < self.tests.len() * ENOUGH {
            bail!("only {} of {} tests pass on this machine's Linux", results.counted.len(), self.tests.len());
        }
        let failed = report::failures(&self.suite, &results)?;
        if failed.is_empty() { Ok(results.counted.len()) } else { bail!("{}: these pass on Linux and fail in oxv:\n{failed}", self.suite.title) }
    }
}
