//! Suites that write files and read them back: fsx from the Rust registry, and fio with `verify`. A test is a file of
//! `tests/conformance/fsx` or `tests/conformance/fio`; all work in `/dev/shm`.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

use super::runner::{Suite, Test, directory};
use crate::{paths, run};

const FSX_VERSION: &str = "0.3.2";
/// Each configuration of fsx is run with these seeds.
const SEEDS: [u32; 3] = [1, 2, 3];
/// Operations of each run.
const OPERATIONS: u32 = 10_000;
const FIO: &str = "/usr/bin/fio";

/// Fetches and builds fsx.
///
/// # Errors
/// When cargo cannot.
pub(super) fn fsx() -> Result<Suite> {
    let root = directory("fsx")?;
    let program = root.join("bin/fsx");
    if !program.exists() {
        run::check(run::cargo().args(["install", "--locked", "--version", FSX_VERSION, "--root"]).arg(&root).arg("fsx").env("CARGO_TARGET_DIR", root.join("target")))?;
        // Only the program is of use from now on.
        std::fs::remove_dir_all(root.join("target"))?;
    }
    let mut tests = Vec::new();
    for (name, file) in files("fsx")? {
        tests.extend(SEEDS.iter().map(|seed| {
            let (name, file) = (format!("{name}/{seed}"), file.to_string_lossy());
            let (operations, seed, work) = (OPERATIONS.to_string(), seed.to_string(), format!("/dev/shm/fsx.{}", name.replace('/', ".")));
            let args = ["-f", &file, "-N", &operations, "-S", &seed, &work].map(str::to_owned).to_vec();
            Test { name, program: program.clone(), args }
        }));
    }
    Ok(Suite { name: "fsx", title: "fsx 0.3.2 on tmpfs".to_owned(), memory: "512M", by: Vec::new(), options: ["--package", "libc6"].map(str::to_owned).into_iter().chain(added("fsx")).collect(), tests })
}

/// The jobs for fio.
///
/// # Errors
/// When the package is not installed.
pub(super) fn fio() -> Result<Suite> {
    if !Path::new(FIO).exists() {
        bail!("install the package fio");
    }
    let test = |(name, file): (String, PathBuf)| Test { name, program: PathBuf::from(FIO), args: vec![file.to_string_lossy().into_owned()] };
    let options = ["--package", "fio"].map(str::to_owned).into_iter().chain(added("fio")).collect();
    Ok(Suite { name: "fio", title: "fio with verify and threads, on tmpfs".to_owned(), memory: "1G", by: Vec::new(), options, tests: files("fio")?.into_iter().map(test).collect() })
}

fn configurations(suite: &str) -> PathBuf {
    paths::root().join("tests/conformance").join(suite)
}

fn added(suite: &str) -> Vec<String> {
    vec!["--add".to_owned(), configurations(suite).to_string_lossy().into_owned()]
}

/// A suite's configurations, by name.
fn files(suite: &str) -> Result<Vec<(String, PathBuf)>> {
    let directory = configurations(suite);
    let entries = std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter_map(|path| Some((path.file_stem()?.to_string_lossy().into_owned(), path.clone()))).collect();
    files.sort();
    Ok(files)
}
