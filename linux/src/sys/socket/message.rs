//! Sending and receiving, with addresses and control messages.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_abi::Errno;
use linux_abi::fs::{IOV_MAX, Iovec};
use linux_abi::signal::Signal;
use linux_abi::time::Timespec;
use socket::control::{self, MAX_CONTROL, Writer};
use socket::{MessageFlags, Outgoing, Received, Socket, Ucred};
use vfs::io::{Sink, Source};
use vfs::{OpenFile, OpenFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{ADDRESS_MAX, Tree, UNIX, get, read_address, socket_of, write_address};
use crate::ctx::{Ctx, SysResult};
use crate::fdtable::CloseOnExec;
use crate::process::find_process;
use crate::sys::file::limit;
use crate::user_ptr::{self, UserIovecs, UserPtr, UserSlice};

/// `struct msghdr`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct MessageHeader {
    name: u64,
    name_len: u32,
    pad: u32,
    vectors: u64,
    vector_count: u64,
    control: u64,
    control_len: u64,
    flags: u32,
    pad2: u32,
}

/// Offsets of what `recvmsg` changes.
const NAME_LEN: u64 = 8;
const CONTROL_LEN: u64 = 40;
const FLAGS: u64 = 48;
/// `struct mmsghdr`: a `msghdr`, and what was sent or received.
const MANY_STRIDE: u64 = 64;
const MANY_LEN: u64 = 56;
/// Most messages one call sends or receives.
const MANY_MAX: u32 = 1024;

/// A send to a closed connection raises `SIGPIPE` before it fails.
fn sent(ctx: &Ctx<'_>, socket: &dyn Socket, flags: MessageFlags, result: SysResult) -> SysResult {
    if result == Err(Errno::EPIPE) && !flags.contains(MessageFlags::NOSIGNAL) && socket.raises_sigpipe() {
        crate::signal::raise(ctx.task(), Signal::SIGPIPE);
    }
    result
}

/// `sendto`.
///
/// # Errors
/// Those of `send(2)`.
pub fn sendto(
    ctx: &Ctx<'_>,
    fd: i32,
    buffer: UserPtr<u8>,
    count: usize,
    flags: u32,
    address: UserPtr<u8>,
    address_len: u32,
) -> SysResult {
    let mut data = UserSlice::new(buffer, count)?;
    let file = get(ctx, fd)?;
    let to = if address.is_null() { None } else { Some(read_address(address, address_len)?) };
    let flags = MessageFlags::from_bits_retain(flags);
    let message = Outgoing { to: to.as_deref(), flags, ..Outgoing::plain(&mut data) };
    send(ctx, &file, message)
}

fn send(ctx: &Ctx<'_>, file: &OpenFile, message: Outgoing<'_>) -> SysResult {
    let (socket, flags) = (socket_of(file)?, message.flags);
    let result = socket.send(message, &Tree(ctx), file.flags());
    sent(ctx, socket, flags, result)
}

/// `recvfrom`.
///
/// # Errors
/// Those of `recv(2)`.
pub fn recvfrom(
    ctx: &Ctx<'_>,
    fd: i32,
    buffer: UserPtr<u8>,
    count: usize,
    flags: u32,
    address: UserPtr<u8>,
    address_len: UserPtr<u32>,
) -> SysResult {
    let mut data = UserSlice::new(buffer, count)?;
    let file = get(ctx, fd)?;
    let received = socket_of(&file)?.receive(&mut data, MessageFlags::from_bits_retain(flags), file.flags())?;
    if !address.is_null() {
        write_address(received.from.as_deref().unwrap_or_default(), address, address_len)?;
    }
    Ok(received.len)
}

/// `sendmsg`.
///
/// # Errors
/// Those of `send(2)`.
pub fn sendmsg(ctx: &Ctx<'_>, fd: i32, header: UserPtr<MessageHeader>, flags: u32) -> SysResult {
    let file = get(ctx, fd)?;
    send_message(ctx, &file, header, MessageFlags::from_bits_retain(flags))
}

fn vectors(header: &MessageHeader) -> Result<UserIovecs, Errno> {
    let count = usize::try_from(header.vector_count).unwrap_or(usize::MAX);
    if count > IOV_MAX {
        return Err(Errno::EMSGSIZE);
    }
    UserIovecs::read(UserPtr::<Iovec>::new(header.vectors), count)
}

