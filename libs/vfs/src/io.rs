//! How bytes enter and leave the file system: [`Source`] and [`Sink`].
//!
//! A system call hands the file system one of these instead of a slice, because the program's memory may be unmapped:
//! touching it can fault, sleep, or fail with `EFAULT`. Slices implement both, for tests and in-kernel transfers.
//! Rule for implementers of files: hold no lock that a page fault could need (an inode's page map) while calling in here.

use alloc::vec::Vec;

use crate::{Errno, Result};

/// Where written bytes come from.
pub trait Source {
    /// Takes the next bytes into `buffer`; returns how many, which is short only at the end or before a bad page.
    ///
    /// # Errors
    /// `EFAULT` when the very first byte cannot be read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// Bytes not taken yet.
    fn remaining(&self) -> usize;
}

/// Where read bytes go.
pub trait Sink {
    /// Stores `data`; returns how many bytes were taken, short only when full or before a bad page.
    ///
    /// # Errors
    /// `EFAULT` when the very first byte cannot be stored.
    fn write(&mut self, data: &[u8]) -> Result<usize>;

    /// Bytes that still fit.
    fn remaining(&self) -> usize;

    /// Stores `count` zero bytes (or as many as fit); returns how many were taken.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn write_zeroes(&mut self, count: usize) -> Result<usize> {
        const ZEROES: [u8; 512] = [0; 512];
        let mut done = 0;
        while done < count && self.remaining() > 0 {
            let chunk = (count - done).min(ZEROES.len());
            match self.write(&ZEROES[..chunk]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        (**self).write(data)
    }

    fn remaining(&self) -> usize {
        (**self).remaining()
    }

    fn write_zeroes(&mut self, count: usize) -> Result<usize> {
        (**self).write_zeroes(count)
    }
}

impl<S: Source + ?Sized> Source for &mut S {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        (**self).read(buffer)
    }

    fn remaining(&self) -> usize {
        (**self).remaining()
    }
}

impl Source for &[u8] {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let n = buffer.len().min(self.len());
        let (head, tail) = self.split_at(n);
        buffer[..n].copy_from_slice(head);
        *self = tail;
        Ok(n)
    }

    fn remaining(&self) -> usize {
        self.len()
    }
}

/// A [`Sink`] over a fixed buffer.
#[derive(Debug)]
pub struct SliceSink<'a> {
    buffer: &'a mut [u8],
    filled: usize,
}

impl<'a> SliceSink<'a> {
    /// A sink that fills `buffer` from its start.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, filled: 0 }
    }

    /// Bytes stored so far.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }
}

impl Sink for SliceSink<'_> {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        let n = data.len().min(self.remaining());
        self.buffer[self.filled..self.filled + n].copy_from_slice(&data[..n]);
        self.filled += n;
        Ok(n)
    }

    fn remaining(&self) -> usize {
        self.buffer.len() - self.filled
    }
}

/// A [`Sink`] that grows a vector up to a limit.
#[derive(Debug)]
pub struct VecSink {
    data: Vec<u8>,
    limit: usize,
}

impl VecSink {
    /// An empty sink that takes at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { data: Vec::new(), limit }
    }

    /// What was stored.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.data
    }
}

impl Sink for VecSink {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        let n = data.len().min(self.remaining());
        self.data.try_reserve(n).map_err(|_| Errno::ENOMEM)?;
        self.data.extend_from_slice(&data[..n]);
        Ok(n)
    }

    fn remaining(&self) -> usize {
        self.limit - self.data.len()
    }
}

/// A [`Sink`] that lets at most `limit` bytes through to another.
pub struct LimitedSink<'a> {
    inner: &'a mut dyn Sink,
    limit: usize,
}

impl<'a> LimitedSink<'a> {
    /// Wraps `inner`.
    pub fn new(inner: &'a mut dyn Sink, limit: usize) -> Self {
        Self { inner, limit }
    }
}

