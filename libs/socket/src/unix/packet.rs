//! Sending and receiving packets, with a connection (`SOCK_SEQPACKET`) and without.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use vfs::OpenFlags;
use vfs::io::{Sink, Source};

use super::inbox::{Inbox, Incoming};
use super::queue::{Attached, Look, Origin, Packet, PacketQueue, TakenPacket};
use super::{MAX_QUEUED_PACKETS, UnixSocket, address_of};
use crate::options::name::SO_PASSCRED;
use crate::{AF_UNIX, Errno, Kind, MessageFlags, Outgoing, Paths, Received, Result, Wait};

/// What a packet costs its sender's budget beside its bytes: it bounds the number of packets.
const OVERHEAD: usize = 512;
/// What is subtracted from the send limit to give the largest packet, as on Linux.
const RESERVE: usize = 32;

/// Who a packet is for.
struct Destination {
    socket: Arc<UnixSocket>,
    /// The socket is connected to it, rather than named in the call.
    connected: bool,
}

impl UnixSocket {
    /// `connect` of a datagram socket: sets where it sends to, or nowhere.
    pub(super) fn set_destination(&self, address: &[u8], paths: &dyn Paths) -> Result<()> {
        let family = address.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
        let target = if family == Some(0) {
            None
        } else {
            if self.common.is_on(SO_PASSCRED) {
                self.choose_name()?;
            }
            let target = self.domain.find(address, Kind::Datagram, paths)?;
            if !target.accepts_from(self) {
                return Err(Errno::EPERM);
            }
            Some(Arc::downgrade(&target))
        };
        debug_assert!(family == Some(AF_UNIX) || target.is_none());
        let old = core::mem::replace(&mut self.state.lock().destination, target.clone());
        let moved = match (&old, &target) {
            (Some(old), Some(new)) => !old.ptr_eq(new),
            (old, _) => old.is_some(),
        };
        if moved {
            self.leave_peer(old);
        }
        self.writable.wake_all();
        Ok(())
    }

    /// What came from an earlier peer is lost, and a peer that is connected to this socket hears of it.
    fn leave_peer(&self, peer: Option<Weak<Self>>) {
        if self.inbox.is_empty() {
            return;
        }
        self.inbox.clear();
        let Some(peer) = peer.and_then(|peer| peer.upgrade()) else { return };
        if !peer.is_dead() && peer.is_connected_to(self) {
            peer.common.set_error(Errno::ECONNRESET);
            peer.inbox.readable().wake_all();
        }
    }

    fn is_connected_to(&self, other: &Self) -> bool {
        self.state.lock().destination.as_ref().is_some_and(|destination| destination.ptr_eq(&other.me))
    }

    /// A connected datagram socket takes packets from its peer only.
    fn accepts_from(&self, sender: &Self) -> bool {
        let state = self.state.lock();
        state.destination.as_ref().is_none_or(|destination| destination.ptr_eq(&sender.me))
    }

    pub(super) fn send_to_peer(&self, message: Outgoing<'_>, open_flags: OpenFlags) -> Result<usize> {
        if let Some(error) = self.common.take_error() {
            return Err(error);
        }
        let link = self.link.get().ok_or(Errno::ENOTCONN)?;
        let Incoming::Packets(inbox) = &link.outgoing else { return Err(Errno::EINVAL) };
        let wait = self.send_wait(open_flags, message.flags);
        let len = message.data.remaining();
        let (packet, source) = self.prepare(message, &link.outgoing, wait)?;
        if inbox.is_closed() {
            return Err(Errno::EPIPE);
        }
        deliver(inbox, packet, source)?;
        Ok(len)
    }

    pub(super) fn send_datagram(
        &self,
        message: Outgoing<'_>,
        paths: Option<&dyn Paths>,
        open_flags: OpenFlags,
    ) -> Result<usize> {
        let wait = self.send_wait(open_flags, message.flags);
        let len = message.data.remaining();
        let destination = self.destination(message.to.filter(|to| !to.is_empty()), paths)?;
        if self.common.is_on(SO_PASSCRED) {
            self.choose_name()?;
        }
        let Incoming::Packets(inbox) = &destination.socket.inbox else { return Err(Errno::EINVAL) };
        let (packet, source) = self.prepare(message, &destination.socket.inbox, wait)?;
        self.wait_for_room(&destination, inbox, wait)?;
        deliver(inbox, packet, source)?;
        Ok(len)
    }

    fn destination(&self, to: Option<&[u8]>, paths: Option<&dyn Paths>) -> Result<Destination> {
        if let (Some(to), Some(paths)) = (to, paths) {
            let socket = self.domain.find(to, Kind::Datagram, paths)?;
            return Ok(Destination { socket, connected: false });
        }
        if let Some(error) = self.common.take_error() {
            return Err(error);
        }
        let peer = self.state.lock().destination.clone().ok_or(Errno::ENOTCONN)?;
        match peer.upgrade().filter(|peer| !peer.is_dead()) {
            Some(socket) => Ok(Destination { socket, connected: true }),
            None => Err(self.lost_peer()),
        }
    }

    /// The peer is closed: the socket is not connected any more.
    fn lost_peer(&self) -> Errno {
        let old = self.state.lock().destination.take();
        self.leave_peer(old);
        Errno::ECONNREFUSED
    }

