//! Extended attributes, inline after the inode and shared between inodes.

use crate::BLOCK_SIZE;
use crate::error::{Damage, Error};
use crate::inode::Inode;
use crate::layout::{self, XattrEntry, XattrHeader};

/// One extended attribute. Its full name is `prefix` followed by `suffix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// The namespace: `user.`, `security.`, …, or a whole name such as `system.posix_acl_access`.
    pub prefix: &'static str,
    /// The rest of the name.
    pub suffix: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl Xattr<'_> {
    /// Whether the full name is `name`.
    pub fn is_named(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix.as_bytes()) == Some(self.suffix)
    }

    /// Length of the full name.
    pub fn name_len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }
}

/// The extended attributes of an inode; ends after the first error. Those in unknown namespaces are left out.
#[derive(Clone, Debug)]
pub struct Xattrs<'a> {
    inode: Inode<'a>,
    /// Ids of shared attributes not yet given, 4 bytes each.
    shared: &'a [u8],
    /// Inline attributes not yet given.
    inline: &'a [u8],
}

impl<'a> Inode<'a> {
    /// Lists the extended attributes.
    ///
    /// # Errors
    /// [`Damage::Xattr`].
    pub fn xattrs(&self) -> Result<Xattrs<'a>, Error> {
        let damaged = self.corrupt(Damage::Xattr);
        let mut all = Xattrs {
            inode: *self,
            shared: &[],
            inline: &[],
        };
        if self.xattr_body.is_empty() {
            return Ok(all);
        }
        let header: &XattrHeader = layout::read(self.xattr_body, 0).ok_or(damaged)?;
        let entries = &self.xattr_body[size_of::<XattrHeader>()..];
        (all.shared, all.inline) = entries
            .split_at_checked(usize::from(header.shared_count) * 4)
            .ok_or(damaged)?;
        Ok(all)
    }

    /// The value of the extended attribute with the full name `name`.
    ///
    /// # Errors
    /// [`Damage::Xattr`].
    pub fn xattr(&self, name: &[u8]) -> Result<Option<&'a [u8]>, Error> {
        for xattr in self.xattrs()? {
            let xattr = xattr?;
            if xattr.is_named(name) {
                return Ok(Some(xattr.value));
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<Xattr<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_raw()? {
                None => {
                    (self.shared, self.inline) = (&[], &[]);
                    return Some(Err(self.inode.corrupt(Damage::Xattr)));
                }
                Some((entry, suffix, value)) => {
                    if let Some(prefix) = prefix(entry.name_index) {
                        return Some(Ok(Xattr {
                            prefix,
                            suffix,
                            value,
                        }));
                    }
                }
            }
        }
    }
}

type RawXattr<'a> = (&'a XattrEntry, &'a [u8], &'a [u8]);

impl<'a> Xattrs<'a> {
    /// The next attribute in any namespace; `Some(None)` when it is damaged. Each call consumes at least 4 bytes.
    fn next_raw(&mut self) -> Option<Option<RawXattr<'a>>> {
        if let Some((id, rest)) = self.shared.split_first_chunk() {
            self.shared = rest;
            return Some(self.read_shared(u32::from_le_bytes(*id)));
        }
        if self.inline.is_empty() {
            return None;
        }
        let entry = read_entry(self.inline);
        if let Some((_, suffix, value)) = entry {
            let len = (size_of::<XattrEntry>() + suffix.len() + value.len()).next_multiple_of(4);
            self.inline = self.inline.get(len..).unwrap_or(&[]);
        }
        Some(entry)
    }

    /// The shared attribute `id`, which counts 4-byte units from the start of the shared area.
    fn read_shared(&self, id: u32) -> Option<RawXattr<'a>> {
        let image = self.inode.image;
        let area = u64::from(image.super_block().xattr_block.get()) * BLOCK_SIZE as u64;
        let offset = usize::try_from(area + u64::from(id) * 4).ok()?;
        read_entry(image.bytes().get(offset..)?)
    }
}

fn read_entry(bytes: &[u8]) -> Option<RawXattr<'_>> {
    let entry: &XattrEntry = layout::read(bytes, 0)?;
    let rest = &bytes[size_of::<XattrEntry>()..];
    let (name, rest) = rest.split_at_checked(usize::from(entry.name_len))?;
    let value = rest.get(..usize::from(entry.value_size.get()))?;
    Some((entry, name, value))
}

fn prefix(index: u8) -> Option<&'static str> {
    layout::XATTR_PREFIXES
        .iter()
        .find(|prefix| prefix.0 == index)
        .map(|prefix| prefix.1)
}
