//! The files of /proc that are about the system.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kernel::clock::{monotonic_ns, realtime_ns};
use kernel::mm::{
    PageSize, explicit_pages, free_blocks, large_page_counts, max_areas, memory_info, set_max_areas, slab_info,
};
use kernel::percpu::cpu_count;
use kernel::thread::{self, RealTimeShare};
use linux_abi::Errno;
use vfs::{aio, inotify};
use vfs::synth::{Entry, Fixed};
use vfs::types::{dev_major, dev_minor};

use crate::process::{Usage, all_processes, all_tables, task_count};
use crate::sys::ipc::{self, shm};
use crate::sys::{file, info};
use crate::sysfs::explicit_pool;
use crate::{calls, cpuinfo, random};

/// A file whose text `make` gives.
fn text(make: impl Fn() -> String + Send + Sync + 'static) -> Entry {
    Entry::file(move || Ok(make().into_bytes()))
}

/// A number that root may change.
fn knob(value: &'static AtomicU64) -> Entry {
    let store = |text: &[u8]| {
        let number = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)?;
        value.store(number, Ordering::Relaxed);
        Ok(())
    };
    Entry::writable(|| Ok(format!("{}\n", value.load(Ordering::Relaxed)).into_bytes()), store)
}

/// A number of things, that root may change.
fn count(value: &'static AtomicUsize) -> Entry {
    let store = |text: &[u8]| {
        let number = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)?;
        value.store(number, Ordering::Relaxed);
        Ok(())
    };
    Entry::writable(|| Ok(format!("{}\n", value.load(Ordering::Relaxed)).into_bytes()), store)
}

/// Open descriptors of all threads.
fn open_files() -> usize {
    all_tables().iter().map(|table| table.open_descriptors().len()).sum()
}

/// The entries of the root that are not processes.
pub(super) fn root() -> Fixed {
    Fixed(vec![
        ("buddyinfo", text(buddyinfo)),
        ("cgroups", Entry::text(CGROUPS)),
        ("cmdline", text(|| "oxv\n".to_string())),
        ("consoles", Entry::text("hvc0                 -W- (EC p  )  229:0\n")),
        ("cpuinfo", text(cpuinfo::text_file)),
        ("devices", Entry::text(DEVICES)),
        ("diskstats", Entry::text("")),
        ("filesystems", Entry::text("nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\toverlay\n\terofs\n")),
        ("loadavg", text(loadavg)),
        ("locks", text(locks)),
        ("meminfo", text(meminfo)),
        ("misc", Entry::text("")),
        ("modules", Entry::text("")),
        ("mounts", Entry::link("self/mounts")),
        ("net", Entry::link("self/net")),
        ("oxv", Entry::fixed(vec![("calls", text(calls::statistics))])),
        ("partitions", Entry::text("major minor  #blocks  name\n\n")),
        ("slabinfo", text(slabinfo)),
        ("stat", text(stat)),
        ("swaps", Entry::text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
        ("sys", sys()),
        ("sysvipc", Entry::fixed(vec![
                ("msg", text(ipc::message_table)),
                ("sem", text(ipc::semaphore_table)),
                ("shm", text(shm::table_text)),
            ])),
        ("tty", Entry::fixed(vec![("drivers", Entry::text(TTY_DRIVERS)), ("ldiscs", Entry::text("n_tty       0\n"))])),
        ("uptime", text(uptime)),
        ("vmstat", text(vmstat)),
        ("version", text(|| format!("Linux version {} (oxv) {}\n", info::RELEASE, info::version()))),
    ])
}

/// One hierarchy, version 2, whose root has these controllers; none of them limits anything.
const CGROUPS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n";

const DEVICES: &str = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n 10 misc\n136 pts\n229 hvc\n\nBlock devices:\n";

const TTY_DRIVERS: &str = "/dev/tty             /dev/tty        5       0 system:/dev/tty\n\
    /dev/console         /dev/console    5       1 system:console\n\
    pty_slave            /dev/pts      136 0-1048575 pty:slave\n\
    pty_master           /dev/ptm      128 0-1048575 pty:master\n\
    hvc                  /dev/hvc      229 0-7 system\n";

/// The locks that are held, as `/proc/locks` shows them.
fn locks() -> String {
    let mut out = String::new();
    for (at, held) in file::held_locks().into_iter().enumerate() {
        let last = held.last.map_or_else(|| "EOF".to_string(), |last| last.to_string());
        let (major, minor) = (dev_major(held.device), dev_minor(held.device));
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "{}: {:<6} ADVISORY  {:<5} {} {major:02x}:{minor:02x}:{} {} {last}",
            at + 1, held.family, held.kind, held.pid, held.inode, held.start,
        );
    }
    out
}

