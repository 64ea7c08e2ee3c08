//! CPython's own regression suite as Debian's package has it, without network; a test is a module of it.
//!
//! `tests/conformance/python_modules.py` runs them and says which tests of each failed. Those that took least time on Linux are run first in oxv.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::runner::{Suite, Test};
use crate::{paths, run};

const PYTHON: &str = "/usr/bin/python3";
/// Also brings the byte code, which no package owns.
const LIBRARY: &str = "/usr/lib/python3.11";
/// Programs that modules start.
const PACKAGES: [&str; 7] = ["python3.11", "libpython3.11-testsuite", "coreutils", "procps", "util-linux", "grep", "findutils"];
/// Those that a few long modules start.
const COMPILERS: [&str; 3] = ["gcc", "g++", "libc6-dev"];
/// Modules that look for these pass on Linux only if their packages are installed: headers, of which `sysconfig` names one, and what names of
/// time zones mean.
const OTHERS: [&str; 2] = ["/usr/include/python3.11", "/usr/share/zoneinfo"];
/// Its modules are run one by one: as a whole it waits for ever where there is no network.
const PACKAGE: &str = "test_asyncio";

/// Which programs the machine has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Programs {
    /// All that any module starts.
    All,
    /// Without compilers, which make the image large.
    Few,
}

/// Finds the modules.
///
/// # Errors
/// When the package is not installed.
pub(super) fn prepare(programs: Programs) -> Result<Suite> {
    if !Path::new(LIBRARY).join("test/test_os.py").exists() {
        bail!("install the package libpython3.11-testsuite");
    }
    let listed = run::output(Command::new(PYTHON).args(["-m", "test", "--list-tests"]).env_clear())?;
    let driver = paths::root().join("tests/conformance/python_modules.py");
    let mut names: Vec<_> = listed.lines().filter(|line| line.starts_with("test_") && *line != PACKAGE).map(str::to_owned).collect();
    names.extend(modules(&Path::new(LIBRARY).join("test").join(PACKAGE))?.iter().map(|module| format!("{PACKAGE}.{module}")));
    names.sort();
    let test = |name: String| Test { name, program: PathBuf::from(PYTHON), args: Vec::new() };
    let compilers: &[&str] = if programs == Programs::All { &COMPILERS } else { &[] };
    let packages = PACKAGES.iter().chain(compilers).flat_map(|name| ["--package".to_owned(), (*name).to_owned()]);
    let beside = driver.with_file_name("python_network.txt").to_string_lossy().into_owned();
    let others = OTHERS.into_iter().filter(|file| Path::new(file).exists()).map(str::to_owned);
    let files = ["/bin/sh".to_owned(), LIBRARY.to_owned(), driver.to_string_lossy().into_owned(), beside].into_iter().chain(others).flat_map(|file| ["--add".to_owned(), file]);
    Ok(Suite {
        name: "python",
        title: "CPython 3.11's regression suite, by module".to_owned(),
        memory: "1536M",
        by: vec![PYTHON.to_owned(), driver.to_string_lossy().into_owned()],
        options: packages.chain(files).collect(),
        tests: names.into_iter().map(test).collect(),
    })
}

/// The modules of tests in a directory.
fn modules(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().strip_suffix(".py").map(str::to_owned));
    Ok(names.filter(|name| name.starts_with("test_")).collect())
}
