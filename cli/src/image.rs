//! Images: written from a gathered tree, kept in a cache by content, checked before they are booted.
//!
//! The cache is `$XDG_CACHE_HOME/oxv` or `~/.cache/oxv`. A file's name there is a hash of all that enters the image: every
//! path with its kind, mode, owner and time; for host files size, device, inode number and change time; the bytes that oxv
//! adds itself, `exec.json` among them; and this program's version. Files appear by rename, so two runs may make the same
//! one at once. The least recently used go when the sum passes a limit.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use erofs::write::{Attributes, Content, Entry, Options, WriteError};
use sha2::{Digest, Sha256};

use crate::args::parse_size;
use crate::error::{Error, Result};
use crate::exec::{self, Exec};
use crate::gather::tree::{Kind, Node, Source, Tree};

/// Changes whenever the same tree would give another image.
const FORMAT: &str = concat!("oxv-image-1 ", env!("CARGO_PKG_VERSION"));
const DEFAULT_CACHE_LIMIT: u64 = 4 << 30;
/// Younger files may belong to a run that is about to boot them.
const PRUNE_AGE: Duration = Duration::from_secs(600);
/// Deeper directories are taken for a damaged image that contains itself.
const MAX_DEPTH: usize = 128;

/// Called with bytes done and bytes in all.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// An image file that can be booted.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// True if this run did not have to write it.
    pub(crate) cached: bool,
}

/// The cached image of `tree`, written if it is not there yet.
///
/// # Errors
/// `Io` for the cache directory and for files of the tree.
pub(crate) fn cached(tree: &Tree, progress: Progress<'_>) -> Result<Image> {
    let directory = cache_directory()?;
    fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
    let path = directory.join(format!("{}.img", key(tree)));
    if let Ok(file) = File::options().append(true).open(&path) {
        // Marks it as used; a cache that cannot be written to still serves.
        let _ = file.set_modified(SystemTime::now());
        let size = file.metadata().map_err(Error::io("read", &path))?.len();
        return Ok(Image { path, size, cached: true });
    }
    let image = write(tree, &path, progress)?;
    prune(&directory, cache_limit()?, &path);
    Ok(image)
}

/// Writes the image of `tree` to `path`, which is replaced in one step.
///
/// # Errors
/// `Io` for `path` and for files of the tree.
pub(crate) fn write(tree: &Tree, path: &Path, progress: Progress<'_>) -> Result<Image> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".oxv-").tempfile_in(directory).map_err(Error::io("write into", directory))?;
    let erofs_tree = convert(tree)?;
    let plan = erofs::write::plan(&erofs_tree, &Options { volume_name: "oxv".into(), ..Options::default() }).map_err(|e| write_error(e, path))?;
    let size = plan.image_size();
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    plan.write(&mut writer, progress).map_err(|e| write_error(e, path))?;
    writer.flush().map_err(Error::io("write", path))?;
    drop(writer);
    set_mode(file.as_file(), path)?;
    file.persist(path).map_err(|e| Error::Io { action: "write", path: path.to_owned(), source: e.error })?;
    Ok(Image { path: path.to_owned(), size, cached: false })
}

/// As creat(2) would have made it; temporary files are private.
fn set_mode(file: &File, path: &Path) -> Result<()> {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    let mode = rustix::fs::Mode::from_raw_mode(0o666) - umask;
    rustix::fs::fchmod(file, mode).map_err(|e| Error::io("write", path)(e.into()))
}

/// Opens an image made earlier and checks it whole, so that a damaged one is not booted.
///
/// # Errors
/// `Io` if it cannot be read, `BadImage` if it is damaged or not made by oxv.
pub(crate) fn open(path: &Path) -> Result<(Image, Exec)> {
    let bad = |cause: String| Error::BadImage { path: path.to_owned(), cause };
    if fs::metadata(path).map_err(Error::io("open", path))?.is_dir() {
        return Err(bad("it is a directory".into()));
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let image = erofs::Image::new(&bytes).map_err(|e| bad(e.to_string()))?;
    let root = image.root().map_err(|e| bad(e.to_string()))?;
    check_directory(&image, root, 0).map_err(bad)?;
    let json = read_file(&image, exec::PATH).map_err(|e| bad(e.to_string()))?;
    let json = json.ok_or_else(|| bad(format!("it has no {}, so it was not made by oxv", exec::PATH)))?;
    let exec = serde_json::from_slice(&json).map_err(|e| bad(format!("its {} is damaged: {e}", exec::PATH)))?;
    let image = Image { path: path.to_owned(), size: bytes.len() as u64, cached: true };
    Ok((image, exec))
}

/// Reads every inode below `directory` once.
fn check_directory(image: &erofs::Image<'_>, directory: erofs::Inode<'_>, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("its directories are nested too deeply".into());
    }
    for entry in directory.read_dir(0).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        if entry.name == b"." || entry.name == b".." {
            continue;
        }
        let inode = image.inode(entry.nid).map_err(|e| e.to_string())?;
        match inode.kind {
            erofs::Kind::Directory => check_directory(image, inode, depth + 1)?,
            erofs::Kind::Symlink => inode.read_link().map(drop).map_err(|e| e.to_string())?,
            _ => {}
        }
    }
    Ok(())
}

