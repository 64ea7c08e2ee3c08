//! Sockets: the trait every address family implements, and the family AF_UNIX.
//!
//! - [`Socket`]: what the socket calls ask of a family. [`SocketFile`] is the open file around one.
//! - [`options`]: what all sockets have: buffer limits, timeouts, the pending error, `SOL_SOCKET` options.
//! - [`control`]: control messages as bytes, in both directions.
//! - [`unix`]: local sockets, with descriptor passing.
//!
//! Pure logic: who calls and which names exist in the file system come in as arguments ([`Paths`]) or functions
//! ([`unix::Domain`]). Waiting is `sync`'s. The system calls are in the `linux` crate, `sys/socket`.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod control;
pub mod options;
pub mod unix;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use bitflags::bitflags;
use sync::{Interrupt, WaitError, WaitQueue};
use vfs::io::{IoctlArg, Sink, Source};
use vfs::{Errno, Events, File, Inode, OpenFile, OpenFlags};

pub use options::{Common, Value};

/// What every operation of this crate returns: a value, or the error number the system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// `AF_UNIX`
pub const AF_UNIX: u16 = 1;

/// What a socket carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Bytes, over a connection.
    Stream,
    /// Packets, each on its own.
    Datagram,
    /// Packets, over a connection.
    SeqPacket,
}

impl Kind {
    /// `SOCK_STREAM`, `SOCK_DGRAM`, `SOCK_SEQPACKET`.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Stream => 1,
            Self::Datagram => 2,
            Self::SeqPacket => 5,
        }
    }
}

bitflags! {
    /// Flags of the calls that send and receive, and of what was received.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MessageFlags: u32 {
        /// Urgent data.
        const OOB = 0x1;
        /// Look without taking.
        const PEEK = 0x2;
        /// Not all control data fitted.
        const CTRUNC = 0x8;
        /// Give (or: it was) the real length of a packet that was cut.
        const TRUNC = 0x20;
        /// Do not block.
        const DONTWAIT = 0x40;
        /// The end of a record.
        const EOR = 0x80;
        /// Wait until the whole buffer is full.
        const WAITALL = 0x100;
        /// From the queue of errors.
        const ERRQUEUE = 0x2000;
        /// No `SIGPIPE`.
        const NOSIGNAL = 0x4000;
        /// More will follow.
        const MORE = 0x8000;
        /// `recvmmsg`: wait for the first only.
        const WAITFORONE = 0x1_0000;
        /// Received descriptors are close-on-exec.
        const CMSG_CLOEXEC = 0x4000_0000;
        const _ = !0;
    }
}

/// Which directions `shutdown` ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Receiving.
    Read,
    /// Sending.
    Write,
    /// Both.
    Both,
}

impl Shutdown {
    /// Whether receiving ends.
    #[must_use]
    pub fn reads(self) -> bool {
        self != Self::Write
    }

    /// Whether sending ends.
    #[must_use]
    pub fn writes(self) -> bool {
        self != Self::Read
    }
}

/// `struct ucred`: who sent something, or who is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ucred {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Ucred {
    /// What a message without a known sender carries: Linux's overflow ids.
    pub const UNKNOWN: Self = Self { pid: 0, uid: 65534, gid: 65534 };
    /// What `SO_PEERCRED` says of a socket without a peer.
    pub const NOBODY: Self = Self { pid: 0, uid: u32::MAX, gid: u32::MAX };

    /// As the program sees it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (at, field) in [self.pid, self.uid, self.gid].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// From what the program stored.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { pid: word(0), uid: word(4), gid: word(8) }
    }
}

/// The bytes of a `struct sockaddr`, family included.
pub type Address = Arc<[u8]>;

/// The calling process's file tree, for families whose addresses are paths.
pub trait Paths {
    /// Makes a socket inode at `path` (`mknod`), its permissions cut by the umask.
    ///
    /// # Errors
    /// Those of `mknod(2)`.
    fn make(&self, path: &[u8], mode: u16) -> Result<Arc<dyn Inode>>;

    /// The inode at `path`, if the caller may write to it.
    ///
    /// # Errors
    /// Those of a path walk; `EACCES`.
    fn find(&self, path: &[u8]) -> Result<Arc<dyn Inode>>;
}

/// A message to send.
pub struct Outgoing<'a> {
    /// The bytes.
    pub data: &'a mut dyn Source,
    /// Where to; `None`: where the socket is connected to.
    pub to: Option<&'a [u8]>,
    /// Open files to pass.
    pub files: Vec<Arc<OpenFile>>,
    /// The sender, if it said so itself (and was permitted to).
    pub credentials: Option<Ucred>,
    /// `MSG_*`
    pub flags: MessageFlags,
}

impl<'a> Outgoing<'a> {
    /// Nothing but bytes.
    pub fn plain(data: &'a mut dyn Source) -> Self {
        Self { data, to: None, files: Vec::new(), credentials: None, flags: MessageFlags::empty() }
    }
}

/// What came beside the bytes of a received message.
#[derive(Default)]
pub struct Received {
    /// What the call returns: bytes stored, or with `MSG_TRUNC` the packet's length.
    pub len: usize,
    /// `MSG_TRUNC`, `MSG_EOR`, …
    pub flags: MessageFlags,
    /// The sender's address, if it has one.
    pub from: Option<Address>,
    /// Passed files.
    pub files: Vec<Arc<OpenFile>>,
    /// The sender, if the socket asked for it.
    pub credentials: Option<Ucred>,
}

/// How long a call may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until a signal comes.
    Forever,
    /// Until this time, in monotonic nanoseconds.
    Until(u64),
}

