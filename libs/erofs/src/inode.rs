//! Inodes and the bytes of files.
//!
//! [`Inode::read`] checks where the data lies, so that reading it later cannot fail.

use crate::BLOCK_SIZE;
use crate::error::{Damage, Error, Unsupported};
use crate::image::Image;
use crate::layout::{self, CompactInode, ExtendedInode, Format, mode};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Symbolic link.
    Symlink,
}

/// The kinds with their mode bits and directory entry types (`FT_*`).
const KINDS: [(Kind, u16, u8); 7] = [
    (Kind::Regular, mode::REGULAR, 1),
    (Kind::Directory, mode::DIRECTORY, 2),
    (Kind::CharDevice, mode::CHAR_DEVICE, 3),
    (Kind::BlockDevice, mode::BLOCK_DEVICE, 4),
    (Kind::Fifo, mode::FIFO, 5),
    (Kind::Socket, mode::SOCKET, 6),
    (Kind::Symlink, mode::SYMLINK, 7),
];

impl Kind {
    /// From the type bits of a mode.
    pub fn from_mode(mode: u16) -> Option<Kind> {
        KINDS
            .iter()
            .find(|kind| kind.1 == mode & mode::TYPE)
            .map(|kind| kind.0)
    }

    /// From a directory entry's type.
    pub fn from_file_type(file_type: u8) -> Option<Kind> {
        KINDS
            .iter()
            .find(|kind| kind.2 == file_type)
            .map(|kind| kind.0)
    }

    /// The type bits of a mode.
    pub fn mode_bits(self) -> u16 {
        self.row().1
    }

    /// The type in a directory entry.
    pub fn file_type(self) -> u8 {
        self.row().2
    }

    fn row(self) -> (Kind, u16, u8) {
        *KINDS
            .iter()
            .find(|kind| kind.0 == self)
            .expect("every kind has a row")
    }
}

/// A device's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// Which driver; 12 bits on disk.
    pub major: u32,
    /// Which of its devices; 20 bits on disk.
    pub minor: u32,
}

impl DeviceNumber {
    /// From the 32-bit form on disk: the minor number's low 8 bits, the major number, the rest of the minor.
    pub fn decode(raw: u32) -> DeviceNumber {
        DeviceNumber {
            major: (raw >> 8) & 0xfff,
            minor: (raw & 0xff) | ((raw >> 12) & 0xf_ff00),
        }
    }

    /// The 32-bit form; `None` when a part is too large for it.
    pub fn encode(self) -> Option<u32> {
        let fits = self.major < 1 << 12 && self.minor < 1 << 20;
        fits.then_some((self.minor & 0xff) | (self.major << 8) | ((self.minor & 0xf_ff00) << 12))
    }
}

/// One block's worth of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRef<'a> {
    /// A page of the image, on a page boundary, zero after the end of the file: can be mapped as it is.
    InPlace(&'a [u8; BLOCK_SIZE]),
    /// At most a block of bytes that must be copied, the rest being zero: an inline tail, or an image that does not
    /// begin on a page boundary.
    Tail(&'a [u8]),
}

/// An inode. Cheap to copy; holds no resource.
#[derive(Clone, Copy, Debug)]
pub struct Inode<'a> {
    /// Node number: the inode number that programs see.
    pub nid: u64,
    /// What it is.
    pub kind: Kind,
    /// Type and permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Bytes of data; 0 for devices, pipes and sockets.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Its nanoseconds, below 10⁹.
    pub mtime_nsec: u32,
    /// Device number, for devices.
    pub rdev: DeviceNumber,
    pub(crate) image: Image<'a>,
    /// The extended attributes after the inode.
    pub(crate) xattr_body: &'a [u8],
    data: Data<'a>,
}

/// Where the data is: whole blocks, then what remains of it in another place.
#[derive(Clone, Copy, Debug, Default)]
struct Data<'a> {
    /// Consecutive blocks of the image, up to the end of the file if there is no tail.
    blocks: &'a [u8],
    /// The last bytes, inline after the inode.
    tail: &'a [u8],
}

/// What both inode forms say.
struct Raw {
    format: Format,
    len: u64,
    xattr_count: u16,
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: u64,
    mtime: i64,
    mtime_nsec: u32,
    union: u32,
}

