//! Resource limits: reading and setting them, whom they are told to, and a thread's place among those of its user (`RLIMIT_NPROC`).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_abi::Errno;
use linux_abi::process::{RLIM_INFINITY, Rlimit};
use linux_abi::raw;
use sync::Mutex;

use super::users::{self, Place};
use super::{Cred, OwnId, Process, Task};

/// One for each resource.
pub(super) type Limits = [Rlimit; raw::RLIM_NLIMITS as usize];

/// Those of the first process.
pub(super) fn default_limits() -> Limits {
    let mut limits: Limits = [Rlimit { cur: RLIM_INFINITY, max: RLIM_INFINITY }; raw::RLIM_NLIMITS as usize];
    limits[raw::RLIMIT_STACK as usize].cur = 8 << 20;
    limits[raw::RLIMIT_CORE as usize].cur = 0;
    limits[raw::RLIMIT_NOFILE as usize] = Rlimit { cur: 1024, max: 1 << 20 };
    limits[raw::RLIMIT_NPROC as usize] = Rlimit { cur: 32768, max: 32768 };
    limits[raw::RLIMIT_SIGPENDING as usize] = Rlimit { cur: 32768, max: 32768 };
    limits[raw::RLIMIT_MEMLOCK as usize] = Rlimit { cur: 8 << 20, max: 8 << 20 };
    limits[raw::RLIMIT_MSGQUEUE as usize] = Rlimit { cur: 819_200, max: 819_200 };
    limits[raw::RLIMIT_NICE as usize] = Rlimit { cur: 0, max: 0 };
    limits[raw::RLIMIT_RTPRIO as usize] = Rlimit { cur: 0, max: 0 };
    limits
}

impl Process {
    /// A resource limit; `None` for a number that does not exist.
    #[must_use]
    pub fn limit(&self, resource: u32) -> Option<Rlimit> {
        self.limits.lock().get(resource as usize).copied()
    }

    /// Changes a resource limit for somebody with the credentials `by`.
    ///
    /// # Errors
    /// `EINVAL` for a number that does not exist or a soft limit above the hard one; `EPERM` for raising a hard limit
    /// without privilege.
    pub fn set_limit(&self, resource: u32, new: Rlimit, by: &Cred) -> Result<(), Errno> {
        let mut limits = self.limits.lock();
        let slot = limits.get_mut(resource as usize).ok_or(Errno::EINVAL)?;
        if new.cur > new.max {
            return Err(Errno::EINVAL);
        }
        if new.max > slot.max && by.euid != 0 {
            return Err(Errno::EPERM);
        }
        *slot = new;
        drop(limits);
        self.limit_space(resource, new.cur);
        self.look_at_writes();
        Ok(())
    }

    /// `RLIMIT_DATA`. As on Linux, a soft limit of 0 is not taken at its word.
    pub(crate) fn data_limit(&self) -> u64 {
        self.limit(raw::RLIMIT_DATA).map_or(RLIM_INFINITY, |limit| if limit.cur == 0 { limit.max } else { limit.cur })
    }

    /// Tells the address space of a limit that concerns it; not one that is only borrowed (`vfork`).
    fn limit_space(&self, resource: u32, bytes: u64) {
        let space = self.space();
        let borrowed = || self.parent().is_some_and(|parent| Arc::ptr_eq(&parent.space(), &space));
        match resource {
            raw::RLIMIT_AS if !borrowed() => space.set_size_limit(bytes),
            raw::RLIMIT_DATA if !borrowed() => space.set_data_limit(self.data_limit()),
            raw::RLIMIT_STACK if !borrowed() => space.set_stack_limit(bytes),
            _ => {}
        }
    }

    /// Limits have changed.
    pub(super) fn look_at_writes(&self) {
        let limited = self.limit(raw::RLIMIT_FSIZE).is_some_and(|limit| limit.cur != RLIM_INFINITY);
        self.limits_writes.store(limited, Ordering::Relaxed);
    }

    fn threads_limit(&self) -> u64 {
        self.limit(raw::RLIMIT_NPROC).map_or(RLIM_INFINITY, |limit| limit.cur)
    }
}

impl Task {
    /// Whether there is anything to see to when it writes to files: its process may not make them as large as it likes, or it is not privileged, and
    /// set-id bits go from what it writes.
    #[must_use]
    pub fn minds_writes(&self) -> bool {
        self.unprivileged.load(Ordering::Relaxed) || self.process().limits_writes.load(Ordering::Relaxed)
    }

    /// Where its place is: that of a process's first thread lasts as long as the process does to its parent.
    fn place(&self) -> &Mutex<Option<Place>> {
        if self.tid == self.process().pid { &self.process().place } else { &self.own_place }
    }

    /// A place for a new thread or process of the same user, within `RLIMIT_NPROC`. The privileged may have any number.
    ///
    /// # Errors
    /// `EAGAIN` when the user has too many.
    pub(crate) fn claim_place(&self) -> Result<Place, Errno> {
        let limit = if [OwnId::Uid, OwnId::Euid].into_iter().any(|which| self.own_id(which) == 0) { RLIM_INFINITY } else { self.process().threads_limit() };
        let place = self.place().lock().as_ref().map(|place| place.claim(limit)).ok_or(Errno::EAGAIN)??;
        self.place_in_doubt.store(false, Ordering::Relaxed);
        Ok(place)
    }

    /// The thread belongs to another user from now on. No limit holds it back, but the next `execve` looks ([`Task::check_place`]).
    pub(super) fn move_place(&self, old: u32, new: u32) {
        if old == new {
            return;
        }
        let crowded = users::is_crowded(new, self.process().threads_limit());
        self.place_in_doubt.store(new != 0 && crowded, Ordering::Relaxed);
        let left = self.place().lock().replace(Place::first(new));
        drop(left);
    }

    /// Whether a thread that came to a user who had too many, by `setuid`, may execute a program by now.
    ///
    /// # Errors
    /// `EAGAIN` when it may not.
    pub(crate) fn check_place(&self) -> Result<(), Errno> {
        if self.place_in_doubt.load(Ordering::Relaxed) && users::is_crowded(self.own_id(OwnId::Uid), self.process().threads_limit()) {
            return Err(Errno::EAGAIN);
        }
        self.place_in_doubt.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The thread is all that is left of its process, and becomes its first one: `execve`.
    pub(super) fn keep_place(&self) {
        let own = self.own_place.lock().take();
        if own.is_some() {
            let first = core::mem::replace(&mut *self.process().place.lock(), own);
            drop(first);
        }
    }

    /// The thread ends.
    pub(super) fn give_back_place(&self) {
        let own = self.own_place.lock().take();
        drop(own);
    }
}