    /// Everything about a packet but its bytes.
    fn prepare<'a>(&self, message: Outgoing<'a>, to: &Incoming, wait: Wait) -> Result<(Packet, &'a mut dyn Source)> {
        let len = message.data.remaining();
        let limit = self.common.send_limit();
        if len > limit - RESERVE {
            return Err(Errno::EMSGSIZE);
        }
        let credentials = self.sender(message.credentials, to);
        let rights = self.rights(message.files);
        let charge = wait.on(&self.writable, || {
            if self.mute.load(Ordering::Acquire) {
                return Some(Err(Errno::EPIPE));
            }
            self.budget.charge(len + OVERHEAD, limit).map(Ok)
        })??;
        let packet = Packet { len, from: self.name.clone(), attached: Attached { credentials, rights }, _charge: charge };
        Ok((packet, message.data))
    }

    /// Waits until the destination takes packets.
    fn wait_for_room(&self, destination: &Destination, inbox: &Inbox<PacketQueue>, wait: Wait) -> Result<()> {
        let target = &*destination.socket;
        let outcome = wait.on(&target.room, || {
            if !target.accepts_from(self) {
                return Some(Err(Errno::EPERM));
            }
            if target.is_dead() {
                return Some(Err(if destination.connected { self.lost_peer() } else { Errno::ECONNREFUSED }));
            }
            if inbox.is_closed() {
                return Some(Err(Errno::EPIPE));
            }
            (!self.is_held_up_by(target, inbox)).then_some(Ok(()))
        });
        if outcome == Err(Errno::EAGAIN) {
            // So that `poll` reports when there is room.
            target.state.lock().stalled.push(Arc::downgrade(&self.writable));
        }
        outcome?
    }

    /// Whether so much waits at `target` that others than its peer have to wait.
    fn is_held_up_by(&self, target: &Self, inbox: &Inbox<PacketQueue>) -> bool {
        !core::ptr::eq(self, target) && !target.is_connected_to(self) && inbox.lock().count() > MAX_QUEUED_PACKETS
    }

    /// Whether a connected datagram socket could send now; if not, it hears when it can.
    pub(super) fn destination_has_room(&self) -> bool {
        if self.kind() != Kind::Datagram {
            return true;
        }
        let peer = self.state.lock().destination.as_ref().and_then(Weak::upgrade);
        let Some(peer) = peer else { return true };
        let Incoming::Packets(inbox) = &peer.inbox else { return true };
        if !self.is_held_up_by(&peer, inbox) {
            return true;
        }
        peer.state.lock().stalled.push(Arc::downgrade(&self.writable));
        // There may have been room just before we told that we want it.
        !self.is_held_up_by(&peer, inbox)
    }

    pub(super) fn receive_packet(
        &self,
        inbox: &Inbox<PacketQueue>,
        sink: &mut dyn Sink,
        flags: MessageFlags,
        open_flags: OpenFlags,
    ) -> Result<Received> {
        if self.kind() == Kind::SeqPacket && self.link.get().is_none() {
            return Err(Errno::ENOTCONN);
        }
        if flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let peeks = flags.contains(MessageFlags::PEEK);
        let look = if peeks { Look::Peek(self.common.peek_offset().unwrap_or(0)) } else { Look::Take };
        let wait = self.receive_wait(open_flags, flags);
        let Some(packet) = wait.on(&inbox.readable, || self.try_receive(inbox, sink, look, wait))?? else {
            return Ok(Received::default());
        };
        if !peeks {
            self.made_room(inbox);
        }
        let TakenPacket { len, full_len, origin } = packet;
        self.common.move_peek_offset(if peeks { len as isize } else { -(full_len as isize) });
        let (from, credentials, files) = match origin {
            Origin::Taken(packet) => {
                let Attached { credentials, rights } = packet.attached;
                (packet.from, credentials, rights.map_or_else(Vec::new, super::in_flight::Rights::into_files))
            }
            Origin::Seen { from, credentials, files } => (from, credentials, files),
        };
        let mut received = Received { from: address_of(&from), ..Received::default() };
        received.flags.set(MessageFlags::TRUNC, len < full_len);
        received.len = if flags.contains(MessageFlags::TRUNC) { full_len } else { len };
        received.credentials = self.shown(credentials);
        received.files = files;
        Ok(received)
    }

    /// One attempt to receive; no packet: that was the end.
    fn try_receive(
        &self,
        inbox: &Inbox<PacketQueue>,
        sink: &mut dyn Sink,
        look: Look,
        wait: Wait,
    ) -> Option<Result<Option<TakenPacket>>> {
        if let Some(error) = self.common.take_error() {
            return Some(Err(error));
        }
        let mut queue = inbox.lock();
        if let Some(packet) = queue.take(sink, look) {
            return Some(packet.map(Some));
        }
        // Linux: a nonblocking datagram socket says EAGAIN even then.
        let ends = inbox.is_closed() && (wait != Wait::No || self.kind() == Kind::SeqPacket);
        ends.then_some(Ok(None))
    }

    /// Lets those go on who waited because there was too much here.
    fn made_room(&self, inbox: &Inbox<PacketQueue>) {
        if self.kind() == Kind::SeqPacket || inbox.lock().count() > MAX_QUEUED_PACKETS {
            return;
        }
        self.room.wake_one();
        let stalled: Vec<_> = core::mem::take(&mut self.state.lock().stalled);
        stalled.iter().filter_map(Weak::upgrade).for_each(|queue| queue.wake_all());
    }
}

/// Puts a packet into an inbox. One that cannot be put is dropped with no lock held.
fn deliver(inbox: &Inbox<PacketQueue>, packet: Packet, source: &mut dyn Source) -> Result<()> {
    let outcome = inbox.lock().put(packet, source);
    match outcome {
        Ok(()) => {
            inbox.readable.wake_one();
            Ok(())
        }
        Err((error, packet)) => {
            drop(packet);
            Err(error)
        }
    }
}
