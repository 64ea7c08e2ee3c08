//! The blocking backend on host threads, for tests and host tools.
//!
//! It is hostile: every so often `park` returns for no reason, as the contract allows.
#![expect(unsafe_code, reason = "defines the link-time symbols of the backend")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::ThreadHandle;

#[derive(Default)]
struct Thread {
    token: Mutex<bool>,
    given: Condvar,
    interrupted: AtomicBool,
    parks: AtomicU32,
    urgency: AtomicU32,
}

std::thread_local! {
    static CURRENT: Arc<Thread> = Arc::default();
}

const SPURIOUS_EVERY: u32 = 7;

/// Makes a thread see a pending signal, as the kernel does: flag, then unpark.
pub fn interrupt(thread: &ThreadHandle) {
    let raw = thread.clone().into_raw();
    // SAFETY: handles of this backend are made from `Arc<Thread>`; the clone's reference ends here.
    let shared = unsafe { Arc::from_raw(raw.cast::<Thread>().as_ptr()) };
    shared.interrupted.store(true, Ordering::SeqCst);
    thread.unpark();
}

/// Clears the calling thread's pending signal.
pub fn clear_interrupt() {
    CURRENT.with(|thread| thread.interrupted.store(false, Ordering::SeqCst));
}

/// Gives the calling thread a real-time priority; 0: none.
pub fn set_urgency(urgency: u32) {
    CURRENT.with(|thread| thread.urgency.store(urgency, Ordering::Relaxed));
}

impl Thread {
    fn park(&self, deadline_ns: u64) {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if self
            .parks
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(SPURIOUS_EVERY)
        {
            return;
        }
        while !*token {
            let now = sync_monotonic_ns();
            if now >= deadline_ns {
                return;
            }
            let left = Duration::from_nanos((deadline_ns - now).min(1_000_000_000));
            (token, _) = self
                .given
                .wait_timeout(token, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *token = false;
    }

    fn unpark(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.given.notify_one();
    }
}

#[unsafe(no_mangle)]
fn sync_thread_current() -> NonNull<()> {
    let thread = CURRENT.with(Arc::clone);
    NonNull::new(Arc::into_raw(thread).cast_mut().cast()).expect("an Arc is not null")
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_clone(thread: NonNull<()>) {
    // SAFETY: the caller holds a reference made by `sync_thread_current`.
    unsafe { Arc::increment_strong_count(thread.cast::<Thread>().as_ptr()) }
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_drop(thread: NonNull<()>) {
    // SAFETY: the caller gives its reference up.
    unsafe { Arc::decrement_strong_count(thread.cast::<Thread>().as_ptr()) }
}

#[unsafe(no_mangle)]
fn sync_thread_park(deadline_ns: u64) {
    CURRENT.with(Arc::clone).park(deadline_ns);
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_unpark(thread: NonNull<()>) {
    // SAFETY: the caller holds a reference.
    unsafe { thread.cast::<Thread>().as_ref() }.unpark();
}

#[unsafe(no_mangle)]
fn sync_thread_this() -> NonNull<()> {
    CURRENT.with(|thread| NonNull::from(&**thread).cast())
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_tell(thread: NonNull<()>, word: *const AtomicU32, status: u32) {
    // SAFETY: the thread, and with it its own reference and the word, stays until the store.
    let thread = unsafe {
        Arc::increment_strong_count(thread.cast::<Thread>().as_ptr());
        let thread = Arc::from_raw(thread.cast::<Thread>().as_ptr());
        (*word).store(status, Ordering::Release);
        thread
    };
    thread.unpark();
}

#[unsafe(no_mangle)]
unsafe fn sync_thread_urgency(thread: NonNull<()>) -> u32 {
    // SAFETY: the caller's promise: the thread is alive.
    unsafe { thread.cast::<Thread>().as_ref() }.urgency.load(Ordering::Relaxed)
}

#[unsafe(no_mangle)]
fn sync_thread_interrupted() -> bool {
    CURRENT.with(|thread| thread.interrupted.load(Ordering::SeqCst))
}

#[unsafe(no_mangle)]
extern "C" fn sync_call_loudly(function: extern "C" fn(*mut ()), argument: *mut ()) {
    function(argument);
}

#[unsafe(no_mangle)]
fn sync_monotonic_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).expect("584 years have not passed")
}
