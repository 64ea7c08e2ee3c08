//! The shared-library closure of a program, found the way ld.so(8) finds it.
//!
//! For a name without a slash the order is: RPATH of the object and of those that loaded it (only where the object has no
//! RUNPATH), LD_LIBRARY_PATH, RUNPATH of the object, /etc/ld.so.cache, default directories. musl's loader has no cache; it
//! reads /etc/ld-musl-x86_64.path instead and treats RUNPATH like RPATH.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::elf::{self, Elf};
use super::ldcache::LdCache;
use super::tree::{Root, Tree};
use crate::error::{Error, Result};

const GLIBC_DIRECTORIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
const MUSL_DIRECTORIES: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];
const MUSL_PATH_FILE: &str = "/etc/ld-musl-x86_64.path";
/// Names that musl's loader answers itself, whatever the file system holds.
const MUSL_BUILT_IN: [&str; 7] = ["libc.", "libpthread.", "librt.", "libm.", "libdl.", "libutil.", "libxnet."];
/// Loaded by glibc at run time, for `pthread_exit` and back-traces.
const GLIBC_RUN_TIME: &str = "libgcc_s.so.1";

/// What to do about a library that cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Fail,
    Ignore,
}

/// Finds libraries in one root for programs with one environment.
#[derive(Debug)]
pub(crate) struct Linker {
    root: Root,
    cache: LdCache,
    library_path: Vec<PathBuf>,
    preload: Vec<String>,
    /// Files whose closure is in the tree already.
    done: HashSet<PathBuf>,
}

/// An object of the closure; `parent` is the index of the one that asked for it.
struct Object {
    path: PathBuf,
    elf: Elf,
    parent: Option<usize>,
}

impl Linker {
    /// Reads the root's ld.so.cache; `env` is the program's environment as `K=V`.
    pub(crate) fn new(root: &Root, env: &[String]) -> Linker {
        let value = |key: &str| env.iter().find_map(|e| e.strip_prefix(key)).unwrap_or_default();
        Linker {
            root: root.clone(),
            cache: LdCache::load(&root.host(Path::new("/etc/ld.so.cache"))),
            library_path: value("LD_LIBRARY_PATH=").split([':', ';']).filter(|s| !s.is_empty()).map(PathBuf::from).collect(),
            preload: value("LD_PRELOAD=").split([':', ' ']).filter(|s| !s.is_empty()).map(String::from).collect(),
            done: HashSet::new(),
        }
    }

    /// Adds to `tree` the program or library at `path` (already without links, already parsed to `elf`), its interpreter
    /// and all libraries it needs.
    ///
    /// # Errors
    /// `MissingInterpreter`; with [`Missing::Fail`] also `MissingLibrary`.
    pub(crate) fn add_closure(&mut self, tree: &mut Tree, path: &Path, elf: Elf, missing: Missing) -> Result<()> {
        if !self.done.insert(path.to_owned()) {
            return Ok(());
        }
        let flavour = self.add_interpreter(tree, path, &elf)?;
        let mut objects = vec![Object { path: path.to_owned(), elf, parent: None }];
        let mut names = HashSet::new();
        let mut next = 0;
        while next < objects.len() {
            for name in self.names_wanted_by(&objects, next, &flavour) {
                if !names.insert(name.clone()) || flavour.has_built_in(&name) {
                    continue;
                }
                match self.find(&objects, next, &name, &flavour) {
                    Ok((found, elf)) => {
                        let real = tree.add(&self.root, &found).map_err(Error::io("read", &found))?;
                        self.done.insert(real);
                        objects.push(Object { path: found, elf, parent: Some(next) });
                    }
                    Err(_) if missing == Missing::Ignore || name == GLIBC_RUN_TIME => {}
                    Err(searched) => {
                        let needed_by = objects[next].path.clone();
                        return Err(Error::MissingLibrary { program: path.to_owned(), name, needed_by, searched });
                    }
                }
            }
            next += 1;
        }
        Ok(())
    }

