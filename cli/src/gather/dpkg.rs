//! Debian packages: who owns a file, what a package depends on, which of its files are wanted.
//!
//! Reads `/var/lib/dpkg/status` and `/var/lib/dpkg/info/*.list` of the root directly, so `dpkg` itself need not be there
//! and `--rootfs` works. Dependencies follow `Pre-Depends` and `Depends` with alternatives and `Provides`; `Essential`
//! packages are left out, as are a few that only administer a machine.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::tree::{Root, Tree};

const STATUS: &str = "/var/lib/dpkg/status";
const INFO: &str = "/var/lib/dpkg/info";

/// Which programs of a package are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Programs {
    /// All: the user named the package.
    All,
    /// All but those of essential packages: the package came along.
    NotOfEssential,
}

/// Packages that others depend on for their installation scripts, not for running.
const ADMINISTRATION: [&str; 14] = [
    "adduser",
    "debconf",
    "dbus",
    "dpkg",
    "gcc-12-base",
    "init-system-helpers",
    "login",
    "lsb-base",
    "passwd",
    "procps",
    "systemd",
    "sysvinit-utils",
    "ucf",
    "util-linux",
];

/// What no program reads: documentation, translations, packaging data, character-set converters beside those built in.
const UNWANTED: [&str; 16] = [
    "/etc/init.d/",
    "/lib/systemd/",
    "/usr/lib/systemd/",
    "/usr/lib/x86_64-linux-gnu/gconv/",
    "/usr/share/bash-completion/",
    "/usr/share/bug/",
    "/usr/share/doc-base/",
    "/usr/share/doc/",
    "/usr/share/info/",
    "/usr/share/lintian/",
    "/usr/share/locale/",
    "/usr/share/man/",
    "/usr/share/menu/",
    "/usr/share/applications/",
    "/usr/share/pixmaps/",
    "/usr/share/icons/",
];

const PROGRAM_DIRECTORIES: [&str; 4] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"];

/// One installed package.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    architecture: String,
    essential: bool,
    /// Each element is a list of alternatives.
    depends: Vec<Vec<String>>,
    provides: Vec<String>,
}

/// The installed packages of one root.
#[derive(Debug, Default)]
pub(crate) struct Dpkg {
    root: Option<Root>,
    packages: HashMap<String, Package>,
    /// Virtual package name → packages that provide it.
    providers: HashMap<String, Vec<String>>,
}

impl Dpkg {
    /// Reads the package database; without one (not Debian) nothing is installed and nothing is owned.
    pub(crate) fn load(root: &Root) -> Dpkg {
        let text = fs::read_to_string(root.host(Path::new(STATUS))).unwrap_or_default();
        let mut dpkg = Dpkg { root: Some(root.clone()), ..Dpkg::default() };
        for package in text.split("\n\n").filter_map(parse_paragraph) {
            for name in &package.provides {
                dpkg.providers.entry(name.clone()).or_default().push(package.name.clone());
            }
            dpkg.packages.insert(package.name.clone(), package);
        }
        dpkg
    }

    /// True if a package of exactly this name is installed.
    pub(crate) fn is_installed(&self, name: &str) -> bool {
        self.packages.contains_key(name)
    }

