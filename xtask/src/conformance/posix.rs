//! The Open POSIX Test Suite 1.5.2 as Debian's source package has it: a `main` per assertion, which returns 0 for "passed".
//!
//! The source is fetched by apt from where this machine gets its packages, into the target directory.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::runner::{Suite, Test, directory};
use crate::run;

/// Where the tests are in it.
const INTERFACES: &str = "conformance/interfaces";
const PACKAGE: &str = "posixtestsuite";
/// What the package's own rules compile with, but for warnings.
const FLAGS: [&str; 6] = ["-w", "-O1", "-pipe", "-std=gnu89", "-D_XOPEN_SOURCE=600", "-D_GNU_SOURCE"];
const LIBRARIES: [&str; 3] = ["-lpthread", "-lrt", "-lm"];
/// Debian's package sources.
const SOURCES: &str = "/etc/apt/sources.list.d/debian.sources";

/// Fetches it and builds all of it, or the tests of these names.
///
/// # Errors
/// When apt does not find the source package.
pub(super) fn prepare(names: Option<&[&str]>) -> Result<Suite> {
    let directory = directory("posix")?;
    let source = match unpacked(&directory) {
        Some(source) => source,
        None => fetch(&directory).context("the Open POSIX Test Suite cannot be fetched; is a mirror with Debian's source packages within reach?")?,
    };
    let tests = build(&source, &directory.join("bin"), names)?;
    Ok(Suite {
        name: "posix",
        title: "Open POSIX Test Suite 1.5.2 (interface tests)".to_owned(),
        // Some run `sleep` and a shell.
        options: ["--package", "coreutils", "--add", "/bin/sh"].map(str::to_owned).to_vec(),
        memory: "1G",
        by: Vec::new(),
        tests,
    })
}

fn unpacked(directory: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| path.join(INTERFACES).is_dir())
}

/// `apt-get source`, with source packages switched on for this call alone.
fn fetch(directory: &Path) -> Result<PathBuf> {
    let sources = std::fs::read_to_string(SOURCES).with_context(|| format!("cannot read {SOURCES}"))?;
    let parts = directory.join("apt");
    std::fs::create_dir_all(parts.join("lists/partial"))?;
    std::fs::write(parts.join("debian.sources"), sources.replace("Types: deb\n", "Types: deb-src\n"))?;
    let parts = parts.to_string_lossy();
    let options = [
        "Dir::Etc::sourcelist=/dev/null".to_owned(),
        format!("Dir::Etc::sourceparts={parts}"),
        format!("Dir::State::lists={parts}/lists"),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        for option in &options {
            command.args(["-o", option]);
        }
        run::check(command.arg("-q").args(words).current_dir(directory).stdout(std::io::stderr()))
    };
    apt(&["update"])?;
    apt(&["source", PACKAGE])?;
    unpacked(directory).context("apt-get source has unpacked no conformance/interfaces")
}

/// Compiles every test that has a `main`, a few at a time. One that does not compile is left out, as in the suite's own makefile.
fn build(source: &Path, bin: &Path, names: Option<&[&str]>) -> Result<Vec<Test>> {
    let mut work = sources(source)?;
    work.sort();
    let wanted = |test: &Test| names.is_none_or(|names| names.contains(&test.name.as_str()));
    let tests = work.iter().filter_map(|path| Some((path, test(source, path, bin)?))).filter(|(_, test)| wanted(test)).collect::<Vec<_>>();
    let left = Mutex::new(tests.iter().filter(|(_, test)| !test.program.exists()).collect::<Vec<_>>());
    eprintln!("conformance: {} tests, {} to compile", tests.len(), left.lock().map_or(0, |left| left.len()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((path, test)) = left.lock().ok().and_then(|mut left| left.pop()) {
                    compile(source, path, &test.program);
                }
            });
        }
    });
    let built: Vec<_> = tests.into_iter().map(|(_, test)| test).filter(|test| test.program.exists()).collect();
    if built.is_empty() {
        bail!("no test compiles");
    }
    Ok(built)
}

/// Every C file below the interfaces that has a `main` and is to be run.
fn sources(source: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut directories) = (Vec::new(), vec![source.join(INTERFACES)]);
    while let Some(directory) = directories.pop() {
        for path in std::fs::read_dir(&directory)?.flatten().map(|entry| entry.path()) {
            let is_c = path.extension().is_some_and(|extension| extension == "c");
            if path.is_dir() {
                directories.push(path);
            } else if is_c && !path.to_string_lossy().contains("buildonly") && has_main(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn has_main(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|text| text.windows(5).any(|word| word == b"main(" || word == b"main "))
}

fn test(source: &Path, path: &Path, bin: &Path) -> Option<Test> {
    let name = path.strip_prefix(source.join(INTERFACES)).ok()?.with_extension("").to_string_lossy().into_owned();
    Some(Test { program: bin.join(&name), name, args: Vec::new() })
}

fn compile(source: &Path, path: &Path, program: &Path) {
    let Some(directory) = program.parent() else { return };
    // Failing here shows when the compiler cannot write.
    let _made = std::fs::create_dir_all(directory);
    let mut gcc = Command::new("gcc");
    gcc.args(FLAGS).arg("-I").arg(source.join("include")).arg("-o").arg(program).arg(path).args(LIBRARIES);
    // What does not compile is left out: some test optional parts of the standard that the C library does not have.
    let _left_out = gcc.stderr(std::process::Stdio::null()).status();
}
