//! What the loom models of several crates share: [`explore`], and the backend of the `sync` crate on modelled threads.
//!
//! The backend is the set of link-time symbols that `sync::backend` lists. A crate whose models use `sync` names this crate
//! (`use loom_support as _;` if nothing else), so that they are linked. Deadlines are 0 (passed) or none.
//!
//! Empty without `cfg(loom)`.
#![cfg(loom)]
#![expect(unsafe_code, reason = "defines the link-time symbols of the backend")]

use core::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::atomic::AtomicU32;
use loom::thread::{self, Thread};

/// Runs `model` in every schedule with at most `preemptions` preemptions (`None`: any number); returns how many schedules that were.
pub fn explore(preemptions: impl Into<Option<usize>>, model: impl Fn() + Sync + Send + 'static) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions.into();
    builder.max_branches = 20_000;
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let explored = count.load(Ordering::Relaxed);
    println!("{explored} executions");
    explored
}

/// The calling thread, boxed for the time of one wait.
fn boxed() -> NonNull<()> {
    NonNull::from(Box::leak(Box::new(thread::current()))).cast()
}

#[unsafe(no_mangle)]
fn sync_thread_current() -> NonNull<()> {
    boxed()
}

/// Nobody counts these: one that is never told stays.
#[unsafe(no_mangle)]
fn sync_thread_this() -> NonNull<()> {
    boxed()
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_clone(_: NonNull<()>) {
    unreachable!("no primitive clones a handle");
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_drop(handle: NonNull<()>) {
    // SAFETY: made by `sync_thread_current`, and never cloned.
    drop(unsafe { Box::from_raw(handle.cast::<Thread>().as_ptr()) });
}

#[unsafe(no_mangle)]
fn sync_thread_park(_: u64) {
    thread::park();
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_unpark(handle: NonNull<()>) {
    // SAFETY: the caller has the handle.
    unsafe { handle.cast::<Thread>().as_ref() }.unpark();
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_tell(thread: NonNull<()>, word: *const AtomicU32, status: u32) {
    // SAFETY: the thread waits for the store, so the word is there; a wait is told once, so the box is ours to free.
    let thread = unsafe {
        (*word).store(status, loom::sync::atomic::Ordering::Release);
        Box::from_raw(thread.cast::<Thread>().as_ptr())
    };
    thread.unpark();
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_urgency(_: NonNull<()>) -> u32 {
    0
}

#[unsafe(no_mangle)]
fn sync_thread_interrupted() -> bool {
    false
}

#[unsafe(no_mangle)]
extern "C" fn sync_call_loudly(function: extern "C" fn(*mut ()), argument: *mut ()) {
    function(argument);
}

#[unsafe(no_mangle)]
fn sync_monotonic_ns() -> u64 {
    1
}
