//! An image in memory: superblock checks and the way from a node number to an inode.

use crate::error::{Damage, Error, Unsupported};
use crate::inode::{Inode, Kind};
use crate::layout::{self, SuperBlock};
use crate::{BLOCK_SIZE, crc32c};

/// An EROFS image that lies in memory as a whole. Cheap to copy.
///
/// The kernel has an `Image<'static>` over the boot module. For [`Inode::block`] to give pages in place the bytes
/// must begin on a page boundary.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    super_block: &'a SuperBlock,
}

impl<'a> Image<'a> {
    /// Checks the superblock and the root inode.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::BadMagic`], [`Error::BadChecksum`], [`Error::Unsupported`], or
    /// [`Error::Corrupt`] for the root directory.
    pub fn new(bytes: &'a [u8]) -> Result<Image<'a>, Error> {
        let truncated = |needed: u64| Error::Truncated {
            needed,
            actual: bytes.len() as u64,
        };
        let first_block = bytes
            .get(..BLOCK_SIZE)
            .ok_or(truncated(BLOCK_SIZE as u64))?;
        let super_block: &SuperBlock = layout::read(first_block, layout::SUPER_OFFSET)
            .expect("the superblock lies inside the first block");
        check_format(super_block)?;
        check_sum(first_block, super_block)?;
        let size = u64::from(super_block.blocks.get()) * BLOCK_SIZE as u64;
        if size > bytes.len() as u64 {
            return Err(truncated(size));
        }
        let image = Image { bytes, super_block };
        image.root()?;
        Ok(image)
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Image::inode`]; [`Damage::RootNotADirectory`].
    pub fn root(&self) -> Result<Inode<'a>, Error> {
        let nid = self.root_nid();
        let root = self.inode(nid)?;
        match root.kind {
            Kind::Directory => Ok(root),
            _ => Err(Error::Corrupt {
                nid,
                damage: Damage::RootNotADirectory,
            }),
        }
    }

    /// Node number of the root directory.
    pub fn root_nid(&self) -> u64 {
        u64::from(self.super_block.root_nid.get())
    }

    /// The inode with node number `nid`, its metadata and the place of its data checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Unsupported`] when its data is compressed or chunk-based.
    pub fn inode(&self, nid: u64) -> Result<Inode<'a>, Error> {
        Inode::read(*self, nid)
    }

    /// The superblock, for `statfs`.
    pub fn super_block(&self) -> &'a SuperBlock {
        self.super_block
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes `[offset, offset + len)`, when inside the image.
    pub(crate) fn slice(&self, offset: u64, len: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = usize::try_from(offset.checked_add(len)?).ok()?;
        self.bytes.get(start..end)
    }

    /// Offset of the inode `nid`, which may lie outside the image.
    pub(crate) fn inode_offset(&self, nid: u64) -> Option<u64> {
        let base = u64::from(self.super_block.meta_block.get()) * BLOCK_SIZE as u64;
        nid.checked_mul(layout::INODE_SLOT as u64)?
            .checked_add(base)
    }
}

fn check_format(sb: &SuperBlock) -> Result<(), Error> {
    if sb.magic.get() != layout::MAGIC {
        return Err(Error::BadMagic(sb.magic.get()));
    }
    if sb.block_bits != layout::BLOCK_BITS {
        return Err(Error::Unsupported(Unsupported::BlockSize(sb.block_bits)));
    }
    if sb.dir_block_bits != 0 {
        return Err(Error::Unsupported(Unsupported::DirBlockSize(
            sb.dir_block_bits,
        )));
    }
    match sb.feature_incompat.get() & !layout::INCOMPAT_ZERO_PADDING {
        0 => Ok(()),
        unknown => Err(Error::Unsupported(Unsupported::Features(unknown))),
    }
}

fn check_sum(first_block: &[u8], sb: &SuperBlock) -> Result<(), Error> {
    if sb.feature_compat.get() & layout::COMPAT_CHECKSUM == 0 {
        return Ok(());
    }
    let (stored, computed) = (sb.checksum.get(), checksum(first_block));
    if stored == computed {
        Ok(())
    } else {
        Err(Error::BadChecksum { stored, computed })
    }
}

/// Checksum of the superblock: the first block from the superblock on, the checksum field taken as zero.
pub(crate) fn checksum(first_block: &[u8]) -> u32 {
    let bytes = &first_block[layout::SUPER_OFFSET..BLOCK_SIZE];
    let crc = crc32c::update(!0, &bytes[..4]);
    crc32c::update(crc32c::update(crc, &[0; 4]), &bytes[8..])
}
