//! Streams, exit codes, signals and the terminal, with a fake emulator.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, Outcome};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const TRUE: [&str; 3] = ["run", "--", "true"];

#[test]
fn output_and_exit_code_come_through() {
    let bench = Bench::new();
    bench.fake("printf 'a\\0b' >&$stdout; printf err >&$stderr; exit_message 0 42; exit 1");
    let outcome = bench.oxv(&TRUE);
    assert_eq!((outcome.code, &outcome.stdout[..], outcome.stderr.as_str()), (Some(42), &b"a\0b"[..], "err"));
}

#[test]
fn signals_of_the_program_become_128_plus_n() {
    let bench = Bench::new();
    bench.fake("message 2 'killed by SIGSEGV at /bin/true+0x1'; exit_message 1 11; exit 1");
    bench.oxv(&TRUE).fails(139, &["killed by SIGSEGV at /bin/true+0x1"]);
}

#[test]
fn a_guest_that_cannot_start_the_program_says_so() {
    let bench = Bench::new();
    bench.fake("message 5 'cannot start /x: no memory'; exit_message 2 126; exit 1");
    bench.oxv(&TRUE).fails(126, &["oxv: cannot start /x: no memory"]);
}

#[test]
fn large_output_is_complete_even_when_the_emulator_ends_at_once() {
    let bench = Bench::new();
    bench.fake("head -c 100000000 /dev/zero >&$stdout; exit_message 0 0; exit 1");
    let outcome = bench.oxv(&TRUE);
    assert_eq!((outcome.code, outcome.stdout.len()), (Some(0), 100_000_000));
}

#[test]
fn input_arrives_whole_with_its_end() {
    let bench = Bench::new();
    bench.fake("cat <&$stdin >&$stdout; exit_message 0 0; exit 1");
    let input: Vec<u8> = (0..5_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let outcome = bench.oxv_with_input(&TRUE, &input);
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.stdout == input);
}

#[test]
fn a_dying_emulator_is_reported_with_its_words() {
    let bench = Bench::new();
    bench.fake("echo 'qemu: no such machine' >&2; exit 1");
    bench.oxv(&TRUE).fails(125, &["failed before the program ended", "qemu: no such machine", "--dry-run"]);
    bench.fake("kill -KILL $$");
    bench.oxv(&TRUE).fails(125, &["signal: 9"]);
}

#[test]
fn a_kernel_panic_shows_the_log() {
    let bench = Bench::new();
    bench.fake("printf 'KERNEL PANIC: out of luck\\n #0 0xffffffff80200000\\n' >&$com1; exit 253");
    bench.oxv(&TRUE).fails(125, &["it panicked", "KERNEL PANIC: out of luck", "#0 0xffffffff80200000", "bug in oxv"]);
}

#[test]
fn a_reset_guest_is_reported() {
    let bench = Bench::new();
    bench.fake("printf 'booting\\n' >&$com1; exit 0");
    bench.oxv(&TRUE).fails(125, &["triple fault", "booting"]);
}

#[test]
fn a_closed_reader_ends_the_program() {
    let bench = Bench::new();
    // As `yes` does: writes until that fails.
    bench.fake("trap '' PIPE; message 4 '{}'; while printf '%04096d' 0 >&$stdout; do :; done 2>/dev/null; exit_message 1 13; exit 1");
    let mut child = bench.command(&TRUE).stdout(Stdio::piped()).spawn().expect("start");
    let mut start = [0; 4];
    child.stdout.take().expect("stdout").read_exact(&mut start).expect("read");
    let status = wait(&mut child);
    assert_eq!(status.code(), Some(141));
}

