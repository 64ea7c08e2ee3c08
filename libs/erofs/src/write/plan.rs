//! Decides where everything lies, before a byte is written.

use super::inodes::{Body, Directory, Index, Inode, Inodes};
use super::space::MetaSpace;
use super::{Tree, WriteError, dirs, share, xattrs};
use crate::BLOCK_SIZE;
use crate::layout::{ExtendedInode, INODE_SLOT};

/// Choices about an image.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// Volume name: at most 15 bytes.
    pub volume_name: String,
    /// Seconds since 1970, for the superblock only.
    pub build_time: u64,
    /// Whether files with the same bytes share blocks.
    pub sharing: Sharing,
}

/// Whether files with the same bytes share blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Each has its own.
    #[default]
    Separate,
    /// They share; files of equal size are read twice more to find out.
    Identical,
}

/// An image whose every place is decided; [`Plan::write`] makes it.
pub struct Plan<'t> {
    pub(super) options: Options,
    pub(super) inodes: Inodes<'t>,
    /// Where the inodes lie, by index.
    pub(super) places: Vec<Place>,
    /// Files and large directories and links that have blocks of their own, in the order of these.
    pub(super) in_blocks: Vec<Index>,
    /// Blocks of the superblock and inodes.
    pub(super) meta_blocks: u64,
    /// Blocks of the image.
    pub(super) blocks: u32,
}

/// Where an inode and its data lie.
pub(super) struct Place {
    /// Bytes of data.
    pub(super) size: u64,
    /// The extended attributes as they follow the inode.
    pub(super) xattrs: Vec<u8>,
    /// The data follows the attributes.
    pub(super) inline: bool,
    /// The inode's offset in the image.
    pub(super) offset: u64,
    /// First data block, if there are any.
    pub(super) block: u32,
}

impl Place {
    pub(super) fn nid(&self) -> u64 {
        self.offset / INODE_SLOT as u64
    }

    fn has_blocks(&self) -> bool {
        self.size > 0 && !self.inline
    }
}

/// Checks the tree, asks the host for the sizes of files, and lays the image out.
///
/// # Errors
/// Any [`WriteError`] but [`WriteError::Output`].
pub fn plan<'t>(tree: &'t Tree, options: &Options) -> Result<Plan<'t>, WriteError> {
    if options.volume_name.len() > 15 || options.volume_name.contains('\0') {
        return Err(WriteError::VolumeName);
    }
    let inodes = Inodes::collect(tree)?;
    let mut space = MetaSpace::new();
    let mut places = Vec::with_capacity(inodes.all.len());
    for (index, inode) in inodes.all.iter().enumerate() {
        places.push(place(&inodes, index, inode, &mut space)?);
    }
    let meta_blocks = space.blocks();
    let mut plan = Plan {
        options: options.clone(),
        inodes,
        places,
        in_blocks: Vec::new(),
        meta_blocks,
        blocks: 0,
    };
    plan.place_blocks()?;
    Ok(plan)
}

impl Plan<'_> {
    /// Bytes of the image, a multiple of the block size.
    pub fn image_size(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_SIZE as u64
    }

    /// Number of inodes.
    pub fn inode_count(&self) -> usize {
        self.inodes.all.len()
    }

    /// Gives blocks to all data that is not inline: directories and links first, then files.
    fn place_blocks(&mut self) -> Result<(), WriteError> {
        let shared = match self.options.sharing {
            Sharing::Separate => Default::default(),
            Sharing::Identical => share::find(&self.inodes, self.with_blocks())?,
        };
        let mut order: Vec<Index> = self.with_blocks().map(|(index, _)| index).collect();
        order.retain(|index| !shared.contains_key(index));
        order.sort_by_key(|&index| matches!(self.inodes.all[index].body, Body::File(_)));
        let mut next = self.meta_blocks;
        for &index in &order {
            let place = &mut self.places[index];
            place.block = u32::try_from(next).map_err(|_| WriteError::TooLarge)?;
            next += place.size.div_ceil(BLOCK_SIZE as u64);
        }
        for (&copy, &original) in &shared {
            self.places[copy].block = self.places[original].block;
        }
        self.blocks = u32::try_from(next).map_err(|_| WriteError::TooLarge)?;
        self.in_blocks = order;
        Ok(())
    }

    /// Inodes whose data needs blocks, with its size.
    fn with_blocks(&self) -> impl Iterator<Item = (Index, u64)> {
        self.places
            .iter()
            .enumerate()
            .filter(|(_, place)| place.has_blocks())
            .map(|(index, place)| (index, place.size))
    }
}

/// Finds a place for an inode, its attributes and, when all fit in one block, its data.
fn place(
    inodes: &Inodes<'_>,
    index: Index,
    inode: &Inode<'_>,
    space: &mut MetaSpace,
) -> Result<Place, WriteError> {
    let size = size(inodes, index, inode)?;
    let xattrs = encode_xattrs(inode)?;
    let head = size_of::<ExtendedInode>() + xattrs.len();
    let inline = size > 0 && size < BLOCK_SIZE as u64 && head + size as usize <= BLOCK_SIZE;
    let offset = space.take(head + if inline { size as usize } else { 0 });
    Ok(Place {
        size,
        xattrs,
        inline,
        offset,
        block: 0,
    })
}

fn size(inodes: &Inodes<'_>, index: Index, inode: &Inode<'_>) -> Result<u64, WriteError> {
    match &inode.body {
        Body::File(content) => content.size(),
        Body::Directory(dir) => Ok(directory_size(inodes, index, dir)),
        Body::Symlink(target) => Ok(target.len() as u64),
        Body::Device(..) | Body::Special(_) => Ok(0),
    }
}

fn directory_size<'t>(inodes: &Inodes<'t>, index: Index, dir: &Directory<'t>) -> u64 {
    dirs::size(inodes.listing(index, dir).into_keys())
}

fn encode_xattrs(inode: &Inode<'_>) -> Result<Vec<u8>, WriteError> {
    let Some(attributes) = inode.attributes else {
        return Ok(Vec::new());
    };
    xattrs::encode(&attributes.xattrs).map_err(|name| WriteError::Xattr {
        path: inode.path(),
        name: name.to_vec(),
    })
}
