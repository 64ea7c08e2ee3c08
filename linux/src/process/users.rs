//! How many threads a user has, for `RLIMIT_NPROC`.
//!
//! As on Linux, a process counts until somebody has waited for it, and each further thread while it lives. So the [`Place`] of a process's first
//! thread is the process's. [`Place::claim`] is the one step that both looks at the limit and counts, so no number of CPUs gets past it together.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};

use linux_abi::Errno;
use sync::Mutex;

/// Users that some thread belongs to. An entry goes with the last reference to its user.
static USERS: Mutex<BTreeMap<u32, Weak<User>>> = Mutex::new(BTreeMap::new());

/// A user, by the real user id of threads.
#[derive(Debug)]
struct User {
    uid: u32,
    threads: AtomicU64,
}

impl User {
    fn of(uid: u32) -> Arc<Self> {
        let mut users = USERS.lock();
        if let Some(user) = users.get(&uid).and_then(Weak::upgrade) {
            return user;
        }
        let user = Arc::new(Self { uid, threads: AtomicU64::new(0) });
        users.insert(uid, Arc::downgrade(&user));
        user
    }
}

/// Whether the user `uid` has more than `limit` threads.
pub(super) fn is_crowded(uid: u32, limit: u64) -> bool {
    let user = USERS.lock().get(&uid).and_then(Weak::upgrade);
    user.is_some_and(|user| user.threads.load(Ordering::Relaxed) > limit)
}

impl Drop for User {
    fn drop(&mut self) {
        let mut users = USERS.lock();
        // It may have come back meanwhile, as another object.
        if users.get(&self.uid).is_some_and(|user| user.strong_count() == 0) {
            users.remove(&self.uid);
        }
    }
}

/// A thread's place among those of its user; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    user: Arc<User>,
}

impl Place {
    /// One of the user `uid`, whatever the limit.
    pub(crate) fn first(uid: u32) -> Self {
        let user = User::of(uid);
        user.threads.fetch_add(1, Ordering::Relaxed);
        Self { user }
    }

    /// Another one of the same user, if it has fewer than `limit`.
    ///
    /// # Errors
    /// `EAGAIN` when it has not.
    pub(super) fn claim(&self, limit: u64) -> Result<Self, Errno> {
        let more = |threads| (threads < limit).then_some(threads + 1);
        // Nothing else depends on the number.
        self.user.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::EAGAIN)?;
        Ok(Self { user: self.user.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.user.threads.fetch_sub(1, Ordering::Relaxed);
    }
}
