//! A small set of frame ranges without a heap: what the memory map says is free, minus what is taken.

use core::ops::Range;

/// Disjoint, sorted ranges; at most `N` of them.
#[derive(Clone, Debug)]
pub struct RangeSet<const N: usize> {
    ranges: [(u64, u64); N],
    len: usize,
}

impl<const N: usize> Default for RangeSet<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> RangeSet<N> {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: [(0, 0); N], len: 0 }
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ranges[..self.len].iter().map(|&(start, end)| start..end)
    }

    /// Adds a range; ranges that touch become one. When the set is full the smallest range is forgotten.
    pub fn insert(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if start >= end {
            return;
        }
        let mut kept = 0;
        for i in 0..self.len {
            let (s, e) = self.ranges[i];
            if e < start || end < s {
                self.ranges[kept] = (s, e);
                kept += 1;
            } else {
                (start, end) = (start.min(s), end.max(e));
            }
        }
        self.len = kept;
        if self.len == N {
            self.forget_smallest();
        }
        let at = self.ranges[..self.len].partition_point(|r| r.0 < start);
        self.ranges.copy_within(at..self.len, at + 1);
        self.ranges[at] = (start, end);
        self.len += 1;
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<u64>) {
        let old = self.clone();
        self.len = 0;
        for part in old.iter() {
            self.insert(part.start..part.end.min(range.start));
            self.insert(part.start.max(range.end)..part.end);
        }
    }

    fn forget_smallest(&mut self) {
        let Some(at) = (0..self.len).min_by_key(|&i| self.ranges[i].1 - self.ranges[i].0) else { return };
        self.ranges.copy_within(at + 1..self.len, at);
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_set_forgets_the_smallest() {
        let mut set = RangeSet::<2>::new();
        set.insert(0..10);
        set.insert(20..21);
        set.insert(30..40);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0..10, 30..40]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_bit_per_frame(ops in prop::collection::vec((any::<bool>(), 0..60u64, 0..20u64), 0..30)) {
            let mut set = RangeSet::<64>::new();
            let mut bits = [false; 100];
            for (add, start, len) in ops {
                if add { set.insert(start..start + len) } else { set.remove(start..start + len) }
                bits[start as usize..(start + len) as usize].fill(add);
            }
            let mut seen = [false; 100];
            let mut last_end = None;
            for r in set.iter() {
                prop_assert!(r.start < r.end && last_end.is_none_or(|e| e < r.start));
                last_end = Some(r.end);
                seen[r.start as usize..r.end as usize].fill(true);
            }
            prop_assert_eq!(seen, bits);
        }
    }
}
