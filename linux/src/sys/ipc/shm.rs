//! System V shared memory.
//!
//! A segment is a [`SharedMemory`] that areas map. The table holds it until `IPC_RMID`, and from then on only knows it as long as an area
//! does: the memory goes with the last of them, whether by `shmdt`, `munmap`, `exec` or the end of a process. Attachments are
//! counted by looking: they are the areas that show the segment, as on Linux.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use addr::{PAGE_SIZE, VirtAddr};
use frame::{Mappable, MappingId};
use ipc::Permissions;
use kernel::mm::{AddressSpace, Backing, LargeMemory, MapFlags, MapRequest, Name, Placement, Prot, SharedMemory, Sharing};
use linux_abi::Errno;
use sync::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, RawPermissions, caller, now_s};
use crate::ctx::{Ctx, SysResult};
use crate::process::{Process, all_processes};
use crate::sys::file::size_of_huge_pages;
use crate::user_ptr::UserPtr;

const PAGE: u64 = PAGE_SIZE as u64;
const IPC_PRIVATE: i32 = 0;
const IPC_CREAT: u32 = 0o1000;
const IPC_EXCL: u32 = 0o2000;
const SHM_HUGETLB: u32 = 0o4000;
const SHM_NORESERVE: u32 = 0o10000;
const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100_000;
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;

const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

/// The number of a segment is its index in the table and, above, how often indexes were given out.
const INDEX_BITS: u32 = 15;
const INDEXES: u64 = 1 << INDEX_BITS;

/// `/proc/sys/kernel/shmmax`: the largest segment in bytes.
pub(crate) static MAX_BYTES: AtomicU64 = AtomicU64::new(u64::MAX - (1 << 24));
/// `/proc/sys/kernel/shmall`: pages of all segments.
pub(crate) static MAX_PAGES: AtomicU64 = AtomicU64::new(u64::MAX - (1 << 24));
/// `/proc/sys/kernel/shmmni`: segments.
pub(crate) static MAX_SEGMENTS: AtomicU64 = AtomicU64::new(4096);

/// `struct shmid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
pub struct Status {
    permissions: RawPermissions,
    bytes: u64,
    attached_s: i64,
    detached_s: i64,
    changed_s: i64,
    creator_pid: u32,
    last_pid: u32,
    attachments: u64,
    unused: [u64; 2],
}

/// `struct shminfo64`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Limits {
    max_bytes: u64,
    min_bytes: u64,
    max_segments: u64,
    max_attachments: u64,
    max_pages: u64,
    unused: [u64; 4],
}

/// `struct shm_info`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Usage {
    segments: u32,
    pad: u32,
    pages: u64,
    resident_pages: u64,
    swapped_pages: u64,
    swap_attempts: u64,
    swap_successes: u64,
}

struct Segment {
    /// `None` after `IPC_RMID`.
    kept: Option<Arc<dyn Mappable>>,
    memory: Weak<dyn Mappable>,
    id: MappingId,
    sequence: u16,
    permissions: Permissions,
    /// `SHM_DEST`, `SHM_LOCKED`.
    marks: u32,
    /// All but the permissions and attachments.
    status: Status,
}

impl Segment {
    fn pages(&self) -> u64 {
        self.status.bytes.div_ceil(PAGE)
    }

    /// Pages of 4 KiB that have come into being.
    fn resident_pages(&self) -> u64 {
        let Some(memory) = self.memory.upgrade() else { return 0 };
        let any: &dyn Any = &*memory;
        let large = LargeMemory::of(&*memory).map(|large| large.page_count() * large.size_of_pages().pages());
        large.or_else(|| any.downcast_ref().map(SharedMemory::resident_pages)).unwrap_or(0)
    }

    /// As `shmctl` tells it; `id` is the segment's number.
    fn told(&self, id: i32) -> Status {
        let mut permissions = RawPermissions::new(self.permissions, id);
        permissions.mode |= self.marks;
        Status { permissions, ..self.status }
    }
}

/// Segments by index.
struct Table {
    segments: BTreeMap<u64, Segment>,
    sequence: u64,
}

static TABLE: Mutex<Table> = Mutex::new(Table { segments: BTreeMap::new(), sequence: 0 });

impl Table {
    /// Forgets segments that were removed and are no longer mapped.
    fn sweep(&mut self) {
        self.segments.retain(|_, segment| segment.memory.strong_count() > 0);
    }