impl Wait {
    /// How long a call with `flags` on a file with `open_flags` may wait, when the socket's timeout is `timeout_ns` (0: none).
    #[must_use]
    pub fn new(open_flags: OpenFlags, flags: MessageFlags, timeout_ns: u64) -> Self {
        if open_flags.nonblocking() || flags.contains(MessageFlags::DONTWAIT) {
            Self::No
        } else if timeout_ns == 0 {
            Self::Forever
        } else {
            Self::Until(sync::monotonic_ns().saturating_add(timeout_ns))
        }
    }

    /// Waits on `queue` until `cond` gives a value.
    ///
    /// # Errors
    /// `EAGAIN` when it may not wait (any longer); `ERESTARTSYS` when a signal came first, `EINTR` with a timeout.
    pub fn on<T>(self, queue: &WaitQueue, mut cond: impl FnMut() -> Option<T>) -> Result<T> {
        let deadline = match self {
            Self::No => return cond().ok_or(Errno::EAGAIN),
            Self::Forever => None,
            Self::Until(deadline) => Some(deadline),
        };
        queue.wait_until(deadline, Interrupt::Allowed, cond).map_err(|error| match (error, deadline) {
            (WaitError::TimedOut, _) => Errno::EAGAIN,
            (WaitError::Interrupted, None) => Errno::ERESTARTSYS,
            (WaitError::Interrupted, Some(_)) => Errno::EINTR,
        })
    }
}

/// A socket of some family. `open_flags` are those of the open file: `O_NONBLOCK` counts.
pub trait Socket: Any + Send + Sync {
    /// What all sockets have.
    fn common(&self) -> &Common;

    /// `bind`.
    ///
    /// # Errors
    /// Those of `bind(2)`.
    fn bind(&self, address: &[u8], paths: &dyn Paths) -> Result<()>;

    /// `listen`.
    ///
    /// # Errors
    /// Those of `listen(2)`.
    fn listen(&self, backlog: usize) -> Result<()>;

    /// `accept`: the next connection.
    ///
    /// # Errors
    /// Those of `accept(2)`.
    fn accept(&self, open_flags: OpenFlags) -> Result<Arc<dyn Socket>>;

    /// `connect`.
    ///
    /// # Errors
    /// Those of `connect(2)`.
    fn connect(&self, address: &[u8], paths: &dyn Paths, open_flags: OpenFlags) -> Result<()>;

    /// `sendmsg`.
    ///
    /// # Errors
    /// Those of `send(2)`; with `EPIPE` the caller raises `SIGPIPE` if [`Socket::raises_sigpipe`].
    fn send(&self, message: Outgoing<'_>, paths: &dyn Paths, open_flags: OpenFlags) -> Result<usize>;

    /// `recvmsg`.
    ///
    /// # Errors
    /// Those of `recv(2)`.
    fn receive(&self, sink: &mut dyn Sink, flags: MessageFlags, open_flags: OpenFlags) -> Result<Received>;

    /// `read`: as [`Socket::receive`] without flags, and whatever comes beside the bytes is lost.
    ///
    /// # Errors
    /// Those of `recv(2)`.
    fn read(&self, sink: &mut dyn Sink, open_flags: OpenFlags) -> Result<usize> {
        self.receive(sink, MessageFlags::empty(), open_flags).map(|received| received.len)
    }

    /// `write`: as [`Socket::send`] of nothing but bytes.
    ///
    /// # Errors
    /// Those of `send(2)`.
    fn write(&self, source: &mut dyn Source, open_flags: OpenFlags) -> Result<usize>;

    /// `shutdown`.
    ///
    /// # Errors
    /// Those of `shutdown(2)`.
    fn shutdown(&self, how: Shutdown) -> Result<()>;

    /// `getsockname`.
    fn name(&self) -> Address;

    /// `getpeername`.
    ///
    /// # Errors
    /// `ENOTCONN`.
    fn peer_name(&self) -> Result<Address>;

    /// An option that [`Common`] does not know.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EOPNOTSUPP`.
    fn option(&self, level: u32, name: u32) -> Result<Value>;

    /// Sets an option; by default what [`Common`] knows.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EOPNOTSUPP`, `EINVAL`, `EDOM`.
    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()>;

    /// Whether a `write` to a closed connection raises `SIGPIPE`.
    fn raises_sigpipe(&self) -> bool {
        self.common().kind() == Kind::Stream
    }

    /// What is ready right now.
    fn poll(&self) -> Events;

    /// Visits the queues that are woken when [`Socket::poll`] may have changed.
    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue));

    /// What is woken when urgent data has come.
    fn urgent_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// `ioctl`.
    ///
    /// # Errors
    /// `ENOTTY`, `EINVAL`, `EFAULT`.
    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize>;

    /// The last descriptor is gone.
    fn closed(&self);
}

/// The open file of a socket.
pub struct SocketFile {
    socket: Arc<dyn Socket>,
}

impl SocketFile {
    /// The open file of `socket`.
    #[must_use]
    pub fn new(socket: Arc<dyn Socket>) -> Arc<Self> {
        Arc::new(Self { socket })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &dyn Socket {
        &*self.socket
    }
}

impl File for SocketFile {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> Result<usize> {
        self.socket.read(sink, flags)
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, flags: OpenFlags) -> Result<usize> {
        self.socket.write(source, flags)
    }

    fn poll(&self) -> Events {
        self.socket.poll()
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        self.socket.poll_queues(visit);
    }

    fn urgent_queue(&self) -> Option<&WaitQueue> {
        self.socket.urgent_queue()
    }

    fn ioctl(&self, request: u32, arg: IoctlArg<'_>) -> Result<usize> {
        self.socket.ioctl(request, arg)
    }

    fn release(&self) {
        self.socket.closed();
    }
}
