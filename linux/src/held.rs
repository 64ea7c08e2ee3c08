//! [`Held`]: what a thread has for itself or in common with others: descriptors, directories, what to undo of its semaphores (`clone` with
//! `CLONE_FILES`, `CLONE_FS`, `CLONE_SYSVSEM`; `unshare`).
//!
//! # Theory
//! A value counts its holders, the threads that use it, by itself ([`Common`]), since what it lets them do depends on their number. A thread's
//! handle refers to one value. The thread alone changes to which (`unshare`, `execve`, its end), so its own look ([`Held::own`]) is one
//! load. Others look when they like (`/proc`, `pidfd_getfd`): with the lock of all handles ([`CHANGES`]), and they keep what they found in memory. They are
//! no holders, and see it emptied when the last of those leaves it.
//!
//! The thread's own look is not counted. What its handle referred to last is therefore kept until it changes again, which a later system call
//! does, or until the handle goes. A value that nobody holds any more may still be found by who looked before, and is empty then.
#![expect(unsafe_code, reason = "a thread follows the pointer to what its handle keeps")]

use alloc::sync::Arc;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use sync::Mutex;

/// A value that counts the threads which hold it. It is made with one.
pub(crate) trait Common {
    /// One of its holders makes another.
    fn join(&self);

    /// A holder leaves it, and does not use it any more. Whether nobody has it then.
    #[must_use]
    fn leave(&self) -> bool;

    /// Whether it has several holders; asked by one of them.
    fn is_common(&self) -> bool;
}

/// Held while handles change, and while others look at them.
static CHANGES: Mutex<()> = Mutex::new(());

/// A thread's handle on a value that it may have in common with others. See the module.
pub(crate) struct Held<T: Common> {
    /// What it refers to. Owns a count of the `Arc`, as does the next one.
    current: AtomicPtr<T>,
    /// What it referred to before, or null.
    last: AtomicPtr<T>,
    /// The thread does not count as a holder any more.
    has_left: AtomicBool,
    owns: PhantomData<Arc<T>>,
}

/// Another count for what `pointer` refers to.
///
/// # Safety
/// It comes from an `Arc` that lives.
unsafe fn count<T>(pointer: *const T) -> Arc<T> {
    // SAFETY: the caller says so.
    unsafe {
        Arc::increment_strong_count(pointer);
        Arc::from_raw(pointer)
    }
}

impl<T: Common> Held<T> {
    /// A value that nobody else has.
    pub(crate) fn new(value: T) -> Self {
        Self::to(Arc::new(value))
    }

    fn to(value: Arc<T>) -> Self {
        Self {
            current: AtomicPtr::new(Arc::into_raw(value).cast_mut()),
            last: AtomicPtr::new(ptr::null_mut()),
            has_left: AtomicBool::new(false),
            owns: PhantomData,
        }
    }

    fn value(&self) -> Arc<T> {
        let _unchanged = CHANGES.lock();
        // SAFETY: the handle owns a count, as long as it is not changed.
        unsafe { count(self.current.load(Ordering::Relaxed)) }
    }

    /// The same value for another thread.
    ///
    /// # Safety
    /// The running thread is the one whose handle this is.
    pub(crate) unsafe fn share(&self) -> Self {
        // SAFETY: the handle owns a count, and only the running thread changes it.
        let value = unsafe { count(self.current.load(Ordering::Relaxed)) };
        value.join();
        Self::to(value)
    }

    /// What the handle refers to, for its thread.
    ///
    /// # Safety
    /// The running thread is the one whose handle this is, and uses the reference in this system call only.
    #[inline(always)]
    pub(crate) unsafe fn own(&self) -> &T {
        // SAFETY: it is kept until the thread changes the handle twice, of which a system call does one at most.
        unsafe { &*self.current.load(Ordering::Relaxed) }
    }

    /// What the handle refers to, for anybody; `None` when its thread has left it.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        Some(self.value()).filter(|_| !self.has_left.load(Ordering::Acquire))
    }

    /// Where the value is: the same for all its holders; 0 for none.
    pub(crate) fn address(&self) -> usize {
        self.get().map_or(0, |value| Arc::as_ptr(&value).addr())
    }

    /// If others hold the value, too, the thread goes on with one of its own, which `copy` makes. When all others have left meanwhile nobody has
    /// the old one any more, and it is returned.
    ///
    /// # Errors
    /// Those of `copy`; nothing changes then.
    pub(crate) fn part<E>(&self, copy: impl FnOnce(&T) -> Result<T, E>) -> Result<Option<Arc<T>>, E> {
        let value = self.value();
        if value.is_common() { copy(&value).map(|copy| self.replace(copy)) } else { Ok(None) }
    }

    /// The thread goes on with `new`. What it had is returned if nobody has that any more.
    pub(crate) fn replace(&self, new: T) -> Option<Arc<T>> {
        let new = Arc::into_raw(Arc::new(new)).cast_mut();
        let unchanged = CHANGES.lock();
        let old = self.current.swap(new, Ordering::Relaxed);
        let last = self.last.swap(old, Ordering::Relaxed);
        // SAFETY: the handle owns a count, now by `last`.
        let old = unsafe { count(old) };
        drop(unchanged);
        // SAFETY: its count was the handle's, and is nobody's any more.
        drop((!last.is_null()).then(|| unsafe { Arc::from_raw(last) }));
        old.leave().then_some(old)
    }

    /// The thread ends. What it had is returned if nobody has that any more.
    pub(crate) fn leave(&self) -> Option<Arc<T>> {
        if self.has_left.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: nobody but the handle's thread changes what it refers to, and that ends.
        let is_last = unsafe { self.own() }.leave();
        is_last.then(|| self.value())
    }

    /// The thread ends, and goes on as another one, whose handle is returned: `execve`.
    pub(crate) fn hand_on(&self) -> Self {
        self.has_left.store(true, Ordering::Release);
        Self::to(self.value())
    }
}

impl<T: Common> Drop for Held<T> {
    fn drop(&mut self) {
        // SAFETY: the count was the handle's.
        let value = unsafe { Arc::from_raw(*self.current.get_mut()) };
        // A thread that never began. What nobody has any more ends with the memory.
        if !*self.has_left.get_mut() {
            let _ended_with_its_memory = value.leave();
        }
        let last = *self.last.get_mut();
        // SAFETY: as above.
        drop((!last.is_null()).then(|| unsafe { Arc::from_raw(last) }));
    }
}
