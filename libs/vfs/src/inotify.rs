//! inotify: telling programs what happens to files, as `inotify(7)` describes it.
//!
//! An [`Inotify`] is an instance, with its watches and a queue of events. A table says which instances watch an inode, and which of `dnotify`'s
//! watches do. Whoever does something to a file calls [`happened`] (or one of its relatives) afterwards; while nobody watches anything that is
//! one load and a branch.
//!
//! Something done to a file is told to those who watch its directory, with its name, and to those who watch the file itself. A
//! watch keeps its inode, so that a removed file's address is not another's; that the object has gone is told by [`removed`].
//!
//! Locks: an instance's state, then the table of watched inodes. Neither is held while the other calls into files.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bitflags::bitflags;
use hashbrown::HashMap;
use sync::{Mutex, RwLock, WaitQueue};

use crate::dentry::Dentry;
use crate::file::File;
use crate::inode::Inode;
use crate::io::{IoctlArg, Sink, Source};
use crate::pipe::{FIONREAD, wait_interruptibly};
use crate::types::{Events, FileKind, Name, OpenFlags};
use crate::{Errno, Result};

bitflags! {
    /// What can happen, and how to watch for it (`IN_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Happening: u32 {
        /// Read.
        const ACCESS = 0x1;
        /// Written or truncated.
        const MODIFY = 0x2;
        /// Attributes changed.
        const ATTRIB = 0x4;
        /// Closed after it could be written.
        const CLOSE_WRITE = 0x8;
        /// Closed otherwise.
        const CLOSE_NOWRITE = 0x10;
        /// Opened.
        const OPEN = 0x20;
        /// Moved away from a directory.
        const MOVED_FROM = 0x40;
        /// Moved into a directory.
        const MOVED_TO = 0x80;
        /// Made in a directory.
        const CREATE = 0x100;
        /// Removed from a directory.
        const DELETE = 0x200;
        /// The watched object is gone.
        const DELETE_SELF = 0x400;
        /// The watched object was moved.
        const MOVE_SELF = 0x800;
        /// The file system was unmounted.
        const UNMOUNT = 0x2000;
        /// Events were lost.
        const Q_OVERFLOW = 0x4000;
        /// The watch has ended.
        const IGNORED = 0x8000;
        /// The path must be a directory.
        const ONLYDIR = 0x0100_0000;
        /// Do not follow a symbolic link.
        const DONT_FOLLOW = 0x0200_0000;
        /// No events for children whose names were removed.
        const EXCL_UNLINK = 0x0400_0000;
        /// Fail if it is watched already.
        const MASK_CREATE = 0x1000_0000;
        /// Add to an existing watch's events.
        const MASK_ADD = 0x2000_0000;
        /// The object is a directory.
        const ISDIR = 0x4000_0000;
        /// One event only.
        const ONESHOT = 0x8000_0000;
    }
}

impl Happening {
    /// What can be asked for.
    pub const ALL_EVENTS: Self = Self::from_bits_truncate(0xfff);
    /// What is told whether it was asked for or not.
    const ALWAYS: Self = Self::UNMOUNT.union(Self::IGNORED).union(Self::Q_OVERFLOW);
    /// How to watch, which a watch keeps.
    const KEPT: Self = Self::ALL_EVENTS.union(Self::EXCL_UNLINK).union(Self::ONESHOT);
}

/// Most events that wait in one instance (`/proc/sys/fs/inotify/max_queued_events`).
pub static MAX_QUEUED_EVENTS: AtomicUsize = AtomicUsize::new(16384);
/// Most watches (`/proc/sys/fs/inotify/max_user_watches`).
pub static MAX_WATCHES: AtomicUsize = AtomicUsize::new(65536);
/// Most instances (`/proc/sys/fs/inotify/max_user_instances`).
pub static MAX_INSTANCES: AtomicUsize = AtomicUsize::new(128);

/// How many watches there are. While it is zero nothing is told.
static WATCHES: AtomicUsize = AtomicUsize::new(0);
static INSTANCES: AtomicUsize = AtomicUsize::new(0);
static NEXT_COOKIE: AtomicU32 = AtomicU32::new(1);
/// Who watches an inode, by its address.
static WATCHED: RwLock<Option<HashMap<usize, Vec<Watcher>>>> = RwLock::new(None);

