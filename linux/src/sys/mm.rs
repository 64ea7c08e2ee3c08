//! Memory calls: a thin translation of flags and errors; the work is [`kernel::mm::AddressSpace`]'s.

use alloc::sync::Arc;

use addr::{PAGE_SIZE, VirtAddr};
use kernel::mm::{AddressSpace, Advice, Backing, Lock, MapFlags, MapRequest, Name, PageSize, Placement, Prot, RemapRequest, RemapTarget, Sharing};
use kernel::thread;
use linux_abi::Errno;
use linux_abi::raw;
use vfs::inode::MapKind;
use vfs::{Access, FileKind, OpenFile};

use crate::calls;
use crate::ctx::{Ctx, SysResult};
use crate::sys::file::size_of_huge_pages;
use crate::user_ptr::UserPtr;

const PAGE: u64 = PAGE_SIZE as u64;
const PROT_KNOWN: u32 = raw::PROT_READ | raw::PROT_WRITE | raw::PROT_EXEC;
/// Bits that Linux accepts and that mean nothing here: PROT_SEM, PROT_GROWSDOWN, PROT_GROWSUP.
const PROT_IGNORED: u32 = 0x0300_0008;
const MAP_TYPE: u32 = 0xf;

/// Does something with the caller's address space. (The process has another reference to it, behind a lock.)
fn in_space<R>(act: impl FnOnce(&AddressSpace) -> R) -> R {
    thread::with_current(|thread| act(thread.space().expect("a program's thread has a space")))
}

fn prot(bits: u32) -> Result<Prot, Errno> {
    if bits & !(PROT_KNOWN | PROT_IGNORED) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Prot::from_bits_truncate(bits))
}

fn placement(flags: u32) -> Placement {
    if flags & raw::MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace
    } else if flags & raw::MAP_FIXED != 0 {
        Placement::Fixed
    } else if flags & raw::MAP_32BIT != 0 {
        Placement::Below2G
    } else {
        Placement::Hint
    }
}

fn map_flags(flags: u32) -> MapFlags {
    let mut known = MapFlags::empty();
    known.set(MapFlags::GROWS_DOWN, flags & raw::MAP_GROWSDOWN != 0);
    known.set(MapFlags::LOCKED, flags & raw::MAP_LOCKED != 0);
    known.set(MapFlags::POPULATE, flags & raw::MAP_POPULATE != 0);
    known.set(MapFlags::NO_RESERVE, flags & raw::MAP_NORESERVE != 0);
    known
}

/// The size of pages that `MAP_HUGETLB` asks for.
fn explicit_pages(flags: u32) -> Result<MapFlags, Errno> {
    match size_of_huge_pages(flags) {
        Some(PageSize::Size1G) => Ok(MapFlags::PAGES_1G),
        Some(_) => Ok(MapFlags::PAGES_2M),
        None => Err(Errno::EINVAL),
    }
}

/// Whether the backing has pages that `MAP_HUGETLB` means.
fn has_large_pages(backing: &Backing) -> bool {
    matches!(backing, Backing::File { object, .. } if object.page_size() != PAGE)
}

