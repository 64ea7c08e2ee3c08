//! What waits in a socket to be received: [`StreamQueue`], bytes with things attached to some of them, and [`PacketQueue`].
//!
//! Both are protected by the lock of their [`super::inbox::Inbox`], and say what became of the bytes; waiting and waking are its business.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use sync::WaitQueue;
use vfs::{Events, OpenFile};
use vfs::byte_queue::ByteQueue;
use vfs::io::{LimitedSink, Sink, Source};

use super::NameCell;
use super::in_flight::Rights;
use crate::{Errno, Result, Ucred};

/// What travels with bytes.
#[derive(Default)]
pub(super) struct Attached {
    pub(super) credentials: Option<Ucred>,
    pub(super) rights: Option<Rights>,
}

/// Whether a receiver takes what it sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It does.
    Take,
    /// It does not, and begins this many bytes further on.
    Peek(usize),
}

/// What was received.
#[derive(Default)]
pub(super) struct Taken {
    /// Bytes stored.
    pub(super) len: usize,
    pub(super) credentials: Option<Ucred>,
    pub(super) files: Vec<Arc<OpenFile>>,
    /// Rights whose files are in `files` no longer on their way: to be counted so with no lock held.
    pub(super) rights: Option<Rights>,
}

/// Bytes in a row that were sent together with something.
struct Mark {
    start: u64,
    end: u64,
    attached: Attached,
}

/// What becomes of an urgent byte in the stream (`SO_OOBINLINE`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgent {
    /// It is received in its place.
    Inline,
    /// Only who asks for it receives it (`MSG_OOB`).
    Apart,
}

/// The bytes of a stream.
///
/// One byte may be urgent, the last that was sent so. It ends what is received at once, and stays when it was received on its own, as a hole: the
/// same end, and nothing else.
#[derive(Default)]
pub(super) struct StreamQueue {
    bytes: ByteQueue,
    marks: VecDeque<Mark>,
    /// Where the urgent byte is, unless it was received.
    urgent: Option<u64>,
    /// Where such bytes were; ascending.
    holes: VecDeque<u64>,
    /// Bytes that have ever been taken: the position of the first byte.
    taken: u64,
}

/// Bytes that may be received in one piece.
struct Run {
    len: usize,
    credentials: Option<Ucred>,
    /// Index of the mark they belong to.
    mark: Option<usize>,
}

impl StreamQueue {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn marks_rights(&self) -> impl Iterator<Item = &Rights> {
        self.marks.iter().filter_map(|mark| mark.attached.rights.as_ref())
    }

    pub(super) fn take_rights(&mut self) -> Vec<Rights> {
        self.marks.iter_mut().filter_map(|mark| mark.attached.rights.take()).collect()
    }

    /// Appends up to `limit` bytes; what is attached goes with the first of them.
    pub(super) fn put(&mut self, mut source: &mut dyn Source, limit: usize, attached: &mut Attached) -> Result<usize> {
        let start = self.taken + self.bytes.len() as u64;
        let n = self.bytes.fill(&mut source, limit)?;
        if n == 0 || attached.credentials.is_none() && attached.rights.is_none() {
            return Ok(n);
        }
        let end = start + n as u64;
        let attached = Attached { credentials: attached.credentials, rights: attached.rights.take() };
        match self.marks.back_mut() {
            Some(last)
                if last.end == start
                    && attached.rights.is_none()
                    && last.attached.rights.is_none()
                    && last.attached.credentials == attached.credentials =>
            {
                last.end = end;
            }
            _ => self.marks.push_back(Mark { start, end, attached }),
        }
        Ok(n)
    }

    /// Appends an urgent byte.
    pub(super) fn put_urgent(&mut self, mut source: &mut dyn Source) -> Result<usize> {
        let at = self.taken + self.bytes.len() as u64;
        let n = self.bytes.fill(&mut source, 1)?;
        if n == 1 {
            self.urgent = Some(at);
        }
        Ok(n)
    }

    /// Whether an urgent byte waits to be received on its own.
    pub(super) const fn has_urgent(&self) -> bool {
        self.urgent.is_some()
    }

    /// Whether the next byte is, or was, urgent.
    pub(super) fn is_at_mark(&self) -> bool {
        self.next_stop() == Some(self.taken)
    }

    /// Receives the urgent byte alone; `None` if there is none.
    pub(super) fn take_urgent(&mut self, sink: &mut dyn Sink, look: Look) -> Option<Result<usize>> {
        let at = self.urgent?;
        let copied = self.bytes.peek((at - self.taken) as usize, &mut LimitedSink::new(sink, 1));
        if copied == Ok(1) && look == Look::Take {
            self.urgent = None;
            self.holes.push_back(at);
        }
        Some(copied)
    }

    /// The first place that ends what is received at once.
    fn next_stop(&self) -> Option<u64> {
        self.holes.front().copied().or(self.urgent)
    }

