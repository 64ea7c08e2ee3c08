//! [`Dentry`]: a name in the tree, what it names, and the way up from it.
//!
//! # Theory
//! The file systems are the truth about names, and the dentries are what has been learnt from them. Every user of a name gets the same
//! dentry, so that a rename or removal is seen by all.
//!
//! A directory whose names change only through [`crate::ops`] says so ([`Inode::names_are_cached`]). What is known of its names stands
//! in one table for the whole tree ([`names`]), which a walk reads without a lock, and without counting the dentries it passes: a
//! [`Known`] entry holds all that passing needs. That a name does not exist is known too. Other directories (procfs) are asked
//! each time, unless something is mounted on the name.
//!
//! Who looks a name up that is not in the table, and who changes one, holds the lock `names` of its directory from asking or telling the
//! file system until the table says so too. So the table never contradicts the file system for longer than a change takes, and a
//! reader that finds the old state has looked before it. Entries that the keeper has given up leave the table a little later, without that lock. For
//! those of dentries the count of their users says so; a missing name's entry is *forgotten* when the name comes into being, and says nothing from then on.
//!
//! Lifetime: users count dentries; a dentry counts its parent. What nobody uses is kept for the next walk by [`crate::keeper`], up to a
//! limit. A dentry's entry holds a *weak* count, and leaves the table when the dentry ends, or the name does. The entry's memory, and
//! with the weak count the dentry's, stays until a grace period later, so a reader may always ask for a strong count; if
//! there is none, it looks the name up as if it had not been found.
//!
//! Locks: `names` is above the file system's own locks; of two directories the upper one comes first, else the one with the smaller
//! number (only a rename takes two that are not parent and child, and there is one rename at a time). `link` and the table's are leaves.
//!
//! Rejected: dentries that live only as long as they are used (each walk made and freed one for each component); a lock for each
//! directory's names that a walk takes (all CPUs would write to those of `/` and `/usr`).

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use dcache::{HashedName, Inserted, NameTable, Text};
use rcu::linked::Linked;
use sync::{Mutex, MutexGuard};

use crate::inode::Inode;
use crate::inotify;
use crate::keeper;
use crate::types::{FileKind, Name, Permissions};
use crate::{Errno, Result};

/// What is known of names.
pub(crate) static NAMES: NameTable<Known, Linked, 4096> = NameTable::new();

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What a name stands for, as far as a walk that only passes needs to know.
pub(crate) struct Known {
    /// Without a dentry the name does not exist.
    dentry: Option<Weak<Dentry>>,
    /// The dentry's number.
    id: u64,
    kind: FileKind,
    mounted: AtomicBool,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    /// For one that does not exist: where the keeper has it, and whether it was found lately.
    pub(crate) kept: keeper::Place,
    /// For one that did not exist: it may now.
    forgotten: AtomicBool,
}

impl Known {
    fn absent() -> Self {
        Self { dentry: None, ..Self::new(FileKind::Anonymous, &Permissions::default(), 0) }
    }

    fn new(kind: FileKind, permissions: &Permissions, id: u64) -> Self {
        Self {
            dentry: None,
            id,
            kind,
            mounted: AtomicBool::new(false),
            mode: AtomicU32::new(u32::from(permissions.mode)),
            uid: AtomicU32::new(permissions.uid),
            gid: AtomicU32::new(permissions.gid),
            kept: keeper::Place::new(),
            forgotten: AtomicBool::new(false),
        }
    }

    /// The dentry's number.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// What kind of object it is; `None` if it does not exist, or did not.
    pub(crate) fn kind(&self) -> Option<FileKind> {
        self.dentry.is_some().then_some(self.kind)
    }

    /// Whether the name, which did not exist, still does not.
    pub(crate) fn still_absent(&self) -> bool {
        self.kept.note_use();
        // Whoever knows of the name otherwise sees this, too.
        !self.forgotten.load(Ordering::Relaxed)
    }