/// Whether the mapping shares its writes, and whether unknown flags are an error.
fn is_shared(flags: u32) -> Result<bool, Errno> {
    match flags & MAP_TYPE {
        raw::MAP_PRIVATE => Ok(false),
        raw::MAP_SHARED => Ok(true),
        // The only flag that MAP_SHARED_VALIDATE adds needs a DAX device.
        raw::MAP_SHARED_VALIDATE if flags & raw::MAP_SYNC != 0 => Err(Errno::ENOTSUP),
        raw::MAP_SHARED_VALIDATE => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

/// `F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`: of a file with either, nothing that can be written to may be mapped.
const SEALS_WRITES: u32 = 8 | 16;

/// The backing of a file mapping and its name for `/proc/self/maps`.
fn file_backing(ctx: &Ctx<'_>, file: &Arc<OpenFile>, shared: bool, prot: Prot, offset: u64) -> Result<(Backing, Name), Errno> {
    let flags = file.flags();
    if !flags.can_read() || shared && prot.contains(Prot::WRITE) && !flags.can_write() {
        return Err(Errno::EACCES);
    }
    let content = file.content().cloned().ok_or(Errno::ENODEV)?;
    if content.kind() == FileKind::Directory {
        return Err(Errno::ENODEV);
    }
    if prot.contains(Prot::EXEC) {
        file.location().require_executable().map_err(|_| Errno::EPERM)?;
    }
    let kind = if shared { MapKind::Shared } else { MapKind::Private };
    let object = content.clone().mapped_by(file.clone(), kind).ok_or(Errno::ENODEV)?;
    // After the mapping is counted: who seals the file looks at that.
    let may_write = flags.can_write() && content.seals().map_or(true, |seals| seals & SEALS_WRITES == 0);
    if shared && prot.contains(Prot::WRITE) && !may_write {
        return Err(Errno::EPERM);
    }
    file.was_read();
    let sharing = match (shared, may_write) {
        (false, _) => Sharing::Private,
        (true, true) => Sharing::Shared,
        (true, false) => Sharing::SharedReadOnly,
    };
    let name = Name::from(file.path(&ctx.fs().root.read()));
    Ok((Backing::File { object, offset, sharing }, name))
}

/// `mmap`.
///
/// # Errors
/// Those of mmap(2).
#[inline(always)]
pub fn mmap(ctx: &Ctx<'_>, address: u64, len: u64, protection: u32, flags: u32, fd: i32, offset: u64) -> SysResult {
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let prot = prot(protection)?;
    let shared = is_shared(flags)?;
    let mut request = MapRequest {
        hint: VirtAddr(address),
        len,
        prot,
        placement: placement(flags),
        backing: Backing::Anonymous,
        flags: map_flags(flags),
        name: None,
    };
    if flags & raw::MAP_ANONYMOUS == 0 {
        let file = ctx.files().get(fd)?;
        file.require(Access::empty())?;
        let (backing, name) = file_backing(ctx, &file, shared, prot, offset)?;
        request.backing = backing;
        request.name = Some(name);
    } else if shared {
        request.backing = Backing::SharedAnonymous;
        request.name = Some(Arc::from(&b"/dev/zero (deleted)"[..]));
    }
    if flags & raw::MAP_HUGETLB != 0 && flags & raw::MAP_ANONYMOUS != 0 {
        request.flags |= explicit_pages(flags)?;
        request.name = Some(Arc::from(&b"/anon_hugepage (deleted)"[..]));
    } else if flags & raw::MAP_HUGETLB != 0 && !has_large_pages(&request.backing) {
        return Err(Errno::EINVAL);
    }
    if request.placement == Placement::Hint {
        request.hint = request.hint.align_down(PAGE);
    }
    in_space(|space| {
        if request.placement == Placement::Fixed {
            return calls::around(space, &[(address, request.len)], || space.map(request));
        }
        space.map(request)
    })
    .map(|at| at.0 as usize)
}

/// `munmap`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`.
#[inline(always)]
pub fn munmap(_ctx: &Ctx<'_>, address: u64, len: u64) -> SysResult {
    in_space(|space| calls::around(space, &[(address, len)], || space.unmap(VirtAddr(address), len))).map(|()| 0)
}

/// `mprotect`.
///
/// # Errors
/// `EINVAL`, `EACCES`, `ENOMEM`.
pub fn mprotect(_ctx: &Ctx<'_>, address: u64, len: u64, protection: u32) -> SysResult {
    let prot = prot(protection)?;
    in_space(|space| calls::around(space, &[(address, len)], || space.protect(VirtAddr(address), len, prot))).map(|()| 0)
}

/// `mremap`.
///
/// # Errors
/// `EINVAL`, `EFAULT`, `ENOMEM`.
pub fn mremap(_ctx: &Ctx<'_>, old: u64, old_len: u64, new_len: u64, flags: u32, new: u64) -> SysResult {
    const MAYMOVE: u32 = raw::MREMAP_MAYMOVE;
    const FIXED: u32 = raw::MREMAP_FIXED;
    const DONTUNMAP: u32 = raw::MREMAP_DONTUNMAP;
    if flags & !(MAYMOVE | FIXED | DONTUNMAP) != 0 || flags & (FIXED | DONTUNMAP) != 0 && flags & MAYMOVE == 0 {
        return Err(Errno::EINVAL);
    }
    let target = match flags & (MAYMOVE | FIXED) {
        0 => RemapTarget::InPlace,
        MAYMOVE => RemapTarget::MayMove,
        _ => RemapTarget::Fixed(VirtAddr(new)),
    };
    let request =
        RemapRequest { old: VirtAddr(old), old_len, new_len, target, keep_old: flags & DONTUNMAP != 0 };
    let target = if flags & FIXED != 0 { (new, new_len) } else { (old, 0) };
    in_space(|space| calls::around_move(space, &[(old, old_len), target], || space.remap(request))).map(|at| at.0 as usize)
}

/// `madvise`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`, `EFAULT`.
pub fn madvise(_ctx: &Ctx<'_>, address: u64, len: u64, advice: i32) -> SysResult {
    let advice = Advice::from_raw(advice)?;
    in_space(|space| space.advise(VirtAddr(address), len, advice)).map(|()| 0)
}

/// `brk`: returns the end of the heap, changed or not; it has no errors.
///
/// # Errors
/// None.
pub fn brk(_ctx: &Ctx<'_>, end: u64) -> SysResult {
    Ok(in_space(|space| space.set_brk(VirtAddr(end))).0 as usize)
}

/// `mincore`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`, `EFAULT`.
pub fn mincore(ctx: &Ctx<'_>, address: u64, len: u64, out: UserPtr<u8>) -> SysResult {
    /// Pages asked about at a time: nothing is written to the program while the space is locked.
    const CHUNK_PAGES: u64 = 4096;
    let pages = len.div_ceil(PAGE);
    let mut done = 0;
    while done < pages {
        let count = CHUNK_PAGES.min(pages - done);
        let mut chunk = alloc::vec::Vec::with_capacity(count as usize);
        let start = VirtAddr(address.wrapping_add(done * PAGE));
        ctx.process().space().mincore(start, count * PAGE, |there| chunk.push(u8::from(there)))?;
        out.add(done as usize).write_slice(&chunk)?;
        done += count;
    }
    Ok(0)
}

/// `msync`.
///
/// # Errors
/// `EBUSY`, `EINVAL`, `ENOMEM`, `EIO`.
pub fn msync(ctx: &Ctx<'_>, address: u64, len: u64, flags: u32) -> SysResult {
    const ASYNC: u32 = raw::MS_ASYNC;
    const SYNC: u32 = raw::MS_SYNC;
    if flags & !(ASYNC | SYNC | raw::MS_INVALIDATE) != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::EINVAL);
    }
    let space = ctx.process().space();
    if flags & raw::MS_INVALIDATE != 0 && space.has_locked(VirtAddr(address), len) {
        return Err(Errno::EBUSY);
    }
    if flags & SYNC != 0 {
        return space.sync(VirtAddr(address), len).map(|()| 0);
    }
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if space.is_covered(VirtAddr(address), len) { Ok(0) } else { Err(Errno::ENOMEM) }
}

