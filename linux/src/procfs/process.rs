//! The files of `/proc/PID` and `/proc/PID/task/TID`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use addr::{PAGE_SIZE, VirtAddr};
use kernel::mm::{Access, AreaFlags, Prot};
use linux_abi::process::RLIM_INFINITY;
use linux_abi::signal::{SIG_DFL, SIG_IGN, SigSet, Signal};
use linux_abi::{Errno, raw};
use vfs::synth::{Directory, Entry};
use vfs::types::Name;
use vfs::{FileKind, Location};

use super::holder::{self, Holder};
use super::{maps, mounts, named, net, number, pagemap};
use crate::entry::with_task;
use crate::oom;
use crate::process::{Process, Task};
use crate::sys::sched::Attributes;
use crate::sysfs::{cpu_list, cpu_mask};
use crate::terminal;
use crate::user_ptr;

type Result<T> = core::result::Result<T, Errno>;

/// `/proc/PID`.
pub(super) fn directory(process: Arc<Process>) -> Arc<dyn Directory> {
    let task = process.tasks().into_iter().next();
    let subject = Subject { process: process.clone(), task, holder: process.pid(), stat: process_stat };
    Arc::new(OfProcess { process, entries: Listed { tables: &[OWN, COMMON], subject } })
}

/// A process's directory. While it is open, its number cannot come to mean another process to those who ask the directory.
pub(super) struct OfProcess {
    pub(super) process: Arc<Process>,
    entries: Listed,
}

impl Directory for OfProcess {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        self.entries.lookup(name)
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        self.entries.list()
    }
}

/// Whom a directory is about: a process, or one of its threads.
struct Subject {
    process: Arc<Process>,
    task: Option<Arc<Task>>,
    /// The thread whose descriptors and directories are shown: of a process the first one, if it still lives.
    holder: u32,
    stat: fn(&Process, Option<&Task>) -> String,
}

impl Subject {
    fn holder(&self) -> Holder {
        Holder { process: self.process.clone(), tid: self.holder }
    }
}

/// A name, and what makes its entry. That is done when it is looked up: of a directory's entries few are.
type Row = (&'static str, fn(&Subject) -> Entry);

/// A directory of such entries.
struct Listed {
    tables: &'static [&'static [Row]],
    subject: Subject,
}

impl Listed {
    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        self.tables.iter().copied().flatten()
    }
}

impl Directory for Listed {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        self.rows().find(|(known, _)| known.as_bytes() == name).map(|(_, make)| make(&self.subject))
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        self.rows().map(|(name, make)| (Name::from(name.as_bytes()), make(&self.subject).kind())).collect()
    }
}

/// A file about the process.
fn about(subject: &Subject, make: fn(&Process) -> Result<Vec<u8>>) -> Entry {
    let process = subject.process.clone();
    Entry::file(move || make(&process))
}

/// A file about the process and one of its threads.
fn about_task(subject: &Subject, make: fn(&Process, Option<&Task>) -> String) -> Entry {
    let (process, task) = (subject.process.clone(), subject.task.clone());
    Entry::file(move || Ok(make(&process, task.as_deref()).into_bytes()))
}

/// What only a process has.
const OWN: &[Row] = &[
    ("coredump_filter", |_| Entry::text("00000033\n")),
    ("task", |s| Entry::Directory(Arc::new(Tasks(s.process.clone())))),
];

