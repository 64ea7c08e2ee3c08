//! What is measured: every metric with its unit, its goal and where its number comes from.
//!
//! A folder of `bench/` is one program; it prints one or more metrics, or the points of series.

use super::apps::App;
use super::guest::Guest;
use super::{sizes, times};
use anyhow::Result;

/// What a metric should be. All units are costs: less is better.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    /// Reported only.
    None,
    /// At most this.
    AtMost(f64),
    /// At most Linux's value times this.
    OfLinux(f64),
}

/// One number.
pub(super) struct Metric {
    /// As the program prints it.
    pub(super) name: &'static str,
    /// For the table.
    pub(super) unit: &'static str,
    /// For the verdict.
    pub(super) goal: Goal,
}

/// A cost over a size.
pub(super) struct Series {
    /// As the program prints it.
    pub(super) name: &'static str,
    /// What the size counts.
    pub(super) sizes: &'static str,
    /// The last size.
    pub(super) largest: u64,
    /// The series shares its plot, `doc/plots/PLOT.svg`, with those of the same name.
    pub(super) plot: &'static str,
}

/// How a folder's numbers are obtained.
pub(super) enum Source {
    /// The program on one CPU: guest instructions, and once more by the wall clock in ticks of the time-stamp counter.
    Counts(&'static [Metric]),
    /// The program on one CPU by the instruction clock, over sizes.
    Growth(&'static [Series]),
    /// The program on two CPUs by the wall clock, several times.
    Times(&'static [Metric]),
    /// A script with Debian's programs on two CPUs by the wall clock, several times.
    Apps(App, &'static [Metric]),
    /// Measured from outside.
    Outside(Metric, fn(&dyn Guest) -> Result<f64>),
}

/// One folder.
pub(super) struct Folder {
    /// Under `bench/`.
    pub(super) name: &'static str,
    /// Where its numbers come from.
    pub(super) source: Source,
}

impl Folder {
    /// The metrics, in the order of the table.
    pub(super) fn metrics(&self) -> &[Metric] {
        match &self.source {
            Source::Counts(metrics) | Source::Times(metrics) | Source::Apps(_, metrics) => metrics,
            Source::Outside(metric, _) => std::slice::from_ref(metric),
            Source::Growth(_) => &[],
        }
    }

    /// The series.
    pub(super) fn series(&self) -> &[Series] {
        match &self.source {
            Source::Growth(series) => series,
            _ => &[],
        }
    }

    /// Whether a name on the command line means this folder: its own, that of a metric, or the kind's.
    pub(super) fn matches(&self, wanted: &str) -> bool {
        let mut names = self.metrics().iter().map(|metric| metric.name).chain(self.series().iter().map(|series| series.name));
        self.name.contains(wanted) || self.kind() == wanted || names.any(|name| name.contains(wanted))
    }

    /// A word for the kind of measurement.
    pub(super) fn kind(&self) -> &'static str {
        match self.source {
            Source::Counts(_) => "counts",
            Source::Growth(_) => "growth",
            Source::Times(_) => "times",
            Source::Apps(..) => "apps",
            Source::Outside(..) => "outside",
        }
    }
}

const fn counts(name: &'static str, metrics: &'static [Metric]) -> Folder {
    Folder { name, source: Source::Counts(metrics) }
}

const fn growth(name: &'static str, series: &'static [Series]) -> Folder {
    Folder { name, source: Source::Growth(series) }
}

const fn times(name: &'static str, metrics: &'static [Metric]) -> Folder {
    Folder { name, source: Source::Times(metrics) }
}

const fn app(name: &'static str, command: &'static [&'static str], packages: &'static [&'static str], metrics: &'static [Metric]) -> Folder {
    Folder { name, source: Source::Apps(App { command, packages }, metrics) }
}

const fn outside(name: &'static str, unit: &'static str, goal: Goal, measure: fn(&dyn Guest) -> Result<f64>) -> Folder {
    Folder { name, source: Source::Outside(Metric { name, unit, goal }, measure) }
}

const fn instructions(name: &'static str, most: f64) -> Metric {
    Metric { name, unit: "instructions", goal: Goal::AtMost(most) }
}

/// A count that shall not be above Linux's.
const fn of_linux(name: &'static str) -> Metric {
    Metric { name, unit: "instructions", goal: Goal::OfLinux(1.0) }
}

/// A time that shall not be above Linux's.
const fn time(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, goal: Goal::OfLinux(1.0) }
}

/// A series over threads.
const fn threads(name: &'static str, plot: &'static str) -> Series {
    Series { name, sizes: "threads", largest: 10_000, plot }
}

/// A series over mappings.
const fn mappings(name: &'static str) -> Series {
    Series { name, sizes: "mappings", largest: 100_000, plot: "vma_growth" }
}

use Goal::{AtMost, OfLinux};

/// All folders of `bench/`, in the order of the table.
pub(super) const FOLDERS: &[Folder] = &[
    counts(
        "null_syscall",
        &[
            instructions("null_syscall_trapped", 100.0),
            instructions("null_syscall_patched", 60.0),
            instructions("null_syscall_vectors", 80.0),
            instructions("null_syscall_leaf", 20.0),
        ],
    ),
    counts(
        "small_calls",
        &[
            instructions("clock_gettime", 40.0),
            instructions("read_zero", 150.0),
            instructions("fstat", 200.0),
            instructions("pipe_write_read", 400.0),
            instructions("eventfd_write_read", 300.0),
            instructions("epoll_ready", 250.0),
            instructions("pread_4k", 700.0),
        ],
    ),
    counts("futex_pingpong", &[instructions("futex_pingpong", 300.0)]),
    counts("sched_yield", &[instructions("sched_yield", 200.0)]),
    counts("pipe_pingpong", &[instructions("pipe_pingpong", 800.0)]),
    counts("eventfd_pingpong", &[instructions("eventfd_pingpong", 700.0)]),
    counts(
        "unix_calls",
        &[
            Metric { name: "unix_stream", unit: "instructions", goal: OfLinux(0.4) },
            Metric { name: "unix_datagram", unit: "instructions", goal: OfLinux(0.4) },
            Metric { name: "unix_turn", unit: "instructions", goal: OfLinux(0.4) },
        ],
    ),
    counts("condvar_pingpong", &[instructions("condvar_pingpong", 600.0)]),
    counts("thread_create", &[instructions("thread_create", 8000.0)]),
    counts(
        "mutex_contended",
        &[
            instructions("mutex_contended_2", 150.0),
            instructions("mutex_contended_4", 150.0),
            instructions("mutex_contended_8", 150.0),
            of_linux("mutex_blocked_2"),
            of_linux("mutex_blocked_4"),
            of_linux("mutex_blocked_8"),
        ],
    ),
    counts("anon_fault", &[instructions("anon_fault", 1000.0)]),
    counts("huge_fault", &[instructions("huge_fault", 265_000.0), instructions("huge_fault_idle", 10_000.0)]),
    counts("malloc_64m", &[of_linux("malloc_64m"), of_linux("malloc_64m_middle")]),
    counts("mmap_munmap", &[instructions("mmap_munmap_4k", 1500.0), instructions("mmap_munmap_64m", 2500.0)]),
    counts("proc_maps", &[of_linux("maps_area"), of_linux("smaps_area")]),
    counts("mprotect", &[instructions("mprotect_4k", 500.0), instructions("mprotect_edge", 500.0), of_linux("mprotect_split")]),
    counts(
        "mremap_64m",
        &[instructions("mremap_64m_untouched", 3000.0), instructions("mremap_64m_touched", 3000.0), instructions("mremap_64m_small", 3000.0)],
    ),
    counts(
        "unmap_touched",
        &[instructions("unmap_touched", 250.0), of_linux("unmap_touched_single")],
    ),
    counts(
        "file_calls",
        &[
            instructions("file_fstat", 200.0),
            instructions("file_stat", 1200.0),
            instructions("file_open_close", 1200.0),
            instructions("file_open_read_close", 3500.0),
            instructions("file_pread_4k", 700.0),
            instructions("file_read_zero", 150.0),
            instructions("file_create_4k", 6000.0),
            instructions("file_unlink", 2500.0),
        ],
    ),
    counts("signals", &[of_linux("signal_process"), of_linux("signal_thread"), of_linux("signal_fault")]),
    counts(
        "children",
        &[of_linux("fork_exit_wait"), of_linux("fork_exec_wait"), of_linux("vfork_exec_wait"), of_linux("posix_spawn_wait")],
    ),
    counts(
        "fork_price",
        &[
            instructions("fault_before_fork", 1000.0),
            instructions("fault_beside_child", 1000.0),
            instructions("fault_after_fork", 1000.0),
            of_linux("call_before_fork"),
            of_linux("call_beside_child"),
            of_linux("call_after_fork"),
        ],
    ),
    counts("thread_memory", &[Metric { name: "thread_memory", unit: "KiB", goal: OfLinux(1.0) }]),
    outside("reset_to_hello", "instructions", AtMost(8e6), times::reset_to_hello),
    outside("boot_to_output", "ms", Goal::None, times::boot_to_output),
    outside("min_memory", "MiB", AtMost(8.0), sizes::min_memory),
    outside("kernel_size", "bytes", Goal::None, |guest| guest.kernel_size()),
    outside("image_size", "bytes", Goal::None, sizes::image_size),
    times(
        "cross_cpu",
        &[time("cross_cpu_futex", "ns"), time("cross_cpu_pipe", "ns"), time("cross_cpu_eventfd", "ns"), time("cross_cpu_condvar", "ns")],
    ),
    times("mutex_throughput", &[time("mutex_throughput_2", "ns"), time("mutex_throughput_4", "ns"), time("mutex_throughput_8", "ns")]),
    times(
        "kernel_mutex",
        &[
            time("kernel_mutex_file_2", "ns"),
            time("kernel_mutex_file_4", "ns"),
            time("kernel_mutex_file_8", "ns"),
            time("kernel_mutex_event_2", "ns"),
            time("kernel_mutex_event_4", "ns"),
            time("kernel_mutex_event_8", "ns"),
        ],
    ),
    times(
        "file_scaling",
        &[
            time("file_scaling_1", "ns"),
            time("file_scaling_2", "ns"),
            Metric { name: "file_scaling_share", unit: "%", goal: AtMost(55.6) },
        ],
    ),
    times("mutex_handoff", &[time("mutex_handoff_p50", "µs"), time("mutex_handoff_p99", "µs")]),
    times(
        "wake_latency",
        &[time("wake_latency_p50", "µs"), time("wake_latency_p99", "µs"), time("hog_sleeper_p50", "µs"), time("hog_sleeper_p99", "µs")],
    ),
    times("fairness", &[time("fairness_3", "%"), time("fairness_5", "%")]),
    times(
        "malloc_stress",
        &[time("malloc_stress_1", "ns"), time("malloc_stress_2", "ns"), time("malloc_stress_3", "ns"), time("malloc_stress_4", "ns")],
    ),
    times("fault_scaling", &[time("fault_scaling_1", "ns"), time("fault_scaling_2", "ns")]),
    app(
        "app_redis",
        &["/bin/sh", "bench/app_redis/main.sh"],
        &["redis-server", "redis-tools", "coreutils", "sed"],
        &[time("redis_set", "ns"), time("redis_get", "ns"), time("redis_pipelined", "ns")],
    ),
    app("app_sqlite", &["/bin/sh", "bench/app_sqlite/main.sh"], &["sqlite3", "coreutils"], &[time("sqlite_speed", "ms")]),
    app(
        "app_python",
        &["/usr/bin/python3", "bench/app_python/main.py"],
        &["coreutils"],
        &[
            time("python_floats", "ms"),
            time("python_json", "ms"),
            time("python_pickle", "ms"),
            time("python_regex", "ms"),
            time("python_start", "ms"),
            time("python_child", "ms"),
        ],
    ),
    app(
        "app_javac",
        &["/bin/sh", "bench/app_javac/main.sh", "tests/guest/scenarios/java"],
        &["openjdk-17-jdk-headless", "coreutils"],
        &[time("javac", "ms")],
    ),
    growth(
        "thread_growth",
        &[
            threads("thread_growth_switch", "thread_growth"),
            threads("thread_growth_create", "thread_growth_create"),
            threads("thread_growth_yield", "thread_growth"),
        ],
    ),
    growth(
        "vma_growth",
        &[
            mappings("vma_growth_map"),
            mappings("vma_growth_fault"),
            mappings("vma_growth_protect"),
        ],
    ),
];
