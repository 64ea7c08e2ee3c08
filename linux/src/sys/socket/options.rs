//! Options of sockets.

use linux_abi::Errno;
use socket::{Socket, Ucred, Value};
use socket::options::SOL_SOCKET;
use socket::options::name::{SO_MARK, SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD, SO_RCVBUFFORCE, SO_SNDBUFFORCE};

use super::{get, socket_of};
use crate::ctx::{Ctx, SysResult};
use crate::process::find_process;
use crate::sys::pidfd;
use crate::user_ptr::{self, UserPtr};

/// No option that can be set is longer.
const VALUE_MAX: usize = 256;

/// `getsockopt`.
///
/// # Errors
/// `ENOTSOCK`, `ENOPROTOOPT`, `EOPNOTSUPP` for the levels of other families, `EFAULT`, `EINVAL`.
pub fn getsockopt(ctx: &Ctx<'_>, fd: i32, level: u32, option: u32, value: UserPtr<u8>, len: UserPtr<u32>) -> SysResult {
    let file = get(ctx, fd)?;
    let room = i32::try_from(len.read()?).map_err(|_| Errno::EINVAL)? as usize;
    let bytes = if level == SOL_SOCKET && option == SO_PEERPIDFD {
        peer_pidfd(ctx, socket_of(&file)?, room)?.to_le_bytes().to_vec()
    } else {
        socket_of(&file)?.option(level, option).map(Value::into_bytes)?
    };
    if option == SO_PEERGROUPS && room < bytes.len() {
        len.write(&(bytes.len() as u32))?;
        return Err(Errno::ERANGE);
    }
    let stored = &bytes[..bytes.len().min(room)];
    user_ptr::copy_out(value.address(), stored)?;
    len.write(&(stored.len() as u32)).map(|()| 0)
}

/// `SO_PEERPIDFD`: a descriptor for the process at the other end.
fn peer_pidfd(ctx: &Ctx<'_>, socket: &dyn Socket, room: usize) -> Result<i32, Errno> {
    let bytes = socket.option(SOL_SOCKET, SO_PEERCRED)?.into_bytes();
    let peer = Ucred::from_bytes(bytes.try_into().map_err(|_| Errno::EINVAL)?);
    if peer == Ucred::NOBODY {
        return Err(Errno::ENODATA);
    }
    if room < size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    pidfd::install(ctx, find_process(peer.pid).ok_or(Errno::ESRCH)?, false)
}

/// `setsockopt`.
///
/// # Errors
/// `ENOTSOCK`, `ENOPROTOOPT`, `EOPNOTSUPP`, `EFAULT`, `EINVAL`, `EDOM`, `EPERM`.
pub fn setsockopt(ctx: &Ctx<'_>, fd: i32, level: u32, option: u32, value: UserPtr<u8>, len: i32) -> SysResult {
    let file = get(ctx, fd)?;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let value = value.read_vec(len.min(VALUE_MAX))?;
    let reserved = level == SOL_SOCKET && matches!(option, SO_MARK | SO_SNDBUFFORCE | SO_RCVBUFFORCE);
    if reserved && ctx.cred().euid != 0 {
        return Err(Errno::EPERM);
    }
    socket_of(&file)?.set_option(level, option, &value).map(|()| 0)
}
