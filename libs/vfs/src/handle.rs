//! [`Handle`]: the file behind an open file, with the kinds that programs use most at hand.
//!
//! Calls of those are calls of their own functions, made for the caller's kind of [`Sink`] or [`Source`]: the compiler sees through a
//! `read` from the system call to the copy. All others are called as [`File`]s.

use alloc::sync::Arc;
use core::any::{Any, TypeId};

use crate::{Errno, Result};
use crate::devices::Device;
use crate::epoll::Epoll;
use crate::eventfd::EventFd;
use crate::file::File;
use crate::inode::Inode;
use crate::io::{Sink, Source};
use crate::pipe::PipeEnd;
use crate::tmpfs::Node;
use crate::types::{Events, Metadata, OpenFlags};

/// See the module.
pub(crate) enum Handle {
    Node(Arc<Node>),
    Pipe(Arc<PipeEnd>),
    Event(Arc<EventFd>),
    Epoll(Arc<Epoll>),
    Device(Arc<Device>),
    Other(Arc<dyn File>),
}

impl Handle {
    /// The handle of `file`.
    pub(crate) fn new(file: Arc<dyn File>) -> Self {
        let any: &dyn Any = &*file;
        let kind = any.type_id();
        if kind == TypeId::of::<Node>() {
            known(file, Self::Node)
        } else if kind == TypeId::of::<PipeEnd>() {
            known(file, Self::Pipe)
        } else if kind == TypeId::of::<EventFd>() {
            known(file, Self::Event)
        } else if kind == TypeId::of::<Epoll>() {
            known(file, Self::Epoll)
        } else if kind == TypeId::of::<Device>() {
            known(file, Self::Device)
        } else {
            Self::Other(file)
        }
    }

    #[inline]
    pub(crate) fn as_file(&self) -> &dyn File {
        match self {
            Self::Node(node) => &**node,
            Self::Pipe(end) => &**end,
            Self::Event(event) => &**event,
            Self::Epoll(epoll) => &**epoll,
            Self::Device(device) => &**device,
            Self::Other(file) => &**file,
        }
    }

    /// `read`, if the file is a known one that looks at no position.
    #[inline(always)]
    pub(crate) fn read_stream<S: Sink>(&self, sink: &mut S, flags: OpenFlags) -> Option<Result<usize>> {
        let packed = match self {
            Self::Pipe(end) => read_pipe(end, sink, flags),
            Self::Event(event) => read_event(event, sink, flags),
            Self::Device(device) => read_device(device, sink),
            Self::Node(_) | Self::Epoll(_) | Self::Other(_) => return None,
        };
        Some(unpack(packed))
    }

    /// `write`, as [`Handle::read_stream`].
    #[inline(always)]
    pub(crate) fn write_stream<S: Source>(&self, source: &mut S, flags: OpenFlags) -> Option<Result<usize>> {
        let packed = match self {
            Self::Pipe(end) => write_pipe(end, source, flags),
            Self::Event(event) => write_event(event, source, flags),
            Self::Device(_) | Self::Node(_) | Self::Epoll(_) | Self::Other(_) => return None,
        };
        Some(unpack(packed))
    }

    /// [`File::read`].
    #[inline(always)]
    pub(crate) fn read_at<S: Sink>(&self, position: &mut u64, mut sink: S, flags: OpenFlags) -> Result<usize> {
        match self {
            Self::Node(node) => {
                let n = unpack(read_node(node, *position, &mut sink))?;
                *position += n as u64;
                Ok(n)
            }
            _ => self.as_file().read(position, &mut sink, flags),
        }
    }

    /// [`File::poll`].
    #[inline]
    pub(crate) fn poll(&self) -> Events {
        match self {
            Self::Event(event) => event.poll(),
            Self::Pipe(end) => end.poll(),
            _ => self.as_file().poll(),
        }
    }

    /// [`Inode::metadata`] of a file that is an inode.
    #[inline(always)]
    pub(crate) fn metadata(&self) -> Option<Metadata> {
        if let Self::Node(node) = self { Some(node.metadata()) } else { None }
    }

