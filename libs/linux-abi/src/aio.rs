//! Asynchronous I/O: requests, events, and the ring that a program finds them in.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `IOCB_CMD_PREAD`.
pub const IOCB_CMD_PREAD: u16 = 0;
/// `IOCB_CMD_PWRITE`.
pub const IOCB_CMD_PWRITE: u16 = 1;
/// `IOCB_CMD_FSYNC`.
pub const IOCB_CMD_FSYNC: u16 = 2;
/// `IOCB_CMD_FDSYNC`.
pub const IOCB_CMD_FDSYNC: u16 = 3;
/// `IOCB_CMD_POLL`.
pub const IOCB_CMD_POLL: u16 = 5;
/// `IOCB_CMD_PREADV`.
pub const IOCB_CMD_PREADV: u16 = 7;
/// `IOCB_CMD_PWRITEV`.
pub const IOCB_CMD_PWRITEV: u16 = 8;
/// An eventfd is told when the request is done.
pub const IOCB_FLAG_RESFD: u32 = 1;
/// The request has a priority of its own.
pub const IOCB_FLAG_IOPRIO: u32 = 2;
/// `aio_ring.magic`.
pub const AIO_RING_MAGIC: u32 = 0xa10a_10a1;

/// `struct iocb`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Iocb {
    /// Comes back in the event.
    pub data: u64,
    /// 0 once it was submitted.
    pub key: u32,
    /// `RWF_*`.
    pub rw_flags: u32,
    /// `IOCB_CMD_*`.
    pub opcode: u16,
    /// Priority, with [`IOCB_FLAG_IOPRIO`].
    pub priority: i16,
    /// File descriptor.
    pub fd: i32,
    /// Where the bytes are, or the array of `struct iovec`; what to poll for.
    pub buffer: u64,
    /// How many.
    pub len: u64,
    /// Position in the file.
    pub offset: i64,
    /// Zero.
    pub reserved: u64,
    /// `IOCB_FLAG_*`.
    pub flags: u32,
    /// The eventfd, with [`IOCB_FLAG_RESFD`].
    pub eventfd: i32,
}

/// `struct io_event`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoEvent {
    /// [`Iocb::data`].
    pub data: u64,
    /// Address of the [`Iocb`].
    pub object: u64,
    /// What the call would have returned.
    pub result: i64,
    /// Zero.
    pub result2: i64,
}

/// `struct aio_ring` without the events, which follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AioRing {
    /// The kernel's own.
    pub id: u32,
    /// Places for events.
    pub capacity: u32,
    /// The event that is taken next.
    pub head: u32,
    /// The place that is filled next.
    pub tail: u32,
    /// [`AIO_RING_MAGIC`].
    pub magic: u32,
    /// 1.
    pub compatible_features: u32,
    /// 0.
    pub incompatible_features: u32,
    /// Bytes of this header.
    pub header_len: u32,
}

/// `struct __aio_sigset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AioSigset {
    /// Address of the signal mask.
    pub mask: u64,
    /// Its size in bytes.
    pub size: u64,
}
