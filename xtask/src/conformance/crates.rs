//! The tests that crates bring along, from their published archives: `#[test]` functions in a few binaries, each run as a process of its own.
//!
//! `tests/conformance/crates` names the crates; cargo fetches them, and the tests are built in the target directory from copies, with the
//! versions of other crates that the archive's own `Cargo.lock` has. Nothing that was fetched is in the tree.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::runner::{Suite, Test, directory};
use crate::{paths, run};

/// A crate and how its tests are built and run.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    /// What the page says about it, behind name and version.
    what: &'static str,
    /// For `cargo test --no-run`: features, and which binaries.
    cargo: &'static [&'static str],
    /// For `oxv run`: what the tests need beside themselves.
    options: &'static [&'static str],
    /// Text for the end of one of its files: what the published archive has lost.
    append: Option<(&'static str, &'static str)>,
}

const SHELL: [&str; 4] = ["--package", "coreutils", "--add", "/bin/sh"];

pub(super) const NIX: Recipe = Recipe {
    name: "nix",
    what: "unit and integration tests, all features",
    cargo: &["--all-features", "--lib", "--tests"],
    options: &["--package", "coreutils", "--add", "/bin/sh", "--add", "/etc/passwd", "--add", "/etc/group"],
    append: None,
};

pub(super) const TOKIO: Recipe = Recipe {
    name: "tokio",
    what: "integration tests",
    cargo: &[
        "--features", "full,test-util", "--test", "tcp_*", "--test", "udp", "--test", "net_*", "--test", "uds_*", "--test", "unix_*", "--test", "fs*", "--test", "rt_*", "--test", "io_*",
        "--test", "sync_*", "--test", "time_*", "--test", "signal_*", "--test", "process_*", "--test", "task_*",
    ],
    options: &SHELL,
    append: None,
};

pub(super) const RUSTIX: Recipe = Recipe {
    name: "rustix",
    what: "unit tests, all interfaces; its integration tests are not in the published archive",
    cargo: &["--features", "all-apis", "--lib"],
    options: &[],
    append: None,
};

pub(super) const POLLING: Recipe = Recipe { name: "polling", what: "integration tests", cargo: &["--tests"], options: &[], append: None };

pub(super) const SOCKET2: Recipe = Recipe {
    name: "socket2",
    what: "unit tests; its integration tests are not in the published archive",
    cargo: &["--all-features", "--lib"],
    options: &[],
    append: None,
};

pub(super) const MEMMAP2: Recipe = Recipe {
    name: "memmap2",
    what: "unit tests and those of its `test` directory",
    cargo: &["--all-features", "--lib"],
    options: &[],
    append: Some(("src/lib.rs", "\n#[cfg(test)]\n#[path = \"../test/map.rs\"]\nmod test;\n")),
};

/// Fetches and builds the tests of a crate.
///
/// # Errors
/// When cargo cannot fetch or build it.
pub(super) fn prepare(recipe: &Recipe) -> Result<Suite> {
    let package = fetch(recipe.name)?;
    let source = copy(recipe, &package)?;
    let mut tests = Vec::new();
    for (name, program) in build(recipe, &source)? {
        tests.extend(listed(&name, &program)?);
    }
    if tests.is_empty() {
        bail!("{} has no tests", recipe.name);
    }
    Ok(Suite {
        name: recipe.name,
        title: format!("{} {} ({})", recipe.name, package.version, recipe.what),
        options: recipe.options.iter().map(|&word| word.to_owned()).collect(),
        memory: "2G",
        by: Vec::new(),
        tests,
    })
}

/// A package as cargo has unpacked it.
struct Package {
    version: String,
    directory: PathBuf,
}

/// Lets cargo fetch what `tests/conformance/crates` names.
fn fetch(name: &str) -> Result<Package> {
    let manifest = paths::root().join("tests/conformance/crates/Cargo.toml");
    run::check(run::cargo().args(["fetch", "--locked", "--quiet", "--manifest-path"]).arg(&manifest))
        .context("the crate cannot be fetched; is a package registry within reach?")?;
    let metadata = run::output(run::cargo().args(["metadata", "--locked", "--offline", "--format-version", "1", "--manifest-path"]).arg(&manifest))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let package = metadata["packages"].as_array().and_then(|packages| packages.iter().find(|package| package["name"] == name));
    let field = |field: &str| package.and_then(|package| package[field].as_str()).with_context(|| format!("cargo metadata has no {field} of {name}"));
    let directory = Path::new(field("manifest_path")?).parent().context("a manifest lies in a directory")?.to_owned();
    Ok(Package { version: field("version")?.to_owned(), directory })
}

