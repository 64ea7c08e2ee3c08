//! Where `mmap` puts a mapping, as Linux does it on x86-64.
//!
//! A hint that is free is honoured. Otherwise the highest gap below `mmap_base` is taken, and when there is none, the lowest gap from a
//! third of the address space on. `MAP_32BIT` looks from 1 to 2 GiB, from below.

use crate::AreaMap;
use addr::{PAGE_SIZE, VirtAddr, layout};

/// Kept free below a growing stack: 256 pages, as Linux's `stack_guard_gap`.
pub const STACK_GUARD_GAP: u64 = 256 * PAGE_SIZE as u64;

const LOW_START: u64 = 0x4000_0000;
const LOW_END: u64 = 0x8000_0000;

/// Where mappings may go when they have a choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// Anywhere in the program's half.
    Anywhere,
    /// `MAP_32BIT`: below 2 GiB.
    Low,
}

impl<B> AreaMap<B> {
    /// An address for `len` bytes (a multiple of the page size, not zero), or `None` when there is no room.
    ///
    /// `hint` 0 is no hint; `mmap_base` is the top of the area for mappings.
    #[must_use]
    pub fn place(&mut self, hint: VirtAddr, len: u64, window: Window, mmap_base: VirtAddr) -> Option<VirtAddr> {
        let limit = match window {
            Window::Anywhere => layout::USER_MAX,
            Window::Low => LOW_END,
        };
        if len > limit - layout::USER_MIN {
            return None;
        }
        if let Some(at) = self.hinted(hint, len, limit) {
            return Some(at);
        }
        match window {
            Window::Low => self.lowest_gap(LOW_START, LOW_END, len),
            Window::Anywhere => self
                .highest_gap(layout::USER_MIN, mmap_base.0, len)
                .or_else(|| self.lowest_gap((layout::USER_MAX / 3) & !(PAGE_SIZE as u64 - 1), layout::USER_MAX, len)),
        }
    }

    fn hinted(&self, hint: VirtAddr, len: u64, limit: u64) -> Option<VirtAddr> {
        if hint.0 == 0 || hint.0 >= limit {
            return None;
        }
        let at = hint.align_up(PAGE_SIZE as u64).max(VirtAddr(layout::USER_MIN));
        let end = at.0.checked_add(len).filter(|end| *end <= limit)?;
        self.is_placeable(at, VirtAddr(end)).then_some(at)
    }
}
