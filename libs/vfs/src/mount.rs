//! Mounts: [`Mount`], the [`MountTable`] of one namespace, and [`Location`]: a dentry seen through a mount.
//!
//! A walk looks at the table only when a dentry says that something is mounted on it, so the table's lock is off the usual
//! path.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use bitflags::bitflags;
use sync::{Mutex, MutexGuard, RwLock};

use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::types::FileKind;
use crate::{Errno, Result};

bitflags! {
    /// What a mount does not let its files be used for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct MountMode: u8 {
        /// Changes give `EROFS`.
        const READ_ONLY = 1;
        /// Nothing may be executed.
        const NO_EXEC = 2;
        /// Set-user-ID and set-group-ID bits have no effect.
        const NO_SET_ID = 4;
        /// Device nodes cannot be opened.
        const NO_DEVICES = 8;
    }
}

/// Whether a mount goes although it is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lazy {
    /// From the tree now, in earnest when nobody uses it any more (`MNT_DETACH`).
    Yes,
    /// No.
    No,
}

/// One mounted file system.
pub struct Mount {
    /// Number shown in `/proc/self/mountinfo`.
    pub id: u32,
    /// Type shown in `/proc/mounts`.
    pub fs_type: &'static str,
    /// Source shown in `/proc/mounts`.
    pub source: Box<str>,
    /// Bits of a [`MountMode`].
    mode: AtomicU8,
    root: Arc<Dentry>,
    /// What it covers; `None` for the top of the tree and for nameless objects.
    covers: Option<Location>,
}

impl Mount {
    /// What its files may not be used for.
    #[must_use]
    pub fn mode(&self) -> MountMode {
        MountMode::from_bits_truncate(self.mode.load(Ordering::Relaxed))
    }

    /// The path of its root in its file system: not `/` for one that shows a part of it.
    #[must_use]
    pub fn root_path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.root.clone();
        while let Some(parent) = at.parent() {
            names.push(at.name());
            at = parent;
        }
        join(&names)
    }
}

/// A place in the tree: a dentry, seen through a mount.
#[derive(Clone)]
pub struct Location {
    mount: Arc<Mount>,
    dentry: Arc<Dentry>,
}

impl Location {
    /// A place of its own for an object without a name in the tree: a pipe, a socket, a memfd. `label` is what
    /// `/proc/self/fd/N` shows, such as `pipe:[12]`.
    #[must_use]
    pub fn nameless(inode: Arc<dyn Inode>, label: &str) -> Self {
        let dentry = Dentry::new_root(inode, label.as_bytes());
        let mount = Mount {
            id: 0,
            fs_type: "none",
            source: Box::from("none"),
            mode: AtomicU8::new(0),
            root: dentry.clone(),
            covers: None,
        };
        Self { mount: Arc::new(mount), dentry }
    }

    /// The inode here.
    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// The dentry here.
    #[must_use]
    pub fn dentry(&self) -> &Arc<Dentry> {
        &self.dentry
    }

    /// The mount it is seen through.
    #[must_use]
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// Whether this is the root of its mount.
    #[must_use]
    pub fn is_mount_root(&self) -> bool {
        self.mount.id != 0 && Arc::ptr_eq(&self.dentry, &self.mount.root)
    }

    /// Whether both are the same place.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Whether this is `other` or below it, across mounts.
    fn is_below(&self, other: &Self) -> bool {
        let mut at = self.clone();
        loop {
            if at.same(other) {
                return true;
            }
            match at.step_up() {
                Some(up) => at = up,
                None => return false,
            }
        }
    }

