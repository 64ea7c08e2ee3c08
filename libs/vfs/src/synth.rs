//! Synthetic trees: files whose content is made when they are read. What procfs and sysfs are built of.
//!
//! A read from the start takes a fresh snapshot, later reads go on in it, so a file read in pieces is consistent, and one that
//! is kept open and read again from offset 0 shows the present; long texts are made by the record instead (`records.rs`). Inode numbers are hashes of the path, so
//! they are stable.

pub mod records;
pub mod text;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::ControlFlow;

use sync::Mutex;

use crate::file::{File, InodeFile};
use crate::inode::Inode;
use crate::io::{Sink, Source};
use crate::mount::Location;
use crate::types::{Clock, DirEntry, FileKind, Metadata, Name, OpenFlags, SetAttributes, StatFs};
use crate::{Errno, Result};

/// Makes the content of a file.
pub type Generate = Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
/// Takes what was written to a file.
pub type Store = Arc<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;
/// Finds where a magic link leads.
pub type Target = Arc<dyn Fn() -> Result<Location> + Send + Sync>;

/// Something in a synthetic tree.
#[derive(Clone)]
pub enum Entry {
    /// A directory.
    Directory(Arc<dyn Directory>),
    /// A file.
    File {
        /// Permission bits.
        mode: u16,
        /// Makes the content.
        read: Generate,
        /// Takes what is written.
        write: Option<Store>,
    },
    /// A file with ways of its own to be read and written.
    Open {
        /// Permission bits.
        mode: u16,
        /// Opens it.
        open: Arc<dyn Fn() -> Result<Arc<dyn File>> + Send + Sync>,
    },
    /// A symbolic link with this text.
    Link(Generate),
    /// A link that leads somewhere without going through its text.
    Magic {
        /// What `readlink` shows.
        text: Generate,
        /// Where it leads.
        target: Target,
    },
}

impl Entry {
    /// A read-only file.
    pub fn file(read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::File { mode: 0o444, read: Arc::new(read), write: None }
    }

    /// A read-only file that never changes.
    #[must_use]
    pub fn text(content: &'static str) -> Self {
        Self::file(move || Ok(content.as_bytes().to_vec()))
    }

    /// A file that root may write.
    pub fn writable(
        read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        write: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::File { mode: 0o644, read: Arc::new(read), write: Some(Arc::new(write)) }
    }

    /// A symbolic link with a fixed text.
    #[must_use]
    pub fn link(text: &'static str) -> Self {
        Self::Link(Arc::new(move || Ok(text.as_bytes().to_vec())))
    }

    /// A directory with fixed entries.
    #[must_use]
    pub fn fixed(entries: Vec<(&'static str, Self)>) -> Self {
        Self::Directory(Arc::new(Fixed(entries)))
    }

    /// What kind of object it makes.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        match self {
            Self::Directory(_) => FileKind::Directory,
            Self::File { .. } | Self::Open { .. } => FileKind::Regular,
            Self::Link(_) | Self::Magic { .. } => FileKind::Symlink,
        }
    }
}

/// A directory of a synthetic tree.
pub trait Directory: Any + Send + Sync {
    /// The entry `name`.
    fn lookup(&self, name: &[u8]) -> Option<Entry>;

    /// Names and kinds of all entries, always in the same order.
    fn list(&self) -> Vec<(Name, FileKind)>;
}

/// A directory whose entries never change.
pub struct Fixed(pub Vec<(&'static str, Entry)>);

impl Directory for Fixed {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        self.0.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, entry)| entry.clone())
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        self.0.iter().map(|(name, entry)| (Box::from(name.as_bytes()), entry.kind())).collect()
    }
}

/// Two directories shown as one; the first wins.
pub struct Joined(pub Arc<dyn Directory>, pub Arc<dyn Directory>);

impl Directory for Joined {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        self.0.lookup(name).or_else(|| self.1.lookup(name))
    }

    fn list(&self) -> Vec<(Name, FileKind)> {
        let mut all = self.0.list();
        all.extend(self.1.list());
        all
    }
}

/// What all inodes of a synthetic tree share.
#[derive(Clone, Copy)]
struct Tree {
    dev: u64,
    magic: u64,
    clock: Clock,
}

/// An inode of a synthetic tree.
pub struct SynthInode {
    tree: Tree,
    ino: u64,
    entry: Entry,
}

/// The root of a synthetic tree.
#[must_use]
pub fn mount(root: Arc<dyn Directory>, dev: u64, magic: u64, clock: Clock) -> Arc<dyn Inode> {
    Arc::new(SynthInode { tree: Tree { dev, magic, clock }, ino: 1, entry: Entry::Directory(root) })
}