impl Sink for LimitedSink<'_> {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        let n = self.inner.write(&data[..data.len().min(self.limit)])?;
        self.limit -= n;
        Ok(n)
    }

    fn remaining(&self) -> usize {
        self.inner.remaining().min(self.limit)
    }
}

/// A [`Source`] that gives at most `limit` bytes of another.
pub struct LimitedSource<'a> {
    inner: &'a mut dyn Source,
    limit: usize,
}

impl<'a> LimitedSource<'a> {
    /// Wraps `inner`.
    pub fn new(inner: &'a mut dyn Source, limit: usize) -> Self {
        Self { inner, limit }
    }
}

impl Source for LimitedSource<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let len = buffer.len().min(self.limit);
        let n = self.inner.read(&mut buffer[..len])?;
        self.limit -= n;
        Ok(n)
    }

    fn remaining(&self) -> usize {
        self.inner.remaining().min(self.limit)
    }
}

/// Memory that an `ioctl` argument points to.
pub trait ArgMemory {
    /// Copies `buffer.len()` bytes from the program's `address`.
    ///
    /// # Errors
    /// `EFAULT` when any byte cannot be read.
    fn load(&self, address: usize, buffer: &mut [u8]) -> Result<()>;

    /// Copies `data` to the program's `address`.
    ///
    /// # Errors
    /// `EFAULT` when any byte cannot be written.
    fn store(&self, address: usize, data: &[u8]) -> Result<()>;
}

/// The third argument of `ioctl`: a number, or an address in the program's memory.
#[derive(Clone, Copy)]
pub struct IoctlArg<'a> {
    /// The argument as a number.
    pub value: usize,
    memory: &'a dyn ArgMemory,
}

impl<'a> IoctlArg<'a> {
    /// Wraps `value`; addresses are followed through `memory`.
    #[must_use]
    pub fn new(value: usize, memory: &'a dyn ArgMemory) -> Self {
        Self { value, memory }
    }

    /// The `N` bytes the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn load<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.memory.load(self.value, &mut bytes)?;
        Ok(bytes)
    }

    /// The 32-bit integer the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn load_i32(&self) -> Result<i32> {
        self.load().map(i32::from_le_bytes)
    }

    /// Stores bytes where the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn store(&self, data: &[u8]) -> Result<()> {
        self.memory.store(self.value, data)
    }

    /// Stores a 32-bit integer where the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn store_i32(&self, value: i32) -> Result<()> {
        self.store(&value.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_sink_takes_no_more_than_it_holds() {
        let mut buffer = [0; 4];
        let mut sink = SliceSink::new(&mut buffer);
        assert_eq!(sink.write(b"abcdef"), Ok(4));
        assert_eq!(sink.write(b"x"), Ok(0));
        assert_eq!(sink.filled(), 4);
        assert_eq!(&buffer, b"abcd");
    }

    #[test]
    fn zeroes_stop_when_the_sink_is_full() {
        let mut sink = VecSink::new(700);
        assert_eq!(sink.write_zeroes(2000), Ok(700));
        assert_eq!(sink.into_vec(), [0; 700]);
    }

    #[test]
    fn a_limited_source_gives_no_more_than_it_may() {
        let mut bytes = b"abcdef".as_slice();
        let mut source = LimitedSource::new(&mut bytes, 4);
        let mut buffer = [0; 3];
        assert_eq!((source.remaining(), source.read(&mut buffer)), (4, Ok(3)));
        assert_eq!((source.remaining(), source.read(&mut buffer), buffer[0]), (1, Ok(1), b'd'));
        assert_eq!((source.remaining(), bytes), (0, b"ef".as_slice()));
    }

    #[test]
    fn a_slice_source_is_consumed_in_order() {
        let mut source: &[u8] = b"hello";
        let mut two = [0; 2];
        assert_eq!(Source::read(&mut source, &mut two), Ok(2));
        assert_eq!((&two, source.remaining()), (b"he", 3));
    }
}
