//! Encodes extended attributes, all inline after their inode.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

use crate::layout::{XATTR_PREFIXES, XattrEntry, XattrHeader};

/// Most bytes that an inode's 16-bit count can express.
const BODY_MAX: usize = crate::layout::xattr_body_size(u16::MAX);

/// The attributes as they lie after the inode; empty when there are none.
///
/// # Errors
/// The name of the attribute that cannot be stored.
pub(super) fn encode(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>, &[u8]> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let header = XattrHeader {
        name_filter: 0.into(),
        shared_count: 0,
        reserved: [0; 7],
    };
    let mut body = header.as_bytes().to_vec();
    for (name, value) in xattrs {
        push(&mut body, name, value)
            .filter(|()| body.len() <= BODY_MAX)
            .ok_or(name.as_slice())?;
    }
    Ok(body)
}

/// The inode's `xattr_count` for a body of `len` bytes.
pub(super) fn count(len: usize) -> u16 {
    match len {
        0 => 0,
        len => u16::try_from((len - size_of::<XattrHeader>()) / 4 + 1)
            .expect("encode keeps the body below the limit"),
    }
}

fn push(body: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Option<()> {
    let (index, suffix) = split(name)?;
    let entry = XattrEntry {
        name_len: u8::try_from(suffix.len()).ok()?,
        name_index: index,
        value_size: u16::try_from(value.len()).ok()?.into(),
    };
    body.extend_from_slice(entry.as_bytes());
    body.extend_from_slice(suffix);
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
    Some(())
}

/// Namespace index and the rest of the name, which is empty exactly for the ACLs.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|&(index, prefix)| {
        let suffix = name.strip_prefix(prefix.as_bytes())?;
        (suffix.is_empty() != prefix.ends_with('.')).then_some((index, suffix))
    })
}
