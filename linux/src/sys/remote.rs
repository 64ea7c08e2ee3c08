//! Other processes' memory: `process_vm_readv`, `process_vm_writev`. And `move_pages`, which asks where pages are.
//!
//! Bytes go from one process to the other through a page of the kernel's, since only one of the two spaces is loaded.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;

use addr::{PAGE_SIZE, VirtAddr};
use kernel::mm::{Access, AddressSpace, Advice};
use linux_abi::Errno;
use linux_abi::fs::{IOV_MAX, Iovec};
use vfs::OpenFile;
use vfs::io::{Sink, Source};

use crate::ctx::{Ctx, SysResult};
use crate::process::{Cred, Task, find_process, find_task};
use crate::sys::pidfd;
use crate::user_ptr::{UserIovecs, UserPtr};

const PAGE: u64 = PAGE_SIZE as u64;

/// The process `pid` (0: the caller's), if the caller may look into it.
fn target(ctx: &Ctx<'_>, pid: i32) -> Result<Arc<AddressSpace>, Errno> {
    let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    if pid == ctx.process().pid() || pid == 0 {
        return Ok(ctx.process().space());
    }
    let process = find_process(pid).or_else(|| find_task(pid).map(|task| task.process_ref().clone())).ok_or(Errno::ESRCH)?;
    if may_look(ctx, &process.cred()) { Ok(process.space()) } else { Err(Errno::EPERM) }
}

/// ptrace(2), "Ptrace access mode checking", without the parts about capabilities in namespaces.
fn may_look(ctx: &Ctx<'_>, target: &Cred) -> bool {
    let caller = ctx.cred();
    let same_user = [target.ruid, target.euid, target.suid].iter().all(|uid| *uid == caller.ruid);
    let same_group = [target.rgid, target.egid, target.sgid].iter().all(|gid| *gid == caller.rgid);
    caller.euid == 0 || same_user && same_group
}

/// The pieces of the remote vectors, none of which crosses a page.
fn pieces(vectors: &[Iovec]) -> impl Iterator<Item = (VirtAddr, usize)> {
    vectors.iter().flat_map(|vector| {
        let (mut at, end) = (vector.base, vector.base.saturating_add(vector.len));
        core::iter::from_fn(move || {
            let piece = (end - at).min(PAGE - at % PAGE);
            let start = at;
            at += piece;
            (piece != 0).then_some((VirtAddr(start), piece as usize))
        })
    })
}

/// What both calls begin with: the local buffers, the remote vectors and the remote space.
fn arguments(ctx: &Ctx<'_>, pid: i32, local: (UserPtr<Iovec>, usize), remote: (UserPtr<Iovec>, usize), flags: u64) -> Result<(UserIovecs, Vec<Iovec>, Arc<AddressSpace>), Errno> {
    if flags != 0 || remote.1 > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let local = UserIovecs::read(local.0, local.1)?;
    let remote = remote.0.read_vec(remote.1)?;
    Ok((local, remote, target(ctx, pid)?))
}