    /// Whether something is mounted there.
    pub(crate) fn is_mount_point(&self) -> bool {
        self.mounted.load(Ordering::Acquire)
    }

    /// Who may pass. Read piece by piece while they change, as on Linux.
    pub(crate) fn permissions(&self) -> Permissions {
        Permissions {
            mode: self.mode.load(Ordering::Relaxed) as u16,
            uid: self.uid.load(Ordering::Relaxed),
            gid: self.gid.load(Ordering::Relaxed),
        }
    }

    fn set_permissions(&self, new: &Permissions) {
        self.mode.store(u32::from(new.mode), Ordering::Relaxed);
        self.uid.store(new.uid, Ordering::Relaxed);
        self.gid.store(new.gid, Ordering::Relaxed);
    }

    /// The dentry, counted, unless it ends just now.
    pub(crate) fn dentry(&self) -> Option<Arc<Dentry>> {
        self.dentry.as_ref()?.upgrade().inspect(|dentry| dentry.kept.note_use())
    }
}

/// A name in the tree, and the inode it names.
pub struct Dentry {
    id: u64,
    inode: Arc<dyn Inode>,
    link: Mutex<Link>,
    /// Held while names in this directory are looked up in the file system, or change.
    names: Mutex<()>,
    /// The name has been removed.
    deleted: AtomicBool,
    /// Number of file systems mounted on it.
    mounts: AtomicU32,
    pub(crate) kept: keeper::Place,
}

/// Where a dentry hangs.
struct Link {
    parent: Option<Arc<Dentry>>,
    name: Text,
    entry: Option<Inserted<Known>>,
}

/// The right to change the names of a directory.
pub(crate) struct Names<'a> {
    directory: &'a Arc<Dentry>,
    _lock: MutexGuard<'a, ()>,
}

