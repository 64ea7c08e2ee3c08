//! Changes of attributes: mode, owner, times, size.

use super::{Context, SET_GID, SET_UID};
use crate::inotify::{self, Happening};
use crate::mount::Location;
use crate::running;
use crate::types::{Access, FileKind, SetAttributes};
use crate::{Errno, Metadata, Result, Timespec};

/// A time for `utimensat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This time.
    To(Timespec),
    /// Unchanged.
    Omit,
}

impl Context<'_> {
    fn owns(&self, metadata: &Metadata) -> bool {
        let me = self.viewer.credentials;
        me.privileged() || me.uid == metadata.uid
    }

    /// `chmod`.
    ///
    /// # Errors
    /// `EPERM` unless owner or privileged, `EROFS`; `EOPNOTSUPP` for a symbolic link.
    pub fn change_mode(&self, place: &Location, mode: u16) -> Result<()> {
        let metadata = place.inode().metadata();
        place.require_writable()?;
        if metadata.kind == FileKind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.owns(&metadata) {
            return Err(Errno::EPERM);
        }
        let me = self.viewer.credentials;
        let strip = if me.privileged() || me.in_group(metadata.gid) { 0 } else { SET_GID };
        let changes = SetAttributes { mode: Some(mode & 0o7777 & !strip), ..SetAttributes::default() };
        place.inode().set_attributes(&changes)?;
        place.dentry().permissions_changed();
        inotify::happened(place.dentry(), Happening::ATTRIB);
        Ok(())
    }

    /// `chown`; `None` leaves an id alone. Set-id bits of a file are dropped.
    ///
    /// # Errors
    /// `EPERM` unless privileged (an owner may choose among its own groups), `EROFS`.
    pub fn change_owner(&self, place: &Location, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let metadata = place.inode().metadata();
        place.require_writable()?;
        let me = self.viewer.credentials;
        let uid_ok = uid.is_none_or(|uid| uid == metadata.uid);
        let gid_ok = gid.is_none_or(|gid| me.in_group(gid) || gid == metadata.gid);
        let allowed = me.privileged() || self.owns(&metadata) && uid_ok && gid_ok;
        if !allowed {
            return Err(Errno::EPERM);
        }
        let drop_bits = metadata.kind != FileKind::Directory && metadata.mode & (SET_UID | SET_GID) != 0;
        let mode = drop_bits.then_some(metadata.mode & !(SET_UID | if metadata.mode & 0o010 != 0 { SET_GID } else { 0 }));
        place.inode().set_attributes(&SetAttributes { mode, uid, gid, ..SetAttributes::default() })?;
        place.dentry().permissions_changed();
        inotify::happened(place.dentry(), Happening::ATTRIB);
        Ok(())
    }

    /// `utimensat`: sets access and modification time; `now` is the current time.
    ///
    /// # Errors
    /// `EPERM`/`EACCES` unless owner, privileged, or (both times "now") allowed to write; `EROFS`.
    pub fn change_times(&self, place: &Location, atime: SetTime, mtime: SetTime, now: Timespec) -> Result<()> {
        if (atime, mtime) == (SetTime::Omit, SetTime::Omit) {
            return Ok(());
        }
        let metadata = place.inode().metadata();
        place.require_writable()?;
        if !self.owns(&metadata) {
            if (atime, mtime) != (SetTime::Now, SetTime::Now) {
                return Err(Errno::EPERM);
            }
            self.check(place, Access::WRITE)?;
        }
        let value = |time| match time {
            SetTime::Now => Some(now),
            SetTime::To(time) => Some(time),
            SetTime::Omit => None,
        };
        let changes = SetAttributes { atime: value(atime), mtime: value(mtime), ..SetAttributes::default() };
        place.inode().set_attributes(&changes)?;
        let what = match (changes.atime, changes.mtime) {
            (Some(_), Some(_)) => Happening::ATTRIB,
            (Some(_), None) => Happening::ACCESS,
            _ => Happening::MODIFY,
        };
        inotify::happened(place.dentry(), what);
        Ok(())
    }

    /// Whether the caller may change the size of a file.
    ///
    /// # Errors
    /// `EACCES`, `EINVAL`, `EISDIR`, `EROFS`.
    pub fn check_truncate(&self, place: &Location) -> Result<()> {
        match place.inode().kind() {
            FileKind::Regular => self.check(place, Access::WRITE).and_then(|()| running::require_idle(&**place.inode())),
            FileKind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `truncate`.
    ///
    /// # Errors
    /// Those of `truncate(2)`.
    pub fn truncate(&self, place: &Location, size: u64) -> Result<()> {
        self.check_truncate(place)?;
        place.inode().truncate(size)?;
        inotify::happened(place.dentry(), Happening::MODIFY);
        Ok(())
    }
}
