//! The system and the caller: names, limits, usage, identities, random numbers.

use alloc::vec::Vec;
use core::mem::size_of;
use core::sync::atomic::Ordering;

use addr::VirtAddr;
use kernel::mm::LargePagesOff;
use kernel::{mm, thread};
use linux_abi::Errno;
use linux_abi::prctl as pr;
use linux_abi::process::{CapData, CapHeader, Rlimit, Rusage, Sysinfo, Utsname};
use linux_abi::time::Timeval;
use sync::OnceCell;

use crate::capabilities::{Capabilities, Capability};
use crate::ctx::{Ctx, SysResult};
use crate::process::{self, Ids, OwnId, Process, Usage};
use crate::random;
use crate::sys::prctl;
use crate::user_ptr::{UserPtr, UserSlice};

/// The kernel release the program is told: the Linux whose behaviour is the reference.
pub const RELEASE: &str = "6.12.0-oxv";
const VERSION: &str = concat!("#1 SMP oxv ", env!("CARGO_PKG_VERSION"));
static HOSTNAME: OnceCell<alloc::string::String> = OnceCell::new();

/// Sets the host name, once, at start.
pub fn set_hostname(name: &str) {
    let _first = HOSTNAME.set(name.into());
}

/// The host name.
#[must_use]
pub fn hostname() -> &'static str {
    HOSTNAME.get().map_or("oxv", |s| s.as_str())
}

/// What `uname -v` prints.
#[must_use]
pub fn version() -> &'static str {
    VERSION
}

fn field(text: &str) -> [u8; 65] {
    let mut out = [0; 65];
    let len = text.len().min(64);
    out[..len].copy_from_slice(&text.as_bytes()[..len]);
    out
}

/// `uname`.
///
/// # Errors
/// `EFAULT`.
pub fn uname(_ctx: &Ctx<'_>, out: UserPtr<Utsname>) -> SysResult {
    let names = Utsname {
        sysname: field("Linux"),
        nodename: field(hostname()),
        release: field(RELEASE),
        version: field(VERSION),
        machine: field("x86_64"),
        domainname: field("(none)"),
    };
    out.write(&names).map(|()| 0)
}

/// `sysinfo`.
///
/// # Errors
/// `EFAULT`.
pub fn sysinfo(_ctx: &Ctx<'_>, out: UserPtr<Sysinfo>) -> SysResult {
    let memory = mm::memory_info();
    let info = Sysinfo {
        uptime: (kernel::clock::monotonic_ns() / 1_000_000_000) as i64,
        totalram: memory.total_bytes() as u64,
        freeram: memory.free_bytes() as u64,
        procs: process::task_count().min(usize::from(u16::MAX)) as u16,
        mem_unit: 1,
        ..Sysinfo::default()
    };
    out.write(&info).map(|()| 0)
}

/// `getrusage`. User and system time are sampled, their sum is exact (`runqueue::ModeSamples`).
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn getrusage(ctx: &Ctx<'_>, who: i32, out: UserPtr<Rusage>) -> SysResult {
    const RUSAGE_SELF: i32 = 0;
    const RUSAGE_CHILDREN: i32 = -1;
    const RUSAGE_THREAD: i32 = 1;
    let usage = match who {
        RUSAGE_SELF => ctx.process().usage(),
        RUSAGE_THREAD => ctx.task().usage(),
        RUSAGE_CHILDREN => return out.write(&rusage(ctx.process().children_usage())).map(|()| 0),
        _ => return Err(Errno::EINVAL),
    };
    let maxrss = (ctx.process().space().peak_resident_pages() * addr::PAGE_SIZE as u64 / 1024) as i64;
    out.write(&Rusage { maxrss, ..rusage(usage) }).map(|()| 0)
}

/// The part of a `struct rusage` that is about CPUs.
pub(crate) fn rusage(usage: Usage) -> Rusage {
    Rusage {
        utime: Timeval::from_ns(usage.user_ns),
        stime: Timeval::from_ns(usage.system_ns),
        nvcsw: usage.waits as i64,
        nivcsw: usage.preemptions as i64,
        ..Rusage::default()
    }
}

