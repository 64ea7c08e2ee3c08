//! Reaching into a running machine from outside: QMP, and stopping one virtual CPU of it.
//!
//! A single virtual CPU is stopped by attaching to its emulator thread as a debugger does (`PTRACE_SEIZE`, `PTRACE_INTERRUPT`): a SIGSTOP,
//! even to one thread, stops the whole process, and a freezer group holds processes. The thread goes on when it is detached, or when
//! the one who attached dies. It may be stopped inside the emulator; then others wait for it there, as for any late CPU.
#![expect(unsafe_code, reason = "ptrace has no safe wrapper")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// QEMU's option to execute one instruction at a time.
pub const SINGLE_STEP: &str = "-singlestep";

/// Whether the emulator has that option; newer ones have another.
#[must_use]
pub fn can_single_step() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let output = Command::new("qemu-system-x86_64").args([SINGLE_STEP, "--version"]).output();
        output.is_ok_and(|output| output.status.success())
    })
}

/// Where the machine of one `oxv run` can be reached.
#[derive(Debug)]
pub struct Door {
    socket: PathBuf,
}

impl Door {
    /// Makes `command`, an `oxv run`, start its emulator with a QMP socket and `more` arguments.
    ///
    /// # Panics
    /// When the script that starts the emulator cannot be written.
    #[must_use]
    pub fn open(command: &mut Command, more: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("oxv-qmp-{}-{number}", std::process::id()));
        let script = crate::paths::guest_dir("machine").join(format!("qemu-{number}"));
        let text = format!("#!/bin/sh\nexec qemu-system-x86_64 \"$@\" {more} -qmp unix:{},server=on,wait=off\n", socket.display());
        std::fs::write(&script, text)
            .and_then(|()| std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", script.display()));
        command.env("OXV_QEMU", script);
        Self { socket }
    }

    /// Waits for the machine to be there.
    ///
    /// # Errors
    /// When it does not come within the limit.
    pub fn enter(&self, limit: Duration) -> Result<Monitor, String> {
        let end = Instant::now() + limit;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return Monitor::greet(stream),
                Err(error) if Instant::now() > end => return Err(format!("no machine at {}: {error}", self.socket.display())),
                Err(_) => std::thread::sleep(Duration::from_millis(3)),
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.socket);
    }
}

/// A conversation with QEMU.
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn greet(stream: UnixStream) -> Result<Self, String> {
        // An emulator whose threads are stopped does not answer.
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|error| error.to_string())?;
        let mut this = Self { lines: BufReader::new(stream) };
        this.read()?;
        this.execute("qmp_capabilities")?;
        Ok(this)
    }

    fn read(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Err("the machine is gone".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{error} in {line}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Runs a QMP command without arguments and returns its result.
    ///
    /// # Errors
    /// When the machine is gone, or refuses.
    pub fn execute(&mut self, command: &str) -> Result<Value, String> {
        self.request(&json!({ "execute": command }))
    }

    /// Runs a command of the human monitor.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn human(&mut self, line: &str) -> Result<Value, String> {
        self.request(&json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } }))
    }

    fn request(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.lines.get_mut(), "{request}").map_err(|error| error.to_string())?;
        loop {
            let mut answer = self.read()?;
            if !answer["error"].is_null() {
                return Err(answer["error"].to_string());
            }
            if !answer["return"].is_null() {
                return Ok(answer["return"].take());
            }
        }
    }

    /// The threads of the virtual CPUs, in their order.
    ///
    /// # Errors
    /// As [`Monitor::execute`].
    pub fn cpu_threads(&mut self) -> Result<Vec<i32>, String> {
        let cpus = self.execute("query-cpus-fast")?;
        let id = |cpu: &Value| cpu["thread-id"].as_i64().and_then(|id| i32::try_from(id).ok());
        Ok(cpus.as_array().into_iter().flatten().filter_map(id).collect())
    }
}

/// A stopped thread; it goes on when this is dropped. Stays in the thread that made it.
#[derive(Debug)]
pub struct Stopped {
    thread: i32,
    _here: std::marker::PhantomData<*const ()>,
}

/// Stops a thread of another process of ours. `None` if it is gone or may not be traced.
#[must_use]
pub fn stop(thread: i32) -> Option<Stopped> {
    // SAFETY: none of these requests reads or writes memory of ours.
    unsafe {
        if libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0) != 0 {
            return None;
        }
        let stopped = Stopped { thread, _here: std::marker::PhantomData };
        if libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0) != 0 || libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) != thread {
            return None;
        }
        Some(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as in `stop`.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, 0, 0) };
    }
}

/// How long a thread of `process` has run, by the host's scheduler.
#[must_use]
pub fn cpu_time(thread: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
