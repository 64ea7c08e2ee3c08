//! Asynchronous I/O (`io_setup`, `io_submit`, `io_getevents` and their relatives), which libaio uses.
//!
//! What a context is and how polls complete is in `vfs::aio`. Here contexts have their names, as on Linux the address of the ring in the program's
//! memory: they belong to an address space, which all its threads use, and end with it ([`leave_aio`]).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use addr::{PAGE_SIZE, VirtAddr};
use frame::Mappable;
use kernel::mm::{AddressSpace, Backing, MapFlags, MapRequest, Name, Placement, Prot, SharedMemory, Sharing};
use kernel::thread;
use linux_abi::Errno;
use linux_abi::aio::{
    AioSigset, IOCB_CMD_FDSYNC, IOCB_CMD_FSYNC, IOCB_CMD_POLL, IOCB_CMD_PREAD, IOCB_CMD_PREADV, IOCB_CMD_PWRITE, IOCB_CMD_PWRITEV,
    IOCB_FLAG_IOPRIO, IOCB_FLAG_RESFD, IoEvent, Iocb,
};
use linux_abi::fs::Iovec;
use linux_abi::time::Timespec;
use sync::{OnceCell, RwLock, ThreadHandle};
use vfs::aio::{AioContext, PollService, Request, Size, Slot};
use vfs::eventfd::EventFd;
use vfs::types::{Access, Events, FileKind};
use vfs::OpenFile;

use super::{data, get};
use crate::ctx::{Ctx, FIRST_INTERNAL, SysResult};
use crate::sys::denied::check_io_priority;
use crate::sys::event::with_mask;
use crate::user_ptr::{UserIovecs, UserPtr, UserSlice};

/// A space's number, and the address of the ring in it.
type Id = (u64, u64);

static CONTEXTS: RwLock<BTreeMap<Id, Arc<AioContext>>> = RwLock::new(BTreeMap::new());

static POLLS: PollService = PollService::new(wake_polls);
static POLL_THREAD: OnceCell<ThreadHandle> = OnceCell::new();

/// Has the poll thread look; the first poll starts it.
fn wake_polls() {
    let thread = POLL_THREAD.get_or_init(|| {
        let thread = thread::spawn("kaiopoll", thread::Class::Normal, run_polls);
        thread::handle(&thread.expect("memory for the poll thread"))
    });
    thread.unpark();
}

fn run_polls() {
    loop {
        POLLS.run();
        sync::park(None);
    }
}

fn current_space() -> Arc<AddressSpace> {
    thread::with_current(|thread| thread.space().cloned()).expect("a program's thread has a space")
}

/// What tells a space from others that live.
fn number(space: &AddressSpace) -> u64 {
    space.cr3().0
}

fn find(context: u64) -> Result<Arc<AioContext>, Errno> {
    let id = (number(&current_space()), context);
    CONTEXTS.read().get(&id).cloned().ok_or(Errno::EINVAL)
}

/// `space` is left by its last process: its contexts end.
pub(crate) fn leave_aio(space: &AddressSpace) {
    // The threads that could have made some have ended.
    if vfs::aio::requests() == 0 {
        return;
    }
    let space = number(space);
    loop {
        let mut contexts = CONTEXTS.write();
        let first = contexts.range((space, 0)..=(space, u64::MAX)).next().map(|(id, _)| *id);
        let Some(gone) = first.and_then(|id| contexts.remove(&id)) else { return };
        drop(contexts);
        let _first_end = gone.end();
    }
}

/// `io_setup`.
///
/// # Errors
/// Those of `io_setup(2)`.
pub fn io_setup(_ctx: &Ctx<'_>, requests: u32, out: UserPtr<u64>) -> SysResult {
    if out.read()? != 0 || requests == 0 {
        return Err(Errno::EINVAL);
    }
    let size = Size::for_requests(requests, kernel::percpu::cpu_count() as u32)?;
    if u64::from(requests) > vfs::aio::MAX_REQUESTS.load(core::sync::atomic::Ordering::Relaxed) {
        return Err(Errno::EAGAIN);
    }
    let bytes = size.pages * PAGE_SIZE;
    if !kernel::mm::has_memory_for(bytes) {
        return Err(Errno::ENOMEM);
    }
    let memory = SharedMemory::new(bytes as u64);
    let pages = (0..size.pages as u64).map(|page| memory.frame(page)).collect::<Result<_, _>>()?;
    let context = AioContext::new(requests, size, pages)?;
    let request = MapRequest {
        hint: VirtAddr(0),
        len: bytes as u64,
        prot: Prot::READ | Prot::WRITE,
        placement: Placement::Hint,
        backing: Backing::File { object: memory, offset: 0, sharing: Sharing::Shared },
        flags: MapFlags::empty(),
        name: Some(Name::from(&b"/[aio] (deleted)"[..])),
    };
    let space = current_space();
    let at = space.map(request)?;
    // Where the program has unmapped a ring by itself, its context is still there: it ends now.
    let forgotten = CONTEXTS.write().insert((number(&space), at.0), context);
    if let Some(forgotten) = forgotten {
        let _first_end = forgotten.end();
    }
    if let Err(error) = out.write(&at.0) {
        destroy(&space, at.0)?;
        return Err(error);
    }
    Ok(0)
}

