//! POSIX message queues, and /dev/mqueue, where they are listed.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use ipc::mqueue::{DEFAULT_SIZE, HARD_MAX_SIZE, MAX_QUEUES, MAX_SIZE, Notification, Queue, QueueFile, Size};
use linux_abi::signal::{SigInfo, Signal};
use linux_abi::time::Timespec;
use linux_abi::{Errno, raw};
use sync::Mutex;
use vfs::anon::AnonInode;
use vfs::file::Nonblocking;
use vfs::synth::{self, Directory, Entry};
use vfs::types::{NAME_MAX, Name};
use vfs::{Access, FileKind, Inode, Location, Metadata, OpenFile, OpenFlags};

use crate::ctx::{Ctx, SysResult};
use crate::entry::with_task;
use crate::process::find_process;
use crate::sys::file::{install, new_ino, now};
use crate::sys::time::monotonic_deadline;
use crate::user_ptr::UserPtr;

const MQUEUE_MAGIC: u64 = 0x1980_0202;
const DEV: u64 = 0x13;
const SIGEV_SIGNAL: u32 = 0;
const SIGEV_NONE: u32 = 1;
/// Signal code: a message arrived.
const SI_MESGQ: i32 = -3;

/// A queue that has a name.
struct Named {
    queue: Arc<Queue>,
    metadata: Metadata,
}

static QUEUES: Mutex<BTreeMap<Name, Named>> = Mutex::new(BTreeMap::new());

/// `struct mq_attr`: flags, most messages, most bytes of one, messages in it.
type Attributes = [i64; 8];

/// `struct sigevent`, its first two words: the value; signal and method.
type Event = [u64; 2];

fn read_name(name: UserPtr<u8>) -> Result<Vec<u8>, Errno> {
    let name = name.read_path()?;
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    if name.contains(&b'/') || name == b"." || name == b".." {
        return Err(Errno::EACCES);
    }
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(name) }
}

fn size_of_new(ctx: &Ctx<'_>, attributes: UserPtr<Attributes>) -> Result<Size, Errno> {
    let Some(attributes) = attributes.non_null() else { return Ok(DEFAULT_SIZE) };
    let [_, messages, bytes, ..] = attributes.read()?;
    let number = |value: i64| usize::try_from(value).map_err(|_| Errno::EINVAL);
    let size = Size { messages: number(messages)?, bytes: number(bytes)? };
    let privileged = ctx.cred().for_files().privileged();
    size.check(if privileged { HARD_MAX_SIZE } else { MAX_SIZE })?;
    Ok(size)
}

/// `mq_open`.
///
/// # Errors
/// Those of `mq_open(3)`.
pub fn mq_open(ctx: &Ctx<'_>, name: UserPtr<u8>, flags: u32, mode: u32, attributes: UserPtr<Attributes>) -> SysResult {
    let name = read_name(name)?;
    let flags = OpenFlags::from_bits_retain(flags);
    if flags.contains(OpenFlags::ACCESS_MODE) {
        return Err(Errno::EINVAL);
    }
    let credentials = ctx.cred().for_files().clone();
    let mut queues = QUEUES.lock();
    if let Some(named) = queues.get(name.as_slice()) {
        if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) {
            return Err(Errno::EEXIST);
        }
        let mut access = Access::empty();
        access.set(Access::READ, flags.can_read());
        access.set(Access::WRITE, flags.can_write());
        named.metadata.permissions().allow(FileKind::Regular, access, &credentials)?;
        let (queue, metadata) = (named.queue.clone(), named.metadata);
        drop(queues);
        return open(ctx, queue, metadata, &name, flags);
    }
    if !flags.contains(OpenFlags::CREAT) {
        return Err(Errno::ENOENT);
    }
    let size = size_of_new(ctx, attributes)?;
    if queues.len() >= MAX_QUEUES && !credentials.privileged() {
        return Err(Errno::ENOSPC);
    }
    let own = queues.values().filter(|named| named.metadata.uid == credentials.uid);
    let charged: u64 = own.map(|named| named.queue.size.charge()).sum();
    let limit = ctx.process().limit(raw::RLIMIT_MSGQUEUE).map_or(u64::MAX, |limit| limit.cur);
    if charged + size.charge() > limit {
        return Err(Errno::EMFILE);
    }
    let umask = ctx.fs().umask();
    let at = now();
    let metadata = Metadata {
        uid: credentials.uid,
        gid: credentials.gid,
        size: 80,
        atime: at,
        mtime: at,
        ctime: at,
        ..Metadata::new(DEV, new_ino(), FileKind::Regular, (mode & !umask & 0o777) as u16)
    };
    let queue = Queue::new(size);
    queues.insert(Box::from(name.as_slice()), Named { queue: queue.clone(), metadata });
    drop(queues);
    open(ctx, queue, metadata, &name, flags)
}

