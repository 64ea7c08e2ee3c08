//! The core of the sleeping mutex: one word, a lock-free queue of on-stack records, and a duty that is handed on.
//!
//! # Theory
//! Problem: mutual exclusion in which no thread ever waits for another *except for the lock itself*, and then it
//! sleeps. A virtual CPU may be stopped between any two instructions; nobody but those who need the lock may notice.
//!
//! `word` holds three flags and, above them, the youngest record of a stack of waiters (a Treiber stack):
//! - `LOCKED`: some thread owns the mutex.
//! - `DUTY`: some thread has the *duty*: the right to touch the FIFO, and the obligation to see to it that the next
//!   waiter is not forgotten. At most one thread has it. This is the responsibility of Gidenstam & Papatriantafilou,
//!   "LFthreads: a lock-free thread library" (2007): whoever finds it taken leaves without waiting, because its
//!   holder cannot put it down without noticing the change.
//! - `QUEUED`: the FIFO is not empty. Exact whenever `DUTY` is clear.
//!
//! `fifo` holds the waiters taken off the stack, oldest first. Only the duty's holder touches it.
//!
//! Transitions of `word` (each one CAS; L, D, Q are the flags, S the stack):
//! | name | from | to | by |
//! |---|---|---|---|
//! | acquire | ¬L | L | anyone: barging is allowed whatever the other flags say |
//! | enqueue | L, S | L, record+S | a thread that found the mutex locked |
//! | release | L, ¬D, no waiter | ¬L | owner |
//! | release to duty | L, D | ¬L, D | owner; the duty's holder is awake and will look |
//! | take duty | L, ¬D, waiters | L, D, S=∅ | owner; S moves to the FIFO |
//! | wake | L, D | ¬L, D | owner; the duty goes to the record's thread with `WOKEN` |
//! | hand over | L, D | L, ¬D | owner; the lock itself goes to the record's thread with `HANDED` |
//! | acquire with duty | ¬L, D | L, ¬D | a woken thread |
//! | lose | L, D | L, ¬D, Q | a woken thread that somebody overtook; it is first in the FIFO again |
//!
//! Why no wake-up is lost: *¬L with waiters implies D*. `enqueue` needs L. The only step that clears L with waiters
//! present leaves D set, and D passes to a thread that has been told to run. That thread clears D only by taking the
//! lock, or by `lose`, whose CAS requires L: then the owner is still to come through `unlock` and will find Q.
//!
//! Bounded unfairness: a woken thread may be overtaken. When it has been [`MAX_LOSSES`] times, or for
//! [`MAX_WAIT_NS`], it goes back as *starving*, and the next `unlock` hands it the lock instead of releasing it. One
//! wake-up at a time is in flight, so a convoy costs no storm of context switches.
//!
//! Lifetimes: a record lives on its waiter's stack and is dead the moment its status leaves `WAITING`; hence the
//! waker moves the thread handle out first and stores the status last. The mutex itself may be freed as soon as it
//! is seen unlocked: `unlock` touches it no more after the CAS that clears L, except in `wake`, where the waiter,
//! still to be told, keeps it alive.
//!
//! Orderings: acquire/lock CAS (Acquire) pairs with every release CAS (Release); all other changes of `word` are
//! read-modify-writes, so they continue the release sequence. A record's fields are published by the Release of
//! `enqueue` or `lose` and read after the Acquire of `take duty`; ownership and duty travel with the Release store of
//! `status`, read with Acquire. There is no store-load (Dekker) pair, so no fence.
//!
//! Rejected: count + hand-off word as in OSv (strict FIFO: every contended pass costs a context switch); a futex word
//! (needs a hash table with a lock of its own); MCS with spinning.
#![expect(
    unsafe_code,
    reason = "records live on other threads' stacks and are linked by raw pointers"
)]

use core::marker::PhantomData;
use core::ptr;

use crate::shim::atomic::{AtomicPtr, AtomicU32, Ordering};
use crate::shim::cell::UnsafeCell;

/// How often a woken thread may be overtaken before the lock is handed to it (once in models).
pub const MAX_LOSSES: u32 = if cfg!(loom) { 1 } else { 8 };
/// For how long a woken thread may be overtaken, from the first time on, before the lock is handed to it.
pub const MAX_WAIT_NS: u64 = 500_000;

