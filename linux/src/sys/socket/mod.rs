//! Sockets: making, naming and connecting them.
//!
//! | file | calls |
//! |---|---|
//! | this one | socket, socketpair, bind, listen, accept, connect, shutdown, getsockname, getpeername |
//! | `message.rs` | sendto, recvfrom, sendmsg, recvmsg, sendmmsg, recvmmsg |
//! | `options.rs` | getsockopt, setsockopt |
//!
//! What they do is in the `socket` crate; these functions turn registers into its terms. [`create`] is the table of address families.

mod message;
mod options;

pub use message::*;
pub use options::*;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_abi::Errno;
use linux_abi::raw;
use socket::unix::{Domain, Identity, UnixSocket};
use socket::{AF_UNIX, Kind, Paths, Shutdown, Socket, SocketFile, Ucred};
use vfs::anon::AnonInode;
use vfs::types::SOCKFS_MAGIC;
use vfs::walk::Follow;
use vfs::{Access, FileKind, Inode, Location, Metadata, OpenFile, OpenFlags};

use crate::ctx::{Ctx, SysResult};
use crate::entry::with_task;
use crate::fdtable::FileRef;
use crate::sys::file::{install, install_pair, new_ino, with_caller};
use crate::user_ptr::{self, UserPtr};

const SOCK_RAW: u32 = 3;
/// Families and kinds end here, as on Linux.
const AF_MAX: u32 = 46;
const SOCK_MAX: u32 = 11;
/// Flags in the kind.
const KIND_FLAGS: u32 = raw::O_CLOEXEC | raw::O_NONBLOCK;
const KIND_MASK: u32 = 0xf;
/// Bytes of `struct sockaddr_storage`: no address is longer.
const ADDRESS_MAX: usize = 128;

/// Local sockets.
pub(crate) static UNIX: Domain = Domain::new(identity);

/// Who the calling process is to its peers.
fn identity() -> Identity {
    let caller = with_task(|task| {
        let (pid, ids) = (task.process().pid(), task.cred());
        Identity {
            effective: Ucred { pid, uid: ids.euid, gid: ids.egid },
            real: Ucred { pid, uid: ids.ruid, gid: ids.rgid },
            groups: ids.groups.clone(),
        }
    });
    caller.unwrap_or(Identity { effective: Ucred::UNKNOWN, real: Ucred::UNKNOWN, groups: Vec::new() })
}

/// The caller's file tree, where local sockets have names.
struct Tree<'a, 'c>(&'a Ctx<'c>);

impl Paths for Tree<'_, '_> {
    fn make(&self, path: &[u8], mode: u16) -> Result<Arc<dyn Inode>, Errno> {
        let make = |context: vfs::ops::Context<'_>, cwd: &Location| context.make(cwd, path, FileKind::Socket, mode, 0);
        with_caller(self.0, make).map(|place| place.inode().clone())
    }

    fn find(&self, path: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        with_caller(self.0, |context, cwd| {
            let place = context.lookup(cwd, path, Follow::Yes)?;
            context.check(&place, Access::WRITE)?;
            Ok(place.inode().clone())
        })
    }
}

/// The kind that a number names for local sockets; a raw one is a datagram's, as on Linux.
fn unix_kind(number: u32) -> Result<Kind, Errno> {
    Ok(match number {
        n if n == Kind::Stream.number() => Kind::Stream,
        n if n == Kind::Datagram.number() || n == SOCK_RAW => Kind::Datagram,
        n if n == Kind::SeqPacket.number() => Kind::SeqPacket,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    })
}

/// Splits the kind of a new socket from its flags.
fn kind_and_flags(kind: u32) -> Result<(u32, OpenFlags), Errno> {
    let (number, flags) = (kind & KIND_MASK, kind & !KIND_MASK);
    if flags & !KIND_FLAGS != 0 || number >= SOCK_MAX {
        return Err(Errno::EINVAL);
    }
    Ok((number, OpenFlags::from_bits_retain(flags)))
}

/// Fails for families that are not there. Programs go on without them; the log says once what they did not get.
fn require_family(family: u32) -> Result<(), Errno> {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    if family == u32::from(AF_UNIX) {
        return Ok(());
    }
    if family < AF_MAX && SEEN.fetch_or(1 << family, Ordering::Relaxed) & 1 << family == 0 {
        log::info!("sockets of address family {family} are not there (no network yet): EAFNOSUPPORT");
    }
    Err(Errno::EAFNOSUPPORT)
}

/// A new socket: the table of families.
fn create(family: u32, kind: u32, protocol: u32) -> Result<Arc<dyn Socket>, Errno> {
    require_family(family)?;
    if protocol != 0 && protocol != u32::from(AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok(UnixSocket::new(&UNIX, unix_kind(kind)?))
}

/// The open file of `socket`. `flags` may hold `O_NONBLOCK`.
fn open(ctx: &Ctx<'_>, socket: Arc<dyn Socket>, flags: OpenFlags) -> Arc<OpenFile> {
    let ino = new_ino();
    let credentials = ctx.cred().for_files().clone();
    let metadata =
        Metadata { uid: credentials.uid, gid: credentials.gid, ..Metadata::new(8, ino, FileKind::Socket, 0o777) };
    let inode = AnonInode::new(metadata, SOCKFS_MAGIC, None);
    OpenFile::new(SocketFile::new(socket), Location::nameless(inode, &format!("socket:[{ino}]")), flags | OpenFlags::RDWR)
}

/// The open file `fd`, and the socket behind it.
fn get<'a>(ctx: &Ctx<'a>, fd: i32) -> Result<FileRef<'a>, Errno> {
    let file = ctx.files().find(fd)?;
    file.require_open()?;
    socket_of(&file)?;
    Ok(file)
}