fn send_message(ctx: &Ctx<'_>, file: &OpenFile, header: UserPtr<MessageHeader>, flags: MessageFlags) -> SysResult {
    let header = header.read()?;
    let to = if header.name == 0 || header.name_len == 0 {
        None
    } else {
        let len = usize::try_from(header.name_len as i32).map_err(|_| Errno::EINVAL)?;
        Some(UserPtr::<u8>::new(header.name).read_vec(len.min(ADDRESS_MAX))?)
    };
    let mut data = vectors(&header)?;
    let (files, credentials) = read_control(ctx, &header)?;
    let source: &mut dyn Source = &mut data;
    send(ctx, file, Outgoing { data: source, to: to.as_deref(), files, credentials, flags })
}

/// What goes along with a message.
fn read_control(ctx: &Ctx<'_>, header: &MessageHeader) -> Result<(Vec<Arc<OpenFile>>, Option<Ucred>), Errno> {
    if header.control == 0 || header.control_len == 0 {
        return Ok((Vec::new(), None));
    }
    let len = usize::try_from(header.control_len).ok().filter(|len| *len <= MAX_CONTROL).ok_or(Errno::ENOBUFS)?;
    let request = control::parse(&UserPtr::<u8>::new(header.control).read_vec(len)?)?;
    if let Some(stated) = request.credentials {
        check_credentials(ctx, stated)?;
    }
    let files: Vec<_> = request.rights.iter().map(|fd| ctx.files().get(*fd)).collect::<Result<_, _>>()?;
    if !files.is_empty() && UNIX.files_in_flight() > limit(ctx) && ctx.cred().euid != 0 {
        return Err(Errno::ETOOMANYREFS);
    }
    Ok((files, request.credentials))
}

/// Only root may say that it is somebody else.
fn check_credentials(ctx: &Ctx<'_>, stated: Ucred) -> Result<(), Errno> {
    let ids = ctx.cred();
    let privileged = ids.euid == 0;
    if stated.pid != ctx.process().pid() {
        if !privileged {
            return Err(Errno::EPERM);
        }
        find_process(stated.pid).ok_or(Errno::ESRCH)?;
    }
    let user = [ids.ruid, ids.euid, ids.suid].contains(&stated.uid);
    let group = [ids.rgid, ids.egid, ids.sgid].contains(&stated.gid);
    if stated.uid == u32::MAX || stated.gid == u32::MAX {
        return Err(Errno::EINVAL);
    }
    if privileged || user && group { Ok(()) } else { Err(Errno::EPERM) }
}

/// `recvmsg`.
///
/// # Errors
/// Those of `recv(2)`.
pub fn recvmsg(ctx: &Ctx<'_>, fd: i32, header: UserPtr<MessageHeader>, flags: u32) -> SysResult {
    let file = get(ctx, fd)?;
    receive_message(ctx, &file, header, MessageFlags::from_bits_retain(flags), file.flags())
}

