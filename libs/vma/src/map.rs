//! [`AreaMap`]: disjoint areas in order.

use crate::tree::Tree;
use crate::{Area, Backing};
use addr::VirtAddr;
use core::ops::Range;

/// The areas of an address space. Everything takes time logarithmic in their number, for each area that it touches.
#[derive(Clone, Debug)]
pub struct AreaMap<B> {
    areas: Tree<B>,
    /// Total bytes.
    bytes: u64,
    /// Where the last area ends.
    top: u64,
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
        Self { areas: Tree::new(), bytes: 0, top: 0 }
    }

    /// Number of areas.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.areas.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in all areas together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All areas in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Area<B>> {
        self.overlapping(VirtAddr(0), VirtAddr(u64::MAX))
    }

    /// The area that contains `addr`.
    #[inline]
    #[must_use]
    pub fn find(&self, addr: VirtAddr) -> Option<&Area<B>> {
        self.areas.at_or_before(addr.0).filter(|area| area.contains(addr))
    }

    /// The lowest area that ends above `addr`: the one that contains it, or the next one.
    #[must_use]
    pub fn find_from(&self, addr: VirtAddr) -> Option<&Area<B>> {
        self.areas.ending_after(addr.0)
    }

    /// The highest area that begins below `addr`.
    #[must_use]
    pub fn find_before(&self, addr: VirtAddr) -> Option<&Area<B>> {
        self.areas.at_or_before(addr.0.checked_sub(1)?)
    }

    /// The areas that touch `start..end`, in order, whole.
    pub fn overlapping(&self, start: VirtAddr, end: VirtAddr) -> impl Iterator<Item = &Area<B>> {
        let mut at = start;
        core::iter::from_fn(move || {
            let area = self.find_from(at).filter(|area| area.start < end)?;
            at = area.end;
            Some(area)
        })
    }

    /// Whether no area touches `start..end`.
    #[must_use]
    pub fn is_free(&self, start: VirtAddr, end: VirtAddr) -> bool {
        self.find_from(start).is_none_or(|area| area.start >= end)
    }

    /// Whether `start..end` may hold a new mapping: free, and outside the guard gap of a stack above.
    #[must_use]
    pub fn is_placeable(&self, start: VirtAddr, end: VirtAddr) -> bool {
        self.find_from(start).is_none_or(|area| area.guarded_start() >= end.0)
    }

    /// The free addresses around `at`, where no area is: from the end of the one below to the start of the one above.
    #[must_use]
    pub fn room_at(&self, at: VirtAddr) -> Range<VirtAddr> {
        let (below, above) = self.areas.around(at.0);
        below.map_or(VirtAddr(0), |area| area.end)..above.map_or(VirtAddr(u64::MAX), |area| area.start)
    }

    /// Whether areas cover `start..end` without a hole.
    #[must_use]
    pub fn is_covered(&self, start: VirtAddr, end: VirtAddr) -> bool {
        let mut at = start;
        while at < end {
            match self.find(at) {
                Some(area) => at = area.end,
                None => return false,
            }
        }
        true
    }

    /// The highest gap of `len` bytes in `low..high`; the result is its top `len` bytes. Keeps the guard gaps of stacks free.
    #[must_use]
    pub fn highest_gap(&self, low: u64, high: u64, len: u64) -> Option<VirtAddr> {
        let above_all = self.top.max(low).saturating_add(len) <= high;
        let top = if above_all { Some(high) } else { self.areas.highest_gap(low, high, len) };
        top.map(|top| VirtAddr(top - len))
    }

    /// The lowest gap of `len` bytes in `low..high`; the result is its lowest `len` bytes.
    #[must_use]
    pub fn lowest_gap(&self, low: u64, high: u64, len: u64) -> Option<VirtAddr> {
        if let Some(bottom) = self.areas.lowest_gap(low, high, len) {
            return Some(VirtAddr(bottom));
        }
        let last = self.top.max(low);
        (last.saturating_add(len) <= high).then_some(VirtAddr(last))
    }

    /// The last area is gone, or ends lower.
    fn find_top(&mut self) {
        self.top = self.areas.at_or_before(u64::MAX).map_or(0, |area| area.end.0);
    }
}

