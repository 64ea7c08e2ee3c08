//! The guest's file tree: what the image will hold, by guest path, with where each file's bytes come from.
//!
//! [`Root`] is where files are taken from: this machine, or the tree given with `--rootfs`. [`Tree`] collects nodes. Adding a
//! path adds everything a walk along it meets: the directories, the symbolic links (so that a merged `/usr`, where `/lib`
//! is a link, looks the same in the guest) and what they lead to. The image writer (`image.rs`) turns a tree into EROFS.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// As many symbolic links as Linux follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Directories the guest kernel fills itself; nothing is copied from below them.
const KERNEL_OWNED: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The directory that stands for `/` while gathering.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    base: PathBuf,
}

impl Root {
    /// Takes files from below `base`; `/` is this machine.
    pub(crate) fn new(base: &Path) -> Root {
        Root { base: base.to_owned() }
    }

    /// True if files come from this machine itself.
    pub(crate) fn is_host(&self) -> bool {
        self.base == Path::new("/")
    }

    /// The host path of the absolute path `guest`, without following links.
    pub(crate) fn host(&self, guest: &Path) -> PathBuf {
        self.base.join(guest.strip_prefix("/").unwrap_or(guest))
    }

    /// Follows all links of `path` inside this root; the result has none.
    ///
    /// # Errors
    /// Those of path_resolution(7).
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Tree::default().add(self, path)
    }

    /// Metadata of what `path` leads to inside this root.
    ///
    /// # Errors
    /// Those of path_resolution(7).
    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        fs::symlink_metadata(self.host(&self.resolve(path)?))
    }
}

/// One file, directory or link of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Permission bits, with set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification time, seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
}

/// What a [`Node`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Symlink(PathBuf),
    File(Source),
    Fifo,
}

/// Where a file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A host file; the rest identifies its content for the image cache.
    Host { path: PathBuf, size: u64, device: u64, inode: u64, ctime: (i64, i64) },
    Bytes(Vec<u8>),
}

impl Node {
    /// A directory made by oxv itself.
    pub(crate) fn directory(mode: u32) -> Node {
        Node { kind: Kind::Directory, mode, uid: 0, gid: 0, mtime: (0, 0) }
    }

    /// A file made by oxv itself.
    pub(crate) fn bytes(bytes: Vec<u8>, mode: u32) -> Node {
        Node { kind: Kind::File(Source::Bytes(bytes)), mode, uid: 0, gid: 0, mtime: (0, 0) }
    }

    /// Describes the host object `path`, itself not followed.
    fn from_host(path: &Path) -> io::Result<Node> {
        let meta = fs::symlink_metadata(path)?;
        let kind = match meta.file_type() {
            t if t.is_dir() => Kind::Directory,
            t if t.is_symlink() => Kind::Symlink(fs::read_link(path)?),
            t if t.is_fifo() => Kind::Fifo,
            t if t.is_file() => Kind::File(Source::Host {
                path: path.to_owned(),
                size: meta.size(),
                device: meta.dev(),
                inode: meta.ino(),
                ctime: (meta.ctime(), meta.ctime_nsec()),
            }),
            _ => return Err(io::Error::new(ErrorKind::Unsupported, "neither a file, a directory nor a link")),
        };
        Ok(Node {
            kind,
            mode: meta.mode() & 0o7777,
            uid: guest_owner(meta.uid(), rustix::process::getuid().as_raw()),
            gid: guest_owner(meta.gid(), rustix::process::getgid().as_raw()),
            mtime: (meta.mtime(), meta.mtime_nsec() as u32),
        })
    }
}

/// The program runs as root, so the files of whoever starts oxv become root's.
fn guest_owner(id: u32, mine: u32) -> u32 {
    if id == mine { 0 } else { id }
}

