//! /sys: what runtimes read there. There are no devices to look at, and one control group, which limits nothing.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use kernel::mm::{LargePages, PageSize, explicit_pages, has_huge_pages, memory_info, set_explicit_pool};
use kernel::percpu::cpu_count;
use vfs::synth::{Directory, Entry, Fixed, Joined, mount};
use vfs::types::SYSFS_MAGIC;
use vfs::{FileKind, Inode};

use crate::process::all_processes;
use crate::procfs::system::node_meminfo;
use crate::sys::file::now;

const DEV: u64 = 0x16;
const CGROUP_DEV: u64 = 0x1b;
/// `CGROUP2_SUPER_MAGIC`
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The root of /sys.
#[must_use]
pub fn make() -> Arc<dyn Inode> {
    let empty = || Entry::fixed(Vec::new());
    let root = Fixed(vec![
        ("block", empty()),
        ("bus", empty()),
        ("class", Entry::fixed(vec![("net", empty())])),
        ("devices", Entry::fixed(vec![("system", system()), ("virtual", empty())])),
        ("dev", Entry::fixed(vec![("block", empty()), ("char", empty())])),
        ("firmware", empty()),
        ("fs", Entry::fixed(vec![("cgroup", Entry::fixed(Vec::new()))])),
        ("kernel", Entry::fixed(vec![("mm", memory())])),
        ("module", empty()),
    ]);
    mount(Arc::new(root), DEV, SYSFS_MAGIC, now)
}

/// Control groups, version 2: the root alone, which limits nothing.
#[must_use]
pub fn control_groups() -> Arc<dyn Inode> {
    let root = Fixed(vec![
        ("cgroup.controllers", Entry::text("cpuset cpu memory pids\n")),
        ("cgroup.max.depth", Entry::text("max\n")),
        ("cgroup.max.descendants", Entry::text("max\n")),
        ("cgroup.procs", Entry::file(|| Ok(numbers(all_processes().iter().map(|process| process.pid()))))),
        ("cgroup.stat", Entry::text("nr_descendants 0\nnr_dying_descendants 0\n")),
        ("cgroup.subtree_control", Entry::text("\n")),
        ("cgroup.threads", Entry::file(|| Ok(numbers(all_processes().iter().flat_map(|process| process.tasks()).map(|task| task.tid()))))),
        ("cpu.stat", Entry::file(|| Ok(cpu_statistics().into_bytes()))),
        ("cpuset.cpus.effective", line(cpu_list)),
        ("cpuset.mems.effective", Entry::text("0\n")),
        ("memory.stat", Entry::file(|| Ok(memory_statistics().into_bytes()))),
    ]);
    mount(Arc::new(root), CGROUP_DEV, CGROUP2_MAGIC, now)
}

fn numbers(all: impl Iterator<Item = u32>) -> Vec<u8> {
    all.map(|number| format!("{number}\n")).collect::<String>().into_bytes()
}

fn cpu_statistics() -> String {
    let used_us: u64 = all_processes().iter().map(|process| process.cpu_time_ns() / 1000).sum();
    format!("usage_usec {used_us}\nuser_usec {used_us}\nsystem_usec 0\n")
}

fn memory_statistics() -> String {
    let info = memory_info();
    let anonymous: u64 = all_processes().iter().map(|process| process.space().own_frames()).sum();
    let bytes = |frames: u64| frames * 4096;
    format!(
        "anon {}\nfile 0\nkernel_stack {}\npagetables {}\nslab {}\n",
        bytes(anonymous),
        bytes(info.stack_frames),
        bytes(info.table_frames),
        bytes(info.heap_frames - info.large_heap_frames),
    )
}

fn line(make: impl Fn() -> String + Send + Sync + 'static) -> Entry {
    Entry::file(move || Ok((make() + "\n").into_bytes()))
}

fn memory() -> Entry {
    let mut sizes = vec![("hugepages-2048kB", explicit(PageSize::Size2M))];
    if has_huge_pages() {
        sizes.insert(0, ("hugepages-1048576kB", explicit(PageSize::Size1G)));
    }
    Entry::fixed(vec![
        ("hugepages", Entry::fixed(sizes)),
        (
            "transparent_hugepage",
            Entry::fixed(vec![
                ("defrag", Entry::text("always defer defer+madvise madvise [never]\n")),
                ("enabled", Entry::writable(|| Ok(enabled().as_bytes().to_vec()), set_enabled)),
                ("hpage_pmd_size", Entry::text("2097152\n")),
                ("shmem_enabled", Entry::text("always within_size advise [never] deny force\n")),
                ("use_zero_page", Entry::text("1\n")),
            ]),
        ),
    ])
}

/// The pages of `MAP_HUGETLB` of one size. For those beyond the pool memory is the limit.
fn explicit(size: PageSize) -> Entry {
    Entry::fixed(vec![
        ("free_hugepages", line(move || free_explicit(size).to_string())),
        ("nr_hugepages", explicit_pool(size)),
        ("nr_overcommit_hugepages", line(move || (memory_info().total_bytes() / size.bytes()).to_string())),
        ("resv_hugepages", line(move || explicit_pages(size).untouched.to_string())),
        ("surplus_hugepages", line(move || explicit_pages(size).surplus.to_string())),
    ])
}

