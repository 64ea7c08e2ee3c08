//! What system calls do when memory is scarce: those that make or enlarge objects in the kernel fail.
//!
//! Kernel code allocates in many places where it could not go on without. So the question is asked once, before such a call, with
//! enough left (`kernel::mm::memory_is_scarce`) for what any call that has been let in allocates; calls that allocate much ask again
//! (`kernel::mm::has_memory_for`). Calls that only give back, wait or look are always let in, and so are those that fail by
//! themselves: memory mappings, and writing, whose pages are the program's share (a message on the terminal must still be possible).

use linux_abi::Errno;
use syscalls::Sysno;

use crate::table::COUNT;

const GROWING: &[Sysno] = &[
    Sysno::accept,
    Sysno::accept4,
    Sysno::bind,
    Sysno::connect,
    Sysno::copy_file_range,
    Sysno::creat,
    Sysno::dup,
    Sysno::dup2,
    Sysno::dup3,
    Sysno::epoll_create,
    Sysno::epoll_create1,
    Sysno::epoll_ctl,
    Sysno::eventfd,
    Sysno::eventfd2,
    Sysno::execve,
    Sysno::execveat,
    Sysno::fallocate,
    Sysno::fcntl,
    Sysno::flock,
    Sysno::fsetxattr,
    Sysno::inotify_add_watch,
    Sysno::inotify_init,
    Sysno::inotify_init1,
    Sysno::io_setup,
    Sysno::io_submit,
    Sysno::link,
    Sysno::linkat,
    Sysno::listen,
    Sysno::lsetxattr,
    Sysno::memfd_create,
    Sysno::mkdir,
    Sysno::mkdirat,
    Sysno::mknod,
    Sysno::mknodat,
    Sysno::mount,
    Sysno::mq_open,
    Sysno::mq_timedsend,
    Sysno::msgget,
    Sysno::msgsnd,
    Sysno::open,
    Sysno::openat,
    Sysno::openat2,
    Sysno::pidfd_open,
    Sysno::pipe,
    Sysno::pipe2,
    Sysno::rename,
    Sysno::renameat,
    Sysno::renameat2,
    Sysno::semget,
    Sysno::semop,
    Sysno::semtimedop,
    Sysno::sendfile,
    Sysno::sendmmsg,
    Sysno::sendmsg,
    Sysno::sendto,
    Sysno::setxattr,
    Sysno::shmat,
    Sysno::shmget,
    Sysno::signalfd,
    Sysno::signalfd4,
    Sysno::socket,
    Sysno::socketpair,
    Sysno::splice,
    Sysno::symlink,
    Sysno::symlinkat,
    Sysno::tee,
    Sysno::timer_create,
    Sysno::timerfd_create,
    Sysno::vmsplice,
];

/// Their man pages name `EAGAIN` for a lack of resources.
const RETRIED: &[Sysno] =
    &[Sysno::clone, Sysno::clone3, Sysno::fork, Sysno::rt_sigqueueinfo, Sysno::rt_tgsigqueueinfo, Sysno::vfork];

type Set = [u64; COUNT / 64];

const fn set(calls: &[Sysno]) -> Set {
    let mut set = [0; COUNT / 64];
    let mut i = 0;
    while i < calls.len() {
        let number = calls[i] as usize;
        set[number / 64] |= 1 << (number % 64);
        i += 1;
    }
    set
}

static GROWING_SET: Set = set(GROWING);
static RETRIED_SET: Set = set(RETRIED);

fn contains(set: &Set, number: usize) -> bool {
    set.get(number / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
}

/// Whether call `number`, below [`COUNT`], is one that may be refused.
pub(crate) const fn asks(number: usize) -> bool {
    (GROWING_SET[number / 64] | RETRIED_SET[number / 64]) >> (number % 64) & 1 != 0
}

/// The error with which call `number` fails while memory is scarce; `None` lets it in.
#[cold]
pub(crate) fn refusal(number: usize) -> Option<Errno> {
    if contains(&RETRIED_SET, number) {
        return Some(Errno::EAGAIN);
    }
    contains(&GROWING_SET, number).then_some(Errno::ENOMEM)
}