    /// The packages that own any of `paths`. A file below `/usr` may be listed without that prefix, and the other way
    /// round (merged `/usr`).
    pub(crate) fn owners(&self, paths: &[PathBuf]) -> Vec<String> {
        let Some(root) = self.root.as_ref().filter(|_| !self.packages.is_empty()) else { return Vec::new() };
        let lines: Vec<String> = paths.iter().flat_map(|p| aliases(p)).map(|p| format!("\n{p}\n")).collect();
        let Ok(entries) = fs::read_dir(root.host(Path::new(INFO))) else { return Vec::new() };
        let mut owners = Vec::new();
        for path in entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "list")) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if lines.iter().any(|line| text.contains(line.as_str())) {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                owners.push(stem.split(':').next().unwrap_or_default().to_owned());
            }
        }
        owners.retain(|name| self.packages.contains_key(name));
        owners.sort();
        owners
    }

    /// `names` and everything they depend on, without essential and administration packages (but `names` always).
    pub(crate) fn closure(&self, names: &[String]) -> Vec<String> {
        let mut result: Vec<String> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut queue: Vec<&str> = names.iter().map(String::as_str).collect();
        while let Some(name) = queue.pop() {
            let Some(package) = self.packages.get(name).filter(|_| seen.insert(name)) else { continue };
            result.push(package.name.clone());
            let wanted = package.depends.iter().filter_map(|alternatives| self.installed_alternative(alternatives));
            queue.extend(wanted.filter(|p| !p.essential && !ADMINISTRATION.contains(&p.name.as_str())).map(|p| p.name.as_str()));
        }
        result.sort();
        result
    }

    fn installed_alternative(&self, alternatives: &[String]) -> Option<&Package> {
        let provided = |name: &String| self.providers.get(name)?.iter().find_map(|p| self.packages.get(p));
        alternatives.iter().find_map(|name| self.packages.get(name).or_else(|| provided(name)))
    }

    /// Adds the package's files to `tree`; returns the regular ones. Essential packages (coreutils, perl-base …) hold
    /// many unrelated programs, which `programs` may leave out. Unreadable and missing files are passed over.
    pub(crate) fn add_files(&self, tree: &mut Tree, name: &str, programs: Programs) -> Vec<PathBuf> {
        let (Some(root), Some(package)) = (&self.root, self.packages.get(name)) else { return Vec::new() };
        let info = root.host(Path::new(INFO));
        let qualified = info.join(format!("{name}:{}.list", package.architecture));
        let list = fs::read_to_string(qualified).or_else(|_| fs::read_to_string(info.join(format!("{name}.list"))));
        let mut added = Vec::new();
        let without_programs = package.essential && programs == Programs::NotOfEssential;
        for line in list.unwrap_or_default().lines().filter(|line| is_wanted(line, without_programs)) {
            let host = root.host(Path::new(line));
            if rustix::fs::access(&host, rustix::fs::Access::READ_OK).is_err() {
                continue;
            }
            if let Ok(path) = tree.add(root, Path::new(line)) {
                add_compiled_python(root, tree, &path);
                added.push(path);
            }
        }
        added
    }
}

/// Python's byte code is made at installation and in no package list; without it every import compiles.
fn add_compiled_python(root: &Root, tree: &mut Tree, path: &Path) {
    let (Some("py"), Some(stem), Some(parent)) = (path.extension().and_then(|e| e.to_str()), path.file_stem(), path.parent()) else {
        return;
    };
    let prefix = format!("{}.", stem.to_string_lossy());
    let directory = parent.join("__pycache__");
    // Listed once per source file, but the listing is in the host's cache and short.
    let Ok(entries) = fs::read_dir(root.host(&directory)) else { return };
    for name in entries.filter_map(|e| Some(e.ok()?.file_name())) {
        if name.to_string_lossy().starts_with(&prefix) {
            let _ = tree.add(root, &directory.join(name));
        }
    }
}

fn is_wanted(path: &str, without_programs: bool) -> bool {
    let in_program_directory = || Path::new(path).parent().is_some_and(|p| PROGRAM_DIRECTORIES.iter().any(|d| p == Path::new(d)));
    let unwanted = UNWANTED.iter().any(|prefix| path.starts_with(prefix));
    !(unwanted || without_programs && in_program_directory())
}

/// `path` as it stands, and with `/usr` in front or taken off.
fn aliases(path: &Path) -> Vec<String> {
    let text = path.to_string_lossy().into_owned();
    let other = match text.strip_prefix("/usr/") {
        Some(rest) => format!("/{rest}"),
        None => format!("/usr{text}"),
    };
    vec![text, other]
}

/// An installed package out of one paragraph of the status file.
fn parse_paragraph(text: &str) -> Option<Package> {
    let mut package = Package::default();
    let mut installed = false;
    for (key, value) in text.lines().filter(|l| !l.starts_with([' ', '\t'])).filter_map(|l| l.split_once(':')) {
        let value = value.trim();
        match key {
            "Package" => package.name = value.into(),
            "Architecture" => package.architecture = value.into(),
            "Essential" => package.essential = value == "yes",
            "Status" => installed = value.ends_with(" installed"),
            "Depends" | "Pre-Depends" => package.depends.extend(relations(value)),
            "Provides" => package.provides.extend(relations(value).into_iter().flatten()),
            _ => {}
        }
    }
    (installed && !package.name.is_empty()).then_some(package)
}