/// What a process and each of its threads have.
const COMMON: &[Row] = &[
    ("auxv", |s| about(s, |p| Ok(p.executable.read().auxv.clone()))),
    ("cgroup", |_| Entry::text("0::/\n")),
    ("children", |s| about(s, |p| Ok(children(p).into_bytes()))),
    ("clear_refs", |s| pagemap::clear_refs(&s.process)),
    ("cmdline", |s| about(s, |p| strings(p, p.executable.read().args))),
    ("comm", |s| comm(s.task.clone())),
    ("cwd", |s| holder::place_link(s.holder(), |h| Ok(h.fs()?.cwd.read().clone()))),
    ("environ", |s| about(s, |p| strings(p, p.executable.read().env))),
    ("cpuset", |_| Entry::text("/\n")),
    ("exe", |s| holder::place_link(s.holder(), executable)),
    ("fd", |s| holder::descriptors(s.holder())),
    ("fdinfo", |s| holder::descriptor_infos(s.holder())),
    ("gid_map", |_| Entry::text(ALL_IDS)),
    ("limits", |s| about(s, |p| Ok(limits(p).into_bytes()))),
    ("loginuid", |_| Entry::text("4294967295")),
    ("maps", |s| maps::maps(&s.process)),
    ("mountinfo", |s| about(s, mounts::mountinfo)),
    ("mounts", |s| about(s, mounts::mounts)),
    ("mountstats", |s| about(s, mounts::mountstats)),
    ("net", |_| net::directory()),
    ("ns", |_| namespaces()),
    ("oom_score", |s| about(s, |p| Ok(format!("{}\n", oom::score(p)).into_bytes()))),
    ("oom_score_adj", |s| oom_score_adj(&s.process)),
    ("pagemap", |s| pagemap::entry(&s.process)),
    ("personality", |_| Entry::text("00000000\n")),
    ("root", |s| holder::place_link(s.holder(), |h| Ok(h.fs()?.root.read().clone()))),
    ("sched", |s| about_task(s, sched)),
    ("schedstat", |s| about_task(s, schedstat)),
    ("sessionid", |_| Entry::text("4294967295")),
    ("setgroups", |_| Entry::text("allow\n")),
    ("smaps", |s| maps::smaps(&s.process)),
    ("smaps_rollup", |s| about(s, |p| Ok(maps::smaps_rollup(&p.space())))),
    ("stat", |s| about_task(s, s.stat)),
    ("statm", |s| about(s, |p| Ok(statm(p).into_bytes()))),
    ("status", |s| about_task(s, status)),
    ("timerslack_ns", |s| about_task(s, |_, task| format!("{}\n", task.map_or(50_000, Task::timer_slack_ns)))),
    ("uid_map", |_| Entry::text(ALL_IDS)),
    ("wchan", |_| Entry::text("0")),
];

/// Numbers of the children (of all threads', which are not told apart).
fn children(process: &Process) -> String {
    process.family.child_pids().into_iter().map(|pid| format!("{pid} ")).collect()
}

/// All ids are what they are: there is one user namespace.
const ALL_IDS: &str = "         0          0 4294967295\n";

/// There is one namespace of each kind; the numbers are those of Linux's first ones.
fn namespaces() -> Entry {
    let link = |text: &'static str| Entry::link(text);
    Entry::fixed(vec![
        ("cgroup", link("cgroup:[4026531835]")),
        ("ipc", link("ipc:[4026531839]")),
        ("mnt", link("mnt:[4026531841]")),
        ("net", link("net:[4026531840]")),
        ("pid", link("pid:[4026531836]")),
        ("pid_for_children", link("pid:[4026531836]")),
        ("time", link("time:[4026531834]")),
        ("time_for_children", link("time:[4026531834]")),
        ("user", link("user:[4026531837]")),
        ("uts", link("uts:[4026531838]")),
    ])
}

/// The strings in a range of the process's memory.
fn strings(process: &Process, (start, end): (u64, u64)) -> Result<Vec<u8>> {
    const LIMIT: u64 = 4 << 20;
    if end <= start || end - start > LIMIT {
        return Ok(Vec::new());
    }
    let own = with_task(|task| task.process().pid() == process.pid()).unwrap_or(false);
    if own {
        let mut bytes = vec![0; (end - start) as usize];
        user_ptr::copy_in(start, &mut bytes)?;
        return Ok(bytes);
    }
    Ok(remote_bytes(process, start, end))
}

/// Bytes of another process's memory, as far as they are there.
fn remote_bytes(process: &Process, start: u64, end: u64) -> Vec<u8> {
    let space = process.space();
    let mut bytes = Vec::new();
    let mut at = start;
    while at < end {
        let Ok(frame) = space.frame_at(VirtAddr(at), Access::Read) else { break };
        let (offset, from) = ((at % PAGE_SIZE as u64) as usize, bytes.len());
        let len = (end - at).min((PAGE_SIZE - offset) as u64) as usize;
        bytes.resize(from + len, 0);
        frame.read(offset, &mut bytes[from..]);
        at += len as u64;
    }
    bytes
}

fn comm(task: Option<Arc<Task>>) -> Entry {
    let writer = task.clone();
    Entry::writable(
        move || Ok(task.as_ref().map_or_else(String::new, |task| task.name() + "\n").into_bytes()),
        move |name| {
            let name = name.strip_suffix(b"\n").unwrap_or(name);
            writer.as_ref().ok_or(Errno::ESRCH).map(|task| task.set_name(name))
        },
    )
}

