//! [`Tree`]: areas by address in a treap whose nodes know the largest gap below them.
//!
//! A treap (Seidel and Aragon, 1996) is a search tree by key and a heap by random priority, so its depth is logarithmic whatever the
//! order of insertions. Each node keeps the free bytes between its area and the one before, and the largest such number in its subtree:
//! the search for a gap walks one path. Start and end of an area may change in place as long as the order stays.

use crate::{Area, AreaFlags};
use alloc::boxed::Box;
use core::cmp::Ordering;

type Link<B> = Option<Box<Node<B>>>;

/// One area.
#[derive(Clone, Debug)]
struct Node<B> {
    area: Area<B>,
    /// Bytes that may be used between the area before and this one: a guard gap belongs to the area.
    gap: u64,
    /// Largest `gap` in the subtree.
    largest: u64,
    priority: u32,
    left: Link<B>,
    right: Link<B>,
}

/// Areas that do not overlap.
#[derive(Clone, Debug)]
pub(crate) struct Tree<B> {
    root: Link<B>,
    count: usize,
    /// State of the generator of priorities (xorshift).
    seed: u32,
}

fn largest<B>(link: &Link<B>) -> u64 {
    link.as_ref().map_or(0, |node| node.largest)
}

impl<B> Node<B> {
    fn update(&mut self) {
        self.largest = self.gap.max(largest(&self.left)).max(largest(&self.right));
    }

    fn set_gap(&mut self, end_before: u64) {
        self.gap = self.area.guarded_start().saturating_sub(end_before);
        self.update();
    }
}

