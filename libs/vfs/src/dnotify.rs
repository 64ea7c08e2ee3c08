//! dnotify: telling who has opened a directory by a signal what happens in it (`fcntl(2)`, "File and directory change notification").
//!
//! A [`DirectoryWatch`] hears what inotify's instances hear, and calls a function for what it was made for. Whom that tells, and when the
//! watch ends, is its owner's concern.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, Ordering};

use bitflags::bitflags;

use crate::inode::Inode;
use crate::inotify::{self, Happening, Listener, Told};

bitflags! {
    /// What is told (`DN_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Changes: u32 {
        /// A file was read.
        const ACCESS = 0x1;
        /// A file was written or truncated.
        const MODIFY = 0x2;
        /// A name was made or moved into the directory.
        const CREATE = 0x4;
        /// A name was removed or moved away.
        const DELETE = 0x8;
        /// A name was moved within the directory.
        const RENAME = 0x10;
        /// Attributes changed.
        const ATTRIB = 0x20;
        /// It is told again and again, not once.
        const MULTISHOT = 0x8000_0000;
    }
}

/// What each is among inotify's.
const TOLD_AS: [(Changes, Happening); 5] = [
    (Changes::ACCESS, Happening::ACCESS),
    (Changes::MODIFY, Happening::MODIFY),
    (Changes::CREATE, Happening::CREATE.union(Happening::MOVED_TO)),
    (Changes::DELETE, Happening::DELETE.union(Happening::MOVED_FROM)),
    (Changes::ATTRIB, Happening::ATTRIB),
];

impl Changes {
    /// How many of them are told of at once: a rename can be two.
    fn told_by(self, told: &Told<'_>) -> u32 {
        let among = TOLD_AS.iter().filter(|(change, happening)| self.contains(*change) && told.what.intersects(*happening)).count();
        among as u32 + u32::from(told.renamed && self.contains(Self::RENAME))
    }
}

/// Called for each change.
pub type Tell = Box<dyn Fn() + Send + Sync>;

/// A directory that somebody watches, until this is dropped.
pub struct DirectoryWatch {
    directory: Arc<dyn Inode>,
    /// Bits of [`Changes`]; nothing any more when what is told once was told.
    changes: AtomicU32,
    tell: Tell,
    me: Weak<Self>,
}

impl DirectoryWatch {
    /// Has `tell` called for `changes` in `directory`. It must not use the file system.
    #[must_use]
    pub fn new(directory: &Arc<dyn Inode>, changes: Changes, tell: Tell) -> Arc<Self> {
        let bits = AtomicU32::new(changes.bits());
        let watch = Arc::new_cyclic(|me| Self { directory: directory.clone(), changes: bits, tell, me: me.clone() });
        inotify::listen(directory, watch.me.clone());
        watch
    }

    /// Has it called for these, too.
    pub fn add(&self, changes: Changes) {
        self.changes.fetch_or(changes.bits(), Ordering::Relaxed);
    }
}

impl Listener for DirectoryWatch {
    fn told(&self, _descriptor: i32, told: &Told<'_>) {
        let take = |bits: u32| {
            let changes = Changes::from_bits_retain(bits);
            let over = changes.told_by(told) > 0 && !changes.contains(Changes::MULTISHOT);
            over.then_some(0)
        };
        let (before, times) = match self.changes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(before) => (before, 1),
            Err(before) => (before, u32::MAX),
        };
        for _ in 0..Changes::from_bits_retain(before).told_by(told).min(times) {
            (self.tell)();
        }
    }
}

impl Drop for DirectoryWatch {
    fn drop(&mut self) {
        inotify::forget(&self.directory, &self.me, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    struct Watched {
        tree: Tree,
        count: Arc<AtomicU32>,
        watch: Arc<DirectoryWatch>,
    }

    impl Watched {
        fn new(changes: Changes) -> Self {
            let tree = Tree::empty();
            tree.mkdir("/d").unwrap();
            tree.mkdir("/d/sub").unwrap();
            let count = Arc::new(AtomicU32::new(0));
            let counted = count.clone();
            let tell = Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            });
            let watch = DirectoryWatch::new(tree.at("/d").unwrap().inode(), changes, tell);
            Self { tree, count, watch }
        }

        /// How often it was told since the last time.
        fn times(&self) -> u32 {
            self.count.swap(0, Ordering::Relaxed)
        }
    }

    #[test]
    fn a_change_is_told_once_unless_it_is_to_be_told_again() {
        let once = Watched::new(Changes::CREATE);
        once.tree.write("/d/a", b"").unwrap();
        once.tree.write("/d/b", b"").unwrap();
        assert_eq!(once.times(), 1);
        once.watch.add(Changes::CREATE | Changes::MULTISHOT);
        for name in ["/d/c", "/d/e", "/d/f"] {
            once.tree.write(name, b"").unwrap();
        }
        assert_eq!(once.times(), 3);
    }

    #[test]
    fn a_directory_hears_of_what_is_in_it_and_no_deeper() {
        let w = Watched::new(Changes::CREATE | Changes::MODIFY | Changes::DELETE | Changes::MULTISHOT);
        w.tree.write("/d/sub/a", b"x").unwrap();
        w.tree.write("/a", b"x").unwrap();
        assert_eq!(w.times(), 0);
        w.tree.write("/d/a", b"x").unwrap();
        assert_eq!(w.times(), 2);
        w.tree.unlink("/d/a").unwrap();
        assert_eq!(w.times(), 1);
    }

    #[test]
    fn a_rename_is_that_within_a_directory_and_comes_and_goes_otherwise() {
        let w = Watched::new(Changes::RENAME | Changes::MULTISHOT);
        w.tree.write("/d/a", b"").unwrap();
        w.tree.rename("/d/a", "/d/b").unwrap();
        assert_eq!(w.times(), 1);
        w.tree.rename("/d/b", "/d/sub/b").unwrap();
        assert_eq!(w.times(), 0);
        w.watch.add(Changes::CREATE | Changes::DELETE);
        w.tree.rename("/d/sub/b", "/d/b").unwrap();
        assert_eq!(w.times(), 1);
        w.tree.rename("/d/b", "/d/c").unwrap();
        assert_eq!(w.times(), 3);
    }

    #[test]
    fn a_watch_that_is_gone_is_told_nothing() {
        let Watched { tree, count, watch } = Watched::new(Changes::CREATE | Changes::MULTISHOT);
        drop(watch);
        tree.write("/d/a", b"").unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
