//! [`ThreadRef`], a counted reference to a thread, and the reaper that frees threads.
//!
//! The last reference may be dropped anywhere, in an interrupt handler too, but freeing a thread frees its stack and may
//! sleep. So the last drop only puts the thread on a lock-free list. Threads are freed from there by whoever makes the next one
//! ([`reap`]), which finds their stacks at once, or by the reaper thread: when there are many, or a CPU is about to be idle.
#![expect(unsafe_code, reason = "manual reference counting")]

use super::Thread;
use alloc::boxed::Box;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};
use lockfree::mpsc::{MpscLink, MpscList, MpscNode, OwningPtr};
use sync::{OnceCell, ThreadHandle};

/// A counted reference to a [`Thread`].
pub struct ThreadRef(NonNull<Thread>);

// SAFETY: threads are shared objects; the count is atomic.
unsafe impl Send for ThreadRef {}
// SAFETY: as above.
unsafe impl Sync for ThreadRef {}

impl ThreadRef {
    pub(super) fn from_box(thread: Box<Thread>) -> Self {
        Self(NonNull::from(Box::leak(thread)))
    }

    /// One more reference to a thread that is known to be alive.
    pub(super) fn share(thread: &Thread) -> Self {
        thread.references.fetch_add(1, Ordering::Relaxed);
        Self(NonNull::from(thread))
    }

    /// The thread's address.
    pub(super) fn as_ptr(&self) -> NonNull<Thread> {
        self.0
    }

    /// Gives the reference away as a pointer.
    pub(super) fn into_ptr(self) -> NonNull<Thread> {
        ManuallyDrop::new(self).0
    }

    /// Takes over a reference given away by [`ThreadRef::into_ptr`].
    ///
    /// # Safety
    /// The reference behind `thread` is taken over once.
    pub(super) unsafe fn from_ptr(thread: NonNull<Thread>) -> Self {
        Self(thread)
    }
}

impl Deref for ThreadRef {
    type Target = Thread;
    fn deref(&self) -> &Thread {
        // SAFETY: the reference keeps the thread alive.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for ThreadRef {
    fn clone(&self) -> Self {
        Self::share(self)
    }
}

impl Drop for ThreadRef {
    fn drop(&mut self) {
        if self.references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // Counted before it is on the list, so the count is never too small.
        let before = DEAD_COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: that was the last reference, so the thread and its link are ours.
        let _ = unsafe { DEAD.push(Box::from_raw(self.0.as_ptr())) };
        if before + 1 >= MANY {
            wake_reaper();
        }
    }
}

// SAFETY: the pointer is the reference itself.
unsafe impl OwningPtr for ThreadRef {
    type Target = Thread;
    fn into_raw(self) -> *const Thread {
        self.into_ptr().as_ptr()
    }
    unsafe fn from_raw(raw: *const Thread) -> Self {
        // SAFETY: the caller's promise: it came from `into_raw`.
        unsafe { Self::from_ptr(NonNull::new_unchecked(raw.cast_mut())) }
    }
}

// SAFETY: always the same field, used only by the incoming lists and the reaper's list.
unsafe impl MpscNode for Thread {
    fn mpsc_link(&self) -> &MpscLink {
        &self.link
    }
}

static DEAD: MpscList<Box<Thread>> = MpscList::new();
/// How many they are, or more.
static DEAD_COUNT: AtomicUsize = AtomicUsize::new(0);
static REAPER: OnceCell<ThreadHandle> = OnceCell::new();
/// So many ended threads do not wait for the next one to be made.
const MANY: usize = 8;

fn wake_reaper() {
    if let Some(reaper) = REAPER.get() {
        reaper.unpark();
    }
}

/// This CPU has nothing to do: time to free ended threads. Context: any.
pub(super) fn reap_when_idle() {
    if DEAD_COUNT.load(Ordering::Relaxed) != 0 {
        wake_reaper();
    }
}

/// Frees threads that have ended. Context: may sleep; no lock held.
pub fn reap() {
    if DEAD_COUNT.load(Ordering::Relaxed) != 0 {
        for thread in DEAD.take_all() {
            DEAD_COUNT.fetch_sub(1, Ordering::Relaxed);
            drop(thread);
        }
    }
}

/// Starts the thread that frees ended threads.
pub(crate) fn start_reaper() -> Result<(), linux_abi::Errno> {
    let reaper = super::spawn("reaper", super::Class::Normal, || {
        loop {
            reap();
            super::park(u64::MAX);
        }
    })?;
    let _first = REAPER.set(super::handle(&reaper));
    Ok(())
}