    /// Passes what is not received from `at` on, if it begins there: the urgent byte, and holes. Returns where to go on.
    pub(super) fn pass_urgent(&mut self, look: Look, urgent: Urgent) -> usize {
        let mut at = if let Look::Peek(offset) = look { offset } else { 0 };
        while let Some(is_hole) = self.stop_at(self.taken + at as u64) {
            if !is_hole && urgent == Urgent::Inline {
                break;
            }
            if look == Look::Take {
                self.bytes.discard(1);
                self.forget_stop();
                self.taken += 1;
            } else {
                at += 1;
            }
        }
        at
    }

    /// Whether something ends at this place, and whether it is a hole.
    fn stop_at(&self, position: u64) -> Option<bool> {
        if self.holes.contains(&position) { Some(true) } else { (self.urgent == Some(position)).then_some(false) }
    }

    fn forget_stop(&mut self) {
        if self.holes.pop_front().is_none() {
            self.urgent = None;
        }
    }

    /// How many bytes there are from `at` on before one that ends what is received. The urgent one itself is no end where it is received in its place.
    fn before_stop(&self, at: usize) -> usize {
        let position = self.taken + at as u64;
        let stops = self.holes.iter().copied().chain(self.urgent);
        stops.filter(|&stop| stop > position).map(|stop| (stop - position) as usize).next().unwrap_or(usize::MAX)
    }

    /// Receives what may be received at once: nothing is put together from different senders if `credentials` are wanted, and
    /// nothing comes after bytes with rights. [`StreamQueue::pass_urgent`] comes first.
    pub(super) fn take(&mut self, sink: &mut dyn Sink, look: Look, credentials: bool) -> Result<Taken> {
        let at = if let Look::Peek(offset) = look { offset } else { 0 };
        if self.next_stop().is_none() {
            return self.take_calm(sink, look, at, credentials);
        }
        let mut sink = LimitedSink::new(sink, self.before_stop(at));
        if look == Look::Take && self.urgent == Some(self.taken) {
            // Received in its place: it is urgent no more.
            self.urgent = None;
        }
        self.take_calm(&mut sink, look, at, credentials)
    }

    /// The same where nothing urgent is in between.
    fn take_calm(&mut self, mut sink: &mut dyn Sink, look: Look, mut at: usize, credentials: bool) -> Result<Taken> {
        if self.marks.is_empty() && look == Look::Take {
            let len = self.bytes.drain(&mut sink)?;
            self.taken += len as u64;
            return Ok(Taken { len, ..Taken::default() });
        }
        let mut taken = Taken::default();
        while sink.remaining() > 0 {
            let Some(run) = self.run(at) else { break };
            if taken.len > 0 && credentials && run.credentials != taken.credentials {
                break;
            }
            let moved = match self.copy(at, run.len, sink, look) {
                Ok(moved) => moved,
                Err(error) if taken.len == 0 => return Err(error),
                Err(_) => break,
            };
            if moved == 0 {
                break;
            }
            taken.credentials = run.credentials;
            taken.len += moved;
            let attached = run.mark.is_some_and(|mark| self.detach(mark, look, &mut taken));
            if look == Look::Take {
                self.taken += moved as u64;
                while self.marks.front().is_some_and(|mark| mark.end <= self.taken) {
                    self.marks.pop_front();
                }
            } else {
                at += moved;
            }
            if attached || moved < run.len {
                break;
            }
        }
        Ok(taken)
    }

    /// The bytes that belong together from `at` on.
    fn run(&self, at: usize) -> Option<Run> {
        let position = self.taken + at as u64;
        let end = self.taken + self.bytes.len() as u64;
        if position >= end {
            return None;
        }
        let next = self.marks.iter().position(|mark| mark.end > position);
        let until = |end: u64| (end - position) as usize;
        Some(match next.map(|index| (index, &self.marks[index])) {
            None => Run { len: until(end), credentials: None, mark: None },
            Some((_, mark)) if mark.start > position => Run { len: until(mark.start), credentials: None, mark: None },
            Some((index, mark)) => {
                Run { len: until(mark.end), credentials: mark.attached.credentials, mark: Some(index) }
            }
        })
    }

    fn copy(&mut self, at: usize, len: usize, sink: &mut dyn Sink, look: Look) -> Result<usize> {
        let mut sink = LimitedSink::new(sink, len);
        if look == Look::Take { self.bytes.drain(&mut sink) } else { self.bytes.peek(at, &mut sink) }
    }

    /// Hands out the rights of a mark; whether there were any.
    fn detach(&mut self, mark: usize, look: Look, taken: &mut Taken) -> bool {
        let rights = &mut self.marks[mark].attached.rights;
        let Some(present) = rights.as_ref() else { return false };
        if look == Look::Take {
            taken.rights = rights.take();
        } else {
            taken.files = present.files().to_vec();
        }
        true
    }
}

/// Bytes that a socket has sent and nobody has received.
pub(super) struct Budget {
    used: AtomicUsize,
    /// The sender's.
    writable: Arc<WaitQueue>,
}

