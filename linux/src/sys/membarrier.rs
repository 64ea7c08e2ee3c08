//! `membarrier`: barriers on the CPUs where other threads run.
//!
//! The expedited commands interrupt every CPU (`kernel::barrier`); `GLOBAL` waits for a grace period, in which every CPU has switched
//! threads or idled.

use core::sync::atomic::Ordering;

use kernel::barrier::{self, Notice};
use linux_abi::Errno;
use linux_abi::raw::membarrier_cmd as Command;

use crate::ctx::{Ctx, SysResult};

const QUERY: u32 = Command::MEMBARRIER_CMD_QUERY as u32;
const GLOBAL: u32 = Command::MEMBARRIER_CMD_GLOBAL as u32;
const GLOBAL_EXPEDITED: u32 = Command::MEMBARRIER_CMD_GLOBAL_EXPEDITED as u32;
const REGISTER_GLOBAL_EXPEDITED: u32 = Command::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED as u32;
const PRIVATE_EXPEDITED: u32 = Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED as u32;
const REGISTER_PRIVATE_EXPEDITED: u32 = Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED as u32;
const SYNC_CORE: u32 = Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE as u32;
const REGISTER_SYNC_CORE: u32 = Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE as u32;
const RSEQ: u32 = Command::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ as u32;
const REGISTER_RSEQ: u32 = Command::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ as u32;
const GET_REGISTRATIONS: u32 = Command::MEMBARRIER_CMD_GET_REGISTRATIONS as u32;
/// With [`RSEQ`]: only on the CPU that the third argument names.
const FLAG_CPU: u32 = 1;

const REGISTRATIONS: u32 = REGISTER_GLOBAL_EXPEDITED | REGISTER_PRIVATE_EXPEDITED | REGISTER_SYNC_CORE | REGISTER_RSEQ;
const ALL: u32 = REGISTRATIONS | GLOBAL | GLOBAL_EXPEDITED | PRIVATE_EXPEDITED | SYNC_CORE | RSEQ | GET_REGISTRATIONS;

/// `membarrier`.
///
/// # Errors
/// `EINVAL` for an unknown command or flag, `EPERM` for a private command that the process has not registered for.
pub fn membarrier(ctx: &Ctx<'_>, command: u32, flags: u32, cpu: u32) -> SysResult {
    if flags & !FLAG_CPU != 0 || flags & FLAG_CPU != 0 && command != RSEQ {
        return Err(Errno::EINVAL);
    }
    let registered = &ctx.process().membarrier;
    let require = |registration: u32| {
        if registered.load(Ordering::Relaxed) & registration == 0 { Err(Errno::EPERM) } else { Ok(()) }
    };
    match command {
        QUERY => return Ok(ALL as usize),
        GET_REGISTRATIONS => return Ok(registered.load(Ordering::Relaxed) as usize),
        REGISTER_GLOBAL_EXPEDITED | REGISTER_PRIVATE_EXPEDITED | REGISTER_SYNC_CORE | REGISTER_RSEQ => {
            registered.fetch_or(command, Ordering::Relaxed);
        }
        GLOBAL => kernel::rcu::synchronize(),
        GLOBAL_EXPEDITED => barrier::everywhere(Notice::None),
        PRIVATE_EXPEDITED => {
            require(REGISTER_PRIVATE_EXPEDITED)?;
            barrier::everywhere(Notice::None);
        }
        SYNC_CORE => {
            require(REGISTER_SYNC_CORE)?;
            barrier::everywhere(Notice::None);
        }
        RSEQ => {
            require(REGISTER_RSEQ)?;
            match flags {
                FLAG_CPU => barrier::on_cpu(cpu as usize, Notice::LostCpu),
                _ => barrier::everywhere(Notice::LostCpu),
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
