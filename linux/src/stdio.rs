//! The program's first three descriptors: streams to and from the host.
//!
//! The command line's `stdio=` has a letter for each: `t` terminal, `p` pipe, `f` file, `n` closed.

use alloc::sync::Arc;

use drivers::virtio_console::{Port, PortError, Wait};
use kernel::devices;
use linux_abi::Errno;
use sync::WaitQueue;
use vfs::channel::{Blocking, Channel, ChannelFile};
use vfs::{OpenFile, OpenFlags, anon};

use crate::fdtable::{CloseOnExec, FdTable};

/// A port of the host's console device as a channel of the file system.
pub struct HostPort(Port);

impl HostPort {
    /// The host's port `name`; `None`, with a log line, when the host offers none.
    #[must_use]
    pub fn open(name: &str) -> Option<Arc<Self>> {
        match devices::port(name) {
            Ok(port) => Some(Arc::new(Self(port))),
            Err(error) => {
                log::warn!("no {name} port: {error}");
                None
            }
        }
    }
}

fn wait(blocking: Blocking) -> Wait {
    match blocking {
        Blocking::Yes => Wait::INTERRUPTIBLE,
        Blocking::Uninterruptible => Wait::FOREVER,
        Blocking::No => Wait::No,
    }
}

fn errno(error: PortError) -> Errno {
    match error {
        PortError::WouldBlock | PortError::TimedOut => Errno::EAGAIN,
        PortError::Interrupted => Errno::ERESTARTSYS,
        PortError::Closed => Errno::EPIPE,
        PortError::Device(_) => Errno::EIO,
    }
}

impl Channel for HostPort {
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize, Errno> {
        self.0.read(buffer, wait(blocking)).map_err(errno)
    }

    fn write(&self, data: &[u8], blocking: Blocking) -> Result<usize, Errno> {
        self.0.write(data, wait(blocking)).map_err(errno)
    }

    fn is_readable(&self) -> bool {
        self.0.is_readable()
    }

    fn is_writable(&self) -> bool {
        self.0.is_writable()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn available(&self) -> usize {
        self.0.available()
    }

    fn read_queue(&self) -> &WaitQueue {
        self.0.read_queue()
    }

    fn write_queue(&self) -> &WaitQueue {
        self.0.write_queue()
    }
}

const NAMES: [(&str, OpenFlags); 3] =
    [("stdin", OpenFlags::empty()), ("stdout", OpenFlags::WRONLY), ("stderr", OpenFlags::WRONLY)];

/// A descriptor over a host stream.
fn stream(name: &'static str, number: u64, flags: OpenFlags) -> Option<Arc<OpenFile>> {
    let port = HostPort::open(name)?;
    Some(anon::open_anonymous(ChannelFile::new(port, flags), "pipe:", number, flags))
}

/// Opens descriptors 0, 1 and 2 as `kinds` says.
///
/// # Errors
/// `ENOMEM`.
pub fn open(files: &FdTable, kinds: &str) -> Result<(), Errno> {
    let kinds = kinds.bytes().chain(core::iter::repeat(b'p'));
    for (number, ((name, flags), kind)) in NAMES.into_iter().zip(kinds).enumerate() {
        if kind == b'n' {
            continue;
        }
        if let Some(file) = stream(name, number as u64 + 1, flags) {
            files.replace(number as i32, crate::fdtable::NR_OPEN, file, CloseOnExec::No)?;
        }
    }
    Ok(())
}
