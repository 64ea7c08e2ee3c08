//! `cargo xtask lint`: rules that clippy, the dependency graph and a disassembler can check.
//!
//! * clippy without warnings, for the host's crates and for the kernel's;
//! * no spinning in the sources: an exception is a line of the table in `doc/locking.md` that names the file;
//! * no crate in the kernel's dependency graph that spins or needs std;
//! * in the kernel's code: no AVX outside the routines that save its state, no use of FS (the program's), no `swapgs`; and quiet system
//!   calls are quiet, see [`quiet`].

use crate::{build, paths, quiet, run};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of `cargo xtask lint`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Leave clippy out.
    #[arg(long)]
    no_clippy: bool,
}

/// A check returns what it found wrong.
type Check = (&'static str, fn() -> Result<Vec<String>>);

/// Runs all checks, then reports.
///
/// # Errors
/// When one found something.
pub(crate) fn command(options: &Options) -> Result<()> {
    let checks: [Check; 6] = [
        ("clippy, host crates", clippy_host),
        ("clippy, kernel crates", clippy_kernel),
        ("spinning in sources", spinning),
        ("dependency graph of the kernel", dependencies),
        ("instructions of the kernel", instructions),
        ("paths of this machine in files", local_paths),
    ];
    let mut failed = 0;
    for (name, check) in checks {
        if options.no_clippy && name.starts_with("clippy") {
            continue;
        }
        let found = check().with_context(|| name.to_owned())?;
        println!("lint: {name}: {}", if found.is_empty() { "ok" } else { "FAILED" });
        found.iter().for_each(|line| println!("  {line}"));
        failed += usize::from(!found.is_empty());
    }
    match failed {
        0 => Ok(()),
        _ => bail!("lint: {failed} checks failed"),
    }
}

fn clippy(arguments: &[&str]) -> Result<Vec<String>> {
    let mut command = run::cargo();
    command.args(["clippy", "--quiet"]).args(arguments).args(["--", "-D", "warnings"]);
    let status = command.status().context("cannot start cargo clippy")?;
    Ok(if status.success() { Vec::new() } else { vec!["see clippy's messages above".to_owned()] })
}

fn clippy_host() -> Result<Vec<String>> {
    clippy(&["--package", "cli", "--package", "xtask", "--package", "guest-tests", "--all-targets"])
}

fn clippy_kernel() -> Result<Vec<String>> {
    let target = paths::target().join("kernel");
    let target = target.to_string_lossy();
    clippy(&[
        "--package", "image", "--target", build::TARGET, "--target-dir", &target, "--profile", "kernel-dev", "--config", build::CONFIG,
    ])
}

/// Directories with code that runs in the kernel.
const KERNEL_SOURCES: [&str; 7] = ["libs", "arch", "platform", "drivers", "kernel", "linux", "image"];

/// What a spin looks like. `yield_now` in a loop on a lock word would be one too, but has honest uses.
const SPINS: [&str; 4] = ["spin_loop", "compare_exchange_weak_spin", "Backoff", "SpinLock"];

/// Uses of a spinning instruction or type in files that doc/locking.md does not name.
fn spinning() -> Result<Vec<String>> {
    let excepted = fs::read_to_string(paths::root().join("doc/locking.md")).unwrap_or_default();
    let mut found = Vec::new();
    for dir in KERNEL_SOURCES {
        for file in sources(&paths::root().join(dir))? {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = relative(&file);
            if excepted.contains(&name) || is_test(&name) {
                continue;
            }
            found.extend(spins(&text).map(|(number, line)| format!("{name}:{number}: {line}")));
        }
    }
    Ok(found)
}

/// Numbered lines of code, not of comments, that spin: by name, by `pause`, or as a loop with an empty body.
fn spins(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())).filter(|(_, line)| {
        let code = !line.starts_with("//") && !line.starts_with('#');
        let empty_loop = (line.starts_with("while ") || line.starts_with("loop ")) && line.ends_with("{}");
        code && (empty_loop || is_pause(line) || SPINS.iter().any(|word| line.contains(word)))
    })
}

/// Code that runs on the host only.
fn is_test(name: &str) -> bool {
    let stem = name.rsplit('/').next().unwrap_or(name);
    name.contains("/tests/") || stem.contains("tests.rs") || stem == "testing.rs"
}

