//! Every wrong use gives one message that names the thing, the cause and the remedy, and the right exit code.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use common::{Bench, Outcome};

/// A 64-byte ELF header for `machine`.
fn elf_header(class: u8, machine: u16) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    bytes.extend(machine.to_le_bytes());
    bytes.resize(64, 0);
    bytes
}

/// Where `needle` stands in a copy of /bin/true, put to `replacement` of the same length.
fn patched_true(needle: &str, replacement: &str) -> Vec<u8> {
    assert_eq!(needle.len(), replacement.len());
    let mut bytes = fs::read("/bin/true").expect("read /bin/true");
    let at = bytes.windows(needle.len()).position(|w| w == needle.as_bytes()).expect("needle");
    bytes[at..at + needle.len()].copy_from_slice(replacement.as_bytes());
    bytes
}

#[test]
fn a_missing_program_names_the_places_searched() {
    let bench = Bench::new();
    bench.oxv(&["run", "--", "no-such-program"]).fails(127, &["cannot find the program 'no-such-program'", "looked in /", "install"]);
    bench.oxv(&["run", "--", "./no-such-program"]).fails(127, &["no-such-program"]);
    bench.oxv(&["run", "--", ""]).fails(127, &["cannot find the program ''"]);
}

#[test]
fn directories_and_special_files_are_no_programs() {
    let bench = Bench::new();
    bench.oxv(&["run", "--", "/usr"]).fails(126, &["'/usr'", "is a directory", "--add DIR"]);
    bench.oxv(&["run", "--", "/dev/null"]).fails(127, &["/dev/null"]);
}

#[test]
fn files_that_are_not_programs_are_told_apart() {
    let bench = Bench::new();
    bench.executable("text", "just text\n");
    bench.oxv(&["run", "--", "./text"]).fails(126, &["text'", "neither an ELF program nor a script"]);
    fs::write(bench.path("data"), "x").expect("write");
    bench.oxv(&["run", "--", "./data"]).fails(126, &["no execute permission", "chmod +x"]);
    bench.executable("empty", "");
    bench.oxv(&["run", "--", "./empty"]).fails(126, &["neither an ELF"]);
}

#[test]
fn programs_for_other_machines_are_named() {
    let bench = Bench::new();
    for (class, machine, name) in [(2, 183, "aarch64"), (1, 3, "i386"), (1, 62, "x32"), (2, 243, "riscv64")] {
        bench.executable("foreign", elf_header(class, machine));
        bench.oxv(&["run", "--", "./foreign"]).fails(126, &["foreign'", name, "x86-64"]);
    }
}

#[test]
fn damaged_elf_files_are_refused() {
    let bench = Bench::new();
    bench.executable("short", &fs::read("/bin/true").expect("read")[..40]);
    bench.oxv(&["run", "--", "./short"]).fails(126, &["damaged"]);
}

#[test]
fn a_missing_interpreter_is_named() {
    let bench = Bench::new();
    bench.executable("program", patched_true("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.9"));
    bench.oxv(&["run", "--", "./program"]).fails(127, &["interpreter '/lib64/ld-linux-x86-64.so.9' does not exist"]);
    bench.executable("script", "#!/no/such/shell\n");
    bench.oxv(&["run", "--", "./script"]).fails(127, &["script'", "/no/such/shell"]);
    bench.executable("env-script", "#!/usr/bin/env no-such-language\n");
    bench.oxv(&["run", "--", "./env-script"]).fails(127, &["no-such-language"]);
}

#[test]
fn a_missing_library_is_named_with_who_needs_it() {
    let bench = Bench::new();
    bench.executable("program", patched_true("libc.so.6\0", "libq.so.6\0"));
    let outcome = bench.oxv(&["run", "--", "./program"]);
    outcome.fails(127, &["'libq.so.6'", "needed by", "program'", "/etc/ld.so.cache", "LD_LIBRARY_PATH"]);
}

