//! Connected pairs of local stream sockets. There is no network yet: `socket` knows no address family.

use linux_abi::Errno;
use linux_abi::raw;
use linux_abi::signal::Signal;
use vfs::socketpair::{self, PairEnd, Shutdown};
use vfs::{OpenFile, OpenFlags};

use crate::ctx::{Ctx, SysResult};
use crate::sys::file::{install_pair, new_ino};
use crate::user_ptr::{UserIovecs, UserPtr, UserSlice};

const AF_UNIX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_NOSIGNAL: u32 = 0x4000;
/// What a stream without urgent data may ignore: `MSG_CMSG_CLOEXEC`, `MSG_MORE`, `MSG_EOR`.
const MSG_IGNORED: u32 = 0x4000_8080;

/// `socketpair`.
///
/// # Errors
/// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT` for anything but local streams, `EMFILE`, `EFAULT`.
pub fn socketpair(ctx: &Ctx<'_>, family: u32, kind: u32, protocol: u32, fds: UserPtr<[i32; 2]>) -> SysResult {
    let flags = OpenFlags::from_bits_retain(kind & (raw::O_CLOEXEC | raw::O_NONBLOCK));
    if family != AF_UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if kind & !flags.bits() != SOCK_STREAM {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if protocol > 1 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let ends = socketpair::create([new_ino(), new_ino()], flags.difference(OpenFlags::CLOEXEC));
    install_pair(ctx, ends, flags, fds)
}

/// `socket`.
///
/// # Errors
/// `EAFNOSUPPORT` always.
pub fn socket(_ctx: &Ctx<'_>, _family: u32, _kind: u32, _protocol: u32) -> SysResult {
    Err(Errno::EAFNOSUPPORT)
}

/// Fails unless `file` is an end of a socket pair.
fn require_socket(file: &OpenFile) -> Result<&PairEnd, Errno> {
    file.downcast::<PairEnd>().ok_or(Errno::ENOTSOCK)
}

fn message_flags(file: &OpenFile, flags: u32) -> Result<OpenFlags, Errno> {
    if flags & !(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_IGNORED) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let nonblock = if flags & MSG_DONTWAIT != 0 { OpenFlags::NONBLOCK } else { OpenFlags::empty() };
    Ok(file.flags() | nonblock)
}

/// `sendto`, for connected sockets.
///
/// # Errors
/// Those of `send(2)`; `EISCONN` with an address, `EOPNOTSUPP` for flags that are not supported.
pub fn sendto(
    ctx: &Ctx<'_>,
    fd: i32,
    buffer: UserPtr<u8>,
    count: usize,
    flags: u32,
    address: UserPtr<u8>,
    _address_len: u32,
) -> SysResult {
    let file = ctx.process().files.get(fd)?;
    require_socket(&file)?;
    let open_flags = message_flags(&file, flags)?;
    if !address.is_null() {
        return Err(Errno::EISCONN);
    }
    let result = file.file().write(&mut 0, &mut UserSlice::new(buffer, count)?, open_flags);
    if result == Err(Errno::EPIPE) && flags & MSG_NOSIGNAL == 0 {
        crate::signal::raise(ctx.task(), Signal::SIGPIPE);
    }
    result
}

/// `recvfrom`; the peers of a pair have no address.
///
/// # Errors
/// Those of `recv(2)`; `EOPNOTSUPP` for flags that are not supported.
pub fn recvfrom(
    ctx: &Ctx<'_>,
    fd: i32,
    buffer: UserPtr<u8>,
    count: usize,
    flags: u32,
    address: UserPtr<u8>,
    address_len: UserPtr<u32>,
) -> SysResult {
    let file = ctx.process().files.get(fd)?;
    require_socket(&file)?;
    let open_flags = message_flags(&file, flags)?;
    let n = file.file().read(&mut 0, &mut UserSlice::new(buffer, count)?, open_flags)?;
    if !address.is_null() {
        address_len.write(&0)?;
    }
    Ok(n)
}

/// `struct msghdr` as 64-bit words: name, its length, vectors, their number, control data, its length, flags.
type MessageHeader = [u64; 7];

/// `sendmsg`, for connected sockets.
///
/// # Errors
/// Those of `send(2)`; `EISCONN` with an address, `EOPNOTSUPP` with control data.
pub fn sendmsg(ctx: &Ctx<'_>, fd: i32, header: UserPtr<MessageHeader>, flags: u32) -> SysResult {
    let file = ctx.process().files.get(fd)?;
    require_socket(&file)?;
    let open_flags = message_flags(&file, flags)?;
    let [name, _, vectors, count, _, control_len, _] = header.read()?;
    if control_len != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if name != 0 {
        return Err(Errno::EISCONN);
    }
    let mut source = UserIovecs::read(UserPtr::new(vectors), count as usize)?;
    let result = file.file().write(&mut 0, &mut source, open_flags);
    if result == Err(Errno::EPIPE) && flags & MSG_NOSIGNAL == 0 {
        crate::signal::raise(ctx.task(), Signal::SIGPIPE);
    }
    result
}

/// `recvmsg`: without address and control data.
///
/// # Errors
/// Those of `recv(2)`.
pub fn recvmsg(ctx: &Ctx<'_>, fd: i32, header: UserPtr<MessageHeader>, flags: u32) -> SysResult {
    let file = ctx.process().files.get(fd)?;
    require_socket(&file)?;
    let open_flags = message_flags(&file, flags)?;
    let [name, _, vectors, count, control, _, _] = header.read()?;
    let mut sink = UserIovecs::read(UserPtr::new(vectors), count as usize)?;
    let n = file.file().read(&mut 0, &mut sink, open_flags)?;
    header.write(&[name, 0, vectors, count, control, 0, 0])?;
    Ok(n)
}

/// `shutdown`.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EINVAL`.
pub fn shutdown(ctx: &Ctx<'_>, fd: i32, how: u32) -> SysResult {
    let file = ctx.process().files.get(fd)?;
    let end = require_socket(&file)?;
    end.shutdown(match how {
        0 => Shutdown::Read,
        1 => Shutdown::Write,
        2 => Shutdown::Both,
        _ => return Err(Errno::EINVAL),
    });
    Ok(0)
}

/// `getsockopt`: the options that programs ask of any descriptor to learn whether it is a socket.
///
/// # Errors
/// `ENOTSOCK`, `ENOPROTOOPT`, `EFAULT`.
pub fn getsockopt(
    ctx: &Ctx<'_>,
    fd: i32,
    level: u32,
    option: u32,
    value: UserPtr<i32>,
    len: UserPtr<u32>,
) -> SysResult {
    const SOL_SOCKET: u32 = 1;
    const SO_TYPE: u32 = 3;
    const SO_ERROR: u32 = 4;
    const SO_DOMAIN: u32 = 39;
    let file = ctx.process().files.get(fd)?;
    require_socket(&file)?;
    let result = match (level, option) {
        (SOL_SOCKET, SO_TYPE) => SOCK_STREAM as i32,
        (SOL_SOCKET, SO_ERROR) => 0,
        (SOL_SOCKET, SO_DOMAIN) => AF_UNIX as i32,
        _ => return Err(Errno::ENOPROTOOPT),
    };
    if len.read()? < 4 {
        return Err(Errno::EINVAL);
    }
    value.write(&result)?;
    len.write(&4).map(|()| 0)
}

/// `getsockname` and `getpeername`: the ends of a pair have no name, only a family.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`.
pub fn getsockname(ctx: &Ctx<'_>, fd: i32, address: UserPtr<u16>, len: UserPtr<u32>) -> SysResult {
    let file = ctx.process().files.get(fd)?;
    require_socket(&file)?;
    if len.read()? >= 2 {
        address.write(&(AF_UNIX as u16))?;
    }
    len.write(&2).map(|()| 0)
}
