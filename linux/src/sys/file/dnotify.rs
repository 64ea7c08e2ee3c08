//! dnotify: `F_NOTIFY` of `fcntl`. What happens in a directory is told by `vfs::dnotify`; the owner of the open directory gets the signal.
//!
//! A watch belongs to a process and an open file description, and ends when the process closes a descriptor of it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicI32, Ordering};

use linux_abi::Errno;
use sync::Mutex;
use vfs::dnotify::{Changes, DirectoryWatch};
use vfs::file::OpenFile;
use vfs::inotify;
use vfs::types::FileKind;

use super::owner;
use crate::ctx::{Ctx, SysResult};

/// What a process has asked to be told of an open directory.
struct Asked {
    /// The descriptor that it asked through, which the signals name.
    descriptor: Arc<AtomicI32>,
    watch: Arc<DirectoryWatch>,
}

/// By open file description ([`OpenFile::id`]) and process. An entry is gone before the open file is.
static ASKED: Mutex<BTreeMap<(usize, u32), Asked>> = Mutex::new(BTreeMap::new());

/// `F_NOTIFY`.
///
/// # Errors
/// `ENOTDIR`, `EBADF`.
pub(super) fn notify(ctx: &Ctx<'_>, file: &Arc<OpenFile>, fd: i32, changes: usize) -> SysResult {
    file.require_open()?;
    let changes = Changes::from_bits_truncate(changes as u32);
    let pid = ctx.process().pid();
    if (changes - Changes::MULTISHOT).is_empty() {
        forget(pid, file);
        return Ok(0);
    }
    if file.inode().kind() != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    owner::set_owner_if_none(file, pid);
    let mut asked = ASKED.lock();
    if let Some(asked) = asked.get(&(file.id(), pid)) {
        asked.descriptor.store(fd, Ordering::Relaxed);
        asked.watch.add(changes);
        return Ok(0);
    }
    asked.insert((file.id(), pid), begin(file, fd, changes));
    Ok(0)
}

fn begin(file: &Arc<OpenFile>, fd: i32, changes: Changes) -> Asked {
    let descriptor = Arc::new(AtomicI32::new(fd));
    let (weak, told) = (Arc::downgrade(file), descriptor.clone());
    let tell = move || {
        if let Some(file) = weak.upgrade() {
            owner::tell_of_message(&file, told.load(Ordering::Relaxed));
        }
    };
    Asked { descriptor, watch: DirectoryWatch::new(file.inode(), changes, Box::new(tell)) }
}

/// Ends watches; they are dropped without the lock, since they may be the last users of directories.
fn forget_all(which: RangeInclusive<(usize, u32)>) {
    let mut ended = alloc::vec::Vec::new();
    let mut asked = ASKED.lock();
    while let Some((&key, _)) = asked.range(which.clone()).next() {
        ended.extend(asked.remove(&key));
    }
    drop(asked);
}

fn forget(pid: u32, file: &OpenFile) {
    forget_all((file.id(), pid)..=(file.id(), pid));
}

/// An open file that has had an owner is closed: another thread may have closed the descriptor while it was asked for.
pub(super) fn file_closed(id: usize) {
    forget_all((id, 0)..=(id, u32::MAX));
}

/// Process `pid` has closed a descriptor.
#[inline]
pub(super) fn closed(pid: u32, file: &OpenFile) {
    if inotify::anybody_watches() {
        forget(pid, file);
    }
}
