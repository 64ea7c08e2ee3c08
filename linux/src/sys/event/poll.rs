//! poll and select.

use alloc::vec;
use alloc::vec::Vec;

use linux_abi::Errno;
use linux_abi::fs::Pollfd;
use linux_abi::signal::SigSet;
use linux_abi::time::{Timespec, Timeval};
use vfs::Events;
use vfs::poll::{PollEntry, poll_files};

use super::{deadline, deadline_timespec, left, with_mask};
use crate::ctx::{Ctx, SysResult};
use crate::sys::file::limit;
use crate::user_ptr::UserPtr;

/// A wait that a signal ended is begun anew unless a handler runs.
fn restartable(error: Errno) -> Errno {
    if error == Errno::EINTR { Errno::ERESTARTNOHAND } else { error }
}

/// Bytes of kernel memory for each descriptor.
const ENTRY_COST: usize = 256;

fn poll_until(ctx: &Ctx<'_>, fds: UserPtr<Pollfd>, count: u32, deadline: Option<u64>) -> SysResult {
    let count = count as usize;
    if count > limit(ctx) {
        return Err(Errno::EINVAL);
    }
    // The list, the entries and what waiting takes.
    if !kernel::mm::has_memory_for(count * ENTRY_COST) {
        return Err(Errno::ENOMEM);
    }
    let mut list = fds.read_vec(count)?;
    let mut entries: Vec<_> = list.iter().map(|entry| poll_entry(ctx, entry)).collect();
    // An invalid descriptor is an event by itself: look, but do not wait.
    let invalid = entries.iter().any(|entry| entry.ready.contains(Events::NVAL));
    let ready = poll_files(&mut entries, if invalid { Some(0) } else { deadline }).map_err(restartable)?;
    for (entry, result) in list.iter_mut().zip(&entries) {
        entry.revents = result.ready.bits() as i16;
    }
    fds.write_slice(&list)?;
    Ok(ready)
}

fn poll_entry(ctx: &Ctx<'_>, request: &Pollfd) -> PollEntry {
    let file = ctx.files().get(request.fd).ok();
    let invalid = request.fd >= 0 && file.is_none();
    PollEntry {
        file,
        wanted: Events::from_bits_truncate(u32::from(request.events as u16)),
        ready: if invalid { Events::NVAL } else { Events::empty() },
    }
}

/// `poll`.
///
/// # Errors
/// Those of `poll(2)`.
pub fn poll(ctx: &Ctx<'_>, fds: UserPtr<Pollfd>, count: u32, timeout_ms: i32) -> SysResult {
    let continuation = &ctx.task().continuation;
    match u64::try_from(timeout_ms) {
        Err(_) => poll_until(ctx, fds, count, None),
        Ok(0) => poll_until(ctx, fds, count, Some(0)),
        Ok(ms) => {
            let deadline = continuation.deadline(ms * 1_000_000);
            poll_until(ctx, fds, count, Some(deadline)).map_err(|error| match error {
                Errno::ERESTARTNOHAND => continuation.interrupted(ctx.frame().orig_rax, deadline),
                other => other,
            })
        }
    }
}

/// `ppoll`; the time left is written back.
///
/// # Errors
/// Those of `ppoll(2)`.
pub fn ppoll(
    ctx: &Ctx<'_>,
    fds: UserPtr<Pollfd>,
    count: u32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<SigSet>,
    mask_size: usize,
) -> SysResult {
    let deadline = deadline_timespec(timeout)?;
    let result = with_mask(ctx, mask, mask_size, || poll_until(ctx, fds, count, deadline));
    if let Some(deadline) = deadline {
        // A timeout in read-only memory is no error (Linux keeps quiet too).
        let _ignored = timeout.write(&Timespec::from_ns(left(deadline)));
    }
    result
}

/// Bits of an `fd_set` that is looked at word by word.
const WORD_BITS: usize = 64;

/// The three sets of `select`.
struct Sets {
    pointers: [UserPtr<u64>; 3],
    words: [Vec<u64>; 3],
}

