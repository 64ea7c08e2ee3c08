//! What real-time threads leave to all others: one share for all CPUs, which each keeps by itself ([`RealTimeShare`] in `libs/runqueue`).

use super::cpu;
use crate::log::Notice;
use core::sync::atomic::{AtomicU64, Ordering};
use linux_abi::Errno;
use runqueue::RealTimeShare;

static SHARE: AtomicU64 = AtomicU64::new(RealTimeShare::DEFAULT.to_bits());
static HELD: Notice = Notice::new("RT throttling activated: real-time threads have used up their share of a CPU (kernel.sched_rt_runtime_us)");

/// How much of each CPU's time real-time threads may have while others are ready.
#[must_use]
pub fn real_time_share() -> RealTimeShare {
    RealTimeShare::from_bits(SHARE.load(Ordering::Relaxed))
}

/// Changes that to what `change` makes of it, on all CPUs.
///
/// # Errors
/// `EINVAL` if that is nothing.
pub fn change_real_time_share(change: impl Fn(RealTimeShare) -> Option<RealTimeShare>) -> Result<(), Errno> {
    let changed = |bits| change(RealTimeShare::from_bits(bits)).map(RealTimeShare::to_bits);
    SHARE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed).map_err(|_| Errno::EINVAL)?;
    cpu::review_all();
    Ok(())
}

/// A CPU holds real-time threads back. Context: any, the scheduler included.
pub(super) fn note_held() {
    HELD.give();
}