fn open(ctx: &Ctx<'_>, queue: Arc<Queue>, metadata: Metadata, name: &[u8], flags: OpenFlags) -> SysResult {
    let label = alloc::format!("/{}", String::from_utf8_lossy(name));
    let place = Location::nameless(AnonInode::new(metadata, MQUEUE_MAGIC, None), &label);
    let file = OpenFile::new(QueueFile::new(queue), place, flags & (OpenFlags::ACCESS_MODE | OpenFlags::NONBLOCK));
    // As on Linux, whatever the flags say.
    install(ctx, file, OpenFlags::CLOEXEC)
}

/// `mq_unlink`.
///
/// # Errors
/// `ENOENT`, `EACCES`, `EPERM` for another user's queue.
pub fn mq_unlink(ctx: &Ctx<'_>, name: UserPtr<u8>) -> SysResult {
    let name = read_name(name)?;
    let credentials = ctx.cred().for_files().clone();
    let mut queues = QUEUES.lock();
    let named = queues.get(name.as_slice()).ok_or(Errno::ENOENT)?;
    if !credentials.privileged() && credentials.uid != named.metadata.uid {
        return Err(Errno::EPERM);
    }
    let gone = queues.remove(name.as_slice());
    drop(queues);
    drop(gone);
    Ok(0)
}

/// The queue behind `fd`, if it was opened for `access`, and whether calls may wait.
fn queue(ctx: &Ctx<'_>, fd: i32, access: Access) -> Result<(Arc<Queue>, bool), Errno> {
    let file = ctx.files().get(fd)?;
    let queue = file.downcast::<QueueFile>().ok_or(Errno::EBADF)?.queue().clone();
    file.require(access)?;
    Ok((queue, file.flags().nonblocking()))
}

/// An absolute time of the wall clock.
fn deadline(timeout: UserPtr<Timespec>) -> Result<Option<u64>, Errno> {
    let Some(timeout) = timeout.non_null() else { return Ok(None) };
    let ns = timeout.read()?.to_ns().ok_or(Errno::EINVAL)?;
    Ok(Some(monotonic_deadline(raw::CLOCK_REALTIME, ns)))
}

/// `mq_timedsend`.
///
/// # Errors
/// Those of `mq_send(3)`.
pub fn mq_timedsend(
    ctx: &Ctx<'_>,
    fd: i32,
    text: UserPtr<u8>,
    len: usize,
    priority: u32,
    timeout: UserPtr<Timespec>,
) -> SysResult {
    let deadline = deadline(timeout)?;
    if priority >= ipc::mqueue::PRIORITIES {
        return Err(Errno::EINVAL);
    }
    let (queue, nonblocking) = queue(ctx, fd, Access::WRITE)?;
    if len > queue.size.bytes {
        return Err(Errno::EMSGSIZE);
    }
    queue.send(text.read_vec(len)?, priority, nonblocking, deadline).map(|()| 0)
}

/// `mq_timedreceive`.
///
/// # Errors
/// Those of `mq_receive(3)`.
pub fn mq_timedreceive(
    ctx: &Ctx<'_>,
    fd: i32,
    text: UserPtr<u8>,
    room: usize,
    priority: UserPtr<u32>,
    timeout: UserPtr<Timespec>,
) -> SysResult {
    let deadline = deadline(timeout)?;
    let (queue, nonblocking) = queue(ctx, fd, Access::READ)?;
    let (message, its_priority) = queue.receive(room, nonblocking, deadline)?;
    priority.write_optional(&its_priority)?;
    text.write_slice(&message)?;
    Ok(message.len())
}