    /// Whether both are in the same mount.
    #[must_use]
    pub fn same_mount(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount)
    }

    pub(crate) fn with_dentry(&self, dentry: Arc<Dentry>) -> Self {
        Self { mount: self.mount.clone(), dentry }
    }

    /// The directory this is in, crossing mounts; `None` at the very top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let mut here = self.clone();
        loop {
            if !Arc::ptr_eq(&here.dentry, &here.mount.root) {
                return here.dentry.parent().map(|parent| here.with_dentry(parent));
            }
            here = here.mount.covers.clone()?;
        }
    }

    /// The directory this is in, or itself at the top.
    #[must_use]
    pub fn parent_or_self(&self) -> Self {
        self.parent().unwrap_or_else(|| self.clone())
    }

    /// Fails where nothing may be changed.
    ///
    /// # Errors
    /// `EROFS`.
    pub fn require_writable(&self) -> Result<()> {
        if self.mount.mode().contains(MountMode::READ_ONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Fails for a file that its mount lets nobody execute.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn require_executable(&self) -> Result<()> {
        let refused = self.mount.mode().contains(MountMode::NO_EXEC) && self.inode().kind() == FileKind::Regular;
        if refused { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Fails for a device node that its mount lets nobody open.
    ///
    /// # Errors
    /// `EACCES`.
    pub(crate) fn require_device(&self) -> Result<()> {
        if self.mount.mode().contains(MountMode::NO_DEVICES) { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Whether the place was removed from the tree.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.dentry.is_deleted()
    }

    /// The absolute path as seen from `root`; the label of a nameless object; with ` (deleted)` when it was removed.
    #[must_use]
    pub fn path_from(&self, root: &Self) -> Vec<u8> {
        let mut path = match self.names_from(root) {
            Reach::Within(names) => join(&names),
            Reach::Outside(names) if self.mount.id == 0 => names.last().map_or_else(Vec::new, |name| name.to_vec()),
            Reach::Outside(names) => [b"(unreachable)".as_slice(), &join(&names)].concat(),
        };
        if self.is_deleted() {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }

    /// `getcwd`: the path from `root`.
    ///
    /// # Errors
    /// `ENOENT` when the directory was removed.
    pub fn working_directory(&self, root: &Self) -> Result<Vec<u8>> {
        if self.is_deleted() { Err(Errno::ENOENT) } else { Ok(self.path_from(root)) }
    }

    /// The names on the way up, innermost first.
    fn names_from(&self, root: &Self) -> Reach {
        let mut names = Vec::new();
        let mut here = self.clone();
        loop {
            if here.same(root) {
                return Reach::Within(names);
            }
            if !Arc::ptr_eq(&here.dentry, &here.mount.root) {
                names.push(here.dentry.name());
            }
            match here.step_up() {
                Some(up) => here = up,
                None => {
                    if here.mount.id == 0 {
                        names.push(here.dentry.name());
                    }
                    return Reach::Outside(names);
                }
            }
        }
    }

    /// One step towards the top: to the parent, or from the root of a mount to what it covers.
    fn step_up(&self) -> Option<Self> {
        if Arc::ptr_eq(&self.dentry, &self.mount.root) {
            return self.mount.covers.clone();
        }
        self.dentry.parent().map(|parent| self.with_dentry(parent))
    }
}

/// Names on the way from a place up to a root.
enum Reach {
    Within(Vec<Box<[u8]>>),
    Outside(Vec<Box<[u8]>>),
}

fn join(names: &[Box<[u8]>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    let mut path = Vec::new();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

/// The mounts of one namespace, the first being the top of the tree.
pub struct MountTable {
    mounts: RwLock<Vec<Arc<Mount>>>,
    last_id: AtomicU32,
    /// Held by every rename: two at once could put a directory below itself.
    renames: Mutex<()>,
}

impl MountTable {
    /// A tree whose top is `root`.
    #[must_use]
    pub fn new(root: Arc<dyn Inode>, fs_type: &'static str, source: &str, mode: MountMode) -> Self {
        let mount = Mount {
            id: 1,
            fs_type,
            source: Box::from(source),
            mode: AtomicU8::new(mode.bits()),
            root: Dentry::new_root(root, b""),
            covers: None,
        };
        Self { mounts: RwLock::new(alloc::vec![Arc::new(mount)]), last_id: AtomicU32::new(1), renames: Mutex::new(()) }
    }

    pub(crate) fn lock_renames(&self) -> MutexGuard<'_, ()> {
        self.renames.lock()
    }

    /// The top of the tree, with what is mounted on it.
    #[must_use]
    pub fn root(&self) -> Location {
        let mount = self.mounts.read()[0].clone();
        let dentry = mount.root.clone();
        self.cross(Location { mount, dentry })
    }

    /// Mounts a file system on the directory `at`.
    ///
    /// # Errors
    /// `ENOTDIR` when one of the two is a directory and the other is not.
    pub fn mount(
        &self,
        at: Location,
        root: Arc<dyn Inode>,
        fs_type: &'static str,
        source: &str,
        mode: MountMode,
    ) -> Result<Location> {
        let dentry = Dentry::new_root(root, b"");
        self.add(at, dentry, (fs_type, source), mode)
    }

    /// Shows the tree at `from` at `at` too (`MS_BIND`); what is mounted below `from` is not shown.
    ///
    /// # Errors
    /// `ENOTDIR` when one of the two is a directory and the other is not.
    pub fn bind(&self, from: &Location, at: Location) -> Result<Location> {
        let mount = from.mount();
        self.add(at, from.dentry.clone(), (mount.fs_type, &mount.source), mount.mode())
    }

    /// As [`MountTable::bind`], with what is mounted below `from` (`MS_REC`).
    ///
    /// # Errors
    /// As [`MountTable::bind`].
    pub fn bind_all(&self, from: &Location, at: Location) -> Result<()> {
        let below: Vec<_> = self.mounts.read().iter().filter(|mount| mount.covers.as_ref().is_some_and(|at| at.is_below(from))).cloned().collect();
        let top = self.bind(from, at)?;
        let mut copies = alloc::vec![(from.mount.clone(), top.mount)];
        for mount in below {
            // Oldest first: what a mount is on has been copied before it.
            let Some(covered) = &mount.covers else { continue };
            let Some((_, copy)) = copies.iter().find(|(original, _)| Arc::ptr_eq(original, &covered.mount)) else { continue };
            let at = Location { mount: copy.clone(), dentry: covered.dentry.clone() };
            let made = self.add(at, mount.root.clone(), (mount.fs_type, &mount.source), mount.mode())?;
            copies.push((mount, made.mount));
        }
        Ok(())
    }

    fn add(&self, at: Location, root: Arc<Dentry>, (fs_type, source): (&'static str, &str), mode: MountMode) -> Result<Location> {
        let directory = |inode: &Arc<dyn Inode>| inode.kind() == FileKind::Directory;
        if directory(at.inode()) != directory(root.inode()) {
            return Err(Errno::ENOTDIR);
        }
        if at.is_deleted() {
            return Err(Errno::ENOENT);
        }
        let mut mounts = self.mounts.write();
        at.dentry.add_mount();
        let mount = Arc::new(Mount {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            fs_type,
            source: Box::from(source),
            mode: AtomicU8::new(mode.bits()),
            root: root.clone(),
            covers: Some(at),
        });
        mounts.push(mount.clone());
        Ok(Location { mount, dentry: root })
    }

    /// Changes what the files of the mount whose root is `place` may not be used for.
    ///
    /// # Errors
    /// `EINVAL` if it is no mount's root.
    pub fn remount(&self, place: &Location, mode: MountMode) -> Result<()> {
        if !place.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        place.mount.mode.store(mode.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes away the mount whose root is `place`. One in use stays for its users if `lazy`, with all that is mounted below.
    ///
    /// # Errors
    /// `EINVAL` if it is no mount's root, or the top of the tree; `EBUSY` if it is in use.
    pub fn unmount(&self, place: &Location, lazy: Lazy) -> Result<()> {
        if !place.is_mount_root() || place.mount.covers.is_none() {
            return Err(Errno::EINVAL);
        }
        let mut mounts = self.mounts.write();
        let mut gone = alloc::vec![place.mount.clone()];
        // Oldest first: what is mounted on something comes after it.
        for mount in &*mounts {
            let on = mount.covers.as_ref().is_some_and(|at| gone.iter().any(|gone| Arc::ptr_eq(gone, &at.mount)));
            if on {
                gone.push(mount.clone());
            }
        }
        // The table's, the caller's and this function's references are not uses.
        const OWN: usize = 3;
        if lazy == Lazy::No && (gone.len() > 1 || Arc::strong_count(&place.mount) > OWN) {
            return Err(Errno::EBUSY);
        }
        mounts.retain(|mount| !gone.iter().any(|gone| Arc::ptr_eq(gone, mount)));
        drop(mounts);
        for covered in gone.iter().filter_map(|mount| mount.covers.as_ref()) {
            covered.dentry.remove_mount();
        }
        Ok(())
    }

    /// What is mounted at `place` (topmost), or `place` itself.
    #[must_use]
    pub fn cross(&self, place: Location) -> Location {
        let mut here = place;
        while here.dentry.is_mount_point() {
            match self.mounted_on(&here) {
                Some(mount) => here = Location { dentry: mount.root.clone(), mount },
                None => break,
            }
        }
        here
    }

    fn mounted_on(&self, place: &Location) -> Option<Arc<Mount>> {
        let mounts = self.mounts.read();
        mounts.iter().rev().find(|mount| mount.covers.as_ref().is_some_and(|at| at.same(place))).cloned()
    }

    /// All mounts, oldest first, with their mount points as seen from `root` (none: not visible from there).
    #[must_use]
    pub fn list(&self, root: &Location) -> Vec<MountEntry> {
        let mounts = self.mounts.read();
        mounts.iter().map(|mount| MountEntry::of(mount, root)).collect()
    }
}

/// One line of `/proc/mounts`.
pub struct MountEntry {
    /// The mount.
    pub mount: Arc<Mount>,
    /// Where it is.
    pub path: Vec<u8>,
    /// Id of the mount it is on; its own at the top.
    pub parent_id: u32,
    /// `st_dev` of its files.
    pub dev: u64,
}

impl MountEntry {
    fn of(mount: &Arc<Mount>, root: &Location) -> Self {
        let (path, parent_id) = match &mount.covers {
            Some(at) => (at.path_from(root), at.mount.id),
            None => (b"/".to_vec(), mount.id),
        };
        Self { mount: mount.clone(), path, parent_id, dev: mount.root.inode().metadata().dev }
    }
}
