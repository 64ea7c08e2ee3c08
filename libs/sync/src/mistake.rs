//! Models only: mistakes that loom must find. A broken twin of a model is the model with one of them.

use core::cell::Cell;

/// Where a primitive does the wrong thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// `WaitQueue`: a waiter looks at the condition before it is linked.
    QueueLooksTooEarly,
    /// `WaitTable`: a waiter compares before it is linked.
    TableLooksTooEarly,
    /// `CondVar`: a waiter unlocks the mutex before it is linked.
    CondVarUnlocksTooEarly,
    /// `RwLock`: the last reader does not pass the lock on.
    RwLockIsNotPassedOn,
    /// `Semaphore`: wakes before it adds the permits.
    SemaphoreWakesTooEarly,
    /// `OnceCell`: wakes before the value is there.
    OnceWakesTooEarly,
    /// `Completion`: wakes before it is done.
    CompletionWakesTooEarly,
}

std::thread_local! {
    // All threads of a model run on the operating system's thread of its test.
    static MADE: Cell<Mistake> = const { Cell::new(Mistake::None) };
}

/// From now on this test's primitives make `mistake`.
pub(crate) fn make(mistake: Mistake) {
    MADE.set(mistake);
}

/// Whether this is the mistake to make.
pub(crate) fn is_made(mistake: Mistake) -> bool {
    MADE.get() == mistake
}