/// The program's file; a process that has ended has none.
fn executable(holder: &Holder) -> Result<Location> {
    let process = &holder.process;
    let location = process.executable.read().location.clone();
    location.filter(|_| process.thread_count() != 0).ok_or(Errno::ENOENT)
}

/// `/proc/PID/task`.
struct Tasks(Arc<Process>);

impl Directory for Tasks {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let task = self.0.task(number(name)?)?;
        let subject = Subject { process: self.0.clone(), holder: task.tid(), task: Some(task), stat: thread_stat };
        Some(Entry::Directory(Arc::new(Listed { tables: &[COMMON], subject })))
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        self.0.tasks().iter().map(|task| (named(task.tid()), FileKind::Directory)).collect()
    }
}

/// Whom to kill first when memory runs out: see `oom.rs`.
fn oom_score_adj(process: &Arc<Process>) -> Entry {
    let (read, written) = (process.clone(), process.clone());
    Entry::writable(
        move || Ok(format!("{}\n", read.oom_score_adj.load(Ordering::Relaxed)).into_bytes()),
        move |text| {
            let value = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
            let value = value.filter(|value| (-1000..=1000).contains(value)).ok_or(Errno::EINVAL)?;
            written.oom_score_adj.store(value, Ordering::Relaxed);
            Ok(())
        },
    )
}

fn ticks(ns: u64) -> u64 {
    ns / 10_000_000
}

fn pages(bytes: u64) -> u64 {
    bytes / PAGE_SIZE as u64
}

/// Bytes in areas, by what they hold.
#[derive(Default)]
struct Sizes {
    total: u64,
    data: u64,
    stack: u64,
    executable: u64,
    library: u64,
}

fn sizes(process: &Process) -> Sizes {
    let mut sizes = Sizes::default();
    let program = process.executable.read().location.as_ref().map(|place| place.inode().metadata().ino);
    for area in process.space().areas() {
        let len = area.end - area.start;
        sizes.total += len;
        if area.prot.contains(Prot::EXEC) {
            let own = area.id.is_some_and(|id| Some(id.inode) == program);
            *(if own { &mut sizes.executable } else { &mut sizes.library }) += len;
        } else if area.name.as_deref() == Some(b"[stack]") {
            sizes.stack += len;
        } else if area.prot.contains(Prot::WRITE) && !area.flags.contains(AreaFlags::SHARED) {
            sizes.data += len;
        }
    }
    sizes
}

fn statm(process: &Process) -> String {
    let sizes = sizes(process);
    let resident = process.space().resident_pages();
    format!("{} {resident} 0 {} 0 {} 0\n", pages(sizes.total), pages(sizes.executable), pages(sizes.data + sizes.stack))
}

/// Signals ignored and caught.
fn dispositions(process: &Process) -> (SigSet, SigSet) {
    let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
    for signal in (1..=64).filter_map(Signal::new) {
        match process.signals.action(signal).handler {
            SIG_DFL => {}
            SIG_IGN => ignored = ignored.with(signal),
            _ => caught = caught.with(signal),
        }
    }
    (ignored, caught)
}

/// R, S, T or Z: runnable, waiting, stopped, or ended and not waited for.
fn state(process: &Process, task: Option<&Task>) -> char {
    if process.family.has_ended() {
        return 'Z';
    }
    if process.job.is_stopped() {
        return 'T';
    }
    let sleeps = task.and_then(Task::thread).is_none_or(|thread| thread.is_sleeping());
    if sleeps { 'S' } else { 'R' }
}

/// `/proc/PID/schedstat`: time on a CPU, time runnable without one, turns.
fn schedstat(_process: &Process, task: Option<&Task>) -> String {
    let usage = task.map(Task::usage).unwrap_or_default();
    let delay = task.and_then(Task::thread).map_or(0, |thread| thread.ready_time_ns());
    format!("{} {delay} {}\n", usage.cpu_ns(), usage.waits + usage.preemptions)
}

/// `/proc/PID/sched`: the lines that mean something here.
fn sched(process: &Process, task: Option<&Task>) -> String {
    let Some(task) = task else { return String::new() };
    let (usage, sched) = (task.usage(), task.sched());
    let mut out = format!("{} ({}, #threads: {})\n{}\n", task.name(), task.tid(), process.thread_count(), "-".repeat(67));
    let mut line = |name: &str, value: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{name:<45}:{value:>21}");
    };
    line("se.sum_exec_runtime", format!("{}.{:06}", usage.cpu_ns() / 1_000_000, usage.cpu_ns() % 1_000_000));
    line("nr_switches", (usage.waits + usage.preemptions).to_string());
    line("nr_voluntary_switches", usage.waits.to_string());
    line("nr_involuntary_switches", usage.preemptions.to_string());
    line("policy", sched.policy_number().to_string());
    line("prio", (100 + kernel_priority(sched)).to_string());
    out
}

