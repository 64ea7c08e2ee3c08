//! [`Rights`]: open files on their way through a socket, and the collector of those that nobody can receive any more.
//!
//! # Theory
//! A socket can travel through a socket, also through itself: put into a queue that is only reachable through the file in that very
//! queue, it can never be received, and its count of references never reaches zero. So every local socket's file that is on its
//! way is counted in [`InFlight`] (once for each queue entry). If a file has no more references than entries in queues, no
//! descriptor refers to it. Among those, whoever is in a queue of one that is reachable is reachable; the rest is garbage, and the
//! files in its queues are dropped.
//!
//! Counting and collecting happen under one lock. Why what is collected cannot come back: to take a file out of a queue one needs a
//! reference to the queue's socket, which then has more references than entries. A file is counted before it enters a queue
//! and until after it has left: seen in between it has more entries counted than found in queues of candidates, and is taken
//! for reachable. A look (`MSG_PEEK`) adds references, never removes any.
//!
//! Dropping a file may close a socket, and so drop the files in its queue, and so on. [`Domain::discard`] makes a list of that
//! instead of a recursion: a program could chain more sockets than a kernel stack has room for.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use vfs::OpenFile;

use super::{Domain, UnixSocket};
use crate::SocketFile;

/// Local sockets' files on their way, by [`OpenFile::id`].
pub(super) struct InFlight {
    sockets: BTreeMap<usize, Entry>,
    /// Files of all sorts on their way.
    pub(super) files: usize,
}

struct Entry {
    file: Weak<OpenFile>,
    /// Entries in queues.
    count: usize,
}

impl InFlight {
    pub(super) const fn new() -> Self {
        Self { sockets: BTreeMap::new(), files: 0 }
    }
}

/// Files that wait to be dropped, and whether some thread is at it.
pub(super) struct Discarded {
    files: Vec<Arc<OpenFile>>,
    busy: bool,
    /// One of them asked for a collection meanwhile: once will do for all.
    collect: bool,
}

impl Discarded {
    pub(super) const fn new() -> Self {
        Self { files: Vec::new(), busy: false, collect: false }
    }
}

/// The local socket behind `file`.
fn unix_socket(file: &OpenFile) -> Option<&UnixSocket> {
    let any: &dyn core::any::Any = file.downcast::<SocketFile>()?.socket();
    any.downcast_ref()
}

/// Files on their way; those that are local sockets are counted while this lives.
pub(super) struct Rights {
    domain: &'static Domain,
    files: Vec<Arc<OpenFile>>,
}

impl Rights {
    /// Sends `files` on their way.
    pub(super) fn new(domain: &'static Domain, files: Vec<Arc<OpenFile>>) -> Self {
        let mut in_flight = domain.in_flight.lock();
        in_flight.files += files.len();
        for file in files.iter().filter(|file| unix_socket(file).is_some()) {
            let entry = Entry { file: Arc::downgrade(file), count: 0 };
            in_flight.sockets.entry(file.id()).or_insert(entry).count += 1;
        }
        drop(in_flight);
        Self { domain, files }
    }

    /// Copies of the files, which stay on their way.
    pub(super) fn files(&self) -> &[Arc<OpenFile>] {
        &self.files
    }

    /// The files have arrived.
    pub(super) fn into_files(mut self) -> Vec<Arc<OpenFile>> {
        self.take()
    }

    fn take(&mut self) -> Vec<Arc<OpenFile>> {
        let files = core::mem::take(&mut self.files);
        let mut in_flight = self.domain.in_flight.lock();
        in_flight.files -= files.len();
        for file in &files {
            if let Some(entry) = in_flight.sockets.get_mut(&file.id()) {
                entry.count -= 1;
                if entry.count == 0 {
                    in_flight.sockets.remove(&file.id());
                }
            }
        }
        files
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let files = self.take();
        self.domain.discard(files);
    }
}

/// One socket's file that may be garbage.
struct Candidate {
    file: Arc<OpenFile>,
    /// Entries in queues, and how many of them were found in queues of candidates.
    count: usize,
    found: usize,
    reachable: bool,
}

impl Domain {
    /// Drops files that nobody received.
    pub(super) fn discard(&self, files: Vec<Arc<OpenFile>>) {
        if files.is_empty() {
            return;
        }
        let mut discarded = self.discarded.lock();
        discarded.files.extend(files);
        if discarded.busy {
            return;
        }
        discarded.busy = true;
        while let Some(file) = discarded.files.pop() {
            drop(discarded);
            drop(file);
            discarded = self.discarded.lock();
        }
        discarded.busy = false;
        if core::mem::take(&mut discarded.collect) {
            drop(discarded);
            self.collect();
        }
    }

    /// Empties the queues of sockets that only such queues lead to.
    pub(super) fn collect(&self) {
        {
            let mut discarded = self.discarded.lock();
            if discarded.busy {
                discarded.collect = true;
                return;
            }
        }
        let in_flight = self.in_flight.lock();
        if in_flight.sockets.is_empty() {
            return;
        }
        let mut candidates = candidates(&in_flight);
        mark(&mut candidates);
        drop(in_flight);
        let garbage: Vec<_> = candidates.into_values().filter(|candidate| !candidate.reachable).collect();
        let rights: Vec<Rights> =
            garbage.iter().filter_map(|candidate| unix_socket(&candidate.file)).flat_map(UnixSocket::take_rights).collect();
        drop(rights);
        self.discard(garbage.into_iter().map(|candidate| candidate.file).collect());
    }
}

/// The files that have no references but from queues.
fn candidates(in_flight: &InFlight) -> BTreeMap<usize, Candidate> {
    let candidate = |(id, entry): (&usize, &Entry)| {
        let file = entry.file.upgrade()?;
        // Ours is one more.
        let unreferenced = Arc::strong_count(&file) == entry.count + 1;
        unreferenced.then_some((*id, Candidate { file, count: entry.count, found: 0, reachable: false }))
    };
    in_flight.sockets.iter().filter_map(candidate).collect()
}

/// Finds out which candidates can be reached from elsewhere.
fn mark(candidates: &mut BTreeMap<usize, Candidate>) {
    let contents: BTreeMap<usize, Vec<usize>> = candidates
        .iter()
        .filter_map(|(id, candidate)| Some((*id, unix_socket(&candidate.file)?.passing_ids())))
        .collect();
    for id in contents.values().flatten() {
        if let Some(candidate) = candidates.get_mut(id) {
            candidate.found += 1;
        }
    }
    let mut reachable: Vec<usize> =
        candidates.iter().filter(|(_, candidate)| candidate.found < candidate.count).map(|(id, _)| *id).collect();
    while let Some(id) = reachable.pop() {
        let Some(candidate) = candidates.get_mut(&id) else { continue };
        if !core::mem::replace(&mut candidate.reachable, true) {
            reachable.extend(contents.get(&id).into_iter().flatten());
        }
    }
}
