//! Where in the transmit memory a port's data goes: a byte ring whose pieces may be given back in any order.
//!
//! Pure arithmetic; the driver copies and queues. Space is reused in the order it was taken.

use alloc::collections::VecDeque;

/// A stretch of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: usize,
    pub(super) len: usize,
    /// To be given to [`ByteRing::finish`].
    pub(super) number: u64,
}

#[derive(Debug)]
struct Taken {
    /// Bytes to free, with padding before a piece that did not fit at the end.
    len: usize,
    finished: bool,
}

/// The state of the ring.
#[derive(Debug)]
pub(super) struct ByteRing {
    capacity: usize,
    /// Offset of the next free byte.
    head: usize,
    used: usize,
    pieces: VecDeque<Taken>,
    /// Number of the first of `pieces`.
    first: u64,
}

impl ByteRing {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity, head: 0, used: 0, pieces: VecDeque::new(), first: 0 }
    }

    /// Bytes that are taken.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Takes at most `most` contiguous bytes, at least `least` (not zero, at most the capacity).
    pub(super) fn take(&mut self, least: usize, most: usize) -> Option<Piece> {
        if self.used == 0 {
            self.head = 0;
        }
        let free = self.capacity - self.used;
        let to_end = self.capacity - self.head;
        let padding = if to_end < least { to_end } else { 0 };
        let start = if padding > 0 { 0 } else { self.head };
        let room = free.checked_sub(padding)?.min(self.capacity - start);
        if room < least || least == 0 {
            return None;
        }
        let len = room.min(most);
        self.head = if start + len == self.capacity { 0 } else { start + len };
        self.used += padding + len;
        self.pieces.push_back(Taken { len: padding + len, finished: false });
        Some(Piece { offset: start, len, number: self.first + self.pieces.len() as u64 - 1 })
    }

    /// Gives a piece back.
    pub(super) fn finish(&mut self, number: u64) {
        let index = number.checked_sub(self.first).and_then(|i| usize::try_from(i).ok());
        if let Some(piece) = index.and_then(|i| self.pieces.get_mut(i)) {
            piece.finished = true;
        }
        while let Some(piece) = self.pieces.pop_front_if(|p| p.finished) {
            self.used -= piece.len;
            self.first += 1;
        }
    }

    /// Takes back the piece taken last, which was not used.
    pub(super) fn cancel_last(&mut self, piece: Piece) {
        self.finish(piece.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_pack_and_large_ones_split() {
        let mut ring = ByteRing::new(100);
        let a = ring.take(10, 10).expect("room");
        let b = ring.take(1, 500).expect("room");
        assert_eq!((a.offset, b.offset, b.len), (0, 10, 90));
        assert_eq!(ring.take(1, 1), None);
        ring.finish(b.number);
        assert_eq!(ring.take(1, 1), None, "space comes back in order");
        ring.finish(a.number);
        assert_eq!(ring.used(), 0);
    }

    #[test]
    fn a_piece_that_must_be_contiguous_skips_the_end() {
        let mut ring = ByteRing::new(100);
        let a = ring.take(60, 60).expect("room");
        let b = ring.take(30, 30).expect("room");
        ring.finish(a.number);
        assert_eq!(ring.take(61, 61), None);
        let c = ring.take(20, 20).expect("room at the start");
        assert_eq!((c.offset, ring.used()), (0, 30 + 10 + 20));
        ring.finish(c.number);
        ring.finish(b.number);
        assert_eq!(ring.used(), 0);
    }

    #[test]
    fn random_use_never_overlaps_or_leaks() {
        let mut ring = ByteRing::new(97);
        let mut held: Vec<Piece> = Vec::new();
        let mut random = 7u32;
        for _ in 0..100_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let least = 1 + (random >> 16) as usize % 40;
            match ring.take(least, least + (random >> 8) as usize % 60) {
                Some(p) => {
                    assert!(p.len >= least && p.offset + p.len <= 97);
                    let apart = |q: &Piece| p.offset + p.len <= q.offset || q.offset + q.len <= p.offset;
                    assert!(held.iter().all(apart), "{p:?} {held:?}");
                    held.push(p);
                }
                None => {
                    assert!(!held.is_empty(), "an empty ring has room");
                    let p = held.swap_remove((random >> 4) as usize % held.len());
                    ring.finish(p.number);
                }
            }
        }
        held.iter().for_each(|p| ring.finish(p.number));
        assert_eq!(ring.used(), 0);
        ring.finish(12345678);
    }
}
