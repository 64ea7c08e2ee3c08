//! Nodes of the treap, their links, and what they are allocated from.
//!
//! Everything here is about single nodes; [`crate::tree`] has the theory. A node belongs to one [`Tree`](crate::tree::Tree), which reaches
//! it by raw pointers: through `&Tree` nothing is changed, through `&mut Tree` by its owner alone.
#![expect(unsafe_code, reason = "nodes have links to parents and neighbours")]

use crate::{Area, AreaFlags};
use alloc::alloc::{Layout, alloc, dealloc};
use core::ptr;

/// One area.
pub(crate) struct Node<B> {
    pub(crate) area: Area<B>,
    /// Bytes that may be used between the area before and this one, at most [`COUNTED`]: a guard gap belongs to the area.
    gap: u64,
    /// Largest `gap` in the subtree.
    pub(crate) largest: u64,
    priority: u32,
    parent: *mut Self,
    pub(crate) left: *mut Self,
    pub(crate) right: *mut Self,
    /// Neighbours in the order of addresses.
    pub(crate) before: *mut Self,
    pub(crate) after: *mut Self,
}

/// Larger gaps count as this large: so the few that are always large enough, and change with every mapping, change nothing above them.
pub(crate) const COUNTED: u64 = 1 << 36;

/// No memory for a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

/// Memory of nodes that are not in use, linked through its first word.
pub(crate) struct Spares<B> {
    first: *mut Node<B>,
    count: usize,
}

/// So many are kept: what cutting and joining a few areas needs.
const KEPT: usize = 4;

impl<B> Spares<B> {
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null_mut(), count: 0 }
    }

    /// Makes sure that there are `count`.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        while self.count < count {
            let node = allocate::<B>();
            if node.is_null() {
                return Err(OutOfMemory);
            }
            self.push(node);
        }
        Ok(())
    }

    /// Memory for a node, or null.
    #[inline]
    fn take(&mut self) -> *mut Node<B> {
        let node = self.first;
        if node.is_null() {
            return allocate();
        }
        // SAFETY: memory of a node, in whose first word `push` left the next one.
        self.first = unsafe { node.cast::<*mut Node<B>>().read() };
        self.count -= 1;
        node
    }

    #[inline]
    fn push(&mut self, node: *mut Node<B>) {
        // SAFETY: memory of a node, which nobody uses.
        unsafe { node.cast::<*mut Node<B>>().write(self.first) };
        self.first = node;
        self.count += 1;
    }

    /// A new node that is linked nowhere, or null.
    #[inline]
    pub(crate) fn make(&mut self, area: Area<B>, priority: u32) -> *mut Node<B> {
        let node = self.take();
        if !node.is_null() {
            let none = ptr::null_mut();
            // SAFETY: memory of a node, which nobody uses.
            unsafe { node.write(Node { area, gap: 0, largest: 0, priority, parent: none, left: none, right: none, before: none, after: none }) };
        }
        node
    }

    /// Takes a node apart.
    ///
    /// # Safety
    /// `make` returned it, it is linked nowhere, and nobody uses it again.
    #[inline]
    pub(crate) unsafe fn unmake(&mut self, node: *mut Node<B>) -> Area<B> {
        // SAFETY: a live node, read once.
        let area = unsafe { (&raw const (*node).area).read() };
        if self.count < KEPT {
            self.push(node);
        } else {
            // SAFETY: from `allocate`.
            unsafe { release(node) };
        }
        area
    }
}

impl<B> Drop for Spares<B> {
    fn drop(&mut self) {
        while !self.first.is_null() {
            let node = self.take();
            // SAFETY: from `allocate`, and not in use.
            unsafe { release(node) };
        }
    }
}

#[cold]
fn allocate<B>() -> *mut Node<B> {
    // SAFETY: a node has a size.
    unsafe { alloc(Layout::new::<Node<B>>()).cast() }
}

/// # Safety
/// `node` is from `allocate`.
#[cold]
unsafe fn release<B>(node: *mut Node<B>) {
    // SAFETY: the same layout.
    unsafe { dealloc(node.cast(), Layout::new::<Node<B>>()) };
}

/// # Safety
/// `node` is null or in a tree.
#[inline]
unsafe fn largest_of<B>(node: *const Node<B>) -> u64 {
    // SAFETY: the caller's promise.
    if node.is_null() { 0 } else { unsafe { (*node).largest } }
}

/// The largest gap in a node's subtree by what its children say.
///
/// # Safety
/// `node` is in a tree.
#[inline]
unsafe fn computed<B>(node: *const Node<B>) -> u64 {
    // SAFETY: the links of a node in a tree are null or nodes of it.
    unsafe { (*node).gap.max(largest_of((*node).left)).max(largest_of((*node).right)) }
}

/// Brings `largest` up to date from `node` upwards, as far as it changes.
///
/// # Safety
/// `node` is null or in a tree that the caller has alone.
#[inline]
pub(crate) unsafe fn update_from<B>(mut node: *mut Node<B>) {
    while !node.is_null() {
        // SAFETY: as in `computed`; parents are nodes of the tree.
        unsafe {
            let largest = computed(node);
            if largest == (*node).largest {
                return;
            }
            (*node).largest = largest;
            node = (*node).parent;
        }
    }
}