/// The priority as `/proc/PID/stat` shows it: 0 to 39 for nice values, −2 to −100 for real-time priorities (proc(5)).
fn kernel_priority(sched: Attributes) -> i32 {
    match sched.rt_priority() {
        0 => 20 + i32::from(sched.nice()),
        priority => -1 - i32::from(priority),
    }
}

/// Whom `stat` is about: the process, or one of its threads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Process,
    Thread,
}

fn process_stat(process: &Process, task: Option<&Task>) -> String {
    stat(process, task, Of::Process)
}

fn thread_stat(process: &Process, task: Option<&Task>) -> String {
    stat(process, task, Of::Thread)
}

fn stat(process: &Process, task: Option<&Task>, of: Of) -> String {
    let about = if of == Of::Process { process.usage() } else { task.map(Task::usage).unwrap_or_default() };
    let cpu = task.and_then(Task::thread).map_or(0, |thread| thread.cpu());
    let space = process.space();
    let executable = process.executable.read().clone();
    let (ignored, caught) = dispositions(process);
    let (tid, name) = task.map_or((process.pid(), String::new()), |task| (task.tid(), task.name()));
    let (pending, blocked) = task.map_or((0, 0), |task| (task.pending_signals().0, task.signals.mask().0));
    let rss_limit = process.limit(raw::RLIMIT_RSS).map_or(RLIM_INFINITY, |limit| limit.cur);
    let (brk, _) = space.brk_range();
    let brk = brk.0;
    let children = process.children_usage();
    let (user, system) = (ticks(about.user_ns), ticks(about.system_ns));
    let (children_user, children_system) = (ticks(children.user_ns), ticks(children.system_ns));
    let sched = task.map_or(Attributes::NORMAL, Task::sched);
    let (terminal, foreground) = terminal::shown(process);
    let (priority, nice) = (kernel_priority(sched), sched.nice());
    let mut out = format!(
        "{tid} ({name}) {} {} {} {} {terminal} {foreground} 4194304 0 0 0 0 {user} {system} {children_user} {children_system} \
         {priority} {nice} {} 0 {} {} {} {rss_limit}",
        state(process, task),
        process.parent_pid(),
        process.process_group(),
        process.session(),
        process.thread_count(),
        ticks(process.start_ns()),
        space.mapped_bytes(),
        space.resident_pages(),
    );
    let ((arg_start, arg_end), (env_start, env_end)) = (executable.args, executable.env);
    let (code_start, code_end) = code_range(process);
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        " {code_start} {code_end} {} 0 0 {pending} {blocked} {} {} 0 0 0 17 {cpu} {} {} 0 0 0 {code_end} {brk} {brk} {arg_start} {arg_end} \
         {env_start} {env_end} 0",
        executable.stack_start, ignored.0, caught.0, sched.rt_priority(), sched.policy_number(),
    );
    out
}

/// First and last address of the program's own code.
fn code_range(process: &Process) -> (u64, u64) {
    let program = process.executable.read().location.as_ref().map(|place| place.inode().metadata().ino);
    let areas = process.space().areas();
    let own = |area: &&kernel::mm::VmaInfo| {
        area.prot.contains(Prot::EXEC) && area.id.is_some_and(|id| Some(id.inode) == program)
    };
    areas.iter().find(own).map_or((0, 0), |area| (area.start.0, area.end.0))
}

