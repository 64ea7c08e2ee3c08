//! Scheduling as the program sees it: policies, priorities, nice values, CPUs.
//!
//! [`Attributes`] is what a thread has been given; [`Attributes::policy`] translates it to the run queue's terms
//! (`libs/runqueue`). A thread or process that is made inherits its maker's ([`Attributes::child`]).
//!
//! Who may: the rules of sched(7). A process whose effective user is root has every capability; others need the same user
//! and, to go up, `RLIMIT_RTPRIO` or `RLIMIT_NICE`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::size_of;

use kernel::percpu::cpu_count;
use kernel::thread::{self, Policy};
use linux_abi::sched::{SCHED_ATTR_SIZE_VER0, SchedAttr, SchedParam};
use linux_abi::time::Timespec;
use linux_abi::{Errno, raw};
use zerocopy::{FromZeros, IntoBytes};

use crate::ctx::{Ctx, SysResult};
use crate::process::{self, Process, Task};
use crate::user_ptr::{self, UserPtr};

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;
const RESET_ON_FORK: u32 = 0x4000_0000;

const FLAG_RESET_ON_FORK: u64 = 1;
const FLAG_KEEP_POLICY: u64 = 8;
const FLAG_KEEP_PARAMS: u64 = 16;
/// `SCHED_FLAG_UTIL_CLAMP_MIN` and `_MAX`: a kernel built without them refuses them by `EOPNOTSUPP`.
const FLAGS_UTIL_CLAMP: u64 = 0x60;
const FLAGS_ALL: u64 = 0x7f;

/// Bytes of the CPU masks we hand out.
const MASK_BYTES: usize = size_of::<u64>();
const NICE_MIN: i32 = -20;
const NICE_MAX: i32 = 19;
const PRIORITY_MAX: i32 = 99;

/// What a thread was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `SCHED_*`.
    policy: u32,
    /// 1 to 99 for the real-time policies, else 0.
    priority: u8,
    /// Kept, without effect, while the policy is a real-time one.
    nice: i8,
    reset_on_fork: bool,
}

impl Attributes {
    /// `SCHED_OTHER`, nice 0.
    pub const NORMAL: Self = Self { policy: SCHED_OTHER, priority: 0, nice: 0, reset_on_fork: false };

    /// What a child of a thread with these attributes begins with (sched(7), "Reset scheduling policy for child processes").
    #[must_use]
    pub fn child(self) -> Self {
        if !self.reset_on_fork {
            return self;
        }
        if self.is_real_time() {
            return Self::NORMAL;
        }
        Self { nice: self.nice.max(0), reset_on_fork: false, ..self }
    }

    /// In the run queue's terms.
    #[must_use]
    pub fn policy(self) -> Policy {
        match self.policy {
            SCHED_FIFO => Policy::Fifo(self.priority),
            SCHED_RR => Policy::RoundRobin(self.priority),
            SCHED_BATCH => Policy::Batch(self.nice),
            SCHED_IDLE => Policy::Idle(self.nice),
            _ => Policy::Normal(self.nice),
        }
    }

    /// `SCHED_*`, as `/proc/PID/stat` shows it.
    #[must_use]
    pub fn policy_number(self) -> u32 {
        self.policy
    }

    /// 1 to 99 for the real-time policies, else 0.
    #[must_use]
    pub fn rt_priority(self) -> u8 {
        self.priority
    }

    /// −20 to 19.
    #[must_use]
    pub fn nice(self) -> i8 {
        self.nice
    }

    fn is_real_time(self) -> bool {
        matches!(self.policy, SCHED_FIFO | SCHED_RR)
    }
}

/// Calls `f` on the thread `tid`, 0 being the caller.
fn with_task<R>(ctx: &Ctx<'_>, tid: i32, f: impl FnOnce(&Task) -> Result<R, Errno>) -> Result<R, Errno> {
    if tid == 0 || tid as u32 == ctx.task().tid() {
        return f(ctx.task());
    }
    f(&*process::find_task(tid as u32).ok_or(Errno::ESRCH)?)
}

/// Whether the caller has `CAP_SYS_NICE`.
fn is_privileged(ctx: &Ctx<'_>) -> bool {
    ctx.cred().euid == 0
}

/// Whether the caller's user is the target's.
fn same_owner(ctx: &Ctx<'_>, target: &Task) -> bool {
    let (own, other) = (ctx.cred().euid, target.cred());
    own == other.euid || own == other.ruid
}

/// Whether `RLIMIT_NICE` lets the process have `nice`.
fn limit_allows_nice(target: &Process, nice: i32) -> bool {
    target.limit(raw::RLIMIT_NICE).is_some_and(|limit| (20 - nice) as u64 <= limit.cur)
}