impl<B: Backing> AreaMap<B> {
    /// Adds an area where nothing is; joins it with neighbours that it continues.
    ///
    /// # Panics
    /// If the area is empty or overlaps another one.
    pub fn insert(&mut self, area: Area<B>) {
        let (start, end) = (area.start, area.end);
        let (below, above) = self.areas.around(start.0);
        assert!(start < end && above.is_none_or(|above| above.start >= end), "areas overlap");
        debug_assert!(self.is_free(start, end), "areas overlap");
        let before = below.map_or(0, |below| below.end.0);
        let continues = below.filter(|below| below.merges_with(&area)).map(|below| below.start.0);
        let continued = above.filter(|above| area.merges_with(above)).map(|above| (above.start.0, above.end));
        self.bytes += area.len();
        self.top = self.top.max(end.0);
        match (continues, continued) {
            (None, None) => self.areas.insert(area, before),
            (None, Some((next, end))) => {
                // The area above begins earlier now, with our part of the backing.
                self.areas.change(next, |above| *above = Area { end, ..area });
            }
            (Some(previous), None) => {
                self.areas.change(previous, |below| below.end = end);
            }
            (Some(previous), Some((next, end))) => {
                self.areas.remove(next);
                self.areas.change(previous, |below| below.end = end);
            }
        }
    }

    /// Removes everything in `start..end`, cutting areas that stick out; `sink` gets the pieces in order.
    pub fn remove(&mut self, start: VirtAddr, end: VirtAddr, mut sink: impl FnMut(Area<B>)) {
        while let Some(area) = self.areas.ending_after(start.0).filter(|area| area.start < end) {
            let (first, last) = (area.start, area.end);
            let piece = if first < start {
                self.split_at(end);
                self.areas.change(first.0, |area| area.cut_off(start))
            } else if last > end {
                self.areas.change(first.0, |area| {
                    let upper = area.cut_off(end);
                    core::mem::replace(area, upper)
                })
            } else {
                self.areas.remove(first.0)
            };
            let Some(piece) = piece else { return };
            self.bytes -= piece.len();
            if piece.end.0 == self.top {
                self.find_top();
            }
            sink(piece);
        }
    }

    /// Calls `change` with every piece of an area inside `start..end`. It may change protection, flags and backing.
    pub fn modify(&mut self, start: VirtAddr, end: VirtAddr, mut change: impl FnMut(&mut Area<B>)) {
        if !self.find(start).is_some_and(|area| area.start == start && area.end == end) {
            self.split_at(start);
            self.split_at(end);
        }
        let mut at = start;
        while at < end
            && let Some(area) = self.areas.ending_after(at.0).filter(|area| area.start < end)
        {
            let range = area.range();
            at = area.end;
            self.areas.change(range.start, |area| {
                change(area);
                debug_assert_eq!(range, area.range(), "only remove and insert move areas");
            });
            self.join_at(VirtAddr(range.start));
        }
        self.join_at(at);
    }

    /// Moves the start of the area that begins at `start` down to `new_start`; the addresses between are free.
    pub fn grow_down(&mut self, start: VirtAddr, new_start: VirtAddr) {
        let more = start - new_start;
        let grown = self.areas.change(start.0, |area| {
            area.backing = area.backing.extended_down(more);
            area.start = new_start;
        });
        self.bytes += if grown.is_some() { more } else { 0 };
    }

    /// Moves the end of the area that ends at `end` up to `new_end`; the addresses between are free.
    pub fn grow_up(&mut self, end: VirtAddr, new_end: VirtAddr) {
        let Some(start) = self.find_before(end).filter(|area| area.end == end).map(|area| area.start) else { return };
        self.areas.change(start.0, |area| area.end = new_end);
        self.bytes += new_end - end;
        self.top = self.top.max(new_end.0);
        self.join_at(new_end);
    }

    /// Cuts the area that contains `at` strictly inside.
    fn split_at(&mut self, at: VirtAddr) {
        let Some(start) = self.find(at).map(|area| area.start).filter(|start| *start < at) else { return };
        if let Some(upper) = self.areas.change(start.0, |area| area.cut_off(at)) {
            self.areas.insert(upper, at.0);
        }
    }

    /// Joins the area that ends at `at` with the one that begins there, if that continues it.
    fn join_at(&mut self, at: VirtAddr) {
        let (Some(below), Some(above)) = self.areas.around(at.0) else { return };
        if below.merges_with(above) {
            let (first, next, end) = (below.start.0, above.start.0, above.end);
            self.areas.remove(next);
            self.areas.change(first, |area| area.end = end);
        }
    }
}
