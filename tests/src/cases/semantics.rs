//! Small C programs that check themselves, line by line, against Linux's rules.

use crate::case::{Build, Case, Program};

/// The cases of this file.
pub(super) fn all() -> Vec<Case> {
    let mut cases = vec![
        Case::c("signals_sync.c"),
        Case::c("signal_frames.c"),
        Case::c("sigaltstack.c"),
        Case::c("signals_async.c"),
        Case::c("jobs.c"),
        Case::c("clones.c"),
        Case::c("bombs.c"),
        Case::c("sharing.c"),
        Case::c("apart.c"),
        Case::c("walks.c"),
        Case::c("execs.c"),
        Case::c("exec_signals.c"),
        Case::c("signal_taker.c"),
        Case::c("forged_interrupts.c"),
        Case::c("proc_dead.c"),
        Case::c("timers.c").cpus(&[1, 2]),
        Case::c("file_limits.c"),
        Case::c("pty.c"),
        Case::c("registers.c"),
        Case::c("rounding.c"),
        Case::c("memory.c"),
        Case::c("memory_calls.c"),
        Case::c("track.c"),
        Case::c("advice.c"),
        Case::c("lazy_free.c").memory("64M"),
        Case::c("memory_stress.c"),
        Case::c("shm.c"),
        Case::c("huge.c").memory("512M"),
        Case::c("huge_stress.c").memory("512M"),
        Case::c("hugetlb.c").memory("512M"),
        Case::c("huge_files.c").memory("512M"),
        Case::c("truncate.c"),
        Case::c("fresh_pages.c").memory("64M"),
        Case::c("threads.c"),
        Case::c("threads1000.c").memory("512M"),
        Case::c("futex.c"),
        Case::c("futex_order.c"),
        Case::c("rseq.c"),
        Case::c("scheduling.c"),
        Case::c("spread.c"),
        Case::c("runaway.c"),
        Case::c("pipes.c"),
        Case::c("epoll.c"),
        Case::c("epoll_more.c"),
        Case::c("unix_sockets.c"),
        Case::c("ipc.c"),
        Case::c("aio.c"),
        Case::c("files.c"),
        Case::c("file_extras.c"),
        Case::c("inotify.c"),
        Case::c("system.c"),
        Case::c("patch.c"),
        Case::c("capabilities.c"),
        Case::c("clock.c"),
        Case::c("cpu_clocks.c"),
        Case::c("efault.c"),
        Case::c("stack.c"),
        Case::c("wild.c"),
        Case::c("malloc.c").memory("1G"),
    ];
    cases.push(Case::new("c/stress", Program::Source("stress.c", Build::Dynamic)).args(["all"]));
    cases.extend(ways_of_running_out());
    cases.extend(ways_of_linking());
    cases.extend(ways_of_ending());
    cases.extend(streams());
    // The same tests against another C library and another way of linking.
    for source in ["threads.c", "pipes.c", "memory.c", "signals_sync.c"] {
        let stem = source.strip_suffix(".c").unwrap_or(source);
        cases.push(Case::new(format!("static/{stem}"), Program::Source(source, Build::Static)).cpus(&[2]));
    }
    for source in ["epoll.c", "stream.c", "threads1000.c"] {
        let stem = source.strip_suffix(".c").unwrap_or(source);
        cases.push(Case::new(format!("musl/{stem}"), Program::Source(source, Build::MuslStatic)).memory("1G").cpus(&[2]));
    }
    cases
}

/// All memory used up: errors where calls can fail, SIGKILL where they cannot.
fn ways_of_running_out() -> Vec<Case> {
    let ways = [("descriptors", 0), ("threads", 0), ("processes", 0), ("files", 0), ("touched", 137), ("shared", 137), ("kernel", 137)];
    let case = |(way, exit)| {
        let program = Program::Source("exhaust.c", Build::Dynamic);
        Case::new(format!("exhaust/{way}"), program).args([way]).exit(exit).memory("64M").cpus(&[1, 4])
    };
    ways.into_iter().map(case).collect()
}

fn ways_of_linking() -> Vec<Case> {
    let builds = [
        ("dynamic", Build::Dynamic),
        ("non-pie", Build::NonPie),
        ("static", Build::Static),
        ("static-pie", Build::StaticPie),
        ("musl-static", Build::MuslStatic),
        ("musl-dynamic", Build::MuslDynamic),
    ];
    let hello = |(name, build)| {
        let program = Program::Source("hello.c", build);
        Case::new(format!("hello/{name}"), program).args(["one", "two words", ""]).exit(4).with_stderr()
    };
    builds.into_iter().map(hello).collect()
}

/// How a program ends and what exit code that gives.
fn ways_of_ending() -> Vec<Case> {
    let ways: [(&str, &[&str], i32); 20] = [
        ("return", &["return"], 0),
        ("exit-7", &["exit", "7"], 7),
        ("exit-300", &["exit", "300"], 44),
        ("_exit", &["_exit"], 42),
        ("abort", &["abort"], 134),
        ("null", &["null"], 139),
        ("noncanonical", &["noncanonical"], 139),
        ("kernel-address", &["kernel-address"], 139),
        ("readonly", &["readonly"], 139),
        ("jump", &["jump"], 139),
        ("noexec", &["noexec"], 139),
        ("hlt", &["hlt"], 139),
        ("ud2", &["ud2"], 132),
        ("int3", &["int3"], 133),
        ("fpe", &["fpe"], 136),
        ("thread-null", &["thread-null"], 139),
        ("thread-exit", &["thread-exit"], 9),
        ("sigterm", &["signal", "15"], 143),
        ("sigchld", &["signal", "17"], 0),
        ("overflow", &["overflow"], 139),
    ];
    let case = |&(name, args, exit): &(&str, &[&str], i32)| {
        let program = Program::Source("die.c", Build::Dynamic);
        Case::new(format!("die/{name}"), program).args(args.iter().copied()).exit(exit).cpus(&[1, 4])
    };
    ways.iter().map(case).collect()
}

fn streams() -> Vec<Case> {
    let stream = |name: &str, args: &[&str]| {
        let program = Program::Source("stream.c", Build::Dynamic);
        Case::new(format!("stream/{name}"), program).args(args.iter().copied()).seconds(180)
    };
    vec![
        stream("stdout-100MB", &["out", "100000000", "7"]),
        stream("stdin-50MB", &["sum"]).stdin_file(super::big_file),
        stream("through-50MB", &["in"]).stdin_file(super::big_file).cpus(&[2]),
        stream("stdin-empty", &["sum"]),
        stream("stdin-text", &["in"]).stdin("no newline at the end"),
    ]
}
