//! What a thread holds, as `/proc` shows it: descriptors, root, working directory. Threads may have their own; a process shows its first thread's.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use linux_abi::Errno;
use vfs::epoll::Epoll;
use vfs::eventfd::EventFd;
use vfs::inotify::Inotify;
use vfs::synth::{Directory, Entry};
use vfs::types::Name;
use vfs::{FileKind, Location, OpenFile};

use super::{named, number};
use crate::entry::with_task;
use crate::fdtable::FdTable;
use crate::process::{FsState, Process, Task};
use crate::sys::pidfd::PidFd;

type Result<T> = core::result::Result<T, Errno>;

/// A thread, to be asked for what it has when that is looked at.
#[derive(Clone)]
pub(super) struct Holder {
    pub(super) process: Arc<Process>,
    pub(super) tid: u32,
}

impl Holder {
    fn task(&self) -> Result<Arc<Task>> {
        self.process.task(self.tid).ok_or(Errno::ENOENT)
    }

    fn files(&self) -> Result<Arc<FdTable>> {
        self.task()?.files.get().ok_or(Errno::ENOENT)
    }

    /// The open file `fd`, unless it was closed meanwhile.
    fn file(&self, fd: i32) -> Result<Arc<OpenFile>> {
        self.files()?.get_of_other(fd).map_err(|_| Errno::ENOENT)
    }

    pub(super) fn fs(&self) -> Result<Arc<FsState>> {
        self.task()?.fs.get().ok_or(Errno::ENOENT)
    }
}

/// A link that leads to a place of a thread's.
pub(super) fn place_link(shown: Holder, find: fn(&Holder) -> Result<Location>) -> Entry {
    let followed = shown.clone();
    Entry::Magic {
        text: Arc::new(move || find(&shown).and_then(|place| Ok(place.path_from(&viewer_root()?)))),
        target: Arc::new(move || find(&followed)),
    }
}

/// What the reader sees as `/`.
fn viewer_root() -> Result<Location> {
    with_task(|task| task.fs.get()).flatten().map(|fs| fs.root.read().clone()).ok_or(Errno::ENOENT)
}

fn descriptor_link(holder: &Holder, fd: i32) -> Option<Entry> {
    holder.file(fd).ok()?;
    let (shown, followed) = (holder.clone(), holder.clone());
    Some(Entry::Magic {
        text: Arc::new(move || Ok(shown.file(fd)?.path(&viewer_root()?))),
        target: Arc::new(move || Ok(followed.file(fd)?.location().clone())),
    })
}

fn descriptor_info(holder: &Holder, fd: i32) -> Option<Entry> {
    let file = holder.file(fd).ok()?;
    Some(Entry::file(move || Ok(file_info(&file).into_bytes())))
}

fn file_info(file: &OpenFile) -> String {
    let metadata = file.inode().metadata();
    let (position, flags, mount) = (file.position(), file.flags().bits(), file.location().mount().id);
    let mut out = format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{}\n", metadata.ino);
    if let Some(inotify) = file.downcast::<Inotify>() {
        inotify.watches(|descriptor, inode, mask| {
            let watched = inode.metadata();
            // Writing into a String cannot fail.
            let _ = writeln!(out, "inotify wd:{descriptor:x} ino:{:x} sdev:{:x} mask:{mask:x} ignored_mask:0", watched.ino, watched.dev);
        });
    }
    if let Some(counter) = file.downcast::<EventFd>() {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "eventfd-count: {:16x}", counter.value());
    }
    if let Some(epoll) = file.downcast::<Epoll>() {
        for (fd, interest, ino) in epoll.watched() {
            let (events, data) = (interest.events, interest.data);
            let _ = writeln!(out, "tfd: {fd:8} events: {events:8x} data: {data:16x}  pos:0 ino:{ino:x} sdev:0");
        }
    }
    if let Some(pidfd) = file.downcast::<PidFd>() {
        let pid = pidfd.process().map_or(-1, |process| i64::from(process.pid()));
        // Writing into a String cannot fail.
        let _ = write!(out, "Pid:\t{pid}\nNSpid:\t{pid}\n");
    }
    out
}

/// `fd`.
pub(super) fn descriptors(holder: Holder) -> Entry {
    Entry::Directory(Arc::new(Descriptors { holder, entry: descriptor_link }))
}

/// `fdinfo`.
pub(super) fn descriptor_infos(holder: Holder) -> Entry {
    Entry::Directory(Arc::new(Descriptors { holder, entry: descriptor_info }))
}

struct Descriptors {
    holder: Holder,
    entry: fn(&Holder, i32) -> Option<Entry>,
}

impl Directory for Descriptors {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        (self.entry)(&self.holder, i32::try_from(number(name)?).ok()?)
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        // All entries of one directory are of a kind.
        let kind = |fd| match (self.entry)(&self.holder, fd) {
            Some(Entry::File { .. }) => FileKind::Regular,
            _ => FileKind::Symlink,
        };
        let open = self.holder.files().map(|files| files.open_descriptors()).unwrap_or_default();
        open.into_iter().map(|fd| (named(fd as u32), kind(fd))).collect()
    }
}
