//! The physical memory map as firmware describes it, cleaned: sorted, page-aligned RAM, no overlaps.

use addr::{PAGE_SIZE, PhysAddr};
use arrayvec::ArrayVec;

/// Most regions a [`MemoryMap`] holds (the limit of E820 as Linux uses it).
pub const MAX_REGIONS: usize = 128;

/// What a range of physical addresses is. The numbers are E820's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// RAM that may be used freely (1).
    Usable,
    /// Not to be touched (2, and every number not listed here).
    Reserved,
    /// Holds ACPI tables; ordinary RAM once they have been read (3).
    AcpiReclaimable,
    /// Must be kept for the firmware (4).
    AcpiNvs,
    /// RAM with errors (5).
    Unusable,
    /// Non-volatile memory (7).
    Persistent,
}

impl MemoryKind {
    /// The kind of an E820 type number.
    #[must_use]
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            7 => Self::Persistent,
            _ => Self::Reserved,
        }
    }
}

/// Addresses `start..end` and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First byte.
    pub start: PhysAddr,
    /// One past the last byte.
    pub end: PhysAddr,
    /// What is there.
    pub kind: MemoryKind,
}

/// The map holds [`MAX_REGIONS`] regions and needed more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRegions;

/// Regions in address order; no [`MemoryKind::Usable`] region overlaps any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    regions: ArrayVec<MemoryRegion, MAX_REGIONS>,
}

impl MemoryMap {
    /// A clean map of `raw`: empty regions dropped, RAM cut to whole pages and out of everything it overlaps.
    ///
    /// # Errors
    /// [`TooManyRegions`].
    pub fn new(raw: impl Iterator<Item = MemoryRegion>) -> Result<Self, TooManyRegions> {
        let mut all: ArrayVec<MemoryRegion, MAX_REGIONS> = ArrayVec::new();
        for region in raw.filter(|r| r.start < r.end) {
            all.try_push(region).map_err(|_| TooManyRegions)?;
        }
        all.sort_unstable_by_key(|r| (r.start, r.end));
        let mut map = Self::default();
        for index in 0..all.len() {
            let region = all[index];
            if region.kind == MemoryKind::Usable {
                map.push_usable(region.start, region.end, &all, index)?;
            } else {
                map.push(region)?;
            }
        }
        map.regions.sort_unstable_by_key(|r| (r.start, r.end));
        Ok(map)
    }

    /// Adds what is left of the RAM `start..end` (entry `own` of `all`) after taking away every other claim on it.
    /// Of two overlapping RAM entries the later in `all` gives way.
    fn push_usable(
        &mut self,
        mut start: PhysAddr,
        end: PhysAddr,
        all: &[MemoryRegion],
        own: usize,
    ) -> Result<(), TooManyRegions> {
        let takes_away = |(i, r): &(usize, &MemoryRegion)| r.kind != MemoryKind::Usable || *i < own;
        // `all` is in address order, so one pass from left to right finds every gap.
        for (_, other) in all.iter().enumerate().filter(takes_away) {
            if other.end <= start || other.start >= end {
                continue;
            }
            if other.start > start {
                self.push_ram(start, other.start)?;
            }
            start = start.max(other.end);
        }
        self.push_ram(start, end)
    }

    fn push_ram(&mut self, start: PhysAddr, end: PhysAddr) -> Result<(), TooManyRegions> {
        // align_up wraps to 0 in the last page of the address space: no RAM lives there.
        let page = PAGE_SIZE as u64;
        let aligned = start.align_up(page);
        let end = end.align_down(page);
        if aligned >= end || aligned < start {
            return Ok(());
        }
        self.push(MemoryRegion { start: aligned, end, kind: MemoryKind::Usable })
    }

    fn push(&mut self, region: MemoryRegion) -> Result<(), TooManyRegions> {
        self.regions.try_push(region).map_err(|_| TooManyRegions)
    }

    /// All regions in address order.
    #[must_use]
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions
    }

    /// The RAM regions: whole pages, in address order, disjoint.
    pub fn usable(&self) -> impl Iterator<Item = MemoryRegion> + '_ {
        self.regions.iter().copied().filter(|r| r.kind == MemoryKind::Usable)
    }

    /// Bytes of usable RAM.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.usable().map(|r| r.end - r.start).sum()
    }

    /// One past the highest byte of usable RAM; zero without any.
    #[must_use]
    pub fn ram_end(&self) -> PhysAddr {
        self.usable().map(|r| r.end).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryKind::{Reserved, Usable};

    fn region(start: u64, end: u64, kind: MemoryKind) -> MemoryRegion {
        MemoryRegion { start: PhysAddr(start), end: PhysAddr(end), kind }
    }

    fn map(raw: &[MemoryRegion]) -> Vec<MemoryRegion> {
        MemoryMap::new(raw.iter().copied()).expect("fits").regions().to_vec()
    }

    #[test]
    fn empty_and_inverted_regions_are_dropped() {
        assert!(map(&[region(0, 0, Reserved), region(9, 3, Usable)]).is_empty());
    }

    #[test]
    fn ram_is_cut_to_whole_pages() {
        assert_eq!(map(&[region(0x10, 0x9fc00, Usable)]), [region(0x1000, 0x9f000, Usable)]);
        assert!(map(&[region(0x10, 0xfff, Usable)]).is_empty());
    }

    #[test]
    fn a_reserved_hole_splits_ram() {
        let clean = map(&[region(0x4000, 0x5000, Reserved), region(0, 0x10000, Usable)]);
        assert_eq!(
            clean,
            [region(0, 0x4000, Usable), region(0x4000, 0x5000, Reserved), region(0x5000, 0x10000, Usable)]
        );
    }

    #[test]
    fn ram_listed_twice_is_counted_once() {
        let raw = [region(0, 0x8000, Usable), region(0x4000, 0xc000, Usable), region(0, 0x8000, Usable)];
        let map = MemoryMap::new(raw.into_iter()).expect("fits");
        assert_eq!(map.usable_bytes(), 0xc000);
        assert_eq!(map.ram_end(), PhysAddr(0xc000));
    }

    #[test]
    fn more_regions_than_the_map_holds_is_an_error() {
        let raw = (0..=MAX_REGIONS as u64).map(|i| region(i << 16, (i << 16) + 0x1000, Usable));
        assert_eq!(MemoryMap::new(raw), Err(TooManyRegions));
    }

    #[test]
    fn ram_at_the_very_top_of_the_space_is_dropped_not_wrapped() {
        assert!(map(&[region(u64::MAX - 5, u64::MAX, Usable)]).is_empty());
    }
}
