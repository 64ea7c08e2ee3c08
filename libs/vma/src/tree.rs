//! [`Tree`]: areas by address in a treap whose nodes know the largest gap below them.
//!
//! A treap (Seidel and Aragon, 1996) is a search tree by key and a heap by random priority, so its depth is logarithmic whatever the
//! order of insertions. Each node keeps the free bytes between its area and the one before, and the largest such number in its subtree:
//! the search for a gap walks one path. Nodes are linked with their neighbours, too, and with their parents. So a change that knows its
//! node needs no search: it corrects the gaps of the node and of the one after it, and the largest gaps above them only as far up as they change,
//! which is mostly nowhere.
//!
//! The *finger* is the node at which the last change ended. Changes come in runs at one place (map and unmap, protect and undo that), so
//! every search tries it first.
//!
//! Searches for a gap from above come in runs, too. The tree remembers of the last one that above some address no gap is large enough, and
//! looks at the finger's gap first: if that is where the bound is, nothing is above it.
//!
//! *Rejected.* Boxes owned by their parents: every change walks from the root, and the gap of the next area is a second walk. Sorted arrays of
//! areas (a B-tree): fewer steps for a look-up, but a change of one area moves half a node.
#![expect(unsafe_code, reason = "nodes have links to parents and neighbours")]

use crate::node::{COUNTED, Node, OutOfMemory, Spares, link, unlink, update_gap};
use crate::{Area, Backing};
use addr::VirtAddr;
use core::ptr;

type Link<B> = *mut Node<B>;

/// What is known of the gaps below `high`: those of `len` bytes or more end at `top` or below.
#[derive(Clone, Copy)]
struct Bound {
    high: u64,
    len: u64,
    top: u64,
}

/// Areas that do not overlap.
pub(crate) struct Tree<B> {
    root: Link<B>,
    /// The node with the highest area.
    last: Link<B>,
    /// Where the last change ended, or null.
    finger: Link<B>,
    bound: Bound,
    spares: Spares<B>,
    count: usize,
    /// State of the generator of priorities (xorshift).
    seed: u32,
}

// SAFETY: the nodes are the tree's own.
unsafe impl<B: Send> Send for Tree<B> {}
// SAFETY: through a shared reference nothing is changed.
unsafe impl<B: Sync> Sync for Tree<B> {}

/// The area of a node of a tree that is borrowed for `'a`.
///
/// # Safety
/// `node` is null or in that tree.
#[inline]
unsafe fn area_of<'a, B>(node: Link<B>) -> Option<&'a Area<B>> {
    // SAFETY: the caller's promise.
    unsafe { node.as_ref() }.map(|node| &node.area)
}

/// Whether the area of a node, which is not null, contains `at`.
///
/// # Safety
/// `node` is in a tree that is borrowed.
#[inline]
unsafe fn contains<B>(node: Link<B>, at: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*node).area.contains(VirtAddr(at)) }
}

