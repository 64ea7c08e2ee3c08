//! The life of a connection: listen, connect, accept, shutdown, close.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use vfs::OpenFlags;

use super::{Identity, Link, Listener, Stage, UnixSocket};
use crate::options::name::SO_PASSCRED;
use crate::{Errno, Kind, MessageFlags, Paths, Result, Shutdown};

/// Whether a closing socket has ever been accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepted {
    Yes,
    No,
}

impl UnixSocket {
    /// `listen`.
    pub(super) fn start_listening(&self, backlog: usize) -> Result<()> {
        if self.kind() == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.name.get().is_none() {
            return Err(Errno::EINVAL);
        }
        let identity = Arc::new((self.domain.identity)());
        {
            let mut state = self.state.lock();
            match &mut state.stage {
                Stage::Fresh => {
                    state.stage = Stage::Listening(Listener { backlog, pending: VecDeque::new(), identity });
                }
                Stage::Listening(listener) => {
                    listener.backlog = backlog;
                    listener.identity = identity;
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        self.common.set_accepts();
        self.room.wake_all();
        Ok(())
    }

    /// `accept`.
    pub(super) fn accept_next(&self, open_flags: OpenFlags) -> Result<Arc<Self>> {
        if self.kind() == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let wait = self.receive_wait(open_flags, MessageFlags::empty());
        let accepted = wait.on(self.inbox.readable(), || {
            let mut state = self.state.lock();
            let Stage::Listening(listener) = &mut state.stage else { return Some(Err(Errno::EINVAL)) };
            match listener.pending.pop_front() {
                Some(socket) => Some(Ok(socket)),
                None => self.inbox.is_closed().then_some(Err(Errno::EINVAL)),
            }
        })??;
        self.room.wake_one();
        Ok(accepted)
    }

    /// `connect`, for streams and packets.
    pub(super) fn connect_to(&self, address: &[u8], paths: &dyn Paths, open_flags: OpenFlags) -> Result<()> {
        if self.common.is_on(SO_PASSCRED) {
            self.choose_name()?;
        }
        let target = self.domain.find(address, self.kind(), paths)?;
        let identity = Arc::new((self.domain.identity)());
        let wait = self.send_wait(open_flags, MessageFlags::empty());
        wait.on(&target.room, || self.try_connect(&target, &identity))?
    }

    /// One attempt to connect to `target`; `None`: its backlog is full.
    fn try_connect(&self, target: &Self, identity: &Arc<Identity>) -> Option<Result<()>> {
        if !target.is_listening() || target.inbox.is_closed() {
            return Some(Err(Errno::ECONNREFUSED));
        }
        if let Err(error) = self.reserve() {
            return Some(Err(error));
        }
        let outcome = self.enqueue_at(target, identity);
        let connected = matches!(outcome, Some(Ok(())));
        self.state.lock().stage = if connected { Stage::Connected } else { Stage::Fresh };
        if connected {
            target.inbox.readable().wake_one();
        }
        outcome
    }

    /// Makes the calling thread the one that connects this socket.
    fn reserve(&self) -> Result<()> {
        let mut state = self.state.lock();
        match state.stage {
            Stage::Fresh => {
                state.stage = Stage::Connecting;
                Ok(())
            }
            Stage::Connecting => Err(Errno::EALREADY),
            Stage::Connected => Err(Errno::EISCONN),
            Stage::Listening(_) | Stage::Closed => Err(Errno::EINVAL),
        }
    }

    /// Makes the other side's socket and leaves it with the listener.
    fn enqueue_at(&self, target: &Self, identity: &Arc<Identity>) -> Option<Result<()>> {
        let me = self.me.upgrade()?;
        let mut state = target.state.lock();
        let Stage::Listening(listener) = &mut state.stage else { return Some(Err(Errno::ECONNREFUSED)) };
        if listener.pending.len() > listener.backlog {
            return None;
        }
        let accepted = Self::build(self.domain, self.kind(), target.name.clone(), Stage::Connected);
        accepted.common.inherit(&target.common);
        accepted.inbox.wants_credentials().store(target.wants_credentials(), Ordering::Relaxed);
        let _first = accepted.link.set(Link::to(&me));
        let _first = accepted.peer_identity.set(identity.clone());
        let _first = self.peer_identity.set(listener.identity.clone());
        let _first = self.link.set(Link::to(&accepted));
        if self.mute.load(Ordering::Acquire) {
            accepted.inbox.close();
        }
        listener.pending.push_back(accepted);
        Some(Ok(()))
    }

    /// `shutdown`. A connection's other side notices; a datagram's does not.
    pub(super) fn end(&self, how: Shutdown) {
        let link = self.link.get();
        if how.reads() {
            self.inbox.close();
            self.room.wake_all();
            if let Some(link) = link {
                link.peer_writable.wake_all();
            }
        }
        if how.writes() {
            self.mute.store(true, Ordering::Release);
            if let Some(link) = link {
                link.outgoing.close();
            }
            self.writable.wake_all();
        }
    }

    /// The last descriptor is gone.
    pub(super) fn close(&self) {
        self.give_up_name();
        self.leave(Accepted::Yes);
        self.domain.collect();
    }

    fn leave(&self, accepted: Accepted) {
        self.dead.store(true, Ordering::Release);
        let (stage, stalled) = {
            let mut state = self.state.lock();
            state.destination = None;
            (core::mem::replace(&mut state.stage, Stage::Closed), core::mem::take(&mut state.stalled))
        };
        if let Stage::Listening(listener) = stage {
            listener.pending.iter().for_each(|socket| socket.leave(Accepted::No));
        }
        if let Some(link) = self.link.get() {
            // Linux: data that nobody will read any more is an error for whoever sent it.
            if (accepted == Accepted::No || !self.inbox.is_empty()) && let Some(peer) = link.peer.upgrade() {
                peer.common.set_error(Errno::ECONNRESET);
            }
            link.outgoing.close();
            self.inbox.close();
            link.peer_writable.wake_all();
        }
        self.inbox.clear();
        self.room.wake_all();
        stalled.iter().filter_map(alloc::sync::Weak::upgrade).for_each(|queue| queue.wake_all());
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // One that never had a descriptor: made, but not installed.
        if !self.is_dead() {
            self.give_up_name();
            self.leave(Accepted::No);
        }
    }
}