/// Who may see and set the limits of a process (prlimit(2)): the privileged, and whose real ids all of its ids are.
///
/// # Errors
/// `EPERM`.
fn require_same_ids(ctx: &Ctx<'_>, target: &Process) -> Result<(), Errno> {
    let (own, other) = (ctx.cred(), target.cred());
    let same = [other.ruid, other.euid, other.suid] == [own.ruid; 3] && [other.rgid, other.egid, other.sgid] == [own.rgid; 3];
    if target.pid() == ctx.process().pid() || own.euid == 0 || same { Ok(()) } else { Err(Errno::EPERM) }
}

/// `prlimit64`.
///
/// # Errors
/// `EINVAL`, `EPERM`, `ESRCH`, `EFAULT`.
pub fn prlimit64(ctx: &Ctx<'_>, pid: u32, resource: u32, new: UserPtr<Rlimit>, old: UserPtr<Rlimit>) -> SysResult {
    let target = match pid {
        0 => ctx.task().process_ref().clone(),
        _ => process::find_process(pid).ok_or(Errno::ESRCH)?,
    };
    require_same_ids(ctx, &target)?;
    let current = target.limit(resource).ok_or(Errno::EINVAL)?;
    if let Some(new) = new.non_null() {
        target.set_limit(resource, new.read()?, &ctx.cred())?;
    }
    old.write_optional(&current).map(|()| 0)
}

/// `getrlimit`.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn getrlimit(ctx: &Ctx<'_>, resource: u32, out: UserPtr<Rlimit>) -> SysResult {
    out.write(&ctx.process().limit(resource).ok_or(Errno::EINVAL)?).map(|()| 0)
}

/// `setrlimit`.
///
/// # Errors
/// `EINVAL`, `EPERM`, `EFAULT`.
pub fn setrlimit(ctx: &Ctx<'_>, resource: u32, new: UserPtr<Rlimit>) -> SysResult {
    ctx.process().set_limit(resource, new.read()?, &ctx.cred()).map(|()| 0)
}