    /// [`Inode::accessed`] of a file that is an inode; false for others.
    #[inline(always)]
    pub(crate) fn note_access(&self) -> bool {
        if let Self::Node(node) = self {
            node.accessed();
            true
        } else {
            false
        }
    }

    /// Whether the file is of a kind that may do the next two. Always the same answer.
    pub(crate) const fn moves_briefly(&self) -> bool {
        matches!(self, Self::Pipe(_) | Self::Event(_) | Self::Device(_))
    }

    /// `read`, if that is quick. `None`: nothing was done.
    #[inline(always)]
    pub(crate) fn read_briefly<S: Sink>(&self, sink: &mut S) -> Option<isize> {
        match self {
            Self::Pipe(end) => end.read_briefly(sink).map(|n| n as isize),
            Self::Event(event) => event.read_briefly(sink).map(pack),
            Self::Device(device) => device.read_briefly(sink).map(|n| n as isize),
            Self::Node(_) | Self::Epoll(_) | Self::Other(_) => None,
        }
    }

    /// `write`, as [`Handle::read_briefly`].
    #[inline(always)]
    pub(crate) fn write_briefly<S: Source>(&self, source: &mut S, flags: OpenFlags) -> Option<isize> {
        let n = match self {
            Self::Pipe(end) => end.write_briefly(source, flags),
            Self::Event(event) => event.write_briefly(source),
            Self::Device(device) => device.write_briefly(source.remaining()),
            Self::Node(_) | Self::Epoll(_) | Self::Other(_) => None,
        };
        n.map(|n| n as isize)
    }

    /// [`Node::stat_briefly`] of a file in memory.
    #[inline(always)]
    pub(crate) fn stat_briefly<R>(&self, tell: impl FnOnce(&Metadata, u64, u64) -> R) -> Option<R> {
        if let Self::Node(node) = self { node.stat_briefly(tell) } else { None }
    }

    /// [`File::poll`], if the answer is at hand.
    #[inline(always)]
    pub(crate) fn poll_briefly(&self) -> Option<Events> {
        match self {
            Self::Event(event) => Some(event.poll_briefly()),
            Self::Pipe(end) => end.poll_briefly(),
            _ => None,
        }
    }

    /// The epoll file, if it is one.
    #[inline]
    pub(crate) fn epoll(&self) -> Option<&Epoll> {
        if let Self::Epoll(epoll) = self { Some(epoll) } else { None }
    }
}

/// A count, or the negated errno: what fits into a register. Each kind has a function of its own, so that it need not keep what the others
/// need in registers.
#[inline(always)]
fn pack(result: Result<usize>) -> isize {
    match result {
        Ok(count) => count as isize,
        Err(error) => error.to_ret(),
    }
}

#[inline(always)]
fn unpack(packed: isize) -> Result<usize> {
    if packed >= 0 { Ok(packed as usize) } else { Err(Errno(packed.unsigned_abs() as u16)) }
}

#[inline(never)]
fn read_pipe<S: Sink>(end: &PipeEnd, sink: &mut S, flags: OpenFlags) -> isize {
    pack(end.read_to(sink, flags))
}

#[inline(never)]
fn write_pipe<S: Source>(end: &PipeEnd, source: &mut S, flags: OpenFlags) -> isize {
    pack(end.write_from(source, flags))
}

#[inline(never)]
fn read_event<S: Sink>(event: &EventFd, sink: &mut S, flags: OpenFlags) -> isize {
    pack(event.read_to(sink, flags))
}

#[inline(never)]
fn write_event<S: Source>(event: &EventFd, source: &mut S, flags: OpenFlags) -> isize {
    pack(event.write_from(source, flags))
}

#[inline(never)]
fn read_device<S: Sink>(device: &Device, sink: &mut S) -> isize {
    pack(device.read_to(sink))
}

#[inline(never)]
fn read_node<S: Sink>(node: &Node, position: u64, sink: &mut S) -> isize {
    pack(node.read_to(position, sink))
}

/// The handle of a file that is a `T`.
fn known<T: File>(file: Arc<dyn File>, handle: fn(Arc<T>) -> Handle) -> Handle {
    let any: Arc<dyn Any + Send + Sync> = file;
    handle(any.downcast().expect("the caller has looked"))
}
