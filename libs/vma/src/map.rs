//! [`AreaMap`]: disjoint areas in order.

use crate::{Area, Backing};
use addr::VirtAddr;
use alloc::collections::BTreeMap;
use core::ops::Range;

/// The areas of an address space.
#[derive(Clone, Debug)]
pub struct AreaMap<B> {
    areas: BTreeMap<u64, Area<B>>,
    /// Total bytes.
    bytes: u64,
    /// A result of an earlier gap search, see [`FullAbove`].
    full_above: Option<FullAbove>,
}

/// No gap of `len` bytes or more lies between `from` and `high`: a search for that much that begins at `high` may begin at `from`.
/// Forgotten when an area above `from` goes away.
#[derive(Clone, Copy, Debug)]
struct FullAbove {
    high: u64,
    from: u64,
    len: u64,
}

impl<B> Default for AreaMap<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> AreaMap<B> {
    /// No areas.
    #[must_use]
    pub const fn new() -> Self {
        Self { areas: BTreeMap::new(), bytes: 0, full_above: None }
    }

    /// Number of areas.
    #[must_use]
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// Bytes in all areas together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All areas in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Area<B>> {
        self.areas.values()
    }

    /// The area that contains `addr`.
    #[must_use]
    pub fn find(&self, addr: VirtAddr) -> Option<&Area<B>> {
        self.areas.range(..=addr.0).next_back().map(|(_, area)| area).filter(|area| area.contains(addr))
    }

    /// The lowest area that ends above `addr`: the one that contains it, or the next one.
    #[must_use]
    pub fn find_from(&self, addr: VirtAddr) -> Option<&Area<B>> {
        self.find(addr).or_else(|| self.areas.range(addr.0..).next().map(|(_, area)| area))
    }

    /// The highest area that begins below `addr`.
    #[must_use]
    pub fn find_before(&self, addr: VirtAddr) -> Option<&Area<B>> {
        self.areas.range(..addr.0).next_back().map(|(_, area)| area)
    }

    /// The areas that touch `start..end`, in order, whole.
    pub fn overlapping(&self, start: VirtAddr, end: VirtAddr) -> impl Iterator<Item = &Area<B>> {
        let first = self.find(start).map_or(start.0, |area| area.start.0);
        self.areas.range(first..end.0.max(first)).map(|(_, area)| area)
    }

    /// Whether no area touches `start..end`.
    #[must_use]
    pub fn is_free(&self, start: VirtAddr, end: VirtAddr) -> bool {
        self.overlapping(start, end).next().is_none()
    }

    /// Whether `start..end` may hold a new mapping: free, and outside the guard gap of a stack above.
    #[must_use]
    pub fn is_placeable(&self, start: VirtAddr, end: VirtAddr) -> bool {
        self.find_from(start).is_none_or(|area| area.guarded_start() >= end.0)
    }

    /// From the end of the area below `start..end` to the start of the one above it, where an area that sticks out counts as one
    /// that ends or begins at the border: what is free when everything in `start..end` is gone.
    #[must_use]
    pub fn room_around(&self, start: VirtAddr, end: VirtAddr) -> Range<VirtAddr> {
        let below = self.find_before(start).map_or(0, |area| area.end.0.min(start.0));
        let above = match self.areas.range(..end.0).next_back() {
            Some((_, area)) if area.end > end => end.0,
            _ => self.areas.range(end.0..).next().map_or(u64::MAX, |(start, _)| *start),
        };
        VirtAddr(below)..VirtAddr(above)
    }

    /// Whether areas cover `start..end` without a hole.
    #[must_use]
    pub fn is_covered(&self, start: VirtAddr, end: VirtAddr) -> bool {
        let mut at = start;
        for area in self.overlapping(start, end) {
            if area.start > at {
                return false;
            }
            at = area.end;
        }
        at >= end
    }

    /// The highest gap of `len` bytes in `low..high`; the result is its top `len` bytes. Keeps the guard gaps of stacks free.
    #[must_use]
    pub fn highest_gap(&mut self, low: u64, high: u64, len: u64) -> Option<VirtAddr> {
        let known = self.full_above.filter(|f| f.high == high && f.len <= len);
        let from = known.map_or(high, |f| f.from);
        let above = self.areas.range(from..).next().map_or(u64::MAX, |(_, area)| area.guarded_start());
        let mut top = from.min(above);
        let mut found = None;
        for area in self.areas.range(..from).rev().map(|(_, area)| area) {
            if top >= area.end.0.max(low) && top - area.end.0.max(low) >= len {
                found = Some(top);
                break;
            }
            top = top.min(area.guarded_start());
            if top <= low {
                break;
            }
        }
        let top = found.or_else(|| (top >= low && top - low >= len).then_some(top))?;
        self.full_above = Some(FullAbove { high, from: top, len });
        Some(VirtAddr(top - len))
    }

    /// The lowest gap of `len` bytes in `low..high`; the result is its lowest `len` bytes.
    #[must_use]
    pub fn lowest_gap(&self, low: u64, high: u64, len: u64) -> Option<VirtAddr> {
        let mut at = low;
        for area in self.overlapping(VirtAddr(low), VirtAddr(high)) {
            if area.guarded_start().saturating_sub(at) >= len {
                break;
            }
            at = at.max(area.end.0);
        }
        // Also the guard gap of a stack above the window counts.
        let fits = at + len <= high && self.is_placeable(VirtAddr(at), VirtAddr(at + len));
        fits.then_some(VirtAddr(at))
    }

    /// Something up to `end` went away.
    fn forget_gaps(&mut self, end: VirtAddr) {
        if self.full_above.is_some_and(|f| end.0 > f.from) {
            self.full_above = None;
        }
    }
}

