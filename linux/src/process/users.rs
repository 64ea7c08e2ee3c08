//! How many threads a user has, for `RLIMIT_NPROC`.
//!
//! As on Linux, a process counts until somebody has waited for it, and each further thread while it lives. A process's [`Places`] hold its part of its
//! user's number. [`Places::claim`] is the one step that both looks at the limit and counts, so no number of CPUs gets past it together.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU64, Ordering};

use linux_abi::Errno;
use sync::Mutex;

/// Users that some process belongs to. An entry goes with the last reference to its user.
static USERS: Mutex<BTreeMap<u32, Weak<User>>> = Mutex::new(BTreeMap::new());

/// A user, by the real user id of processes.
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

/// Threads counted as a user's; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Places {
    user: Arc<User>,
    count: u64,
}

impl Places {
    /// One of the user `uid`, whatever the limit.
    pub(crate) fn first(uid: u32) -> Self {
        let user = User::of(uid);
        user.threads.fetch_add(1, Ordering::Relaxed);
        Self { user, count: 1 }
    }

    /// One more of the same user, if it has fewer than `limit`.
    ///
    /// # Errors
    /// `EAGAIN` when it has not.
    pub(super) fn claim(&self, limit: u64) -> Result<Self, Errno> {
        let more = |threads| (threads < limit).then_some(threads + 1);
        // Nothing else depends on the number.
        self.user.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::EAGAIN)?;
        Ok(Self { user: self.user.clone(), count: 1 })
    }

    /// Adds claimed ones, which may be of the user that this was before.
    pub(super) fn add(&mut self, more: Self) {
        self.user.threads.fetch_add(more.count, Ordering::Relaxed);
        self.count += more.count;
    }

    /// Gives one back.
    pub(super) fn give_back(&mut self) {
        debug_assert!(self.count > 0, "it was added");
        self.count -= 1;
        self.user.threads.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives all back.
    pub(super) fn clear(&mut self) {
        self.user.threads.fetch_sub(self.count, Ordering::Relaxed);
        self.count = 0;
    }

    /// The process now belongs to another user. No limit holds it back, as on Linux.
    pub(super) fn move_to(&mut self, uid: u32) {
        if uid != self.user.uid {
            let user = User::of(uid);
            user.threads.fetch_add(self.count, Ordering::Relaxed);
            self.user.threads.fetch_sub(self.count, Ordering::Relaxed);
            self.user = user;
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.clear();
    }
}