fn socket_of(file: &OpenFile) -> Result<&dyn Socket, Errno> {
    file.downcast::<SocketFile>().map(SocketFile::socket).ok_or(Errno::ENOTSOCK)
}

/// `socket`.
///
/// # Errors
/// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EINVAL`, `EMFILE`.
pub fn socket(ctx: &Ctx<'_>, family: u32, kind: u32, protocol: u32) -> SysResult {
    let (kind, flags) = kind_and_flags(kind)?;
    let socket = create(family, kind, protocol)?;
    install(ctx, open(ctx, socket, flags), flags)
}

/// `socketpair`.
///
/// # Errors
/// Those of [`socket`]; `EFAULT`.
pub fn socketpair(ctx: &Ctx<'_>, family: u32, kind: u32, protocol: u32, fds: UserPtr<[i32; 2]>) -> SysResult {
    let (kind, flags) = kind_and_flags(kind)?;
    require_family(family)?;
    if protocol != 0 && protocol != u32::from(AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let pair = UnixSocket::pair(&UNIX, unix_kind(kind)?);
    install_pair(ctx, pair.map(|socket| open(ctx, socket, flags)), flags, fds)
}

/// An address that the program gives.
fn read_address(address: UserPtr<u8>, len: u32) -> Result<Vec<u8>, Errno> {
    if len as usize > ADDRESS_MAX {
        return Err(Errno::EINVAL);
    }
    address.read_vec(len as usize)
}

/// Gives the program an address, or as much of it as it has room for; `len` says how much that is, and becomes the full length.
fn write_address(address: &[u8], to: UserPtr<u8>, len: UserPtr<u32>) -> Result<(), Errno> {
    let room = i32::try_from(len.read()?).map_err(|_| Errno::EINVAL)? as usize;
    user_ptr::copy_out(to.address(), &address[..address.len().min(room)])?;
    len.write(&(address.len() as u32))
}

/// `bind`.
///
/// # Errors
/// Those of `bind(2)`.
pub fn bind(ctx: &Ctx<'_>, fd: i32, address: UserPtr<u8>, len: u32) -> SysResult {
    let file = get(ctx, fd)?;
    let address = read_address(address, len)?;
    socket_of(&file)?.bind(&address, &Tree(ctx)).map(|()| 0)
}

/// `listen`.
///
/// # Errors
/// Those of `listen(2)`.
pub fn listen(ctx: &Ctx<'_>, fd: i32, backlog: u32) -> SysResult {
    let file = get(ctx, fd)?;
    socket_of(&file)?.listen(backlog as usize).map(|()| 0)
}

/// `accept`.
///
/// # Errors
/// Those of `accept(2)`.
pub fn accept(ctx: &Ctx<'_>, fd: i32, address: UserPtr<u8>, len: UserPtr<u32>) -> SysResult {
    accept4(ctx, fd, address, len, 0)
}

/// `accept4`.
///
/// # Errors
/// Those of `accept(2)`.
pub fn accept4(ctx: &Ctx<'_>, fd: i32, address: UserPtr<u8>, len: UserPtr<u32>, flags: u32) -> SysResult {
    if flags & !KIND_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let file = get(ctx, fd)?;
    let accepted = socket_of(&file)?.accept(file.flags())?;
    let flags = OpenFlags::from_bits_retain(flags);
    // The address first: a descriptor that others can see is not taken back.
    let peer = if address.is_null() { None } else { Some(accepted.peer_name()) };
    let opened = open(ctx, accepted, flags);
    if let Some(peer) = peer {
        // Whoever has closed the connection meanwhile: Linux gives up, too.
        write_address(&peer.map_err(|_| Errno::ECONNABORTED)?, address, len)?;
    }
    install(ctx, opened, flags)
}

/// `connect`.
///
/// # Errors
/// Those of `connect(2)`.
pub fn connect(ctx: &Ctx<'_>, fd: i32, address: UserPtr<u8>, len: u32) -> SysResult {
    let file = get(ctx, fd)?;
    let address = read_address(address, len)?;
    socket_of(&file)?.connect(&address, &Tree(ctx), file.flags()).map(|()| 0)
}

/// `shutdown`.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EINVAL`.
pub fn shutdown(ctx: &Ctx<'_>, fd: i32, how: u32) -> SysResult {
    let file = get(ctx, fd)?;
    let how = match how {
        0 => Shutdown::Read,
        1 => Shutdown::Write,
        2 => Shutdown::Both,
        _ => return Err(Errno::EINVAL),
    };
    socket_of(&file)?.shutdown(how).map(|()| 0)
}

/// `getsockname`.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`, `EINVAL`.
pub fn getsockname(ctx: &Ctx<'_>, fd: i32, address: UserPtr<u8>, len: UserPtr<u32>) -> SysResult {
    let file = get(ctx, fd)?;
    write_address(&socket_of(&file)?.name(), address, len).map(|()| 0)
}

/// `getpeername`.
///
/// # Errors
/// As [`getsockname`]; `ENOTCONN`.
pub fn getpeername(ctx: &Ctx<'_>, fd: i32, address: UserPtr<u8>, len: UserPtr<u32>) -> SysResult {
    let file = get(ctx, fd)?;
    write_address(&socket_of(&file)?.peer_name()?, address, len).map(|()| 0)
}
