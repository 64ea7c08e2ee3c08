//! [`Mutex`]: data behind `lockfree::mutex::RawMutex`. Lock and unlock are one uncontended atomic each.
#![expect(unsafe_code, reason = "the lock's owner may touch the data")]

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::backend::{RawMutex, loudly};

/// Mutual exclusion by sleeping. Not recursive. There is no poisoning: a panic ends the kernel.
pub struct Mutex<T: ?Sized> {
    raw: RawMutex,
    data: UnsafeCell<T>,
}

// SAFETY: the lock gives the data to one thread at a time.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}
// SAFETY: a mutex that can be moved is unlocked.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}

impl<T> Mutex<T> {
    const_unless_loom! {
        /// An unlocked mutex.
        #[must_use]
        pub const fn new(data: T) -> Self {
            Self { raw: RawMutex::new(), data: UnsafeCell::new(data) }
        }
    }

    /// The data.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock, sleeping while another thread has it.
    ///
    /// Context: may sleep; not with preemption disabled, not in interrupt handlers.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.raw.lock();
        MutexGuard {
            mutex: self,
            not_send: PhantomData,
        }
    }

    /// Takes the lock if it is free. Never sleeps (but dropping the guard may wake another thread).
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.raw.try_lock().then(|| MutexGuard {
            mutex: self,
            not_send: PhantomData,
        })
    }

    /// Takes the lock if it is free and nobody waits for it. For brief system calls: neither this nor dropping the guard touches a vector
    /// register.
    #[inline(always)]
    pub fn lock_briefly(&self) -> Option<BriefGuard<'_, T>> {
        self.raw.try_lock_idle().then(|| BriefGuard { mutex: self, not_send: PhantomData })
    }

    /// The data, without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// Whether some thread has the lock at this instant.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("Mutex").field(&&*guard).finish(),
            None => f.write_str("Mutex(<locked>)"),
        }
    }
}

/// The right to the data; dropping it unlocks.
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    not_send: PhantomData<*const ()>,
}

/// As [`MutexGuard`], from [`Mutex::lock_briefly`].
#[must_use = "the lock is released when the guard is dropped"]
pub struct BriefGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    not_send: PhantomData<*const ()>,
}

impl<T: ?Sized> Deref for BriefGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the lock.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T: ?Sized> DerefMut for BriefGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the lock, and it is borrowed mutably.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T: ?Sized> Drop for BriefGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        let raw = &self.mutex.raw;
        // SAFETY: the guard is the lock.
        if !unsafe { raw.try_unlock_idle() } {
            // SAFETY: the guard is the lock, still.
            loudly(|| unsafe { raw.unlock() });
        }
    }
}

// SAFETY: sharing the guard shares the data only.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The mutex of this guard.
    pub(crate) fn into_mutex(self) -> &'a Mutex<T> {
        core::mem::ManuallyDrop::new(self).mutex
    }
}

impl<T: ?Sized> Mutex<T> {
    pub(crate) fn raw(&self) -> &RawMutex {
        &self.raw
    }

    /// A guard for a lock that the caller owns.
    ///
    /// # Safety
    /// The calling thread owns the lock and has no other guard.
    pub(crate) unsafe fn owned(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            not_send: PhantomData,
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard is the lock.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the lock, and it is borrowed mutably.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the guard is the lock.
        unsafe { self.mutex.raw.unlock() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
