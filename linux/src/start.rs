//! The first program: mount the root, read `/.oxv/exec.json`, load the program, start its thread.
//!
//! Came from kernel/src/boot.rs; runs on a kernel thread that ends when the program runs. Next stops: `exec.rs`, and for the
//! program's first system call `entry.rs`.

#![expect(unsafe_code, reason = "defines a link-time symbol, reads the boot image")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Display;
use core::sync::atomic::{AtomicU64, Ordering};

use addr::{PhysAddr, layout};
use erofs::Image;
use kernel::thread::{Begin, ProgramThread, spawn_program};
use kernel::{boot_info, control, power};
use linux_abi::raw::RLIMIT_STACK;
use linux_abi::signal::{SigInfo, SigSet, Signal, code};
use serde::Deserialize;
use vfs::io::VecSink;
use vfs::mount::MountMode;
use vfs::ops::Context;
use vfs::tmpfs::TmpFs;
use vfs::walk::{Follow, Viewer};
use vfs::{Location, MountTable, Timespec, erofs_fs};

use crate::entry::Personality;
use crate::exec::{self, Request, SetId};
use crate::exit::FIRST_PID;
use crate::fdtable::FdTable;
use crate::held::Held;
use crate::process::{self, Belongings, Cred, FsState, Ids, Place, Process, Task};
use crate::signal::TaskSignals;
use crate::sys::info;
use crate::sys::ipc::UndoList;
use crate::{random, stdio, terminal};

const EXEC_JSON: &[u8] = b"/.oxv/exec.json";
const EXEC_JSON_MAX: usize = 4 << 20;
/// Device numbers of the image and of the layer above it.
const IMAGE_DEV: u64 = 0x100;
const ROOT_DEV: u64 = 0x101;
/// Exit code of oxv's own failures.
const FAILED: u8 = 125;

/// How to start the program; written by the host into the image.
#[derive(Debug, Deserialize)]
struct Exec {
    argv: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    cwd: String,
    exe: String,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    hostname: String,
}

/// Why the program was not started: what to tell the user, and the exit code.
struct Failure {
    message: String,
    code: u8,
}

fn failure(message: impl Display) -> Failure {
    Failure { message: message.to_string(), code: FAILED }
}

/// The wall clock as the file system wants it.
#[must_use]
pub fn wall_clock() -> Timespec {
    Timespec::from_ns(kernel::clock::realtime_ns())
}

/// The first thread's work.
#[unsafe(no_mangle)]
fn linux_start() {
    if let Err(failure) = start() {
        control::send_error(&failure.message);
        power::exit(power::ExitStatus::Failed(failure.code));
    }
}

fn start() -> Result<(), Failure> {
    gather_entropy();
    let mounts = Arc::new(mount_root()?);
    let fs = FsState::new(mounts);
    let exec = read_exec(&fs)?;
    info::set_hostname(if exec.hostname.is_empty() { "oxv" } else { &exec.hostname });
    crate::mounts::bound_names().map_err(|e| failure(format!("no memory for a thread: {e}")))?;
    crate::mounts::mount_all(&fs.mounts).map_err(|e| failure(format!("cannot mount /dev, /proc and /sys: {e}")))?;
    let files = FdTable::new();
    stdio::open(&files, &fs.mounts, boot_info().command_line.get("stdio").unwrap_or("ppp"))
        .map_err(|e| failure(format!("cannot open standard input and output: {e}")))?;
    crate::calls::start();
    control::on_message(from_host);
    if let Some((rows, columns)) = boot_info().command_line.get("winsize").and_then(parse_window_size) {
        crate::mounts::set_window_size(rows, columns);
    }
    // From now on the host may send signals.
    control::send_boot_times(&format!("{{\"ready_us\":{}}}", kernel::clock::monotonic_ns() / 1000));
    start_program(fs, files, exec)
}

/// `ROWSxCOLUMNS`.
fn parse_window_size(text: &str) -> Option<(u16, u16)> {
    let (rows, columns) = text.split_once('x')?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

/// Hardware randomness from the host, before the program can ask for any.
fn gather_entropy() {
    const SEED: usize = 64;
    let Some(rng) = kernel::devices::rng() else { return };
    let mut seed = [0; SEED];
    match rng.fill(&mut seed) {
        Ok(()) => random::add_entropy(&seed),
        Err(error) => log::warn!("no randomness from the host: {error}"),
    }
}

/// The boot image in memory.
fn image_bytes() -> Result<&'static [u8], Failure> {
    let range = boot_info().initrd.clone().ok_or_else(|| failure("the machine was started without a program image (initrd)"))?;
    let start = range.start.to_virt().as_ptr::<u8>();
    // SAFETY: the loader put the image there, the frame allocator leaves it alone, and nothing writes to it.
    Ok(unsafe { core::slice::from_raw_parts(start, (range.end - range.start) as usize) })
}

fn physical(byte: *const u8) -> PhysAddr {
    PhysAddr(byte as u64 - layout::DIRECT_MAP)
}

/// The image with a writable layer over it.
fn mount_root() -> Result<MountTable, Failure> {
    let damaged = |e: &dyn Display| failure(format!("the program image is damaged: {e}; delete it and let oxv make it anew"));
    let image = Image::new(image_bytes()?).map_err(|e| damaged(&e))?;
    let lower = erofs_fs::mount(image, IMAGE_DEV, physical).map_err(|e| damaged(&e))?;
    let root = TmpFs::over(lower, crate::sys::file::memory_options(ROOT_DEV));
    Ok(MountTable::new(root, "overlay", "oxv", MountMode::empty()))
}

