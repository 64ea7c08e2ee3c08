//! Brief calls: the usual case of calls that programs make very often, done with the program's vector registers in place.
//!
//! Saving and restoring them is half of what a call costs that moves a byte. A brief handler does without: it takes only locks that nobody has,
//! moves only a few bytes, and calls nothing that could touch a vector register, but through `sync::loudly`, which saves them. In
//! any case but the usual one it has done nothing when it answers [`NOT_BRIEF`], and the entry code makes the call anew, with the ordinary
//! handler (`syscall_route_brief` in arch/x86_64/src/entry.S). `cargo xtask lint` proves it for the kernel that ships; in others brief
//! calls are ordinary ones ([`PROVEN`]).
//!
//! They are for threads that have their descriptors for themselves: others have to count the file they use ([`crate::fdtable`]).

#![expect(unsafe_code, reason = "files that are not counted")]

use core::mem::MaybeUninit;

use arch_x86_64::TrapFrame;
use arch_x86_64::syscall::NOT_BRIEF;
use linux_abi::fs::EpollEvent;
use vfs::io::Sink;
use vfs::{Metadata, OpenFile};
use zerocopy::IntoBytes;

use crate::process::Task;
use crate::sys::file::AT_EMPTY_PATH;
use crate::user_ptr::{self, BriefSlice, STAT_WORDS, UserPtr};

/// Whether the kernel is compiled as the one that `cargo xtask lint` looks at.
pub(crate) const PROVEN: bool = option_env!("OXV_UNPROVEN").is_none();

#[inline(always)]
fn file(task: &Task, fd: u64) -> Option<&OpenFile> {
    // SAFETY: `task` is the running thread's, and no brief call closes a descriptor.
    unsafe { task.files.own().find_uncounted(fd as i32) }
}

#[inline(always)]
fn or_not(answer: Option<isize>) -> isize {
    answer.unwrap_or(NOT_BRIEF)
}

/// The file of a `read` or `write`, if it is one of those that can do it briefly.
#[inline(always)]
fn stream<'a>(task: &'a Task, frame: &TrapFrame) -> Option<&'a OpenFile> {
    file(task, frame.rdi).filter(|file| file.moves_briefly())
}

/// `read`.
pub(crate) extern "C" fn read(task: &Task, frame: &mut TrapFrame) -> isize {
    #[inline(never)]
    fn act(file: &OpenFile, address: u64, len: usize) -> isize {
        or_not(BriefSlice::new(address, len).and_then(|mut slice| file.read_briefly(&mut slice)))
    }
    // Not more than that in this function: what is in the next one's way is not in that of calls that are not brief.
    stream(task, frame).map_or(NOT_BRIEF, |file| act(file, frame.rsi, frame.rdx as usize))
}

/// `write`.
pub(crate) extern "C" fn write(task: &Task, frame: &mut TrapFrame) -> isize {
    #[inline(never)]
    fn act(file: &OpenFile, address: u64, len: usize) -> isize {
        or_not(BriefSlice::new(address, len).and_then(|mut slice| file.write_briefly(&mut slice)))
    }
    stream(task, frame).map_or(NOT_BRIEF, |file| act(file, frame.rsi, frame.rdx as usize))
}

/// `epoll_wait`.
pub(crate) extern "C" fn epoll_wait(task: &Task, frame: &mut TrapFrame) -> isize {
    let act = || {
        let mut out = BriefSlice::of::<EpollEvent>(frame.rsi)?;
        if frame.rdx as i32 <= 0 {
            return None;
        }
        let event = file(task, frame.rdi)?.epoll()?.single_briefly(|fd| file(task, fd as u64))?;
        let event = EpollEvent { events: event.events, data: event.data };
        // What is not reported stays on the list.
        out.write(event.as_bytes()).ok().map(|_| 1)
    };
    or_not(act())
}

/// What is used of a `struct stat`, word by word as it is in memory.
///
/// The stores are volatile ones, which the compiler leaves as they are: it would otherwise put pairs of them into vector registers.
#[inline(always)]
fn stat_words(out: &mut MaybeUninit<[u64; STAT_WORDS]>, metadata: &Metadata, size: u64, blocks: u64) {
    let first = out.as_mut_ptr().cast::<u64>();
    // SAFETY: each of the numbers below is less than that of the words.
    let put = |index: usize, word: u64| unsafe { first.add(index).write_volatile(word) };
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    put(0, metadata.dev);
    put(1, metadata.ino);
    put(2, u64::from(metadata.nlink));
    put(3, pair(metadata.st_mode(), metadata.uid));
    put(4, u64::from(metadata.gid));
    put(5, metadata.rdev);
    put(6, size);
    put(7, u64::from(metadata.block_size));
    put(8, blocks);
    let mut at = 9;
    for time in [&metadata.atime, &metadata.mtime, &metadata.ctime] {
        put(at, time.sec as u64);
        put(at + 1, u64::from(time.nsec));
        at += 2;
    }
}

#[inline(never)]
fn stat(task: &Task, fd: u64, out: u64) -> isize {
    let act = || {
        let mut words = MaybeUninit::uninit();
        file(task, fd)?.stat_briefly(|metadata, size, blocks| stat_words(&mut words, metadata, size, blocks))?;
        // SAFETY: filled in.
        user_ptr::store_stat(out, unsafe { words.assume_init_ref() }).then_some(0)
    };
    or_not(act())
}

/// `fstat`.
pub(crate) extern "C" fn fstat(task: &Task, frame: &mut TrapFrame) -> isize {
    stat(task, frame.rdi, frame.rsi)
}

/// `newfstatat`, as what the C library makes of `fstat`.
pub(crate) extern "C" fn newfstatat(task: &Task, frame: &mut TrapFrame) -> isize {
    let by_descriptor = frame.r10 as u32 == AT_EMPTY_PATH && UserPtr::<u8>::new(frame.rsi).is_empty_string();
    if by_descriptor { stat(task, frame.rdi, frame.rdx) } else { NOT_BRIEF }
}
