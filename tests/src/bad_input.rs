//! What `oxv` says when something is wrong: each message must name the thing, the cause and the remedy.

use crate::case::{Build, Program, Stdin};
use crate::run::{self, Outcome};
use crate::{compare, paths, toolchain};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A test that is not a comparison with the host.
pub struct Check {
    /// `group/what`.
    pub name: &'static str,
    /// Says what is wrong.
    pub run: fn() -> Result<(), String>,
}

/// Name and function of a check.
pub(crate) type Entry = (&'static str, fn() -> Result<(), String>);

/// Every check of this file.
#[must_use]
pub fn all() -> Vec<Check> {
    let checks: [Entry; 24] = [
        ("bad/missing-program", || refused(&["run", "--", "/no/such/program"], 127, &["/no/such/program"])),
        ("bad/directory", || refused(&["run", "--", "/usr"], 126, &["/usr", "directory"])),
        ("bad/not-elf", not_elf),
        ("bad/unreadable", unreadable),
        ("bad/wrong-architecture", wrong_architecture),
        ("bad/truncated-elf", truncated_elf),
        ("bad/missing-interpreter", missing_interpreter),
        ("bad/missing-library", missing_library),
        ("bad/smp-0", || refused(&["run", "--smp", "0", "--", "/bin/true"], 125, &["--smp", "0", "64"])),
        ("bad/smp-1000", || refused(&["run", "--smp", "1000", "--", "/bin/true"], 125, &["--smp", "1000", "64"])),
        ("bad/memory-word", || refused(&["run", "--memory", "lots", "--", "/bin/true"], 125, &["--memory", "lots"])),
        ("bad/memory-8M", || refused(&["run", "--memory", "8M", "--", "/bin/true"], 125, &["8M", "--memory"])),
        ("bad/qemu-missing", || emulator("/no/such/qemu", &["/no/such/qemu", "install"])),
        ("bad/qemu-fails", qemu_fails),
        ("bad/kernel-missing", kernel_missing),
        ("bad/image-random", || damaged_image("random", |bytes| bytes.fill(0x5a))),
        ("bad/image-truncated", || damaged_image("truncated", |bytes| bytes.truncate(bytes.len() / 3))),
        ("bad/image-superblock", || damaged_image("superblock", |bytes| bytes[1024..1152].fill(0xff))),
        ("report/null", || crash("null", 139, &["SIGSEGV", "0x0", "die-dynamic", "crash_here", "rip"])),
        ("report/thread", || crash("thread-null", 139, &["SIGSEGV", "0x10", "die-dynamic", "crash_here"])),
        ("report/abort", || crash("abort", 134, &["SIGABRT", "libc.so.6"])),
        ("report/ud2", || crash("ud2", 132, &["SIGILL", "die-dynamic", "main"])),
        ("report/panic", kernel_panic),
        ("busybox/ls-root", list_root),
    ];
    checks.into_iter().map(|(name, run)| Check { name, run }).collect()
}

fn oxv<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(paths::oxv());
    command.args(args).current_dir("/");
    command
}

fn finish(command: &mut Command) -> Outcome {
    run::outcome(command, &Stdin::Empty, Duration::from_secs(120))
}

/// The command fails with this code, says all these words, and shows no panic of its own.
fn expect(command: &mut Command, exit: i32, words: &[&str]) -> Result<(), String> {
    let outcome = finish(command);
    let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
    let mut wrong = Vec::new();
    if outcome.exit != Some(exit) {
        wrong.push(format!("exit code {:?}, expected {exit}", outcome.exit));
    }
    wrong.extend(words.iter().filter(|&&word| !text.contains(word)).map(|word| format!("the message lacks {word:?}")));
    if text.contains("RUST_BACKTRACE") || text.contains("thread 'main'") {
        wrong.push("oxv itself panicked".to_owned());
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\n{}\nit said:\n{}", run::shown(command), wrong.join("\n"), compare::tail(text.as_bytes(), 40))),
    }
}

fn refused(args: &[&str], exit: i32, words: &[&str]) -> Result<(), String> {
    expect(&mut oxv(args), exit, words)
}

fn compiled(source: &'static str) -> Result<PathBuf, String> {
    toolchain::program(&Program::Source(source, Build::Dynamic)).map_err(|error| error.to_string())
}

/// Writes an executable file for one check.
fn file(name: &str, bytes: &[u8], mode: u32) -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    let path = paths::guest_dir("bad").join(name);
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::write(&path, bytes)
        .and_then(|()| std::fs::set_permissions(&path, permissions))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(path)
}

fn run_file(path: &Path, exit: i32, words: &[&str]) -> Result<(), String> {
    let shown = path.to_string_lossy();
    refused(&["run", "--", &shown], exit, &[&[shown.as_ref()], words].concat())
}

fn not_elf() -> Result<(), String> {
    run_file(&file("not-elf", b"just some text\n", 0o755)?, 126, &["ELF"])
}

fn unreadable() -> Result<(), String> {
    let path = file("unreadable", b"\x7fELF", 0o000)?;
    run_file(&path, 126, &[]) // the superuser can read it, and then it is a damaged ELF file
}

