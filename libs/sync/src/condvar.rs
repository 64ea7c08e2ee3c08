//! [`CondVar`]: wait for a change under a [`Mutex`], with wait morphing.
//!
//! # Theory
//! A signalled waiter needs the mutex before it can do anything. So `notify` does not run it: it moves the waiter's
//! record from the condition's list to the mutex's queue, where the owner's unlock finds it in turn. Only if the
//! mutex is free is the waiter told to run. A broadcast therefore wakes at most one thread and moves the rest.
//!
//! A waiter whose deadline passes removes itself; if it is not on the list any more, it was signalled, and waits for
//! the mutex as it must anyway. It keeps the mutex alive throughout, so the pointer in its tag is good.
#![expect(unsafe_code, reason = "a waiter's tag is the address of its mutex")]

use core::ptr;

use crate::backend::{RawMutex, WaitRecord, monotonic_ns, park};
use crate::mutex::{Mutex, MutexGuard};
use crate::wait_list::{List, WaitList, Waiter};
use lockfree::mutex::Told;

/// A condition variable. All its waiters at one time should use the same mutex.
pub struct CondVar {
    list: WaitList,
}

impl Default for CondVar {
    fn default() -> Self {
        Self::new()
    }
}

impl CondVar {
    const_unless_loom! {
        /// A condition nobody waits for.
        #[must_use]
        pub const fn new() -> Self {
            Self { list: WaitList::new() }
        }
    }

    /// Unlocks, sleeps until notified (or spuriously), locks again.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait_until(guard, u64::MAX).0
    }

    /// As [`CondVar::wait`], at most until the monotonic `deadline_ns`. True: the time ran out first.
    pub fn wait_until<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline_ns: u64,
    ) -> (MutexGuard<'a, T>, bool) {
        let mutex = guard.into_mutex();
        let waiter = Waiter::new(ptr::from_ref(mutex.raw()).expose_provenance());
        if mistaken!(CondVarUnlocksTooEarly) {
            // SAFETY: the guard was the lock, and is forgotten.
            unsafe { mutex.raw().unlock() };
        }
        // SAFETY: ours, on our stack; we stay until it was removed or told.
        self.list.with(|list| unsafe { list.push_back(&waiter) });
        if !mistaken!(CondVarUnlocksTooEarly) {
            // SAFETY: the guard was the lock, and is forgotten.
            unsafe { mutex.raw().unlock() };
        }
        let timed_out = self.sleep(&waiter, deadline_ns);
        self.relock(mutex, &waiter, timed_out);
        // SAFETY: locked by `relock`.
        (unsafe { mutex.owned() }, timed_out)
    }

    /// Sleeps until told something, or until the deadline; then the waiter is off the list (true).
    fn sleep(&self, waiter: &Waiter, deadline_ns: u64) -> bool {
        while waiter.record.told() == Told::Nothing {
            if deadline_ns != u64::MAX && monotonic_ns() >= deadline_ns {
                return self.list.with(|list| list.remove(waiter));
            }
            park((deadline_ns != u64::MAX).then_some(deadline_ns));
        }
        false
    }

    fn relock<T: ?Sized>(&self, mutex: &Mutex<T>, waiter: &Waiter, unlinked: bool) {
        if unlinked {
            mutex.raw().lock();
        } else {
            mutex.raw().lock_queued(&waiter.record);
        }
    }

    /// Lets the thread that has waited longest go on. Change the condition first, under the mutex.
    pub fn notify_one(&self) {
        self.list.with(morph_front);
    }

    /// Lets all waiting threads go on. Change the condition first, under the mutex.
    pub fn notify_all(&self) {
        self.list.with(|list| while morph_front(list) {});
    }
}

/// Moves the oldest waiter to its mutex's queue, or tells it to run. False: there is none.
fn morph_front(list: &List) -> bool {
    let Some(waiter) = list.pop_front() else {
        return false;
    };
    // SAFETY: the waiter is unlinked by us, so alive until told; until then its thread keeps the mutex alive, and it
    // goes on with `lock_queued`.
    unsafe {
        let record = &raw const (*waiter).record;
        let mutex = ptr::with_exposed_provenance::<RawMutex>((*waiter).tag);
        if !(*mutex).enqueue_if_locked(record) {
            WaitRecord::release(record);
        }
    }
    true
}