/// Checks a change from `old` to `new` as sched_setscheduler(2) says.
fn check_change(ctx: &Ctx<'_>, task: &Task, old: Attributes, new: Attributes) -> Result<(), Errno> {
    if is_privileged(ctx) {
        return Ok(());
    }
    let target = task.process();
    let nicer = |nice: i8| limit_allows_nice(target, i32::from(nice));
    let real_time = || {
        let limit = target.limit(raw::RLIMIT_RTPRIO).map_or(0, |limit| limit.cur);
        (new.policy == old.policy || limit != 0) && (new.priority <= old.priority || u64::from(new.priority) <= limit)
    };
    let allowed = same_owner(ctx, task)
        && (new.reset_on_fork || !old.reset_on_fork)
        && if new.is_real_time() { real_time() } else { new.nice >= old.nice || nicer(new.nice) }
        && (old.policy != SCHED_IDLE || new.policy == SCHED_IDLE || nicer(old.nice));
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}

/// Gives a thread other attributes, if the caller may.
fn change(ctx: &Ctx<'_>, task: &Task, new: impl FnOnce(Attributes) -> Result<Attributes, Errno>) -> Result<(), Errno> {
    task.change_sched(|old| {
        let new = new(old)?;
        check_change(ctx, task, old, new)?;
        Ok(new)
    })
}

/// A policy and priority that belong together.
fn checked(policy: u32, priority: i32) -> Result<(u32, u8), Errno> {
    let (min, max) = priority_range(policy)?;
    if (min..=max).contains(&priority) { Ok((policy, priority as u8)) } else { Err(Errno::EINVAL) }
}