impl Dentry {
    /// The root of a file system, or a nameless object (`pipe:[5]`): it has no parent.
    #[must_use]
    pub fn new_root(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Self> {
        Self::unlinked(inode, None, name)
    }

    fn unlinked(inode: Arc<dyn Inode>, parent: Option<Arc<Self>>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            inode,
            link: Mutex::new(Link { parent, name: Text::new(name), entry: None }),
            names: Mutex::new(()),
            deleted: AtomicBool::new(false),
            mounts: AtomicU32::new(0),
            kept: keeper::Place::new(),
        })
    }

    /// A number that no other dentry ever had.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The inode it names.
    #[must_use]
    pub const fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// The directory it is in; `None` for a root.
    #[must_use]
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.link.lock().parent.clone()
    }

    /// Its last known name.
    #[must_use]
    pub fn name(&self) -> Name {
        Box::from(self.link.lock().name.bytes())
    }

    /// Whether the name was removed.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// The entry `name` of this directory.
    ///
    /// # Errors
    /// Those of [`Inode::lookup`].
    pub(crate) fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>> {
        let hashed = HashedName::new(name);
        match self.find(&hashed) {
            Found::Dentry(dentry) => return Ok(dentry),
            Found::Absent => return Err(Errno::ENOENT),
            Found::Unknown => {}
        }
        if !self.inode.names_are_cached() {
            let inode = self.inode.lookup(name)?;
            return Ok(Self::unlinked(inode, Some(self.clone()), name));
        }
        self.lock_names().look_up(&hashed)
    }

    /// What the table says of `name`.
    fn find(&self, name: &HashedName<'_>) -> Found {
        let reading = <Linked as rcu::Domain>::read();
        let Some(known) = NAMES.find(&reading, self.id, name) else { return Found::Unknown };
        if known.kind().is_none() {
            return if known.still_absent() { Found::Absent } else { Found::Unknown };
        }
        known.dentry().map_or(Found::Unknown, Found::Dentry)
    }

    /// The right to change this directory's names.
    pub(crate) fn lock_names(self: &Arc<Self>) -> Names<'_> {
        Names { directory: self, _lock: self.names.lock() }
    }

    /// The rights to change the names of two directories. The caller is the only one who renames.
    pub(crate) fn lock_both<'a>(self: &'a Arc<Self>, other: &'a Arc<Self>) -> (Names<'a>, Option<Names<'a>>) {
        if Arc::ptr_eq(self, other) {
            return (self.lock_names(), None);
        }
        let self_first = other.is_within(self) || (!self.is_within(other) && self.id < other.id);
        if self_first {
            let mine = self.lock_names();
            (mine, Some(other.lock_names()))
        } else {
            let theirs = other.lock_names();
            (self.lock_names(), Some(theirs))
        }
    }

    /// Puts the dentry into the table, where its link says.
    fn enter(self: &Arc<Self>, link: &mut Link) {
        let Some(parent) = &link.parent else { return };
        let known = Known {
            dentry: Some(Arc::downgrade(self)),
            mounted: AtomicBool::new(self.is_mount_point()),
            ..Known::new(self.inode.kind(), &self.inode.permissions(), self.id)
        };
        link.entry = Some(NAMES.insert(parent.id, &HashedName::new(link.name.bytes()), known));
    }

    /// Takes the dentry out of the table.
    fn leave(&self) {
        let entry = self.link.lock().entry.take();
        if let Some(entry) = entry {
            NAMES.remove(entry);
        }
    }

    /// Notes that the name is gone.
    fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.leave();
        keeper::let_go(self);
    }

    /// Moves the dentry to `name` in `parent`.
    fn hang(self: &Arc<Self>, parent: &Arc<Self>, name: &[u8]) {
        self.leave();
        let mut link = self.link.lock();
        let old = link.parent.replace(parent.clone());
        link.name = Text::new(name);
        self.enter(&mut link);
        drop(link);
        drop(old);
    }

    /// Notes that mode or owner of the inode changed.
    pub(crate) fn permissions_changed(&self) {
        let link = self.link.lock();
        if let Some(entry) = &link.entry {
            entry.set_permissions(&self.inode.permissions());
        }
    }

    /// Whether something is mounted on it.
    #[must_use]
    pub fn is_mount_point(&self) -> bool {
        self.mounts.load(Ordering::Acquire) > 0
    }

    /// Notes that a file system is mounted here. Walks find it from now on, also where names are not cached.
    pub(crate) fn add_mount(self: &Arc<Self>) {
        {
            let link = self.link.lock();
            self.mounts.fetch_add(1, Ordering::AcqRel);
            if let Some(entry) = &link.entry {
                entry.mounted.store(true, Ordering::Release);
            }
        }
        // All on the way here must be found as the same dentries again. They stay in the table for as long as the mount keeps them.
        let mut at = Some(self.clone());
        while let Some(dentry) = at {
            let mut link = dentry.link.lock();
            if link.entry.is_none() && !dentry.is_deleted() {
                dentry.enter(&mut link);
            }
            at = link.parent.clone();
        }
    }

    /// Notes that a file system that was mounted here is not any more.
    pub(crate) fn remove_mount(&self) {
        let link = self.link.lock();
        let last = self.mounts.fetch_sub(1, Ordering::AcqRel) == 1;
        if let (true, Some(entry)) = (last, &link.entry) {
            entry.mounted.store(false, Ordering::Release);
        }
    }

    /// Whether `self` is `ancestor` or below it.
    #[must_use]
    pub fn is_within(self: &Arc<Self>, ancestor: &Arc<Self>) -> bool {
        let mut current = Some(self.clone());
        while let Some(dentry) = current {
            if Arc::ptr_eq(&dentry, ancestor) {
                return true;
            }
            current = dentry.parent();
        }
        false
    }
}

/// What the table says of a name.
enum Found {
    Dentry(Arc<Dentry>),
    Absent,
    Unknown,
}

