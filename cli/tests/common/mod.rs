//! Runs the built `oxv` with a fake emulator: a bash script that finds its sockets in the arguments as the real one does.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of this")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Sets `$control`, `$stdin`, `$stdout`, `$stderr` and `$com1` to the descriptors of the machine's ports.
const FAKE_HEAD: &str = r#"#!/bin/bash
for word; do case "$word" in socket,id=*) id=${word#socket,id=}; printf -v "${id%%,*}" %s "${word##*fd=}";; esac; done
# exit_message KIND CODE
exit_message() { printf '\x09\0\0\0\x01'"\\x$(printf %02x $1)"'\0\0\0'"\\x$(printf %02x $2)"'\0\0\0' >&$control; }
message() { printf "\\x$(printf %02x $((${#2} + 1)))"'\0\0\0'"\\x$(printf %02x $1)"'%s' "$2" >&$control; }
"#;

/// A place for one test's files, with `oxv` ready to run there.
pub(crate) struct Bench {
    directory: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let directory = tempfile::tempdir().expect("tempdir");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let bench = Bench { directory };
        fs::write(bench.path("kernel"), "not booted by these tests").expect("write");
        bench.fake("exit_message 0 0; exit 1");
        bench
    }

    /// Also with links followed, so that it compares equal to a current directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().expect("canonical").join(name)
    }

    /// Writes an executable file.
    pub(crate) fn executable(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(&path, content).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    /// Makes the emulator behave as `body` says.
    pub(crate) fn fake(&self, body: &str) {
        self.executable("qemu", format!("{FAKE_HEAD}{body}\n"));
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_oxv")), arguments)
    }

    pub(crate) fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("OXV_QEMU", self.path("qemu"))
            .env("OXV_KERNEL", self.path("kernel"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn oxv(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).output().expect("start oxv"))
    }

    pub(crate) fn oxv_with_input(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start oxv");
        let mut stdin = child.stdin.take().expect("stdin");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("wait");
        // The other side may stop reading early.
        let _ = writer.join().expect("writer");
        Outcome::of(output)
    }
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Outcome {
        Outcome {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks exit code and that the message has all of `parts`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in: {}", self.stderr);
        }
    }
}