/// What a thread can do besides computing: sleep, and be woken.
pub trait Parker {
    /// Names a thread that waits. It need not keep the thread alive: the thread does not end before it was told.
    type Handle: Clone;
    /// The calling thread.
    fn current() -> Self::Handle;
    /// Sleeps until unparked, until the monotonic `deadline_ns` (`u64::MAX`: none), or spuriously. An unpark that
    /// came first is remembered and makes the call return at once.
    fn park(deadline_ns: u64);
    /// Stores `status` in `word` (Release), and wakes the thread, or makes its next `park` return at once.
    ///
    /// # Safety
    /// The thread waits for the store, so it and the word are alive until then; no longer.
    unsafe fn tell(thread: Self::Handle, word: *const AtomicU32, status: u32);
    /// Monotonic time; read only by threads that were woken and overtaken.
    fn now_ns() -> u64;
    /// Models only: a mistake that loom must find.
    #[cfg(loom)]
    const LOSES_BLINDLY: bool = false;
}

const LOCKED: usize = 1;
const DUTY: usize = 2;
const QUEUED: usize = 4;
const FLAGS: usize = LOCKED | DUTY | QUEUED;

const WAITING: u32 = 0;
const WOKEN: u32 = 1;
const HANDED: u32 = 2;
const RELEASED: u32 = 3;

/// What a waiter was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Told {
    /// Nothing yet (a time-out or a spurious wake-up).
    Nothing,
    /// Run and compete for the mutex; the duty comes with it.
    Woken,
    /// You own what you waited for.
    Handed,
    /// You are off the queue; start again.
    Released,
}

/// A waiting thread. Lives on its stack, pinned from the moment it is linked until it has been told something.
#[repr(align(8))]
pub struct WaitRecord<P: Parker> {
    next: UnsafeCell<*const WaitRecord<P>>,
    handle: UnsafeCell<Option<P::Handle>>,
    starving: UnsafeCell<bool>,
    status: AtomicU32,
}

// SAFETY: the fields pass from thread to thread by the protocol of the module: waiter, then (through `word` or the
// lock of a wait list) the waker, and back through `status`. The handle may be used from any thread.
unsafe impl<P: Parker> Sync for WaitRecord<P> where P::Handle: Send {}
// SAFETY: as above.
unsafe impl<P: Parker> Send for WaitRecord<P> where P::Handle: Send {}

impl<P: Parker> Default for WaitRecord<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Parker> WaitRecord<P> {
    /// A record that is not queued anywhere.
    #[must_use]
    pub fn new() -> Self {
        Self {
            next: UnsafeCell::new(ptr::null()),
            handle: UnsafeCell::new(None),
            starving: UnsafeCell::new(false),
            status: AtomicU32::new(WAITING),
        }
    }

    /// A record that waits for the calling thread.
    #[inline(always)]
    #[must_use]
    pub fn armed() -> Self {
        Self { handle: UnsafeCell::new(Some(P::current())), ..Self::new() }
    }

    /// Makes the record wait for the calling thread. Called by that thread while the record is linked nowhere.
    pub fn arm(&self) {
        // SAFETY: not linked, so only the calling thread looks at it.
        self.handle
            .with_mut(|slot| unsafe { *slot = Some(P::current()) });
        self.status.store(WAITING, Ordering::Relaxed);
    }

    /// What the waiter has been told so far.
    #[inline(always)]
    pub fn told(&self) -> Told {
        match self.status.load(Ordering::Acquire) {
            WAITING => Told::Nothing,
            WOKEN => Told::Woken,
            HANDED => Told::Handed,
            _ => Told::Released,
        }
    }

    /// The thread that waits.
    ///
    /// # Safety
    /// The record is armed, and nobody arms it anew meanwhile.
    pub unsafe fn thread(&self) -> P::Handle {
        // SAFETY: the caller's promise.
        unsafe { self.handle.with(|slot| (*slot).clone()).unwrap_unchecked() }
    }

