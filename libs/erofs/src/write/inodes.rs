//! Turns a [`Tree`] into inodes: parents made up, hard links resolved, links counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::tree::{guest_path, key, split};
use super::{Attributes, Content, Entry, Node, Tree, WriteError};
use crate::inode::{DeviceNumber, Kind};
use crate::layout::SYMLINK_MAX;

/// Index into [`Inodes::all`]; the root is 0.
pub(super) type Index = usize;

/// All inodes of an image, parents before children.
pub(super) struct Inodes<'t> {
    pub(super) all: Vec<Inode<'t>>,
    by_key: BTreeMap<&'t [u8], Index>,
}

/// One inode to be.
pub(super) struct Inode<'t> {
    pub(super) key: &'t [u8],
    pub(super) attributes: Option<&'t Attributes>,
    pub(super) body: Body<'t>,
    pub(super) nlink: u32,
}

/// What an inode has.
pub(super) enum Body<'t> {
    File(&'t Content),
    Directory(Directory<'t>),
    Symlink(&'t [u8]),
    Device(Kind, u32),
    Special(Kind),
}

/// A directory's entries, without `.` and `..`.
pub(super) struct Directory<'t> {
    pub(super) parent: Index,
    pub(super) children: BTreeMap<&'t [u8], Index>,
}

impl<'t> Inode<'t> {
    pub(super) fn kind(&self) -> Kind {
        match self.body {
            Body::File(_) => Kind::Regular,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Device(kind, _) | Body::Special(kind) => kind,
        }
    }

    /// Type and permissions; a directory that was not named has 0755.
    pub(super) fn mode(&self) -> u16 {
        self.kind().mode_bits() | self.attributes.map_or(0o755, |attributes| attributes.mode)
    }

    pub(super) fn path(&self) -> PathBuf {
        guest_path(self.key)
    }
}

impl<'t> Inodes<'t> {
    pub(super) fn collect(tree: &'t Tree) -> Result<Inodes<'t>, WriteError> {
        let mut inodes = Inodes {
            all: Vec::new(),
            by_key: BTreeMap::new(),
        };
        let mut links = Vec::new();
        inodes.directory(&[])?;
        for (key, entry) in tree.entries() {
            match &entry.node {
                Node::HardLink(target) => links.push((key, target)),
                _ => inodes.add(key, entry)?,
            }
        }
        for (link, target) in links {
            let target = resolve(tree, link, target)?;
            inodes.link(link, &target)?;
        }
        Ok(inodes)
    }

    /// Names and inodes of the directory `index`, sorted, `.` and `..` among them.
    pub(super) fn listing(&self, index: Index, dir: &Directory<'t>) -> BTreeMap<&'t [u8], Index> {
        let mut names = dir.children.clone();
        names.insert(b".", index);
        names.insert(b"..", dir.parent);
        names
    }

    fn add(&mut self, key: &'t [u8], entry: &'t Entry) -> Result<(), WriteError> {
        check_attributes(key, &entry.attributes)?;
        let body = body(key, &entry.node)?;
        let index = match body {
            _ if key.is_empty() && entry.node != Node::Directory => {
                return Err(WriteError::NotADirectory(guest_path(key)));
            }
            Body::Directory(_) => self.directory(key)?,
            _ => self.insert(key, body, 1)?,
        };
        self.all[index].attributes = Some(&entry.attributes);
        Ok(())
    }

    /// The directory at `key`, made if need be.
    fn directory(&mut self, key: &'t [u8]) -> Result<Index, WriteError> {
        match self.by_key.get(key) {
            Some(&index) if self.all[index].kind() == Kind::Directory => Ok(index),
            Some(_) => Err(WriteError::NotADirectory(guest_path(key))),
            None => self.insert(
                key,
                Body::Directory(Directory {
                    parent: 0,
                    children: BTreeMap::new(),
                }),
                2,
            ),
        }
    }

    /// Adds an inode and its name.
    fn insert(&mut self, key: &'t [u8], body: Body<'t>, nlink: u32) -> Result<Index, WriteError> {
        let parent = self.enter(key)?;
        let index = self.all.len();
        self.all.push(Inode {
            key,
            attributes: None,
            body,
            nlink,
        });
        self.by_key.insert(key, index);
        if let Some((parent, name)) = parent {
            self.name(parent, name, index);
        }
        Ok(index)
    }

    /// Another name for the inode with the key `target`.
    fn link(&mut self, link: &'t [u8], target: &[u8]) -> Result<(), WriteError> {
        let found = self.by_key.get(target).copied();
        let Some(index) = found.filter(|&index| self.all[index].kind() != Kind::Directory) else {
            return Err(link_target(link, target));
        };
        // Something lies below this name (or it is the root), so that it must be a directory.
        if self.by_key.contains_key(link) {
            return Err(WriteError::NotADirectory(guest_path(link)));
        }
        if let Some((parent, name)) = self.enter(link)? {
            self.all[index].nlink += 1;
            self.by_key.insert(link, index);
            self.name(parent, name, index);
        }
        Ok(())
    }

    /// The parent directory and last name of `key`; nothing for the root.
    fn enter(&mut self, key: &'t [u8]) -> Result<Option<(Index, &'t [u8])>, WriteError> {
        let Some((parent, name)) = split(key) else {
            return Ok(None);
        };
        Ok(Some((self.directory(parent)?, name)))
    }

    fn name(&mut self, parent: Index, name: &'t [u8], index: Index) {
        if let Body::Directory(child) = &mut self.all[index].body {
            child.parent = parent;
            // The child's `..`.
            self.all[parent].nlink += 1;
        }
        let Body::Directory(dir) = &mut self.all[parent].body else {
            unreachable!("`directory` gave the parent")
        };
        dir.children.insert(name, index);
    }
}

/// The key of the file that the hard link `link` to `target` names in the end.
fn resolve(tree: &Tree, link: &[u8], target: &Path) -> Result<Vec<u8>, WriteError> {
    const HOPS_MAX: usize = 40;
    let mut target = key(target)?;
    for _ in 0..HOPS_MAX {
        match tree.entry(&target) {
            Some(Entry {
                node: Node::HardLink(next),
                ..
            }) => target = key(next)?,
            _ => return Ok(target),
        }
    }
    Err(link_target(link, &target))
}

fn link_target(link: &[u8], target: &[u8]) -> WriteError {
    WriteError::LinkTarget {
        link: guest_path(link),
        target: guest_path(target),
    }
}

fn body<'t>(key: &[u8], node: &'t Node) -> Result<Body<'t>, WriteError> {
    let device = |kind, number: &DeviceNumber| match number.encode() {
        Some(raw) => Ok(Body::Device(kind, raw)),
        None => Err(WriteError::DeviceNumber(guest_path(key))),
    };
    Ok(match node {
        Node::File(content) => Body::File(content),
        Node::Directory => Body::Directory(Directory {
            parent: 0,
            children: BTreeMap::new(),
        }),
        Node::Symlink(target)
            if (1..=SYMLINK_MAX).contains(&target.len()) && !target.contains(&0) =>
        {
            Body::Symlink(target)
        }
        Node::Symlink(_) => return Err(WriteError::SymlinkTarget(guest_path(key))),
        Node::CharDevice(number) => device(Kind::CharDevice, number)?,
        Node::BlockDevice(number) => device(Kind::BlockDevice, number)?,
        Node::Fifo => Body::Special(Kind::Fifo),
        Node::Socket => Body::Special(Kind::Socket),
        Node::HardLink(_) => unreachable!("hard links are resolved after all inodes exist"),
    })
}

fn check_attributes(key: &[u8], attributes: &Attributes) -> Result<(), WriteError> {
    if attributes.mode & !0o7777 != 0 {
        return Err(WriteError::Mode(guest_path(key)));
    }
    if attributes.mtime_nsec >= 1_000_000_000 {
        return Err(WriteError::Time(guest_path(key)));
    }
    Ok(())
}
