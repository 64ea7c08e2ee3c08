//! Path walk: from bytes to a [`Location`], with Linux's rules for links, `..`, mounts, trailing slashes and permissions.
//!
//! Sources: `path_resolution(7)`, `openat2(2)`. A [`Walk`] lives for one system call; it counts the symbolic links followed.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use bitflags::bitflags;

use crate::mount::{Location, MountTable};
use crate::types::{Access, Credentials, FileKind, NAME_MAX, PATH_MAX, SYMLINK_MAX};
use crate::{Errno, Metadata, Result};

bitflags! {
    /// `openat2`'s limits on a walk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Resolve: u64 {
        /// `RESOLVE_NO_XDEV`: stay in the mount.
        const NO_XDEV = 0x01;
        /// `RESOLVE_NO_MAGICLINKS`: no `/proc/self/exe` and the like.
        const NO_MAGICLINKS = 0x02;
        /// `RESOLVE_NO_SYMLINKS`: no symbolic links at all.
        const NO_SYMLINKS = 0x04;
        /// `RESOLVE_BENEATH`: never above the start.
        const BENEATH = 0x08;
        /// `RESOLVE_IN_ROOT`: the start is `/`.
        const IN_ROOT = 0x10;
        /// `RESOLVE_CACHED`: only what is in memory; everything is.
        const CACHED = 0x20;
    }
}

/// What to do with a symbolic link at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    /// Go on to what it names.
    Yes,
    /// Stop at the link.
    No,
}

/// The last component of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Last {
    /// An ordinary name.
    Name {
        /// The name.
        name: Vec<u8>,
        /// A slash follows: it must be a directory.
        slash: bool,
    },
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// The path is `/`.
    Root,
}

/// Where the last component of a path is to be looked up.
pub struct Parent {
    /// The directory.
    pub directory: Location,
    /// The last component.
    pub last: Last,
}

/// Who walks, and in which tree.
#[derive(Clone, Copy)]
pub struct Viewer<'a> {
    /// The mounts.
    pub mounts: &'a MountTable,
    /// What `/` means.
    pub root: &'a Location,
    /// Whose permissions count.
    pub credentials: &'a Credentials,
}

/// One walk.
pub struct Walk<'a> {
    viewer: Viewer<'a>,
    resolve: Resolve,
    /// `..` never goes above this, and absolute paths start here.
    top: Location,
    links: u32,
}

/// The part of a path that is still to do.
struct Rest<'p> {
    bytes: Cow<'p, [u8]>,
    at: usize,
}

/// One component and what follows it.
struct Component {
    start: usize,
    end: usize,
    last: bool,
    slash: bool,
}

impl Rest<'_> {
    fn next(&mut self) -> Option<Component> {
        let bytes = &self.bytes;
        let skip = |from: usize| bytes[from..].iter().position(|b| *b != b'/').map_or(bytes.len(), |n| from + n);
        let start = skip(self.at);
        if start == bytes.len() {
            return None;
        }
        let end = bytes[start..].iter().position(|b| *b == b'/').map_or(bytes.len(), |n| start + n);
        let next = skip(end);
        self.at = next;
        let last = next == bytes.len();
        Some(Component { start, end, last, slash: last && end < next })
    }

    fn text(&self, component: &Component) -> &[u8] {
        &self.bytes[component.start..component.end]
    }

    /// Puts a link's text before what is left.
    fn splice(&mut self, text: &[u8], slash: bool) -> Result<()> {
        let left = &self.bytes[self.at..];
        let mut joined = Vec::with_capacity(text.len() + 1 + left.len());
        joined.extend_from_slice(text);
        if slash || !left.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(left);
        if joined.len() >= 2 * PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        *self = Rest { bytes: Cow::Owned(joined), at: 0 };
        Ok(())
    }
}

