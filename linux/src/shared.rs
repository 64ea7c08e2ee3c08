//! [`Shared`]: what processes may have in common without being threads of one, and what is of all threads of each: dispositions (`clone` with
//! `CLONE_SIGHAND`). What threads may have for themselves is in [`crate::held`].
//!
//! # Theory
//! A handle refers to one value, which counts its handles as users. A process changes what its handle refers to by [`Shared::own`] alone
//! (`execve`), when it has one thread. Others may look through the handle meanwhile (who sends a signal): so a handle keeps what it ever referred
//! to until it goes itself, which costs something only for values that were shared. A look is one load.
#![expect(unsafe_code, reason = "follows a pointer to what the handle keeps")]

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use sync::Mutex;

struct Common<T> {
    users: AtomicUsize,
    value: T,
}

/// A value that several processes may use.
pub struct Shared<T> {
    /// The last of `kept`.
    current: AtomicPtr<Common<T>>,
    kept: Mutex<Vec<Arc<Common<T>>>>,
    /// It counts no more.
    has_left: AtomicBool,
}

impl<T> Shared<T> {
    /// A value of one's own.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self::to(Arc::new(Common { users: AtomicUsize::new(1), value }))
    }

    fn to(common: Arc<Common<T>>) -> Self {
        Self { current: AtomicPtr::new(Arc::as_ptr(&common).cast_mut()), kept: Mutex::new(vec![common]), has_left: AtomicBool::new(false) }
    }

    fn common(&self) -> &Common<T> {
        // SAFETY: one of `kept`, which only grows while the handle exists.
        unsafe { &*self.current.load(Ordering::Acquire) }
    }

    fn refer_to(&self, common: Arc<Common<T>>) {
        let mut kept = self.kept.lock();
        self.current.store(Arc::as_ptr(&common).cast_mut(), Ordering::Release);
        kept.push(common);
    }

    /// Another user of the same value.
    #[must_use]
    pub fn share(&self) -> Self {
        let kept = self.kept.lock();
        let common = kept.last().expect("never empty").clone();
        common.users.fetch_add(1, Ordering::Relaxed);
        Self::to(common)
    }

    /// Whether there are other users. (Of the threads of one process, which use one handle, this says nothing.)
    #[must_use]
    pub fn has_other_users(&self) -> bool {
        self.common().users.load(Ordering::Acquire) > 1
    }

    /// If there are other users, goes on with a value of one's own, made by `copy`. Returns whether all others have left meanwhile: then the value
    /// that `copy` saw has nobody any more.
    ///
    /// # Errors
    /// Those of `copy`; nothing changes then.
    pub fn own<E>(&self, copy: impl FnOnce(&T) -> Result<T, E>) -> Result<Left<'_, T>, E> {
        if !self.has_other_users() {
            return Ok(Left::Used);
        }
        let old = self.common();
        let new = copy(&old.value)?;
        self.refer_to(Arc::new(Common { users: AtomicUsize::new(1), value: new }));
        Ok(Self::leave_behind(old))
    }

    fn leave_behind(old: &Common<T>) -> Left<'_, T> {
        if old.users.fetch_sub(1, Ordering::AcqRel) == 1 { Left::Unused(&old.value) } else { Left::Used }
    }

    /// The process ends. Once.
    pub fn leave(&self) -> Left<'_, T> {
        self.has_left.store(true, Ordering::Relaxed);
        Self::leave_behind(self.common())
    }

    /// Where the value is: the same for all its users.
    #[must_use]
    pub fn address(&self) -> usize {
        self.current.load(Ordering::Relaxed).addr()
    }
}

/// What became of a value that a user has left.
#[must_use]
pub enum Left<'a, T> {
    /// Somebody uses it.
    Used,
    /// Nobody does.
    Unused(&'a T),
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // A process that never began has nothing to see to.
        if !*self.has_left.get_mut() {
            let _dropped_with_its_last_handle = Self::leave_behind(self.common());
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.common().value
    }
}
