//! `/etc/ld.so.cache`: which file glibc's ld.so takes for a library name.
//!
//! Layout after glibc's `dl-cache.h`: the text `glibc-ld.so.cache1.1`, a 48-byte header, 24-byte entries, strings. An older
//! table may stand in front of it; its offsets do not matter, as the new table's count from its own start.

use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// FLAG_X8664_LIB64 | FLAG_ELF_LIBC6.
const X86_64: u32 = 0x0303;

/// The x86-64 entries of a cache file, in the file's order.
#[derive(Debug, Default)]
pub(crate) struct LdCache {
    entries: Vec<(String, PathBuf)>,
}

impl LdCache {
    /// Reads the cache file at `path`; a missing or damaged one is an empty cache, as for ld.so.
    pub(crate) fn load(path: &Path) -> LdCache {
        std::fs::read(path).ok().and_then(|bytes| LdCache::parse(&bytes)).unwrap_or_default()
    }

    /// The files listed for `name`: the plain one and those for newer CPUs.
    pub(crate) fn lookup<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Path> {
        self.entries.iter().filter(move |(n, _)| n == name).map(|(_, path)| path.as_path())
    }

    fn parse(bytes: &[u8]) -> Option<LdCache> {
        let start = bytes.windows(MAGIC.len()).position(|w| w == MAGIC)?;
        let table = &bytes[start..];
        let count = word(table, 20)? as usize;
        let read = |i: usize| {
            let at = HEADER + i * ENTRY;
            let (flags, name, path) = (word(table, at)?, word(table, at + 4)?, word(table, at + 8)?);
            Some((flags, text(table, name)?, text(table, path)?))
        };
        let entries = (0..count.min(table.len() / ENTRY)).map_while(read);
        let ours = entries.filter(|(flags, ..)| *flags == X86_64);
        Some(LdCache { entries: ours.map(|(_, name, path)| (name, path.into())).collect() })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8], at: u32) -> Option<String> {
    let tail = bytes.get(at as usize..)?;
    let end = tail.iter().position(|&b| b == 0)?;
    Some(String::from_utf8_lossy(&tail[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(u32, &str, &str)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.resize(HEADER, 0);
        let mut strings = Vec::new();
        let base = HEADER + entries.len() * ENTRY;
        for (flags, name, path) in entries {
            let mut put = |s: &str| {
                let at = (base + strings.len()) as u32;
                strings.extend(s.as_bytes());
                strings.push(0);
                at
            };
            let (name, path) = (put(name), put(path));
            for value in [*flags, name, path, 0, 0, 0] {
                bytes.extend(value.to_le_bytes());
            }
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn only_x86_64_entries_of_the_name_are_returned() {
        let bytes = cache(&[(0x0303, "libz.so.1", "/lib/a/libz.so.1"), (0x0003, "libz.so.1", "/lib32/libz.so.1"), (0x0303, "liby.so", "/y")]);
        let mut old_table_first = vec![0u8; 64];
        old_table_first.extend(&bytes);
        for bytes in [bytes, old_table_first] {
            let cache = LdCache::parse(&bytes).expect("parse");
            assert_eq!(cache.lookup("libz.so.1").collect::<Vec<_>>(), [Path::new("/lib/a/libz.so.1")]);
        }
    }

    #[test]
    fn damaged_caches_never_panic() {
        let bytes = cache(&[(0x0303, "libz.so.1", "/lib/a/libz.so.1")]);
        for length in 0..bytes.len() {
            let _ = LdCache::parse(&bytes[..length]);
        }
        let mut wild = bytes.clone();
        wild[20..24].fill(0xff);
        wild[HEADER + 4..HEADER + 8].fill(0xff);
        assert_eq!(LdCache::parse(&wild).map(|c| c.entries.len()), Some(0));
    }
}