    /// Sleeps until told something.
    pub fn wait(&self) -> Told {
        loop {
            match self.told() {
                Told::Nothing => P::park(u64::MAX),
                told => return told,
            }
        }
    }

    /// Ends the wait of a record that the caller has unlinked: gives it what it waited for.
    ///
    /// # Safety
    /// `record` is armed, alive, linked nowhere, and only the caller may tell it anything.
    pub unsafe fn hand(record: *const Self) {
        // SAFETY: passed on.
        unsafe { Self::tell(record, HANDED) }
    }

    /// Ends the wait of a record that the caller has unlinked, without giving it anything.
    ///
    /// # Safety
    /// As for [`WaitRecord::hand`].
    pub unsafe fn release(record: *const Self) {
        // SAFETY: passed on.
        unsafe { Self::tell(record, RELEASED) }
    }

    /// # Safety
    /// As for [`WaitRecord::hand`].
    #[inline(always)]
    unsafe fn tell(record: *const Self, status: u32) {
        // SAFETY: the record is alive, and ours until its thread is told; and armed, so it names a thread.
        unsafe {
            let thread = (*record).thread();
            P::tell(thread, &raw const (*record).status, status);
        }
    }
}

/// The waiters that have been taken off the stack, oldest first.
struct Fifo<P: Parker> {
    head: *const WaitRecord<P>,
    tail: *const WaitRecord<P>,
}

impl<P: Parker> Fifo<P> {
    /// Appends a stack (youngest first) behind everything that is here.
    ///
    /// # Safety
    /// The caller has the duty and owns the stack.
    unsafe fn append_stack(&mut self, stack: *const WaitRecord<P>) {
        let (mut reversed, mut at) = (ptr::null(), stack);
        while !at.is_null() {
            // SAFETY: records of the stack are alive and, since the stack was taken, ours.
            let next = unsafe { (*at).next.with_mut(|next| ptr::replace(next, reversed)) };
            reversed = at;
            at = next;
        }
        if reversed.is_null() {
            return;
        }
        if self.head.is_null() {
            self.head = reversed;
        } else {
            // SAFETY: the tail is alive: it is still waiting.
            unsafe { (*self.tail).next.with_mut(|next| *next = reversed) };
        }
        self.tail = stack;
    }

    /// Takes the oldest waiter, or null.
    ///
    /// # Safety
    /// The caller has the duty.
    unsafe fn pop_front(&mut self) -> *const WaitRecord<P> {
        let record = self.head;
        if !record.is_null() {
            // SAFETY: waiting, so alive.
            self.head = unsafe { (*record).next.with(|next| *next) };
        }
        record
    }

    /// Puts a waiter before everyone else.
    ///
    /// # Safety
    /// The caller has the duty; the record stays alive until it is told something.
    unsafe fn push_front(&mut self, record: &WaitRecord<P>) {
        // SAFETY: the record is linked nowhere else.
        record.next.with_mut(|next| unsafe { *next = self.head });
        if self.head.is_null() {
            self.tail = record;
        }
        self.head = record;
    }
}

/// A mutual exclusion lock without data. See the module for the protocol.
pub struct RawMutex<P: Parker> {
    word: AtomicPtr<WaitRecord<P>>,
    fifo: UnsafeCell<Fifo<P>>,
    parker: PhantomData<fn() -> P>,
}

// SAFETY: `word` is atomic, `fifo` is only touched by the holder of the duty.
unsafe impl<P: Parker> Sync for RawMutex<P> {}
// SAFETY: a mutex that can be moved has no waiters.
unsafe impl<P: Parker> Send for RawMutex<P> {}

type Word<P> = *mut WaitRecord<P>;

fn flags<P: Parker>(word: Word<P>) -> usize {
    word.addr() & FLAGS
}

fn stack<P: Parker>(word: Word<P>) -> *const WaitRecord<P> {
    word.map_addr(|addr| addr & !FLAGS)
}

fn with_flags<P: Parker>(word: Word<P>, flags: usize) -> Word<P> {
    word.map_addr(|addr| (addr & !FLAGS) | flags)
}

const fn bare<P: Parker>(flags: usize) -> Word<P> {
    ptr::without_provenance_mut(flags)
}