/// `mq_notify`. Notification by a thread is made by the C library with a netlink socket, which there is none.
///
/// # Errors
/// `EBADF`, `EBUSY`, `EINVAL`, `EFAULT`.
pub fn mq_notify(ctx: &Ctx<'_>, fd: i32, event: UserPtr<Event>) -> SysResult {
    let pid = ctx.process().pid();
    let event = event.non_null().map(UserPtr::read).transpose()?;
    let parsed = match event {
        None => None,
        Some([value, word]) => {
            let (signal, method) = (word as u32, (word >> 32) as u32);
            let tell: Box<dyn FnOnce() + Send> = match method {
                SIGEV_NONE => Box::new(|| ()),
                // Valid on Linux, and tells nobody.
                SIGEV_SIGNAL if signal == 0 => Box::new(|| ()),
                SIGEV_SIGNAL => {
                    let signal = Signal::new(signal).ok_or(Errno::EINVAL)?;
                    Box::new(move || announce(pid, signal, value))
                }
                _ => return Err(Errno::EINVAL),
            };
            Some(Notification { pid, method, signal, tell })
        }
    };
    let (queue, _) = queue(ctx, fd, Access::empty())?;
    match parsed {
        None => queue.forget(pid),
        Some(notification) => {
            ASKED_FOR.store(true, Ordering::Relaxed);
            queue.notify(notification)?;
        }
    }
    Ok(0)
}

/// Some process has asked to be told of a message: then closing a descriptor must look whether it is a queue's.
static ASKED_FOR: AtomicBool = AtomicBool::new(false);

/// Process `pid` has closed a descriptor: if it is a queue's, the process is no longer told of messages (`mq_close(3)`).
pub(crate) fn queue_closed(pid: u32, file: &OpenFile) {
    if ASKED_FOR.load(Ordering::Relaxed)
        && let Some(queue) = file.downcast::<QueueFile>()
    {
        queue.queue().forget(pid);
    }
}

/// Tells process `pid` that a message arrived; the caller is its sender.
fn announce(pid: u32, signal: Signal, value: u64) {
    let (sender, uid) = with_task(|task| (task.process().pid(), task.cred().ruid)).unwrap_or((0, 0));
    let mut info = SigInfo::from_process(signal, SI_MESGQ, sender, uid);
    info.fields[1] = value;
    if let Some(process) = find_process(pid) {
        // A queue of signals that is full loses this one, as on Linux.
        let _lost = process.send_signal(signal, info);
    }
}

/// `mq_getsetattr`: only `O_NONBLOCK` can be set.
///
/// # Errors
/// `EBADF`, `EINVAL`, `EFAULT`.
pub fn mq_getsetattr(ctx: &Ctx<'_>, fd: i32, new: UserPtr<Attributes>, old: UserPtr<Attributes>) -> SysResult {
    let new = new.non_null().map(UserPtr::read).transpose()?;
    let nonblock = i64::from(OpenFlags::NONBLOCK.bits());
    if new.is_some_and(|[flags, ..]| flags & !nonblock != 0) {
        return Err(Errno::EINVAL);
    }
    let file = ctx.files().get(fd)?;
    let queue = file.downcast::<QueueFile>().ok_or(Errno::EBADF)?.queue();
    let flags = i64::from((file.flags() & OpenFlags::NONBLOCK).bits());
    let attributes = [flags, queue.size.messages as i64, queue.size.bytes as i64, queue.count() as i64, 0, 0, 0, 0];
    if let Some([flags, ..]) = new {
        file.set_nonblocking(if flags & nonblock != 0 { Nonblocking::On } else { Nonblocking::Off });
    }
    old.write_optional(&attributes).map(|()| 0)
}

/// /dev/mqueue.
struct Listing;

impl Directory for Listing {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        let queues = QUEUES.lock();
        let named = queues.get(name)?;
        let queue = named.queue.clone();
        let open = Arc::new(move || Ok(QueueFile::new(queue.clone()) as Arc<dyn vfs::File>));
        Some(Entry::Open { mode: named.metadata.mode, open })
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        QUEUES.lock().keys().map(|name| (name.clone(), FileKind::Regular)).collect()
    }
}

/// The file system of /dev/mqueue. Queues are removed by `mq_unlink` only.
#[must_use]
pub(crate) fn message_queue_tree() -> Arc<dyn Inode> {
    synth::mount(Arc::new(Listing), DEV, MQUEUE_MAGIC, now)
}