/// All nodes by absolute guest path. A node's parent always exists and is a directory.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// The nodes in path order, parents first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_path(), node))
    }

    /// The node at exactly `path`.
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Paths of the regular files below `directory`.
    pub(crate) fn files_below<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a Path> {
        let below = self.nodes.range(directory.to_owned()..).take_while(move |(path, _)| path.starts_with(directory));
        below.filter(|(_, node)| matches!(node.kind, Kind::File(_))).map(|(path, _)| path.as_path())
    }

    /// Takes out `path` and everything below it.
    pub(crate) fn remove(&mut self, path: &Path) {
        self.nodes.retain(|p, _| !p.starts_with(path));
    }

    /// Takes out the files below `directory` whose names end in one of `endings`.
    pub(crate) fn remove_endings(&mut self, directory: &Path, endings: &[&str]) {
        let ends = |path: &Path| endings.iter().any(|e| path.as_os_str().as_encoded_bytes().ends_with(e.as_bytes()));
        self.nodes.retain(|path, node| !(matches!(node.kind, Kind::File(_)) && ends(path) && path.starts_with(directory)));
    }

    /// Bytes of the regular files below `directory`.
    pub(crate) fn size_below(&self, directory: &Path) -> u64 {
        self.files_below(directory).filter_map(|path| self.get(path)).map(Node::size).sum()
    }

    /// Bytes of all regular files.
    pub(crate) fn size(&self) -> u64 {
        self.nodes.values().map(Node::size).sum()
    }

    /// The host file whose bytes the guest sees at `path`, links followed.
    pub(crate) fn host_file(&self, path: &Path) -> Option<&Path> {
        match &self.nodes.get(&self.resolve(path))?.kind {
            Kind::File(Source::Host { path, .. }) => Some(path),
            _ => None,
        }
    }

    /// Adds what a walk along the absolute `path` meets in `root`; returns where it ends. A directory is added without
    /// its content.
    ///
    /// # Errors
    /// Those of path_resolution(7); `NotFound` also below `/dev`, `/proc` and `/sys`. What was met until then stays added.
    pub(crate) fn add(&mut self, root: &Root, path: &Path) -> io::Result<PathBuf> {
        let mut rest: VecDeque<OsString> = names(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(name);
            match &self.node(root, &next)?.kind {
                Kind::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(rustix::io::Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    for name in names(target).into_iter().rev() {
                        rest.push_front(name);
                    }
                }
                Kind::Directory => here = next,
                _ if rest.is_empty() => here = next,
                _ => return Err(rustix::io::Errno::NOTDIR.into()),
            }
        }
        Ok(here)
    }

    /// The node at `path`, whose parent has been added, read from `root` if it is new.
    fn node(&mut self, root: &Root, path: &Path) -> io::Result<&Node> {
        if !self.nodes.contains_key(path) {
            if path.parent().is_some_and(is_kernel_owned) {
                return Err(ErrorKind::NotFound.into());
            }
            let mut node = Node::from_host(&root.host(path))?;
            if node.kind == Kind::Directory {
                // Only a part of it is taken; a change elsewhere in it (/tmp!) must not make another image.
                node.mtime = (0, 0);
            }
            self.nodes.insert(path.to_owned(), node);
        }
        Ok(&self.nodes[path])
    }

    /// Puts `node` at `path`, making missing parents and following links among them; a directory stays if one is there.
    pub(crate) fn insert(&mut self, path: &Path, node: Node) {
        let parent = self.make_directories(path.parent().unwrap_or(Path::new("/")));
        let Some(name) = path.file_name() else { return };
        let path = parent.join(name);
        let both_directories = |old: &Node| old.kind == Kind::Directory && node.kind == Kind::Directory;
        if !self.nodes.get(&path).is_some_and(both_directories) {
            self.nodes.insert(path, node);
        }
    }

    /// Makes `path` and its parents directories where they are missing; returns its place with links followed.
    pub(crate) fn make_directories(&mut self, path: &Path) -> PathBuf {
        let mut here = PathBuf::from("/");
        for name in names(path) {
            here = self.resolve(&here.join(name));
            self.nodes.entry(here.clone()).or_insert_with(|| Node::directory(0o755));
        }
        here
    }

    /// Adds the host file or directory `host`, with everything below it, as `guest`.
    ///
    /// # Errors
    /// Those of lstat(2), opendir(3) and readlink(2) for `host` itself; unreadable files below it are left out, unreadable
    /// directories are left empty.
    pub(crate) fn add_recursive(&mut self, host: &Path, guest: &Path) -> io::Result<()> {
        let mut node = Node::from_host(host)?;
        if matches!(node.kind, Kind::Symlink(_)) {
            node = Node::from_host(&fs::canonicalize(host)?)?;
        }
        let is_directory = node.kind == Kind::Directory;
        self.insert(guest, node);
        if is_directory { self.add_children(host, guest) } else { Ok(()) }
    }

    fn add_children(&mut self, host: &Path, guest: &Path) -> io::Result<()> {
        for entry in fs::read_dir(host)? {
            let name = entry?.file_name();
            let (host, guest) = (host.join(&name), guest.join(&name));
            // Sockets and device nodes are left out: the kernel makes its own.
            let Ok(node) = Node::from_host(&host) else { continue };
            let is_file = matches!(node.kind, Kind::File(_));
            if is_file && rustix::fs::access(&host, rustix::fs::Access::READ_OK).is_err() {
                continue;
            }
            let descend = node.kind == Kind::Directory && !is_kernel_owned(&guest);
            self.insert(&guest, node);
            if descend {
                // A directory that may not be read stays empty.
                let _ = self.add_children(&host, &guest);
            }
        }
        Ok(())
    }

    /// Follows links within the tree; what does not exist is kept as it is.
    fn resolve(&self, path: &Path) -> PathBuf {
        let mut rest: VecDeque<OsString> = names(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            here.push(name);
            if let Some(Node { kind: Kind::Symlink(target), .. }) = self.nodes.get(&here)
                && links < MAX_LINKS
            {
                links += 1;
                here.pop();
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                for name in names(target).into_iter().rev() {
                    rest.push_front(name);
                }
            }
        }
        here
    }
}