    fn by_id(&mut self, id: i32) -> Result<&mut Segment, Errno> {
        self.sweep();
        let (index, sequence) = split(id)?;
        let segment = self.segments.get_mut(&index).ok_or(Errno::EINVAL)?;
        if u64::from(segment.sequence) == sequence { Ok(segment) } else { Err(Errno::EINVAL) }
    }

    fn total_pages(&self) -> u64 {
        self.segments.values().map(Segment::pages).sum()
    }

    fn create(&mut self, key: i32, bytes: u64, flags: u32, ctx: &Ctx<'_>) -> Result<i32, Errno> {
        if bytes == 0 || bytes > MAX_BYTES.load(Ordering::Relaxed) {
            return Err(Errno::EINVAL);
        }
        let pages = self.total_pages().saturating_add(bytes.div_ceil(PAGE));
        let many = self.segments.len() as u64 >= MAX_SEGMENTS.load(Ordering::Relaxed).min(INDEXES);
        if many || pages > MAX_PAGES.load(Ordering::Relaxed) {
            return Err(Errno::ENOSPC);
        }
        let index = (0..INDEXES).find(|index| !self.segments.contains_key(index)).ok_or(Errno::ENOSPC)?;
        let sequence = self.sequence as u16;
        self.sequence += 1;
        let memory = new_memory(bytes, flags)?;
        let caller = caller(ctx);
        let segment = Segment {
            id: memory.mapping_id(),
            memory: Arc::downgrade(&memory),
            kept: Some(memory),
            sequence,
            permissions: Permissions::new(key, flags, &caller),
            marks: 0,
            status: Status { bytes, changed_s: now_s(), creator_pid: caller.pid, ..Status::default() },
        };
        self.segments.insert(index, segment);
        Ok(join(index, sequence))
    }
}

/// The memory of a segment. Large pages are set aside at once, unless nobody wants that.
fn new_memory(bytes: u64, flags: u32) -> Result<Arc<dyn Mappable>, Errno> {
    if flags & SHM_HUGETLB == 0 {
        return Ok(SharedMemory::new(bytes.next_multiple_of(PAGE)));
    }
    let size = size_of_huge_pages(flags).ok_or(Errno::EINVAL)?;
    let memory = LargeMemory::new(bytes.checked_next_multiple_of(size.bytes()).ok_or(Errno::ENOMEM)?, size);
    if flags & SHM_NORESERVE == 0 {
        memory.reserve(0..bytes)?;
    }
    Ok(memory)
}

fn join(index: u64, sequence: u16) -> i32 {
    ((u64::from(sequence) << INDEX_BITS | index) & 0x7fff_ffff) as i32
}

fn split(id: i32) -> Result<(u64, u64), Errno> {
    let id = u64::try_from(id).map_err(|_| Errno::EINVAL)?;
    Ok((id % INDEXES, id / INDEXES))
}

/// Areas of all processes that show a segment. Spaces that processes share are counted once.
fn attachments(id: MappingId) -> u64 {
    let mut seen: BTreeMap<u64, Arc<AddressSpace>> = BTreeMap::new();
    for process in all_processes() {
        let space = process.space();
        seen.insert(space.cr3().0, space);
    }
    seen.values().map(|space| space.areas().iter().filter(|area| area.id == Some(id)).count() as u64).sum()
}

/// `shmget`.
///
/// # Errors
/// `EACCES`, `EEXIST`, `EINVAL`, `ENOENT`, `ENOSPC`; `ENOMEM` when large pages cannot be had.
pub fn shmget(ctx: &Ctx<'_>, key: i32, bytes: u64, flags: u32) -> SysResult {
    let mut table = TABLE.lock();
    table.sweep();
    let known = table.segments.iter().find(|(_, s)| key != IPC_PRIVATE && s.kept.is_some() && s.permissions.key == key);
    let Some((index, segment)) = known else {
        if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT);
        }
        return table.create(key, bytes, flags, ctx).map(|id| id as usize);
    };
    if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
        return Err(Errno::EEXIST);
    }
    if bytes > segment.status.bytes {
        return Err(Errno::EINVAL);
    }
    segment.permissions.check(&caller(ctx), flags >> 6 | flags >> 3 | flags)?;
    Ok(join(*index, segment.sequence) as usize)
}