#[test]
fn sigterm_is_passed_on_and_a_second_one_ends_the_machine() {
    let bench = Bench::new();
    // The second message comes after the first, so whoever sees it knows that oxv has heard from the guest.
    bench.fake("message 4 '{}'; message 2 heard; head -c 9 <&$control | od -An -tx1 >&$stdout; printf . >&$stdout; sleep 60");
    let mut child = bench.command(&TRUE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let mut stdout = child.stdout.take().expect("stdout");
    read_until(&mut child.stderr.take().expect("stderr"), "heard");
    kill(&child, Signal::TERM);
    // Length 5, type 2, signal 15.
    read_until(&mut stdout, "05 00 00 00 02 0f 00 00 00\n.");
    kill(&child, Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(143));
}

#[test]
fn before_the_guest_is_up_a_signal_ends_everything() {
    let bench = Bench::new();
    bench.fake("printf r >&$stdout; sleep 60");
    let mut child = bench.command(&TRUE).stdout(Stdio::piped()).spawn().expect("start");
    read_until(&mut child.stdout.take().expect("stdout"), "r");
    kill(&child, Signal::INT);
    assert_eq!(wait(&mut child).code(), Some(130));
}

#[test]
fn the_emulator_does_not_outlive_a_killed_oxv() {
    let bench = Bench::new();
    bench.fake("echo $$ >&$stdout; exec sleep 60");
    let mut child = bench.command(&TRUE).stdout(Stdio::piped()).spawn().expect("start");
    let pid = read_until(&mut child.stdout.take().expect("stdout"), "\n");
    let pid = Pid::from_raw(pid.trim().parse().expect("pid")).expect("pid");
    kill(&child, Signal::KILL);
    assert_eq!(wait(&mut child).signal(), Some(9));
    let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
    assert!(eventually(gone), "the emulator is still there");
}

#[test]
fn dry_run_prints_the_command_and_starts_nothing() {
    let bench = Bench::new();
    bench.fake("echo started > started");
    let outcome = bench.oxv(&["run", "--dry-run", "--smp", "3", "--memory", "64M", "--accel", "tcg", "--", "true"]);
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert_eq!(outcome.code, Some(0));
    for part in ["-smp 3", "-m 65536K", "microvm", "-accel tcg,thread=multi", ".img"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!bench.path("started").exists());
}

#[test]
fn the_same_command_uses_the_cached_image_and_a_changed_file_does_not() {
    let bench = Bench::new();
    std::fs::write(bench.path("data"), "one").expect("write");
    let image = || {
        let outcome = bench.oxv(&["run", "--dry-run", "--", "cat", "data"]);
        String::from_utf8_lossy(&outcome.stdout).into_owned()
    };
    let first = image();
    assert_eq!(first, image());
    std::fs::write(bench.path("data"), "two").expect("write");
    assert_ne!(first, image());
}

#[test]
fn a_built_image_runs() {
    let bench = Bench::new();
    assert_eq!(bench.oxv(&["build", "-o", "app.img", "--", "echo", "hi"]).code, Some(0));
    bench.fake("for word; do case $word in *app.img) printf %s \"$word\" >&$stdout;; esac; done; exit_message 0 0; exit 1");
    let outcome = bench.oxv(&["run", "--image", "app.img"]);
    assert_eq!((outcome.code, &outcome.stdout[..]), (Some(0), &b"app.img"[..]));
}

#[test]
fn the_terminal_is_raw_during_the_run_and_restored_after_it() {
    for ending in ["exit_message 0 0; exit 1", "exit_message 1 9; exit 1", "echo broken >&2; exit 1", "exit 253"] {
        let terminal = Terminal::new();
        let bench = Bench::new();
        bench.fake(&format!("printf ready >&$stdout; head -c 2 <&$stdin >&$stdout; {ending}"));
        let mut child = terminal.start(&bench);
        terminal.expect("ready");
        assert!(terminal.is_raw());
        terminal.type_in(b"\x03\x04");
        terminal.expect("\x03\x04");
        wait(&mut child);
        assert!(!terminal.is_raw(), "{ending}");
    }
}

#[test]
fn the_escape_key_leaves_and_signals_restore_the_terminal() {
    for signal in [None, Some(Signal::TERM), Some(Signal::HUP)] {
        let terminal = Terminal::new();
        let bench = Bench::new();
        bench.fake("printf ready >&$stdout; sleep 60");
        let mut child = terminal.start(&bench);
        terminal.expect("ready");
        match signal {
            None => terminal.type_in(b"\x01x"),
            Some(signal) => kill(&child, signal),
        }
        assert_eq!(wait(&mut child).code(), Some(signal.map_or(130, |s| 128 + s.as_raw())));
        assert!(!terminal.is_raw());
    }
}

#[test]
fn the_guest_learns_about_terminal_and_window_size() {
    let terminal = Terminal::new();
    let bench = Bench::new();
    bench.fake(
        "message 4 '{}'; printf %s \"$*\" | grep -o stdio=ttt >&$stdout; head -c 9 <&$control | od -An -tu1 >&$stdout
         printf more >&$stdout; head -c 9 <&$control | od -An -tu1 >&$stdout; exit_message 0 0; exit 1",
    );
    let mut child = terminal.start(&bench);
    terminal.expect("stdio=ttt");
    terminal.expect("5   0   0   0   1  24   0  80   0");
    terminal.expect("more");
    terminal.resize(50, 132);
    kill(&child, Signal::WINCH);
    terminal.expect("5   0   0   0   1  50   0 132   0");
    assert_eq!(wait(&mut child).code(), Some(0));
}

/// A pseudo-terminal; the test is the user.
struct Terminal {
    user: File,
    /// Kept open so that the mode survives oxv.
    line: OwnedFd,
}

impl Terminal {
    fn new() -> Terminal {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
        grantpt(&user).expect("grantpt");
        unlockpt(&user).expect("unlockpt");
        let name = ptsname(&user, Vec::new()).expect("ptsname").into_string().expect("utf-8");
        let line = File::options().read(true).write(true).open(name).expect("open").into();
        let terminal = Terminal { user: user.into(), line };
        terminal.resize(24, 80);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.line, size).expect("tcsetwinsize");
    }

    fn start(&self, bench: &Bench) -> Child {
        let line = || Stdio::from(self.line.try_clone().expect("dup"));
        bench.command(&TRUE).stdin(line()).stdout(line()).stderr(line()).spawn().expect("start")
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(self.line.as_fd()).expect("tcgetattr").local_modes.contains(LocalModes::ICANON)
    }

    fn type_in(&self, bytes: &[u8]) {
        (&self.user).write_all(bytes).expect("type");
    }

    fn expect(&self, text: &str) {
        read_until(&mut &self.user, text);
    }
}