fn receive_message(
    ctx: &Ctx<'_>,
    file: &OpenFile,
    at: UserPtr<MessageHeader>,
    flags: MessageFlags,
    open_flags: OpenFlags,
) -> SysResult {
    let header = at.read()?;
    if header.name != 0 && (header.name_len as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let mut data = vectors(&header)?;
    let sink: &mut dyn Sink = &mut data;
    let mut received = socket_of(file)?.receive(sink, flags, open_flags)?;
    let field = |offset: u64| at.address().wrapping_add(offset);
    if header.name != 0 {
        let from = received.from.as_deref().unwrap_or_default();
        user_ptr::copy_out(header.name, &from[..from.len().min(header.name_len as usize)])?;
        UserPtr::<u32>::new(field(NAME_LEN)).write(&(from.len() as u32))?;
    }
    let mut shown = received.flags | flags & MessageFlags::CMSG_CLOEXEC;
    let (control, truncated) = write_control(ctx, &header, &mut received, flags);
    shown.set(MessageFlags::CTRUNC, truncated);
    user_ptr::copy_out(header.control, &control)?;
    UserPtr::<u32>::new(field(FLAGS)).write(&shown.bits())?;
    UserPtr::<u64>::new(field(CONTROL_LEN)).write(&(control.len() as u64))?;
    Ok(received.len)
}

/// Makes control messages of what came along; files become descriptors. Files that find no place are closed.
fn write_control(
    ctx: &Ctx<'_>,
    header: &MessageHeader,
    received: &mut Received,
    flags: MessageFlags,
) -> (Vec<u8>, bool) {
    let room = if header.control == 0 { 0 } else { header.control_len as usize };
    let mut writer = Writer::new(room);
    if let Some(credentials) = received.credentials {
        writer.credentials(credentials);
    }
    let files = core::mem::take(&mut received.files);
    if files.is_empty() {
        return writer.finish();
    }
    let close = CloseOnExec::when(flags.contains(MessageFlags::CMSG_CLOEXEC));
    let (count, fitting) = (files.len(), writer.rights_room());
    let (limit, table) = (limit(ctx), ctx.files());
    let install = |file: Arc<OpenFile>| table.insert(limit, file, close).ok();
    let numbers: Vec<i32> = files.into_iter().take(fitting).map_while(install).collect();
    if numbers.len() < count {
        writer.truncate();
    }
    if !numbers.is_empty() {
        writer.rights(&numbers);
    }
    writer.finish()
}

/// The header of message `index`.
fn nth(headers: UserPtr<MessageHeader>, index: u32) -> UserPtr<MessageHeader> {
    UserPtr::new(headers.address().wrapping_add(u64::from(index) * MANY_STRIDE))
}

/// Notes how long message `index` was.
fn note_len(headers: UserPtr<MessageHeader>, index: u32, len: usize) -> Result<(), Errno> {
    UserPtr::<u32>::new(nth(headers, index).address().wrapping_add(MANY_LEN)).write(&(len as u32))
}

/// `sendmmsg`: how many messages were sent; the error counts if none was.
///
/// # Errors
/// Those of `send(2)`.
pub fn sendmmsg(ctx: &Ctx<'_>, fd: i32, headers: UserPtr<MessageHeader>, count: u32, flags: u32) -> SysResult {
    let file = get(ctx, fd)?;
    let flags = MessageFlags::from_bits_retain(flags);
    let one = |index| {
        let len = send_message(ctx, &file, nth(headers, index), flags)?;
        note_len(headers, index, len)
    };
    for index in 0..count.min(MANY_MAX) {
        match one(index) {
            Ok(()) => {}
            Err(error) if index == 0 => return Err(error),
            Err(_) => return Ok(index as usize),
        }
    }
    Ok(count.min(MANY_MAX) as usize)
}

/// `recvmmsg`. As on Linux, the timeout is looked at after each message only.
///
/// # Errors
/// Those of `recv(2)`.
pub fn recvmmsg(
    ctx: &Ctx<'_>,
    fd: i32,
    headers: UserPtr<MessageHeader>,
    count: u32,
    flags: u32,
    timeout: UserPtr<Timespec>,
) -> SysResult {
    let deadline = match timeout.non_null() {
        None => None,
        Some(timeout) => Some(sync::monotonic_ns().saturating_add(timeout.read()?.to_ns().ok_or(Errno::EINVAL)?)),
    };
    let file = get(ctx, fd)?;
    let mut flags = MessageFlags::from_bits_retain(flags);
    let mut done = 0;
    while done < count.min(MANY_MAX) {
        let one = receive_message(ctx, &file, nth(headers, done), flags, file.flags());
        match one.and_then(|len| note_len(headers, done, len)) {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(error) => {
                // What is wrong is told by the next call.
                if !matches!(error, Errno::EAGAIN | Errno::EINTR | Errno::ERESTARTSYS) {
                    socket_of(&file)?.common().set_error(error);
                }
                break;
            }
        }
        if flags.contains(MessageFlags::WAITFORONE) {
            flags |= MessageFlags::DONTWAIT;
        }
        if deadline.is_some_and(|deadline| sync::monotonic_ns() >= deadline) {
            break;
        }
    }
    if let Some(deadline) = deadline {
        timeout.write(&Timespec::from_ns(deadline.saturating_sub(sync::monotonic_ns())))?;
    }
    Ok(done as usize)
}