/// `shmat`.
///
/// # Errors
/// `EACCES`, `EINVAL`, `ENOMEM`.
pub fn shmat(ctx: &Ctx<'_>, id: i32, address: u64, flags: u32) -> SysResult {
    let rounded = if flags & SHM_RND != 0 { address & !(PAGE - 1) } else { address };
    if !rounded.is_multiple_of(PAGE) || rounded == 0 && (address != 0 || flags & SHM_REMAP != 0) {
        return Err(Errno::EINVAL);
    }
    let mut prot = Prot::READ;
    prot.set(Prot::WRITE, flags & SHM_RDONLY == 0);
    prot.set(Prot::EXEC, flags & SHM_EXEC != 0);
    let (memory, name) = {
        let mut table = TABLE.lock();
        let segment = table.by_id(id)?;
        segment.permissions.check(&caller(ctx), wanted(prot))?;
        let memory = segment.memory.upgrade().ok_or(Errno::EINVAL)?;
        (memory, format!("/SYSV{:08x} (deleted)", segment.permissions.key))
    };
    let sharing = if prot.contains(Prot::WRITE) { Sharing::Shared } else { Sharing::SharedReadOnly };
    let placement = match (rounded, flags & SHM_REMAP) {
        (0, _) => Placement::Hint,
        (_, 0) => Placement::FixedNoReplace,
        _ => Placement::Fixed,
    };
    let request = MapRequest {
        hint: VirtAddr(rounded),
        len: memory.mapping_size(),
        prot,
        placement,
        backing: Backing::File { object: memory, offset: 0, sharing },
        flags: MapFlags::empty(),
        name: Some(Name::from(name.into_bytes())),
    };
    let at = ctx.process().space().map(request).map_err(|error| if error == Errno::EEXIST { Errno::EINVAL } else { error })?;
    touch(id, ctx.process(), |status| status.attached_s = now_s());
    Ok(at.0 as usize)
}

/// Permission bits (read 4, write 2, execute 1) for a protection.
fn wanted(prot: Prot) -> u32 {
    let bit = |right, bit| if prot.contains(right) { bit } else { 0 };
    bit(Prot::READ, 4) | bit(Prot::WRITE, 2) | bit(Prot::EXEC, 1)
}

/// Notes who attached or detached, and when.
fn touch(id: i32, process: &Process, note: impl FnOnce(&mut Status)) {
    if let Ok(segment) = TABLE.lock().by_id(id) {
        segment.status.last_pid = process.pid();
        note(&mut segment.status);
    }
}

/// `shmdt`: all areas that belong to one attachment, wherever `mprotect` or `munmap` have cut it.
///
/// # Errors
/// `EINVAL`.
pub fn shmdt(ctx: &Ctx<'_>, address: u64) -> SysResult {
    let space = ctx.process().space();
    let areas = space.areas();
    let begins_here = |area: &&kernel::mm::VmaInfo| area.start.0.wrapping_sub(area.offset) == address;
    let known: BTreeMap<MappingId, i32> = {
        let mut table = TABLE.lock();
        table.sweep();
        table.segments.iter().map(|(index, s)| (s.id, join(*index, s.sequence))).collect()
    };
    let parts = || areas.iter().filter(begins_here).filter_map(|area| Some((area, *known.get(&area.id?)?)));
    let (_, id) = parts().next().ok_or(Errno::EINVAL)?;
    touch(id, ctx.process(), |status| status.detached_s = now_s());
    for (area, _) in parts().filter(|(_, other)| *other == id) {
        space.unmap(area.start, area.end - area.start)?;
    }
    Ok(0)
}

/// `shmctl`.
///
/// # Errors
/// `EACCES`, `EFAULT`, `EINVAL`, `EPERM`.
pub fn shmctl(ctx: &Ctx<'_>, id: i32, command: i32, buffer: UserPtr<Status>) -> SysResult {
    match command {
        IPC_INFO => limits(buffer.cast()),
        SHM_INFO => usage(buffer.cast()),
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => stat(ctx, id, command, buffer),
        IPC_SET => set(ctx, id, buffer.read()?),
        IPC_RMID => remove(ctx, id),
        SHM_LOCK | SHM_UNLOCK => lock(ctx, id, command == SHM_LOCK),
        _ => Err(Errno::EINVAL),
    }
}