impl<'a> Walk<'a> {
    /// A walk by `viewer`; `start` is where a relative path begins, which `BENEATH` and `IN_ROOT` also confine it to.
    #[must_use]
    pub fn new(viewer: Viewer<'a>, resolve: Resolve, start: &Location) -> Self {
        let confined = resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT);
        let top = if confined { start.clone() } else { viewer.root.clone() };
        Self { viewer, resolve, top, links: 0 }
    }

    /// The place `path` names.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`, `ENAMETOOLONG`; with [`Resolve`] also `EXDEV`.
    pub fn lookup(&mut self, start: &Location, path: &[u8], follow: Follow) -> Result<Location> {
        let mut here = self.begin(start, path)?;
        let mut rest = Rest { bytes: Cow::Borrowed(path), at: 0 };
        let mut directory = path.ends_with(b"/");
        while let Some(component) = rest.next() {
            here = self.step(here, &mut rest, &component, follow, &mut directory)?;
        }
        if directory {
            require_directory(&here)?;
        }
        Ok(here)
    }

    /// The directory that the last component of `path` is in, and that component, which is not looked up.
    ///
    /// # Errors
    /// As [`Walk::lookup`].
    pub fn parent(&mut self, start: &Location, path: &[u8]) -> Result<Parent> {
        let mut here = self.begin(start, path)?;
        let mut rest = Rest { bytes: Cow::Borrowed(path), at: 0 };
        let mut directory = false;
        while let Some(component) = rest.next() {
            if component.last {
                let last = last_component(rest.text(&component), component.slash)?;
                self.check_search(&here)?;
                return Ok(Parent { directory: here, last });
            }
            here = self.step(here, &mut rest, &component, Follow::Yes, &mut directory)?;
        }
        Ok(Parent { directory: here, last: Last::Root })
    }

    fn begin(&self, start: &Location, path: &[u8]) -> Result<Location> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if path[0] == b'/' { self.restart() } else { Ok(start.clone()) }
    }

    fn restart(&self) -> Result<Location> {
        if self.resolve.contains(Resolve::BENEATH) { Err(Errno::EXDEV) } else { Ok(self.top.clone()) }
    }

    /// Goes one component further. A link's text is put in front of what is left.
    fn step(
        &mut self,
        here: Location,
        rest: &mut Rest<'_>,
        component: &Component,
        follow: Follow,
        directory: &mut bool,
    ) -> Result<Location> {
        self.check_search(&here)?;
        let name = rest.text(component);
        match name {
            b"." => return Ok(here),
            b".." => return self.up(here),
            _ => {}
        }
        let next = self.entry(&here, name)?;
        let wanted = !component.last || component.slash || follow == Follow::Yes;
        if next.inode().kind() != FileKind::Symlink || !wanted {
            return Ok(next);
        }
        if let Some(target) = self.magic(&next)? {
            return Ok(target);
        }
        let text = self.link_text(&next)?;
        *directory |= component.last && text.ends_with(b"/");
        let from = if text[0] == b'/' { self.restart_from(&here)? } else { here };
        rest.splice(&text, component.slash)?;
        Ok(from)
    }

    fn restart_from(&self, here: &Location) -> Result<Location> {
        let top = self.restart()?;
        self.check_mount(here, &top)?;
        Ok(top)
    }

    /// The entry `name` of directory `here`, crossing into what is mounted on it.
    ///
    /// # Errors
    /// `ENAMETOOLONG`, and those of the directory.
    pub fn entry(&self, here: &Location, name: &[u8]) -> Result<Location> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let inode = here.inode().lookup(name)?;
        let next = self.viewer.mounts.cross(here.child(name, inode));
        self.check_mount(here, &next)?;
        Ok(next)
    }

    fn up(&self, here: Location) -> Result<Location> {
        if here.same(&self.top) {
            return if self.resolve.contains(Resolve::BENEATH) { Err(Errno::EXDEV) } else { Ok(here) };
        }
        let up = self.viewer.mounts.cross(here.parent_or_self());
        self.check_mount(&here, &up)?;
        Ok(up)
    }

    fn check_mount(&self, from: &Location, to: &Location) -> Result<()> {
        let left = self.resolve.contains(Resolve::NO_XDEV) && !from.same_mount(to);
        if left { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// Where a magic link leads; `None` for an ordinary one.
    fn magic(&mut self, link: &Location) -> Result<Option<Location>> {
        let Some(target) = link.inode().magic_link() else { return Ok(None) };
        self.count_link()?;
        if self.resolve.intersects(Resolve::NO_MAGICLINKS) {
            return Err(Errno::ELOOP);
        }
        if self.resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT) {
            return Err(Errno::EXDEV);
        }
        let target = target?;
        self.check_mount(link, &target)?;
        Ok(Some(target))
    }

    /// The text of a link that is going to be followed.
    ///
    /// # Errors
    /// `ELOOP` when there were too many or links are not allowed, `ENOENT` for an empty text.
    pub fn link_text(&mut self, link: &Location) -> Result<Vec<u8>> {
        self.count_link()?;
        let text = link.inode().readlink()?;
        if text.is_empty() { Err(Errno::ENOENT) } else { Ok(text) }
    }

    /// Follows a link that is the last component, for `open` with `O_CREAT`.
    ///
    /// # Errors
    /// As [`Walk::lookup`].
    pub fn follow_magic(&mut self, link: &Location) -> Result<Option<Location>> {
        self.magic(link)
    }

    fn count_link(&mut self) -> Result<()> {
        self.links += 1;
        if self.links > SYMLINK_MAX || self.resolve.contains(Resolve::NO_SYMLINKS) { Err(Errno::ELOOP) } else { Ok(()) }
    }

    fn check_search(&self, directory: &Location) -> Result<()> {
        require_directory(directory)?;
        check_access(&directory.inode().metadata(), Access::EXECUTE, self.viewer.credentials)
    }
}

fn last_component(name: &[u8], slash: bool) -> Result<Last> {
    match name {
        b"." => Ok(Last::Dot),
        b".." => Ok(Last::DotDot),
        _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(Last::Name { name: name.to_vec(), slash }),
    }
}

fn require_directory(place: &Location) -> Result<()> {
    if place.inode().kind() == FileKind::Directory { Ok(()) } else { Err(Errno::ENOTDIR) }
}

/// Whether `credentials` may do `access` to an object: owner, then group, then others; the superuser may do everything but
/// execute a file that nobody may execute.
///
/// # Errors
/// `EACCES`.
pub fn check_access(metadata: &Metadata, access: Access, credentials: &Credentials) -> Result<()> {
    let granted = if credentials.privileged() {
        let executable = metadata.mode & 0o111 != 0 || metadata.kind == FileKind::Directory;
        if executable { Access::all() } else { Access::READ | Access::WRITE }
    } else {
        let shift = if credentials.uid == metadata.uid {
            6
        } else if credentials.in_group(metadata.gid) {
            3
        } else {
            0
        };
        Access::from_bits_truncate((metadata.mode >> shift) as u8)
    };
    if granted.contains(access) { Ok(()) } else { Err(Errno::EACCES) }
}
