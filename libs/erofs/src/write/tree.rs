//! The description of what an image shall contain.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::WriteError;
use crate::DeviceNumber;
use crate::layout::NAME_MAX;

/// Guest paths and what lies there. Directories that are not named exist nevertheless, with mode 0755, owner root
/// and time 0, when something lies in them.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Keys are without the leading `/`; the root is the empty key. A parent's key sorts before its children's.
    entries: BTreeMap<Vec<u8>, Entry>,
}

/// Something with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub node: Node,
    /// Owner, mode, time. A hard link has those of its target; its own are ignored.
    pub attributes: Attributes,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Regular file.
    File(Content),
    /// Directory.
    Directory,
    /// Symbolic link with its target.
    Symlink(Vec<u8>),
    /// Character device.
    CharDevice(DeviceNumber),
    /// Block device.
    BlockDevice(DeviceNumber),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Another name for the file at this guest path.
    HardLink(PathBuf),
}

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A regular file of the host; symbolic links to it are followed.
    Host(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// Metadata of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits: at most 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970.
    pub mtime: i64,
    /// Its nanoseconds, below 10⁹.
    pub mtime_nsec: u32,
    /// Extended attributes by full name, such as `security.capability`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    /// Owned by root, with these permission bits and time 0.
    pub fn file(mode: u16) -> Attributes {
        Attributes {
            mode,
            ..Attributes::default()
        }
    }

    /// Those of a file of the host, without its extended attributes.
    pub fn of_host(metadata: &fs::Metadata) -> Attributes {
        Attributes {
            mode: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata.mtime(),
            mtime_nsec: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            xattrs: BTreeMap::new(),
        }
    }
}

impl Entry {
    /// A file with the content of a host file.
    pub fn host(path: impl Into<PathBuf>, attributes: Attributes) -> Entry {
        Entry {
            node: Node::File(Content::Host(path.into())),
            attributes,
        }
    }

    /// A file with these bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>, attributes: Attributes) -> Entry {
        Entry {
            node: Node::File(Content::Bytes(bytes.into())),
            attributes,
        }
    }

    /// A directory.
    pub fn directory(attributes: Attributes) -> Entry {
        Entry {
            node: Node::Directory,
            attributes,
        }
    }

    /// A symbolic link owned by root.
    pub fn symlink(target: impl AsRef<Path>) -> Entry {
        let target = target.as_ref().as_os_str().as_bytes().to_vec();
        Entry {
            node: Node::Symlink(target),
            attributes: Attributes::file(0o777),
        }
    }

    /// Another name for the file at the guest path `target`.
    pub fn hard_link(target: impl Into<PathBuf>) -> Entry {
        Entry {
            node: Node::HardLink(target.into()),
            attributes: Attributes::default(),
        }
    }
}

impl Tree {
    /// A tree with nothing but the root directory.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// Puts an entry at a guest path; returns the one it replaces. A leading `/` makes no difference.
    ///
    /// # Errors
    /// [`WriteError::Path`].
    pub fn insert(
        &mut self,
        path: impl AsRef<Path>,
        entry: Entry,
    ) -> Result<Option<Entry>, WriteError> {
        Ok(self.entries.insert(key(path.as_ref())?, entry))
    }

    /// The entry at a guest path, if it has been named.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Entry> {
        self.entries.get(&key(path.as_ref()).ok()?)
    }

    /// Takes out the entry at a guest path, but not those below it.
    pub fn remove(&mut self, path: impl AsRef<Path>) -> Option<Entry> {
        self.entries.remove(&key(path.as_ref()).ok()?)
    }

    /// Number of entries named.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry has been named.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries named, with their absolute guest paths, in the order of these.
    pub fn iter(&self) -> impl Iterator<Item = (PathBuf, &Entry)> {
        self.entries
            .iter()
            .map(|(key, entry)| (guest_path(key), entry))
    }

    /// The entry with this key.
    pub(super) fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entries by key; every named parent comes before its children.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.as_slice(), entry))
    }
}

/// The key of a guest path: its names joined by `/`.
pub(super) fn key(path: &Path) -> Result<Vec<u8>, WriteError> {
    let invalid = || WriteError::Path(path.to_owned());
    let mut key = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) if name.len() <= NAME_MAX && !name.as_bytes().contains(&0) => {
                if !key.is_empty() {
                    key.push(b'/');
                }
                key.extend_from_slice(name.as_bytes());
            }
            _ => return Err(invalid()),
        }
    }
    Ok(key)
}

/// The absolute guest path of a key.
pub(super) fn guest_path(key: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(key))
}

/// The key of the parent and the last name; `None` for the root.
pub(super) fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    if key.is_empty() {
        return None;
    }
    match key.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some((&key[..slash], &key[slash + 1..])),
        None => Some((&[], key)),
    }
}
