//! The system call table: number → function, one line each, and the entry from the kernel.
//!
//! A line reads `name => module::function / ARGUMENTS, COVERAGE, ROUTE;`. The function takes [`Ctx`] and that many typed
//! arguments ([`crate::ctx::FromRegister`]). `COVERAGE` is what doc/linux-abi.md prints: `full`, or `partial("what is missing")`.
//! `ROUTE` is left out, or `whole` (the handler looks at all registers of the program's frame, or changes them), or `quiet` (it touches no
//! vector register and never waits, which `cargo xtask lint` proves; such calls are entered faster), or `brief(FUNCTION)`, a handler for
//! the usual case that is quiet ([`crate::brief`]).
//! A number without a line answers `ENOSYS` and is logged once.

#![expect(unsafe_code, reason = "defines link-time symbols that the entry code uses")]

#[macro_use]
mod macros;

use core::sync::atomic::{AtomicU64, Ordering};

use arch_x86_64::TrapFrame;
use arch_x86_64::syscall::Route;
use linux_abi::Errno;
use syscalls::Sysno;

use crate::brief;
use crate::ctx::{Ctx, Handler, to_register};
use crate::kmsg;
use crate::process::Task;
use crate::rseq;
use crate::scarcity;
use crate::sys::{
    adjust, denied, event, file, futex, info, ipc, membarrier, mm, pidfd, policy, process, remote, sched, signal, socket,
    thread, time, userfault,
};

/// One past the largest number in the table (Linux 6.12 ends at 462).
pub const COUNT: usize = arch_x86_64::syscall::COUNT;

/// How much of a system call's documented behaviour is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Everything the man page says that makes sense here.
    Full,
    /// What the text says is missing.
    Partial(&'static str),
}

/// A line of the table, for documentation.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The call.
    pub number: Sysno,
    /// How much of it is there.
    pub coverage: Coverage,
}

macro_rules! table {
    ($($name:ident => $module:ident::$function:ident / $arity:tt, $coverage:ident $(($text:literal))? $(, $route:ident $(($brief:ident))?)?;)*) => {
        /// The functions, by number.
        const FUNCTIONS: [Handler; COUNT] = {
            let mut table = [unknown as Handler; COUNT];
            $(table[Sysno::$name as usize] = shim!($module::$function, $arity);)*
            table
        };

        /// How they are entered, by number.
        const ROUTES: [Route; COUNT] = {
            let mut table = [Route::Full; COUNT];
            $(table[Sysno::$name as usize] = route!($($route $($brief)?)?);)*
            table
        };

        /// The handlers of brief calls, by number. For `syscall_entry`.
        #[unsafe(no_mangle)]
        static linux_brief_handlers: [Handler; COUNT] = {
            let mut table = [unknown as Handler; COUNT];
            $(table[Sysno::$name as usize] = brief_handler!($($route $($brief)?)?);)*
            table
        };

        /// The table as data.
        pub static LINES: &[Line] = &[
            $(Line { number: Sysno::$name, coverage: coverage!($coverage $(($text))?) },)*
        ];
    };
}

