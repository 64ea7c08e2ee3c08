//! Encodes directories.

use zerocopy::IntoBytes;

use crate::BLOCK_SIZE;
use crate::inode::Kind;
use crate::layout::Dirent;

const ENTRY: usize = size_of::<Dirent>();

/// A name, what it stands for, and its kind.
pub(super) type Named<'n, T> = (&'n [u8], T, Kind);

/// Bytes of a directory with these names, which must be sorted and include `.` and `..`.
pub(super) fn size<'n>(names: impl Iterator<Item = &'n [u8]>) -> u64 {
    let (mut full_blocks, mut used) = (0, 0);
    for name in names {
        if used + ENTRY + name.len() > BLOCK_SIZE {
            (full_blocks, used) = (full_blocks + 1, 0);
        }
        used += ENTRY + name.len();
    }
    full_blocks * BLOCK_SIZE as u64 + used as u64
}

/// The bytes of a directory with these entries, which must be sorted and include `.` and `..`.
pub(super) fn encode(entries: &[Named<'_, u64>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
        let (block, after) = rest.split_at(fitting(rest));
        encode_block(&mut bytes, block);
        rest = after;
    }
    bytes
}

/// How many of the first entries fit in a block.
fn fitting(entries: &[Named<'_, u64>]) -> usize {
    let mut used = 0;
    let fits = |entry: &&Named<'_, u64>| {
        used += ENTRY + entry.0.len();
        used <= BLOCK_SIZE
    };
    entries.iter().take_while(fits).count()
}

fn encode_block(bytes: &mut Vec<u8>, entries: &[Named<'_, u64>]) {
    let mut name_offset = entries.len() * ENTRY;
    for (name, nid, kind) in entries {
        let dirent = Dirent {
            nid: (*nid).into(),
            name_offset: u16::try_from(name_offset)
                .expect("names lie inside a block")
                .into(),
            file_type: kind.file_type(),
            reserved: 0,
        };
        bytes.extend_from_slice(dirent.as_bytes());
        name_offset += name.len();
    }
    for (name, ..) in entries {
        bytes.extend_from_slice(name);
    }
}
