//! Writes a planned image, from its first byte to its last.

use std::io::Write;

use zerocopy::IntoBytes;

use super::content::Output;
use super::inodes::{Body, Index};
use super::plan::Plan;
use super::{WriteError, dirs, xattrs};
use crate::BLOCK_SIZE;
use crate::image;
use crate::layout::{self, ExtendedInode, Format, SuperBlock};

impl Plan<'_> {
    /// Writes the image to `out`, in ascending order. `progress` is told the bytes written so far and in total, about
    /// once a megabyte and at the end. Many small writes are made: `out` should be buffered.
    ///
    /// # Errors
    /// [`WriteError::Output`], [`WriteError::Host`], [`WriteError::Shrank`].
    pub fn write(
        &self,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), WriteError> {
        let mut by_place: Vec<Index> = (0..self.places.len()).collect();
        by_place.sort_by_key(|&index| self.places[index].offset);
        let in_first =
            by_place.partition_point(|&index| self.places[index].offset < BLOCK_SIZE as u64);

        let mut output = Output::new(out, self.image_size(), progress);
        output.write(&self.first_block(&by_place[..in_first])?)?;
        for &index in &by_place[in_first..] {
            self.write_inode(index, &mut output)?;
        }
        output.pad_to(self.meta_blocks * BLOCK_SIZE as u64)?;
        for &index in &self.in_blocks {
            output.pad_to(u64::from(self.places[index].block) * BLOCK_SIZE as u64)?;
            self.write_data(index, &mut output)?;
        }
        output.pad_to(self.image_size())?;
        output.finish()
    }

    /// The superblock and the inodes after it.
    fn first_block(&self, inodes: &[Index]) -> Result<Vec<u8>, WriteError> {
        let mut block = Vec::with_capacity(BLOCK_SIZE);
        let mut ignore = |_, _| ();
        let mut output = Output::new(&mut block, BLOCK_SIZE as u64, &mut ignore);
        output.pad_to(layout::SUPER_OFFSET as u64)?;
        let mut super_block = self.super_block();
        output.write(super_block.as_bytes())?;
        for &index in inodes {
            self.write_inode(index, &mut output)?;
        }
        output.pad_to(BLOCK_SIZE as u64)?;
        super_block.checksum = image::checksum(&block).into();
        let start = layout::SUPER_OFFSET;
        block[start..start + size_of::<SuperBlock>()].copy_from_slice(super_block.as_bytes());
        Ok(block)
    }

    fn super_block(&self) -> SuperBlock {
        let mut volume_name = [0; 16];
        volume_name[..self.options.volume_name.len()]
            .copy_from_slice(self.options.volume_name.as_bytes());
        SuperBlock {
            magic: layout::MAGIC.into(),
            checksum: 0.into(),
            feature_compat: (layout::COMPAT_CHECKSUM | layout::COMPAT_MTIME).into(),
            block_bits: layout::BLOCK_BITS,
            extra_slots: 0,
            root_nid: u16::try_from(self.places[0].nid())
                .expect("the root gets the first place")
                .into(),
            inodes: (self.places.len() as u64).into(),
            build_time: self.options.build_time.into(),
            build_time_nsec: 0.into(),
            blocks: self.blocks.into(),
            meta_block: 0.into(),
            xattr_block: 0.into(),
            uuid: self.options.uuid,
            volume_name,
            feature_incompat: 0.into(),
            compression: 0.into(),
            extra_devices: 0.into(),
            device_table_slot: 0.into(),
            dir_block_bits: 0,
            xattr_prefix_count: 0,
            xattr_prefix_start: 0.into(),
            packed_nid: 0.into(),
            reserved: [0; 24],
        }
    }

    /// An inode with its attributes and inline data.
    fn write_inode(&self, index: Index, output: &mut Output<'_>) -> Result<(), WriteError> {
        let place = &self.places[index];
        output.pad_to(place.offset)?;
        output.write(self.inode(index).as_bytes())?;
        output.write(&place.xattrs)?;
        if place.inline {
            self.write_data(index, output)
        } else {
            Ok(())
        }
    }

    fn inode(&self, index: Index) -> ExtendedInode {
        let (inode, place) = (&self.inodes.all[index], &self.places[index]);
        let layout = if place.inline {
            layout::LAYOUT_FLAT_INLINE
        } else {
            layout::LAYOUT_FLAT_PLAIN
        };
        let attributes = inode.attributes.cloned().unwrap_or_default();
        let union = match inode.body {
            Body::Device(_, number) => number,
            _ => place.block,
        };
        ExtendedInode {
            format: Format {
                extended: true,
                layout,
            }
            .encode()
            .into(),
            xattr_count: xattrs::count(place.xattrs.len()).into(),
            mode: inode.mode().into(),
            reserved: 0.into(),
            size: place.size.into(),
            union: union.into(),
            // Any number will do that is unique; Linux programs of 32 bits see it. Counted from 1.
            ino: u32::try_from(index + 1).unwrap_or(u32::MAX).into(),
            uid: attributes.uid.into(),
            gid: attributes.gid.into(),
            mtime: (attributes.mtime as u64).into(),
            mtime_nsec: attributes.mtime_nsec.into(),
            nlink: inode.nlink.into(),
            reserved2: [0; 16],
        }
    }

    fn write_data(&self, index: Index, output: &mut Output<'_>) -> Result<(), WriteError> {
        let start = output.position();
        match &self.inodes.all[index].body {
            Body::File(content) => {
                content.read(self.places[index].size, &mut |piece| output.write(piece))?
            }
            Body::Symlink(target) => output.write(target)?,
            Body::Directory(dir) => {
                let names = self.inodes.listing(index, dir).into_iter();
                let entries: Vec<dirs::Named<'_, u64>> = names
                    .map(|(name, index)| {
                        (
                            name,
                            self.places[index].nid(),
                            self.inodes.all[index].kind(),
                        )
                    })
                    .collect();
                output.write(&dirs::encode(&entries))?;
            }
            Body::Device(..) | Body::Special(_) => {}
        }
        debug_assert_eq!(
            output.position() - start,
            self.places[index].size,
            "the plan knew the size"
        );
        Ok(())
    }
}
