//! Finds files with the same bytes, so that they can share blocks.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use super::inodes::{Body, Index, Inodes};
use super::{Content, WriteError};

/// For every file whose content an earlier file has too: that file. Of `candidates`, an index and a size each, only
/// those of equal size are read.
///
/// The hash only picks what to compare; equality is decided on the bytes, so it has no part in the result.
pub(super) fn find(
    inodes: &Inodes<'_>,
    candidates: impl Iterator<Item = (Index, u64)>,
) -> Result<BTreeMap<Index, Index>, WriteError> {
    let mut by_size: BTreeMap<u64, Vec<(Index, &Content)>> = BTreeMap::new();
    for (index, size) in candidates {
        if let Body::File(content) = inodes.all[index].body {
            by_size.entry(size).or_default().push((index, content));
        }
    }
    let mut shared = BTreeMap::new();
    for (size, files) in by_size.into_iter().filter(|(_, files)| files.len() > 1) {
        share(size, &files, &mut shared)?;
    }
    Ok(shared)
}

fn share(
    size: u64,
    files: &[(Index, &Content)],
    shared: &mut BTreeMap<Index, Index>,
) -> Result<(), WriteError> {
    let mut originals: BTreeMap<u64, Vec<(Index, &Content)>> = BTreeMap::new();
    'files: for &(index, content) in files {
        let same_hash = originals.entry(hash(content, size)?).or_default();
        for &(original, other) in same_hash.iter() {
            if content == other || content.equals(other, size)? {
                shared.insert(index, original);
                continue 'files;
            }
        }
        same_hash.push((index, content));
    }
    Ok(())
}

fn hash(content: &Content, size: u64) -> Result<u64, WriteError> {
    let mut hasher = DefaultHasher::new();
    content.read(size, &mut |piece| {
        hasher.write(piece);
        Ok(())
    })?;
    Ok(hasher.finish())
}
