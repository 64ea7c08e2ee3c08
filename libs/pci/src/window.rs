//! A window of the address space, from which base address registers get their places where firmware gave them none.

use alloc::vec::Vec;
use core::ops::Range;

/// Addresses that a host bridge passes on, and which of them are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    range: Range<u64>,
    /// Sorted by their starts.
    taken: Vec<Range<u64>>,
}

impl Window {
    /// A window of which nothing is taken.
    #[must_use]
    pub const fn new(range: Range<u64>) -> Self {
        Self { range, taken: Vec::new() }
    }

    /// Notes that these addresses are taken already.
    pub fn take(&mut self, range: Range<u64>) {
        let at = self.taken.partition_point(|other| other.start < range.start);
        self.taken.insert(at, range);
    }

    /// Takes `size` addresses, a power of two, at a multiple of it.
    #[must_use]
    pub fn allocate(&mut self, size: u64) -> Option<u64> {
        // Address 0 means "no place".
        let mut candidate = self.range.start.max(1).checked_next_multiple_of(size)?;
        for other in &self.taken {
            if other.start >= candidate.checked_add(size)? {
                break;
            }
            candidate = candidate.max(other.end.checked_next_multiple_of(size)?);
        }
        if candidate.checked_add(size)? > self.range.end {
            return None;
        }
        self.take(candidate..candidate + size);
        Some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_are_aligned_and_end_with_the_window() {
        let mut window = Window::new(0xc000_0100..0xc001_0000);
        assert_eq!(window.allocate(0x4000), Some(0xc000_4000));
        assert_eq!(window.allocate(0x1000), Some(0xc000_1000));
        assert_eq!(window.allocate(0x8000), Some(0xc000_8000));
        assert_eq!(window.allocate(0x8000), None);
        assert_eq!(window.allocate(0x1000), Some(0xc000_2000));
        assert_eq!(Window::new(0..u64::MAX).allocate(0x1000), Some(0x1000));
        assert_eq!(Window::new(1..2).allocate(1 << 63), None);
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice(taken in proptest::collection::vec((0u64..500, 1u64..40), 0..8), sizes in proptest::collection::vec(0u32..7, 1..20)) {
            let mut window = Window::new(64..640);
            let mut all: Vec<_> = taken.iter().map(|&(start, len)| start..start + len).collect();
            all.iter().for_each(|range| window.take(range.clone()));
            for size in sizes.into_iter().map(|shift| 1u64 << shift) {
                let Some(start) = window.allocate(size) else { continue };
                let range = start..start + size;
                prop_assert!(start % size == 0 && start >= 64 && range.end <= 640);
                prop_assert!(all.iter().all(|other| other.end <= range.start || range.end <= other.start), "{range:?} in {all:?}");
                all.push(range);
            }
        }
    }
}