impl<'a> Names<'a> {
    /// The entry `name`, asking the file system if need be.
    ///
    /// # Errors
    /// Those of [`Inode::lookup`].
    pub(crate) fn look_up(&self, name: &HashedName<'_>) -> Result<Arc<Dentry>> {
        self.look_up_and(name, |name| {
            if !self.directory.is_deleted() {
                keeper::keep_absent(NAMES.insert(self.directory.id, name, Known::absent()));
            }
        })
    }

    /// As [`Names::look_up`]; that a name does not exist is not noted, for it is to be made.
    ///
    /// # Errors
    /// Those of [`Inode::lookup`].
    pub(crate) fn look_up_to_make(&self, name: &HashedName<'_>) -> Result<Arc<Dentry>> {
        self.look_up_and(name, |_| {})
    }

    fn look_up_and(&self, name: &HashedName<'_>, absent: impl FnOnce(&HashedName<'_>)) -> Result<Arc<Dentry>> {
        match self.directory.find(name) {
            Found::Dentry(dentry) => return Ok(dentry),
            Found::Absent => return Err(Errno::ENOENT),
            Found::Unknown => {}
        }
        match self.directory.inode.lookup(name.bytes()) {
            Ok(inode) => Ok(self.add(name, inode)),
            Err(error) => {
                if error == Errno::ENOENT && self.directory.inode.names_are_cached() {
                    absent(name);
                }
                Err(error)
            }
        }
    }

    /// Notes that `name`, which the table does not know or knows not to exist, is `inode`.
    pub(crate) fn add(&self, name: &HashedName<'_>, inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let child = Dentry::unlinked(inode, Some(self.directory.clone()), name.bytes());
        if self.directory.inode.names_are_cached() {
            self.forget_absence(name);
            child.enter(&mut child.link.lock());
            keeper::keep(&child);
        }
        child
    }

    /// Notes that `name` may exist from now on.
    fn forget_absence(&self, name: &HashedName<'_>) {
        let place = {
            let reading = <Linked as rcu::Domain>::read();
            let Some(known) = NAMES.find(&reading, self.directory.id, name) else { return };
            if known.kind().is_some() {
                return;
            }
            known.forgotten.store(true, Ordering::Relaxed);
            (known.kept.position(), core::ptr::from_ref(known).addr())
        };
        keeper::forget_absent(place);
    }

    /// Notes that the name of `child` is gone.
    pub(crate) fn remove(&self, child: &Dentry) {
        child.delete();
    }

    /// Notes that `child` of this directory is now `name` in `to`, and what was there is gone.
    pub(crate) fn rename(&self, child: &Arc<Dentry>, to: &Names<'_>, name: &HashedName<'_>, replaced: Option<&Arc<Dentry>>) {
        match replaced {
            Some(gone) => gone.delete(),
            None => to.forget_absence(name),
        }
        child.hang(to.directory, name.bytes());
    }

    /// Notes that `mine` of this directory and `theirs` of `other` changed places.
    pub(crate) fn exchange(&self, mine: &Arc<Dentry>, other: &Names<'_>, theirs: &Arc<Dentry>) {
        let (my_name, their_name) = (mine.name(), theirs.name());
        mine.leave();
        theirs.hang(self.directory, &my_name);
        mine.hang(other.directory, &their_name);
    }
}

impl Drop for Dentry {
    /// Leaves the table, and lets the parents go one by one: a path can be deeper than the stack.
    fn drop(&mut self) {
        let mut next = self.part();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut last| last.part());
        }
    }
}

impl Dentry {
    /// Leaves the table; returns the parent. Those who watch an object without a name are told that it is gone.
    fn part(&mut self) -> Option<Arc<Self>> {
        if *self.deleted.get_mut() && inotify::anybody_watches() && self.inode.metadata().nlink == 0 {
            inotify::removed(&self.inode);
        }
        let link = self.link.get_mut();
        if let Some(entry) = link.entry.take() {
            NAMES.remove(entry);
        }
        link.parent.take()
    }
}