/// `struct inotify_event` without the name.
const HEAD: usize = 16;

/// Who is told what happens.
pub(crate) trait Listener: Send + Sync {
    /// Something happened to what its watch `descriptor` watches.
    fn told(&self, descriptor: i32, told: &Told<'_>);
}

#[derive(Clone)]
struct Watcher {
    listener: Weak<dyn Listener>,
    descriptor: i32,
}

struct Watch {
    inode: Arc<dyn Inode>,
    mask: Happening,
}

#[derive(Clone, PartialEq, Eq)]
struct Event {
    descriptor: i32,
    mask: u32,
    cookie: u32,
    name: Name,
}

impl Event {
    /// The name with its zero, in whole units of the head's size.
    fn name_len(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEAD) }
    }

    fn len(&self) -> usize {
        HEAD + self.name_len()
    }

    fn store(&self, sink: &mut dyn Sink) -> Result<usize> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(&self.descriptor.to_le_bytes());
        for word in [self.mask, self.cookie, self.name_len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.name);
        bytes.resize(self.len(), 0);
        let done = sink.write(&bytes)?;
        if done == bytes.len() { Ok(done) } else { Err(Errno::EFAULT) }
    }
}

#[derive(Default)]
struct State {
    watches: BTreeMap<i32, Watch>,
    by_inode: HashMap<usize, i32>,
    queue: VecDeque<Event>,
    last_descriptor: i32,
}

/// An instance.
pub struct Inotify {
    state: Mutex<State>,
    readable: WaitQueue,
    me: Weak<Inotify>,
}

fn address(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).addr()
}

impl State {
    /// Adds an event, unless it says what the last one says, or there are too many.
    fn push(&mut self, event: Event) {
        if self.queue.back() == Some(&event) {
            return;
        }
        let overflow = Event { descriptor: -1, mask: Happening::Q_OVERFLOW.bits(), cookie: 0, name: Box::default() };
        if self.queue.len() < MAX_QUEUED_EVENTS.load(Ordering::Relaxed) {
            self.queue.push_back(event);
        } else if self.queue.back() != Some(&overflow) {
            self.queue.push_back(overflow);
        }
    }

    /// Ends a watch of `instance`, and says so; the inode is returned, to be dropped.
    fn end(&mut self, instance: &Weak<Inotify>, descriptor: i32) -> Option<Arc<dyn Inode>> {
        let watch = self.watches.remove(&descriptor)?;
        self.by_inode.remove(&address(&watch.inode));
        self.push(Event { descriptor, mask: Happening::IGNORED.bits(), cookie: 0, name: Box::default() });
        forget(&watch.inode, instance, descriptor);
        Some(watch.inode)
    }
}

/// Has `listener` told what happens to `inode`; the caller counts it.
fn enter(inode: &Arc<dyn Inode>, listener: Weak<dyn Listener>, descriptor: i32) {
    WATCHED.write().get_or_insert_default().entry(address(inode)).or_default().push(Watcher { listener, descriptor });
}

/// Has `listener` told what happens to `inode`, which it keeps until it calls [`forget`].
pub(crate) fn listen(inode: &Arc<dyn Inode>, listener: Weak<dyn Listener>) {
    WATCHES.fetch_add(1, Ordering::Relaxed);
    enter(inode, listener, 0);
}