fn wrong_architecture() -> Result<(), String> {
    let mut bytes = std::fs::read(compiled("hello.c")?).map_err(|error| error.to_string())?;
    bytes[18] = 183; // e_machine: EM_AARCH64
    run_file(&file("aarch64", &bytes, 0o755)?, 126, &["aarch64", "x86-64"])
}

fn truncated_elf() -> Result<(), String> {
    let bytes = std::fs::read(compiled("hello.c")?).map_err(|error| error.to_string())?;
    run_file(&file("truncated", &bytes[..200], 0o755)?, 126, &["ELF"])
}

fn gcc(output: &str, args: &[&str]) -> Result<PathBuf, String> {
    let path = paths::guest_dir("bad").join(output);
    let mut command = Command::new("gcc");
    command.current_dir(paths::guest_dir("bad")).arg("-o").arg(&path).args(args);
    let result = command.output().map_err(|error| format!("cannot start gcc: {error}"))?;
    match result.status.success() {
        true => Ok(path),
        false => Err(String::from_utf8_lossy(&result.stderr).into_owned()),
    }
}

fn missing_interpreter() -> Result<(), String> {
    let source = paths::guest_source("hello.c").to_string_lossy().into_owned();
    let path = gcc("no-interpreter", &[&source, "-Wl,--dynamic-linker=/no/such/ld.so"])?;
    run_file(&path, 127, &["/no/such/ld.so"])
}

fn missing_library() -> Result<(), String> {
    let source = paths::guest_source("hello.c").to_string_lossy().into_owned();
    let empty = file("empty.c", b"int oxv_gone(void) { return 1; }\n", 0o644)?.to_string_lossy().into_owned();
    let library = gcc("liboxvgone.so.1", &[&empty, "-shared", "-fPIC", "-Wl,-soname,liboxvgone.so.1"])?;
    let shown = library.to_string_lossy().into_owned();
    let path = gcc("no-library", &[&source, "-Wl,--no-as-needed", &shown])?;
    std::fs::remove_file(&library).map_err(|error| error.to_string())?;
    run_file(&path, 127, &["liboxvgone.so.1"])
}

fn emulator(path: &str, words: &[&str]) -> Result<(), String> {
    expect(oxv(["run", "--", "/bin/true"]).env("OXV_QEMU", path), 125, words)
}

fn qemu_fails() -> Result<(), String> {
    let path = file("qemu", b"#!/bin/sh\necho 'qemu: something is wrong' >&2\nexit 1\n", 0o755)?;
    let shown = path.to_string_lossy();
    emulator(&shown, &[&shown, "something is wrong"])
}

fn kernel_missing() -> Result<(), String> {
    let mut command = oxv(["run", "--", "/bin/true"]);
    expect(command.env("OXV_KERNEL", "/no/such/kernel"), 125, &["/no/such/kernel"])
}

/// An image that was damaged after `oxv build` wrote it.
fn damaged_image(name: &str, damage: fn(&mut Vec<u8>)) -> Result<(), String> {
    let path = paths::guest_dir("bad").join(format!("{name}.img"));
    let shown = path.to_string_lossy().into_owned();
    let built = finish(&mut oxv(["build", "-o", &shown, "--", "/bin/true"]));
    if built.exit != Some(0) {
        return Err(format!("oxv build: exit code {:?}\n{}", built.exit, compare::tail(&built.stderr, 20)));
    }
    let mut bytes = std::fs::read(&path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    damage(&mut bytes);
    std::fs::write(&path, bytes).map_err(|error| format!("cannot write {shown}: {error}"))?;
    refused(&["run", "--image", &shown], 125, &[&shown])
}

/// A crash report names signal, address, registers, and the object and symbol of the instruction.
fn crash(how: &str, exit: i32, words: &[&str]) -> Result<(), String> {
    let program = compiled("die.c")?;
    let shown = program.to_string_lossy();
    for cpus in ["1", "4"] {
        expect(&mut oxv(["run", "--smp", cpus, "--", &shown, how]), exit, words)?;
    }
    Ok(())
}

fn kernel_panic() -> Result<(), String> {
    for cpus in ["1", "4"] {
        let mut command = oxv(["run", "--smp", cpus, "--append", "panic=test", "--", "/bin/true"]);
        expect(&mut command, 125, &["panic", "CPU", "#0", "#1", "kernel/src/boot.rs:", "context_start"])?;
    }
    Ok(())
}

/// Inside oxv the whole tree can be listed, /proc and all, and shows what an image has.
fn list_root() -> Result<(), String> {
    for cpus in ["1", "2", "4"] {
        let mut command = oxv(["run", "--smp", cpus, "--", "/bin/busybox", "ls", "-lR", "/"]);
        let outcome = finish(&mut command);
        let text = String::from_utf8_lossy(&outcome.stdout);
        let lacks = |line: &&&str| !text.lines().any(|found| found == **line);
        let missing: Vec<_> = ["/:", "/dev:", "/etc:", "/proc:", "/proc/1:", "/sys:", "/tmp:"].iter().filter(lacks).copied().collect();
        if outcome.exit != Some(0) || !missing.is_empty() {
            let tail = compare::tail(&outcome.stderr, 20);
            return Err(format!("{}\nexit code {:?}, not listed: {missing:?}\n{tail}", run::shown(&command), outcome.exit));
        }
    }
    Ok(())
}