/// The highest index in use: what the `INFO` commands return.
fn highest(table: &Table) -> usize {
    table.segments.keys().next_back().map_or(0, |index| *index as usize)
}

fn limits(out: UserPtr<Limits>) -> SysResult {
    let max_segments = MAX_SEGMENTS.load(Ordering::Relaxed);
    let limits = Limits {
        max_bytes: MAX_BYTES.load(Ordering::Relaxed),
        min_bytes: 1,
        max_segments,
        max_attachments: max_segments,
        max_pages: MAX_PAGES.load(Ordering::Relaxed),
        unused: [0; 4],
    };
    out.write(&limits)?;
    let mut table = TABLE.lock();
    table.sweep();
    Ok(highest(&table))
}

fn usage(out: UserPtr<Usage>) -> SysResult {
    let (usage, highest) = {
        let mut table = TABLE.lock();
        table.sweep();
        let resident = table.segments.values().map(Segment::resident_pages).sum();
        let segments = table.segments.len() as u32;
        let pages = table.total_pages();
        (Usage { segments, pad: 0, pages, resident_pages: resident, swapped_pages: 0, swap_attempts: 0, swap_successes: 0 }, highest(&table))
    };
    out.write(&usage)?;
    Ok(highest)
}

fn stat(ctx: &Ctx<'_>, id: i32, command: i32, out: UserPtr<Status>) -> SysResult {
    let (mut status, mapping, id) = {
        let mut table = TABLE.lock();
        // The STAT commands of `ipcs` take an index.
        let id = if command == IPC_STAT { id } else { by_index(&mut table, id)? };
        let segment = table.by_id(id)?;
        if command != SHM_STAT_ANY {
            segment.permissions.check(&caller(ctx), 4)?;
        }
        (segment.told(id), segment.id, id)
    };
    status.attachments = attachments(mapping);
    out.write(&status)?;
    Ok(if command == IPC_STAT { 0 } else { id as usize })
}

fn by_index(table: &mut Table, index: i32) -> Result<i32, Errno> {
    table.sweep();
    let index = u64::try_from(index).map_err(|_| Errno::EINVAL)?;
    let segment = table.segments.get(&index).ok_or(Errno::EINVAL)?;
    Ok(join(index, segment.sequence))
}

fn set(ctx: &Ctx<'_>, id: i32, wanted: Status) -> SysResult {
    let mut table = TABLE.lock();
    let segment = table.by_id(id)?;
    segment.permissions.change(&caller(ctx), wanted.permissions.changes())?;
    segment.status.changed_s = now_s();
    Ok(0)
}

fn remove(ctx: &Ctx<'_>, id: i32) -> SysResult {
    let mut table = TABLE.lock();
    let segment = table.by_id(id)?;
    segment.permissions.check_owner(&caller(ctx))?;
    segment.marks |= SHM_DEST;
    segment.permissions.key = IPC_PRIVATE;
    let kept = segment.kept.take();
    drop(table);
    drop(kept);
    Ok(0)
}

/// Nothing is ever swapped out, so this is for the record.
fn lock(ctx: &Ctx<'_>, id: i32, locked: bool) -> SysResult {
    let mut table = TABLE.lock();
    let segment = table.by_id(id)?;
    segment.permissions.check_owner(&caller(ctx))?;
    segment.marks = if locked { segment.marks | SHM_LOCKED } else { segment.marks & !SHM_LOCKED };
    Ok(0)
}

/// `/proc/sysvipc/shm`.
pub(crate) fn table_text() -> String {
    let mut out = String::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n",
    );
    let all: alloc::vec::Vec<_> = {
        let mut table = TABLE.lock();
        table.sweep();
        let row = |(index, s): (&u64, &Segment)| {
            let id = join(*index, s.sequence);
            (id, s.told(id), s.id, s.resident_pages() * PAGE)
        };
        table.segments.iter().map(row).collect()
    };
    for (id, s, mapping, resident) in all {
        let p = s.permissions;
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "{:10} {id:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {resident:21} {:21}",
            p.key, p.mode, s.bytes, s.creator_pid, s.last_pid, attachments(mapping), p.uid, p.gid, p.creator_uid, p.creator_gid,
            s.attached_s, s.detached_s, s.changed_s, 0,
        );
    }
    out
}