/// Takes a watch out of the table.
pub(crate) fn forget<L: Listener>(inode: &Arc<dyn Inode>, listener: &Weak<L>, descriptor: i32) {
    let mut watched = WATCHED.write();
    let Some(all) = watched.as_mut() else { return };
    let Some(watchers) = all.get_mut(&address(inode)) else { return };
    let is_it = |watcher: &Watcher| watcher.descriptor == descriptor && core::ptr::addr_eq(watcher.listener.as_ptr(), listener.as_ptr());
    if let Some(at) = watchers.iter().position(is_it) {
        watchers.swap_remove(at);
        WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
    if watchers.is_empty() {
        all.remove(&address(inode));
    }
}

impl Inotify {
    /// An instance without watches.
    ///
    /// # Errors
    /// `EMFILE` when there are too many.
    pub fn new() -> Result<Arc<Self>> {
        if INSTANCES.fetch_add(1, Ordering::Relaxed) >= MAX_INSTANCES.load(Ordering::Relaxed) {
            INSTANCES.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::EMFILE);
        }
        Ok(Arc::new_cyclic(|me| Self { state: Mutex::new(State::default()), readable: WaitQueue::new(), me: me.clone() }))
    }

    /// Watches `inode`, or changes what it is watched for; returns the watch's descriptor.
    ///
    /// # Errors
    /// `EEXIST` with `MASK_CREATE`, `ENOSPC` when there are too many watches.
    pub fn add_watch(&self, inode: &Arc<dyn Inode>, mask: Happening) -> Result<i32> {
        let kept = mask & Happening::KEPT;
        let mut state = self.state.lock();
        if let Some(&descriptor) = state.by_inode.get(&address(inode)) {
            if mask.contains(Happening::MASK_CREATE) {
                return Err(Errno::EEXIST);
            }
            if let Some(watch) = state.watches.get_mut(&descriptor) {
                watch.mask = if mask.contains(Happening::MASK_ADD) { watch.mask | kept } else { kept };
            }
            return Ok(descriptor);
        }
        if WATCHES.fetch_add(1, Ordering::Relaxed) >= MAX_WATCHES.load(Ordering::Relaxed) {
            WATCHES.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        state.last_descriptor += 1;
        let descriptor = state.last_descriptor;
        state.by_inode.insert(address(inode), descriptor);
        state.watches.insert(descriptor, Watch { inode: inode.clone(), mask: kept });
        enter(inode, self.me.clone(), descriptor);
        Ok(descriptor)
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// `EINVAL` for a descriptor that is none.
    pub fn remove_watch(&self, descriptor: i32) -> Result<()> {
        let inode = self.state.lock().end(&self.me, descriptor).ok_or(Errno::EINVAL)?;
        drop(inode);
        self.readable.wake_all();
        Ok(())
    }

    /// Moves as many whole events as fit; `None` if there is none.
    fn try_read(&self, sink: &mut dyn Sink) -> Option<Result<usize>> {
        let mut done = 0;
        loop {
            // Taken out first, for storing may fault. An event that cannot be stored is lost, as on Linux.
            let event = {
                let mut state = self.state.lock();
                match state.queue.front() {
                    None => return (done > 0).then_some(Ok(done)),
                    Some(next) if next.len() > sink.remaining() => return Some(if done > 0 { Ok(done) } else { Err(Errno::EINVAL) }),
                    Some(_) => state.queue.pop_front()?,
                }
            };
            match event.store(sink) {
                Ok(n) => done += n,
                Err(error) => return Some(if done > 0 { Ok(done) } else { Err(error) }),
            }
        }
    }

    /// Descriptor, inode and mask of each watch, for `/proc/PID/fdinfo`.
    pub fn watches(&self, mut visit: impl FnMut(i32, &Arc<dyn Inode>, u32)) {
        for (descriptor, watch) in &self.state.lock().watches {
            visit(*descriptor, &watch.inode, watch.mask.bits());
        }
    }
}

impl Listener for Inotify {
    fn told(&self, descriptor: i32, told: &Told<'_>) {
        let ended = {
            let mut state = self.state.lock();
            let Some(watch) = state.watches.get(&descriptor) else { return };
            let wanted = watch.mask | Happening::ALWAYS;
            let excluded = told.unlinked && watch.mask.contains(Happening::EXCL_UNLINK);
            let is_told = wanted.intersects(told.what) && !excluded;
            let once = is_told && watch.mask.contains(Happening::ONESHOT);
            if is_told {
                state.push(Event { descriptor, mask: told.what.bits(), cookie: told.cookie, name: Box::from(told.name) });
            }
            if once || told.what.intersects(Happening::DELETE_SELF | Happening::UNMOUNT) {
                state.end(&self.me, descriptor)
            } else if is_told {
                None
            } else {
                return;
            }
        };
        drop(ended);
        self.readable.wake_all();
    }
}

impl File for Inotify {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        if flags.nonblocking() {
            return self.try_read(sink).unwrap_or(Err(Errno::EAGAIN));
        }
        wait_interruptibly(&self.readable, || self.try_read(sink))?
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn poll(&self) -> Events {
        if self.state.lock().queue.is_empty() { Events::empty() } else { Events::READABLE }
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.readable);
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        match request {
            FIONREAD => {
                let bytes: usize = self.state.lock().queue.iter().map(Event::len).sum();
                arg.store_i32(bytes as i32).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watches = core::mem::take(&mut self.state.get_mut().watches);
        for (descriptor, watch) in watches {
            forget(&watch.inode, &self.me, descriptor);
        }
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a listener is told.
pub(crate) struct Told<'a> {
    pub(crate) what: Happening,
    cookie: u32,
    name: &'a [u8],
    /// The name has been removed.
    unlinked: bool,
    /// A name was moved within the directory.
    pub(crate) renamed: bool,
}

impl<'a> Told<'a> {
    const fn new(what: Happening, name: &'a [u8]) -> Self {
        Self { what, cookie: 0, name, unlinked: false, renamed: false }
    }
}

/// Whether anybody watches anything.
#[inline]
#[must_use]
pub fn anybody_watches() -> bool {
    WATCHES.load(Ordering::Relaxed) > 0
}

fn tell(inode: &Arc<dyn Inode>, told: &Told<'_>) {
    let watchers = match WATCHED.read().as_ref().and_then(|all| all.get(&address(inode))) {
        Some(watchers) => watchers.clone(),
        None => return,
    };
    for watcher in watchers {
        if let Some(listener) = watcher.listener.upgrade() {
            listener.told(watcher.descriptor, told);
        }
    }
}

fn kind_flag(inode: &Arc<dyn Inode>) -> Happening {
    if inode.kind() == FileKind::Directory { Happening::ISDIR } else { Happening::empty() }
}

/// Something happened to the object that `dentry` names: its directory and itself are told.
#[inline]
pub fn happened(dentry: &Arc<Dentry>, what: Happening) {
    if anybody_watches() {
        tell_both(dentry, what);
    }
}

#[cold]
fn tell_both(dentry: &Arc<Dentry>, what: Happening) {
    let what = what | kind_flag(dentry.inode());
    if let Some(directory) = dentry.parent() {
        tell(directory.inode(), &Told { unlinked: dentry.is_deleted(), ..Told::new(what, &dentry.name()) });
    }
    tell(dentry.inode(), &Told::new(what, &[]));
}

/// Something happened to an object itself, whatever its names.
#[inline]
pub fn happened_to(inode: &Arc<dyn Inode>, what: Happening) {
    if anybody_watches() {
        // What an object is told of its own end and moves does not say what it is.
        let flag = if what.intersects(Happening::DELETE_SELF | Happening::MOVE_SELF) { Happening::empty() } else { kind_flag(inode) };
        tell(inode, &Told::new(what | flag, &[]));
    }
}

/// A name in `directory`, of `object`, was made or removed.
#[inline]
pub fn name_changed(directory: &Arc<Dentry>, name: &[u8], object: &Arc<dyn Inode>, what: Happening) {
    if anybody_watches() {
        tell(directory.inode(), &Told::new(what | kind_flag(object), name));
    }
}

/// `moved` of directory `from`, where it was `old`, is now `new` in `to`.
pub fn renamed(from: &Arc<Dentry>, old: &[u8], to: &Arc<Dentry>, new: &[u8], moved: &Arc<dyn Inode>) {
    if !anybody_watches() {
        return;
    }
    let (cookie, flag) = (NEXT_COOKIE.fetch_add(1, Ordering::Relaxed), kind_flag(moved));
    let renamed = Arc::ptr_eq(from.inode(), to.inode());
    tell(from.inode(), &Told { cookie, renamed, ..Told::new(Happening::MOVED_FROM | flag, old) });
    tell(to.inode(), &Told { cookie, ..Told::new(Happening::MOVED_TO | flag, new) });
}

/// The last name of an object is gone, and nobody uses it any more.
pub fn removed(inode: &Arc<dyn Inode>) {
    happened_to(inode, Happening::DELETE_SELF);
}

#[cfg(test)]
mod tests;