/// Hundredths of a second.
fn ticks(ns: u64) -> u64 {
    ns / 10_000_000
}

/// What all processes used.
fn used() -> Usage {
    all_processes().iter().fold(Usage::default(), |sum, process| sum.plus(process.usage()))
}

fn idle_ns() -> u64 {
    (monotonic_ns() * cpu_count() as u64).saturating_sub(used().cpu_ns())
}

fn uptime() -> String {
    let (up, idle) = (ticks(monotonic_ns()), ticks(idle_ns()));
    format!("{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100)
}

/// Load is not averaged over time here: the three numbers are 0.
fn loadavg() -> String {
    let tasks = task_count();
    let last = all_processes().iter().flat_map(|process| process.tasks()).map(|task| task.tid()).max().unwrap_or(1);
    format!("0.00 0.00 0.00 1/{tasks} {last}\n")
}

fn stat() -> String {
    let count = cpu_count() as u64;
    let (used, idle) = (used(), ticks(idle_ns()));
    let (user, system) = (ticks(used.user_ns), ticks(used.system_ns));
    let mut out = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..count {
        let _ = writeln!(out, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0", user / count, system / count, idle / count);
    }
    let boot = (realtime_ns() - monotonic_ns()) / 1_000_000_000;
    let _ = write!(
        out,
        "intr 0\nctxt 0\nbtime {boot}\nprocesses {}\nprocs_running 1\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        task_count(),
    );
    out
}

/// Lines of `meminfo` in kB. What neither programs nor the kernel have for themselves is files in memory and shared memory, which
/// Linux counts as both cache and shared memory.
fn memory_lines() -> [(&'static str, u64); 26] {
    let info = memory_info();
    let anonymous: u64 = all_processes().iter().map(|process| process.space().own_frames()).sum();
    let used = info.total_frames - info.free_frames;
    let kernel = info.heap_frames + info.table_frames + info.stack_frames + info.lent_frames;
    let shared = used.saturating_sub(anonymous + kernel);
    let kb = |bytes: u64| bytes / 1024;
    let frames = |count: u64| count * 4;
    let (total, free, available) = (kb(info.total_bytes()), kb(info.free_bytes()), kb(info.available_bytes()));
    [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", available),
        ("Buffers", 0),
        ("Cached", frames(shared)),
        ("SwapCached", 0),
        ("Active", frames(anonymous + shared)),
        ("Inactive", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", frames(anonymous)),
        ("Mapped", 0),
        ("Shmem", frames(shared)),
        ("Slab", frames(info.heap_frames - info.large_heap_frames)),
        ("SUnreclaim", frames(info.heap_frames - info.large_heap_frames)),
        ("KernelStack", frames(info.stack_frames)),
        ("PageTables", frames(info.table_frames)),
        ("CommitLimit", total),
        ("Committed_AS", total - free),
        ("VmallocTotal", 0),
        ("VmallocUsed", frames(info.large_heap_frames)),
        ("AnonHugePages", large_page_counts().mapped * 2048),
    ]
}

fn meminfo() -> String {
    let mut out = String::new();
    for (name, kb) in memory_lines() {
        let label = format!("{name}:");
        let _ = writeln!(out, "{label:<16}{kb:>8} kB");
    }
    // Those in mappings that nobody has touched are free, and reserved.
    let (large, huge) = (explicit_pages(PageSize::Size2M), explicit_pages(PageSize::Size1G));
    let counts = [("Total", large.total), ("Free", large.untouched + large.pooled), ("Rsvd", large.untouched), ("Surp", large.surplus)];
    for (name, count) in counts {
        let _ = writeln!(out, "HugePages_{name}: {count:>7}");
    }
    let _ = writeln!(out, "Hugepagesize:       2048 kB\nHugetlb:        {:>8} kB", (large.total + (huge.total << 9)) * 2048);
    out
}

/// Free blocks by size. Those above 4 MiB are shown as so many of 4 MiB, the largest that readers expect.
fn buddyinfo() -> String {
    const SHOWN: usize = 11;
    let mut out = "Node 0, zone   Normal ".to_string();
    let blocks = free_blocks();
    let largest: u64 = blocks.iter().skip(SHOWN - 1).enumerate().map(|(above, count)| count << above).sum();
    for count in blocks[..SHOWN - 1].iter().chain([&largest]) {
        let _ = write!(out, "{count:>6} ");
    }
    out.push('\n');
    out
}

/// The kernel heap's size classes; a slab is a page.
fn slabinfo() -> String {
    let mut out = "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> \
        : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
        .to_string();
    for class in slab_info() {
        let (name, size, slabs) = (format!("kmalloc-{}", class.object_size), class.object_size, class.slabs);
        let (active, objects, per_slab) = (class.active, class.objects, 4096 / size);
        let _ = writeln!(
            out,
            "{name:<17} {active:>6} {objects:>6} {size:>6} {per_slab:>4} {:>4} : tunables {:>4} {:>4} {:>4} : slabdata {slabs:>6} {slabs:>6} {:>6}",
            1, 0, 0, 0, 0,
        );
    }
    out
}

/// What is counted of `/proc/vmstat`.
fn vmstat() -> String {
    let (info, large) = (memory_info(), large_page_counts());
    let lines = [
        ("nr_free_pages", info.free_frames),
        ("nr_anon_transparent_hugepages", large.mapped),
        ("nr_page_table_pages", info.table_frames),
        ("nr_kernel_stack", info.stack_frames * 4),
        ("nr_slab_unreclaimable", info.heap_frames - info.large_heap_frames),
        ("nr_free_zeroed", info.zeroed_frames),
        ("nr_balloon_pages", info.lent_frames),
        // Nothing is read from or written to a disk, or swapped.
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("thp_fault_alloc", large.at_fault),
        ("thp_fault_fallback", large.fallback),
        ("thp_collapse_alloc", large.joined),
        ("thp_collapse_alloc_failed", large.join_failed),
        ("thp_split_pmd", large.split),
    ];
    let mut out = String::new();
    for (name, count) in lines {
        let _ = writeln!(out, "{name} {count}");
    }
    out
}

/// `/sys/devices/system/node/node0/meminfo`.
pub(crate) fn node_meminfo() -> String {
    let mut out = String::new();
    for (name, kb) in memory_lines().iter().filter(|(name, _)| matches!(*name, "MemTotal" | "MemFree")) {
        let label = format!("{name}:");
        let _ = writeln!(out, "Node 0 {label:<16}{kb:>8} kB");
    }
    out
}

fn max_map_count() -> Entry {
    let write = |text: &[u8]| {
        let most = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let most = most.and_then(|most| usize::try_from(most).ok()).ok_or(Errno::EINVAL)?;
        set_max_areas(most);
        Ok(())
    };
    Entry::writable(|| Ok(format!("{}\n", max_areas()).into_bytes()), write)
}

/// A part of what real-time threads may have of each CPU's time.
fn real_time_share(get: fn(RealTimeShare) -> i32, with: fn(RealTimeShare, i32) -> Option<RealTimeShare>) -> Entry {
    let write = move |text: &[u8]| {
        let number = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)?;
        thread::change_real_time_share(|share| with(share, number))
    };
    Entry::writable(move || Ok(format!("{}\n", get(thread::real_time_share())).into_bytes()), write)
}

fn sys() -> Entry {
    Entry::fixed(vec![
        (
            "fs",
            Entry::fixed(vec![
                ("aio-max-nr", knob(&aio::MAX_REQUESTS)),
                ("aio-nr", text(|| format!("{}\n", aio::requests()))),
                ("dentry-state", text(|| format!("{0}\t{0}\t45\t0\t0\t0\n", vfs::keeper::count()))),
                ("epoll", Entry::fixed(vec![("max_user_watches", Entry::text("1048576\n"))])),
                (
                    "mqueue",
                    Entry::fixed(vec![
                        ("msg_default", Entry::text("10\n")),
                        ("msg_max", Entry::text("10\n")),
                        ("msgsize_default", Entry::text("8192\n")),
                        ("msgsize_max", Entry::text("8192\n")),
                        ("queues_max", Entry::text("256\n")),
                    ]),
                ),
                ("file-max", Entry::text("9223372036854775807\n")),
                ("file-nr", text(|| format!("{}\t0\t9223372036854775807\n", open_files()))),
                (
                    "inotify",
                    Entry::fixed(vec![
                        ("max_queued_events", count(&inotify::MAX_QUEUED_EVENTS)),
                        ("max_user_instances", count(&inotify::MAX_INSTANCES)),
                        ("max_user_watches", count(&inotify::MAX_WATCHES)),
                    ]),
                ),
                ("nr_open", Entry::text("1048576\n")),
                ("pipe-max-size", Entry::text("1048576\n")),
                ("pipe-user-pages-hard", Entry::text("0\n")),
                ("pipe-user-pages-soft", Entry::text("0\n")),
                ("protected_hardlinks", Entry::text("0\n")),
                ("protected_symlinks", Entry::text("0\n")),
                ("suid_dumpable", Entry::text("0\n")),
            ]),
        ),
        ("kernel", sys_kernel()),
        (
            "net",
            Entry::fixed(vec![
                (
                    "core",
                    Entry::fixed(vec![
                        ("optmem_max", Entry::text("131072\n")),
                        ("rmem_default", Entry::text("212992\n")),
                        ("rmem_max", Entry::text("212992\n")),
                        ("somaxconn", Entry::text("4096\n")),
                        ("wmem_default", Entry::text("212992\n")),
                        ("wmem_max", Entry::text("212992\n")),
                    ]),
                ),
                ("unix", Entry::fixed(vec![("max_dgram_qlen", Entry::text("10\n"))])),
            ]),
        ),
        (
            "vm",
            Entry::fixed(vec![
                ("max_map_count", max_map_count()),
                ("mmap_min_addr", Entry::text("65536\n")),
                ("nr_hugepages", explicit_pool(PageSize::Size2M)),
                ("nr_overcommit_hugepages", text(|| format!("{}\n", memory_info().total_bytes() >> 21))),
                ("overcommit_memory", Entry::text("1\n")),
                ("overcommit_ratio", Entry::text("50\n")),
                ("swappiness", Entry::text("60\n")),
            ]),
        ),
    ])
}

fn sys_kernel() -> Entry {
    let random = Entry::fixed(vec![
        ("boot_id", text(|| BOOT_ID.get_or_init(uuid).clone())),
        ("entropy_avail", Entry::text("256\n")),
        ("poolsize", Entry::text("256\n")),
        ("uuid", text(uuid)),
    ]);
    Entry::fixed(vec![
        ("cap_last_cap", Entry::text("40\n")),
        ("core_pattern", Entry::text("core\n")),
        ("domainname", Entry::text("(none)\n")),
        ("hostname", text(|| format!("{}\n", info::hostname()))),
        ("msgmax", Entry::text("8192\n")),
        ("msgmnb", Entry::text("16384\n")),
        ("msgmni", Entry::text("32000\n")),
        ("ngroups_max", Entry::text("65536\n")),
        ("osrelease", text(|| format!("{}\n", info::RELEASE))),
        ("ostype", Entry::text("Linux\n")),
        ("perf_event_paranoid", Entry::text("4\n")),
        ("pid_max", text(|| format!("{}\n", crate::process::PID_MAX))),
        ("random", random),
        ("sem", Entry::text("32000\t1024000000\t500\t32000\n")),
        ("shm_rmid_forced", Entry::text("0\n")),
        ("shmall", knob(&shm::MAX_PAGES)),
        ("shmmax", knob(&shm::MAX_BYTES)),
        ("shmmni", knob(&shm::MAX_SEGMENTS)),
        ("randomize_va_space", Entry::text("2\n")),
        ("sched_autogroup_enabled", Entry::text("0\n")),
        ("sched_rt_period_us", real_time_share(RealTimeShare::period_us, |share, us| RealTimeShare::new(share.runtime_us(), us))),
        ("sched_rt_runtime_us", real_time_share(RealTimeShare::runtime_us, |share, us| RealTimeShare::new(us, share.period_us()))),
        ("threads-max", Entry::text("127182\n")),
        ("version", text(|| format!("{}\n", info::version()))),
        ("yama", Entry::fixed(vec![("ptrace_scope", Entry::text("3\n"))])),
    ])
}

static BOOT_ID: sync::OnceCell<String> = sync::OnceCell::new();

/// A random UUID (RFC 9562, version 4).
fn uuid() -> String {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut out = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        let _ = write!(out, "{byte:02x}");
    }
    out.push('\n');
    out
}
