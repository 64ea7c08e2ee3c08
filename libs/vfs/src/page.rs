//! Copies between frames and [`Source`]/[`Sink`]: the only place where a frame's bytes are lent out.
#![expect(unsafe_code, reason = "a frame's bytes are handed to a Source or Sink as a slice, to copy them once")]

use addr::PAGE_SIZE;
use frame::Frame;

use crate::Result;
use crate::io::{Sink, Source};

/// Copies `len` bytes from `offset` of `frame` to `sink`; returns how many it took.
///
/// # Errors
/// Those of the sink.
///
/// # Panics
/// If the range leaves the frame.
#[inline(always)]
pub fn copy_out<S: Sink + ?Sized>(frame: &Frame, offset: usize, len: usize, sink: &mut S) -> Result<usize> {
    assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "range leaves the frame");
    // SAFETY: the range is inside the frame, which lives as long as the slice. The program may change the bytes meanwhile
    // (shared mappings); the sink copies them and draws no conclusion from their values.
    let bytes = unsafe { core::slice::from_raw_parts(frame.as_ptr().add(offset), len) };
    sink.write(bytes)
}

/// Copies up to `len` bytes from `source` to `offset` of `frame`; returns how many came.
///
/// # Errors
/// Those of the source.
///
/// # Panics
/// If the range leaves the frame.
#[inline(always)]
pub fn copy_in<S: Source + ?Sized>(frame: &Frame, offset: usize, len: usize, source: &mut S) -> Result<usize> {
    assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "range leaves the frame");
    // SAFETY: as in `copy_out`; the source only stores bytes through the slice. Two writers that race leave mixed bytes.
    let bytes = unsafe { core::slice::from_raw_parts_mut(frame.as_ptr().add(offset), len) };
    source.read(bytes)
}