/// Pages of `MAP_HUGETLB` that hold nothing.
pub(crate) fn free_explicit(size: PageSize) -> u64 {
    let pages = explicit_pages(size);
    pages.untouched + pages.pooled
}

/// `nr_hugepages`: how many there are; how many there shall be.
pub(crate) fn explicit_pool(size: PageSize) -> Entry {
    let read = move || Ok(format!("{}\n", explicit_pages(size).total).into_bytes());
    let write = move |text: &[u8]| {
        let pages = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(vfs::Errno::EINVAL)?;
        set_explicit_pool(size, pages);
        Ok(())
    };
    Entry::writable(read, write)
}

/// Which memory gets large pages.
fn enabled() -> &'static str {
    match LargePages::current() {
        LargePages::Always => "[always] madvise never\n",
        LargePages::Advised => "always [madvise] never\n",
        LargePages::Never => "always madvise [never]\n",
    }
}

fn set_enabled(text: &[u8]) -> vfs::Result<()> {
    let mode = match text.trim_ascii_end() {
        b"always" => LargePages::Always,
        b"madvise" => LargePages::Advised,
        b"never" => LargePages::Never,
        _ => return Err(vfs::Errno::EINVAL),
    };
    mode.set();
    Ok(())
}

fn system() -> Entry {
    let clocksource = Entry::fixed(vec![
        ("available_clocksource", Entry::text("tsc\n")),
        ("current_clocksource", Entry::text("tsc\n")),
    ]);
    Entry::fixed(vec![
        ("clocksource", Entry::fixed(vec![("clocksource0", clocksource)])),
        ("cpu", Entry::Directory(cpus())),
        ("node", node()),
    ])
}

/// `0-3`, as a list of CPUs.
#[must_use]
pub fn cpu_list() -> String {
    match cpu_count() {
        1 => "0".to_string(),
        count => format!("0-{}", count - 1),
    }
}

/// All CPUs as a bit mask, in groups of 32 bits.
#[must_use]
pub fn cpu_mask() -> String {
    mask(u128::MAX >> (128 - cpu_count().clamp(1, 128)))
}

fn mask(bits: u128) -> String {
    let groups = cpu_count().div_ceil(32).max(1);
    let words: Vec<_> = (0..groups).rev().map(|group| format!("{:08x}", (bits >> (32 * group)) as u32)).collect();
    let text = words.join(",");
    // A single group is printed without leading zeros beyond what the CPUs need.
    if groups == 1 { format!("{:x}", bits as u32) } else { text }
}

fn cpus() -> Arc<dyn Directory> {
    let fixed = Fixed(vec![
        ("isolated", Entry::text("\n")),
        ("kernel_max", line(|| (cpu_count() - 1).to_string())),
        ("offline", Entry::text("\n")),
        ("online", line(cpu_list)),
        ("possible", line(cpu_list)),
        ("present", line(cpu_list)),
    ]);
    Arc::new(Joined(Arc::new(fixed), Arc::new(CpuDirectories)))
}

/// `cpu0`, `cpu1`, …
struct CpuDirectories;

impl Directory for CpuDirectories {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let digits = core::str::from_utf8(name.strip_prefix(b"cpu")?).ok()?;
        let cpu: usize = digits.parse().ok().filter(|cpu| *cpu < cpu_count())?;
        // No leading zeros or signs.
        (digits == cpu.to_string()).then(|| cpu_directory(cpu))
    }

    fn list(&self) -> Vec<(vfs::types::Name, FileKind)> {
        (0..cpu_count()).map(|cpu| (Box::from(format!("cpu{cpu}").as_bytes()), FileKind::Directory)).collect()
    }
}

fn cpu_directory(cpu: usize) -> Entry {
    let own_mask = move || mask(1 << cpu.min(127));
    let topology = Entry::fixed(vec![
        ("core_cpus", line(own_mask)),
        ("core_cpus_list", line(move || cpu.to_string())),
        ("core_id", line(move || cpu.to_string())),
        ("core_siblings", line(cpu_mask)),
        ("core_siblings_list", line(cpu_list)),
        ("die_id", Entry::text("0\n")),
        ("package_cpus", line(cpu_mask)),
        ("package_cpus_list", line(cpu_list)),
        ("physical_package_id", Entry::text("0\n")),
        ("thread_siblings", line(own_mask)),
        ("thread_siblings_list", line(move || cpu.to_string())),
    ]);
    let mut entries = vec![("topology", topology)];
    if cpu > 0 {
        entries.push(("online", Entry::text("1\n")));
    }
    Entry::fixed(entries)
}

fn node() -> Entry {
    let node0 = Entry::fixed(vec![
        ("cpulist", line(cpu_list)),
        ("cpumap", line(cpu_mask)),
        ("distance", Entry::text("10\n")),
        ("meminfo", Entry::file(|| Ok(node_meminfo().into_bytes()))),
    ]);
    Entry::fixed(vec![
        ("has_cpu", Entry::text("0\n")),
        ("has_memory", Entry::text("0\n")),
        ("has_normal_memory", Entry::text("0\n")),
        ("node0", node0),
        ("online", Entry::text("0\n")),
        ("possible", Entry::text("0\n")),
    ])
}
