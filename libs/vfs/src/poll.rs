//! [`poll_files`]: waits until one of several files is ready; the core of `poll`, `select` and their relatives.
//!
//! The caller's thread waits on a queue of its own; every file's queues get a notifier that marks it and wakes it. Files are
//! looked at after registering, so a change in between is not missed.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use sync::{Interrupt, Notify, Registration, WaitError, WaitQueue};

use crate::types::Events;
use crate::{Errno, OpenFile, Result};

/// One file to wait for.
pub struct PollEntry {
    /// The file; `None` for a descriptor to leave out.
    pub file: Option<Arc<OpenFile>>,
    /// What is waited for; errors and hang-ups always are.
    pub wanted: Events,
    /// What is ready.
    pub ready: Events,
}

/// Wakes the polling thread.
#[derive(Default)]
struct Waker {
    /// All that is waited for.
    wanted: Events,
    queue: WaitQueue,
    woken: AtomicBool,
}

impl Notify for Waker {
    fn notify(&self) {
        self.woken.store(true, Ordering::Release);
        self.queue.wake_all();
    }

    fn wants(&self, events: u32) -> bool {
        self.wanted.bits() & events != 0
    }
}

/// Fills in `ready` of all entries; returns how many have something.
fn look(entries: &mut [PollEntry]) -> usize {
    let mut count = 0;
    for entry in entries {
        if let Some(file) = &entry.file {
            entry.ready = file.poll() & (entry.wanted | Events::ALWAYS);
        }
        count += usize::from(!entry.ready.is_empty());
    }
    count
}

/// Waits until at least one entry is ready, or until the monotonic `deadline_ns`; returns how many are ready, 0 at the deadline.
/// `Some(0)` only looks.
///
/// # Errors
/// `EINTR` when a signal came first.
pub fn poll_files(entries: &mut [PollEntry], deadline_ns: Option<u64>) -> Result<usize> {
    let ready = look(entries);
    if ready > 0 || deadline_ns == Some(0) {
        return Ok(ready);
    }
    let wanted = entries.iter().fold(Events::ALWAYS, |wanted, entry| wanted | entry.wanted);
    let waker = Arc::new(Waker { wanted, ..Waker::default() });
    let _registrations = register(entries, &waker);
    let ready = look(entries);
    if ready > 0 {
        return Ok(ready);
    }
    let outcome = waker.queue.wait_until(deadline_ns, Interrupt::Allowed, || {
        if !waker.woken.swap(false, Ordering::AcqRel) {
            return None;
        }
        match look(entries) {
            0 => None,
            ready => Some(ready),
        }
    });
    match outcome {
        Ok(ready) => Ok(ready),
        Err(WaitError::TimedOut) => Ok(look(entries)),
        Err(WaitError::Interrupted) => Err(Errno::EINTR),
    }
}

fn register(entries: &[PollEntry], waker: &Arc<Waker>) -> Vec<Registration> {
    let mut registrations = Vec::with_capacity(entries.len());
    for file in entries.iter().filter_map(|entry| entry.file.as_ref()) {
        file.file().poll_queues(&mut |queue| registrations.push(queue.register(waker.clone())));
    }
    registrations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenFlags;
    use crate::pipe;
    use crate::testing::clock;
    use std::time::{Duration, Instant};

    fn entry(file: &Arc<OpenFile>, wanted: Events) -> PollEntry {
        PollEntry { file: Some(file.clone()), wanted, ready: Events::empty() }
    }

    #[test]
    fn ready_files_are_reported_at_once() {
        let (reader, writer) = pipe::create(1, clock, OpenFlags::empty());
        let mut entries = [entry(&reader, Events::IN), entry(&writer, Events::OUT)];
        assert_eq!(poll_files(&mut entries, None), Ok(1));
        assert_eq!((entries[0].ready, entries[1].ready), (Events::empty(), Events::OUT));
    }

    #[test]
    fn a_wait_ends_when_a_file_becomes_ready() {
        let (reader, writer) = pipe::create(1, clock, OpenFlags::empty());
        let poller = std::thread::spawn(move || {
            let mut entries = [entry(&reader, Events::IN)];
            let count = poll_files(&mut entries, None);
            (count, entries[0].ready)
        });
        std::thread::sleep(Duration::from_millis(30));
        writer.write(&mut b"x".as_slice()).unwrap();
        assert_eq!(poller.join().unwrap(), (Ok(1), Events::IN));
    }

    #[test]
    fn the_deadline_ends_a_wait_with_nothing() {
        let (reader, _writer) = pipe::create(1, clock, OpenFlags::empty());
        let begin = Instant::now();
        let deadline = sync::monotonic_ns() + 20_000_000;
        assert_eq!(poll_files(&mut [entry(&reader, Events::IN)], Some(deadline)), Ok(0));
        assert!(begin.elapsed() >= Duration::from_millis(20));
        assert_eq!(poll_files(&mut [], Some(sync::monotonic_ns() + 1_000_000)), Ok(0));
        assert_eq!(poll_files(&mut [entry(&reader, Events::IN)], Some(0)), Ok(0));
    }

    #[test]
    fn hang_ups_are_reported_unasked() {
        let (reader, writer) = pipe::create(1, clock, OpenFlags::empty());
        drop(writer);
        let mut entries = [entry(&reader, Events::empty())];
        assert_eq!(poll_files(&mut entries, None), Ok(1));
        assert_eq!(entries[0].ready, Events::HUP);
    }
}