impl<B> Tree<B> {
    pub(crate) const fn new() -> Self {
        Self { root: ptr::null_mut(), last: ptr::null_mut(), finger: ptr::null_mut(), bound: Bound { high: 0, len: 0, top: u64::MAX }, spares: Spares::new(), count: 0, seed: 0x9e37_79b9 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        self.spares.reserve(count)
    }

    /// Where the highest area ends.
    #[inline]
    pub(crate) fn top(&self) -> u64 {
        // SAFETY: `last` is null or in the tree.
        unsafe { area_of(self.last) }.map_or(0, |area| area.end.0)
    }

    /// The last area that begins at or below `at`.
    #[inline]
    pub(crate) fn at_or_before(&self, at: u64) -> Option<&Area<B>> {
        // SAFETY: all links are null or nodes of this tree, which is borrowed.
        unsafe {
            if !self.finger.is_null() && contains(self.finger, at) {
                return area_of(self.finger);
            }
            let (mut node, mut found) = (self.root, ptr::null_mut());
            while !node.is_null() {
                if (*node).area.start.0 <= at {
                    found = node;
                    node = (*node).right;
                } else {
                    node = (*node).left;
                }
            }
            area_of(found)
        }
    }

    /// The first area that ends above `at`: the one that contains it, or the next one.
    #[inline]
    pub(crate) fn ending_after(&self, at: u64) -> Option<&Area<B>> {
        // SAFETY: nodes of this tree, which is borrowed.
        unsafe { area_of(self.node_ending_after(at)) }
    }

    #[inline]
    fn node_ending_after(&self, at: u64) -> Link<B> {
        // SAFETY: all links are null or nodes of this tree, which is borrowed.
        unsafe {
            if !self.finger.is_null() && contains(self.finger, at) {
                return self.finger;
            }
            let (mut node, mut found) = (self.root, ptr::null_mut());
            while !node.is_null() {
                if (*node).area.end.0 > at {
                    found = node;
                    node = (*node).left;
                } else {
                    node = (*node).right;
                }
            }
            found
        }
    }

    /// The areas from `first` on that begin below `end`.
    pub(crate) fn from(&self, first: u64, end: u64) -> impl Iterator<Item = &Area<B>> {
        let mut node = self.node_ending_after(first);
        core::iter::from_fn(move || {
            // SAFETY: nodes of this tree, which is borrowed for as long as the iterator lives.
            let area = unsafe { area_of(node) }.filter(|area| area.start.0 < end)?;
            // SAFETY: not null.
            node = unsafe { (*node).after };
            Some(area)
        })
    }

    /// The last area that ends at or below `at`, and the first one that begins at or above it; no area lies across `at`.
    #[inline]
    pub(crate) fn around(&self, at: u64) -> (Option<&Area<B>>, Option<&Area<B>>) {
        let (below, above) = self.nodes_around(at);
        // SAFETY: nodes of this tree, which is borrowed.
        unsafe { (area_of(below), area_of(above)) }
    }

    #[inline]
    fn nodes_around(&self, at: u64) -> (Link<B>, Link<B>) {
        // SAFETY: all links are null or nodes of this tree, which is borrowed.
        unsafe {
            if let Some(finger) = self.finger.as_ref()
                && finger.area.start.0 >= at
                && area_of(finger.before).is_none_or(|before| before.end.0 <= at)
            {
                return (finger.before, self.finger);
            }
            let (mut node, mut below, mut above) = (self.root, ptr::null_mut(), ptr::null_mut());
            while !node.is_null() {
                if (*node).area.end.0 <= at {
                    below = node;
                    node = (*node).right;
                } else {
                    if (*node).area.start.0 >= at {
                        above = node;
                    }
                    node = (*node).left;
                }
            }
            (below, above)
        }
    }

    /// The end of the highest gap of `len` bytes within `low..high` that has an area above it. The finger is there then.
    pub(crate) fn highest_gap(&mut self, low: u64, high: u64, len: u64) -> Option<u64> {
        // SAFETY: the finger and the root are null or nodes of this tree.
        unsafe {
            if self.bound.high == high
                && self.bound.len <= len
                && let Some(finger) = self.finger.as_ref()
                && finger.area.guarded_start().min(high) >= self.bound.top.min(high)
                && let Some(top) = top_of_gap(finger, low, high, len)
            {
                return Some(top);
            }
            let (top, above) = highest(self.root, low, high, len)?;
            self.finger = above;
            self.bound = Bound { high, len, top };
            Some(top)
        }
    }

    /// The gap below the finger has become larger.
    #[inline]
    fn gap_has_grown(&mut self) {
        // SAFETY: the finger is null or a node of this tree.
        let top = unsafe { area_of(self.finger) }.map_or(u64::MAX, |area| area.guarded_start());
        self.bound.top = self.bound.top.max(top);
    }

    /// The start of the lowest gap of `len` bytes within `low..high` that has an area above it.
    pub(crate) fn lowest_gap(&self, low: u64, high: u64, len: u64) -> Option<u64> {
        // SAFETY: the root is null or a node of this tree.
        unsafe { lowest(self.root, low, high, len) }
    }

    /// Takes the node of an area out and returns the area. The finger moves to the next one.
    ///
    /// # Safety
    /// `node` is in the tree.
    #[inline]
    unsafe fn take(&mut self, node: Link<B>) -> Area<B> {
        // SAFETY: the caller's promise; unlinked, it is ours.
        unsafe {
            self.finger = (*node).after;
            if self.last == node {
                self.last = (*node).before;
            }
            unlink(&mut self.root, node);
            self.count -= 1;
            self.spares.unmake(node)
        }
    }

    /// Adds an area between two neighbours.
    ///
    /// # Safety
    /// `before` and `after` are null or in the tree, and neighbours between which the area lies.
    ///
    /// # Panics
    /// Without memory, unless [`Tree::reserve`] was called.
    #[inline]
    unsafe fn add(&mut self, area: Area<B>, before: Link<B>, after: Link<B>) -> Link<B> {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        let node = self.spares.make(area, self.seed);
        assert!(!node.is_null(), "no memory for an area; those who must not fail reserve it");
        // SAFETY: the caller's promise; the node is new.
        unsafe { link(&mut self.root, node, before, after) };
        if after.is_null() {
            self.last = node;
        }
        self.count += 1;
        node
    }
}

impl<B: Backing> Tree<B> {
    /// Adds an area where nothing is; joins it with neighbours that it continues.
    ///
    /// # Panics
    /// If the area is empty or overlaps another one.
    #[inline]
    pub(crate) fn insert(&mut self, area: Area<B>) {
        let (below, above) = self.nodes_around(area.start.0);
        // SAFETY: null or nodes of this tree, which is ours; they are neighbours.
        unsafe {
            let clear_below = area_of(below).is_none_or(|below| below.end <= area.start);
            let clear_above = area_of(above).is_none_or(|above| above.start >= area.end);
            let neighbours = area_of(below).is_none() || (*below).after == above;
            assert!(area.start < area.end && clear_below && clear_above && neighbours, "areas overlap");
            if area_of(below).is_some_and(|below| below.merges_with(&area)) {
                (*below).area.backing.absorb(&area.backing);
                (*below).area.end = area.end;
                self.finger = below;
                if area_of(above).is_some_and(|above| (*below).area.merges_with(above)) {
                    self.join(below, above);
                } else {
                    update_gap(above);
                }
            } else if area_of(above).is_some_and(|above| area.merges_with(above)) {
                // The area above begins earlier now, with our part of the backing.
                let end = (*above).area.end;
                let old = core::mem::replace(&mut (*above).area, Area { end, ..area });
                (*above).area.backing.absorb(&old.backing);
                update_gap(above);
                self.finger = above;
            } else {
                self.finger = self.add(area, below, above);
            }
        }
    }

