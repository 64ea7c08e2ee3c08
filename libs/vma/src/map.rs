//! [`AreaMap`]: disjoint areas in order.

use crate::tree::Tree;
use crate::{Area, Backing, OutOfMemory};
use addr::VirtAddr;
use core::ops::Range;

/// The areas of an address space. Everything takes time logarithmic in their number, for each area that it touches.
pub struct AreaMap<B> {
    areas: Tree<B>,
    /// Total bytes.
    bytes: u64,
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
        Self { areas: Tree::new(), bytes: 0 }
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
        self.areas.from(start.0, end.0)
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
    pub fn highest_gap(&mut self, low: u64, high: u64, len: u64) -> Option<VirtAddr> {
        let above_all = self.areas.top().max(low).saturating_add(len) <= high;
        let top = if above_all { Some(high) } else { self.areas.highest_gap(low, high, len) };
        top.map(|top| VirtAddr(top - len))
    }

    /// The lowest gap of `len` bytes in `low..high`; the result is its lowest `len` bytes.
    #[must_use]
    pub fn lowest_gap(&self, low: u64, high: u64, len: u64) -> Option<VirtAddr> {
        if let Some(bottom) = self.areas.lowest_gap(low, high, len) {
            return Some(VirtAddr(bottom));
        }
        let last = self.areas.top().max(low);
        (last.saturating_add(len) <= high).then_some(VirtAddr(last))
    }
}

impl<B: Backing> AreaMap<B> {
    /// Makes sure that the next changes find memory for `count` more areas.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[inline]
    pub fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        self.areas.reserve(count)
    }

    /// Adds an area where nothing is; joins it with neighbours that it continues. Needs one more area at most.
    ///
    /// # Panics
    /// If the area is empty or overlaps another one; without memory.
    #[inline]
    pub fn insert(&mut self, area: Area<B>) {
        self.bytes += area.len();
        self.areas.insert(area);
    }

    /// Removes everything in `start..end`, cutting areas that stick out; `sink` gets the pieces in order. Needs one more area at most.
    ///
    /// # Panics
    /// Without memory.
    #[inline]
    pub fn remove(&mut self, start: VirtAddr, end: VirtAddr, mut sink: impl FnMut(Area<B>)) {
        let bytes = &mut self.bytes;
        self.areas.remove(start.0, end.0, |piece| {
            *bytes -= piece.len();
            sink(piece);
        });
    }

    /// Calls `change` with every piece of an area inside `start..end`. It may change protection, flags and backing. Needs two more areas at
    /// most.
    ///
    /// # Panics
    /// Without memory.
    #[inline]
    pub fn modify(&mut self, start: VirtAddr, end: VirtAddr, change: impl FnMut(&mut Area<B>)) {
        self.areas.modify(start.0, end.0, change);
    }

    /// Moves the start of the area that begins at `start` down to `new_start`; the addresses between are free.
    pub fn grow_down(&mut self, start: VirtAddr, new_start: VirtAddr) {
        if self.areas.grow_down(start.0, new_start.0) {
            self.bytes += start - new_start;
        }
    }

    /// Moves the end of the area that ends at `end` up to `new_end`; the addresses between are free.
    pub fn grow_up(&mut self, end: VirtAddr, new_end: VirtAddr) {
        if self.areas.grow_up(end.0, new_end.0) {
            self.bytes += new_end - end;
        }
    }
}