/// What was moved, or the error if that is nothing.
fn moved(done: usize, result: Result<(), Errno>) -> SysResult {
    match result {
        Err(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}

/// `process_vm_readv`.
///
/// # Errors
/// `EFAULT`, `EINVAL`, `ENOMEM`, `EPERM`, `ESRCH`.
pub fn process_vm_readv(ctx: &Ctx<'_>, pid: i32, local: UserPtr<Iovec>, local_count: usize, remote: UserPtr<Iovec>, remote_count: usize, flags: u64) -> SysResult {
    let (mut local, remote, space) = arguments(ctx, pid, (local, local_count), (remote, remote_count), flags)?;
    let mut page = vec![0; PAGE_SIZE];
    let mut done = 0;
    for (at, len) in pieces(&remote) {
        let len = len.min(Sink::remaining(&local));
        if len == 0 {
            break;
        }
        let result = space.frame_at(at, Access::Read).map_err(|_| Errno::EFAULT).and_then(|frame| {
            frame.read(at.page_offset(), &mut page[..len]);
            Sink::write(&mut local, &page[..len])
        });
        done += *result.as_ref().unwrap_or(&0);
        if result != Ok(len) {
            return moved(done, result.map(drop));
        }
    }
    Ok(done)
}

/// `process_vm_writev`.
///
/// # Errors
/// As [`process_vm_readv`].
pub fn process_vm_writev(ctx: &Ctx<'_>, pid: i32, local: UserPtr<Iovec>, local_count: usize, remote: UserPtr<Iovec>, remote_count: usize, flags: u64) -> SysResult {
    let (mut local, remote, space) = arguments(ctx, pid, (local, local_count), (remote, remote_count), flags)?;
    let mut page = vec![0; PAGE_SIZE];
    let mut done = 0;
    for (at, len) in pieces(&remote) {
        let len = len.min(Sink::remaining(&local));
        if len == 0 {
            break;
        }
        // The frame first: what has been taken from the source must find its place.
        let result = space.frame_at(at, Access::Write).map_err(|_| Errno::EFAULT).and_then(|frame| {
            let n = Source::read(&mut local, &mut page[..len])?;
            frame.write(at.page_offset(), &page[..n]);
            Ok(n)
        });
        done += *result.as_ref().unwrap_or(&0);
        if result != Ok(len) {
            return moved(done, result.map(drop));
        }
    }
    Ok(done)
}

/// `process_madvise`: how many bytes were advised on. Others' memory takes only advice that changes no contents.
///
/// # Errors
/// `EBADF`, `EFAULT`, `EINVAL`, `ENOMEM`, `EPERM`, `ESRCH`.
pub fn process_madvise(ctx: &Ctx<'_>, fd: i32, vectors: UserPtr<Iovec>, count: usize, advice: i32, flags: u32) -> SysResult {
    if flags != 0 || count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let vectors = vectors.read_vec(count)?;
    let process = find_process(pidfd::process_of(ctx, fd)?).ok_or(Errno::ESRCH)?;
    let advice = Advice::from_raw(advice)?;
    let own = process.pid() == ctx.process().pid();
    if !own && !matches!(advice, Advice::PageOut | Advice::WillNeed | Advice::Collapse) {
        return Err(Errno::EINVAL);
    }
    if !own && !may_look(ctx, &process.cred()) {
        return Err(Errno::EPERM);
    }
    let space = process.space();
    let mut done = 0;
    for vector in vectors {
        if let Err(error) = space.advise(VirtAddr(vector.base), vector.len, advice) {
            return moved(done, Err(error));
        }
        done += vector.len as usize;
    }
    Ok(done)
}

/// What `kcmp` compares.
mod compared {
    pub(super) const FILE: u32 = 0;
    pub(super) const VM: u32 = 1;
    pub(super) const FILES: u32 = 2;
    pub(super) const FS: u32 = 3;
    pub(super) const SIGHAND: u32 = 4;
    pub(super) const IO: u32 = 5;
    pub(super) const SYSVSEM: u32 = 6;
    pub(super) const EPOLL_TFD: u32 = 7;
}

/// The file that the set of `epoll` which `slot` names watches as the descriptor which it names (`struct kcmp_epoll_slot`).
fn watched(task: &Task, slot: UserPtr<[u32; 3]>) -> Result<usize, Errno> {
    let [set, target, nth] = slot.read()?;
    let file = open_file(task, set as i32)?;
    file.epoll().ok_or(Errno::EINVAL)?.file_watched_as(target as i32, nth as usize).ok_or(Errno::ENOENT)
}

/// The open file `fd` of a thread.
fn open_file(task: &Task, fd: i32) -> Result<Arc<OpenFile>, Errno> {
    task.files.get().ok_or(Errno::EBADF)?.get_of_other(fd)
}

/// `kcmp`: whether two threads have the same thing: 0 for the same, 1 or 2 for the order of different ones.
///
/// # Errors
/// `EBADF`, `EFAULT`, `EINVAL`, `ENOENT`, `EPERM`, `ESRCH`.
pub fn kcmp(ctx: &Ctx<'_>, first: u32, second: u32, kind: u32, first_fd: u64, second_fd: u64) -> SysResult {
    let task = |tid| find_task(tid).ok_or(Errno::ESRCH);
    let (one, other) = (task(first)?, task(second)?);
    if !may_look(ctx, &one.cred()) || !may_look(ctx, &other.cred()) {
        return Err(Errno::EPERM);
    }
    let file = |task: &Task, fd: u64| open_file(task, fd as i32).map(|file| file.id());
    let both = |address: fn(&Task) -> usize| (address(&one), address(&other));
    let (one, other) = match kind {
        compared::FILE => (file(&one, first_fd)?, file(&other, second_fd)?),
        compared::VM => both(|task| Arc::as_ptr(&task.process().space()).addr()),
        compared::FILES => both(|task| task.files.address()),
        compared::FS => both(|task| task.fs.address()),
        compared::SIGHAND => both(|task| task.process().signals.address()),
        // Nobody has any.
        compared::IO => (0, 0),
        compared::SYSVSEM => both(|task| task.undo.get().filter(|list| list.is_used()).map_or(0, |list| Arc::as_ptr(&list).addr())),
        compared::EPOLL_TFD => (file(&one, first_fd)?, watched(&other, UserPtr::new(second_fd))?),
        _ => return Err(Errno::EINVAL),
    };
    Ok(match one.cmp(&other) {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    })
}

/// `move_pages`: with one node, a page is there or nowhere.
///
/// # Errors
/// `EACCES` and `ENODEV` (other nodes), `EFAULT`, `EINVAL`, `EPERM`, `ESRCH`.
pub fn move_pages(ctx: &Ctx<'_>, pid: i32, count: usize, pages: UserPtr<u64>, nodes: UserPtr<i32>, status: UserPtr<i32>, flags: u32) -> SysResult {
    const MOVE: u32 = 2;
    const MOVE_ALL: u32 = 4;
    if flags & !(MOVE | MOVE_ALL) != 0 {
        return Err(Errno::EINVAL);
    }
    let space = target(ctx, pid)?;
    for index in 0..count {
        let at = VirtAddr(pages.add(index).read()?);
        if !nodes.is_null() && nodes.add(index).read()? != 0 {
            return Err(Errno::ENODEV);
        }
        status.add(index).write(&place(&space, at))?;
    }
    Ok(0)
}

/// The node of a page, or a negated errno.
fn place(space: &AddressSpace, at: VirtAddr) -> i32 {
    if space.find(at).is_none() {
        return Errno::EFAULT.to_ret() as i32;
    }
    let there = space.resident_pages_in(at.align_down(PAGE), at.align_down(PAGE) + PAGE) != 0;
    if there { 0 } else { Errno::ENOENT.to_ret() as i32 }
}
