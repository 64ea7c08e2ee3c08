//! The program's first three descriptors: streams to and from the host.
//!
//! The command line's `stdio=` has a letter for each: `t` terminal, `p` pipe, `f` file, `n` closed.

use alloc::format;
use alloc::sync::Arc;

use drivers::virtio_console::{Port, PortError, Wait};
use kernel::devices;
use linux_abi::Errno;
use sync::WaitQueue;
use vfs::anon::AnonInode;
use vfs::channel::{Blocking, Channel, ChannelFile};
use vfs::ops::Context;
use vfs::types::PIPEFS_MAGIC;
use vfs::walk::{Resolve, Viewer};
use vfs::{Credentials, File, FileKind, Location, Metadata, MountTable, OpenFile, OpenFlags};

use crate::fdtable::{CloseOnExec, FdTable};
use crate::sys::file::{new_ino, now};

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

/// Names of the host's streams, and how the program opens them.
const STREAMS: [(&str, OpenFlags); 3] =
    [("stdin", OpenFlags::RDONLY), ("stdout", OpenFlags::WRONLY), ("stderr", OpenFlags::WRONLY)];
/// Where the terminal is in the tree.
const TERMINAL: &[u8] = b"/dev/pts/0";

/// An open pipe that ends at a stream of the host.
fn stream(name: &'static str, flags: OpenFlags) -> Option<Arc<OpenFile>> {
    let port = HostPort::open(name)?;
    let ino = new_ino();
    let now = now();
    let metadata = Metadata { atime: now, mtime: now, ctime: now, btime: now, ..Metadata::new(0, ino, FileKind::Fifo, 0o600) };
    let again = port.clone();
    let reopen = Arc::new(move |flags| Ok(ChannelFile::new(again.clone(), flags) as Arc<dyn File>));
    let inode = AnonInode::new(metadata, PIPEFS_MAGIC, Some(reopen));
    let place = Location::nameless(inode, &format!("pipe:[{ino}]"));
    Some(OpenFile::new(ChannelFile::new(port, flags), place, flags))
}

/// The terminal, opened as a login program would.
fn terminal(mounts: &MountTable) -> Result<Arc<OpenFile>, Errno> {
    let (root, credentials) = (mounts.root(), Credentials::root());
    let context = Context { viewer: Viewer { mounts, root: &root, credentials: &credentials }, umask: 0 };
    context.open(&root, TERMINAL, OpenFlags::RDWR, 0, Resolve::empty())
}

/// Opens descriptors 0, 1 and 2 as `kinds` says. Those that are terminals share one open file, as after a login.
///
/// # Errors
/// `ENOMEM`, `ENXIO` for a terminal without a host that shows it.
pub fn open(files: &FdTable, mounts: &MountTable, kinds: &str) -> Result<(), Errno> {
    let mut shared = None;
    let kinds = kinds.bytes().chain(core::iter::repeat(b'p'));
    for (number, ((name, flags), kind)) in STREAMS.into_iter().zip(kinds).enumerate() {
        let file = match (kind, &shared) {
            (b'n', _) => None,
            (b't', None) => {
                let file = terminal(mounts)?;
                shared = Some(file.clone());
                Some(file)
            }
            (b't', Some(file)) => Some(file.clone()),
            _ => stream(name, flags),
        };
        if let Some(file) = file {
            files.replace(number as i32, crate::fdtable::NR_OPEN, file, CloseOnExec::No)?;
        }
    }
    Ok(())
}
