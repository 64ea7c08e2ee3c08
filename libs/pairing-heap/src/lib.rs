//! Intrusive pairing heap: an ordered collection that never allocates.
//!
//! Insert and look at the first are O(1); take the first and remove any are O(log n) amortised, and removing a node
//! that was inserted last, as a timer that is cancelled before it fires, is O(1).
//! Fredman, Sedgewick, Sleator, Tarjan, "The pairing heap: a new form of self-adjusting heap" (1986).
//!
//! Neighbours: `runqueue` orders ready threads with it, `timer` orders deadlines. A heap belongs to one CPU: nothing
//! here is atomic but the flag that tells whether a node is linked.
#![cfg_attr(not(test), no_std)]
#![expect(unsafe_code, reason = "intrusive links are raw pointers")]

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

/// The field that makes a type a node.
pub struct HeapLink {
    child: Cell<*const ()>,
    next: Cell<*const ()>,
    /// The parent of a first child, else the sibling before.
    prev: Cell<*const ()>,
    linked: AtomicBool,
}

// SAFETY: while a node is linked, only the owner of its heap touches the cells; while it is not, nobody does.
unsafe impl Sync for HeapLink {}
// SAFETY: as above.
unsafe impl Send for HeapLink {}

impl Default for HeapLink {
    fn default() -> Self {
        Self::new()
    }
}

impl HeapLink {
    /// An unlinked link.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            child: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            prev: Cell::new(ptr::null()),
            linked: AtomicBool::new(false),
        }
    }

    /// Whether the node is in a heap. Exact for the heap's owner, a hint for everyone else.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Relaxed)
    }
}

/// A type that can be in a heap.
///
/// # Safety
/// `heap_link` always returns the same field of `self`, which nothing else uses.
pub unsafe trait HeapNode {
    /// The link.
    fn heap_link(&self) -> &HeapLink;
    /// Whether `self` comes out strictly before `other`. A node's place must not change while it is linked, except
    /// for all nodes together and without changing their order.
    fn before(&self, other: &Self) -> bool;
}

/// The heap. It does not own its nodes.
pub struct PairingHeap<T: HeapNode> {
    root: *const T,
    len: usize,
}

// SAFETY: the heap is its owner's; the nodes go with it.
unsafe impl<T: HeapNode + Sync> Send for PairingHeap<T> {}

impl<T: HeapNode> Default for PairingHeap<T> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY of the dereferences in this block and below: a linked node is alive and in place (contract of `insert`), and
// its links are only touched through the heap it is in, which is borrowed mutably.
impl<T: HeapNode> PairingHeap<T> {
    /// An empty heap.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            root: ptr::null(),
            len: 0,
        }
    }

    /// How many nodes it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.root.is_null()
    }

    /// The node that comes out next.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        // SAFETY: a linked node is alive.
        unsafe { self.root.as_ref() }
    }

    /// Links a node.
    ///
    /// # Safety
    /// The node is in no heap, and stays alive and in place until it was popped or removed.
    ///
    /// # Panics
    /// If the node is linked.
    #[inline]
    pub unsafe fn insert(&mut self, node: *const T) {
        // SAFETY: the caller's promise.
        let l = unsafe { (*node).heap_link() };
        assert!(
            !l.linked.swap_relaxed(true),
            "a node is in one heap at a time"
        );
        l.child.set(ptr::null());
        l.next.set(ptr::null());
        l.prev.set(ptr::null());
        self.root = if self.root.is_null() { node } else { merge(self.root, node) };
        self.len += 1;
    }

    /// Unlinks and returns the first node.
    #[inline]
    pub fn pop(&mut self) -> Option<*const T> {
        let node = self.root;
        // SAFETY: a linked node is alive.
        let l = unsafe { node.as_ref() }?.heap_link();
        let children: *const T = l.child.get().cast();
        self.root = if children.is_null() { children } else { merge_siblings(children) };
        self.unlinked(l);
        Some(node)
    }

    /// Unlinks a node; false if it was not linked.
    ///
    /// # Safety
    /// If the node is linked, it is in this heap.
    pub unsafe fn remove(&mut self, node: &T) -> bool {
        let l = node.heap_link();
        if !l.is_linked() {
            return false;
        }
        if ptr::eq(self.root, node) {
            self.pop();
            return true;
        }
        let (prev, next): (*const T, *const T) = (l.prev.get().cast(), l.next.get().cast());
        let before = link(prev);
        if ptr::eq(before.child.get().cast(), node) {
            before.child.set(next.cast());
        } else {
            before.next.set(next.cast());
        }
        if !next.is_null() {
            link(next).prev.set(prev.cast());
        }
        self.root = merge(self.root, merge_siblings(l.child.get().cast()));
        self.unlinked(l);
        true
    }

    #[inline]
    fn unlinked(&mut self, l: &HeapLink) {
        l.linked.store(false, Ordering::Relaxed);
        self.len -= 1;
    }

    /// All nodes, a parent before its children.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        core::iter::successors(self.first(), |node| after(*node))
    }
}