fn status(process: &Process, task: Option<&Task>) -> String {
    let cred = task.map_or_else(|| process.cred(), Task::cred);
    let (pid, ppid) = (process.pid(), process.parent_pid());
    let (tid, name) = task.map_or((pid, String::new()), |task| (task.tid(), task.name()));
    let state = match state(process, task) {
        'R' => "R (running)",
        'T' => "T (stopped)",
        'Z' => "Z (zombie)",
        _ => "S (sleeping)",
    };
    let groups: Vec<_> = cred.groups.iter().map(u32::to_string).collect();
    let files = task.and_then(|task| task.files.get());
    let open = files.and_then(|files| files.open_descriptors().last().copied()).map_or(0, |last| last as usize + 1);
    let umask = task.and_then(|task| task.fs.get()).map_or(0, |fs| fs.umask());
    let mut out = format!(
        "Name:\t{name}\nUmask:\t{:04o}\nState:\t{state}\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{ppid}\nTracerPid:\t0\n\
         Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{}\nGroups:\t{} \n",
        umask,
        cred.ruid, cred.euid, cred.suid, cred.fsuid,
        cred.rgid, cred.egid, cred.sgid, cred.fsgid,
        open.max(64).next_power_of_two(),
        groups.join(" "),
    );
    let usage = task.map(Task::usage).unwrap_or_default();
    memory_status(process, &mut out);
    signal_status(process, task, &mut out);
    let sets = cred.capabilities;
    let _ = write!(
        out,
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t000001ffffffffff\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t{}\nSeccomp:\t0\nSpeculation_Store_Bypass:\tunknown\n\
         Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
        sets.inheritable, sets.permitted, sets.effective,
        u8::from(task.is_some_and(|task| task.no_new_privileges.load(Ordering::Relaxed))),
        cpu_mask(),
        cpu_list(),
        usage.waits,
        usage.preemptions,
    );
    out
}

fn memory_status(process: &Process, out: &mut String) {
    let (space, sizes) = (process.space(), sizes(process));
    let resident = space.resident_pages() * PAGE_SIZE as u64;
    let peak = space.peak_resident_pages() * PAGE_SIZE as u64;
    let lines = [
        ("VmPeak", sizes.total), ("VmSize", sizes.total), ("VmLck", space.locked_bytes()), ("VmPin", 0), ("VmHWM", peak.max(resident)),
        ("VmRSS", resident), ("RssAnon", resident), ("RssFile", 0), ("RssShmem", 0), ("VmData", sizes.data),
        ("VmStk", sizes.stack), ("VmExe", sizes.executable), ("VmLib", sizes.library), ("VmPTE", 0), ("VmSwap", 0),
    ];
    for (name, bytes) in lines {
        let _ = writeln!(out, "{name}:\t{:>8} kB", bytes / 1024);
    }
}

fn signal_status(process: &Process, task: Option<&Task>, out: &mut String) {
    let (ignored, caught) = dispositions(process);
    let (pending, blocked) = task.map_or((0, 0), |task| (task.pending_signals().0, task.signals.mask().0));
    let queue = process.limit(raw::RLIMIT_SIGPENDING).map_or(0, |limit| limit.cur);
    let _ = write!(
        out,
        "Threads:\t{}\nSigQ:\t0/{queue}\nSigPnd:\t{pending:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{:016x}\n\
         SigCgt:\t{:016x}\n",
        process.thread_count(),
        0,
        ignored.0,
        caught.0,
    );
}

const LIMITS: [(&str, u32, &str); 16] = [
    ("Max cpu time", raw::RLIMIT_CPU, "seconds"),
    ("Max file size", raw::RLIMIT_FSIZE, "bytes"),
    ("Max data size", raw::RLIMIT_DATA, "bytes"),
    ("Max stack size", raw::RLIMIT_STACK, "bytes"),
    ("Max core file size", raw::RLIMIT_CORE, "bytes"),
    ("Max resident set", raw::RLIMIT_RSS, "bytes"),
    ("Max processes", raw::RLIMIT_NPROC, "processes"),
    ("Max open files", raw::RLIMIT_NOFILE, "files"),
    ("Max locked memory", raw::RLIMIT_MEMLOCK, "bytes"),
    ("Max address space", raw::RLIMIT_AS, "bytes"),
    ("Max file locks", raw::RLIMIT_LOCKS, "locks"),
    ("Max pending signals", raw::RLIMIT_SIGPENDING, "signals"),
    ("Max msgqueue size", raw::RLIMIT_MSGQUEUE, "bytes"),
    ("Max nice priority", raw::RLIMIT_NICE, ""),
    ("Max realtime priority", raw::RLIMIT_RTPRIO, ""),
    ("Max realtime timeout", raw::RLIMIT_RTTIME, "us"),
];

fn limits(process: &Process) -> String {
    let show = |value: u64| if value == RLIM_INFINITY { "unlimited".to_string() } else { value.to_string() };
    let mut out = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (name, resource, unit) in LIMITS {
        if let Some(limit) = process.limit(resource) {
            let _ = writeln!(out, "{name:<25} {:<20} {:<20} {unit:<10}", show(limit.cur), show(limit.max));
        }
    }
    out
}
