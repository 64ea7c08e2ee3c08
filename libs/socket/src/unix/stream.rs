//! Sending and receiving bytes.

use core::sync::atomic::Ordering;

use vfs::{Events, OpenFlags};
use vfs::io::{LimitedSource, Sink, Source};

use super::inbox::{Inbox, Incoming, Outcome};
use super::queue::{Attached, Look, StreamQueue};
use super::{Link, UnixSocket, address_of};
use crate::{Errno, MessageFlags, Outgoing, Received, Result, Wait};

impl UnixSocket {
    /// `write`: mostly everything fits, and nobody wants to know who sent it.
    pub(super) fn write_bytes(&self, source: &mut dyn Source, open_flags: OpenFlags) -> Result<usize> {
        let plain = !self.wants_credentials() && !self.common.has_error() && source.remaining() > 0;
        let mut done = 0;
        if plain
            && let Some(Link { outgoing: Incoming::Bytes(outgoing), .. }) = self.link.get()
            && !outgoing.wants_credentials.load(Ordering::Relaxed)
            && let Some(result) = outgoing.try_put(source, self.common.send_limit(), &mut Attached::default())
        {
            done = result?;
            if source.remaining() == 0 {
                return Ok(done);
            }
        }
        match self.send_bytes(Outgoing::plain(source), open_flags) {
            Ok(more) => Ok(done + more),
            Err(_) if done > 0 => Ok(done),
            Err(error) => Err(error),
        }
    }

    pub(super) fn send_bytes(&self, message: Outgoing<'_>, open_flags: OpenFlags) -> Result<usize> {
        let link = self.link.get();
        if message.to.is_some_and(|to| !to.is_empty()) {
            return Err(if link.is_some() { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let link = link.ok_or(Errno::ENOTCONN)?;
        let Incoming::Bytes(outgoing) = &link.outgoing else { return Err(Errno::EINVAL) };
        if outgoing.is_closed() {
            return Err(Errno::EPIPE);
        }
        if let Some(error) = self.common.take_error() {
            return Err(error);
        }
        let credentials = self.sender(message.credentials, &link.outgoing);
        let mut attached = Attached { credentials, rights: self.rights(message.files) };
        let wait = self.send_wait(open_flags, message.flags);
        let (source, limit) = (message.data, self.common.send_limit());
        // Of an urgent message the last byte is.
        let urgent = usize::from(message.flags.contains(MessageFlags::OOB));
        if urgent > source.remaining() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut done = 0;
        while source.remaining() > 0 {
            let calm = source.remaining() - urgent;
            let step = wait.on(&self.writable, || match calm {
                0 => outgoing.try_put_urgent(source, limit),
                _ => outgoing.try_put(&mut LimitedSource::new(source, calm), limit, &mut attached),
            });
            match step.and_then(|result| result) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn require_link(&self) -> Result<&Link> {
        // What Linux says for a stream; packets get ENOTCONN.
        self.link.get().ok_or(Errno::EINVAL)
    }

    /// One piece, as soon as there is one.
    fn take_piece(
        &self,
        (inbox, link): (&Inbox<StreamQueue>, &Link),
        sink: &mut dyn Sink,
        look: Look,
        wait: Wait,
    ) -> Result<Outcome> {
        let credentials = self.wants_credentials();
        let outcome = wait.on(&inbox.readable, || {
            inbox.try_take(sink, look, credentials, || self.common.take_error())
        })??;
        // A writer that waits is let go when three quarters are free, so that it does not come for every few bytes.
        if look == Look::Take && outcome.has_room {
            link.peer_writable.wake_all_for(Events::WRITABLE.bits());
        }
        Ok(outcome)
    }

    pub(super) fn read_bytes(&self, inbox: &Inbox<StreamQueue>, sink: &mut dyn Sink, open_flags: OpenFlags) -> Result<usize> {
        let link = self.require_link()?;
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let wait = self.receive_wait(open_flags, MessageFlags::empty());
        let outcome = self.take_piece((inbox, link), sink, Look::Take, wait)?;
        self.common.move_peek_offset(-(outcome.taken.len as isize));
        Ok(outcome.taken.len)
    }

    pub(super) fn receive_bytes(
        &self,
        inbox: &Inbox<StreamQueue>,
        sink: &mut dyn Sink,
        flags: MessageFlags,
        open_flags: OpenFlags,
    ) -> Result<Received> {
        let link = self.require_link()?;
        let peeks = flags.contains(MessageFlags::PEEK);
        if flags.contains(MessageFlags::OOB) {
            let len = inbox.take_urgent(sink, if peeks { Look::Peek(0) } else { Look::Take })?;
            return Ok(Received { len, flags: MessageFlags::OOB, ..Received::default() });
        }
        let look = if peeks { Look::Peek(self.common.peek_offset().unwrap_or(0)) } else { Look::Take };
        let wait = self.receive_wait(open_flags, flags);
        let mut received = Received { from: address_of(&link.peer_name), ..Received::default() };
        loop {
            let taken = match self.take_piece((inbox, link), sink, look, wait) {
                Ok(outcome) => outcome.taken,
                Err(error) if received.len == 0 => return Err(error),
                Err(_) => break,
            };
            received.len += taken.len;
            received.credentials = self.shown(taken.credentials);
            received.files = taken.rights.map_or(taken.files, super::in_flight::Rights::into_files);
            let again = flags.contains(MessageFlags::WAITALL) && !peeks && received.files.is_empty();
            if !again || taken.len == 0 || sink.remaining() == 0 {
                break;
            }
        }
        let moved = received.len as isize;
        self.common.move_peek_offset(if peeks { moved } else { -moved });
        Ok(received)
    }
}
