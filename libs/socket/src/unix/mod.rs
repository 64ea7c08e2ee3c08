//! Local sockets, as `unix(7)` describes them: [`UnixSocket`], and [`Domain`], what all of them share.
//!
//! # Theory
//! Every socket has an inbox ([`inbox`]). Two connected sockets hold each other's inbox: a send puts into the peer's and wakes whoever
//! waits there, a receive takes from the own one and wakes the peer's writers. A connection of streams or packets never changes once
//! it is made, so a send or receive reads it without a lock ([`UnixSocket::link`]) and takes one lock, the inbox's. Sockets refer
//! to each other weakly, inboxes strongly: what was sent before a close is received after it.
//!
//! A connecting thread makes the accepted side's socket itself, links the two and puts it into the listener's list; `accept` only
//! takes it out. It reserves its own socket first ([`Stage::Connecting`]), so it needs never hold two sockets' states locked.
//!
//! Locks, in this order: `Domain::in_flight`, a socket's `binding`, a socket's `state`, an inbox, `Domain::names`. No two sockets' states, and
//! no two inboxes, are locked at once (but by the collector, one after the other).
//!
//! | file | what |
//! |---|---|
//! | `address.rs`, `names.rs` | addresses; who is bound to them |
//! | `inbox.rs`, `queue.rs` | what was sent and not received |
//! | `connection.rs` | listen, connect, accept, shutdown, close |
//! | `stream.rs`, `packet.rs` | sending and receiving |
//! | `in_flight.rs` | passed files, and those lost in cycles |

mod address;
mod connection;
mod in_flight;
mod inbox;
mod names;
mod packet;
mod queue;
mod stream;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use sync::{Mutex, OnceCell, WaitQueue};
use vfs::io::{IoctlArg, Sink, Source};
use vfs::{Errno, Events, OpenFile, OpenFlags};

use self::address::{Name, unnamed};
use self::in_flight::{Discarded, InFlight, Rights};
use self::inbox::{Inbox, Incoming};
use self::names::Names;
use self::queue::Budget;
use crate::options::{SOL_SOCKET, name as option_name};
use crate::{
    AF_UNIX, Address, Common, Kind, MessageFlags, Outgoing, Paths, Received, Result, Shutdown, Socket, Ucred, Value, Wait,
};

/// Packets that wait in a socket before senders who are not its peer have to wait, too (`/proc/sys/net/unix/max_dgram_qlen`).
pub const MAX_QUEUED_PACKETS: usize = 10;
/// Longest backlog (`/proc/sys/net/core/somaxconn`).
pub const MAX_BACKLOG: usize = 4096;

/// `ioctl`: whether what is received next is urgent, or behind what was.
const SIOCATMARK: u32 = 0x8905;
/// `ioctl`: bytes that can be received.
const SIOCINQ: u32 = 0x541b;
/// `ioctl`: bytes sent that nobody has received.
const SIOCOUTQ: u32 = 0x5411;

/// A process, as its peers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Process, effective user and group: who is connected (`SO_PEERCRED`).
    pub effective: Ucred,
    /// Process, real user and group: who sent something (`SCM_CREDENTIALS`).
    pub real: Ucred,
    /// Supplementary groups (`SO_PEERGROUPS`).
    pub groups: Vec<u32>,
}

/// What all local sockets share.
pub struct Domain {
    /// Who calls.
    identity: fn() -> Identity,
    names: Mutex<Names>,
    in_flight: Mutex<InFlight>,
    discarded: Mutex<Discarded>,
}

impl Domain {
    /// A world without sockets; `identity` says who the caller is.
    #[must_use]
    pub const fn new(identity: fn() -> Identity) -> Self {
        Self {
            identity,
            names: Mutex::new(Names::new()),
            in_flight: Mutex::new(InFlight::new()),
            discarded: Mutex::new(Discarded::new()),
        }
    }

    /// How many files have been sent and not received.
    #[must_use]
    pub fn files_in_flight(&self) -> usize {
        self.in_flight.lock().files
    }
}

type NameCell = OnceCell<Name>;

/// What a connected socket knows of its peer.
struct Link {
    /// Where sent things go: the peer's inbox.
    outgoing: Incoming,
    /// The peer, while it exists.
    peer: Weak<UnixSocket>,
    /// Woken when there is room in our inbox again.
    peer_writable: Arc<WaitQueue>,
    peer_name: Arc<NameCell>,
}

