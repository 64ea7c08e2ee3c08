//! The devices that need no hardware: null, zero, full, random.

use alloc::sync::Arc;

use sync::WaitQueue;

use crate::file::File;
use crate::io::{Sink, Source};
use crate::types::OpenFlags;
use crate::{Errno, Result};

/// Fills a buffer with random bytes.
pub type Random = fn(&mut [u8]);

/// A device without hardware.
pub enum Device {
    /// Swallows everything, gives nothing.
    Null,
    /// Swallows everything, gives zeros.
    Zero,
    /// Gives zeros; has no room.
    Full,
    /// Gives random bytes; swallows what is meant as seed.
    Random(Random),
}

impl Device {
    /// The open file of the device.
    #[must_use]
    pub fn open(self) -> Arc<dyn File> {
        Arc::new(self)
    }
}

fn discard(source: &dyn Source) -> usize {
    source.remaining()
}

#[inline(never)]
fn give_random(random: Random, sink: &mut dyn Sink) -> Result<usize> {
    let mut done = 0;
    let mut chunk = [0; 256];
    while sink.remaining() > 0 {
        let len = chunk.len().min(sink.remaining());
        random(&mut chunk[..len]);
        match sink.write(&chunk[..len]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

impl Device {
    /// `read`, as [`File::read`].
    ///
    /// # Errors
    /// As [`File::read`].
    #[inline]
    pub(crate) fn read_to<S: Sink>(&self, sink: &mut S) -> Result<usize> {
        match self {
            Self::Null => Ok(0),
            Self::Zero | Self::Full => sink.write_zeroes(sink.remaining()),
            Self::Random(random) => give_random(*random, sink),
        }
    }
}

impl Device {
    /// As [`Device::read_to`], for what is there at once. `None`: nothing was done.
    #[inline(always)]
    pub(crate) fn read_briefly<S: Sink>(&self, sink: &mut S) -> Option<usize> {
        match self {
            Self::Null => Some(0),
            Self::Zero | Self::Full => sink.write_zeroes(sink.remaining()).ok(),
            Self::Random(_) => None,
        }
    }

    /// As [`File::write`]. `None`: nothing was done.
    #[inline(always)]
    pub(crate) fn write_briefly(&self, len: usize) -> Option<usize> {
        if let Self::Null | Self::Zero = self { Some(len) } else { None }
    }
}

impl File for Device {
    fn read(&self, _position: &mut u64, mut sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        self.read_to(&mut sink)
    }

    fn write(&self, _position: &mut u64, source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        match self {
            Self::Full => Err(Errno::ENOSPC),
            _ => Ok(discard(source)),
        }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn has_position(&self) -> bool {
        false
    }

    fn poll_queues(&self, _visit: &mut dyn FnMut(&WaitQueue)) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{OpenFile, SeekFrom};
    use crate::io::VecSink;
    use std::vec::Vec;

    fn read(device: &Device, n: usize) -> Vec<u8> {
        let mut sink = VecSink::new(n);
        device.read(&mut 0, &mut sink, OpenFlags::RDONLY).unwrap();
        sink.into_vec()
    }

    #[test]
    fn devices_give_and_take_as_named() {
        let sevens = Device::Random(|bytes| bytes.fill(7));
        assert_eq!(read(&Device::Null, 10), []);
        assert_eq!(read(&Device::Zero, 1000), [0; 1000]);
        assert_eq!(read(&sevens, 1000), [7; 1000]);
        let mut data: &[u8] = b"abc";
        assert_eq!(Device::Null.write(&mut 0, &mut data, OpenFlags::WRONLY), Ok(3));
        assert_eq!(Device::Full.write(&mut 0, &mut data, OpenFlags::WRONLY), Err(Errno::ENOSPC));
    }

    #[test]
    fn a_device_is_at_its_beginning_wherever_one_seeks() {
        let place = crate::testing::Tree::empty().root;
        for device in [Device::Null, Device::Zero, Device::Full] {
            let file = OpenFile::new(device.open(), place.clone(), OpenFlags::RDWR);
            for to in [SeekFrom::Start(-5), SeekFrom::Start(7), SeekFrom::Current(0), SeekFrom::End(-1), SeekFrom::Hole(3)] {
                assert_eq!(file.seek(to), Ok(0));
            }
        }
    }
}