/// A copy to build in: a workspace of its own, in which other crates' dependency on this one is this one.
fn copy(recipe: &Recipe, package: &Package) -> Result<PathBuf> {
    let source = directory(recipe.name)?.join(format!("source-{}", package.version));
    if source.join("ready").exists() {
        return Ok(source);
    }
    run::check(Command::new("cp").args(["-r", "-T"]).arg(&package.directory).arg(&source))?;
    let manifest = source.join("Cargo.toml");
    let lock = std::fs::read_to_string(source.join("Cargo.lock")).context("the archive has no Cargo.lock")?;
    let others = other_versions(&lock, recipe.name, &package.version);
    let patch = if others.is_empty() { String::new() } else { format!("[patch.crates-io]\n{} = {{ path = \".\" }}\n", recipe.name) };
    let text = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, format!("{text}\n[workspace]\n{patch}"))?;
    if let Some((file, more)) = recipe.append {
        let file = source.join(file);
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(file, text + more)?;
    }
    for other in others {
        let name = format!("{}@{other}", recipe.name);
        run::check(run::cargo().args(["update", "--quiet", &name, "--precise", &package.version, "--manifest-path"]).arg(&manifest))?;
    }
    std::fs::write(source.join("ready"), "")?;
    Ok(source)
}

/// The versions of `name` in a `Cargo.lock` but `own`.
fn other_versions(lock: &str, name: &str, own: &str) -> Vec<String> {
    let name = format!("name = \"{name}\"");
    let lines: Vec<_> = lock.lines().collect();
    let version = |pair: &[&str]| pair[1].strip_prefix("version = \"")?.strip_suffix('"').map(str::to_owned);
    lines.windows(2).filter(|pair| pair[0] == name).filter_map(version).filter(|version| version != own).collect()
}

/// Builds the tests: names and programs.
fn build(recipe: &Recipe, source: &Path) -> Result<Vec<(String, PathBuf)>> {
    eprintln!("conformance: building the tests of {}", recipe.name);
    let mut cargo = run::cargo();
    cargo.args(["test", "--no-run", "--quiet", "--message-format=json", "--manifest-path"]).arg(source.join("Cargo.toml")).args(recipe.cargo);
    // The programs go into memory, dozens of them.
    cargo.env("CARGO_TARGET_DIR", directory("target")?).env("CARGO_PROFILE_TEST_DEBUG", "0").env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo.env("CARGO_PROFILE_TEST_STRIP", "symbols").env("CARGO_INCREMENTAL", "0");
    let messages = run::output(&mut cargo)?;
    let mut built: Vec<_> = messages.lines().filter_map(|line| artifact(&serde_json::from_str(line).ok()?)).collect();
    built.sort();
    Ok(built)
}

/// The test program that a message of cargo tells of.
fn artifact(message: &Value) -> Option<(String, PathBuf)> {
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let program = message["executable"].as_str().filter(|_| is_test)?;
    Some((message["target"]["name"].as_str()?.to_owned(), program.into()))
}

/// The tests in a program, but those that are to be ignored.
fn listed(name: &str, program: &Path) -> Result<Vec<Test>> {
    let list = |more: &[&str]| {
        let text = run::output(Command::new(program).args(["--list", "--format", "terse"]).args(more).stdin(Stdio::null()))?;
        anyhow::Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect::<Vec<_>>())
    };
    let ignored = list(&["--ignored"])?;
    let test = |test: String| Test { name: format!("{name}::{test}"), program: program.to_owned(), args: vec!["--exact".to_owned(), test] };
    Ok(list(&[])?.into_iter().filter(|test| !ignored.contains(test)).map(test).collect())
}

#[cfg(test)]
mod tests {
    use super::{artifact, other_versions};
    use serde_json::json;

    #[test]
    fn other_versions_of_a_crate_are_found_in_its_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.0\"\n\n[[package]]\nname = \"a\"\nversion = \"1.2.1\"\n\n[[package]]\nname = \"ab\"\nversion = \"1.2.2\"\n";
        assert_eq!(other_versions(lock, "a", "1.2.1"), ["1.2.0"]);
        assert!(other_versions(lock, "ab", "1.2.2").is_empty());
    }

    #[test]
    fn test_programs_are_told_from_others() {
        let message = |test: bool| json!({"reason": "compiler-artifact", "profile": {"test": test}, "target": {"name": "uds"}, "executable": "/x/uds-1"});
        assert_eq!(artifact(&message(true)), Some(("uds".to_owned(), "/x/uds-1".into())));
        assert_eq!(artifact(&message(false)), None);
        assert_eq!(artifact(&json!({"reason": "build-finished"})), None);
    }
}