impl Budget {
    pub(super) fn new(writable: Arc<WaitQueue>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), writable })
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Charges `bytes`, unless more than `limit` are charged already.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Charge> {
        let add = |used: usize| (used < limit).then_some(used + bytes);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, add).ok()?;
        Some(Charge { budget: self.clone(), bytes })
    }
}

/// What a packet takes of its sender's budget, while it exists.
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.writable.wake_all_for(Events::WRITABLE.bits());
    }
}

/// A packet, but for its bytes.
pub(super) struct Packet {
    pub(super) len: usize,
    pub(super) from: Arc<NameCell>,
    pub(super) attached: Attached,
    /// Only dropped: then the sender may send again.
    pub(super) _charge: Charge,
}

/// Packets in order of arrival.
#[derive(Default)]
pub(super) struct PacketQueue {
    bytes: ByteQueue,
    packets: VecDeque<Packet>,
}

/// A received packet.
pub(super) struct TakenPacket {
    /// Bytes stored.
    pub(super) len: usize,
    /// Its length, of which less may have fitted.
    pub(super) full_len: usize,
    pub(super) origin: Origin,
}

/// What else there is to tell of a received packet.
pub(super) enum Origin {
    /// The packet itself. What is left of it is to be dropped with no lock held.
    Taken(Packet),
    /// It is still in the queue.
    Seen { from: Arc<NameCell>, credentials: Option<Ucred>, files: Vec<Arc<OpenFile>> },
}

impl PacketQueue {
    pub(super) fn count(&self) -> usize {
        self.packets.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn first_len(&self) -> usize {
        self.packets.front().map_or(0, |packet| packet.len)
    }

    pub(super) fn packets_rights(&self) -> impl Iterator<Item = &Rights> {
        self.packets.iter().filter_map(|packet| packet.attached.rights.as_ref())
    }

    pub(super) fn take_rights(&mut self) -> Vec<Rights> {
        self.packets.iter_mut().filter_map(|packet| packet.attached.rights.take()).collect()
    }

    /// Forgets all packets, which are to be dropped with no lock held.
    pub(super) fn clear(&mut self) -> VecDeque<Packet> {
        self.bytes.clear();
        core::mem::take(&mut self.packets)
    }

    /// Appends `packet`, whose bytes come from `source`: all of them or none.
    pub(super) fn put(&mut self, packet: Packet, mut source: &mut dyn Source) -> core::result::Result<(), (Errno, Packet)> {
        let before = self.bytes.len();
        match self.bytes.fill(&mut source, packet.len) {
            Ok(n) if n == packet.len => {
                self.packets.push_back(packet);
                Ok(())
            }
            outcome => {
                self.bytes.truncate(before);
                Err((outcome.err().unwrap_or(Errno::EFAULT), packet))
            }
        }
    }

    /// Receives the first packet, or looks at the one at `offset` bytes.
    pub(super) fn take(&mut self, sink: &mut dyn Sink, look: Look) -> Option<Result<TakenPacket>> {
        if look == Look::Take { self.take_first(sink) } else { self.see(sink, look) }
    }

    fn take_first(&mut self, sink: &mut dyn Sink) -> Option<Result<TakenPacket>> {
        let full_len = self.packets.front()?.len;
        let len = match self.bytes.drain(&mut LimitedSink::new(sink, full_len)) {
            Ok(len) => len,
            Err(error) => return Some(Err(error)),
        };
        self.bytes.discard(full_len - len);
        let packet = self.packets.pop_front()?;
        Some(Ok(TakenPacket { len, full_len, origin: Origin::Taken(packet) }))
    }

    #[inline(never)]
    fn see(&mut self, sink: &mut dyn Sink, look: Look) -> Option<Result<TakenPacket>> {
        let (index, start, skip) = self.find(look)?;
        let packet = &self.packets[index];
        let full_len = packet.len - skip;
        let mut len = 0;
        if full_len > 0 && sink.remaining() > 0 {
            match self.bytes.peek(start + skip, &mut LimitedSink::new(sink, full_len)) {
                Ok(seen) => len = seen,
                Err(error) => return Some(Err(error)),
            }
        }
        let files = packet.attached.rights.as_ref().map(|rights| rights.files().to_vec()).unwrap_or_default();
        let origin = Origin::Seen { from: packet.from.clone(), credentials: packet.attached.credentials, files };
        Some(Ok(TakenPacket { len, full_len, origin }))
    }

    /// The packet to look at: its index, where its bytes start, and how many of them to skip.
    fn find(&self, look: Look) -> Option<(usize, usize, usize)> {
        let mut skip = if let Look::Peek(offset) = look { offset } else { 0 };
        let mut start = 0;
        for (index, packet) in self.packets.iter().enumerate() {
            // An empty packet is seen only if nothing is to be skipped (or no more).
            if skip < packet.len || skip == 0 {
                return Some((index, start, skip));
            }
            skip -= packet.len;
            start += packet.len;
        }
        None
    }
}