table! {
    // Files (sys/file)
    read => file::read / 3, full, brief(read);
    write => file::write / 3, full, brief(write);
    pread64 => file::pread64 / 4, full;
    pwrite64 => file::pwrite64 / 4, full;
    readv => file::readv / 3, full;
    writev => file::writev / 3, full;
    preadv => file::preadv / 4, full;
    pwritev => file::pwritev / 4, full;
    preadv2 => file::preadv2 / 6, full;
    pwritev2 => file::pwritev2 / 6, full;
    lseek => file::lseek / 3, full;
    fsync => file::fsync / 1, full;
    fdatasync => file::fdatasync / 1, full;
    sync_file_range => file::sync_file_range / 4, full;
    sync => file::sync / 0, full;
    syncfs => file::syncfs / 1, full;
    truncate => file::truncate / 2, full;
    ftruncate => file::ftruncate / 2, full;
    fallocate => file::fallocate / 4, full;
    fadvise64 => file::fadvise64 / 4, full;
    readahead => file::readahead / 3, full;
    sendfile => file::sendfile / 4, full;
    copy_file_range => file::copy_file_range / 6, full;
    splice => file::splice / 6, full;
    tee => file::tee / 4, full;
    vmsplice => file::vmsplice / 4, full;
    open => file::open / 3, full;
    openat => file::openat / 4, full;
    creat => file::creat / 2, full;
    openat2 => file::openat2 / 4, full;
    close => file::close / 1, full;
    close_range => file::close_range / 3, full;
    dup => file::dup / 1, full;
    dup2 => file::dup2 / 2, full;
    dup3 => file::dup3 / 3, full;
    fcntl => file::fcntl / 3, partial("no leases");
    ioctl => file::ioctl / 3, full;
    pipe => file::pipe / 1, full;
    pipe2 => file::pipe2 / 2, full;
    memfd_create => file::memfd_create / 2, full;
    flock => file::flock / 2, full;
    mkdir => file::mkdir / 2, full;
    mkdirat => file::mkdirat / 3, full;
    mknod => file::mknod / 3, full;
    mknodat => file::mknodat / 4, full;
    unlink => file::unlink / 1, full;
    unlinkat => file::unlinkat / 3, full;
    rmdir => file::rmdir / 1, full;
    rename => file::rename / 2, full;
    renameat => file::renameat / 4, full;
    renameat2 => file::renameat2 / 5, full;
    link => file::link / 2, full;
    linkat => file::linkat / 5, full;
    symlink => file::symlink / 2, full;
    symlinkat => file::symlinkat / 3, full;
    readlink => file::readlink / 3, full;
    readlinkat => file::readlinkat / 4, full;
    getdents64 => file::getdents64 / 3, full;
    getdents => file::getdents / 3, full;
    getcwd => file::getcwd / 2, full;
    chdir => file::chdir / 1, full;
    fchdir => file::fchdir / 1, full;
    chroot => file::chroot / 1, full;
    umask => file::umask / 1, full, quiet;
    stat => file::stat / 2, full;
    lstat => file::lstat / 2, full;
    fstat => file::fstat / 2, full, brief(fstat);
    newfstatat => file::newfstatat / 4, full, brief(newfstatat);
    statx => file::statx / 5, full;
    statfs => file::statfs / 2, full;
    fstatfs => file::fstatfs / 2, full;
    access => file::access / 2, full;
    faccessat => file::faccessat / 3, full;
    faccessat2 => file::faccessat2 / 4, full;
    chmod => file::chmod / 2, full;
    fchmod => file::fchmod / 2, full;
    fchmodat => file::fchmodat / 3, full;
    fchmodat2 => file::fchmodat2 / 4, full;
    chown => file::chown / 3, full;
    lchown => file::lchown / 3, full;
    fchown => file::fchown / 3, full;
    fchownat => file::fchownat / 5, full;
    utimensat => file::utimensat / 4, full;
    utimes => file::utimes / 2, full;
    utime => file::utime / 2, full;
    futimesat => file::futimesat / 3, full;
    getxattr => file::getxattr / 4, full;
    setxattr => file::setxattr / 5, full;
    listxattr => file::listxattr / 3, full;
    removexattr => file::removexattr / 2, full;
    lgetxattr => file::lgetxattr / 4, full;
    lsetxattr => file::lsetxattr / 5, full;
    llistxattr => file::llistxattr / 3, full;
    lremovexattr => file::lremovexattr / 2, full;
    fgetxattr => file::fgetxattr / 4, full;
    fsetxattr => file::fsetxattr / 5, full;
    flistxattr => file::flistxattr / 3, full;
    fremovexattr => file::fremovexattr / 2, full;
    inotify_init => file::inotify_init / 0, full;
    inotify_init1 => file::inotify_init1 / 1, full;
    inotify_add_watch => file::inotify_add_watch / 3, full;
    inotify_rm_watch => file::inotify_rm_watch / 2, full;
    mount => file::mount / 5, partial("tmpfs, proc, sysfs, devtmpfs and bind mounts; no MS_MOVE");
    umount2 => file::umount2 / 2, partial("no MNT_EXPIRE");
    pivot_root => file::mount_denied / 0, partial("EPERM");
    swapon => file::mount_denied / 0, partial("EPERM");
    swapoff => file::mount_denied / 0, partial("EPERM");

    // Asynchronous I/O (sys/file/aio.rs)
    io_setup => file::io_setup / 2, full;
    io_destroy => file::io_destroy / 1, full;
    io_submit => file::io_submit / 3, full;
    io_cancel => file::io_cancel / 3, full;
    io_getevents => file::io_getevents / 5, full;
    io_pgetevents => file::io_pgetevents / 6, full;

    // Waiting for files (sys/event)
    poll => event::poll / 3, full;
    ppoll => event::ppoll / 5, full;
    select => event::select / 5, full;
    pselect6 => event::pselect6 / 6, full;
    epoll_create => event::epoll_create / 1, full;
    epoll_create1 => event::epoll_create1 / 1, full;
    epoll_ctl => event::epoll_ctl / 4, full;
    epoll_wait => event::epoll_wait / 4, full, brief(epoll_wait);
    epoll_pwait => event::epoll_pwait / 6, full;
    epoll_pwait2 => event::epoll_pwait2 / 6, full;
    eventfd => event::eventfd / 1, full;
    eventfd2 => event::eventfd2 / 2, full;
    timerfd_create => event::timerfd_create / 2, full;
    timerfd_settime => event::timerfd_settime / 4, full;
    timerfd_gettime => event::timerfd_gettime / 2, full;
    signalfd => event::signalfd / 3, full;
    signalfd4 => event::signalfd4 / 4, full;

    // Sockets (sys/socket)
    socket => socket::socket / 3, partial("AF_UNIX; no network yet");
    socketpair => socket::socketpair / 4, full;
    bind => socket::bind / 3, full;
    listen => socket::listen / 2, full;
    accept => socket::accept / 3, full;
    accept4 => socket::accept4 / 4, full;
    connect => socket::connect / 3, full;
    sendto => socket::sendto / 6, full;
    recvfrom => socket::recvfrom / 6, full;
    sendmsg => socket::sendmsg / 3, full;
    recvmsg => socket::recvmsg / 3, full;
    sendmmsg => socket::sendmmsg / 4, full;
    recvmmsg => socket::recvmmsg / 5, full;
    shutdown => socket::shutdown / 2, full;
    getsockopt => socket::getsockopt / 5, partial("SOL_SOCKET; no filters");
    setsockopt => socket::setsockopt / 5, partial("SOL_SOCKET; no filters");
    getsockname => socket::getsockname / 3, full;
    getpeername => socket::getpeername / 3, full;

    // Memory (sys/mm.rs)
    mmap => mm::mmap / 6, full;
    mprotect => mm::mprotect / 3, full;
    munmap => mm::munmap / 2, full;
    brk => mm::brk / 1, full;
    mremap => mm::mremap / 5, full;
    msync => mm::msync / 3, full;
    mincore => mm::mincore / 3, full;
    madvise => mm::madvise / 3, full;
    mlock => mm::mlock / 2, full;
    mlock2 => mm::mlock2 / 3, full;
    munlock => mm::munlock / 2, full;
    mlockall => mm::mlockall / 1, full;
    munlockall => mm::munlockall / 0, full;

    // Policies and keys (sys/policy.rs)
    get_mempolicy => policy::get_mempolicy / 5, partial("one node; the policy set is not told");
    set_mempolicy => policy::set_mempolicy / 3, partial("one node: no effect");
    mbind => policy::mbind / 6, partial("one node: no effect");
    migrate_pages => policy::migrate_pages / 4, partial("one node: no effect");
    set_mempolicy_home_node => policy::set_mempolicy_home_node / 4, partial("one node: no effect");
    pkey_alloc => policy::pkey_alloc / 2, partial("no keys: ENOSPC");
    pkey_free => policy::pkey_free / 1, partial("no keys");
    pkey_mprotect => policy::pkey_mprotect / 4, partial("no keys");

    // Memory of other processes (sys/remote.rs)
    process_vm_readv => remote::process_vm_readv / 6, full;
    process_vm_writev => remote::process_vm_writev / 6, full;
    userfaultfd => userfault::userfaultfd / 1, partial("write protection with UFFD_FEATURE_WP_ASYNC alone");
    process_madvise => remote::process_madvise / 5, full;
    move_pages => remote::move_pages / 6, partial("one node");
    kcmp => remote::kcmp / 5, full;

    // Shared memory, semaphores and message queues (sys/ipc)
    shmget => ipc::shmget / 3, full;
    shmat => ipc::shmat / 3, full;
    shmdt => ipc::shmdt / 1, full;
    shmctl => ipc::shmctl / 3, full;
    semget => ipc::semget / 3, full;
    semop => ipc::semop / 3, full;
    semtimedop => ipc::semtimedop / 4, full;
    semctl => ipc::semctl / 4, full;
    msgget => ipc::msgget / 2, full;
    msgsnd => ipc::msgsnd / 4, full;
    msgrcv => ipc::msgrcv / 5, full;
    msgctl => ipc::msgctl / 3, full;
    mq_open => ipc::mq_open / 4, full;
    mq_unlink => ipc::mq_unlink / 1, full;
    mq_timedsend => ipc::mq_timedsend / 5, full;
    mq_timedreceive => ipc::mq_timedreceive / 5, full;
    mq_notify => ipc::mq_notify / 2, partial("no SIGEV_THREAD: it needs netlink");
    mq_getsetattr => ipc::mq_getsetattr / 3, full;

    // Threads (sys/thread.rs)
    clone => thread::clone / 5, partial("no namespaces: EPERM"), whole;
    clone3 => thread::clone3 / 2, partial("no namespaces: EPERM; no descriptors of threads: ENOSYS"), whole;
    fork => thread::fork / 0, full, whole;
    vfork => thread::vfork / 0, full, whole;
    exit => thread::exit / 1, full;
    exit_group => thread::exit_group / 1, full;
    gettid => thread::gettid / 0, full, quiet;
    set_tid_address => thread::set_tid_address / 1, full, quiet;
    set_robust_list => thread::set_robust_list / 2, full, quiet;
    get_robust_list => thread::get_robust_list / 3, full;
    sched_yield => sched::sched_yield / 0, full;
    sched_getaffinity => sched::sched_getaffinity / 3, full;
    sched_setaffinity => sched::sched_setaffinity / 3, full;
    sched_getscheduler => sched::sched_getscheduler / 1, full;
    sched_setscheduler => sched::sched_setscheduler / 3, partial("no SCHED_DEADLINE");
    sched_getparam => sched::sched_getparam / 2, full;
    sched_setparam => sched::sched_setparam / 2, full;
    sched_get_priority_min => sched::sched_get_priority_min / 1, full, quiet;
    sched_get_priority_max => sched::sched_get_priority_max / 1, full, quiet;
    sched_rr_get_interval => sched::sched_rr_get_interval / 2, full;
    sched_setattr => sched::sched_setattr / 3, partial("no SCHED_DEADLINE, no utilisation clamps");
    sched_getattr => sched::sched_getattr / 4, full;
    getpriority => sched::getpriority / 2, full;
    setpriority => sched::setpriority / 3, full;
    getcpu => thread::getcpu / 2, full;
    rseq => rseq::rseq / 4, full;
    membarrier => membarrier::membarrier / 3, full;

    // Futexes (sys/futex.rs)
    futex => futex::futex / 6, full;
    futex_wake => futex::futex_wake / 4, full;
    futex_wait => futex::futex_wait / 6, full;
    futex_requeue => futex::futex_requeue / 4, full;
    futex_waitv => futex::futex_waitv / 5, full;

    // Signals (sys/signal.rs)
    rt_sigaction => signal::rt_sigaction / 4, full;
    rt_sigprocmask => signal::rt_sigprocmask / 4, full;
    rt_sigpending => signal::rt_sigpending / 2, full;
    rt_sigreturn => signal::rt_sigreturn / 0, full;
    rt_sigsuspend => signal::rt_sigsuspend / 2, full;
    rt_sigtimedwait => signal::rt_sigtimedwait / 4, full;
    rt_sigqueueinfo => signal::rt_sigqueueinfo / 3, full;
    rt_tgsigqueueinfo => signal::rt_tgsigqueueinfo / 4, full;
    sigaltstack => signal::sigaltstack / 2, full;
    restart_syscall => signal::restart_syscall / 0, full;
    pause => signal::pause / 0, full;
    kill => signal::kill / 2, full;
    tkill => signal::tkill / 2, full;
    tgkill => signal::tgkill / 3, full;

    // Time (sys/time.rs)
    clock_gettime => time::clock_gettime / 2, full;
    clock_getres => time::clock_getres / 2, full;
    clock_settime => time::clock_settime / 2, full;
    clock_nanosleep => time::clock_nanosleep / 4, full;
    nanosleep => time::nanosleep / 2, full;
    adjtimex => adjust::adjtimex / 1, partial("the clock's rate does not change: ENOSYS for frequencies, ticks and offsets that are not zero");
    clock_adjtime => adjust::clock_adjtime / 2, partial("as adjtimex");
    gettimeofday => time::gettimeofday / 2, full;
    settimeofday => time::settimeofday / 2, partial("the time zone is ignored");
    time => time::time / 1, full;
    times => time::times / 1, full;
    getitimer => time::getitimer / 2, full;
    setitimer => time::setitimer / 3, full;
    alarm => time::alarm / 1, full;
    timer_create => time::timer_create / 3, full;
    timer_settime => time::timer_settime / 4, full;
    timer_gettime => time::timer_gettime / 2, full;
    timer_getoverrun => time::timer_getoverrun / 1, full;
    timer_delete => time::timer_delete / 1, full;

    // Processes (sys/process.rs)
    getpid => process::getpid / 0, full, quiet;
    getppid => process::getppid / 0, full, quiet;
    getpgid => process::getpgid / 1, full;
    getpgrp => process::getpgrp / 0, full, quiet;
    setpgid => process::setpgid / 2, full;
    getsid => process::getsid / 1, full;
    setsid => process::setsid / 0, full;
    wait4 => process::wait4 / 4, full;
    waitid => process::waitid / 5, full;
    pidfd_open => pidfd::pidfd_open / 2, partial("processes, no threads");
    pidfd_send_signal => pidfd::pidfd_send_signal / 4, full;
    pidfd_getfd => pidfd::pidfd_getfd / 3, full;
    execve => process::execve / 3, full;
    execveat => process::execveat / 5, full;

    // Not for programs (sys/denied.rs)
    seccomp => denied::not_built / 0, partial("ENOSYS: built without");
    add_key => denied::not_built / 0, partial("ENOSYS: built without keys");
    request_key => denied::not_built / 0, partial("ENOSYS: built without keys");
    keyctl => denied::not_built / 0, partial("ENOSYS: built without keys");
    acct => denied::not_built / 0, partial("ENOSYS: built without");
    quotactl => denied::not_built / 0, partial("ENOSYS: built without");
    quotactl_fd => denied::not_built / 0, partial("ENOSYS: built without");
    modify_ldt => denied::not_built / 0, partial("ENOSYS: built without");
    kexec_load => denied::not_built / 0, partial("ENOSYS: built without");
    kexec_file_load => denied::not_built / 0, partial("ENOSYS: built without");
    uselib => denied::not_built / 0, partial("ENOSYS, as Linux");
    _sysctl => denied::not_built / 0, partial("ENOSYS, as Linux");
    create_module => denied::not_built / 0, partial("ENOSYS, as Linux");
    get_kernel_syms => denied::not_built / 0, partial("ENOSYS, as Linux");
    query_module => denied::not_built / 0, partial("ENOSYS, as Linux");
    nfsservctl => denied::not_built / 0, partial("ENOSYS, as Linux");
    getpmsg => denied::not_built / 0, partial("ENOSYS, as Linux");
    putpmsg => denied::not_built / 0, partial("ENOSYS, as Linux");
    afs_syscall => denied::not_built / 0, partial("ENOSYS, as Linux");
    tuxcall => denied::not_built / 0, partial("ENOSYS, as Linux");
    security => denied::not_built / 0, partial("ENOSYS, as Linux");
    vserver => denied::not_built / 0, partial("ENOSYS, as Linux");
    lookup_dcookie => denied::not_built / 0, partial("ENOSYS, as Linux");
    epoll_ctl_old => denied::not_built / 0, partial("ENOSYS, as Linux");
    epoll_wait_old => denied::not_built / 0, partial("ENOSYS, as Linux");
    set_thread_area => denied::not_built / 0, partial("ENOSYS, as Linux");
    get_thread_area => denied::not_built / 0, partial("ENOSYS, as Linux");
    landlock_create_ruleset => denied::turned_off / 0, partial("EOPNOTSUPP: turned off");
    landlock_add_rule => denied::turned_off / 0, partial("EOPNOTSUPP: turned off");
    landlock_restrict_self => denied::turned_off / 0, partial("EOPNOTSUPP: turned off");
    name_to_handle_at => denied::turned_off / 0, partial("EOPNOTSUPP: no file handles");
    memfd_secret => denied::not_built / 0, partial("ENOSYS: turned off");
    lsm_get_self_attr => denied::not_built / 0, partial("ENOSYS: built without");
    lsm_set_self_attr => denied::not_built / 0, partial("ENOSYS: built without");
    lsm_list_modules => denied::not_built / 0, partial("ENOSYS: built without");
    map_shadow_stack => denied::turned_off / 0, partial("EOPNOTSUPP: no shadow stacks");
    bpf => denied::not_permitted / 0, partial("EPERM: not for programs");
    io_uring_setup => denied::not_permitted / 0, partial("EPERM: not for programs");
    perf_event_open => denied::no_access / 0, partial("EACCES: not for programs");
    io_uring_enter => denied::no_ring / 1, partial("no descriptor is a ring");
    io_uring_register => denied::no_ring / 1, partial("no descriptor is a ring");
    open_by_handle_at => denied::no_such_descriptor / 1, partial("EPERM");
    setns => denied::no_such_descriptor / 1, partial("EPERM: one namespace of each kind");
    ptrace => denied::ptrace / 2, partial("EPERM: nobody may trace");
    reboot => denied::reboot / 2, partial("EPERM: the host turns machines off");
    unshare => thread::unshare / 1, partial("no namespaces: EPERM");
    init_module => denied::not_permitted / 0, partial("EPERM");
    finit_module => denied::not_permitted / 0, partial("EPERM");
    delete_module => denied::not_permitted / 0, partial("EPERM");
    iopl => denied::not_permitted / 0, partial("EPERM");
    ioperm => denied::not_permitted / 0, partial("EPERM");
    vhangup => denied::not_permitted / 0, partial("EPERM");
    fanotify_init => denied::not_permitted / 0, partial("EPERM");
    fsopen => denied::not_permitted / 0, partial("EPERM");
    fsmount => denied::not_permitted / 0, partial("EPERM");
    fspick => denied::not_permitted / 0, partial("EPERM");
    fsconfig => denied::not_permitted / 0, partial("EPERM");
    move_mount => denied::not_permitted / 0, partial("EPERM");
    open_tree => denied::not_permitted / 0, partial("EPERM");
    mount_setattr => denied::not_permitted / 0, partial("EPERM");
    ioprio_get => denied::ioprio_get / 2, partial("always the default");
    ioprio_set => denied::ioprio_set / 3, partial("checked, without effect");

    // The system and the caller (sys/info.rs)
    uname => info::uname / 1, full;
    sysinfo => info::sysinfo / 1, full;
    getrusage => info::getrusage / 2, partial("CPU time and peak memory");
    prlimit64 => info::prlimit64 / 4, full;
    getrlimit => info::getrlimit / 2, full;
    setrlimit => info::setrlimit / 2, full;
    arch_prctl => info::arch_prctl / 2, partial("the GS base belongs to the kernel");
    prctl => info::prctl / 5, partial("names, dumpable, timer slack, capability bounds, large pages; some accepted without effect");
    getrandom => info::getrandom / 3, full;
    getuid => info::getuid / 0, full, quiet;
    geteuid => info::geteuid / 0, full, quiet;
    getgid => info::getgid / 0, full, quiet;
    getegid => info::getegid / 0, full, quiet;
    setuid => info::setuid / 1, full;
    setgid => info::setgid / 1, full;
    setreuid => info::setreuid / 2, full;
    setregid => info::setregid / 2, full;
    setresuid => info::setresuid / 3, full;
    setresgid => info::setresgid / 3, full;
    getresuid => info::getresuid / 3, full;
    getresgid => info::getresgid / 3, full;
    setfsuid => info::setfsuid / 1, full;
    setfsgid => info::setfsgid / 1, full;
    getgroups => info::getgroups / 2, full;
    setgroups => info::setgroups / 2, full;
    capget => info::capget / 2, full;
    capset => info::capset / 2, partial("kept and told; rights follow the user ids");
    personality => info::personality / 1, partial("PER_LINUX");
    sethostname => info::set_name / 2, partial("EPERM: set when the machine is made");
    setdomainname => info::set_name / 2, partial("EPERM: set when the machine is made");
    syslog => kmsg::syslog / 3, full;
}