fn read_file(image: &erofs::Image<'_>, path: &str) -> Result<Option<Vec<u8>>, erofs::Error> {
    let mut inode = image.root()?;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        let Some(entry) = inode.lookup(name.as_bytes())? else { return Ok(None) };
        inode = image.inode(entry.nid)?;
    }
    let mut bytes = vec![0; inode.size as usize];
    let length = inode.read_at(0, &mut bytes)?;
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// The tree in the writer's terms.
fn convert(tree: &Tree) -> Result<erofs::write::Tree> {
    let mut result = erofs::write::Tree::new();
    for (path, node) in tree.iter() {
        let entry = Entry { node: convert_kind(&node.kind), attributes: convert_attributes(node) };
        result.insert(path, entry).map_err(|e| write_error(e, path))?;
    }
    Ok(result)
}

fn convert_kind(kind: &Kind) -> erofs::write::Node {
    match kind {
        Kind::Directory => erofs::write::Node::Directory,
        Kind::Symlink(target) => erofs::write::Node::Symlink(target.as_os_str().as_bytes().to_vec()),
        Kind::File(Source::Host { path, .. }) => erofs::write::Node::File(Content::Host(path.clone())),
        Kind::File(Source::Bytes(bytes)) => erofs::write::Node::File(Content::Bytes(bytes.clone())),
        Kind::Fifo => erofs::write::Node::Fifo,
    }
}

fn convert_attributes(node: &Node) -> Attributes {
    let (mtime, mtime_nsec) = node.mtime;
    Attributes { mode: node.mode as u16, uid: node.uid, gid: node.gid, mtime, mtime_nsec, ..Attributes::default() }
}

fn write_error(error: WriteError, image: &Path) -> Error {
    match error {
        WriteError::Output(source) => Error::Io { action: "write", path: image.to_owned(), source },
        WriteError::Host { path, error } => Error::Io { action: "read", path, source: error },
        other => Error::Io { action: "write", path: image.to_owned(), source: std::io::Error::other(other.to_string()) },
    }
}

/// A name for the image that `tree` gives.
fn key(tree: &Tree) -> String {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(FORMAT.as_bytes());
    for (path, node) in tree.iter() {
        field(path.as_os_str().as_bytes());
        match &node.kind {
            Kind::File(Source::Bytes(bytes)) => field(bytes),
            // Every field that tells a changed file from an unchanged one is in the debug form.
            kind => field(format!("{kind:?}").as_bytes()),
        }
        field(format!("{:o} {} {} {:?}", node.mode, node.uid, node.gid, node.mtime).as_bytes());
    }
    hash.finalize()[..20].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cache_directory() -> Result<PathBuf> {
    let set = |key| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.unwrap_or_else(std::env::temp_dir).join("oxv"))
}

fn cache_limit() -> Result<u64> {
    match std::env::var("OXV_CACHE_SIZE") {
        Ok(text) => parse_size("OXV_CACHE_SIZE", &text),
        Err(_) => Ok(DEFAULT_CACHE_LIMIT),
    }
}

/// Removes the least recently used images until the rest fits; failing to is no failure of the run.
fn prune(directory: &Path, limit: u64, keep: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let describe = |entry: fs::DirEntry| {
        let meta = entry.metadata().ok()?;
        Some((meta.modified().ok()?, meta.len(), entry.path()))
    };
    let mut files: Vec<_> = entries.filter_map(|e| describe(e.ok()?)).collect();
    files.sort();
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    for (used, size, path) in files {
        let recent = used.elapsed().is_ok_and(|age| age < PRUNE_AGE);
        if total <= limit {
            break;
        }
        if path != keep && !recent && fs::remove_file(&path).is_ok() {
            total -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Tree {
        let mut tree = Tree::default();
        tree.insert(Path::new("/a/file"), Node::bytes(text.into(), 0o644));
        let exec = Exec {
            argv: vec!["x".into()],
            env: vec![],
            cwd: "/".into(),
            exe: "/x".into(),
            uid: 0,
            gid: 0,
            hostname: "oxv".into(),
        };
        tree.insert(Path::new(exec::PATH), Node::bytes(exec.to_json(), 0o644));
        tree
    }

    #[test]
    fn written_images_open_again_and_damaged_ones_do_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x.img");
        write(&tree("hello"), &path, &mut |_, _| {}).expect("write");
        let (image, exec) = open(&path).expect("open");
        assert_eq!(exec.argv, ["x"]);
        assert_eq!(image.size % 4096, 0);
        let good = fs::read(&path).expect("read");
        for bytes in [&good[..1000], &good[..4096 - 1], &b"text"[..], &[]] {
            fs::write(&path, bytes).expect("write");
            assert!(matches!(open(&path), Err(Error::BadImage { .. })), "{} bytes", bytes.len());
        }
        let mut flipped = good.clone();
        flipped[1024 + 20] ^= 0x55;
        fs::write(&path, flipped).expect("write");
        assert!(matches!(open(&path), Err(Error::BadImage { .. })));
    }

    #[test]
    fn the_key_depends_on_content_and_metadata() {
        let mut executable = tree("one");
        executable.insert(Path::new("/a/file"), Node::bytes("one".into(), 0o755));
        let keys = [key(&tree("one")), key(&tree("two")), key(&executable)];
        assert_eq!(keys[0], key(&tree("one")));
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
    }

    #[test]
    fn pruning_removes_old_files_first_and_spares_recent_ones() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, age) in [("old", 5000), ("older", 9000), ("new", 0)] {
            let file = File::create(dir.path().join(name)).expect("create");
            file.set_len(1000).expect("resize");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("set time");
        }
        prune(dir.path(), 2500, &dir.path().join("none"));
        let exists = |name: &str| dir.path().join(name).exists();
        assert!(!exists("older") && exists("old") && exists("new"));
        prune(dir.path(), 10, &dir.path().join("none"));
        assert!(!exists("old") && exists("new"));
    }
}