/// FNV-1a over the parent's number and the name, kept out of the way of small numbers.
fn child_ino(parent: u64, name: &[u8]) -> u64 {
    let bytes = parent.to_le_bytes();
    let hash = bytes.iter().chain(name).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash >> 16) | 1 << 20
}

/// Where names that are numbers begin in a listing, behind all others.
const NUMBERS: u64 = 1 << 32;

/// The entries of a directory with their places, in order. Numbers come and go (processes, threads, descriptors), and whoever closes each
/// descriptor that a listing shows must be shown all of them: their places do not depend on what else there is.
fn placed(entries: Vec<(Name, FileKind)>) -> Vec<(u64, (Name, FileKind))> {
    let mut others = 0..NUMBERS;
    let place = |name: &Name| match core::str::from_utf8(name).ok().and_then(|text| text.parse::<u32>().ok()) {
        Some(number) => NUMBERS + u64::from(number),
        None => others.next().unwrap_or(NUMBERS - 1),
    };
    let mut places: Vec<_> = entries.iter().map(|(name, _)| name).map(place).zip(entries.iter().cloned()).collect();
    places.sort_by_key(|&(place, _)| place);
    places
}

impl SynthInode {
    /// The directory behind it, if it is a `T`.
    #[must_use]
    pub fn downcast<T: Directory>(&self) -> Option<&T> {
        let any: &dyn Any = &**self.directory().ok()?;
        any.downcast_ref()
    }