/// The node after `node` in preorder. Every list of siblings is walked back once, so a walk costs O(n).
fn after<T: HeapNode>(node: &T) -> Option<&T> {
    let l = node.heap_link();
    let mut at = l.child.get();
    if at.is_null() {
        at = ptr::from_ref(node).cast();
        while link::<T>(at.cast()).next.get().is_null() {
            at = parent::<T>(at)?;
        }
        at = link::<T>(at.cast()).next.get();
    }
    // SAFETY: a linked node is alive as long as the heap is borrowed, as `node` shows.
    Some(unsafe { &*at.cast::<T>() })
}

fn parent<T: HeapNode>(mut at: *const ()) -> Option<*const ()> {
    loop {
        let prev = link::<T>(at.cast()).prev.get();
        if prev.is_null() {
            return None;
        }
        if ptr::eq(link::<T>(prev.cast()).child.get(), at) {
            return Some(prev);
        }
        at = prev;
    }
}

fn link<'a, T: HeapNode + 'a>(node: *const T) -> &'a HeapLink {
    // SAFETY: only called with linked nodes.
    unsafe { (*node).heap_link() }
}

/// Two heaps become one. Of equals, `a` stays first.
fn merge<T: HeapNode>(a: *const T, b: *const T) -> *const T {
    if a.is_null() || b.is_null() {
        return if a.is_null() { b } else { a };
    }
    // SAFETY: linked nodes are alive.
    let (top, low) = if unsafe { (*b).before(&*a) } {
        (b, a)
    } else {
        (a, b)
    };
    let (t, l) = (link(top), link(low));
    let child: *const T = t.child.get().cast();
    if !child.is_null() {
        link(child).prev.set(low.cast());
    }
    l.next.set(child.cast());
    l.prev.set(top.cast());
    t.child.set(low.cast());
    t.prev.set(ptr::null());
    t.next.set(ptr::null());
    top
}

/// Unlinks the first of a list of siblings.
fn split_first<T: HeapNode>(list: &mut *const T) -> *const T {
    let node = *list;
    if !node.is_null() {
        let l = link(node);
        *list = l.next.replace(ptr::null()).cast();
        l.prev.set(ptr::null());
    }
    node
}

/// The two passes that give the heap its name: siblings in pairs from the left, then the pairs from the right.
#[inline(never)]
fn merge_siblings<T: HeapNode>(mut rest: *const T) -> *const T {
    let mut pairs: *const T = ptr::null();
    while !rest.is_null() {
        let a = split_first(&mut rest);
        let pair = merge(a, split_first(&mut rest));
        link(pair).next.set(pairs.cast());
        pairs = pair;
    }
    let mut root = ptr::null();
    while !pairs.is_null() {
        let pair = split_first(&mut pairs);
        root = merge(pair, root);
    }
    root
}

trait SwapRelaxed {
    fn swap_relaxed(&self, value: bool) -> bool;
}

impl SwapRelaxed for AtomicBool {
    /// A load and a store: only the node's holder comes here.
    fn swap_relaxed(&self, value: bool) -> bool {
        let before = self.load(Ordering::Relaxed);
        self.store(value, Ordering::Relaxed);
        before
    }
}

#[cfg(test)]
mod tests;
