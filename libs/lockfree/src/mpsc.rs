//! Intrusive list with many pushers and one taker: cross-CPU wake-ups, remote frees.
//!
//! # Theory
//! Problem: any CPU, also in an interrupt handler, gives a CPU something to do, without waiting and without
//! allocating. The list is a Treiber stack that is only ever emptied as a whole, hence no ABA problem: nobody
//! compares a head with a `next` it read earlier.
//!
//! Transitions: *push* (CAS head → node, Release: publishes the node's fields and its link), *take all* (swap head →
//! null, Acquire: pairs with every push, since the pushes continue each other's release sequence). A node's link
//! belongs to its pusher until the CAS and to the taker from the swap on.
//!
//! Rejected: one list per pair of CPUs (64 × 64 heads to look at, for a CAS that is rarely contended); Vyukov's queue
//! (a pusher stopped between its two steps hides everything pushed later).
#![expect(unsafe_code, reason = "intrusive links are raw pointers")]

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::ptr;

use crate::shim::atomic::{AtomicPtr, Ordering};
use crate::shim::cell::UnsafeCell;

/// An owning pointer that a list can hold as a raw one.
///
/// # Safety
/// `into_raw` gives a pointer that stays valid, for shared access, until `from_raw` is called with it.
pub unsafe trait OwningPtr: Sized {
    /// What it points to.
    type Target;
    /// Gives up ownership.
    fn into_raw(self) -> *const Self::Target;
    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from `into_raw` and is taken back once.
    unsafe fn from_raw(raw: *const Self::Target) -> Self;
}

// SAFETY: Arc's documentation promises it.
unsafe impl<T> OwningPtr for Arc<T> {
    type Target = T;
    fn into_raw(self) -> *const T {
        Arc::into_raw(self)
    }
    unsafe fn from_raw(raw: *const T) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Arc::from_raw(raw) }
    }
}

// SAFETY: the box is not used between the two calls.
unsafe impl<T> OwningPtr for Box<T> {
    type Target = T;
    fn into_raw(self) -> *const T {
        Box::into_raw(self)
    }
    unsafe fn from_raw(raw: *const T) -> Self {
        // SAFETY: the caller's promise; `into_raw` made it from a mutable pointer.
        unsafe { Box::from_raw(raw.cast_mut()) }
    }
}

// SAFETY: a static reference is valid for ever.
unsafe impl<T> OwningPtr for &'static T {
    type Target = T;
    fn into_raw(self) -> *const T {
        self
    }
    unsafe fn from_raw(raw: *const T) -> Self {
        // SAFETY: the caller's promise.
        unsafe { &*raw }
    }
}

/// The field that makes a type listable.
pub struct MpscLink {
    next: UnsafeCell<*const ()>,
}

// SAFETY: the link belongs to one thread at a time, by the protocol of the module.
unsafe impl Sync for MpscLink {}
// SAFETY: as above.
unsafe impl Send for MpscLink {}

impl Default for MpscLink {
    fn default() -> Self {
        Self::new()
    }
}

impl MpscLink {
    /// An unlinked link.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: UnsafeCell::new(ptr::null()),
        }
    }

    /// An unlinked link.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            next: UnsafeCell::new(ptr::null()),
        }
    }
}

/// A type with an [`MpscLink`].
///
/// # Safety
/// `mpsc_link` always returns the same field of `self`, which nothing else uses.
pub unsafe trait MpscNode {
    /// The link.
    fn mpsc_link(&self) -> &MpscLink;
}

/// Whether the list was empty before a push: if not, somebody has already told the taker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Push {
    /// The list was empty: the taker may have to be told.
    WasEmpty,
    /// Other nodes wait already.
    WasNotEmpty,
}

/// The list. See the module.
pub struct MpscList<P: OwningPtr>
where
    P::Target: MpscNode,
{
    head: AtomicPtr<P::Target>,
    owns: PhantomData<P>,
}

// SAFETY: the list moves its nodes from thread to thread, and hands each out once.
unsafe impl<P: OwningPtr + Send> Sync for MpscList<P> where P::Target: MpscNode {}
// SAFETY: as above.
unsafe impl<P: OwningPtr + Send> Send for MpscList<P> where P::Target: MpscNode {}

impl<P: OwningPtr> Default for MpscList<P>
where
    P::Target: MpscNode,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<P: OwningPtr> MpscList<P>
where
    P::Target: MpscNode,
{
    /// An empty list.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// An empty list.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// Adds a node.
    ///
    /// Context: any, interrupt handlers included.
    ///
    /// # Safety
    /// The caller alone has the right to link the node: it is on no list, and nobody else pushes it at the same time.
    pub unsafe fn push(&self, node: P) -> Push {
        let node = node.into_raw();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is alive (we own it) and its link is ours until the CAS.
            unsafe {
                (*node)
                    .mpsc_link()
                    .next
                    .with_mut(|next| *next = head.cast_const().cast());
            }
            match self.head.compare_exchange(
                head,
                node.cast_mut(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) if head.is_null() => return Push::WasEmpty,
                Ok(_) => return Push::WasNotEmpty,
                Err(now) => head = now,
            }
        }
    }

    /// Whether nothing waits at this instant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// Takes everything, oldest first.
    pub fn take_all(&self) -> Taken<P> {
        if self.is_empty() {
            return Taken {
                head: ptr::null(),
                owns: PhantomData,
            };
        }
        let mut at: *const P::Target = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        let mut reversed = ptr::null();
        while !at.is_null() {
            // SAFETY: since the swap the chain and its links are ours.
            let next: *const () = unsafe {
                (*at)
                    .mpsc_link()
                    .next
                    .with_mut(|next| ptr::replace(next, reversed))
            };
            reversed = at.cast();
            at = next.cast();
        }
        Taken {
            head: reversed.cast(),
            owns: PhantomData,
        }
    }
}

impl<P: OwningPtr> Drop for MpscList<P>
where
    P::Target: MpscNode,
{
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

/// What [`MpscList::take_all`] took; an iterator, oldest first.
pub struct Taken<P: OwningPtr>
where
    P::Target: MpscNode,
{
    head: *const P::Target,
    owns: PhantomData<P>,
}

impl<P: OwningPtr> Iterator for Taken<P>
where
    P::Target: MpscNode,
{
    type Item = P;

    fn next(&mut self) -> Option<P> {
        let node = self.head;
        if node.is_null() {
            return None;
        }
        // SAFETY: the node was taken off the list by us and is given out once; its link is read before.
        unsafe {
            self.head = (*node).mpsc_link().next.with(|next| *next).cast();
            Some(P::from_raw(node))
        }
    }
}

impl<P: OwningPtr> Drop for Taken<P>
where
    P::Target: MpscNode,
{
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
