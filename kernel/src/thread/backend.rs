//! The `sync` crate's backend: its link-time symbols, defined by kernel threads.
#![expect(unsafe_code, reason = "counted references cross a link-time interface")]

use super::{Policy, Thread, ThreadRef, cpu};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use sync::ThreadHandle;

/// A handle of `thread`.
pub(super) fn handle(thread: &ThreadRef) -> ThreadHandle {
    // SAFETY: the reference is counted and now belongs to the handle.
    unsafe { ThreadHandle::from_raw(thread.clone().into_ptr().cast()) }
}

#[unsafe(no_mangle)]
fn sync_thread_current() -> NonNull<()> {
    super::current().into_ptr().cast()
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_clone(thread: NonNull<()>) {
    // SAFETY: the caller holds a reference, so the thread is alive.
    core::mem::forget(ThreadRef::share(unsafe { thread.cast::<Thread>().as_ref() }));
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_drop(thread: NonNull<()>) {
    // SAFETY: the caller gives its reference up.
    drop(unsafe { ThreadRef::from_ptr(thread.cast()) });
}

#[unsafe(no_mangle)]
fn sync_thread_this() -> NonNull<()> {
    super::with_current(|thread| NonNull::from(thread).cast())
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_tell(thread: NonNull<()>, word: *const AtomicU32, status: u32) {
    // SAFETY: the caller's promise.
    unsafe { cpu::tell(thread.cast(), word, status) }
}

#[unsafe(no_mangle)]
fn sync_thread_park(deadline_ns: u64) {
    super::park(deadline_ns);
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_unpark(thread: NonNull<()>) {
    // SAFETY: the caller holds a reference, so the thread is alive.
    unsafe { thread.cast::<Thread>().as_ref() }.unpark();
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_urgency(thread: NonNull<()>) -> u32 {
    // SAFETY: the caller's promise: the thread waits, so it is alive.
    match unsafe { thread.cast::<Thread>().as_ref() }.policy() {
        Policy::Fifo(priority) | Policy::RoundRobin(priority) => u32::from(priority),
        _ => 0,
    }
}

#[unsafe(no_mangle)]
fn sync_thread_interrupted() -> bool {
    // Whoever makes a signal deliverable sets the work word, then wakes the thread; so without work there is none.
    super::with_current(|thread| thread.block.work.load(Ordering::Acquire) != 0) && has_signal()
}

#[inline(never)]
fn has_signal() -> bool {
    super::with_current(|thread| thread.space.is_some()) && thread_interrupted()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sync_call_loudly(function: extern "C" fn(*mut ()), argument: *mut ()) {
    // SAFETY: the caller's promise.
    unsafe { arch_x86_64::syscall::loudly(function, argument) }
}

#[unsafe(no_mangle)]
fn sync_monotonic_ns() -> u64 {
    crate::clock::monotonic_ns()
}

unsafe extern "Rust" {
    /// Defined by the `linux` crate: a signal is to be delivered to the running program thread.
    safe fn thread_interrupted() -> bool;
}