    fn add_interpreter(&self, tree: &mut Tree, program: &Path, elf: &Elf) -> Result<Flavour> {
        let Some(interpreter) = &elf.interpreter else { return Ok(Flavour::of_library(program, elf)) };
        let missing = || Error::MissingInterpreter { path: program.to_owned(), interpreter: interpreter.clone() };
        tree.add(&self.root, Path::new(interpreter)).map_err(|_| missing())?;
        Ok(if interpreter.contains("ld-musl") {
            // Absent on most systems; then musl's defaults hold.
            let _ = tree.add(&self.root, Path::new(MUSL_PATH_FILE));
            Flavour::Musl(self.musl_directories())
        } else {
            Flavour::Glibc
        })
    }

    fn musl_directories(&self) -> Vec<PathBuf> {
        match std::fs::read_to_string(self.root.host(Path::new(MUSL_PATH_FILE))) {
            Ok(text) => text.split([':', '\n']).filter(|s| !s.is_empty()).map(PathBuf::from).collect(),
            Err(_) => MUSL_DIRECTORIES.iter().map(PathBuf::from).collect(),
        }
    }

    fn names_wanted_by(&self, objects: &[Object], index: usize, flavour: &Flavour) -> Vec<String> {
        let object = &objects[index];
        let mut names = Vec::new();
        if index == 0 && object.elf.interpreter.is_some() {
            names.extend(self.preload.iter().cloned());
        }
        names.extend(object.elf.needed.iter().cloned());
        if index == 0 && matches!(flavour, Flavour::Glibc) && object.elf.interpreter.is_some() {
            names.push(GLIBC_RUN_TIME.into());
        }
        names
    }

    /// The file for `name` as wanted by `objects[by]`, or the places that were looked at.
    fn find(&self, objects: &[Object], by: usize, name: &str, flavour: &Flavour) -> Result<(PathBuf, Elf), Vec<PathBuf>> {
        if name.contains('/') {
            let path = PathBuf::from(name);
            return self.open(&path).map(|elf| (path.clone(), elf)).ok_or(vec![path]);
        }
        let mut searched = search_directories(objects, by, &self.library_path, flavour);
        let found = |dirs: &[PathBuf]| dirs.iter().find_map(|dir| Some((dir.join(name), self.open(&dir.join(name))?)));
        if let Some(hit) = found(&searched) {
            return Ok(hit);
        }
        if matches!(flavour, Flavour::Glibc) {
            if let Some(hit) = self.cache.lookup(name).find_map(|path| Some((path.to_owned(), self.open(path)?))) {
                return Ok(hit);
            }
            searched.push("/etc/ld.so.cache".into());
        }
        let defaults = flavour.default_directories();
        found(&defaults).ok_or_else(|| {
            searched.extend(defaults);
            searched
        })
    }

    /// Parses `path` if ld.so would accept it; files for other machines are passed over, as ld.so does.
    fn open(&self, path: &Path) -> Option<Elf> {
        let host = self.root.host(&self.root.resolve(path).ok()?);
        elf::parse(File::open(host).ok()?).ok().filter(|elf| elf.loadable)
    }
}

/// Whose rules apply.
enum Flavour {
    Glibc,
    Musl(Vec<PathBuf>),
}

impl Flavour {
    /// For an object without interpreter: a library, or a static program.
    fn of_library(path: &Path, elf: &Elf) -> Flavour {
        let musl = path.to_string_lossy().contains("musl") || elf.needed.iter().any(|n| n.starts_with("libc.musl"));
        if musl { Flavour::Musl(MUSL_DIRECTORIES.iter().map(PathBuf::from).collect()) } else { Flavour::Glibc }
    }

    fn has_built_in(&self, name: &str) -> bool {
        matches!(self, Flavour::Musl(_)) && MUSL_BUILT_IN.iter().any(|prefix| name.starts_with(prefix))
    }

    fn default_directories(&self) -> Vec<PathBuf> {
        match self {
            Flavour::Glibc => GLIBC_DIRECTORIES.iter().map(PathBuf::from).collect(),
            Flavour::Musl(directories) => directories.clone(),
        }
    }
}