/// Ends a context and takes its ring out of the program's memory.
///
/// # Errors
/// `EINVAL` when there is none.
fn destroy(space: &AddressSpace, id: u64) -> Result<(), Errno> {
    let context = CONTEXTS.write().remove(&(number(space), id)).ok_or(Errno::EINVAL)?;
    if !context.end() {
        return Err(Errno::EINVAL);
    }
    // What the program has done to the mapping is its own business.
    let _unmapped = space.unmap(VirtAddr(id), context.ring_bytes());
    Ok(())
}

/// `io_destroy`.
///
/// # Errors
/// `EINVAL`.
pub fn io_destroy(_ctx: &Ctx<'_>, context: u64) -> SysResult {
    destroy(&current_space(), context).map(|()| 0)
}

/// `io_submit`: returns how many requests were submitted.
///
/// # Errors
/// What is wrong with the first; those of `io_submit(2)`.
pub fn io_submit(ctx: &Ctx<'_>, context: u64, count: i64, requests: UserPtr<u64>) -> SysResult {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let context = find(context)?;
    for done in 0..count {
        let submitted = requests.add(done).read().and_then(|request| submit(ctx, &context, UserPtr::new(request)));
        match submitted {
            Ok(()) => {}
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        }
    }
    Ok(count)
}

