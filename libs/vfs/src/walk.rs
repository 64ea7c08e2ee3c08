//! Path walk: from bytes to a [`Location`], with Linux's rules for links, `..`, mounts, trailing slashes and permissions.
//!
//! Sources: `path_resolution(7)`, `openat2(2)`. A [`Walk`] lives for one system call; it counts the symbolic links followed.
//!
//! It goes as far as known names lead ([`Walk::glide`]) without a lock and without counting what it passes, then one component by the
//! file system's answer ([`Walk::step`]), and so on. Mount points, `..` and symbolic links are always the latter's business.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bitflags::bitflags;
use dcache::{Entry, HashedName};
use rcu::Domain;
use rcu::linked::Linked;

use crate::dentry::{Dentry, Known, NAMES};
use crate::mount::{Location, MountTable};
use crate::types::{Access, Credentials, FileKind, NAME_MAX, PATH_MAX, SYMLINK_MAX};
use crate::{Errno, Result};

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// An ordinary name: [`Parent::name`].
    Name {
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
pub struct Parent<'p> {
    /// The directory.
    pub directory: Location,
    /// The last component.
    pub last: Last,
    path: Cow<'p, [u8]>,
    name: (usize, usize),
}

impl Parent<'_> {
    /// The text of the last component.
    #[must_use]
    pub fn name(&self) -> HashedName<'_> {
        HashedName::new(&self.path[self.name.0..self.name.1])
    }
}

/// How far [`Walk::glide`] shall go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// To the end of the path.
    End,
    /// To the last component's directory.
    Parent,
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
    top: Cow<'a, Location>,
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

#[inline]
fn skip_slashes(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at) == Some(&b'/') {
        at += 1;
    }
    at
}