/// How far a socket with connections has got.
enum Stage {
    Fresh,
    /// A thread is connecting it.
    Connecting,
    Connected,
    Listening(Listener),
    Closed,
}

/// Connections that wait to be accepted.
struct Listener {
    backlog: usize,
    pending: VecDeque<Arc<UnixSocket>>,
    identity: Arc<Identity>,
}

struct State {
    stage: Stage,
    /// Where a datagram socket sends to.
    destination: Option<Weak<UnixSocket>>,
    /// Writers of others that wait for room here.
    stalled: Vec<Weak<WaitQueue>>,
}

/// A local socket.
pub struct UnixSocket {
    me: Weak<Self>,
    domain: &'static Domain,
    common: Common,
    inbox: Incoming,
    /// Woken when sending may be possible again.
    writable: Arc<WaitQueue>,
    /// Woken when there is room for connections, or for packets from those who are not the peer.
    room: WaitQueue,
    name: Arc<NameCell>,
    binding: Mutex<()>,
    link: OnceCell<Link>,
    peer_identity: OnceCell<Arc<Identity>>,
    state: Mutex<State>,
    budget: Arc<Budget>,
    /// `shutdown` ended sending.
    mute: AtomicBool,
    /// The last descriptor is gone.
    dead: AtomicBool,
}

impl UnixSocket {
    /// A socket without a name.
    #[must_use]
    pub fn new(domain: &'static Domain, kind: Kind) -> Arc<Self> {
        Self::build(domain, kind, Arc::new(NameCell::new()), Stage::Fresh)
    }

    fn build(domain: &'static Domain, kind: Kind, name: Arc<NameCell>, stage: Stage) -> Arc<Self> {
        let inbox = match kind {
            Kind::Stream => Incoming::Bytes(Inbox::new()),
            Kind::Datagram | Kind::SeqPacket => Incoming::Packets(Inbox::new()),
        };
        let writable = Arc::new(WaitQueue::new());
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            domain,
            common: Common::new(AF_UNIX, kind, 0),
            inbox,
            budget: Budget::new(writable.clone()),
            writable,
            room: WaitQueue::new(),
            name,
            binding: Mutex::new(()),
            link: OnceCell::new(),
            peer_identity: OnceCell::new(),
            state: Mutex::new(State { stage, destination: None, stalled: Vec::new() }),
            mute: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        })
    }

    /// `socketpair`.
    #[must_use]
    pub fn pair(domain: &'static Domain, kind: Kind) -> [Arc<Self>; 2] {
        let pair = [Self::new(domain, kind), Self::new(domain, kind)];
        let identity = Arc::new((domain.identity)());
        for (one, other) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let _first = one.peer_identity.set(identity.clone());
            let mut state = one.state.lock();
            if kind == Kind::Datagram {
                state.destination = Some(Arc::downgrade(other));
            } else {
                state.stage = Stage::Connected;
                let _first = one.link.set(Link::to(other));
            }
        }
        pair
    }

    fn kind(&self) -> Kind {
        self.common.kind()
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    fn send_wait(&self, open_flags: OpenFlags, flags: MessageFlags) -> Wait {
        Wait::new(open_flags, flags, self.common.send_timeout_ns())
    }

    fn receive_wait(&self, open_flags: OpenFlags, flags: MessageFlags) -> Wait {
        Wait::new(open_flags, flags, self.common.receive_timeout_ns())
    }

    fn wants_credentials(&self) -> bool {
        self.inbox.wants_credentials().load(Ordering::Relaxed)
    }

    /// Who sends, if either side wants that to be known.
    fn sender(&self, stated: Option<Ucred>, to: &Incoming) -> Option<Ucred> {
        if stated.is_some() {
            return stated;
        }
        let wanted = self.wants_credentials() || to.wants_credentials().load(Ordering::Relaxed);
        wanted.then(|| (self.domain.identity)().real)
    }

    fn rights(&self, files: Vec<Arc<OpenFile>>) -> Option<Rights> {
        (!files.is_empty()).then(|| Rights::new(self.domain, files))
    }

    /// The credentials that a receiver sees.
    fn shown(&self, credentials: Option<Ucred>) -> Option<Ucred> {
        self.wants_credentials().then(|| credentials.unwrap_or(Ucred::UNKNOWN))
    }

    /// All inboxes that only this socket leads to: its own, and those of connections that wait to be accepted.
    fn inboxes(&self) -> Vec<Incoming> {
        let mut all = alloc::vec![self.inbox.clone()];
        if let Stage::Listening(listener) = &self.state.lock().stage {
            all.extend(listener.pending.iter().map(|socket| socket.inbox.clone()));
        }
        all
    }

    /// The identities of all files on their way to it.
    fn passing_ids(&self) -> Vec<usize> {
        let mut ids = Vec::new();
        self.inboxes().iter().for_each(|inbox| inbox.passing_ids(&mut ids));
        ids
    }

    fn take_rights(&self) -> Vec<Rights> {
        self.inboxes().iter().flat_map(Incoming::take_rights).collect()
    }

    fn is_listening(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Listening(_))
    }

    /// Whether enough was received of what was sent for `poll` to say so.
    fn has_send_room(&self) -> bool {
        let used = match (&self.inbox, self.link.get()) {
            (Incoming::Bytes(_), Some(link)) => link.outgoing.bytes(),
            _ => self.budget.used(),
        };
        used * 4 <= self.common.send_limit()
    }
}

