//! [`ByteQueue`]: a first-in first-out queue of bytes in page frames, behind pipes, socket pairs and terminals.
//!
//! Grows and shrinks by whole frames. An emptied queue starts over in its first frame, and one spare frame is kept, so that a steady
//! flow does not allocate. The owner's lock protects it and decides about limits.

use alloc::collections::VecDeque;

use addr::PAGE_SIZE;
use frame::Frame;

use crate::io::{Sink, Source};
use crate::page::{copy_in, copy_out};
use crate::Result;

/// A queue of bytes.
#[derive(Default)]
pub struct ByteQueue {
    first: Option<Frame>,
    rest: VecDeque<Frame>,
    spare: Option<Frame>,
    /// Offset of the first byte in the first frame.
    head: usize,
    len: usize,
}

impl ByteQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { first: None, rest: VecDeque::new(), spare: None, head: 0, len: 0 }
    }

    /// Bytes in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends up to `limit` bytes from `source`; returns how many.
    ///
    /// # Errors
    /// `ENOMEM`, `EFAULT`, if nothing was appended.
    #[inline]
    pub fn fill<S: Source>(&mut self, source: &mut S, limit: usize) -> Result<usize> {
        let (wanted, end) = (source.remaining().min(limit), self.head + self.len);
        match &self.first {
            Some(first) if end < PAGE_SIZE && wanted <= PAGE_SIZE - end => {
                let n = copy_in(first, end, wanted, source)?;
                self.len += n;
                Ok(n)
            }
            _ => self.fill_frames(source, wanted),
        }
    }

    /// Appends all of `source`, if it fits into the first frame and can be read; else nothing.
    #[inline(always)]
    pub(crate) fn fill_briefly<S: Source>(&mut self, source: &mut S) -> Option<usize> {
        let (wanted, end) = (source.remaining(), self.head + self.len);
        let first = self.first.as_ref().filter(|_| end < PAGE_SIZE && wanted <= PAGE_SIZE - end)?;
        let n = copy_in(first, end, wanted, source).ok().filter(|n| *n == wanted)?;
        self.len += n;
        Some(n)
    }

    /// Moves what is in the first frame to `sink`, as far as that has room, if there are no other frames and all can be stored; else nothing.
    #[inline(always)]
    pub(crate) fn drain_briefly<S: Sink>(&mut self, sink: &mut S) -> Option<usize> {
        let wanted = self.len.min(sink.remaining());
        let first = self.first.as_ref().filter(|_| self.rest.is_empty() && self.head + self.len <= PAGE_SIZE && wanted > 0)?;
        let n = copy_out(first, self.head, wanted, sink).ok().filter(|n| *n == wanted)?;
        self.len -= n;
        // An emptied queue starts over, and one that is not does not reach the end of its frame.
        self.head = if self.len == 0 { 0 } else { self.head + n };
        Some(n)
    }

    #[inline(never)]
    fn fill_frames(&mut self, source: &mut dyn Source, wanted: usize) -> Result<usize> {
        let mut done = 0;
        while done < wanted {
            match self.fill_frame(source, wanted - done) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn fill_frame(&mut self, mut source: &mut dyn Source, wanted: usize) -> Result<usize> {
        let end = self.head + self.len;
        let offset = end % PAGE_SIZE;
        if end == self.frame_count() * PAGE_SIZE {
            let frame = self.spare.take().map_or_else(Frame::alloc_uninit, Ok)?;
            self.push_frame(frame);
        }
        let frame = self.frame(end / PAGE_SIZE);
        let result = copy_in(frame, offset, wanted.min(PAGE_SIZE - offset), &mut source);
        self.len += *result.as_ref().unwrap_or(&0);
        result
    }

    fn frame_count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn push_frame(&mut self, frame: Frame) {
        if self.first.is_none() {
            self.first = Some(frame);
        } else {
            self.rest.push_back(frame);
        }
    }

    /// Frame `index` of those that hold bytes.
    fn frame(&self, index: usize) -> &Frame {
        let first = self.first.as_ref().expect("a queue with bytes has a frame");
        if index == 0 { first } else { &self.rest[index - 1] }
    }

    /// Moves bytes to `sink` until it is full or the queue is empty; returns how many.
    ///
    /// # Errors
    /// `EFAULT`, if nothing was moved.
    #[inline]
    pub fn drain<S: Sink>(&mut self, sink: &mut S) -> Result<usize> {
        match &self.first {
            Some(first) if self.head + self.len <= PAGE_SIZE => {
                let n = copy_out(first, self.head, self.len.min(sink.remaining()), sink)?;
                self.consume(n);
                Ok(n)
            }
            _ => self.drain_frames(sink),
        }
    }

    #[inline(never)]
    fn drain_frames(&mut self, mut sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0;
        while self.len > 0 && sink.remaining() > 0 {
            let run = self.len.min(PAGE_SIZE - self.head).min(sink.remaining());
            match copy_out(self.frame(0), self.head, run, &mut sink) {
                Ok(0) => break,
                Ok(n) => {
                    self.consume(n);
                    done += n;
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        self.head += n;
        self.len -= n;
        if self.len == 0 {
            self.start_over();
        } else if self.head == PAGE_SIZE {
            self.head = 0;
            self.spare = core::mem::replace(&mut self.first, self.rest.pop_front());
        }
    }

    /// The queue is empty: it keeps its first frame.
    #[inline]
    fn start_over(&mut self) {
        self.head = 0;
        if !self.rest.is_empty() {
            self.rest.clear();
        }
    }

    /// Copies bytes from `offset` on to `sink`, until it is full or at the end; they stay. Returns how many.
    ///
    /// # Errors
    /// `EFAULT`, if nothing was copied.
    pub fn peek(&self, offset: usize, mut sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0;
        while offset + done < self.len && sink.remaining() > 0 {
            let at = self.head + offset + done;
            let run = (self.len - offset - done).min(PAGE_SIZE - at % PAGE_SIZE).min(sink.remaining());
            match copy_out(self.frame(at / PAGE_SIZE), at % PAGE_SIZE, run, &mut sink) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Forgets the first `count` bytes, or all.
    pub fn discard(&mut self, count: usize) {
        let mut left = count.min(self.len);
        while left > 0 {
            let run = left.min(PAGE_SIZE - self.head);
            self.consume(run);
            left -= run;
        }
    }

    /// Forgets all bytes behind the first `len`: what was appended comes back off.
    pub fn truncate(&mut self, len: usize) {
        if len == 0 {
            return self.clear();
        }
        self.len = self.len.min(len);
        self.rest.truncate((self.head + self.len).div_ceil(PAGE_SIZE).saturating_sub(1));
    }

    /// Forgets everything in it.
    pub fn clear(&mut self) {
        self.len = 0;
        self.start_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::VecSink;
    use std::vec::Vec;

    #[test]
    fn bytes_come_out_in_order_across_frames() {
        let mut queue = ByteQueue::new();
        let data: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
        assert_eq!(queue.fill(&mut data.as_slice(), usize::MAX), Ok(20_000));
        let mut first = VecSink::new(5_000);
        assert_eq!(queue.drain(&mut first), Ok(5_000));
        assert_eq!(queue.fill(&mut data.as_slice(), 3_000), Ok(3_000));
        let mut rest = VecSink::new(usize::MAX);
        assert_eq!(queue.drain(&mut rest), Ok(18_000));
        let mut all = first.into_vec();
        all.extend(rest.into_vec());
        assert_eq!(all[..20_000], data[..]);
        assert_eq!(all[20_000..], data[..3_000]);
        assert!(queue.is_empty());
    }

    #[test]
    fn an_emptied_queue_starts_over_in_its_first_frame() {
        let mut queue = ByteQueue::new();
        for _ in 0..10_000 {
            assert_eq!(queue.fill(&mut b"abc".as_slice(), 3), Ok(3));
            assert_eq!(queue.drain(&mut VecSink::new(10)), Ok(3));
        }
        assert_eq!((queue.frame_count(), queue.head, queue.spare.is_none()), (1, 0, true));
    }

    #[test]
    fn an_emptied_queue_keeps_two_frames_at_most() {
        let mut queue = ByteQueue::new();
        for len in [1, PAGE_SIZE, PAGE_SIZE + 1, 9 * PAGE_SIZE, 5000] {
            assert_eq!(queue.fill(&mut std::vec![7; len].as_slice(), len), Ok(len));
            assert_eq!(queue.drain(&mut VecSink::new(len)), Ok(len));
            assert!(queue.is_empty() && queue.head == 0 && queue.frame_count() == 1);
        }
        assert_eq!(queue.fill(&mut b"xyz".as_slice(), 3), Ok(3));
        queue.clear();
        assert!(queue.is_empty() && queue.frame_count() == 1);
    }

    #[test]
    fn bytes_can_be_looked_at_and_forgotten_at_both_ends() {
        let mut queue = ByteQueue::new();
        let data: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(queue.fill(&mut data.as_slice(), usize::MAX), Ok(20_000));
        queue.discard(5_000);
        for (offset, len) in [(0, 10), (3_000, 9_000), (14_990, 100), (15_000, 1)] {
            let mut sink = VecSink::new(len);
            let expected = &data[5_000 + offset..(5_000 + offset + len).min(20_000)];
            assert_eq!(queue.peek(offset, &mut sink), Ok(expected.len()));
            assert_eq!(sink.into_vec(), expected);
        }
        queue.truncate(4_000);
        assert_eq!(queue.fill(&mut b"end".as_slice(), 3), Ok(3));
        let mut rest = VecSink::new(usize::MAX);
        assert_eq!(queue.drain(&mut rest), Ok(4_003));
        let rest = rest.into_vec();
        assert_eq!((&rest[..4_000], &rest[4_000..]), (&data[5_000..9_000], b"end".as_slice()));
        queue.fill(&mut b"xyz".as_slice(), 3).unwrap();
        queue.discard(100);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_source_that_fails_leaves_the_queue_as_it_was() {
        struct Bad;
        impl Source for Bad {
            fn read(&mut self, _: &mut [u8]) -> Result<usize> {
                Err(crate::Errno::EFAULT)
            }
            fn remaining(&self) -> usize {
                100
            }
        }
        let mut queue = ByteQueue::new();
        assert_eq!(queue.fill(&mut Bad, 100), Err(crate::Errno::EFAULT));
        assert_eq!(queue.len(), 0);
        assert_eq!(queue.fill(&mut b"x".as_slice(), 1), Ok(1));
        assert_eq!(queue.fill(&mut Bad, 100), Err(crate::Errno::EFAULT));
        assert_eq!(queue.len(), 1);
    }
}