/// Reads until the text read ends with or has `end`.
#[track_caller]
fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains(end) {
        match stream.read(&mut byte) {
            Ok(1) => text.push(byte[0] as char),
            _ => panic!("the stream ended after {text:?}, without {end:?}"),
        }
    }
    text
}

fn kill(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("kill");
}

#[track_caller]
fn wait(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    let ended = eventually(|| {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
    }
    assert!(ended, "oxv did not end");
    status.expect("it ended")
}

fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn arguments_and_environment_reach_the_guest() {
    let bench = Bench::new();
    std::fs::write(bench.path("script.py"), "x").expect("write");
    let built = bench.oxv(&["build", "-o", "app.img", "--env", "A=b", "--", "cat", "script.py"]);
    assert_eq!(built.code, Some(0), "{}", built.stderr);
    let bytes = std::fs::read(bench.path("app.img")).expect("read");
    let image = erofs::Image::new(&bytes).expect("image");
    let read = |path: &std::path::Path| {
        let mut inode = image.root().expect("root");
        for name in path.components().skip(1) {
            let name = name.as_os_str().as_encoded_bytes();
            inode = image.inode(inode.lookup(name).expect("lookup").expect("entry").nid).expect("inode");
        }
        let mut bytes = vec![0; inode.size as usize];
        inode.read_at(0, &mut bytes).expect("read");
        String::from_utf8(bytes).expect("utf-8")
    };
    assert_eq!(read(&bench.path("script.py")), "x");
    let exec: serde_json::Value = serde_json::from_str(&read(std::path::Path::new("/.oxv/exec.json"))).expect("json");
    assert_eq!(exec["argv"], serde_json::json!(["cat", "script.py"]));
    assert_eq!(exec["cwd"], bench.path("").to_str().expect("utf-8").trim_end_matches('/'));
    assert!(exec["env"].as_array().expect("array").contains(&"A=b".into()));
    let outcome = Outcome::of(bench.command(&["run", "--dry-run", "--image", "app.img"]).output().expect("start"));
    assert_eq!(outcome.code, Some(0));
}
