//! What can be wrong with an image or a request.

use core::fmt;

/// Why the reader refused.
///
/// As errno: [`Error::Unsupported`] is EOPNOTSUPP, [`Error::NotADirectory`] ENOTDIR, [`Error::NotASymlink`] and
/// [`Error::NotARegularFile`] EINVAL, all others EUCLEAN (which Linux calls EFSCORRUPTED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The image is shorter than its superblock says, or than a superblock.
    Truncated {
        /// Bytes it should have at least.
        needed: u64,
        /// Bytes it has.
        actual: u64,
    },
    /// No EROFS superblock: the number found instead of the magic one.
    BadMagic(u32),
    /// The superblock's checksum is wrong.
    BadChecksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The image uses something this reader does not implement.
    Unsupported(Unsupported),
    /// The inode `nid` is damaged.
    Corrupt {
        /// Node number.
        nid: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// A directory operation on something else.
    NotADirectory,
    /// `read_link` of something else.
    NotASymlink,
    /// Reading bytes of something that has none.
    NotARegularFile,
}

/// Parts of the format that are not implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// A block size other than 4 KiB: its log2.
    BlockSize(u8),
    /// Directory blocks larger than blocks.
    DirBlockSize(u8),
    /// Incompatible features: the unknown bits of `feature_incompat`.
    Features(u32),
    /// A compressed file: its nid.
    Compressed(u64),
    /// A chunk-based file: its nid.
    Chunked(u64),
    /// An inode format nobody knew when this was written.
    InodeFormat {
        /// Node number.
        nid: u64,
        /// The format field.
        format: u16,
    },
}

/// What is wrong with an inode or its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// The inode lies outside the image.
    InodeOutside,
    /// The root is not a directory.
    RootNotADirectory,
    /// The mode has no known file type: the mode.
    Mode(u16),
    /// The nanoseconds are a second or more.
    Time(u32),
    /// Data blocks lie outside the image.
    DataOutside,
    /// The inline tail crosses a block or lies outside the image.
    InlineTail,
    /// A directory block has no valid array of entries: the block's index.
    DirBlock(u64),
    /// A name lies outside its block, is empty, too long or has a `/` or NUL: the block's index.
    DirName(u64),
    /// A symbolic link is empty, too long or has a NUL.
    SymlinkTarget,
    /// Extended attributes overflow their space or the image.
    Xattr,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Truncated { needed, actual } => {
                write!(f, "image is truncated: {actual} bytes of {needed}")
            }
            Error::BadMagic(found) => {
                write!(f, "not an EROFS image: magic number is {found:#010x}")
            }
            Error::BadChecksum { stored, computed } => {
                write!(
                    f,
                    "superblock is damaged: checksum {computed:#010x} should be {stored:#010x}"
                )
            }
            Error::Unsupported(what) => what.fmt(f),
            Error::Corrupt { nid, damage } => write!(f, "inode {nid} is damaged: {damage}"),
            Error::NotADirectory => f.write_str("not a directory"),
            Error::NotASymlink => f.write_str("not a symbolic link"),
            Error::NotARegularFile => f.write_str("not a regular file"),
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Unsupported::BlockSize(bits) => write!(
                f,
                "blocks of 2^{bits} bytes are not supported, only of 4096"
            ),
            Unsupported::DirBlockSize(bits) => {
                write!(f, "directory blocks of 2^{bits} blocks are not supported")
            }
            Unsupported::Features(bits) => write!(f, "image features {bits:#x} are not supported"),
            Unsupported::Compressed(nid) => {
                write!(f, "inode {nid} is compressed, which is not supported")
            }
            Unsupported::Chunked(nid) => {
                write!(f, "inode {nid} is chunk-based, which is not supported")
            }
            Unsupported::InodeFormat { nid, format } => {
                write!(f, "inode {nid} has the unknown format {format:#x}")
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Damage::InodeOutside => f.write_str("it lies outside the image"),
            Damage::RootNotADirectory => f.write_str("it is the root but not a directory"),
            Damage::Mode(mode) => write!(f, "mode {mode:#o} has no known file type"),
            Damage::Time(nsec) => write!(f, "its time has {nsec} nanoseconds"),
            Damage::DataOutside => f.write_str("its data lies outside the image"),
            Damage::InlineTail => {
                f.write_str("its inline data crosses a block or the end of the image")
            }
            Damage::DirBlock(index) => {
                write!(f, "directory block {index} has no valid entry array")
            }
            Damage::DirName(index) => write!(f, "directory block {index} has an invalid name"),
            Damage::SymlinkTarget => f.write_str("invalid target of a symbolic link"),
            Damage::Xattr => f.write_str("invalid extended attributes"),
        }
    }
}

impl core::error::Error for Error {}
