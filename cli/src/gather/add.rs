//! Files named on the command line: `--add HOST[:GUEST]`, and program arguments that name existing files.

use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use super::tree::{Root, Tree, absolute, is_kernel_owned};
use crate::error::{Error, Result, size};

/// Larger directories named by an argument are not added unasked.
const AUTO_ADD_LIMIT: u64 = 256 << 20;
/// Directories with more entries likewise.
const AUTO_ADD_ENTRIES: usize = 20_000;

/// Adds what one `--add` option names.
///
/// # Errors
/// `CannotAdd` if the host path does not exist or cannot be read.
pub(crate) fn add_option(tree: &mut Tree, root: &Root, cwd: &Path, option: &str) -> Result<()> {
    let (host, guest) = split(cwd, option);
    let cannot = |source| Error::CannotAdd { path: host.clone(), source };
    if root.is_host() && host == guest {
        // As it is on the host, with the links that lead there.
        let _ = tree.add(root, &guest);
    }
    std::fs::metadata(&host).map_err(cannot)?;
    if host.is_file() {
        std::fs::File::open(&host).map_err(cannot)?;
    }
    let guest = tree_path(tree, &guest);
    tree.add_recursive(&host, &guest).map_err(cannot)
}

/// Where `guest` lands when links of the tree are followed.
fn tree_path(tree: &mut Tree, guest: &Path) -> PathBuf {
    match guest.parent() {
        Some(parent) => tree.make_directories(parent).join(guest.file_name().unwrap_or_default()),
        None => guest.to_owned(),
    }
}

/// `HOST[:GUEST]` as absolute paths. A host path that exists as a whole is taken as it is, colon and all.
fn split(cwd: &Path, option: &str) -> (PathBuf, PathBuf) {
    let whole = absolute(cwd, Path::new(option));
    match option.rsplit_once(':') {
        Some((host, guest)) if !whole.exists() && guest.starts_with('/') => {
            (absolute(cwd, Path::new(host)), absolute(Path::new("/"), Path::new(guest)))
        }
        _ => (whole.clone(), whole),
    }
}

/// Adds what the program's arguments name: existing files anywhere, and directories below the current one. An argument
/// may also be `--option=FILE`. Returns notes on what was left out.
pub(crate) fn add_arguments(tree: &mut Tree, root: &Root, cwd: &Path, arguments: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    for argument in arguments {
        let value = argument.split_once('=').filter(|_| argument.starts_with('-')).map(|(_, value)| value);
        for word in [Some(argument.as_str()), value].into_iter().flatten().filter(|w| !w.is_empty()) {
            notes.extend(add_argument(tree, root, cwd, word));
        }
    }
    notes
}

fn add_argument(tree: &mut Tree, root: &Root, cwd: &Path, word: &str) -> Option<String> {
    let path = absolute(cwd, Path::new(word));
    let meta = std::fs::metadata(&path).ok().filter(|_| !is_kernel_owned(&path))?;
    if meta.is_file() {
        // It was there a moment ago; if not any more, the program will say so.
        let _ = tree.add(root, &path);
    } else if meta.is_dir() && path != cwd && path.starts_with(cwd) {
        if let Err(cause) = check_directory(&path) {
            return Some(format!("not adding '{word}' ({cause}); `--add {word}` adds it"));
        }
        let _ = tree.add(root, &path);
        let _ = tree.add_recursive(&path, &path);
    }
    None
}

/// Refuses directories that are too large to be added unasked.
fn check_directory(path: &Path) -> Result<(), String> {
    let (mut bytes, mut entries) = (0, 0);
    measure(path, &mut bytes, &mut entries).map_err(|_| format!("more than {} or {AUTO_ADD_ENTRIES} files", size(AUTO_ADD_LIMIT)))
}

fn measure(path: &Path, bytes: &mut u64, entries: &mut usize) -> std::io::Result<()> {
    let Ok(directory) = std::fs::read_dir(path) else { return Ok(()) };
    for entry in directory.filter_map(|e| e.ok()) {
        let Ok(meta) = entry.metadata() else { continue };
        *entries += 1;
        *bytes += meta.len();
        if *bytes > AUTO_ADD_LIMIT || *entries > AUTO_ADD_ENTRIES {
            return Err(IoError::from(ErrorKind::FileTooLarge));
        }
        if meta.is_dir() {
            measure(&entry.path(), bytes, entries)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_add_files_and_directories_below_the_current_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let cwd = dir.path().canonicalize().expect("canonical").join("work");
        std::fs::create_dir_all(cwd.join("sub/deep")).expect("mkdir");
        for file in ["a.py", "sub/deep/b", "c=d"] {
            std::fs::write(cwd.join(file), file).expect("write");
        }
        std::fs::write(cwd.join("../outside"), "x").expect("write");
        let mut tree = Tree::default();
        let words = ["a.py", "sub", "..", ".", "--in=../outside", "c=d", "/proc/version", "--none=x"].map(String::from);
        let notes = add_arguments(&mut tree, &Root::new(Path::new("/")), &cwd, &words);
        assert!(notes.is_empty(), "{notes:?}");
        for file in ["a.py", "sub/deep/b", "c=d"] {
            assert!(tree.host_file(&cwd.join(file)).is_some(), "{file}");
        }
        assert!(tree.host_file(&absolute(&cwd, Path::new("../outside"))).is_some());
        assert!(tree.get(Path::new("/proc/version")).is_none());
    }

    #[test]
    fn add_takes_an_absolute_guest_path_behind_a_colon() {
        let cwd = Path::new("/none");
        assert_eq!(split(cwd, "x:/g/y"), ("/none/x".into(), "/g/y".into()));
        assert_eq!(split(cwd, "x:y"), ("/none/x:y".into(), "/none/x:y".into()));
        assert_eq!(split(cwd, "/a/../b"), ("/b".into(), "/b".into()));
    }
}