/// What each set waits for, and which events put a descriptor into the result.
const WANTED: [Events; 3] = [Events::READABLE, Events::WRITABLE, Events::PRI];
const REPORTED: [Events; 3] = [
    Events::READABLE.union(Events::RDBAND).union(Events::HUP).union(Events::ERR),
    Events::WRITABLE.union(Events::WRBAND).union(Events::ERR),
    Events::PRI,
];

impl Sets {
    fn read(pointers: [UserPtr<u64>; 3], count: usize) -> Result<Self, Errno> {
        let len = count.div_ceil(WORD_BITS);
        let mut words = [const { Vec::new() }; 3];
        for (words, pointer) in words.iter_mut().zip(pointers) {
            *words = if pointer.is_null() { vec![0; len] } else { pointer.read_vec(len)? };
        }
        Ok(Self { pointers, words })
    }

    fn has(&self, set: usize, fd: usize) -> bool {
        self.words[set][fd / WORD_BITS] & 1 << (fd % WORD_BITS) != 0
    }

    fn wanted(&self, fd: usize) -> Events {
        (0..3).filter(|&set| self.has(set, fd)).map(|set| WANTED[set]).collect()
    }

    /// Keeps in the sets only what `ready` says; returns how many bits are left.
    fn keep_ready(&mut self, fd: usize, ready: Events) -> usize {
        let mut kept = 0;
        for (set, reported) in REPORTED.into_iter().enumerate() {
            if self.has(set, fd) {
                if ready.intersects(reported) {
                    kept += 1;
                } else {
                    self.words[set][fd / WORD_BITS] &= !(1 << (fd % WORD_BITS));
                }
            }
        }
        kept
    }

    fn write(&self) -> Result<(), Errno> {
        for (pointer, words) in self.pointers.iter().zip(&self.words) {
            if !pointer.is_null() {
                pointer.write_slice(words)?;
            }
        }
        Ok(())
    }
}

fn select_until(ctx: &Ctx<'_>, count: i32, pointers: [UserPtr<u64>; 3], deadline: Option<u64>) -> SysResult {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(limit(ctx));
    let mut sets = Sets::read(pointers, count)?;
    let mut fds = Vec::new();
    let mut entries = Vec::new();
    for fd in 0..count {
        let wanted = sets.wanted(fd);
        if !wanted.is_empty() {
            let file = Some(ctx.files().get(fd as i32)?);
            fds.push(fd);
            entries.push(PollEntry { file, wanted, ready: Events::empty() });
        }
    }
    poll_files(&mut entries, deadline).map_err(restartable)?;
    let found = fds.iter().zip(&entries).map(|(&fd, entry)| sets.keep_ready(fd, entry.ready)).sum();
    sets.write()?;
    Ok(found)
}

/// `select`; the time left is written back.
///
/// # Errors
/// Those of `select(2)`.
pub fn select(
    ctx: &Ctx<'_>,
    count: i32,
    readable: UserPtr<u64>,
    writable: UserPtr<u64>,
    exceptional: UserPtr<u64>,
    timeout: UserPtr<Timeval>,
) -> SysResult {
    let deadline = match timeout.non_null() {
        None => None,
        Some(timeout) => Some(deadline(timeout.read()?.to_ns().ok_or(Errno::EINVAL)?)),
    };
    let result = select_until(ctx, count, [readable, writable, exceptional], deadline);
    if let Some(deadline) = deadline {
        let _ignored = timeout.write(&Timeval::from_ns(left(deadline)));
    }
    result
}

/// `pselect6`; the last argument points to the mask's address and size.
///
/// # Errors
/// Those of `pselect(2)`.
pub fn pselect6(
    ctx: &Ctx<'_>,
    count: i32,
    readable: UserPtr<u64>,
    writable: UserPtr<u64>,
    exceptional: UserPtr<u64>,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<[u64; 2]>,
) -> SysResult {
    let deadline = deadline_timespec(timeout)?;
    let [mask, size] = if mask.is_null() { [0, 0] } else { mask.read()? };
    let sets = [readable, writable, exceptional];
    let result = with_mask(ctx, UserPtr::new(mask), size as usize, || select_until(ctx, count, sets, deadline));
    if let Some(deadline) = deadline {
        let _ignored = timeout.write(&Timespec::from_ns(left(deadline)));
    }
    result
}