    fn directory(&self) -> Result<&Arc<dyn Directory>> {
        match &self.entry {
            Entry::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn mode(&self) -> u16 {
        match &self.entry {
            Entry::Directory(_) => 0o555,
            Entry::File { mode, .. } | Entry::Open { mode, .. } => *mode,
            Entry::Link(_) | Entry::Magic { .. } => 0o777,
        }
    }
}

impl Inode for SynthInode {
    fn kind(&self) -> FileKind {
        self.entry.kind()
    }

    fn metadata(&self) -> Metadata {
        let now = (self.tree.clock)();
        let nlink = if self.kind() == FileKind::Directory { 2 } else { 1 };
        Metadata {
            nlink,
            block_size: 1024,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            ..Metadata::new(self.tree.dev, self.ino, self.kind(), self.mode())
        }
    }

    fn statfs(&self) -> StatFs {
        StatFs::pseudo(self.tree.magic)
    }

    fn set_attributes(&self, changes: &SetAttributes) -> Result<()> {
        // Times may be "set" (touch); modes and owners are fixed.
        if (changes.mode, changes.uid, changes.gid) == (None, None, None) { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let entry = self.directory()?.lookup(name).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(Self { tree: self.tree, ino: child_ino(self.ino, name), entry }))
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.entry {
            Entry::Link(text) | Entry::Magic { text, .. } => text(),
            _ => Err(Errno::EINVAL),
        }
    }

    fn magic_link(&self) -> Option<Result<Location>> {
        match &self.entry {
            Entry::Magic { target, .. } => Some(target()),
            _ => None,
        }
    }

    fn read_dir(&self, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        for (at, (name, kind)) in placed(self.directory()?.list()).iter().filter(|(at, _)| *at >= cookie) {
            let entry = DirEntry { ino: child_ino(self.ino, name), kind: *kind, name, next: at + 1 };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        match &self.entry {
            Entry::Directory(_) => Ok(Arc::new(InodeFile::new(self))),
            Entry::Open { open, .. } => open(),
            Entry::File { read, write, .. } => {
                Ok(Arc::new(SynthFile { read: read.clone(), write: write.clone(), snapshot: Mutex::new(Vec::new()) }))
            }
            _ => Err(Errno::ELOOP),
        }
    }

    /// Writing starts with `O_TRUNC` often (`echo 1 > file`): nothing to do.
    fn truncate(&self, _size: u64) -> Result<()> {
        match &self.entry {
            Entry::File { write: Some(_), .. } => Ok(()),
            _ => Err(Errno::EPERM),
        }
    }
}

/// An open synthetic file.
struct SynthFile {
    read: Generate,
    write: Option<Store>,
    snapshot: Mutex<Vec<u8>>,
}

impl File for SynthFile {
    fn read(&self, position: &mut u64, sink: &mut dyn Sink, _flags: OpenFlags) -> Result<usize> {
        let mut snapshot = self.snapshot.lock();
        if *position == 0 {
            *snapshot = (self.read)()?;
        }
        let start = usize::try_from(*position).unwrap_or(usize::MAX).min(snapshot.len());
        let rest = &snapshot[start..];
        let n = if rest.is_empty() { 0 } else { sink.write(&rest[..rest.len().min(sink.remaining())])? };
        *position += n as u64;
        Ok(n)
    }

    fn write(&self, position: &mut u64, source: &mut dyn Source, _flags: OpenFlags) -> Result<usize> {
        let store = self.write.as_ref().ok_or(Errno::EIO)?;
        let mut data = alloc::vec![0; source.remaining().min(4096)];
        let n = source.read(&mut data)?;
        store(&data[..n])?;
        *position += n as u64;
        Ok(n)
    }

    fn seekable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::SeekFrom;
    use crate::mount::MountMode;
    use crate::testing::{Tree as View, clock, read_all};
    use core::sync::atomic::{AtomicU32, Ordering};

    fn tree() -> View {
        let count = AtomicU32::new(0);
        let stored = Arc::new(Mutex::new(b"old\n".to_vec()));
        let other = stored.clone();
        let sub = Entry::fixed(std::vec![("a", Entry::text("A")), ("l", Entry::link("../counter"))]);
        let root = Fixed(std::vec![
            ("counter", Entry::file(move || Ok(std::format!("{:05}\n", count.fetch_add(1, Ordering::Relaxed)).into_bytes()))),
            ("knob", Entry::writable(move || Ok(stored.lock().clone()), move |data| {
                if data.len() > 10 {
                    return Err(Errno::EINVAL);
                }
                *other.lock() = data.to_vec();
                Ok(())
            })),
            ("sub", sub),
        ]);
        View::on(mount(Arc::new(root), 3, crate::types::PROC_MAGIC, clock))
    }

    /// Numbers below ten but those that were taken away.
    struct Numbers(Arc<Mutex<Vec<u32>>>);

    impl Directory for Numbers {
        fn lookup(&self, _name: &[u8]) -> Option<Entry> {
            None
        }

        fn list(&self) -> Vec<(Name, FileKind)> {
            let gone = self.0.lock();
            let left = (0..10).rev().filter(|number| !gone.contains(number));
            [Box::from(b"self".as_slice())].into_iter().chain(left.map(|n| Box::from(std::format!("{n}").as_bytes()))).map(|name| (name, FileKind::Symlink)).collect()
        }
    }

    #[test]
    fn a_listing_shows_every_number_though_each_goes_when_it_was_shown() {
        let gone = Arc::new(Mutex::new(Vec::new()));
        let root = mount(Arc::new(Numbers(gone.clone())), 3, crate::types::PROC_MAGIC, clock);
        let (mut cookie, mut shown) = (0, Vec::new());
        loop {
            let before = shown.len();
            root.read_dir(cookie, &mut |entry| {
                shown.push(std::string::String::from_utf8_lossy(entry.name).into_owned());
                cookie = entry.next;
                ControlFlow::Break(())
            })
            .unwrap();
            match shown.get(before) {
                Some(name) => gone.lock().extend(name.parse::<u32>()),
                None => break,
            }
        }
        assert_eq!(shown, ["self", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    }

    #[test]
    fn reads_in_pieces_are_one_snapshot_and_a_rewind_takes_a_new_one() {
        let view = tree();
        let file = view.open("/counter", OpenFlags::RDONLY).unwrap();
        let mut first = crate::io::VecSink::new(3);
        file.read(&mut first).unwrap();
        assert_eq!(read_all(&file).unwrap(), b"00\n0"[..3]);
        assert_eq!(first.into_vec(), b"000");
        file.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(read_all(&file).unwrap(), b"00001\n");
        assert_eq!(file.read_at(1_000_000, &mut crate::io::VecSink::new(9)), Ok(0));
    }

    #[test]
    fn links_directories_and_numbers_work() {
        let view = tree();
        assert_eq!(view.list("/sub"), ["a", "l"]);
        assert_eq!(view.read("/sub/a").unwrap(), b"A");
        assert!(view.read("/sub/l").unwrap().ends_with(b"\n"));
        let ino = |path: &str| view.at(path).unwrap().inode().metadata().ino;
        assert_eq!(ino("/sub/a"), ino("/sub/a"));
        assert_ne!(ino("/sub/a"), ino("/counter"));
        assert_eq!(view.read("/nothing").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn only_knobs_can_be_written_and_nothing_can_be_made() {
        let view = tree();
        view.write("/knob", b"new").unwrap();
        assert_eq!(view.read("/knob").unwrap(), b"new");
        let file = view.open("/knob", OpenFlags::WRONLY).unwrap();
        assert_eq!(file.write(&mut b"much too long".as_slice()), Err(Errno::EINVAL));
        let file = view.open("/counter", OpenFlags::WRONLY).unwrap();
        assert_eq!(file.write(&mut b"x".as_slice()), Err(Errno::EIO));
        assert_eq!(view.mkdir("/new").err(), Some(Errno::EPERM));
        assert_eq!(view.unlink("/knob").err(), Some(Errno::EPERM));
        assert_eq!(MountMode::empty(), view.root.mount().mode());
    }
}