/// Whether the caller may lock memory so that `bytes` are locked then: root may always.
fn check_lock_limit(ctx: &Ctx<'_>, bytes: u64) -> Result<(), Errno> {
    let limit = ctx.process().limit(raw::RLIMIT_MEMLOCK).map_or(u64::MAX, |limit| limit.cur);
    if ctx.cred().euid == 0 || bytes <= limit {
        return Ok(());
    }
    Err(if limit == 0 { Errno::EPERM } else { Errno::ENOMEM })
}

fn lock(ctx: &Ctx<'_>, address: u64, len: u64, how: Lock) -> SysResult {
    let space = ctx.process().space();
    if how != Lock::Unlock && ctx.cred().euid != 0 {
        let first = address & !(PAGE - 1);
        let end = address.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
        check_lock_limit(ctx, space.locked_bytes_with(VirtAddr(first), VirtAddr(end)))?;
    }
    space.lock_pages(VirtAddr(address), len, how).map(|()| 0)
}

/// `mlock`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`, `EPERM`.
pub fn mlock(ctx: &Ctx<'_>, address: u64, len: u64) -> SysResult {
    lock(ctx, address, len, Lock::Now)
}

/// `mlock2`.
///
/// # Errors
/// As [`mlock`].
pub fn mlock2(ctx: &Ctx<'_>, address: u64, len: u64, flags: u32) -> SysResult {
    const ONFAULT: u32 = 1;
    match flags {
        0 => lock(ctx, address, len, Lock::Now),
        ONFAULT => lock(ctx, address, len, Lock::OnFault),
        _ => Err(Errno::EINVAL),
    }
}

/// `munlock`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`.
pub fn munlock(ctx: &Ctx<'_>, address: u64, len: u64) -> SysResult {
    lock(ctx, address, len, Lock::Unlock)
}

/// `mlockall`.
///
/// # Errors
/// `EINVAL`, `ENOMEM`, `EPERM`.
pub fn mlockall(ctx: &Ctx<'_>, flags: u32) -> SysResult {
    const KNOWN: u32 = raw::MCL_CURRENT | raw::MCL_FUTURE | raw::MCL_ONFAULT;
    if flags & !KNOWN != 0 || flags & (raw::MCL_CURRENT | raw::MCL_FUTURE) == 0 {
        return Err(Errno::EINVAL);
    }
    let space = ctx.process().space();
    let how = if flags & raw::MCL_ONFAULT != 0 { Lock::OnFault } else { Lock::Now };
    if flags & raw::MCL_CURRENT != 0 {
        check_lock_limit(ctx, space.mapped_bytes())?;
    } else {
        check_lock_limit(ctx, 1)?;
    }
    space.lock_future(if flags & raw::MCL_FUTURE != 0 { how } else { Lock::Unlock });
    if flags & raw::MCL_CURRENT != 0 {
        space.lock_all(how)?;
    }
    Ok(0)
}

/// `munlockall`.
///
/// # Errors
/// None.
pub fn munlockall(ctx: &Ctx<'_>) -> SysResult {
    let space = ctx.process().space();
    space.lock_future(Lock::Unlock);
    space.lock_all(Lock::Unlock).map(|()| 0)
}