impl<B> Tree<B> {
    pub(crate) const fn new() -> Self {
        Self { root: None, count: 0, seed: 0x9e37_79b9 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// The last area that begins at or below `at`.
    #[inline]
    pub(crate) fn at_or_before(&self, at: u64) -> Option<&Area<B>> {
        let (mut link, mut found) = (&self.root, None);
        while let Some(node) = link {
            if node.area.start.0 <= at {
                found = Some(&node.area);
                link = &node.right;
            } else {
                link = &node.left;
            }
        }
        found
    }

    /// The first area that ends above `at`: the one that contains it, or the next one.
    #[inline]
    pub(crate) fn ending_after(&self, at: u64) -> Option<&Area<B>> {
        let (mut link, mut found) = (&self.root, None);
        while let Some(node) = link {
            if node.area.end.0 > at {
                found = Some(&node.area);
                link = &node.left;
            } else {
                link = &node.right;
            }
        }
        found
    }

    /// The last area that ends at or below `at`, and the first one that begins at or above it.
    #[inline]
    pub(crate) fn around(&self, at: u64) -> (Option<&Area<B>>, Option<&Area<B>>) {
        let (mut link, mut below, mut above) = (&self.root, None, None);
        while let Some(node) = link {
            if node.area.end.0 <= at {
                below = Some(&node.area);
                link = &node.right;
            } else {
                if node.area.start.0 >= at {
                    above = Some(&node.area);
                }
                link = &node.left;
            }
        }
        (below, above)
    }

    /// Adds an area where nothing is; the area before it ends at `before`.
    pub(crate) fn insert(&mut self, area: Area<B>, before: u64) {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 17;
        self.seed ^= self.seed << 5;
        let end = area.end.0;
        let mut node = Box::new(Node { area, gap: 0, largest: 0, priority: self.seed, left: None, right: None });
        node.set_gap(before);
        insert(&mut self.root, node);
        self.count += 1;
        self.refresh(end);
    }

    /// Removes the area that begins at `start`.
    pub(crate) fn remove(&mut self, start: u64) -> Option<Area<B>> {
        let node = remove(&mut self.root, start)?;
        self.count -= 1;
        self.refresh(start);
        Some(node.area)
    }

    /// Changes the area that begins at `start`, without disturbing the order.
    pub(crate) fn change<R>(&mut self, start: u64, change: impl FnOnce(&mut Area<B>) -> R) -> Option<R> {
        let (mut change, mut result, mut stale) = (Some(change), None, None);
        change_at(&mut self.root, start, &mut |area| {
            let (end, grows) = (area.end, area.flags.contains(AreaFlags::GROWS_DOWN));
            result = change.take().map(|change| change(area));
            // A guard gap may hide where the area before ends.
            stale = if grows { Some(area.start.0) } else { (area.end != end).then_some(area.end.0) };
        });
        if let Some(at) = stale {
            self.refresh(at);
        }
        result
    }

    /// Brings the gap of the first area at or above `at` up to date.
    pub(crate) fn refresh(&mut self, at: u64) {
        let _no_area_above = refresh(&mut self.root, at, 0);
    }

    /// The end of the highest gap of `len` bytes within `low..high` that has an area above it.
    pub(crate) fn highest_gap(&self, low: u64, high: u64, len: u64) -> Option<u64> {
        highest(&self.root, low, high, len)
    }

    /// The start of the lowest gap of `len` bytes within `low..high` that has an area above it.
    pub(crate) fn lowest_gap(&self, low: u64, high: u64, len: u64) -> Option<u64> {
        lowest(&self.root, low, high, len)
    }
}

fn insert<B>(link: &mut Link<B>, mut node: Box<Node<B>>) {
    if let Some(here) = link
        && here.priority >= node.priority
    {
        insert(if node.area.start < here.area.start { &mut here.left } else { &mut here.right }, node);
        return here.update();
    }
    (node.left, node.right) = split(link.take(), node.area.start.0);
    node.update();
    *link = Some(node);
}

/// The areas below `at`, and the others.
fn split<B>(link: Link<B>, at: u64) -> (Link<B>, Link<B>) {
    let Some(mut node) = link else { return (None, None) };
    if node.area.start.0 < at {
        let (low, high) = split(node.right.take(), at);
        node.right = low;
        node.update();
        (Some(node), high)
    } else {
        let (low, high) = split(node.left.take(), at);
        node.left = high;
        node.update();
        (low, Some(node))
    }
}

/// One tree of two, all of `low` being below all of `high`.
fn join<B>(low: Link<B>, high: Link<B>) -> Link<B> {
    let (mut a, mut b) = match (low, high) {
        (Some(a), Some(b)) => (a, b),
        (one, None) | (None, one) => return one,
    };
    if a.priority >= b.priority {
        a.right = join(a.right.take(), Some(b));
        a.update();
        Some(a)
    } else {
        b.left = join(Some(a), b.left.take());
        b.update();
        Some(b)
    }
}

fn remove<B>(link: &mut Link<B>, start: u64) -> Link<B> {
    let node = link.as_mut()?;
    let removed = match start.cmp(&node.area.start.0) {
        Ordering::Less => remove(&mut node.left, start),
        Ordering::Greater => remove(&mut node.right, start),
        Ordering::Equal => {
            let mut removed = link.take()?;
            *link = join(removed.left.take(), removed.right.take());
            return Some(removed);
        }
    };
    node.update();
    removed
}

/// Returns whether the largest gap of the subtree is another one now.
fn change_at<B>(link: &mut Link<B>, start: u64, change: &mut dyn FnMut(&mut Area<B>)) -> bool {
    let Some(node) = link else { return false };
    let changed = match start.cmp(&node.area.start.0) {
        Ordering::Less => change_at(&mut node.left, start, change),
        Ordering::Greater => change_at(&mut node.right, start, change),
        Ordering::Equal => {
            let old = node.gap;
            let before = node.area.guarded_start() - old.min(node.area.guarded_start());
            change(&mut node.area);
            node.gap = node.area.guarded_start().saturating_sub(before);
            node.gap != old
        }
    };
    changed && {
        let old = node.largest;
        node.update();
        node.largest != old
    }
}

/// `end_before`: where the last area below the subtree ends. Without an area at or above `at`: where the last one of the subtree ends.
fn refresh<B>(link: &mut Link<B>, at: u64, end_before: u64) -> Result<(), u64> {
    let Some(node) = link else { return Err(end_before) };
    if node.area.start.0 < at {
        refresh(&mut node.right, at, node.area.end.0)?;
        node.update();
    } else if let Err(end_before) = refresh(&mut node.left, at, end_before) {
        node.set_gap(end_before);
    } else {
        node.update();
    }
    Ok(())
}

fn highest<B>(link: &Link<B>, low: u64, high: u64, len: u64) -> Option<u64> {
    let node = link.as_ref().filter(|node| node.largest >= len)?;
    if node.area.end.0 < high
        && let Some(top) = highest(&node.right, low, high, len)
    {
        return Some(top);
    }
    let above = node.area.guarded_start();
    let (top, bottom) = (above.min(high), (above - node.gap.min(above)).max(low));
    if top >= bottom && top - bottom >= len {
        return Some(top);
    }
    if node.area.start.0 > low { highest(&node.left, low, high, len) } else { None }
}

fn lowest<B>(link: &Link<B>, low: u64, high: u64, len: u64) -> Option<u64> {
    let node = link.as_ref().filter(|node| node.largest >= len)?;
    if node.area.start.0 > low
        && let Some(bottom) = lowest(&node.left, low, high, len)
    {
        return Some(bottom);
    }
    let above = node.area.guarded_start();
    let (top, bottom) = (above.min(high), (above - node.gap.min(above)).max(low));
    if top >= bottom && top - bottom >= len {
        return Some(bottom);
    }
    if node.area.end.0 < high { lowest(&node.right, low, high, len) } else { None }
}
