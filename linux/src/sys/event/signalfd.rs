//! signalfd: signals as bytes to read.

use alloc::sync::Arc;

use linux_abi::Errno;
use linux_abi::raw;
use linux_abi::signal::{SigInfo, SigSet};
use sync::{Interrupt, Mutex, WaitQueue};
use vfs::io::{Sink, Source};
use vfs::{Events, File, OpenFlags};

use super::counters::install_anonymous;
use crate::ctx::{Ctx, SysResult};
use crate::entry::with_task;
use crate::process::Task;
use crate::user_ptr::UserPtr;

/// Bytes of a `struct signalfd_siginfo`.
const RECORD: usize = 128;

/// Reads the calling thread's pending signals, as on Linux: whoever reads gets its own and its process's.
struct SignalFd {
    mask: Mutex<SigSet>,
    /// Woken when a signal arrives at the process that made this.
    arrivals: Arc<WaitQueue>,
}

impl SignalFd {
    fn take(&self, task: &Task) -> Option<SigInfo> {
        let mask = *self.mask.lock();
        task.take_signal(mask).map(|(_, info)| info)
    }

    fn read_for(&self, task: &Task, sink: &mut dyn Sink, flags: OpenFlags) -> SysResult {
        let first = if flags.nonblocking() {
            self.take(task).ok_or(Errno::EAGAIN)?
        } else {
            self.arrivals
                .wait_until(None, Interrupt::Allowed, || self.take(task))
                .map_err(|_| Errno::ERESTARTSYS)?
        };
        let mut done = sink.write(&record(&first))?;
        while sink.remaining() >= RECORD {
            let Some(info) = self.take(task) else { break };
            done += sink.write(&record(&info))?;
        }
        Ok(done)
    }
}

/// A signal as `struct signalfd_siginfo`.
fn record(info: &SigInfo) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let (low, high) = (info.fields[0] as u32, (info.fields[0] >> 32) as u32);
    put(0, &info.signo.to_le_bytes());
    put(4, &info.errno.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    if info.code == linux_abi::signal::code::SI_TIMER {
        put(24, &low.to_le_bytes());
        put(32, &high.to_le_bytes());
    } else {
        put(12, &low.to_le_bytes());
        put(16, &high.to_le_bytes());
    }
    put(40, &(info.fields[1] as u32).to_le_bytes());
    put(48, &info.fields[1].to_le_bytes());
    bytes
}

impl File for SignalFd {
    fn read(&self, _position: &mut u64, sink: &mut dyn Sink, flags: OpenFlags) -> SysResult {
        if sink.remaining() < RECORD {
            return Err(Errno::EINVAL);
        }
        with_task(|task| self.read_for(task, sink, flags)).unwrap_or(Err(Errno::EINVAL))
    }

    fn write(&self, _position: &mut u64, _source: &mut dyn Source, _flags: OpenFlags) -> SysResult {
        Err(Errno::EINVAL)
    }

    fn poll(&self) -> Events {
        let mask = *self.mask.lock();
        let pending = with_task(|task| !task.pending_signals().intersection(mask).is_empty()).unwrap_or(false);
        if pending { Events::READABLE } else { Events::empty() }
    }

    fn poll_queues(&self, visit: &mut dyn FnMut(&WaitQueue)) {
        visit(&self.arrivals);
    }
}

/// `signalfd4`: makes one, or changes the mask of `fd`.
///
/// # Errors
/// Those of `signalfd(2)`.
pub fn signalfd4(ctx: &Ctx<'_>, fd: i32, mask: UserPtr<SigSet>, size: usize, flags: u32) -> SysResult {
    if size != size_of::<SigSet>() || flags & !(raw::O_CLOEXEC | raw::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let mask = mask.read()?.without(SigSet::UNBLOCKABLE);
    if fd == -1 {
        let arrivals = ctx.process().signals.arrivals.clone();
        let file = Arc::new(SignalFd { mask: Mutex::new(mask), arrivals });
        return install_anonymous(ctx, file, "anon_inode:[signalfd]", flags);
    }
    let file = ctx.files().get(fd)?;
    let signal_fd = file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?;
    *signal_fd.mask.lock() = mask;
    signal_fd.arrivals.wake_all();
    Ok(fd as usize)
}

/// `signalfd`.
///
/// # Errors
/// Those of `signalfd(2)`.
pub fn signalfd(ctx: &Ctx<'_>, fd: i32, mask: UserPtr<SigSet>, size: usize) -> SysResult {
    signalfd4(ctx, fd, mask, size, 0)
}
