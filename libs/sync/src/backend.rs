//! What a thread is, by link-time symbols: `kernel::thread` defines them in the kernel, the `std` feature on the host.
//!
//! The symbols (all `extern "Rust"`, `#[unsafe(no_mangle)]`):
//! - `sync_thread_current() -> NonNull<()>`: a new counted reference to the calling thread.
//! - `sync_thread_clone(NonNull<()>)`, `sync_thread_drop(NonNull<()>)`: one more, one less.
//! - `sync_thread_park(deadline_ns)`: sleeps until unparked, until the deadline, or spuriously; an unpark that came
//!   first makes it return at once (a token, as in `std::thread::park`).
//! - `sync_thread_unpark(NonNull<()>)`: gives the token. Any context, interrupt handlers included.
//! - `sync_thread_this() -> NonNull<()>`: the calling thread, not counted, and
//!   `sync_thread_tell(NonNull<()>, *const AtomicU32, u32)`: stores the number (Release), then gives the token, to a thread that waits for
//!   the store and may be gone at once after it. Thread context.
//! - `sync_thread_urgency(NonNull<()>) -> u32`: the priority of a real-time thread, which waits; 0 for others.
//! - `sync_thread_interrupted() -> bool`: a signal is to be delivered to the calling thread. Whoever makes this true
//!   also unparks the thread.
//! - `sync_monotonic_ns() -> u64`.
//! - `sync_call_loudly(extern "C" fn(*mut ()), *mut ())`, `extern "C"`: calls the function, and keeps the vector registers meanwhile.
#![expect(unsafe_code, reason = "counted references cross a link-time interface")]

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use lockfree::mutex::Parker;
use lockfree::shim::atomic::AtomicU32;

unsafe extern "Rust" {
    safe fn sync_thread_current() -> NonNull<()>;
    fn sync_thread_clone(thread: NonNull<()>);
    fn sync_thread_drop(thread: NonNull<()>);
    safe fn sync_thread_park(deadline_ns: u64);
    fn sync_thread_unpark(thread: NonNull<()>);
    safe fn sync_thread_this() -> NonNull<()>;
    fn sync_thread_tell(thread: NonNull<()>, word: *const AtomicU32, status: u32);
    fn sync_thread_urgency(thread: NonNull<()>) -> u32;
    safe fn sync_thread_interrupted() -> bool;
    safe fn sync_monotonic_ns() -> u64;
}

unsafe extern "C" {
    fn sync_call_loudly(function: extern "C" fn(*mut ()), argument: *mut ());
}

/// Runs `act`, for the caller of which no vector register changes: what is rare in code that runs with a program's vector registers in place
/// (the kernel's brief system calls).
#[cold]
pub fn loudly<F: FnOnce()>(act: F) {
    extern "C" fn run<F: FnOnce()>(act: *mut ()) {
        // SAFETY: the only call, with the address of the variable below.
        if let Some(act) = unsafe { &mut *act.cast::<Option<F>>() }.take() {
            act();
        }
    }
    let mut act = Some(act);
    // SAFETY: the function fits the argument.
    unsafe { sync_call_loudly(run::<F>, (&raw mut act).cast()) }
}

/// A counted reference to a thread.
#[derive(Debug, PartialEq, Eq)]
pub struct ThreadHandle(NonNull<()>);

// SAFETY: the backend's threads are shared objects with an atomic count.
unsafe impl Send for ThreadHandle {}
// SAFETY: as above.
unsafe impl Sync for ThreadHandle {}

impl ThreadHandle {
    /// The calling thread.
    #[must_use]
    pub fn current() -> Self {
        Self(sync_thread_current())
    }

    /// Wakes the thread, or makes its next [`park`] return at once.
    ///
    /// Context: any, interrupt handlers included.
    pub fn unpark(&self) {
        // SAFETY: we hold a reference.
        unsafe { sync_thread_unpark(self.0) }
    }

    /// The backend's pointer; the handle keeps the reference.
    #[must_use]
    pub const fn as_raw(&self) -> NonNull<()> {
        self.0
    }

    /// Gives the reference away as the backend's pointer.
    #[must_use]
    pub fn into_raw(self) -> NonNull<()> {
        ManuallyDrop::new(self).0
    }

    /// Takes over a reference that the backend has counted.
    ///
    /// # Safety
    /// `raw` is a thread of the backend, with a reference that now belongs to the handle.
    #[must_use]
    pub const unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self(raw)
    }
}

impl Clone for ThreadHandle {
    fn clone(&self) -> Self {
        // SAFETY: we hold a reference.
        unsafe { sync_thread_clone(self.0) }
        Self(self.0)
    }
}

impl Drop for ThreadHandle {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and ends here.
        unsafe { sync_thread_drop(self.0) }
    }
}

/// Sleeps until unparked, until the monotonic deadline (`None`: for ever), or spuriously.
pub fn park(deadline_ns: Option<u64>) {
    sync_thread_park(deadline_ns.unwrap_or(u64::MAX));
}

/// Whether a signal is to be delivered to the calling thread.
#[must_use]
pub fn interrupted() -> bool {
    sync_thread_interrupted()
}

/// Monotonic time in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    sync_monotonic_ns()
}

/// The backend as the lock-free cores see it.
pub(crate) enum ThreadParker {}

/// A thread that waits, not counted.
#[derive(Clone, Copy)]
pub(crate) struct Waiting(NonNull<()>);

impl Waiting {
    /// The priority of a real-time thread; 0 for others.
    ///
    /// # Safety
    /// The thread waits.
    pub(crate) unsafe fn urgency(self) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { sync_thread_urgency(self.0) }
    }
}

// SAFETY: the backend's threads are shared objects.
unsafe impl Send for Waiting {}

impl Parker for ThreadParker {
    type Handle = Waiting;

    fn current() -> Waiting {
        Waiting(sync_thread_this())
    }

    fn park(deadline_ns: u64) {
        sync_thread_park(deadline_ns);
    }

    unsafe fn tell(thread: Waiting, word: *const AtomicU32, status: u32) {
        // SAFETY: the caller's promise.
        unsafe { sync_thread_tell(thread.0, word, status) }
    }

    fn now_ns() -> u64 {
        sync_monotonic_ns()
    }
}

pub(crate) type RawMutex = lockfree::mutex::RawMutex<ThreadParker>;
pub(crate) type WaitRecord = lockfree::mutex::WaitRecord<ThreadParker>;