/// `a (>= 1) | b:any, c` → `[[a, b], [c]]`. Versions do not matter: what is installed satisfied them.
fn relations(value: &str) -> Vec<Vec<String>> {
    let name = |text: &str| text.split(['(', ':', '[']).next().unwrap_or_default().trim().to_owned();
    value.split(',').map(|one| one.split('|').map(name).filter(|n| !n.is_empty()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS_TEXT: &str = "\
Package: tool
Status: install ok installed
Architecture: amd64
Pre-Depends: libc6 (>= 2.36)
Depends: missing | libfoo1 (>= 1), virtual-thing, coreutils, debconf
Description: a tool
 Depends: not this

Package: libfoo1
Status: install ok installed
Architecture: amd64
Depends: tool

Package: thing
Status: install ok installed
Architecture: all
Provides: virtual-thing (= 1), other

Package: libc6
Status: install ok installed
Architecture: amd64

Package: coreutils
Essential: yes
Status: install ok installed
Architecture: amd64

Package: debconf
Status: install ok installed
Architecture: all

Package: gone
Status: deinstall ok config-files
Architecture: amd64
";

    fn database() -> (tempfile::TempDir, Dpkg, Root) {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("var/lib/dpkg/info")).expect("mkdir");
        fs::create_dir_all(at("usr/bin")).expect("mkdir");
        fs::create_dir_all(at("usr/share/tool/__pycache__")).expect("mkdir");
        fs::create_dir_all(at("usr/share/doc/tool")).expect("mkdir");
        for file in ["usr/bin/tool", "usr/share/tool/a.py", "usr/share/tool/__pycache__/a.cpython-311.pyc", "usr/share/doc/tool/README"] {
            fs::write(at(file), "x").expect("write");
        }
        fs::write(at("var/lib/dpkg/status"), STATUS_TEXT).expect("write");
        let list = "/.\n/bin\n/bin/tool\n/usr/share/tool\n/usr/share/tool/a.py\n/usr/share/doc/tool/README\n/gone\n";
        fs::write(at("var/lib/dpkg/info/tool:amd64.list"), list).expect("write");
        std::os::unix::fs::symlink("usr/bin", at("bin")).expect("link");
        let root = Root::new(dir.path());
        let dpkg = Dpkg::load(&root);
        (dir, dpkg, root)
    }

    #[test]
    fn closure_takes_alternatives_and_provides_but_not_essential_packages() {
        let (_dir, dpkg, _) = database();
        assert_eq!(dpkg.closure(&["tool".into()]), ["libc6", "libfoo1", "thing", "tool"]);
        assert_eq!(dpkg.closure(&["coreutils".into()]), ["coreutils"]);
        assert!(!dpkg.is_installed("gone"));
    }

    #[test]
    fn owners_are_found_across_merged_usr() {
        let (_dir, dpkg, _) = database();
        assert_eq!(dpkg.owners(&["/usr/bin/tool".into()]), ["tool"]);
        assert!(dpkg.owners(&["/usr/bin/too".into()]).is_empty());
    }

    #[test]
    fn package_files_come_with_byte_code_and_without_documentation() {
        let (_dir, dpkg, root) = database();
        let mut tree = Tree::default();
        dpkg.add_files(&mut tree, "tool", Programs::NotOfEssential);
        let has = |path: &str| tree.get(Path::new(path)).is_some();
        assert!(has("/usr/bin/tool") && has("/bin"));
        assert!(has("/usr/share/tool/__pycache__/a.cpython-311.pyc"));
        assert!(!has("/usr/share/doc"));
        assert!(root.metadata(Path::new("/bin/tool")).is_ok());
    }

    #[test]
    fn programs_of_essential_packages_come_only_when_named() {
        let (dir, dpkg, root) = database();
        fs::write(dir.path().join("usr/bin/ls"), "x").expect("write");
        fs::write(dir.path().join("var/lib/dpkg/info/coreutils.list"), "/.\n/bin/ls\n").expect("write");
        let has_ls = |programs| {
            let mut tree = Tree::default();
            dpkg.add_files(&mut tree, "coreutils", programs);
            tree.get(Path::new("/usr/bin/ls")).is_some()
        };
        assert!(!has_ls(Programs::NotOfEssential));
        assert!(has_ls(Programs::All));
        assert!(root.metadata(Path::new("/usr/bin/ls")).is_ok());
    }
}
