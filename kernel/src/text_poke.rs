//! Rewriting code of the program that other CPUs may be executing.
//!
//! # Theory
//! A CPU that fetches an instruction while another changes more than one byte of it may see any mixture (SDM vol. 3, 9.1.3), and may have
//! fetched the old bytes long before. So ([`Changes::rewrite`]): the first byte becomes a breakpoint, then the others change, then the first byte. After each
//! step every CPU serialises ([`barrier::everywhere`]): from then on none executes what was there before the step. A CPU that meets the breakpoint
//! raises #BP, and its handler must know the place already and send the thread where the new code would. Nobody waits for the change to finish;
//! if a virtual CPU is stopped, the one that rewrites sleeps until it goes on, and all others run.
//!
//! The bytes are written through the direct map, into a frame that only the one address space maps
//! ([`AddressSpace::private_frame`]): neither the file's pages change nor the program's rights.
//!
//! A place is one instruction before and after, as far as its bytes change: no thread stands inside. Bytes that stay are not written; they
//! may belong to the next instruction, where threads may come at any time, also in the middle of a change.
#![expect(unsafe_code, reason = "writes into frames of the program")]

use crate::barrier::{self, Notice};
use crate::mm::{AddressSpace, FaultError};
use addr::VirtAddr;
use alloc::vec::Vec;
use frame::Frame;

/// Bytes that one change replaces: a jump.
pub const LEN: usize = 5;
const INT3: u8 = 0xcc;

/// Places in one address space that are to be changed together.
pub struct Changes<'a> {
    space: &'a AddressSpace,
    pages: Vec<(VirtAddr, Frame)>,
    spots: Vec<Spot>,
}

/// A place to be changed.
struct Spot {
    frame: Frame,
    offset: usize,
    old: [u8; LEN],
    new: [u8; LEN],
}

impl<'a> Changes<'a> {
    /// None so far.
    #[must_use]
    pub const fn new(space: &'a AddressSpace) -> Self {
        Self { space, pages: Vec::new(), spots: Vec::new() }
    }

    /// Adds the place at `at`, which does not lie across a page's end, where `new` shall stand instead of `old`. The space has a page of its
    /// own there from now on. False if something else than `old` stands there.
    ///
    /// Context: may sleep; the caller keeps others from copying the page until it is rewritten.
    ///
    /// # Errors
    /// [`FaultError`].
    ///
    /// # Panics
    /// If it lies across a page's end.
    pub fn add(&mut self, at: VirtAddr, old: [u8; LEN], new: [u8; LEN]) -> Result<bool, FaultError> {
        let offset = at.page_offset();
        assert!(offset + LEN <= addr::PAGE_SIZE, "a place across a page's end");
        let spot = Spot { frame: self.page(at.align_down(addr::PAGE_SIZE as u64))?, offset, old, new };
        let mut found = [0; LEN];
        spot.frame.read(offset, &mut found);
        if found == old {
            self.spots.push(spot);
        }
        Ok(found == old)
    }

    /// The page at `at`. Only asked for once: what is held here would make it look shared.
    fn page(&mut self, at: VirtAddr) -> Result<Frame, FaultError> {
        if let Some((_, frame)) = self.pages.iter().find(|(other, _)| *other == at) {
            return Ok(frame.clone());
        }
        let frame = self.space.private_frame(at)?;
        self.pages.push((at, frame.clone()));
        Ok(frame)
    }

    /// Changes all places.
    ///
    /// Context: thread, may sleep.
    pub fn rewrite(self) {
        if self.spots.is_empty() {
            return;
        }
        self.spots.iter().for_each(|spot| spot.set(0, INT3));
        barrier::everywhere(Notice::None);
        for spot in &self.spots {
            (1..LEN).filter(|&i| spot.new[i] != spot.old[i]).for_each(|i| spot.set(i, spot.new[i]));
        }
        barrier::everywhere(Notice::None);
        self.spots.iter().for_each(|spot| spot.set(0, spot.new[0]));
        barrier::everywhere(Notice::None);
    }
}

impl Spot {
    fn set(&self, index: usize, value: u8) {
        // SAFETY: inside the frame, as `add` has checked; the frame is ours. A single byte is written at once.
        unsafe { self.frame.as_ptr().add(self.offset + index).write_volatile(value) };
    }
}