/// Brings the gap below an area up to date after it, or the area before it, has changed.
///
/// # Safety
/// As [`update_from`].
#[inline]
pub(crate) unsafe fn update_gap<B>(node: *mut Node<B>) {
    if node.is_null() {
        return;
    }
    // SAFETY: the caller's promise; neighbours are nodes of the tree.
    unsafe {
        let gap = (*node).free_below().min(COUNTED);
        if gap != (*node).gap {
            (*node).gap = gap;
            update_from(node);
        }
    }
}

/// Links a new node between two neighbours, either of which may be null, and brings all gaps up to date.
///
/// # Safety
/// The caller has the tree with this `root` alone; `before` and `after` are neighbours in it, or null at the ends; `node` is in no tree, and its
/// area lies between theirs.
#[inline]
pub(crate) unsafe fn link<B>(root: &mut *mut Node<B>, node: *mut Node<B>, before: *mut Node<B>, after: *mut Node<B>) {
    // SAFETY: all are live nodes that the caller has alone. Of two neighbours one is an ancestor of the other, so either the lower one
    // has no right child or the upper one no left child.
    unsafe {
        ((*node).before, (*node).after) = (before, after);
        let parent = if before.is_null() {
            after
        } else {
            (*before).after = node;
            if (*before).right.is_null() { before } else { after }
        };
        if !after.is_null() {
            (*after).before = node;
        }
        (*node).parent = parent;
        if parent.is_null() {
            *root = node;
        } else if parent == before {
            (*before).right = node;
        } else {
            (*after).left = node;
        }
        update_gap(node);
        update_gap(after);
        while !(*node).parent.is_null() && (*(*node).parent).priority < (*node).priority {
            rotate_up(root, node);
        }
    }
}

/// Takes a node out of the tree and brings all gaps up to date.
///
/// # Safety
/// The caller has the tree with this `root`, which the node is in, alone.
#[inline]
pub(crate) unsafe fn unlink<B>(root: &mut *mut Node<B>, node: *mut Node<B>) {
    // SAFETY: all links are nodes of the tree or null.
    unsafe {
        while !(*node).left.is_null() && !(*node).right.is_null() {
            let (left, right) = ((*node).left, (*node).right);
            rotate_up(root, if (*left).priority >= (*right).priority { left } else { right });
        }
        let child = if (*node).left.is_null() { (*node).right } else { (*node).left };
        let parent = (*node).parent;
        replace_child(root, parent, node, child);
        let (before, after) = ((*node).before, (*node).after);
        if !before.is_null() {
            (*before).after = after;
        }
        if !after.is_null() {
            (*after).before = before;
        }
        update_from(parent);
        update_gap(after);
    }
}

/// # Safety
/// `old` is the child of `parent`, or the root if that is null; `new` is null or a node that nobody else is the parent of.
#[inline]
unsafe fn replace_child<B>(root: &mut *mut Node<B>, parent: *mut Node<B>, old: *mut Node<B>, new: *mut Node<B>) {
    // SAFETY: nodes of one tree, which the caller has alone.
    unsafe {
        if parent.is_null() {
            *root = new;
        } else if (*parent).left == old {
            (*parent).left = new;
        } else {
            (*parent).right = new;
        }
        if !new.is_null() {
            (*new).parent = parent;
        }
    }
}

/// Swaps a node with its parent, keeping the order.
///
/// # Safety
/// The node has a parent; the caller has the tree alone.
unsafe fn rotate_up<B>(root: &mut *mut Node<B>, node: *mut Node<B>) {
    // SAFETY: nodes of one tree, which the caller has alone.
    unsafe {
        let parent = (*node).parent;
        let above = (*parent).parent;
        let moved = if (*parent).left == node {
            let moved = (*node).right;
            ((*parent).left, (*node).right) = (moved, parent);
            moved
        } else {
            let moved = (*node).left;
            ((*parent).right, (*node).left) = (moved, parent);
            moved
        };
        if !moved.is_null() {
            (*moved).parent = parent;
        }
        replace_child(root, above, parent, node);
        (*parent).parent = node;
        // The two have the same areas below them as before, in another order.
        (*node).largest = (*parent).largest;
        (*parent).largest = computed(parent);
    }
}

impl<B> Node<B> {
    /// Bytes that may be used between the area before and this one.
    ///
    /// # Safety
    /// The node is in a tree that is borrowed.
    #[inline]
    pub(crate) unsafe fn free_below(&self) -> u64 {
        // SAFETY: neighbours of a node in a tree are null or nodes of it.
        let before = if self.before.is_null() { 0 } else { unsafe { (*self.before).area.end.0 } };
        self.area.guarded_start().saturating_sub(before)
    }

    /// Whether a guard gap belongs to the area.
    pub(crate) const fn is_guarded(&self) -> bool {
        self.area.flags.contains(AreaFlags::GROWS_DOWN)
    }
}