    /// The area of `node` goes on up to the end of the one of `next`, which goes away.
    ///
    /// # Safety
    /// Both are in the tree, and neighbours; the one continues the other.
    unsafe fn join(&mut self, node: Link<B>, next: Link<B>) {
        // SAFETY: the caller's promise.
        unsafe {
            (*node).area.end = (*next).area.end;
            let area = self.take(next);
            (*node).area.backing.absorb(&area.backing);
        }
        self.finger = node;
    }

    /// Cuts an area in two; returns the node of the upper part.
    ///
    /// # Safety
    /// `node` is in the tree, and `at` strictly inside its area.
    unsafe fn cut(&mut self, node: Link<B>, at: u64) -> Link<B> {
        // SAFETY: the caller's promise.
        unsafe {
            let upper = (*node).area.cut_off(VirtAddr(at));
            self.add(upper, node, (*node).after)
        }
    }

    /// Removes everything in `start..end`, cutting areas that stick out; `sink` gets the pieces in order.
    #[inline]
    pub(crate) fn remove(&mut self, start: u64, end: u64, mut sink: impl FnMut(Area<B>)) {
        let mut node = self.node_ending_after(start);
        // SAFETY: null or nodes of this tree, which is ours. `node` is read again after each change.
        unsafe {
            while !node.is_null() && (*node).area.start.0 < end {
                let (first, last) = ((*node).area.start.0, (*node).area.end.0);
                if first < start {
                    if last > end {
                        self.cut(node, end);
                    }
                    let piece = (*node).area.cut_off(VirtAddr(start));
                    node = (*node).after;
                    update_gap(node);
                    self.finger = node;
                    sink(piece);
                } else if last > end {
                    let upper = (*node).area.cut_off(VirtAddr(end));
                    let piece = core::mem::replace(&mut (*node).area, upper);
                    update_gap(node);
                    self.finger = node;
                    sink(piece);
                } else {
                    let piece = self.take(node);
                    node = self.finger;
                    sink(piece);
                }
            }
        }
        self.gap_has_grown();
    }

    /// Calls `change` with every piece of an area inside `start..end`. It may change protection, flags and backing.
    #[inline]
    pub(crate) fn modify(&mut self, start: u64, end: u64, mut change: impl FnMut(&mut Area<B>)) {
        let mut node = self.node_ending_after(start);
        // SAFETY: null or nodes of this tree, which is ours.
        unsafe {
            if !node.is_null() && (*node).area.start.0 < start && start < end {
                node = self.cut(node, start);
            }
            let mut done = ptr::null_mut();
            while !node.is_null() && (*node).area.start.0 < end {
                if (*node).area.end.0 > end {
                    self.cut(node, end);
                }
                let (range, guarded) = ((*node).area.range(), (*node).is_guarded());
                change(&mut (*node).area);
                debug_assert_eq!(range, (*node).area.range(), "only remove and insert move areas");
                if guarded != (*node).is_guarded() {
                    update_gap(node);
                    self.bound.top = u64::MAX;
                }
                done = self.join_with_before(node);
                node = (*done).after;
            }
            if !node.is_null() {
                // What follows may continue the last one.
                let joined = self.join_with_before(node);
                done = if joined == node { done } else { joined };
            }
            if !done.is_null() {
                self.finger = done;
            }
        }
    }

