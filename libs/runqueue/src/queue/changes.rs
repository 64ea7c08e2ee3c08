//! What changes the places of queued threads: another policy, another CPU, the end of what real-time threads may have.
#![expect(unsafe_code, reason = "as the module above")]

use lockfree::mpsc::OwningPtr;

use super::{ByKey, Enqueue, RunQueue, Scheduled};
use crate::budget::{Look, RealTimeShare};
use crate::entity::shares;

impl<P: OwningPtr> RunQueue<P>
where
    P::Target: Scheduled,
{
    /// As [`RunQueue::account`], for the `stopped_ns` since the last account in which the CPU stood still: those are nobody's.
    pub fn account_stopped(&mut self, stopped_ns: u64) {
        self.budget.postpone(stopped_ns);
        self.account(None, self.charged_ns() + stopped_ns);
    }

    /// How much of the CPU's time real-time threads may have, from the next account on.
    pub fn set_real_time_share(&mut self, share: RealTimeShare) {
        self.budget.set_share(share);
    }

    /// Whether real-time threads have had their share and stand behind all others.
    #[must_use]
    pub const fn holds_real_time(&self) -> bool {
        self.budget.is_spent()
    }

    /// Real-time threads ran for `ran_ns` since the last look. If that spends their share, or a new period begins, every queued thread is put in its place.
    #[inline(never)]
    pub(super) fn look_at_budget(&mut self, ran_ns: u64) {
        if self.budget.look(ran_ns, self.now_ns) == Look::Same {
            return;
        }
        self.settle();
        let mut old = core::mem::take(&mut self.heap);
        while let Some(thread) = old.pop() {
            // SAFETY: alive by the reference that the queue was given.
            unsafe { &*thread }.0.sched_entity().hold(self.budget.is_spent());
            // SAFETY: as above, and linked no more.
            unsafe { self.heap.insert(thread) };
        }
    }

    /// Takes one thread that may go to another CPU; the first one of the queue only if it is the only one allowed, and
    /// real-time threads last. The caller makes it `Waking` and pushes it on the other's incoming list.
    pub fn take_for_migration(&mut self, mut allowed: impl FnMut(&P::Target) -> bool) -> Option<P> {
        self.settle();
        let found = {
            let mut candidates = self.heap.iter().filter(|thread| allowed(&thread.0));
            let first = candidates.next()?;
            let other =
                candidates.find(|thread| !thread.0.sched_entity().effective().is_real_time());
            core::ptr::from_ref(other.unwrap_or(first))
        };
        // SAFETY: found in this heap just now, so alive and linked in it.
        unsafe { self.heap.remove(&*found) };
        let thread = found.cast::<P::Target>();
        if core::ptr::eq(self.displaced, thread) {
            self.displaced = core::ptr::null();
        }
        // SAFETY: alive by the reference that is given out below.
        unsafe { &*thread }
            .sched_entity()
            .set_factor(self.factor, self.now_ns, self.cpu);
        // SAFETY: `enqueue` gave up a reference for every linked thread.
        Some(unsafe { P::from_raw(thread) })
    }

    /// Puts a queued thread in its new place after [`crate::SchedEntity::set_policy`]; false if it is not queued.
    ///
    /// # Safety
    /// If the thread is in a run queue, it is in this one.
    pub unsafe fn requeue(&mut self, thread: &P::Target) -> bool {
        self.settle();
        let node = core::ptr::from_ref(thread).cast::<ByKey<P::Target>>();
        // SAFETY: the wrapper is transparent; the caller's promise.
        if !unsafe { self.heap.remove(&*node) } {
            return false;
        }
        let entity = thread.sched_entity();
        let rank = entity.rank();
        entity.refresh_policy();
        entity.hold(self.budget.is_spent());
        // sched(7): whose priority falls goes first among its new equals, whose priority rises last.
        if entity.rank() > rank && !shares(entity.rank()) {
            self.first_sequence -= 1;
            entity.set_sequence(self.first_sequence);
        } else {
            self.number(entity, Enqueue::Woken);
        }
        // SAFETY: removed just now; the queue's reference still keeps it alive.
        unsafe { self.heap.insert(node) };
        true
    }

    /// Puts every queued thread in its new place whose policy was changed.
    pub fn requeue_changed(&mut self) {
        self.settle();
        loop {
            let changed = self.heap.iter().find(|thread| thread.0.sched_entity().policy_changed());
            let Some(changed) = changed.map(core::ptr::from_ref) else { return };
            // SAFETY: it is in this queue, which keeps it alive.
            let _queued = unsafe { self.requeue(&(*changed).0) };
        }
    }
}