fn root_context<R>(fs: &FsState, ids: &Ids, f: impl FnOnce(&Context<'_>, &Location) -> R) -> R {
    let credentials = vfs::Credentials { uid: ids.fsuid, gid: ids.fsgid, groups: ids.groups.clone() };
    fs.with_viewer(&credentials, |viewer: Viewer<'_>, cwd| f(&Context { viewer, umask: 0o022 }, cwd))
}

fn read_exec(fs: &FsState) -> Result<Exec, Failure> {
    let bytes = root_context(fs, &Ids::new(0, 0), |context, cwd| {
        let file = context.lookup(cwd, EXEC_JSON, Follow::Yes)?;
        let mut sink = VecSink::new(EXEC_JSON_MAX);
        let mut offset = 0;
        loop {
            match file.inode().read_at(offset, &mut sink)? {
                0 => return Ok(sink.into_vec()),
                n => offset += n as u64,
            }
        }
    });
    let bytes = bytes.map_err(|e: linux_abi::Errno| {
        failure(format!("the program image has no usable /.oxv/exec.json ({e}); delete it and let oxv make it anew"))
    })?;
    serde_json::from_slice(&bytes).map_err(|e| failure(format!("/.oxv/exec.json in the program image is not valid: {e}")))
}

fn start_program(fs: FsState, files: FdTable, exec: Exec) -> Result<(), Failure> {
    let ids = Ids::new(exec.uid, exec.gid);
    if !exec.cwd.is_empty() {
        let cwd = root_context(&fs, &ids, |context, cwd| context.lookup(cwd, exec.cwd.as_bytes(), Follow::Yes));
        *fs.cwd.write() = cwd.map_err(|e| failure(format!("cannot start in directory {}: {e}", exec.cwd)))?;
    }
    let strings = |list: Vec<String>| list.into_iter().map(String::into_bytes).collect();
    let request = Request {
        path: exec.exe.into_bytes(),
        file: None,
        argv: strings(exec.argv),
        envp: strings(exec.env),
        ids: ids.clone(),
        stack_limit: 8 << 20,
        size_limit: u64::MAX,
        data_limit: u64::MAX,
        set_id: SetId::Ignored,
    };
    let loaded = root_context(&fs, &ids, |context, cwd| exec::load(context, cwd, request))
        .map_err(|e| Failure { code: e.exit_code(), message: e.to_string() })?;
    let pid = process::new_tid();
    debug_assert_eq!(pid, FIRST_PID, "nothing was started before");
    let place = Place::first(ids.ruid);
    let cred = Arc::new(Cred::of_new_program(ids, 0));
    let process = Process::new(pid, loaded.space.clone(), cred.clone(), place);
    process.set_terminal(terminal::wanted().then_some(terminal::NUMBER));
    debug_assert!(process.limit(RLIMIT_STACK).is_some());
    *process.executable.write() = loaded.executable;
    let name: Arc<str> = Arc::from(&*String::from_utf8_lossy(&loaded.name[..loaded.name.len().min(15)]));
    let (files, fs, undo) = (Held::new(files), Held::new(fs), Held::new(UndoList::new()));
    let own = Belongings { files, fs, undo, cred, no_new_privileges: false, place: None };
    // The first thread has the process's number.
    let task = Task::new(pid, process.clone(), name.clone(), TaskSignals::new(SigSet::EMPTY), own);
    let program = ProgramThread {
        name,
        frame: &loaded.frame,
        begin: Begin::Program,
        fs_base: 0,
        space: loaded.space,
        policy: task.sched().policy(),
        personality: Box::new(Personality(task.clone())),
        wants_rseq: false,
    };
    process.add_task(&task, || spawn_program(program)).inspect(|()| send_early_signals(&process)).map_err(|e| failure(format!("cannot start the first thread: {e}; give the machine more memory with --memory")))
}

/// Signals that the host sent before there was a program to take them.
static EARLY_SIGNALS: AtomicU64 = AtomicU64::new(0);

fn send(process: &Process, signal: Signal) {
    // A standard signal is never refused.
    let _merged = process.send_signal(signal, SigInfo::new(signal, code::SI_KERNEL));
}

fn send_early_signals(process: &Process) {
    while let Some(signal) = SigSet(EARLY_SIGNALS.load(Ordering::SeqCst)).first() {
        EARLY_SIGNALS.fetch_and(!SigSet::of(signal).0, Ordering::SeqCst);
        send(process, signal);
    }
}

/// Sends the first program a signal, now or when it is there.
pub fn signal_program(signal: Signal) {
    EARLY_SIGNALS.fetch_or(SigSet::of(signal).0, Ordering::SeqCst);
    // Without a thread to take it the signal waits; whoever starts the thread looks again afterwards.
    if let Some(process) = process::find_process(FIRST_PID).filter(|p| p.thread_count() > 0) {
        send_early_signals(&process);
    }
}

/// What the host says while the program runs.
fn from_host(message: control::Message) {
    let send = signal_program;
    match message {
        control::Message::Signal(number) => match Signal::new(number) {
            Some(signal) => send(signal),
            None => log::warn!("the host sent signal {number}, which does not exist"),
        },
        control::Message::WindowSize { rows, columns } => crate::mounts::set_window_size(rows, columns),
        control::Message::Shutdown => send(Signal::SIGTERM),
    }
}