impl Link {
    /// The way to `peer`.
    fn to(peer: &Arc<UnixSocket>) -> Self {
        Self {
            outgoing: peer.inbox.clone(),
            peer: Arc::downgrade(peer),
            peer_writable: peer.writable.clone(),
            peer_name: peer.name.clone(),
        }
    }
}

/// The address of a name, if there is one.
fn address_of(name: &NameCell) -> Option<Address> {
    name.get().map(|name| name.address.clone())
}

impl Socket for UnixSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, address: &[u8], paths: &dyn Paths) -> Result<()> {
        self.bind_to(address, paths)
    }

    fn listen(&self, backlog: usize) -> Result<()> {
        self.start_listening(backlog.min(MAX_BACKLOG))
    }

    fn accept(&self, open_flags: OpenFlags) -> Result<Arc<dyn Socket>> {
        self.accept_next(open_flags).map(|socket| socket as Arc<dyn Socket>)
    }

    fn connect(&self, address: &[u8], paths: &dyn Paths, open_flags: OpenFlags) -> Result<()> {
        match self.kind() {
            Kind::Datagram => self.set_destination(address, paths),
            Kind::Stream | Kind::SeqPacket => self.connect_to(address, paths, open_flags),
        }
    }

    fn send(&self, message: Outgoing<'_>, paths: &dyn Paths, open_flags: OpenFlags) -> Result<usize> {
        if message.flags.contains(MessageFlags::OOB) && self.kind() != Kind::Stream {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.kind() {
            Kind::Stream => self.send_bytes(message, open_flags),
            Kind::SeqPacket => self.send_to_peer(message, open_flags),
            Kind::Datagram => self.send_datagram(message, Some(paths), open_flags),
        }
    }

    fn receive(&self, sink: &mut dyn Sink, flags: MessageFlags, open_flags: OpenFlags) -> Result<Received> {
        match &self.inbox {
            Incoming::Bytes(inbox) => self.receive_bytes(inbox, sink, flags, open_flags),
            Incoming::Packets(inbox) => self.receive_packet(inbox, sink, flags, open_flags),
        }
    }

    fn read(&self, sink: &mut dyn Sink, open_flags: OpenFlags) -> Result<usize> {
        match &self.inbox {
            Incoming::Bytes(inbox) => self.read_bytes(inbox, sink, open_flags),
            Incoming::Packets(inbox) => {
                self.receive_packet(inbox, sink, MessageFlags::empty(), open_flags).map(|received| received.len)
            }
        }
    }

    fn write(&self, source: &mut dyn Source, open_flags: OpenFlags) -> Result<usize> {
        match self.kind() {
            Kind::Stream => self.write_bytes(source, open_flags),
            Kind::SeqPacket => self.send_to_peer(Outgoing::plain(source), open_flags),
            Kind::Datagram => self.send_datagram(Outgoing::plain(source), None, open_flags),
        }
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.end(how);
        Ok(())
    }

    fn name(&self) -> Address {
        address_of(&self.name).unwrap_or_else(unnamed)
    }

    fn peer_name(&self) -> Result<Address> {
        if let Some(link) = self.link.get() {
            return Ok(address_of(&link.peer_name).unwrap_or_else(unnamed));
        }
        let destination = self.state.lock().destination.clone().ok_or(Errno::ENOTCONN)?;
        Ok(destination.upgrade().and_then(|peer| address_of(&peer.name)).unwrap_or_else(unnamed))
    }

    fn option(&self, level: u32, name: u32) -> Result<Value> {
        if level != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(value) = self.common.option(name) {
            return Ok(value);
        }
        let peer = self.peer_identity.get();
        match name {
            option_name::SO_PEERCRED => {
                Ok(Value::Bytes(peer.map_or(Ucred::NOBODY, |peer| peer.effective).to_bytes().to_vec()))
            }
            option_name::SO_PEERGROUPS => {
                let groups = &peer.ok_or(Errno::ENODATA)?.groups;
                Ok(Value::Bytes(groups.iter().flat_map(|group| group.to_le_bytes()).collect()))
            }
            option_name::SO_PEERNAME => self.peer_name().map(|name| Value::Bytes(name.to_vec())),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        self.common.set_option(name, value)?;
        match name {
            option_name::SO_PASSCRED => {
                self.inbox.wants_credentials().store(self.common.is_on(name), Ordering::Relaxed);
            }
            option_name::SO_OOBINLINE => {
                if let Incoming::Bytes(inbox) = &self.inbox {
                    inbox.urgent_inline.store(self.common.is_on(name), Ordering::Relaxed);
                }
            }
            option_name::SO_SNDBUF | option_name::SO_SNDBUFFORCE => self.writable.wake_all(),
            _ => {}
        }
        Ok(())
    }

    fn poll(&self) -> Events {
        let listening = self.link.get().is_none() && self.is_listening();
        let linked = self.link.get();
        let closed = self.inbox.is_closed();
        let mute = self.mute.load(Ordering::Acquire) || linked.is_some_and(|link| link.outgoing.is_closed());
        let mut events = Events::empty();
        events.set(Events::ERR, self.common.has_error());
        events.set(Events::RDHUP, closed);
        let unconnected = self.kind() != Kind::Datagram && linked.is_none() && !listening;
        events.set(Events::HUP, closed && mute || unconnected);
        events.set(Events::PRI, matches!(&self.inbox, Incoming::Bytes(inbox) if inbox.lock().has_urgent()));
        events.set(Events::READABLE, closed || self.has_something(listening));
        let writable = !listening && self.has_send_room() && self.destination_has_room();
        events.set(Events::WRITABLE | Events::WRBAND, writable);
        events
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(self.inbox.readable());
        visit(&self.writable);
    }

    fn urgent_queue(&self) -> Option<&WaitQueue> {
        match &self.inbox {
            Incoming::Bytes(inbox) => Some(&inbox.urgent_came),
            Incoming::Packets(_) => None,
        }
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        let bytes = match request {
            SIOCATMARK => match &self.inbox {
                Incoming::Bytes(inbox) => usize::from(inbox.lock().is_at_mark()),
                Incoming::Packets(_) => 0,
            },
            SIOCINQ if self.is_listening() => return Err(Errno::EINVAL),
            SIOCINQ => match &self.inbox {
                Incoming::Packets(inbox) if self.kind() == Kind::Datagram => inbox.lock().first_len(),
                inbox => inbox.bytes(),
            },
            SIOCOUTQ => match (&self.inbox, self.link.get()) {
                (Incoming::Bytes(_), Some(link)) => link.outgoing.bytes(),
                _ => self.budget.used(),
            },
            _ => return Err(Errno::ENOTTY),
        };
        arg.store_i32(bytes as i32).map(|()| 0)
    }

    fn closed(&self) {
        self.close();
    }
}

impl UnixSocket {
    /// Whether something can be received, or accepted.
    fn has_something(&self, listening: bool) -> bool {
        if listening {
            return matches!(&self.state.lock().stage, Stage::Listening(listener) if !listener.pending.is_empty());
        }
        !self.inbox.is_empty()
    }
}