/// What runs first, by number: the functions, but for the calls that memory may be too scarce for. For `syscall_entry`.
#[unsafe(no_mangle)]
static linux_handlers: [Handler; COUNT] = {
    let mut table = FUNCTIONS;
    let mut number = 0;
    while number < COUNT {
        if scarcity::asks(number) {
            table[number] = when_memory_suffices;
        }
        number += 1;
    }
    table
};

/// How `syscall_entry` goes on, by number.
#[unsafe(no_mangle)]
static linux_routes: [unsafe extern "C" fn(); COUNT] = {
    let mut table = [Route::Full.entry(); COUNT];
    let mut number = 0;
    while number < COUNT {
        table[number] = ROUTES[number].entry();
        number += 1;
    }
    table
};

/// How the call `number` is entered; `None` if it is out of range.
pub(crate) fn route(number: u32) -> Option<Route> {
    ROUTES.get(number as usize).copied()
}

/// The functions behind [`when_memory_suffices`].
static GUARDED: [Handler; COUNT] = FUNCTIONS;

/// Runs a call that makes or enlarges something in the kernel, unless memory is scarce.
extern "C" fn when_memory_suffices(task: &Task, frame: &mut TrapFrame) -> isize {
    let number = frame.orig_rax as usize;
    if kernel::mm::memory_is_scarce()
        && let Some(error) = scarcity::refusal(number)
    {
        return error.to_ret();
    }
    GUARDED[number](task, frame)
}

/// Makes the system call that `orig_rax` asks for, for a call that goes on with another one.
pub(crate) fn dispatch(ctx: &mut Ctx<'_>) -> isize {
    let number = ctx.frame().orig_rax as usize;
    let handler = linux_handlers.get(number).copied().unwrap_or(unknown);
    handler(ctx.task(), ctx.frame_mut())
}

/// Answers for a number without a line, or out of range.
extern "C" fn unknown(_: &Task, frame: &mut TrapFrame) -> isize {
    let number = frame.orig_rax as usize;
    if first_time(number) {
        let name = Sysno::new(number).map_or("?", |s| s.name());
        log::info!("system call {number} ({name}) is not implemented: ENOSYS");
    }
    Errno::ENOSYS.to_ret()
}

/// Whether `number` has not been asked for before.
fn first_time(number: usize) -> bool {
    static SEEN: [AtomicU64; COUNT / 64] = [const { AtomicU64::new(0) }; COUNT / 64];
    let bit = 1 << (number % 64);
    SEEN.get(number / 64).is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
}
