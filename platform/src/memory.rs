//! Reading physical memory through whatever mapping exists at the moment.
#![expect(unsafe_code, reason = "turns physical addresses into slices under a mapping its creator vouches for")]

use addr::PhysAddr;

/// A view of physical memory, valid for `'m`. Firmware tables are read through it.
pub trait PhysMemory<'m> {
    /// The `len` bytes that start at `start`, or `None` when the view does not cover all of them.
    fn bytes(&self, start: PhysAddr, len: usize) -> Option<&'m [u8]>;
}

/// Physical memory below a limit, mapped at a constant distance: the identity map (offset 0) or the direct map.
#[derive(Clone, Copy, Debug)]
pub struct OffsetMap {
    offset: u64,
    limit: u64,
}

impl OffsetMap {
    /// A view in which the physical byte `p < limit` is readable at virtual address `offset + p`.
    ///
    /// # Safety
    /// For as long as any slice made from this view is used, that mapping must exist, and nothing may write to the
    /// memory read through it. Addresses without RAM behind them must be harmless to read (they are on PCs: all ones).
    #[must_use]
    pub const unsafe fn new(offset: u64, limit: u64) -> Self {
        Self { offset, limit }
    }
}

impl PhysMemory<'static> for OffsetMap {
    fn bytes(&self, start: PhysAddr, len: usize) -> Option<&'static [u8]> {
        let end = start.0.checked_add(len as u64)?;
        let virt = self.offset.checked_add(start.0)?;
        if end > self.limit || virt == 0 {
            return None;
        }
        // SAFETY: the creator of the view promised that [offset, offset + limit) is mapped and unchanging; the range
        // was just checked to lie inside it and not to start at null.
        Some(unsafe { core::slice::from_raw_parts(virt as *const u8, len) })
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! Physical memory made of a few byte strings at chosen addresses.
    use super::*;

    #[derive(Default)]
    pub(crate) struct FakeMemory {
        pub(crate) pieces: Vec<(u64, &'static [u8])>,
    }

    impl FakeMemory {
        pub(crate) fn put(&mut self, at: u64, bytes: impl Into<Vec<u8>>) -> &mut Self {
            self.pieces.push((at, Vec::leak(bytes.into())));
            self
        }
    }

    impl PhysMemory<'static> for FakeMemory {
        fn bytes(&self, start: PhysAddr, len: usize) -> Option<&'static [u8]> {
            self.pieces.iter().find_map(|(at, piece)| {
                let offset = usize::try_from(start.0.checked_sub(*at)?).ok()?;
                piece.get(offset..offset.checked_add(len)?)
            })
        }
    }

    #[test]
    fn the_offset_map_ends_at_its_limit() {
        let data = [1u8, 2, 3, 4];
        // SAFETY: the array outlives the view and is not written.
        let map = unsafe { OffsetMap::new(data.as_ptr() as u64, 4) };
        assert_eq!(map.bytes(PhysAddr(1), 3), Some(&[2u8, 3, 4][..]));
        assert_eq!(map.bytes(PhysAddr(1), 4), None);
        assert_eq!(map.bytes(PhysAddr(u64::MAX), 2), None);
    }
}