fn submit(ctx: &Ctx<'_>, context: &Arc<AioContext>, pointer: UserPtr<Iocb>) -> Result<(), Errno> {
    let iocb = pointer.read()?;
    if iocb.reserved != 0 || iocb.len > isize::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let slot = context.reserve()?;
    let file = get(ctx, iocb.fd)?;
    file.require_open()?;
    let eventfd = if iocb.flags & IOCB_FLAG_RESFD != 0 { Some(eventfd(ctx, iocb.eventfd)?) } else { None };
    pointer.cast::<[u32; 2]>().add(1).cast().write(&0_u32)?;
    let request = Request { data: iocb.data, object: pointer.address(), eventfd };
    match iocb.opcode {
        IOCB_CMD_PREAD | IOCB_CMD_PREADV => finish(slot, &request, read(ctx, &file, &iocb)?),
        IOCB_CMD_PWRITE | IOCB_CMD_PWRITEV => finish(slot, &request, write(ctx, &file, &iocb)?),
        IOCB_CMD_FSYNC | IOCB_CMD_FDSYNC => finish(slot, &request, fsync(&file, &iocb)?),
        IOCB_CMD_POLL => {
            let wanted = wanted_events(&iocb)?;
            if !can_wait(&file) && (file.poll() & wanted).is_empty() {
                return Err(Errno::EINVAL);
            }
            slot.poll(request, file, wanted, &POLLS);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// The request is done; nobody can be told to make the call again.
fn finish(slot: Slot<'_>, request: &Request, result: SysResult) {
    let result = match result {
        Ok(count) => count as i64,
        Err(error) if error.0 >= FIRST_INTERNAL => Errno::EINTR.to_ret() as i64,
        Err(error) => error.to_ret() as i64,
    };
    slot.complete(request, result);
}

fn eventfd(ctx: &Ctx<'_>, fd: i32) -> Result<Arc<OpenFile>, Errno> {
    let file = get(ctx, fd)?;
    if file.downcast::<EventFd>().is_some() { Ok(file) } else { Err(Errno::EINVAL) }
}

/// What reads and writes have in common before they look at their buffers; returns the position, where the file has one.
fn prepare(ctx: &Ctx<'_>, file: &OpenFile, iocb: &Iocb, access: Access, flags: u32) -> Result<Option<u64>, Errno> {
    if iocb.flags & IOCB_FLAG_IOPRIO != 0 {
        check_io_priority(ctx, u32::from(iocb.priority as u16))?;
    }
    if iocb.rw_flags & !flags != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    file.require(access)?;
    if file.inode().kind() == FileKind::Directory {
        return Err(Errno::EINVAL);
    }
    let at = data::offset(iocb.offset)?;
    Ok(file.require_seekable().is_ok().then_some(at))
}

fn slice(iocb: &Iocb) -> Result<UserSlice, Errno> {
    UserSlice::new(UserPtr::new(iocb.buffer), iocb.len as usize)
}

fn vectors(iocb: &Iocb) -> Result<UserIovecs, Errno> {
    UserIovecs::read(UserPtr::<Iovec>::new(iocb.buffer), iocb.len as usize)
}

/// Reads. The outer error is that of `io_submit`, the inner result the event's.
fn read(ctx: &Ctx<'_>, file: &OpenFile, iocb: &Iocb) -> Result<SysResult, Errno> {
    let at = prepare(ctx, file, iocb, Access::READ, data::READ_FLAGS)?;
    Ok(match iocb.opcode {
        IOCB_CMD_PREADV => data::read_vectors(file, &mut vectors(iocb)?, at),
        _ => data::read_vectors(file, &mut slice(iocb)?, at),
    })
}

/// Writes, as [`read`].
fn write(ctx: &Ctx<'_>, file: &OpenFile, iocb: &Iocb) -> Result<SysResult, Errno> {
    let at = prepare(ctx, file, iocb, Access::WRITE, data::WRITE_FLAGS)?;
    if file.downcast::<EventFd>().is_some() {
        // As on Linux, which writes to them in the plain way alone.
        return Err(Errno::EINVAL);
    }
    Ok(match iocb.opcode {
        IOCB_CMD_PWRITEV => data::write_vectors(ctx, file, &mut vectors(iocb)?, at, iocb.rw_flags),
        _ => data::write_vectors(ctx, file, &mut slice(iocb)?, at, iocb.rw_flags),
    })
}

fn fsync(file: &OpenFile, iocb: &Iocb) -> Result<SysResult, Errno> {
    if iocb.buffer != 0 || iocb.offset != 0 || iocb.len != 0 || iocb.rw_flags != 0 {
        return Err(Errno::EINVAL);
    }
    match file.file().fsync() {
        Err(Errno::EINVAL) => Err(Errno::EINVAL),
        result => Ok(result.map(|()| 0)),
    }
}

/// What a poll request asks for.
fn wanted_events(iocb: &Iocb) -> Result<Events, Errno> {
    let wanted = u16::try_from(iocb.buffer).map_err(|_| Errno::EINVAL)?;
    if iocb.offset != 0 || iocb.len != 0 || iocb.rw_flags != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Events::from_bits_truncate(u32::from(wanted)) | Events::ALWAYS)
}

/// Whether the file has anything that changes when it gets ready.
fn can_wait(file: &OpenFile) -> bool {
    let mut queues = 0;
    file.file().poll_queues(&mut |_| queues += 1);
    queues > 0
}

/// `io_cancel`: only requests to poll can be. Their events come all the same.
///
/// # Errors
/// `EINPROGRESS` when it is cancelled, as on Linux; `EINVAL`, `EFAULT`.
pub fn io_cancel(_ctx: &Ctx<'_>, context: u64, request: UserPtr<Iocb>, _result: UserPtr<IoEvent>) -> SysResult {
    if request.cast::<[u32; 3]>().read()?[2] != 0 {
        return Err(Errno::EINVAL);
    }
    find(context)?.cancel(request.address())?;
    Err(Errno::EINPROGRESS)
}

/// Takes events, waiting for `least` of them until the time that `timeout` gives.
fn take(context: u64, least: i64, most: i64, mut out: UserPtr<IoEvent>, timeout: UserPtr<Timespec>) -> SysResult {
    let deadline = match timeout.non_null() {
        None => None,
        Some(timeout) => Some(deadline(timeout.read()?)),
    };
    let context = find(context)?;
    if least < 0 || least > most {
        return Err(Errno::EINVAL);
    }
    context.wait((least as usize, most as usize), deadline, &mut |events| {
        out.write_slice(events)?;
        out = out.add(events.len());
        Ok(())
    })
}

/// A timeout as a monotonic deadline; 0 does not wait. As on Linux, any numbers will do.
fn deadline(timeout: Timespec) -> u64 {
    let ns = i128::from(timeout.sec) * 1_000_000_000 + i128::from(timeout.nsec);
    match u64::try_from(ns) {
        Ok(0) => 0,
        Ok(ns) => sync::monotonic_ns().saturating_add(ns),
        Err(_) if ns < 0 => 0,
        Err(_) => u64::MAX,
    }
}

/// `io_getevents`: returns how many events it has stored.
///
/// # Errors
/// Those of `io_getevents(2)`.
pub fn io_getevents(
    _ctx: &Ctx<'_>,
    context: u64,
    least: i64,
    most: i64,
    out: UserPtr<IoEvent>,
    timeout: UserPtr<Timespec>,
) -> SysResult {
    take(context, least, most, out, timeout)
}

/// `io_pgetevents`: with another signal mask meanwhile.
///
/// # Errors
/// Those of `io_getevents(2)`.
pub fn io_pgetevents(
    ctx: &Ctx<'_>,
    context: u64,
    least: i64,
    most: i64,
    out: UserPtr<IoEvent>,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<AioSigset>,
) -> SysResult {
    let mask = if mask.is_null() { AioSigset::default() } else { mask.read()? };
    let restartable = |error| if error == Errno::EINTR { Errno::ERESTARTNOHAND } else { error };
    with_mask(ctx, UserPtr::new(mask.mask), mask.size as usize, || take(context, least, most, out, timeout).map_err(restartable))
}