/// `arch_prctl`: FS is the program's, GS is the kernel's.
///
/// # Errors
/// `EINVAL` for GS and unknown codes, `EPERM` for an address outside the program's half, `EFAULT`.
pub fn arch_prctl(_ctx: &Ctx<'_>, code: u32, address: u64) -> SysResult {
    const ARCH_SET_GS: u32 = 0x1001;
    const ARCH_SET_FS: u32 = 0x1002;
    const ARCH_GET_FS: u32 = 0x1003;
    const ARCH_GET_GS: u32 = 0x1004;
    match code {
        ARCH_SET_FS if !VirtAddr(address).is_user() => Err(Errno::EPERM),
        ARCH_SET_FS => {
            thread::set_fs_base(address);
            Ok(0)
        }
        ARCH_GET_FS => UserPtr::new(address).write(&thread::fs_base()).map(|()| 0),
        ARCH_GET_GS => UserPtr::new(address).write(&0_u64).map(|()| 0),
        ARCH_SET_GS => {
            log::warn!("arch_prctl(ARCH_SET_GS): the GS base belongs to the kernel; EINVAL");
            Err(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `prctl`: the operations programs were seen to use.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn prctl(ctx: &Ctx<'_>, option: u32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) -> SysResult {
    const NAME_LEN: usize = 16;
    const LAST_CAPABILITY: u64 = 40;
    let task = ctx.task();
    match option {
        pr::PR_SET_NAME => {
            let name = UserPtr::<u8>::new(arg2).read_string(NAME_LEN, Errno::EINVAL);
            let name = match name {
                // Not terminated within 16 bytes: cut.
                Err(Errno::EINVAL) => UserPtr::<u8>::new(arg2).read_vec(NAME_LEN - 1)?,
                other => other?,
            };
            task.set_name(&name);
            Ok(0)
        }
        pr::PR_GET_NAME => {
            let mut out = [0_u8; NAME_LEN];
            let name = task.name();
            out[..name.len().min(NAME_LEN - 1)].copy_from_slice(&name.as_bytes()[..name.len().min(NAME_LEN - 1)]);
            UserPtr::<u8>::new(arg2).write_slice(&out).map(|()| 0)
        }
        pr::PR_GET_DUMPABLE => Ok(ctx.process().dumpable() as usize),
        pr::PR_SET_DUMPABLE if arg2 <= 1 => {
            ctx.process().set_dumpable(arg2 as u32);
            Ok(0)
        }
        pr::PR_SET_TIMERSLACK => {
            task.set_timer_slack_ns(if arg2 == 0 { 50_000 } else { arg2 });
            Ok(0)
        }
        pr::PR_GET_TIMERSLACK => Ok(task.timer_slack_ns() as usize),
        pr::PR_CAPBSET_READ if arg2 <= LAST_CAPABILITY => Ok(1),
        pr::PR_SET_THP_DISABLE if arg3 == 0 && arg4 == 0 && arg5 == 0 => {
            ctx.process().space().set_large_pages_off(if arg2 == 0 { LargePagesOff::No } else { LargePagesOff::Yes });
            Ok(0)
        }
        pr::PR_GET_THP_DISABLE if arg2 == 0 && arg3 == 0 && arg4 == 0 && arg5 == 0 => {
            Ok(usize::from(ctx.process().space().large_pages_off() == LargePagesOff::Yes))
        }
        pr::PR_SET_PDEATHSIG if arg2 <= 64 => {
            ctx.process().family.parent_death_signal.store(arg2 as u32, Ordering::Relaxed);
            Ok(0)
        }
        pr::PR_GET_PDEATHSIG => {
            let signal = ctx.process().family.parent_death_signal.load(Ordering::Relaxed);
            UserPtr::new(arg2).write(&signal).map(|()| 0)
        }
        pr::PR_SET_CHILD_SUBREAPER => {
            ctx.process().family.set_reaper(arg2 != 0);
            Ok(0)
        }
        pr::PR_GET_CHILD_SUBREAPER => {
            UserPtr::new(arg2).write(&u32::from(ctx.process().family.is_reaper())).map(|()| 0)
        }
        // Nothing here can gain privileges by execve; but who asks is told what was set.
        pr::PR_SET_NO_NEW_PRIVS if arg2 == 1 && (arg3, arg4, arg5) == (0, 0, 0) => {
            task.no_new_privileges.store(true, Ordering::Relaxed);
            Ok(0)
        }
        pr::PR_GET_NO_NEW_PRIVS if (arg2, arg3, arg4, arg5) == (0, 0, 0, 0) => {
            Ok(usize::from(task.no_new_privileges.load(Ordering::Relaxed)))
        }
        pr::PR_SET_KEEPCAPS if arg2 <= 1 => {
            task.set_keep_capabilities(arg2 == 1);
            Ok(0)
        }
        pr::PR_GET_KEEPCAPS => Ok(usize::from(task.cred().keep_capabilities)),
        pr::PR_GET_SECUREBITS => Ok(0),
        pr::PR_GET_SECCOMP => Ok(0),
        pr::PR_SET_VMA if arg2 == 0 => prctl::set_area_name(ctx, arg3, arg4, UserPtr::new(arg5)),
        // There are no performance events that could be on.
        pr::PR_TASK_PERF_EVENTS_DISABLE | pr::PR_TASK_PERF_EVENTS_ENABLE => Ok(0),
        pr::PR_MCE_KILL if arg4 == 0 && arg5 == 0 => prctl::set_memory_failure_policy(ctx, arg2, arg3),
        pr::PR_MCE_KILL_GET if (arg2, arg3, arg4, arg5) == (0, 0, 0, 0) => {
            Ok(ctx.process().memory_failure_policy.load(Ordering::Relaxed) as usize)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `getrandom`: never blocks, the generator is seeded before the program starts.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
pub fn getrandom(_ctx: &Ctx<'_>, buffer: UserPtr<u8>, len: usize, flags: u32) -> SysResult {
    const KNOWN: u32 = 7;
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    if flags & !KNOWN != 0 || flags & (RANDOM | INSECURE) == RANDOM | INSECURE {
        return Err(Errno::EINVAL);
    }
    let mut slice = UserSlice::new(buffer, len)?;
    random::fill_sink(&mut slice)
}

macro_rules! id_getters {
    ($($(#[$doc:meta])* $name:ident => $which:ident;)*) => {
        $($(#[$doc])*
        ///
        /// # Errors
        /// None.
        pub fn $name(ctx: &Ctx<'_>) -> SysResult {
            Ok(ctx.task().own_id(OwnId::$which) as usize)
        })*
    };
}

id_getters! {
    /// `getuid`.
    getuid => Uid;
    /// `geteuid`.
    geteuid => Euid;
    /// `getgid`.
    getgid => Gid;
    /// `getegid`.
    getegid => Egid;
}

/// "Leave it": −1 in the calls that set several ids.
const KEEP: u32 = u32::MAX;

/// Whether the caller may take any user ids.
fn takes_any_user(ctx: &Ctx<'_>) -> bool {
    ctx.cred().capabilities.has(Capability::SetUid)
}

/// Whether the caller may take any group ids.
fn takes_any_group(ctx: &Ctx<'_>) -> bool {
    ctx.cred().capabilities.has(Capability::SetGid)
}

/// Sets real, effective and saved user ids; who may not take `any` may only use ids it has.
fn set_uids(ids: &mut Ids, any: bool, real: u32, effective: u32, saved: u32) -> Result<(), Errno> {
    let owned = [ids.ruid, ids.euid, ids.suid];
    let allowed = |id: u32| id == KEEP || any || owned.contains(&id);
    if ![real, effective, saved].into_iter().all(allowed) {
        return Err(Errno::EPERM);
    }
    for (slot, new) in [(&mut ids.ruid, real), (&mut ids.euid, effective), (&mut ids.suid, saved)] {
        if new != KEEP {
            *slot = new;
        }
    }
    ids.fsuid = ids.euid;
    Ok(())
}

/// As [`set_uids`], for groups.
fn set_gids(ids: &mut Ids, any: bool, real: u32, effective: u32, saved: u32) -> Result<(), Errno> {
    let owned = [ids.rgid, ids.egid, ids.sgid];
    let allowed = |id: u32| id == KEEP || any || owned.contains(&id);
    if ![real, effective, saved].into_iter().all(allowed) {
        return Err(Errno::EPERM);
    }
    for (slot, new) in [(&mut ids.rgid, real), (&mut ids.egid, effective), (&mut ids.sgid, saved)] {
        if new != KEEP {
            *slot = new;
        }
    }
    ids.fsgid = ids.egid;
    Ok(())
}

fn valid(id: u32) -> Result<u32, Errno> {
    if id == KEEP { Err(Errno::EINVAL) } else { Ok(id) }
}

/// `setuid`: with privilege all three ids, otherwise the effective one.
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn setuid(ctx: &Ctx<'_>, uid: u32) -> SysResult {
    let uid = valid(uid)?;
    let any = takes_any_user(ctx);
    ctx.task().change_ids(|ids| if any { set_uids(ids, any, uid, uid, uid) } else { set_uids(ids, any, KEEP, uid, KEEP) })?;
    Ok(0)
}

/// `setgid`.
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn setgid(ctx: &Ctx<'_>, gid: u32) -> SysResult {
    let gid = valid(gid)?;
    let any = takes_any_group(ctx);
    ctx.task().change_ids(|ids| if any { set_gids(ids, any, gid, gid, gid) } else { set_gids(ids, any, KEEP, gid, KEEP) })?;
    Ok(0)
}

/// `setreuid`.
///
/// # Errors
/// `EPERM`.
pub fn setreuid(ctx: &Ctx<'_>, real: u32, effective: u32) -> SysResult {
    let any = takes_any_user(ctx);
    ctx.task().change_ids(|ids| {
        let old_real = ids.ruid;
        set_uids(ids, any, real, effective, KEEP)?;
        if real != KEEP || effective != KEEP && effective != old_real {
            ids.suid = ids.euid;
        }
        Ok(0)
    })
}

/// `setregid`.
///
/// # Errors
/// `EPERM`.
pub fn setregid(ctx: &Ctx<'_>, real: u32, effective: u32) -> SysResult {
    let any = takes_any_group(ctx);
    ctx.task().change_ids(|ids| {
        let old_real = ids.rgid;
        set_gids(ids, any, real, effective, KEEP)?;
        if real != KEEP || effective != KEEP && effective != old_real {
            ids.sgid = ids.egid;
        }
        Ok(0)
    })
}

/// `setresuid`.
///
/// # Errors
/// `EPERM`.
pub fn setresuid(ctx: &Ctx<'_>, real: u32, effective: u32, saved: u32) -> SysResult {
    let any = takes_any_user(ctx);
    ctx.task().change_ids(|ids| set_uids(ids, any, real, effective, saved).map(|()| 0))
}

/// `setresgid`.
///
/// # Errors
/// `EPERM`.
pub fn setresgid(ctx: &Ctx<'_>, real: u32, effective: u32, saved: u32) -> SysResult {
    let any = takes_any_group(ctx);
    ctx.task().change_ids(|ids| set_gids(ids, any, real, effective, saved).map(|()| 0))
}

/// `getresuid`.
///
/// # Errors
/// `EFAULT`.
pub fn getresuid(ctx: &Ctx<'_>, real: UserPtr<u32>, effective: UserPtr<u32>, saved: UserPtr<u32>) -> SysResult {
    let ids = ctx.cred();
    real.write(&ids.ruid)?;
    effective.write(&ids.euid)?;
    saved.write(&ids.suid).map(|()| 0)
}

/// `getresgid`.
///
/// # Errors
/// `EFAULT`.
pub fn getresgid(ctx: &Ctx<'_>, real: UserPtr<u32>, effective: UserPtr<u32>, saved: UserPtr<u32>) -> SysResult {
    let ids = ctx.cred();
    real.write(&ids.rgid)?;
    effective.write(&ids.egid)?;
    saved.write(&ids.sgid).map(|()| 0)
}

/// `setfsuid`: returns the old value; a refused change is not an error.
///
/// # Errors
/// None.
pub fn setfsuid(ctx: &Ctx<'_>, uid: u32) -> SysResult {
    let cred = ctx.cred();
    if uid != KEEP && (takes_any_user(ctx) || [cred.ruid, cred.euid, cred.suid, cred.fsuid].contains(&uid)) {
        ctx.task().set_fsuid(uid);
    }
    Ok(cred.fsuid as usize)
}

/// `setfsgid`.
///
/// # Errors
/// None.
pub fn setfsgid(ctx: &Ctx<'_>, gid: u32) -> SysResult {
    let any = takes_any_group(ctx);
    ctx.task().change_ids(|ids| {
        let old = ids.fsgid;
        if gid != KEEP && (any || [ids.rgid, ids.egid, ids.sgid, ids.fsgid].contains(&gid)) {
            ids.fsgid = gid;
        }
        Ok(old as usize)
    })
}

/// `getgroups`: the supplementary groups, or with a size of 0 their number.
///
/// # Errors
/// `EINVAL` when they do not fit, `EFAULT`.
pub fn getgroups(ctx: &Ctx<'_>, size: i32, list: UserPtr<u32>) -> SysResult {
    let groups = ctx.cred().groups.clone();
    if size < 0 || size != 0 && (size as usize) < groups.len() {
        return Err(Errno::EINVAL);
    }
    if size != 0 {
        list.write_slice(&groups)?;
    }
    Ok(groups.len())
}

/// `setgroups`.
///
/// # Errors
/// `EPERM`, `EINVAL` for more than 65536, `EFAULT`.
pub fn setgroups(ctx: &Ctx<'_>, size: usize, list: UserPtr<u32>) -> SysResult {
    const NGROUPS_MAX: usize = 65536;
    if !takes_any_group(ctx) {
        return Err(Errno::EPERM);
    }
    if size > NGROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let groups: Vec<u32> = list.read_vec(size)?;
    ctx.task().change_ids(|ids| {
        ids.groups = groups;
        Ok(0)
    })
}

const CAP_VERSION_1: u32 = 0x1998_0330;
const CAP_VERSION_2: u32 = 0x2007_1026;
const CAP_VERSION_3: u32 = 0x2008_0522;

/// `capget`.
///
/// # Errors
/// `EINVAL` for an unknown version, `ESRCH`, `EFAULT`.
pub fn capget(ctx: &Ctx<'_>, header: UserPtr<CapHeader>, data: UserPtr<CapData>) -> SysResult {
    let (words, pid) = match cap_words(header) {
        // Who asks for the version only is not told of an error.
        Err(Errno::EINVAL) if data.is_null() => return Ok(0),
        other => other?,
    };
    let sets = match pid {
        0 => ctx.cred().capabilities,
        pid => process::find_task(pid as u32).ok_or(Errno::ESRCH)?.cred().capabilities,
    };
    for word in 0..if data.is_null() { 0 } else { words } {
        let bits = |set: u64| (set >> (32 * word)) as u32;
        let part = CapData { effective: bits(sets.effective), permitted: bits(sets.permitted), inheritable: bits(sets.inheritable) };
        data.add(word).write(&part)?;
    }
    Ok(0)
}

/// `capset`: kept and told, see [`crate::capabilities`].
///
/// # Errors
/// `EINVAL`, `EPERM` (also for another thread), `EFAULT`.
pub fn capset(ctx: &Ctx<'_>, header: UserPtr<CapHeader>, data: UserPtr<CapData>) -> SysResult {
    let (words, pid) = cap_words(header)?;
    if pid != 0 && pid as u32 != ctx.task().tid() {
        return Err(Errno::EPERM);
    }
    let mut new = Capabilities::default();
    for (word, part) in data.read_vec(words)?.iter().enumerate() {
        let place = |bits: u32| u64::from(bits) << (32 * word);
        new.effective |= place(part.effective);
        new.permitted |= place(part.permitted);
        new.inheritable |= place(part.inheritable);
    }
    ctx.task().set_capabilities(new).map(|()| 0)
}

/// Words per set in the version of the header, and whose sets; an unknown version is answered with the one we like best.
fn cap_words(header: UserPtr<CapHeader>) -> Result<(usize, i32), Errno> {
    let mut head = header.read()?;
    match head.version {
        CAP_VERSION_1 => Ok((1, head.pid)),
        CAP_VERSION_2 | CAP_VERSION_3 => Ok((2, head.pid)),
        _ => {
            head.version = CAP_VERSION_3;
            header.write(&head)?;
            Err(Errno::EINVAL)
        }
    }
}

/// `personality`: PER_LINUX only.
///
/// # Errors
/// `EINVAL`.
pub fn personality(_ctx: &Ctx<'_>, persona: u32) -> SysResult {
    const QUERY: u32 = u32::MAX;
    const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
    if persona == QUERY || persona & !ADDR_NO_RANDOMIZE == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `sethostname`, `setdomainname`: the names are given when the machine is made.
///
/// # Errors
/// `EPERM` always.
pub fn set_name(_ctx: &Ctx<'_>, _name: UserPtr<u8>, _len: usize) -> SysResult {
    Err(Errno::EPERM)
}

const _: () = assert!(size_of::<CapData>() == 12);