fn priority_range(policy: u32) -> Result<(i32, i32), Errno> {
    match policy {
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => Ok((0, 0)),
        SCHED_FIFO | SCHED_RR => Ok((1, PRIORITY_MAX)),
        SCHED_DEADLINE => {
            log::debug!("SCHED_DEADLINE is not supported: EINVAL");
            Err(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `sched_yield`.
///
/// # Errors
/// None.
pub fn sched_yield(_ctx: &Ctx<'_>) -> SysResult {
    thread::yield_now();
    Ok(0)
}

/// `sched_getscheduler`.
///
/// # Errors
/// `EINVAL`, `ESRCH`.
pub fn sched_getscheduler(ctx: &Ctx<'_>, tid: i32) -> SysResult {
    if tid < 0 {
        return Err(Errno::EINVAL);
    }
    let flag = |attributes: Attributes| if attributes.reset_on_fork { RESET_ON_FORK } else { 0 };
    with_task(ctx, tid, |t| Ok((t.sched().policy | flag(t.sched())) as usize))
}

/// `sched_setscheduler`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EPERM`, `EFAULT`.
pub fn sched_setscheduler(ctx: &Ctx<'_>, tid: i32, policy: u32, param: UserPtr<SchedParam>) -> SysResult {
    if (policy as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let priority = read_param(tid, param)?;
    let (reset_on_fork, policy) = (policy & RESET_ON_FORK != 0, policy & !RESET_ON_FORK);
    with_task(ctx, tid, |t| {
        change(ctx, t, |old| {
            let (policy, priority) = checked(policy, priority)?;
            Ok(Attributes { policy, priority, reset_on_fork, ..old })
        })
    })?;
    Ok(0)
}

fn read_param(tid: i32, param: UserPtr<SchedParam>) -> Result<i32, Errno> {
    if tid < 0 || param.non_null().is_none() {
        return Err(Errno::EINVAL);
    }
    Ok(param.read()?.priority)
}

/// `sched_getparam`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EFAULT`.
pub fn sched_getparam(ctx: &Ctx<'_>, tid: i32, param: UserPtr<SchedParam>) -> SysResult {
    if tid < 0 || param.non_null().is_none() {
        return Err(Errno::EINVAL);
    }
    let priority = with_task(ctx, tid, |t| Ok(i32::from(t.sched().priority)))?;
    param.write(&SchedParam { priority }).map(|()| 0)
}

/// `sched_setparam`: another priority in the same policy.
///
/// # Errors
/// As `sched_setscheduler`.
pub fn sched_setparam(ctx: &Ctx<'_>, tid: i32, param: UserPtr<SchedParam>) -> SysResult {
    let priority = read_param(tid, param)?;
    with_task(ctx, tid, |t| {
        change(ctx, t, |old| Ok(Attributes { priority: checked(old.policy, priority)?.1, ..old }))
    })?;
    Ok(0)
}

/// `sched_get_priority_min`.
///
/// # Errors
/// `EINVAL`.
pub fn sched_get_priority_min(_ctx: &Ctx<'_>, policy: u32) -> SysResult {
    if policy == SCHED_DEADLINE { Ok(0) } else { priority_range(policy).map(|(min, _)| min as usize) }
}

/// `sched_get_priority_max`.
///
/// # Errors
/// `EINVAL`.
pub fn sched_get_priority_max(_ctx: &Ctx<'_>, policy: u32) -> SysResult {
    if policy == SCHED_DEADLINE { Ok(0) } else { priority_range(policy).map(|(_, max)| max as usize) }
}

/// `sched_rr_get_interval`: the quantum of a `SCHED_RR` thread; none for `SCHED_FIFO`; the length of a turn among equals else.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EFAULT`.
pub fn sched_rr_get_interval(ctx: &Ctx<'_>, tid: i32, out: UserPtr<Timespec>) -> SysResult {
    if tid < 0 {
        return Err(Errno::EINVAL);
    }
    let ns = with_task(ctx, tid, |t| {
        Ok(match t.sched().policy {
            SCHED_RR => thread::RR_QUANTUM_NS,
            SCHED_FIFO => 0,
            _ => thread::TURN_NS,
        })
    })?;
    out.write(&Timespec::from_ns(ns)).map(|()| 0)
}

/// `sched_setattr`.
///
/// # Errors
/// `EINVAL`, `E2BIG`, `ESRCH`, `EPERM`, `EFAULT`; `EOPNOTSUPP` for utilisation clamps.
pub fn sched_setattr(ctx: &Ctx<'_>, tid: i32, attr: UserPtr<u8>, flags: u32) -> SysResult {
    if attr.address() == 0 || tid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let attr = read_attr(attr)?;
    if (attr.policy as i32) < 0 || attr.flags & !FLAGS_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if attr.flags & FLAGS_UTIL_CLAMP != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    with_task(ctx, tid, |t| change(ctx, t, |old| from_attr(&attr, old)))?;
    Ok(0)
}

fn from_attr(attr: &SchedAttr, old: Attributes) -> Result<Attributes, Errno> {
    let reset_on_fork = attr.flags & FLAG_RESET_ON_FORK != 0;
    let policy = if attr.flags & FLAG_KEEP_POLICY != 0 { old.policy } else { attr.policy };
    if attr.flags & FLAG_KEEP_PARAMS != 0 {
        let (policy, priority) = checked(policy, i32::from(old.priority))?;
        return Ok(Attributes { policy, priority, reset_on_fork, ..old });
    }
    let (policy, priority) = checked(policy, i32::try_from(attr.priority).map_err(|_| Errno::EINVAL)?)?;
    // Real-time policies take no nice value along.
    let nice = if priority == 0 { attr.nice.clamp(NICE_MIN, NICE_MAX) as i8 } else { old.nice };
    Ok(Attributes { policy, priority, nice, reset_on_fork })
}

/// Reads a structure that may be older or newer than ours, as sched_setattr(2) says: what is missing is zero, what is unknown
/// must be, and on `E2BIG` the caller learns our size.
fn read_attr(pointer: UserPtr<u8>) -> Result<SchedAttr, Errno> {
    let size = UserPtr::<u32>::new(pointer.address());
    let given = match size.read()? as usize {
        0 => SCHED_ATTR_SIZE_VER0,
        given => given,
    };
    let too_big = || match size.write(&(size_of::<SchedAttr>() as u32)) {
        Ok(()) => Errno::E2BIG,
        Err(error) => error,
    };
    if !(SCHED_ATTR_SIZE_VER0..=addr::PAGE_SIZE).contains(&given) {
        return Err(too_big());
    }
    let bytes: Vec<u8> = pointer.read_vec(given)?;
    let known = given.min(size_of::<SchedAttr>());
    if bytes[known..].iter().any(|&byte| byte != 0) {
        return Err(too_big());
    }
    let mut attr = SchedAttr::new_zeroed();
    attr.as_mut_bytes()[..known].copy_from_slice(&bytes[..known]);
    Ok(attr)
}

/// `sched_getattr`.
///
/// # Errors
/// `EINVAL`, `ESRCH`, `EFAULT`.
pub fn sched_getattr(ctx: &Ctx<'_>, tid: i32, out: UserPtr<u8>, size: u32, flags: u32) -> SysResult {
    let size = size as usize;
    if out.address() == 0 || tid < 0 || flags != 0 || !(SCHED_ATTR_SIZE_VER0..=addr::PAGE_SIZE).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let sched = with_task(ctx, tid, |t| Ok(t.sched()))?;
    let known = size.min(size_of::<SchedAttr>());
    let attr = SchedAttr {
        size: known as u32,
        policy: sched.policy,
        flags: if sched.reset_on_fork { FLAG_RESET_ON_FORK } else { 0 },
        nice: if sched.is_real_time() { 0 } else { i32::from(sched.nice) },
        priority: u32::from(sched.priority),
        ..SchedAttr::default()
    };
    user_ptr::copy_out(out.address(), &attr.as_bytes()[..known]).map(|()| 0)
}

fn online_cpus() -> u64 {
    u64::MAX >> (64 - cpu_count())
}

/// `sched_getaffinity`: returns the bytes written.
///
/// # Errors
/// `EINVAL` for a buffer that is too short or no multiple of 8 bytes, `ESRCH`, `EFAULT`.
pub fn sched_getaffinity(ctx: &Ctx<'_>, tid: i32, size: usize, mask: UserPtr<u64>) -> SysResult {
    if size < MASK_BYTES || !size.is_multiple_of(MASK_BYTES) {
        return Err(Errno::EINVAL);
    }
    let affinity = with_task(ctx, tid, |t| Ok(t.thread().map_or(u64::MAX, |t| t.affinity())))?;
    mask.write(&(affinity & online_cpus()))?;
    Ok(MASK_BYTES)
}

/// `sched_setaffinity`.
///
/// # Errors
/// `EINVAL` when no running CPU is in the mask, `ESRCH`, `EPERM`, `EFAULT`.
pub fn sched_setaffinity(ctx: &Ctx<'_>, tid: i32, size: usize, mask: UserPtr<u8>) -> SysResult {
    let mut bytes = [0; MASK_BYTES];
    user_ptr::copy_in(mask.address(), &mut bytes[..size.min(MASK_BYTES)])?;
    let wanted = u64::from_le_bytes(bytes) & online_cpus();
    let thread = with_task(ctx, tid, |t| {
        if !is_privileged(ctx) && !same_owner(ctx, t) {
            return Err(Errno::EPERM);
        }
        if wanted == 0 {
            return Err(Errno::EINVAL);
        }
        t.thread().ok_or(Errno::ESRCH)
    })?;
    thread.set_affinity(wanted)?;
    thread.leave_forbidden_cpu();
    Ok(0)
}

/// The threads that `getpriority` and `setpriority` mean.
///
/// # Errors
/// `EINVAL`; `ESRCH` when there is none.
fn meant(ctx: &Ctx<'_>, which: u32, who: u32) -> Result<Vec<Arc<Task>>, Errno> {
    const PRIO_PROCESS: u32 = 0;
    const PRIO_PGRP: u32 = 1;
    const PRIO_USER: u32 = 2;
    let all = |wanted: &dyn Fn(&Process) -> bool| {
        process::all_processes().iter().filter(|p| wanted(p)).flat_map(|p| p.tasks()).collect()
    };
    let tasks: Vec<_> = match which {
        PRIO_PROCESS => {
            let tid = if who == 0 { ctx.task().tid() } else { who };
            process::find_task(tid).into_iter().collect()
        }
        PRIO_PGRP => {
            let group = if who == 0 { ctx.process().process_group() } else { who };
            all(&|p| p.process_group() == group)
        }
        PRIO_USER => {
            let user = if who == 0 { ctx.cred().ruid } else { who };
            process::all_processes().iter().flat_map(|p| p.tasks()).filter(|task| task.cred().ruid == user).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if tasks.is_empty() { Err(Errno::ESRCH) } else { Ok(tasks) }
}

/// `getpriority`: 20 − the lowest nice value.
///
/// # Errors
/// `EINVAL`, `ESRCH`.
pub fn getpriority(ctx: &Ctx<'_>, which: u32, who: u32) -> SysResult {
    let tasks = meant(ctx, which, who)?;
    let nice = tasks.iter().map(|t| t.sched().nice).min().unwrap_or(0);
    Ok((20 - i32::from(nice)) as usize)
}

/// `setpriority`.
///
/// # Errors
/// `EINVAL`, `ESRCH`; `EPERM` for another user's thread, `EACCES` for a lower nice value than `RLIMIT_NICE` allows.
pub fn setpriority(ctx: &Ctx<'_>, which: u32, who: u32, nice: i32) -> SysResult {
    let nice = nice.clamp(NICE_MIN, NICE_MAX) as i8;
    let mut result = Ok(0);
    for task in meant(ctx, which, who)? {
        let changed = task.change_sched(|old| {
            let privileged = is_privileged(ctx);
            if !privileged && !same_owner(ctx, &task) {
                return Err(Errno::EPERM);
            }
            if nice < old.nice && !privileged && !limit_allows_nice(task.process(), i32::from(nice)) {
                return Err(Errno::EACCES);
            }
            Ok(Attributes { nice, ..old })
        });
        if let Err(error) = changed {
            result = Err(error);
        }
    }
    result
}
