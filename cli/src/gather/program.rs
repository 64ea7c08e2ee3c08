//! Which file a program name means: PATH look-up, permissions, and version managers' stand-in scripts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tree::{Root, absolute};
use crate::error::{Error, Result};

/// Finds the program `name` for a caller in directory `cwd` with this PATH; the result is absolute, links not followed.
///
/// # Errors
/// `ProgramNotFound`, `Directory`, `NotRegular`, `NotExecutable`, `Unreadable`.
pub(crate) fn find(root: &Root, cwd: &Path, path_variable: &str, name: &str) -> Result<PathBuf> {
    let not_found = |searched| Error::ProgramNotFound { name: name.to_owned(), searched };
    if name.is_empty() {
        return Err(not_found(Vec::new()));
    }
    if name.contains('/') {
        let path = absolute(cwd, Path::new(name));
        return check(root, &path).map(|()| path);
    }
    let directories: Vec<PathBuf> = path_variable.split(':').map(|d| absolute(cwd, Path::new(d))).collect();
    let mut unusable = None;
    for directory in &directories {
        let path = directory.join(name);
        match check(root, &path) {
            Ok(()) => match stand_in_target(root, cwd, &path) {
                StandIn::No => return Ok(path),
                StandIn::For(target) => return Ok(target),
                StandIn::Dangling => {}
            },
            Err(Error::ProgramNotFound { .. } | Error::Directory { .. }) => {}
            Err(error) => unusable = unusable.or(Some(error)),
        }
    }
    Err(unusable.unwrap_or_else(|| not_found(directories)))
}

/// Sees to it that `path` is a program file this user may read and execute.
fn check(root: &Root, path: &Path) -> Result<()> {
    let path_buf = || path.to_owned();
    let meta = root.metadata(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Error::ProgramNotFound { name: path.display().to_string(), searched: Vec::new() }
        }
        _ => Error::Unreadable { path: path_buf(), source },
    })?;
    if meta.is_dir() {
        return Err(Error::Directory { path: path_buf() });
    }
    if !meta.is_file() {
        return Err(Error::NotRegular { path: path_buf() });
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(Error::NotExecutable { path: path_buf() });
    }
    let host = root.resolve(path).map(|p| root.host(&p)).unwrap_or_else(|_| path_buf());
    fs::File::open(host).map(drop).map_err(|source| Error::Unreadable { path: path_buf(), source })
}

/// Whether a file only stands in for a program elsewhere.
enum StandIn {
    No,
    For(PathBuf),
    /// For a program that the chosen version does not have.
    Dangling,
}

/// pyenv and its sisters (rbenv, nodenv …) put shell scripts in `ROOT/shims` that start a copy of their own tool to find
/// `ROOT/versions/V/bin/NAME`. The look-up is done here instead, with their rules for V: `*_VERSION`, `.*-version` in the
/// current directory or above, `ROOT/version`.
fn stand_in_target(root: &Root, cwd: &Path, path: &Path) -> StandIn {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return StandIn::No };
    let Some(base) = directory.parent().filter(|_| directory.ends_with("shims")) else { return StandIn::No };
    if !root.is_host() || !base.join("versions").is_dir() {
        return StandIn::No;
    }
    let versions = chosen_versions(base, cwd);
    let targets = versions.split_whitespace().map(|v| base.join("versions").join(v).join("bin").join(name));
    targets.into_iter().find(|t| check(root, t).is_ok()).map_or(StandIn::Dangling, StandIn::For)
}

fn chosen_versions(base: &Path, cwd: &Path) -> String {
    // ~/.pyenv → PYENV_VERSION, .python-version; other tools name the file after the language as well.
    let tool = base.file_name().unwrap_or_default().to_string_lossy().trim_start_matches('.').to_owned();
    let language = match tool.as_str() {
        "pyenv" => "python",
        "rbenv" => "ruby",
        "nodenv" => "node",
        other => other,
    };
    let from_environment = std::env::var(format!("{}_VERSION", tool.to_uppercase())).ok().filter(|v| !v.is_empty());
    let local = || cwd.ancestors().find_map(|d| fs::read_to_string(d.join(format!(".{language}-version"))).ok());
    let global = || fs::read_to_string(base.join("version")).ok();
    from_environment.map(|v| v.replace(':', " ")).or_else(local).or_else(global).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, "x").expect("write");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn path_is_searched_in_order_and_non_executables_are_passed_over() {
        let dir = tempfile::tempdir().expect("tempdir");
        executable(&dir.path().join("a/p"), 0o644);
        executable(&dir.path().join("b/p"), 0o755);
        let root = Root::new(dir.path());
        assert_eq!(find(&root, Path::new("/"), "/none:/a:/b", "p").expect("find"), Path::new("/b/p"));
        assert!(matches!(find(&root, Path::new("/"), "/a", "p"), Err(Error::NotExecutable { .. })));
        assert!(matches!(find(&root, Path::new("/"), "/none", "p"), Err(Error::ProgramNotFound { .. })));
        assert!(matches!(find(&root, Path::new("/"), "/b", "./a"), Err(Error::Directory { .. })));
    }

    #[test]
    fn shims_lead_to_the_chosen_version() {
        let dir = tempfile::tempdir().expect("tempdir");
        let base = dir.path().join("xenv");
        executable(&base.join("shims/tool"), 0o755);
        executable(&base.join("versions/2.0/bin/tool"), 0o755);
        fs::write(base.join("version"), "1.0\n2.0\n").expect("write");
        let path = base.join("shims").display().to_string();
        let found = find(&Root::new(Path::new("/")), dir.path(), &path, "tool").expect("find");
        assert_eq!(found, base.join("versions/2.0/bin/tool"));
    }
}