/// The instruction, in assembly text.
fn is_pause(line: &str) -> bool {
    line == "pause" || line.contains("\"pause\"") || line.starts_with("pause;")
}

fn relative(file: &Path) -> String {
    file.strip_prefix(paths::root()).unwrap_or(file).to_string_lossy().into_owned()
}

/// Rust and assembly files below a directory.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default();
        if path.is_dir() && path.file_name() != Some("target".as_ref()) {
            files.extend(sources(&path)?);
        } else if extension == "rs" || extension == "S" || extension == "s" {
            files.push(path);
        }
    }
    Ok(files)
}

/// Crates that spin inside, or that quietly bring std.
const FORBIDDEN: [&str; 12] = [
    "spin", "spinning_top", "spinlock", "lazy_static", "crossbeam-queue", "crossbeam-utils", "concurrent-queue", "parking_lot",
    "parking_lot_core", "tracing-core", "cordyceps", "rustix",
];

fn dependencies() -> Result<Vec<String>> {
    let tree = run::output(run::cargo().args([
        "tree", "--package", "image", "--edges", "normal", "--prefix", "none", "--no-dedupe", "--target", build::TARGET,
    ]))?;
    let mut found: Vec<_> = tree
        .lines()
        .filter(|line| line.split(' ').next().is_some_and(|name| FORBIDDEN.contains(&name)))
        .map(|line| format!("{line}: `cargo tree -p image -i {}` says who wants it", line.split(' ').next().unwrap_or(line)))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Functions that may touch upper vector state: they save and restore a program's.
const AVX_ALLOWED: [&str; 2] = ["xstate", "fpu"];

/// Looks through the kernel's disassembly.
fn instructions() -> Result<Vec<String>> {
    let kernel = build::kernel(&build::Options { dev: false })?;
    let text = run::output(Command::new("objdump").args(["-d", "-C", "--no-show-raw-insn"]).arg(&kernel))?;
    let mut found = bad_instructions(&text);
    found.extend(quiet::check(&kernel, &quiet::Listing::parse(&text))?);
    Ok(found)
}

fn bad_instructions(listing: &str) -> Vec<String> {
    let mut function = "";
    let mut found = Vec::new();
    for line in listing.lines() {
        if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            function = name;
        } else if let Some(fault) = fault_of(line, function) {
            found.push(format!("{fault} in {function}: {}", line.trim()));
        }
    }
    found
}

fn fault_of(line: &str, function: &str) -> Option<&'static str> {
    let avx = line.contains("%ymm") || line.contains("%zmm");
    let reads_only = line.contains("\tvptest "); // how the scheduler looks for live upper halves
    if avx && !reads_only && !AVX_ALLOWED.iter().any(|name| function.contains(name)) {
        return Some("AVX register");
    }
    if line.contains("%fs:") {
        return Some("use of FS, which is the program's,");
    }
    line.contains("swapgs").then_some("swapgs")
}

/// Files must not say where somebody's home or build directory is.
fn local_paths() -> Result<Vec<String>> {
    let root = paths::root().to_string_lossy().into_owned();
    if root.len() < 6 {
        return Ok(Vec::new()); // too short to mean anything
    }
    let hits = Command::new("git").current_dir(paths::root()).args(["grep", "-lF", &root]).output().context("cannot start git")?;
    Ok(String::from_utf8_lossy(&hits.stdout).lines().map(|file| format!("{file} contains {root}")).collect())
}

#[cfg(test)]
mod tests {
    use super::{bad_instructions, spins};

    #[test]
    fn spins_are_found_in_code_only() {
        let text = "// spin_loop is forbidden\ncore::hint::spin_loop();\nwhile busy() {}\nloop {\nlet x = 1;\n";
        let lines: Vec<_> = spins(text).map(|(number, _)| number).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn instructions_are_blamed_on_their_function() {
        let listing = "ffff <memcpy>:\n  10: vmovdqu %ymm0,(%rdi)\nfff0 <fpu_save>:\n  20: vmovdqu %ymm1,(%rdi)\nff00 <x>:\n  30: mov %fs:0x28,%rax\n";
        let found = bad_instructions(listing);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("memcpy") && found[1].contains("FS"));
    }
}
