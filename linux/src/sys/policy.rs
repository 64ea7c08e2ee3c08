//! NUMA policies and memory protection keys, on a machine with one node and without keys: arguments are checked as Linux does, so that
//! programs which try find out, and there is nothing else to do.

use addr::VirtAddr;
use linux_abi::Errno;

use crate::ctx::{Ctx, SysResult};
use crate::sys::mm;
use crate::user_ptr::UserPtr;

/// `MPOL_DEFAULT` to `MPOL_WEIGHTED_INTERLEAVE`.
const MODES: u32 = 7;
const DEFAULT: u32 = 0;
const PREFERRED: u32 = 1;
const LOCAL: u32 = 4;
const STATIC_NODES: u32 = 1 << 15;
const RELATIVE_NODES: u32 = 1 << 14;
const NUMA_BALANCING: u32 = 1 << 13;
/// Linux looks at no more bits than a page holds.
const MAX_NODE_BITS: u64 = 4096 * 8;

/// The nodes of a mask: `None` for none. Only node 0 exists.
fn nodes(mask: UserPtr<u64>, max: u64) -> Result<Option<u64>, Errno> {
    if max > MAX_NODE_BITS + 1 {
        return Err(Errno::EINVAL);
    }
    // One less than it says: set_mempolicy(2) counts from one.
    let bits = max.saturating_sub(1);
    if mask.is_null() || bits == 0 {
        return Ok(None);
    }
    let mut first = 0;
    for word in 0..bits.div_ceil(64) {
        let used = (bits - word * 64).min(64);
        let value = mask.add(word as usize).read()? & (u64::MAX >> (64 - used));
        if word == 0 {
            first = value;
        } else if value != 0 {
            return Err(Errno::EINVAL);
        }
    }
    if first & !1 != 0 { Err(Errno::EINVAL) } else { Ok((first != 0).then_some(first)) }
}

fn check(mode: u32, mask: UserPtr<u64>, max: u64) -> Result<(), Errno> {
    let flags = mode & (STATIC_NODES | RELATIVE_NODES | NUMA_BALANCING);
    let mode = mode & !flags;
    if mode >= MODES || flags & STATIC_NODES != 0 && flags & RELATIVE_NODES != 0 {
        return Err(Errno::EINVAL);
    }
    let empty = nodes(mask, max)?.is_none();
    match mode {
        DEFAULT | LOCAL if !empty || flags != 0 => Err(Errno::EINVAL),
        DEFAULT | LOCAL => Ok(()),
        PREFERRED if empty && flags & (STATIC_NODES | RELATIVE_NODES) != 0 => Err(Errno::EINVAL),
        PREFERRED => Ok(()),
        _ if empty => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// `set_mempolicy`.
///
/// # Errors
/// `EFAULT`, `EINVAL`.
pub fn set_mempolicy(_ctx: &Ctx<'_>, mode: u32, mask: UserPtr<u64>, max: u64) -> SysResult {
    check(mode, mask, max).map(|()| 0)
}

/// `mbind`.
///
/// # Errors
/// `EFAULT` (also for holes), `EINVAL`.
pub fn mbind(ctx: &Ctx<'_>, address: u64, len: u64, mode: u32, mask: UserPtr<u64>, max: u64, flags: u32) -> SysResult {
    /// `MPOL_MF_STRICT`, `MOVE`, `MOVE_ALL`.
    const FLAGS: u32 = 7;
    if flags & !FLAGS != 0 || !address.is_multiple_of(4096) {
        return Err(Errno::EINVAL);
    }
    check(mode, mask, max)?;
    if ctx.process().space().is_covered(VirtAddr(address), len) { Ok(0) } else { Err(Errno::EFAULT) }
}

/// `get_mempolicy`: the default policy, or node 0.
///
/// # Errors
/// `EFAULT`, `EINVAL`.
pub fn get_mempolicy(ctx: &Ctx<'_>, mode: UserPtr<i32>, mask: UserPtr<u64>, max: u64, address: u64, flags: u64) -> SysResult {
    const NODE: u64 = 1;
    const ADDR: u64 = 2;
    const MEMS_ALLOWED: u64 = 4;
    if flags & !(NODE | ADDR | MEMS_ALLOWED) != 0 || !mask.is_null() && max < 1 {
        return Err(Errno::EINVAL);
    }
    if flags & MEMS_ALLOWED != 0 && flags & (NODE | ADDR) != 0 || flags & ADDR == 0 && address != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & NODE != 0 && flags & ADDR == 0 {
        // Only for interleaving policies, which nobody has.
        return Err(Errno::EINVAL);
    }
    if flags & ADDR != 0 && ctx.process().space().find(VirtAddr(address)).is_none() {
        return Err(Errno::EFAULT);
    }
    mode.write_optional(&0)?;
    if !mask.is_null() {
        mask.write(&u64::from(flags & MEMS_ALLOWED != 0))?;
        (1..max.div_ceil(64)).try_for_each(|word| mask.add(word as usize).write(&0))?;
    }
    Ok(0)
}

/// `migrate_pages`: there is nowhere to go.
///
/// # Errors
/// `EFAULT`, `EINVAL`.
pub fn migrate_pages(_ctx: &Ctx<'_>, _pid: i32, max: u64, old: UserPtr<u64>, new: UserPtr<u64>) -> SysResult {
    nodes(old, max)?;
    nodes(new, max)?.ok_or(Errno::EINVAL).map(|_| 0)
}

/// `set_mempolicy_home_node`.
///
/// # Errors
/// `EINVAL`.
pub fn set_mempolicy_home_node(_ctx: &Ctx<'_>, address: u64, _len: u64, node: u64, flags: u64) -> SysResult {
    if flags != 0 || node != 0 || !address.is_multiple_of(4096) { Err(Errno::EINVAL) } else { Ok(0) }
}

/// `pkey_alloc`: the processor's keys are not used.
///
/// # Errors
/// `EINVAL`; `ENOSPC`.
pub fn pkey_alloc(_ctx: &Ctx<'_>, flags: u64, rights: u64) -> SysResult {
    const ACCESS_MASK: u64 = 3;
    if flags != 0 || rights & !ACCESS_MASK != 0 { Err(Errno::EINVAL) } else { Err(Errno::ENOSPC) }
}

/// `pkey_free`: none was given out.
///
/// # Errors
/// `EINVAL`.
pub fn pkey_free(_ctx: &Ctx<'_>, _key: i32) -> SysResult {
    Err(Errno::EINVAL)
}

/// `pkey_mprotect`: without a key (-1) as `mprotect`.
///
/// # Errors
/// `EINVAL` (any key); those of `mprotect`.
pub fn pkey_mprotect(ctx: &Ctx<'_>, address: u64, len: u64, protection: u32, key: i32) -> SysResult {
    if key == -1 { mm::mprotect(ctx, address, len, protection) } else { Err(Errno::EINVAL) }
}