/// Where the next slash from `at` on is, or the end; eight bytes at a time.
#[inline]
fn find_slash(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    while let Some(word) = bytes[at..].first_chunk() {
        // A byte that is a slash becomes zero; the lowest zero byte is the first to have its top bit set here.
        let differs = u64::from_le_bytes(*word) ^ (ONES * b'/' as u64);
        let zeros = differs.wrapping_sub(ONES) & !differs & (ONES << 7);
        if zeros != 0 {
            return at + zeros.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && bytes[at] != b'/' {
        at += 1;
    }
    at
}

impl Rest<'_> {
    #[inline]
    fn next(&mut self) -> Option<Component> {
        let bytes = &*self.bytes;
        let start = skip_slashes(bytes, self.at);
        if start == bytes.len() {
            return None;
        }
        let end = find_slash(bytes, start);
        let next = skip_slashes(bytes, end);
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
        let top = if confined { Cow::Owned(start.clone()) } else { Cow::Borrowed(viewer.root) };
        Self { viewer, resolve, top, links: 0 }
    }

    /// The place `path` names.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`, `ENAMETOOLONG`; with [`Resolve`] also `EXDEV`.
    pub fn lookup(&mut self, start: &Location, path: &[u8], follow: Follow) -> Result<Location> {
        let mut rest = Rest { bytes: Cow::Borrowed(path), at: 0 };
        let mut directory = path.ends_with(b"/");
        let mut here = self.begin(start, &mut rest, Until::End, follow)?;
        while let Some(component) = rest.next() {
            here = self.step(here, &mut rest, &component, follow, &mut directory)?;
            here = self.glide(&here, &mut rest, Until::End, follow)?.unwrap_or(here);
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
    pub fn parent<'p>(&mut self, start: &Location, path: Cow<'p, [u8]>) -> Result<Parent<'p>> {
        let mut rest = Rest { bytes: path, at: 0 };
        let mut here = self.begin(start, &mut rest, Until::Parent, Follow::Yes)?;
        let mut directory = false;
        while let Some(component) = rest.next() {
            if component.last {
                let last = last_component(rest.text(&component), component.slash)?;
                self.check_search(&here)?;
                return Ok(Parent { directory: here, last, path: rest.bytes, name: (component.start, component.end) });
            }
            here = self.step(here, &mut rest, &component, Follow::Yes, &mut directory)?;
            here = self.glide(&here, &mut rest, Until::Parent, Follow::Yes)?.unwrap_or(here);
        }
        Ok(Parent { directory: here, last: Last::Root, path: rest.bytes, name: (0, 0) })
    }

    /// Where known names lead from where `rest` begins.
    fn begin(&self, start: &Location, rest: &mut Rest<'_>, until: Until, follow: Follow) -> Result<Location> {
        let first = *rest.bytes.first().ok_or(Errno::ENOENT)?;
        if rest.bytes.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let here = if first == b'/' { self.restart()? } else { start };
        Ok(self.glide(here, rest, until, follow)?.unwrap_or_else(|| here.clone()))
    }

    fn restart(&self) -> Result<&Location> {
        if self.resolve.contains(Resolve::BENEATH) { Err(Errno::EXDEV) } else { Ok(&self.top) }
    }

    /// Goes as far as the names in the table lead, and no further than `until`: through directories that the caller may search and
    /// nothing is mounted on, and to a last component that need not be followed.
    ///
    /// Nothing it passes is counted; what it arrives at is. `None`: it has not moved.
    fn glide(&self, here: &Location, rest: &mut Rest<'_>, until: Until, follow: Follow) -> Result<Option<Location>> {
        if !self.may_search(here) {
            // The next step says why.
            return Ok(None);
        }
        let reading = Linked::read();
        let (start, mut at) = (rest.at, rest.at);
        let mut id = here.dentry().id();
        let mut found: Option<&Entry<Known>> = None;
        while let Some(component) = rest.next() {
            let name = rest.text(&component);
            if name == b"." && !(component.last && until == Until::Parent) {
                at = rest.at;
                continue;
            }
            if name == b".." || component.last && until == Until::Parent {
                break;
            }
            let Some(next) = NAMES.find(&reading, id, &HashedName::new(name)) else { break };
            match self.judge(next, &component, follow) {
                Judgement::Pass => {}
                Judgement::Stop => break,
                Judgement::Absent => return Err(Errno::ENOENT),
            }
            (id, found, at) = (next.id(), Some(next), rest.at);
        }
        rest.at = at;
        let Some(found) = found else { return Ok(None) };
        let dentry = found.dentry();
        drop(reading);
        if dentry.is_none() {
            // It has ended: the next step goes from where this began.
            rest.at = start;
        }
        Ok(dentry.map(|dentry| here.with_dentry(dentry)))
    }

    fn judge(&self, next: &Known, component: &Component, follow: Follow) -> Judgement {
        let Some(kind) = next.kind() else {
            return if next.still_absent() { Judgement::Absent } else { Judgement::Stop };
        };
        let through = !component.last || component.slash;
        let pass = match kind {
            _ if next.is_mount_point() => false,
            FileKind::Directory => !through || next.permissions().allow(kind, Access::EXECUTE, self.viewer.credentials).is_ok(),
            FileKind::Symlink => !through && follow == Follow::No,
            _ => !through,
        };
        if pass { Judgement::Pass } else { Judgement::Stop }
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
        self.check_mount(here, top)?;
        Ok(top.clone())
    }

    /// The entry `name` of directory `here`, crossing into what is mounted on it.
    ///
    /// # Errors
    /// `ENAMETOOLONG`, and those of the directory.
    pub fn entry(&self, here: &Location, name: &[u8]) -> Result<Location> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.cross(here, here.dentry().lookup(name)?)
    }

    /// What is mounted on `dentry` of directory `here`, or that place itself.
    ///
    /// # Errors
    /// `EXDEV` if mounts must not be crossed.
    pub(crate) fn cross(&self, here: &Location, dentry: Arc<Dentry>) -> Result<Location> {
        let next = self.viewer.mounts.cross(here.with_dentry(dentry));
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
        let inode = directory.inode();
        inode.permissions().allow(inode.kind(), Access::EXECUTE, self.viewer.credentials)
    }

    fn may_search(&self, place: &Location) -> bool {
        let directory = place.inode().kind() == FileKind::Directory;
        directory && (self.viewer.credentials.privileged() || self.check_search(place).is_ok())
    }
}

/// Whether a glide goes on.
enum Judgement {
    Pass,
    /// The next step decides.
    Stop,
    Absent,
}

fn last_component(name: &[u8], slash: bool) -> Result<Last> {
    match name {
        b"." => Ok(Last::Dot),
        b".." => Ok(Last::DotDot),
        _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(Last::Name { slash }),
    }
}

fn require_directory(place: &Location) -> Result<()> {
    if place.inode().kind() == FileKind::Directory { Ok(()) } else { Err(Errno::ENOTDIR) }
}
