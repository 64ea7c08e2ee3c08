//! Those options of `prctl` that take more than a line: `info.rs` has the others.

use core::sync::atomic::Ordering;

use addr::VirtAddr;
use linux_abi::Errno;
use linux_abi::prctl as pr;

use crate::ctx::{Ctx, SysResult};
use crate::user_ptr::UserPtr;

/// `PR_MCE_KILL`: when a process is to hear of memory that has gone bad. No machine here reports any; but who asks is told what was set.
///
/// # Errors
/// `EINVAL`.
pub(super) fn set_memory_failure_policy(ctx: &Ctx<'_>, operation: u64, policy: u64) -> SysResult {
    let (operation, policy) = (u32::try_from(operation).map_err(|_| Errno::EINVAL)?, u32::try_from(policy).map_err(|_| Errno::EINVAL)?);
    let policy = match (operation, policy) {
        (pr::PR_MCE_KILL_CLEAR, 0) => pr::PR_MCE_KILL_DEFAULT,
        (pr::PR_MCE_KILL_SET, pr::PR_MCE_KILL_LATE | pr::PR_MCE_KILL_EARLY | pr::PR_MCE_KILL_DEFAULT) => policy,
        _ => return Err(Errno::EINVAL),
    };
    ctx.process().memory_failure_policy.store(policy, Ordering::Relaxed);
    Ok(0)
}

/// `PR_SET_VMA_ANON_NAME`: checked, and forgotten; /proc/self/maps does not show such names.
///
/// # Errors
/// `EFAULT`; `EINVAL` for a name that could not be shown, or a range that is none; `ENOMEM` for a hole.
pub(super) fn set_area_name(ctx: &Ctx<'_>, start: u64, len: u64, name: UserPtr<u8>) -> SysResult {
    const NAME_MAX: usize = 80;
    const PAGE: u64 = addr::PAGE_SIZE as u64;
    if !name.is_null() {
        let name = name.read_string(NAME_MAX, Errno::EINVAL)?;
        let shown = |byte: &u8| (b' '..=b'~').contains(byte) && !b"\\`$[]".contains(byte);
        if !name.iter().all(shown) {
            return Err(Errno::EINVAL);
        }
    }
    let len = len.checked_next_multiple_of(PAGE).filter(|len| start.is_multiple_of(PAGE) && start.checked_add(*len).is_some()).ok_or(Errno::EINVAL)?;
    if len == 0 || ctx.process().space().is_covered(VirtAddr(start), len) { Ok(0) } else { Err(Errno::ENOMEM) }
}