    /// Joins an area with the one before if it continues that; returns the node that has it now.
    ///
    /// # Safety
    /// `node` is in the tree.
    #[inline]
    unsafe fn join_with_before(&mut self, node: Link<B>) -> Link<B> {
        // SAFETY: the caller's promise; neighbours are in the tree.
        unsafe {
            let before = (*node).before;
            if before.is_null() || !(*before).area.merges_with(&(*node).area) {
                return node;
            }
            self.join(before, node);
            before
        }
    }

    /// Moves the start of the area that begins at `start` down to `new_start`. Returns whether there is one.
    pub(crate) fn grow_down(&mut self, start: u64, new_start: u64) -> bool {
        let node = self.node_ending_after(start);
        // SAFETY: null or a node of this tree, which is ours.
        unsafe {
            if node.is_null() || (*node).area.start.0 != start {
                return false;
            }
            (*node).area.backing = (*node).area.backing.extended_down(start - new_start);
            (*node).area.start = VirtAddr(new_start);
            update_gap(node);
        }
        true
    }

    /// Moves the end of the area that ends at `end` up to `new_end`. Returns whether there is one.
    pub(crate) fn grow_up(&mut self, end: u64, new_end: u64) -> bool {
        let node = self.node_ending_after(end - 1);
        // SAFETY: null or a node of this tree, which is ours.
        unsafe {
            if node.is_null() || (*node).area.end.0 != end || (*node).area.start.0 >= end {
                return false;
            }
            (*node).area.end = VirtAddr(new_end);
            let after = (*node).after;
            if !after.is_null() && (*node).area.merges_with(&(*after).area) {
                self.join(node, after);
            } else {
                update_gap(after);
            }
        }
        true
    }
}

impl<B> Drop for Tree<B> {
    fn drop(&mut self) {
        // SAFETY: the tree's own nodes; each is taken out before it is taken apart.
        unsafe {
            while !self.last.is_null() {
                drop(self.take(self.last));
            }
        }
    }
}

/// Where the gap below an area ends, if it has `len` bytes within `low..high`.
///
/// # Safety
/// `node` is in a tree that is borrowed.
#[inline]
unsafe fn top_of_gap<B>(node: &Node<B>, low: u64, high: u64, len: u64) -> Option<u64> {
    let above = node.area.guarded_start();
    // SAFETY: the caller's promise.
    let bottom = (above - unsafe { node.free_below() }).max(low);
    let top = above.min(high);
    (top >= bottom && top - bottom >= len).then_some(top)
}

/// # Safety
/// `node` is null or in a tree that is borrowed.
unsafe fn highest<B>(mut node: Link<B>, low: u64, high: u64, len: u64) -> Option<(u64, Link<B>)> {
    // SAFETY: links are null or nodes of the tree.
    unsafe {
        while let Some(here) = node.as_ref().filter(|here| here.largest >= len.min(COUNTED)) {
            if here.area.end.0 < high
                && let Some(found) = highest(here.right, low, high, len)
            {
                return Some(found);
            }
            if let Some(top) = top_of_gap(here, low, high, len) {
                return Some((top, node));
            }
            if here.area.start.0 <= low {
                return None;
            }
            node = here.left;
        }
    }
    None
}

/// # Safety
/// As [`highest`].
unsafe fn lowest<B>(mut node: Link<B>, low: u64, high: u64, len: u64) -> Option<u64> {
    // SAFETY: links are null or nodes of the tree.
    unsafe {
        while let Some(here) = node.as_ref().filter(|here| here.largest >= len.min(COUNTED)) {
            if here.area.start.0 > low
                && let Some(bottom) = lowest(here.left, low, high, len)
            {
                return Some(bottom);
            }
            if let Some(top) = top_of_gap(here, low, high, len) {
                let above = here.area.guarded_start();
                return Some((above - here.free_below()).max(low).min(top - len));
            }
            if here.area.end.0 >= high {
                return None;
            }
            node = here.right;
        }
    }
    None
}
