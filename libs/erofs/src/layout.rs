//! The structures on disk, byte for byte (Linux: `fs/erofs/erofs_fs.h`). All numbers are little-endian.
//!
//! Used by the reader and the writer alike, so that the two cannot disagree about an offset.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::BLOCK_SIZE;

/// Where the superblock begins: block 0 leaves room for a boot sector.
pub const SUPER_OFFSET: usize = 1024;
/// First number of the superblock.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// log2 of the one block size supported.
pub const BLOCK_BITS: u8 = BLOCK_SIZE.trailing_zeros() as u8;
/// Inodes lie on multiples of this; a node number (nid) counts these slots.
pub const INODE_SLOT: usize = 32;
/// Longest file name.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link: PATH_MAX without the final NUL.
pub const SYMLINK_MAX: usize = 4095;

/// `feature_compat`: the superblock carries a checksum.
pub const COMPAT_CHECKSUM: u32 = 0x1;
/// `feature_compat`: inode times are modification times.
pub const COMPAT_MTIME: u32 = 0x2;
/// `feature_incompat`: says how compressed data is padded; means nothing for uncompressed files.
pub const INCOMPAT_ZERO_PADDING: u32 = 0x1;

/// The file type bits of a mode, and the types.
pub mod mode {
    /// Mask of the type bits.
    pub const TYPE: u16 = 0o170_000;
    /// Socket.
    pub const SOCKET: u16 = 0o140_000;
    /// Symbolic link.
    pub const SYMLINK: u16 = 0o120_000;
    /// Regular file.
    pub const REGULAR: u16 = 0o100_000;
    /// Block device.
    pub const BLOCK_DEVICE: u16 = 0o060_000;
    /// Directory.
    pub const DIRECTORY: u16 = 0o040_000;
    /// Character device.
    pub const CHAR_DEVICE: u16 = 0o020_000;
    /// Named pipe.
    pub const FIFO: u16 = 0o010_000;
}

/// The superblock, 128 bytes at [`SUPER_OFFSET`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SuperBlock {
    /// [`MAGIC`].
    pub magic: U32,
    /// CRC-32C of the rest of block 0 from the superblock on, with this field zero.
    pub checksum: U32,
    /// Features that a reader may ignore.
    pub feature_compat: U32,
    /// log2 of the block size.
    pub block_bits: u8,
    /// Extra 16-byte slots after the superblock.
    pub extra_slots: u8,
    /// Node number of the root directory.
    pub root_nid: U16,
    /// Number of inodes.
    pub inodes: U64,
    /// Seconds of the build time, the time of all compact inodes.
    pub build_time: U64,
    /// Its nanoseconds.
    pub build_time_nsec: U32,
    /// Blocks in the file system.
    pub blocks: U32,
    /// Block where node number 0 would be.
    pub meta_block: U32,
    /// Block where the shared extended attributes begin.
    pub xattr_block: U32,
    /// UUID.
    pub uuid: [u8; 16],
    /// Volume name, ended by NUL.
    pub volume_name: [u8; 16],
    /// Features that a reader must know.
    pub feature_incompat: U32,
    /// Compression parameters.
    pub compression: U16,
    /// Devices besides this one.
    pub extra_devices: U16,
    /// Where their table is.
    pub device_table_slot: U16,
    /// log2(directory block size / block size).
    pub dir_block_bits: u8,
    /// Number of long attribute prefixes.
    pub xattr_prefix_count: u8,
    /// Where these are.
    pub xattr_prefix_start: U32,
    /// Inode that packs the tails of compressed files.
    pub packed_nid: U64,
    /// Reserved.
    pub reserved: [u8; 24],
}

/// Inode of 32 bytes: 16-bit ids, 32-bit size, the image's time.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CompactInode {
    /// See [`Format`].
    pub format: U16,
    /// See [`xattr_body_size`].
    pub xattr_count: U16,
    /// Type and permissions.
    pub mode: U16,
    /// Link count.
    pub nlink: U16,
    /// Size in bytes.
    pub size: U32,
    /// Seconds after the build time; 0 in images made before Linux 6.15.
    pub mtime_delta: U32,
    /// First data block, or device number.
    pub union: U32,
    /// Inode number for 32-bit `stat`.
    pub ino: U32,
    /// Owner.
    pub uid: U16,
    /// Group.
    pub gid: U16,
    /// Reserved.
    pub reserved: U32,
}

