//! The bytes of files, read a piece at a time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use super::{Content, WriteError};

const PIECE: usize = 256 * 1024;

impl Content {
    /// The size, when this is planned.
    pub(super) fn size(&self) -> Result<u64, WriteError> {
        match self {
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::Host(path) => {
                let metadata = fs::metadata(path).map_err(|error| host(path, error))?;
                if metadata.is_file() {
                    Ok(metadata.len())
                } else {
                    Err(WriteError::NotARegularFile(path.clone()))
                }
            }
        }
    }

    /// Gives the first `size` bytes to `take`, in pieces. What a file has grown since it was planned is left out.
    pub(super) fn read(
        &self,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        match self {
            Content::Bytes(bytes) => bytes.chunks(PIECE).try_for_each(take),
            Content::Host(path) => read_host(path, size, take),
        }
    }

    /// Whether `self` and `other`, both of `size` bytes, are equal.
    pub(super) fn equals(&self, other: &Content, size: u64) -> Result<bool, WriteError> {
        let (mut a, mut b) = (self.open()?, other.open()?);
        let (mut left, mut piece_a, mut piece_b) = (size, vec![0; PIECE], vec![0; PIECE]);
        while left > 0 {
            let len = left.min(PIECE as u64) as usize;
            a.read_exact(&mut piece_a[..len])
                .map_err(|error| self.read_error(error))?;
            b.read_exact(&mut piece_b[..len])
                .map_err(|error| other.read_error(error))?;
            if piece_a[..len] != piece_b[..len] {
                return Ok(false);
            }
            left -= len as u64;
        }
        Ok(true)
    }

    fn open(&self) -> Result<Box<dyn Read + '_>, WriteError> {
        match self {
            Content::Bytes(bytes) => Ok(Box::new(bytes.as_slice())),
            Content::Host(path) => Ok(Box::new(
                File::open(path).map_err(|error| host(path, error))?,
            )),
        }
    }

    fn read_error(&self, error: io::Error) -> WriteError {
        match self {
            Content::Host(path) => changed_or_host(path, error),
            Content::Bytes(_) => WriteError::Output(error),
        }
    }
}

fn read_host(
    path: &Path,
    size: u64,
    take: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut file = File::open(path).map_err(|error| host(path, error))?;
    let mut piece = vec![0; size.min(PIECE as u64) as usize];
    let mut left = size;
    while left > 0 {
        let len = left.min(PIECE as u64) as usize;
        file.read_exact(&mut piece[..len])
            .map_err(|error| changed_or_host(path, error))?;
        take(&piece[..len])?;
        left -= len as u64;
    }
    Ok(())
}

fn host(path: &Path, error: io::Error) -> WriteError {
    WriteError::Host {
        path: path.to_owned(),
        error,
    }
}

fn changed_or_host(path: &Path, error: io::Error) -> WriteError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => WriteError::Shrank(path.to_owned()),
        _ => host(path, error),
    }
}

/// Where the image goes: counts the bytes, reports them now and then, and pads with zeros.
pub(super) struct Output<'w> {
    out: &'w mut dyn Write,
    progress: &'w mut dyn FnMut(u64, u64),
    position: u64,
    reported: u64,
    total: u64,
}

impl<'w> Output<'w> {
    /// Between two calls of `progress` at most this many bytes are written.
    const REPORT_EVERY: u64 = 1 << 20;

    pub(super) fn new(
        out: &'w mut dyn Write,
        total: u64,
        progress: &'w mut dyn FnMut(u64, u64),
    ) -> Output<'w> {
        Output {
            out,
            progress,
            position: 0,
            reported: 0,
            total,
        }
    }

    /// Bytes written so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes).map_err(WriteError::Output)?;
        self.position += bytes.len() as u64;
        if self.position - self.reported >= Self::REPORT_EVERY {
            self.report();
        }
        Ok(())
    }

    /// Writes zeros up to the offset `target`.
    pub(super) fn pad_to(&mut self, target: u64) -> Result<(), WriteError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        assert!(
            target >= self.position,
            "the plan's places are in ascending order"
        );
        while self.position < target {
            let len = (target - self.position).min(ZEROS.len() as u64) as usize;
            self.write(&ZEROS[..len])?;
        }
        Ok(())
    }

    /// Ends the image.
    pub(super) fn finish(mut self) -> Result<(), WriteError> {
        self.out.flush().map_err(WriteError::Output)?;
        self.report();
        Ok(())
    }

    fn report(&mut self) {
        self.reported = self.position;
        (self.progress)(self.position, self.total);
    }
}