impl<P: Parker> Default for RawMutex<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Parker> RawMutex<P> {
    /// An unlocked mutex.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            word: AtomicPtr::new(ptr::null_mut()),
            fifo: UnsafeCell::new(Fifo {
                head: ptr::null(),
                tail: ptr::null(),
            }),
            parker: PhantomData,
        }
    }

    /// An unlocked mutex.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicPtr::new(ptr::null_mut()),
            fifo: UnsafeCell::new(Fifo {
                head: ptr::null(),
                tail: ptr::null(),
            }),
            parker: PhantomData,
        }
    }

    /// Takes the lock, sleeping while another thread has it.
    ///
    /// Context: may sleep; not with preemption disabled, not in interrupt handlers.
    #[inline(always)]
    pub fn lock(&self) {
        let free_to_locked =
            self.word
                .compare_exchange(bare(0), bare(LOCKED), Ordering::Acquire, Ordering::Relaxed);
        if free_to_locked.is_err() {
            self.lock_contended();
        }
    }

    /// Takes the lock if it is free and nobody waits for it: one step, which neither waits nor wakes.
    #[inline(always)]
    #[must_use]
    pub fn try_lock_idle(&self) -> bool {
        self.word.compare_exchange(bare(0), bare(LOCKED), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Releases the lock if nobody waits for it: one step, which wakes nobody. Else the caller still has it.
    ///
    /// # Safety
    /// The caller owns the lock.
    #[inline(always)]
    #[must_use]
    pub unsafe fn try_unlock_idle(&self) -> bool {
        self.word.compare_exchange(bare(LOCKED), bare(0), Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock if it is free.
    #[inline]
    #[must_use]
    pub fn try_lock(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while flags(word) & LOCKED == 0 {
            let locked = with_flags(word, flags(word) | LOCKED);
            match self.change(word, locked, Ordering::Acquire) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Whether nobody has the lock at this instant, and nobody waits for it. What the last owner did happened before.
    #[inline(always)]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.word.load(Ordering::Acquire).is_null()
    }

    /// Whether some thread has the lock at this instant.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        flags(self.word.load(Ordering::Relaxed)) & LOCKED != 0
    }

    /// Releases the lock.
    ///
    /// # Safety
    /// The caller owns the lock.
    #[inline(always)]
    pub unsafe fn unlock(&self) {
        let locked_to_free =
            self.word
                .compare_exchange(bare(LOCKED), bare(0), Ordering::Release, Ordering::Relaxed);
        if locked_to_free.is_err() {
            self.unlock_contended();
        }
    }

    /// Moves a waiting thread onto this mutex's queue without running it (wait morphing). False: the mutex is not
    /// locked, so nobody would wake it; the record is untouched and the caller must tell it to run.
    ///
    /// # Safety
    /// `record` is armed, alive, linked nowhere, only the caller may tell it anything, and its thread keeps the
    /// mutex alive and will go on with [`RawMutex::lock_queued`].
    #[must_use]
    pub unsafe fn enqueue_if_locked(&self, record: *const WaitRecord<P>) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while flags(word) & LOCKED != 0 {
            // SAFETY: linked nowhere, so ours.
            unsafe { (*record).next.with_mut(|next| *next = stack(word)) };
            let pushed = record.cast_mut().map_addr(|addr| addr | flags(word));
            match self.change(word, pushed, Ordering::Release) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Takes the lock for a thread whose record is, or was, on this mutex's queue.
    pub fn lock_queued(&self, record: &WaitRecord<P>) {
        let (mut losses, mut first_loss_ns) = (0, None);
        loop {
            let got = match record.wait() {
                Told::Handed => true,
                Told::Woken => self.acquire_or_lose(record, || {
                    losses += 1;
                    let now_ns = P::now_ns();
                    let since_ns = *first_loss_ns.get_or_insert(now_ns);
                    losses >= MAX_LOSSES || now_ns.saturating_sub(since_ns) >= MAX_WAIT_NS
                }),
                Told::Released | Told::Nothing => self.acquire_or_enqueue(record),
            };
            if got {
                return;
            }
        }
    }

    #[cold]
    fn lock_contended(&self) {
        if self.try_lock() {
            return;
        }
        let record = WaitRecord::new();
        if !self.acquire_or_enqueue(&record) {
            self.lock_queued(&record);
        }
    }

    /// Acquire, or enqueue: true if the lock is ours.
    fn acquire_or_enqueue(&self, record: &WaitRecord<P>) -> bool {
        record.arm();
        loop {
            // SAFETY: armed just now, on our stack, linked nowhere.
            if unsafe { self.enqueue_if_locked(record) } {
                return false;
            }
            if self.try_lock() {
                return true;
            }
        }
    }

    /// Acquire with duty, or lose: true if the lock is ours. The caller has the duty, and has it no more.
    fn acquire_or_lose(&self, record: &WaitRecord<P>, mut starving: impl FnMut() -> bool) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let free = flags(word) & LOCKED == 0;
            if !free {
                record.arm();
                // SAFETY: the record is linked nowhere: we were told `Woken`, or took it back below.
                record
                    .starving
                    .with_mut(|slot| unsafe { *slot = starving() });
                // SAFETY: we have the duty; the record lives until `lock_queued` is told the end.
                self.fifo
                    .with_mut(|fifo| unsafe { (*fifo).push_front(record) });
            }
            #[cfg(loom)]
            if P::LOSES_BLINDLY && !free {
                self.set_flags(|flags| (flags & LOCKED) | QUEUED);
                return false;
            }
            let next = with_flags(word, LOCKED | self.queued_flag());
            match self.change(word, next, Ordering::AcqRel) {
                Ok(()) => return free,
                Err(now) => word = now,
            }
            if !free {
                // SAFETY: we still have the duty; the first record is ours.
                self.fifo.with_mut(|fifo| unsafe { (*fifo).pop_front() });
            }
        }
    }

    #[cold]
    fn unlock_contended(&self) {
        let Some(stack) = self.release_or_take_duty() else {
            return;
        };
        // SAFETY: we have the duty, and took the stack with it.
        let record = self.fifo.with_mut(|fifo| unsafe {
            (*fifo).append_stack(stack);
            (*fifo).pop_front()
        });
        debug_assert!(
            !record.is_null(),
            "duty is taken only when there are waiters"
        );
        // SAFETY: the record waits, so it is alive, and it is ours since the duty is.
        if unsafe { (*record).starving.with(|starving| *starving) } {
            self.set_flags(|_| LOCKED | self.queued_flag());
            // SAFETY: popped by us.
            unsafe { WaitRecord::tell(record, HANDED) };
        } else {
            self.set_flags(|_| DUTY);
            // SAFETY: popped by us; it gets the duty.
            unsafe { WaitRecord::tell(record, WOKEN) };
        }
    }

    /// Release, release to duty, or take duty: then the stack of waiters.
    fn release_or_take_duty(&self) -> Option<*const WaitRecord<P>> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let take = flags(word) & DUTY == 0 && word.addr() != LOCKED;
            let (next, order) = if take {
                (bare(LOCKED | DUTY), Ordering::Acquire)
            } else {
                (with_flags(word, flags(word) & !LOCKED), Ordering::Release)
            };
            match self.change(word, next, order) {
                Ok(()) if take => return Some(stack(word)),
                Ok(()) => return None,
                Err(now) => word = now,
            }
        }
    }

    /// `QUEUED` if the FIFO has waiters. Only for the duty's holder.
    fn queued_flag(&self) -> usize {
        // SAFETY: the callers have the duty.
        let empty = self.fifo.with(|fifo| unsafe { (*fifo).head.is_null() });
        if empty { 0 } else { QUEUED }
    }

    /// Changes the flags and keeps the stack.
    fn set_flags(&self, new: impl Fn(usize) -> usize) {
        let mut word = self.word.load(Ordering::Relaxed);
        while let Err(now) =
            self.change(word, with_flags(word, new(flags(word))), Ordering::Release)
        {
            word = now;
        }
    }

    fn change(&self, from: Word<P>, to: Word<P>, order: Ordering) -> Result<(), Word<P>> {
        self.word
            .compare_exchange(from, to, order, Ordering::Relaxed)
            .map(drop)
    }
}