impl<'a> Inode<'a> {
    /// Reads and checks the inode `nid`.
    pub(crate) fn read(image: Image<'a>, nid: u64) -> Result<Inode<'a>, Error> {
        let corrupt = |damage| Error::Corrupt { nid, damage };
        let offset = image
            .inode_offset(nid)
            .ok_or(corrupt(Damage::InodeOutside))?;
        let raw = Raw::read(image, nid, offset)?;
        let kind = Kind::from_mode(raw.mode).ok_or(corrupt(Damage::Mode(raw.mode)))?;
        if raw.mtime_nsec >= 1_000_000_000 {
            return Err(corrupt(Damage::Time(raw.mtime_nsec)));
        }
        let xattr_start = offset + raw.len;
        let xattr_len = layout::xattr_body_size(raw.xattr_count) as u64;
        let xattr_body = image
            .slice(xattr_start, xattr_len)
            .ok_or(corrupt(Damage::Xattr))?;
        let mut inode = Inode {
            nid,
            kind,
            mode: raw.mode,
            uid: raw.uid,
            gid: raw.gid,
            nlink: raw.nlink,
            size: 0,
            mtime: raw.mtime,
            mtime_nsec: raw.mtime_nsec,
            rdev: DeviceNumber::default(),
            image,
            xattr_body,
            data: Data::default(),
        };
        match kind {
            Kind::Regular | Kind::Directory | Kind::Symlink => {
                inode.size = raw.size;
                inode.data = Data::find(image, nid, &raw, xattr_start + xattr_len)?;
            }
            Kind::CharDevice | Kind::BlockDevice => inode.rdev = DeviceNumber::decode(raw.union),
            Kind::Fifo | Kind::Socket => {}
        }
        Ok(inode)
    }

    /// Copies bytes of a regular file from `offset` on into `buffer`; returns how many, fewer than asked at the end.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buffer.len() {
            let piece = self.slice_at(offset.saturating_add(done as u64))?;
            if piece.is_empty() {
                break;
            }
            let len = piece.len().min(buffer.len() - done);
            buffer[done..done + len].copy_from_slice(&piece[..len]);
            done += len;
        }
        Ok(done)
    }

    /// The longest contiguous run of a regular file's bytes from `offset` on, in the image itself; empty at the end.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`].
    pub fn slice_at(&self, offset: u64) -> Result<&'a [u8], Error> {
        match self.kind {
            Kind::Regular => Ok(self.data.from(offset)),
            _ => Err(Error::NotARegularFile),
        }
    }

    /// The block `index` (bytes `index * 4096` on) of a regular file; `None` beyond the end.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`].
    pub fn block(&self, index: u64) -> Result<Option<BlockRef<'a>>, Error> {
        let Some(offset) = index.checked_mul(BLOCK) else {
            return Ok(None);
        };
        let bytes = self.slice_at(offset)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let used = &bytes[..bytes.len().min(BLOCK_SIZE)];
        Ok(Some(
            self.page_at(offset, used.len())
                .map_or(BlockRef::Tail(used), BlockRef::InPlace),
        ))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::NotASymlink`]; [`Damage::SymlinkTarget`].
    pub fn read_link(&self) -> Result<&'a [u8], Error> {
        if self.kind != Kind::Symlink {
            return Err(Error::NotASymlink);
        }
        let target = self.data.from(0);
        let valid = (1..=layout::SYMLINK_MAX as u64).contains(&self.size)
            && target.len() as u64 == self.size
            && !target.contains(&0);
        if valid {
            Ok(target)
        } else {
            Err(self.corrupt(Damage::SymlinkTarget))
        }
    }

    /// The bytes of directory block `index`.
    pub(crate) fn dir_block(&self, index: u64) -> &'a [u8] {
        let bytes = index
            .checked_mul(BLOCK)
            .map_or(&[][..], |offset| self.data.from(offset));
        &bytes[..bytes.len().min(BLOCK_SIZE)]
    }

    pub(crate) fn corrupt(&self, damage: Damage) -> Error {
        Error::Corrupt {
            nid: self.nid,
            damage,
        }
    }

    /// The page of the image with the data at `offset`, if it can be mapped: aligned, whole, and zero after `used`
    /// bytes ("the remaining bytes in the partial page at the end of the mapping are zeroed", mmap(2)).
    fn page_at(&self, offset: u64, used: usize) -> Option<&'a [u8; BLOCK_SIZE]> {
        let blocks = self.data.blocks;
        let offset = usize::try_from(offset)
            .ok()
            .filter(|&offset| offset < blocks.len())?;
        let start = blocks.as_ptr().addr() - self.image.bytes().as_ptr().addr() + offset;
        let page: &[u8; BLOCK_SIZE] = self.image.bytes().get(start..)?.first_chunk()?;
        let mappable = page.as_ptr().addr().is_multiple_of(BLOCK_SIZE)
            && page[used..].iter().all(|&byte| byte == 0);
        mappable.then_some(page)
    }
}

impl<'a> Data<'a> {
    /// Finds and checks the data of a file whose inode and attributes end at `meta_end`.
    fn find(image: Image<'a>, nid: u64, raw: &Raw, meta_end: u64) -> Result<Data<'a>, Error> {
        let unsupported = |what| Err(Error::Unsupported(what));
        let corrupt = |damage| Error::Corrupt { nid, damage };
        let tail_len = match raw.format.layout {
            layout::LAYOUT_FLAT_PLAIN => 0,
            // All of the last block is inline, even when it is a whole one.
            layout::LAYOUT_FLAT_INLINE if raw.size > 0 => (raw.size - 1) % BLOCK + 1,
            layout::LAYOUT_FLAT_INLINE => 0,
            layout::LAYOUT_COMPRESSED_FULL | layout::LAYOUT_COMPRESSED_COMPACT => {
                return unsupported(Unsupported::Compressed(nid));
            }
            layout::LAYOUT_CHUNKED => return unsupported(Unsupported::Chunked(nid)),
            _ => {
                return unsupported(Unsupported::InodeFormat {
                    nid,
                    format: raw.format.encode(),
                });
            }
        };
        if meta_end % BLOCK + tail_len > BLOCK {
            return Err(corrupt(Damage::InlineTail));
        }
        let tail = image
            .slice(meta_end, tail_len)
            .ok_or(corrupt(Damage::InlineTail))?;
        let blocks_len = raw.size - tail_len;
        if blocks_len == 0 {
            return Ok(Data { blocks: &[], tail });
        }
        let start = u64::from(raw.union) * BLOCK;
        let blocks = image
            .slice(start, blocks_len)
            .ok_or(corrupt(Damage::DataOutside))?;
        Ok(Data { blocks, tail })
    }

    /// The longest run of bytes from `offset` on.
    fn from(&self, offset: u64) -> &'a [u8] {
        let Ok(offset) = usize::try_from(offset) else {
            return &[];
        };
        match self.blocks.get(offset..) {
            Some(bytes) if !bytes.is_empty() => bytes,
            _ => offset
                .checked_sub(self.blocks.len())
                .and_then(|offset| self.tail.get(offset..))
                .unwrap_or(&[]),
        }
    }
}

impl Raw {
    fn read(image: Image<'_>, nid: u64, offset: u64) -> Result<Raw, Error> {
        let outside = Error::Corrupt {
            nid,
            damage: Damage::InodeOutside,
        };
        let start = usize::try_from(offset).map_err(|_| outside)?;
        // Both forms begin with the format; the compact one is the shorter.
        let compact: &CompactInode = layout::read(image.bytes(), start).ok_or(outside)?;
        let format = compact.format.get();
        match Format::decode(format) {
            None => Err(Error::Unsupported(Unsupported::InodeFormat { nid, format })),
            Some(format) if !format.extended => Ok(Raw::from_compact(image, format, compact)),
            Some(format) => layout::read(image.bytes(), start)
                .map(|raw| Raw::from_extended(format, raw))
                .ok_or(outside),
        }
    }

    fn from_compact(image: Image<'_>, format: Format, raw: &CompactInode) -> Raw {
        let sb = image.super_block();
        Raw {
            format,
            len: size_of::<CompactInode>() as u64,
            xattr_count: raw.xattr_count.get(),
            mode: raw.mode.get(),
            uid: u32::from(raw.uid.get()),
            gid: u32::from(raw.gid.get()),
            nlink: u32::from(raw.nlink.get()),
            size: u64::from(raw.size.get()),
            mtime: sb
                .build_time
                .get()
                .wrapping_add(u64::from(raw.mtime_delta.get())) as i64,
            mtime_nsec: sb.build_time_nsec.get(),
            union: raw.union.get(),
        }
    }

    fn from_extended(format: Format, raw: &ExtendedInode) -> Raw {
        Raw {
            format,
            len: size_of::<ExtendedInode>() as u64,
            xattr_count: raw.xattr_count.get(),
            mode: raw.mode.get(),
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            nlink: raw.nlink.get(),
            size: raw.size.get(),
            mtime: raw.mtime.get() as i64,
            mtime_nsec: raw.mtime_nsec.get(),
            union: raw.union.get(),
        }
    }
}