impl<B: Backing> AreaMap<B> {
    /// Adds an area where nothing is; joins it with neighbours that it continues.
    ///
    /// # Panics
    /// If the area is empty or overlaps another one.
    pub fn insert(&mut self, area: Area<B>) {
        assert!(area.start < area.end && self.is_free(area.start, area.end), "areas overlap");
        let (start, end) = (area.start, area.end);
        self.bytes += area.len();
        self.areas.insert(start.0, area);
        self.merge(start, end);
    }

    /// Removes everything in `start..end`, cutting areas that stick out; `sink` gets the pieces in order.
    pub fn remove(&mut self, start: VirtAddr, end: VirtAddr, mut sink: impl FnMut(Area<B>)) {
        self.split_at(start);
        self.split_at(end);
        while let Some(key) = self.areas.range(start.0..end.0).next().map(|(key, _)| *key) {
            if let Some(area) = self.areas.remove(&key) {
                self.bytes -= area.len();
                self.forget_gaps(area.end);
                sink(area);
            }
        }
    }

    /// Calls `change` with every piece of an area inside `start..end`. It may change protection, flags and backing.
    pub fn modify(&mut self, start: VirtAddr, end: VirtAddr, mut change: impl FnMut(&mut Area<B>)) {
        self.split_at(start);
        self.split_at(end);
        for (_, area) in self.areas.range_mut(start.0..end.0) {
            let range = area.range();
            change(area);
            debug_assert_eq!(range, area.range(), "only remove and insert move areas");
        }
        self.full_above = None;
        self.merge(start, end);
    }

    /// Moves the start of the area that begins at `start` down to `new_start`; the addresses between are free.
    pub fn grow_down(&mut self, start: VirtAddr, new_start: VirtAddr) {
        if let Some(mut area) = self.areas.remove(&start.0) {
            let more = start - new_start;
            area.backing = area.backing.extended_down(more);
            area.start = new_start;
            self.bytes += more;
            self.areas.insert(new_start.0, area);
        }
    }

    /// Moves the end of the area that ends at `end` up to `new_end`; the addresses between are free.
    pub fn grow_up(&mut self, end: VirtAddr, new_end: VirtAddr) {
        let Some((_, area)) = self.areas.range_mut(..end.0).next_back() else { return };
        if area.end == end {
            area.end = new_end;
            self.bytes += new_end - end;
            self.merge(end, new_end);
        }
    }

    /// Cuts the area that contains `at` strictly inside.
    fn split_at(&mut self, at: VirtAddr) {
        let Some((_, area)) = self.areas.range_mut(..at.0).next_back() else { return };
        if area.end > at {
            let upper = area.cut_off(at);
            self.areas.insert(at.0, upper);
        }
    }

    /// Joins neighbours from the area before `start` to the one after `end`.
    fn merge(&mut self, start: VirtAddr, end: VirtAddr) {
        let first = self.areas.range(..start.0).next_back().map_or(start.0, |(key, _)| *key);
        let Some(mut current) = self.areas.range(first..).next().map(|(key, _)| *key) else { return };
        while let Some(next) = self.areas.range(current + 1..).next().map(|(key, _)| *key).filter(|key| *key <= end.0) {
            let joined = match (self.areas.get(&current), self.areas.get(&next)) {
                (Some(a), Some(b)) => a.merges_with(b).then_some(b.end),
                _ => None,
            };
            match (joined, self.areas.get_mut(&current)) {
                (Some(new_end), Some(area)) => {
                    area.end = new_end;
                    self.areas.remove(&next);
                }
                _ => current = next,
            }
        }
    }
}
