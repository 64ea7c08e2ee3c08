//! Calls that are not for programs here: they answer what Linux answers a program that is not permitted to make them, or whose kernel was
//! built or started without the facility. Programs know these answers and do without; doc/linux-abi.md lists which call gets which.
//!
//! The choice: where Linux has a switch that turns a facility off for everybody (`kernel.io_uring_disabled`, `kernel.unprivileged_bpf_disabled`,
//! `kernel.perf_event_paranoid`, `vm.unprivileged_userfaultfd`, `kernel.yama.ptrace_scope`, `landlock` absent from `lsm=`), the answer is that of the
//! switch. Facilities that a kernel can be built without (seccomp, keys, accounting, quotas) are `ENOSYS`. What changes the machine is `EPERM`.

use linux_abi::Errno;

use crate::ctx::{Ctx, SysResult};
use crate::process;

/// The facility was left out of the kernel.
///
/// # Errors
/// `ENOSYS`.
pub fn not_built(_: &Ctx<'_>) -> SysResult {
    Err(Errno::ENOSYS)
}

/// The facility is there and turned off.
///
/// # Errors
/// `EOPNOTSUPP`.
pub fn turned_off(_: &Ctx<'_>) -> SysResult {
    Err(Errno::EOPNOTSUPP)
}

/// Only for who has privileges that nobody has here.
///
/// # Errors
/// `EPERM`.
pub fn not_permitted(_: &Ctx<'_>) -> SysResult {
    Err(Errno::EPERM)
}

/// `perf_event_open`, with counters for nobody.
///
/// # Errors
/// `EACCES`.
pub fn no_access(_: &Ctx<'_>) -> SysResult {
    Err(Errno::EACCES)
}

/// `io_uring_enter`, `io_uring_register`: no descriptor is a ring.
///
/// # Errors
/// `EBADF`, `EOPNOTSUPP`.
pub fn no_ring(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    ctx.files().get(fd)?;
    Err(Errno::EOPNOTSUPP)
}

/// `landlock_restrict_self`, `open_by_handle_at` and others that take a descriptor which nobody can have.
///
/// # Errors
/// `EBADF`, `EPERM`.
pub fn no_such_descriptor(ctx: &Ctx<'_>, fd: i32) -> SysResult {
    ctx.files().get(fd)?;
    Err(Errno::EPERM)
}

/// `ptrace`: nobody may trace.
///
/// # Errors
/// `ESRCH`, `EPERM`.
pub fn ptrace(_: &Ctx<'_>, request: i64, pid: u32) -> SysResult {
    const TRACEME: i64 = 0;
    if request != TRACEME && process::find_task(pid).is_none() {
        return Err(Errno::ESRCH);
    }
    Err(Errno::EPERM)
}

/// `reboot`: programs end, machines are turned off by the host.
///
/// # Errors
/// `EINVAL` for wrong magic numbers, `EPERM`.
pub fn reboot(_: &Ctx<'_>, magic: u32, magic2: u32) -> SysResult {
    const MAGIC: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    Err(if magic == MAGIC && MAGIC2.contains(&magic2) { Errno::EPERM } else { Errno::EINVAL })
}

/// `ioprio_get`: what every process has that has set nothing.
///
/// # Errors
/// `EINVAL`, `ESRCH`.
pub fn ioprio_get(ctx: &Ctx<'_>, which: u32, who: u32) -> SysResult {
    find_whom(ctx, which, who)
}

/// `ioprio_set`: checked, without effect: no device queues by priority.
///
/// # Errors
/// `EINVAL`, `EPERM` (the real-time class), `ESRCH`.
pub fn ioprio_set(ctx: &Ctx<'_>, which: u32, who: u32, priority: u32) -> SysResult {
    check_io_priority(ctx, priority)?;
    find_whom(ctx, which, who)
}

/// Whether the caller may have such a priority.
///
/// # Errors
/// `EINVAL`, `EPERM` (the real-time class).
pub(crate) fn check_io_priority(ctx: &Ctx<'_>, priority: u32) -> Result<(), Errno> {
    const CLASS_SHIFT: u32 = 13;
    const NONE: u32 = 0;
    const REAL_TIME: u32 = 1;
    const IDLE: u32 = 3;
    let (class, level) = (priority >> CLASS_SHIFT, priority & 7);
    match class {
        NONE if level != 0 => Err(Errno::EINVAL),
        REAL_TIME if ctx.task().own_id(process::OwnId::Euid) != 0 => Err(Errno::EPERM),
        NONE..=IDLE => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether whom the two calls are about exists.
fn find_whom(ctx: &Ctx<'_>, which: u32, who: u32) -> SysResult {
    const PROCESS: u32 = 1;
    const GROUP: u32 = 2;
    const USER: u32 = 3;
    let exists = match which {
        PROCESS => who == 0 || process::find_task(who).is_some(),
        GROUP => who == 0 || who == ctx.process().process_group(),
        USER => who == 0 || who == ctx.task().own_id(process::OwnId::Uid),
        _ => return Err(Errno::EINVAL),
    };
    if exists { Ok(0) } else { Err(Errno::ESRCH) }
}