/// Inode of 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedInode {
    /// See [`Format`].
    pub format: U16,
    /// See [`xattr_body_size`].
    pub xattr_count: U16,
    /// Type and permissions.
    pub mode: U16,
    /// Reserved.
    pub reserved: U16,
    /// Size in bytes.
    pub size: U64,
    /// First data block, or device number.
    pub union: U32,
    /// Inode number for 32-bit `stat`.
    pub ino: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Seconds of the modification time.
    pub mtime: U64,
    /// Its nanoseconds.
    pub mtime_nsec: U32,
    /// Link count.
    pub nlink: U32,
    /// Reserved.
    pub reserved2: [u8; 16],
}

/// Directory entry. A directory block is an array of these, then the names in the same order.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Dirent {
    /// Node number of what is named.
    pub nid: U64,
    /// Where in the block the name begins; in the first entry also the size of the array.
    pub name_offset: U16,
    /// Type of what is named: `FT_*`, see [`crate::Kind`].
    pub file_type: u8,
    /// Reserved.
    pub reserved: u8,
}

/// Begins the extended attributes that follow an inode; then come the ids of shared ones, then inline ones.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct XattrHeader {
    /// Bloom filter of names; a set bit means "not present". 0 filters nothing.
    pub name_filter: U32,
    /// How many ids of shared attributes follow.
    pub shared_count: u8,
    /// Reserved.
    pub reserved: [u8; 7],
}

/// One extended attribute; its name and value follow, padded to a multiple of 4.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct XattrEntry {
    /// Length of the name after the prefix.
    pub name_len: u8,
    /// Which prefix the name has.
    pub name_index: u8,
    /// Length of the value.
    pub value_size: U16,
}

/// Prefixes of attribute names, by index.
pub const XATTR_PREFIXES: [(u8, &str); 6] = [
    (1, "user."),
    (2, "system.posix_acl_access"),
    (3, "system.posix_acl_default"),
    (4, "trusted."),
    (5, "lustre."),
    (6, "security."),
];

/// Bytes of extended attributes after an inode whose `xattr_count` is `count`.
pub const fn xattr_body_size(count: u16) -> usize {
    match count {
        0 => 0,
        n => size_of::<XattrHeader>() + (n as usize - 1) * 4,
    }
}

/// The two facts in an inode's `format` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// [`ExtendedInode`] rather than [`CompactInode`].
    pub extended: bool,
    /// How the data is stored: a `LAYOUT_*`.
    pub layout: u8,
}

/// Data in consecutive blocks.
pub const LAYOUT_FLAT_PLAIN: u8 = 0;
/// Compressed, full indexes.
pub const LAYOUT_COMPRESSED_FULL: u8 = 1;
/// Like plain, but the last block's worth lies right after the inode.
pub const LAYOUT_FLAT_INLINE: u8 = 2;
/// Compressed, compact indexes.
pub const LAYOUT_COMPRESSED_COMPACT: u8 = 3;
/// In chunks anywhere.
pub const LAYOUT_CHUNKED: u8 = 4;

impl Format {
    /// Takes the field apart; `None` when it has bits nobody knows.
    pub const fn decode(raw: u16) -> Option<Format> {
        if raw & !0xf != 0 {
            return None;
        }
        Some(Format {
            extended: raw & 1 != 0,
            layout: (raw >> 1) as u8,
        })
    }

    /// The field.
    pub const fn encode(self) -> u16 {
        self.extended as u16 | ((self.layout as u16) << 1)
    }
}

/// Reads a structure at `offset`, when it lies wholly inside `bytes`.
pub(crate) fn read<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
    offset: usize,
) -> Option<&T> {
    T::ref_from_prefix(bytes.get(offset..)?)
        .ok()
        .map(|(value, _)| value)
}

const _: () = {
    assert!(size_of::<SuperBlock>() == 128);
    assert!(size_of::<CompactInode>() == 32);
    assert!(size_of::<ExtendedInode>() == 64);
    assert!(size_of::<Dirent>() == 12);
    assert!(size_of::<XattrHeader>() == 12);
    assert!(size_of::<XattrEntry>() == 4);
};