impl Node {
    /// Bytes of content.
    pub(crate) fn size(&self) -> u64 {
        match &self.kind {
            Kind::File(Source::Host { size, .. }) => *size,
            Kind::File(Source::Bytes(bytes)) => bytes.len() as u64,
            _ => 0,
        }
    }
}

/// True for `/dev`, `/proc`, `/sys` and what is below them.
pub(crate) fn is_kernel_owned(path: &Path) -> bool {
    KERNEL_OWNED.iter().any(|owned| path.starts_with(owned))
}

/// The names of a path, `..` among them, `/` and `.` not.
fn names(path: &Path) -> VecDeque<OsString> {
    let kept = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    kept.map(|c| c.as_os_str().to_owned()).collect()
}

/// `path` made absolute below `cwd`, with `.` and `..` taken out textually.
pub(crate) fn absolute(cwd: &Path, path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for name in names(&cwd.join(path)) {
        if name == ".." {
            result.pop();
        } else {
            result.push(name);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn merged_usr() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("usr/lib/x86_64-linux-gnu")).expect("mkdir");
        fs::create_dir_all(at("proc")).expect("mkdir");
        fs::write(at("proc/version"), "host").expect("write");
        fs::write(at("usr/lib/x86_64-linux-gnu/libx.so.1.2"), "lib").expect("write");
        symlink("libx.so.1.2", at("usr/lib/x86_64-linux-gnu/libx.so.1")).expect("link");
        symlink("usr/lib", at("lib")).expect("link");
        symlink("loop", at("loop")).expect("link");
        symlink("/usr/lib/../lib/./x86_64-linux-gnu", at("abs")).expect("link");
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn adding_a_path_keeps_every_link_on_the_way() {
        let (_dir, root) = merged_usr();
        let mut tree = Tree::default();
        let end = tree.add(&root, Path::new("/lib/x86_64-linux-gnu/libx.so.1")).expect("add");
        assert_eq!(end, Path::new("/usr/lib/x86_64-linux-gnu/libx.so.1.2"));
        let paths: Vec<_> = tree.iter().map(|(p, _)| p.to_str().expect("utf-8")).collect();
        let lib = "/usr/lib/x86_64-linux-gnu";
        let (link, file) = (format!("{lib}/libx.so.1"), format!("{lib}/libx.so.1.2"));
        assert_eq!(paths, ["/lib", "/usr", "/usr/lib", lib, &link, &file]);
        assert_eq!(tree.get(Path::new("/lib")).map(|n| &n.kind), Some(&Kind::Symlink("usr/lib".into())));
        assert!(tree.host_file(Path::new("/lib/x86_64-linux-gnu/libx.so.1")).is_some());
    }

    #[test]
    fn absolute_links_stay_inside_the_root() {
        let (_dir, root) = merged_usr();
        let end = root.resolve(Path::new("/abs/libx.so.1")).expect("resolve");
        assert_eq!(end, Path::new("/usr/lib/x86_64-linux-gnu/libx.so.1.2"));
    }

    #[test]
    fn link_loops_and_kernel_directories_are_refused() {
        let (_dir, root) = merged_usr();
        let mut tree = Tree::default();
        let error = tree.add(&root, Path::new("/loop")).expect_err("loop");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
        assert_eq!(tree.add(&root, Path::new("/proc/version")).expect_err("proc").kind(), ErrorKind::NotFound);
    }

    #[test]
    fn inserting_below_a_link_lands_in_its_target() {
        let (_dir, root) = merged_usr();
        let mut tree = Tree::default();
        tree.add(&root, Path::new("/lib")).expect("add");
        tree.insert(Path::new("/lib/new/file"), Node::bytes(vec![1], 0o644));
        assert!(tree.get(Path::new("/usr/lib/new/file")).is_some());
        assert!(tree.get(Path::new("/lib/new")).is_none());
    }

    #[test]
    fn absolute_removes_dots() {
        assert_eq!(absolute(Path::new("/a/b"), Path::new("../c/./d")), Path::new("/a/c/d"));
        assert_eq!(absolute(Path::new("/a/b"), Path::new("/x/../../y")), Path::new("/y"));
    }
}
