//! CPython's own regression suite as Debian's package has it, without network; a test is a module of it.
//!
//! `tests/conformance/python_module.py` runs a module and says which of its tests failed.

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
/// Its modules are run one by one: as a whole it waits for ever where there is no network.
const PACKAGE: &str = "test_asyncio";
/// Those that have most to do with the system are run first.
const FIRST: [&str; 52] = [
    "test_os", "test_posix", "test_subprocess", "test_signal", "test_threading", "test_thread", "test_threadsignals", "test_socket", "test_selectors", "test_select",
    "test_poll", "test_epoll", "test_pty", "test_openpty", "test_fcntl", "test_ioctl", "test_mmap", "test_resource", "test_time", "test_tempfile", "test_shutil",
    "test_pathlib", "test_glob", "test_file", "test_fileio", "test_file_eintr", "test_fileutils", "test_posixpath", "test_genericpath", "test_stat", "test_pwd",
    "test_grp", "test_platform", "test_sysconfig", "test_fork1", "test_wait3", "test_wait4", "test_popen", "test_pipes", "test_queue", "test_sched", "test_faulthandler",
    "test_eintr", "test_asyncio", "test_concurrent_futures", "test_io", "test_mailbox", "test_dbm", "test_ctypes", "test_gc", "test_zipfile", "test_largefile",
];

/// Finds the modules.
///
/// # Errors
/// When the package is not installed.
pub(super) fn prepare() -> Result<Suite> {
    if !Path::new(LIBRARY).join("test/test_os.py").exists() {
        bail!("install the package libpython3.11-testsuite");
    }
    let listed = run::output(Command::new(PYTHON).args(["-m", "test", "--list-tests"]).env_clear())?;
    let driver = paths::root().join("tests/conformance/python_module.py");
    let mut names: Vec<_> = listed.lines().filter(|line| line.starts_with("test_") && *line != PACKAGE).map(str::to_owned).collect();
    names.extend(modules(&Path::new(LIBRARY).join("test").join(PACKAGE))?.iter().map(|module| format!("{PACKAGE}.{module}")));
    let rank = |name: &str| FIRST.iter().position(|&first| name.split('.').next() == Some(first)).unwrap_or(FIRST.len());
    names.sort_by_cached_key(|name| (rank(name), name.clone()));
    let test = |name: String| Test {
        args: vec![driver.to_string_lossy().into_owned(), name.clone()],
        name,
        program: PathBuf::from(PYTHON),
    };
    let packages = PACKAGES.iter().flat_map(|name| ["--package".to_owned(), (*name).to_owned()]);
    let beside = driver.with_file_name("python_network.txt").to_string_lossy().into_owned();
    let files = ["/bin/sh".to_owned(), LIBRARY.to_owned(), driver.to_string_lossy().into_owned(), beside].into_iter().flat_map(|file| ["--add".to_owned(), file]);
    Ok(Suite {
        name: "python",
        title: "CPython 3.11's regression suite, by module".to_owned(),
        memory: "1G",
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