/// The directories before ld.so.cache, in order.
fn search_directories(objects: &[Object], by: usize, library_path: &[PathBuf], flavour: &Flavour) -> Vec<PathBuf> {
    let musl = matches!(flavour, Flavour::Musl(_));
    let asker = &objects[by];
    let mut result = Vec::new();
    let mut inherited = Vec::new();
    if asker.elf.runpath.is_none() || musl {
        let mut at = Some(by);
        while let Some(index) = at {
            let object = &objects[index];
            let path = if musl { object.elf.runpath.as_ref().or(object.elf.rpath.as_ref()) } else { inherited_rpath(object) };
            inherited.extend(path.into_iter().flat_map(|path| expand(path, &object.path)));
            at = object.parent;
        }
    }
    if musl {
        result.extend(library_path.iter().cloned());
        result.append(&mut inherited);
        return result;
    }
    result.append(&mut inherited);
    result.extend(library_path.iter().cloned());
    result.extend(asker.elf.runpath.iter().flat_map(|path| expand(path, &asker.path)));
    result
}

/// An object's RPATH, which counts only where it has no RUNPATH.
fn inherited_rpath(object: &Object) -> Option<&String> {
    object.elf.rpath.as_ref().filter(|_| object.elf.runpath.is_none())
}

/// The directories of an RPATH or RUNPATH, with `$ORIGIN`, `$LIB` and `$PLATFORM` replaced (ld.so(8), "Dynamic string tokens").
fn expand(path: &str, object: &Path) -> Vec<PathBuf> {
    let origin = object.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let tokens = [("ORIGIN", origin.as_ref()), ("LIB", "lib/x86_64-linux-gnu"), ("PLATFORM", "x86_64")];
    let replace = |directory: &str| {
        tokens.iter().fold(directory.to_owned(), |text, (token, value)| {
            text.replace(&format!("${{{token}}}"), value).replace(&format!("${token}"), value)
        })
    };
    path.split(':').filter(|d| !d.is_empty()).map(|d| PathBuf::from(replace(d))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str, rpath: Option<&str>, runpath: Option<&str>, parent: Option<usize>) -> Object {
        let elf = Elf { rpath: rpath.map(Into::into), runpath: runpath.map(Into::into), ..Elf::default() };
        Object { path: path.into(), elf, parent }
    }

    fn order(objects: &[Object], by: usize, flavour: &Flavour) -> Vec<String> {
        let directories = search_directories(objects, by, &["/env".into()], flavour);
        directories.iter().map(|d| d.display().to_string()).collect()
    }

    #[test]
    fn rpath_is_inherited_and_comes_before_the_environment() {
        let objects = [object("/opt/a/bin/p", Some("$ORIGIN/../lib"), None, None), object("/opt/l.so", Some("/r2"), None, Some(0))];
        assert_eq!(order(&objects, 1, &Flavour::Glibc), ["/r2", "/opt/a/bin/../lib", "/env"]);
    }

    #[test]
    fn runpath_switches_rpath_off_and_comes_after_the_environment() {
        let objects = [object("/p", Some("/r1"), None, None), object("/l.so", Some("/r2"), Some("/run:${ORIGIN}x"), Some(0))];
        assert_eq!(order(&objects, 1, &Flavour::Glibc), ["/env", "/run", "/x"]);
    }

    #[test]
    fn a_parents_runpath_is_not_inherited_in_glibc_but_is_in_musl() {
        let objects = [object("/p", None, Some("/run"), None), object("/l.so", None, None, Some(0))];
        assert_eq!(order(&objects, 1, &Flavour::Glibc), ["/env"]);
        assert_eq!(order(&objects, 1, &Flavour::Musl(vec![])), ["/env", "/run"]);
    }

    #[test]
    fn musl_answers_libc_itself() {
        assert!(Flavour::Musl(vec![]).has_built_in("libc.so"));
        assert!(!Flavour::Musl(vec![]).has_built_in("libz.so.1"));
        assert!(!Flavour::Glibc.has_built_in("libc.so.6"));
    }
}
