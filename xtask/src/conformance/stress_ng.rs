//! stress-ng as Debian's package has it; a test is a stressor, with `--verify` where it can.
//!
//! Left out are those for devices, networks and other file systems, and those that take all of a machine's memory or time: they would
//! take this machine's first.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

use super::runner::{Suite, Test};

const PROGRAM: &str = "/usr/bin/stress-ng";
/// The stressors, with what they need besides.
const STRESSORS: &str = "access affinity aio aiol alarm atomic bad-altstack branch bsearch cache cap chattr chdir chmod chown chroot clock clone close context \
    copy-file:--copy-file-bytes:128m cpu daemon dekker dentry dir dirdeep dirmany dnotify dup dynlib enosys env epoll:--epoll-domain:unix eventfd \
    exec exit-group fallocate:--fallocate-bytes:32m far-branch fault fcntl fiemap fifo file-ioctl filename flock fork forkheavy fp-error fpunch \
    fstat full funccall futex get getdent getrandom goto handle hash hdd:--hdd-bytes:32m hrtimers icache inode-flags inotify io \
    iomix:--iomix-bytes:32m ioprio itimer kcmp kill landlock lease link loadavg locka lockbus lockf lockofd longjmp lsearch madvise malloc \
    matrix mcontend membarrier memcpy memfd:--memfd-bytes:32m memrate:--memrate-bytes:32m memthrash mergesort mincore misaligned mknod mlock \
    mmap:--mmap-bytes:32m mmapaddr mmapfixed mmaphuge mmapmany mprotect mq mremap:--mremap-bytes:32m msg msync:--msync-bytes:32m munmap mutex \
    nanosleep nice nop null open opcode personality peterson pidfd pipe pipeherd pkey poll prctl priv-instr procfs pthread ptrace pty qsort \
    race-sched readahead:--readahead-bytes:32m regs remap rename resched revio:--revio-bytes:32m ring-pipe rlimit rmap rotate rseq schedpolicy \
    seal seccomp secretmem seek:--seek-size:32m sem sem-sysv sendfile session set shm shm-sysv sigabrt sigchld sigfd sigfpe sigio signal signest \
    sigpending sigpipe sigq sigrt sigsegv sigsuspend sigtrap sleep sock:--sock-domain:unix sockfd sockpair spawn splice stack stackmmap str \
    stream switch symlink sync-file:--sync-file-bytes:32m syncload sysbadaddr syscall sysfs sysinfo sysinval tee timer timerfd tlb-shootdown \
    touch tsc unshare urandom userfaultfd usersyscall utime vdso vecmath vfork vforkmany vm:--vm-bytes:32m vm-addr vm-rw:--vm-rw-bytes:32m \
    vm-segv vm-splice wait waitcpu wcs x86cpuid x86syscall xattr yield zero zlib zombie";
/// Together for long: what a program's life is made of.
const TOGETHER: &str = "--cpu 1 --vm 1 --vm-bytes 64m --futex 1 --pthread 1 --pthread-max 32 --pipe 1 --epoll 1 --epoll-domain unix --sigsegv 1 --sigq 1 --sigfd 1 --sigrt 1 --timer 1 \
    --fork 1 --eventfd 1 --mmap 1 --mmap-bytes 64m --switch 1";

/// Makes the list; each stressor works for `seconds`.
///
/// # Errors
/// When the package is not installed.
pub(super) fn prepare(seconds: u64) -> Result<Suite> {
    if !Path::new(PROGRAM).exists() {
        bail!("install the package stress-ng");
    }
    let test = |name: &str, words: Vec<&str>| {
        let timeout = seconds.to_string();
        let all = words.into_iter().chain(["--timeout", &timeout, "--verify", "--quiet"]);
        Test { name: name.to_owned(), program: PathBuf::from(PROGRAM), args: all.map(str::to_owned).collect() }
    };
    let one = |words: &str| {
        let mut words = words.split(':');
        let name = words.next().unwrap_or_default();
        let option = format!("--{name}");
        test(name, [option.as_str(), "2"].into_iter().chain(words).collect())
    };
    let together = test("together", TOGETHER.split_whitespace().collect());
    Ok(Suite {
        name: "stress-ng",
        title: "stress-ng, by stressor".to_owned(),
        memory: "1536M",
        by: Vec::new(),
        options: ["--package", "stress-ng"].map(str::to_owned).to_vec(),
        tests: STRESSORS.split_whitespace().map(one).chain([together]).collect(),
    })
}