#[test]
fn scripts_in_a_circle_end() {
    let bench = Bench::new();
    let path = bench.path("a");
    bench.executable("a", format!("#!{}\n", path.display()));
    bench.oxv(&["run", "--", "./a"]).fails(126, &["more than 5"]);
}

#[test]
fn an_unreadable_program_is_named() {
    let bench = Bench::new();
    let program = bench.executable("secret", fs::read("/bin/true").expect("read"));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o711)).expect("chmod");
    // The tests may run as root, who may read everything.
    let oxv = bench.executable("oxv", fs::read(env!("CARGO_BIN_EXE_oxv")).expect("read"));
    let mut command = bench.command_of(&oxv, &["run", "--", "./secret"]);
    if rustix::process::getuid().is_root() {
        command.uid(65534).gid(65534);
    } else {
        fs::set_permissions(&program, fs::Permissions::from_mode(0o111)).expect("chmod");
    }
    let outcome = Outcome::of(command.output().expect("start"));
    outcome.fails(126, &["cannot read", "secret'", "Permission denied", "chmod +r"]);
}

#[test]
fn impossible_machines_are_refused() {
    let bench = Bench::new();
    for value in ["0", "1000", "many"] {
        bench.oxv(&["run", "--smp", value, "--", "true"]).fails(125, &["--smp", value, "1 to 64"]);
    }
    bench.oxv(&["run", "--memory", "8M", "--", "true"]).fails(125, &["--memory 8M is too small", "needs at least", "or more"]);
    bench.oxv(&["run", "--memory", "lots", "--", "true"]).fails(125, &["'lots'", "64M"]);
    bench.oxv(&["run", "--no-such-option", "--", "true"]).fails(125, &["--no-such-option"]);
    bench.oxv(&["run"]).fails(125, &["PROGRAM"]);
}

#[test]
fn damaged_images_are_refused_before_booting() {
    let bench = Bench::new();
    bench.fake("echo started > started");
    let built = bench.oxv(&["build", "-o", "app.img", "--", "true"]);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let good = fs::read(bench.path("app.img")).expect("read");
    let mut flipped = good.clone();
    flipped[1024 + 16] ^= 0xff;
    for (bytes, cause) in [(&good[..good.len() / 2], "truncated"), (&flipped, "checksum"), (&b"text"[..], "truncated"), (&[0; 8192], "not an EROFS image")] {
        fs::write(bench.path("bad.img"), bytes).expect("write");
        bench.oxv(&["run", "--image", "bad.img"]).fails(125, &["bad.img' is not a usable oxv image", cause, "oxv build"]);
    }
    bench.oxv(&["run", "--image", "none.img"]).fails(125, &["none.img", "No such file"]);
    bench.oxv(&["run", "--image", "."]).fails(125, &["directory"]);
    assert!(!bench.path("started").exists());
}

#[test]
fn missing_things_of_our_own_are_named() {
    let bench = Bench::new();
    let with = |key: &str, value: &str| Outcome::of(bench.command(&["run", "--", "true"]).env(key, value).output().expect("start"));
    with("OXV_QEMU", "no-such-qemu").fails(125, &["cannot find the emulator 'no-such-qemu'", "apt-get install"]);
    with("OXV_KERNEL", "/no/kernel").fails(125, &["cannot find the oxv kernel", "/no/kernel", "cargo xtask build"]);
    bench.oxv(&["run", "--add", "no-such-file", "--", "true"]).fails(125, &["cannot add", "no-such-file"]);
    bench.oxv(&["run", "--rootfs", "no-such-root", "--", "true"]).fails(125, &["no-such-root", "tar"]);
    bench.oxv(&["run", "--package", "no-such-package", "--", "true"]).fails(125, &["no-such-package", "not installed"]);
}

#[test]
fn help_is_no_error() {
    let bench = Bench::new();
    for arguments in [&["--help"][..], &["run", "--help"], &["build", "-h"], &["--version"]] {
        let outcome = bench.oxv(arguments);
        assert_eq!(outcome.code, Some(0));
        assert!(!outcome.stdout.is_empty() && outcome.stderr.is_empty());
    }
}
