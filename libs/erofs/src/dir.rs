//! Directories: look-up and listing.
//!
//! A directory is a sequence of blocks (the last may be short). Each holds an array of [`Dirent`] and then the
//! names in the same order. All names of the directory, `.` and `..` among them, are sorted by bytes, so a look-up
//! is a binary search for the block, then one in it.

use core::cmp::Ordering;
use core::iter::FusedIterator;

use crate::BLOCK_SIZE;
use crate::error::{Damage, Error};
use crate::inode::{Inode, Kind};
use crate::layout::{self, Dirent};

const ENTRY: usize = size_of::<Dirent>();

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: 1 to 255 bytes without `/` and NUL. Listings include `.` and `..`.
    pub name: &'a [u8],
    /// Node number of what it names.
    pub nid: u64,
    /// Its kind; `None` when the image does not say.
    pub kind: Option<Kind>,
    /// Where to go on after this entry: an argument of [`Inode::read_dir`], `d_off` of getdents(2). Never 0.
    pub next_cookie: u64,
}

/// The entries of a directory in the order of their names; ends after the first error.
#[derive(Clone, Debug)]
pub struct ReadDir<'a> {
    dir: Inode<'a>,
    cookie: u64,
}

/// One directory block whose entry array has been checked.
#[derive(Clone, Copy)]
struct DirBlock<'a> {
    bytes: &'a [u8],
    index: u64,
    count: usize,
}

impl<'a> Inode<'a> {
    /// Finds `name` in this directory. `.` and `..` are found like other names.
    ///
    /// # Errors
    /// [`Error::NotADirectory`]; [`Error::Corrupt`] for a damaged directory.
    pub fn lookup(&self, name: &[u8]) -> Result<Option<DirEntry<'a>>, Error> {
        self.check_directory()?;
        let block_count = self.size.div_ceil(BLOCK_SIZE as u64);
        // The last block whose first name is not after `name`.
        let candidates = partition_point(block_count, |index| {
            Ok(DirBlock::read(self, index)?.entry(self, 0)?.name <= name)
        })?;
        let Some(index) = candidates.checked_sub(1) else {
            return Ok(None);
        };
        let block = DirBlock::read(self, index)?;
        let position = partition_point(block.count as u64, |i| {
            Ok(block.entry(self, i as usize)?.name < name)
        })?;
        if position == block.count as u64 {
            return Ok(None);
        }
        let entry = block.entry(self, position as usize)?;
        Ok((entry.name.cmp(name) == Ordering::Equal).then_some(entry))
    }

    /// Lists this directory from `cookie` on: 0 for the start, or a [`DirEntry::next_cookie`]. Other values are
    /// harmless: they continue at the next entry, as with Linux.
    ///
    /// # Errors
    /// [`Error::NotADirectory`].
    pub fn read_dir(&self, cookie: u64) -> Result<ReadDir<'a>, Error> {
        self.check_directory()?;
        Ok(ReadDir { dir: *self, cookie })
    }

    fn check_directory(&self) -> Result<(), Error> {
        if self.kind == Kind::Directory {
            Ok(())
        } else {
            Err(Error::NotADirectory)
        }
    }
}

impl<'a> Iterator for ReadDir<'a> {
    type Item = Result<DirEntry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance().transpose()?;
        self.cookie = result.map_or(u64::MAX, |entry| entry.next_cookie);
        Some(result)
    }
}

impl FusedIterator for ReadDir<'_> {}

impl<'a> ReadDir<'a> {
    /// The entry at the cookie, or the first of the next block: every block has one, so this takes two steps at most.
    fn advance(&self) -> Result<Option<DirEntry<'a>>, Error> {
        let (mut index, rest) = (
            self.cookie / BLOCK_SIZE as u64,
            (self.cookie % BLOCK_SIZE as u64) as usize,
        );
        let mut position = rest.div_ceil(ENTRY);
        while self.cookie < self.dir.size && index < self.dir.size.div_ceil(BLOCK_SIZE as u64) {
            let block = DirBlock::read(&self.dir, index)?;
            if position < block.count {
                return block.entry(&self.dir, position).map(Some);
            }
            (index, position) = (index + 1, 0);
        }
        Ok(None)
    }
}

impl<'a> DirBlock<'a> {
    /// Reads block `index` of `dir` and checks the size of its entry array.
    fn read(dir: &Inode<'a>, index: u64) -> Result<DirBlock<'a>, Error> {
        let bytes = dir.dir_block(index);
        let damaged = dir.corrupt(Damage::DirBlock(index));
        let first: &Dirent = layout::read(bytes, 0).ok_or(damaged)?;
        // "The first name's offset also tells how many entries there are": erofs.rst.
        let array = usize::from(first.name_offset.get());
        if array < ENTRY || array % ENTRY != 0 || array >= bytes.len() {
            return Err(damaged);
        }
        Ok(DirBlock {
            bytes,
            index,
            count: array / ENTRY,
        })
    }

    /// Entry `position`, which is below the count.
    fn entry(&self, dir: &Inode<'a>, position: usize) -> Result<DirEntry<'a>, Error> {
        let damaged = dir.corrupt(Damage::DirName(self.index));
        let dirent = self.dirent(position).ok_or(damaged)?;
        let name = self.name(position).ok_or(damaged)?;
        let next = match position + 1 {
            next if next < self.count => self.index * BLOCK_SIZE as u64 + (next * ENTRY) as u64,
            _ => (self.index + 1) * BLOCK_SIZE as u64,
        };
        let kind = Kind::from_file_type(dirent.file_type);
        Ok(DirEntry {
            name,
            nid: dirent.nid.get(),
            kind,
            next_cookie: next,
        })
    }

    fn dirent(&self, position: usize) -> Option<&'a Dirent> {
        layout::read(self.bytes, position * ENTRY)
    }

    /// The name: up to the next entry's name; the last one up to a NUL or the end of the block.
    fn name(&self, position: usize) -> Option<&'a [u8]> {
        let start = usize::from(self.dirent(position)?.name_offset.get());
        let name = if position + 1 < self.count {
            self.bytes
                .get(start..usize::from(self.dirent(position + 1)?.name_offset.get()))?
        } else {
            let rest = self.bytes.get(start..)?;
            &rest[..rest
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(rest.len())]
        };
        let valid = start >= self.count * ENTRY
            && (1..=layout::NAME_MAX).contains(&name.len())
            && !name.iter().any(|&byte| byte == b'/' || byte == 0);
        valid.then_some(name)
    }
}

/// The first index below `len` for which `before` is false, given that it is true below some index and false from
/// there on. If it is not (a damaged directory), some index.
fn partition_point(
    len: u64,
    mut before: impl FnMut(u64) -> Result<bool, Error>,
) -> Result<u64, Error> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
