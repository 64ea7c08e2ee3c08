//! Gathering: from a program name to a tree with everything the program needs and the way to start it.
//!
//! `program.rs` finds the file, `elf.rs` and `script.rs` say what it is, `ldso.rs` finds libraries, `dpkg.rs` the files of
//! Debian packages, `alternatives.rs` other names of their programs, `base.rs` what every image has, `add.rs` what the user
//! names; all fill one [`Tree`]. `image.rs` writes it.

mod add;
mod alternatives;
mod base;
mod dpkg;
pub(crate) mod elf;
mod ldcache;
mod ldso;
mod program;
mod rootfs;
mod script;
pub(crate) mod tree;

use std::collections::HashSet;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use self::dpkg::{Dpkg, Programs};
use self::elf::ElfError;
use self::ldso::{Linker, Missing};
use self::rootfs::Rootfs;
use self::tree::{Node, Root, Tree, absolute};
use crate::args::GatherArgs;
use crate::error::{Error, Result, size};
use crate::exec::{self, Exec};

const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const HOST_NAME: &str = "oxv";
/// As deep as Linux follows interpreters that are scripts themselves.
const MAX_SCRIPTS: usize = 5;
/// Parts of a language's library directory that programs do not use.
const PREFIX_UNWANTED: [&str; 4] = ["test", "idlelib", "lib2to3/tests", "ensurepip/_bundled"];
/// Static libraries, and byte code that only `python -O` reads.
const PREFIX_UNWANTED_ENDINGS: [&str; 4] = [".a", ".o", ".opt-1.pyc", ".opt-2.pyc"];
/// A larger `site-packages` of such a language is left out, with a note.
const SITE_PACKAGES_LIMIT: u64 = 128 << 20;

/// A program with everything it needs.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) tree: Tree,
    pub(crate) exec: Exec,
    /// For the user: what was left out, and with `--verbose` where things come from.
    pub(crate) notes: Vec<String>,
    pub(crate) details: Vec<String>,
    /// Keeps an unpacked `--rootfs` until the image is written.
    _rootfs: Option<Rootfs>,
}

/// Collects `command` (program and arguments) as `args` say.
///
/// # Errors
/// Everything the issue of a wrong program can be: see [`Error`].
pub(crate) fn gather(args: &GatherArgs, command: &[String]) -> Result<Gathered> {
    let rootfs = args.rootfs.as_deref().map(Rootfs::open).transpose()?;
    let root = Root::new(rootfs.as_ref().map_or(Path::new("/"), Rootfs::path));
    let host_cwd = std::env::current_dir().map_err(Error::system("find the current directory"))?;
    let default_cwd = if root.is_host() { host_cwd.clone() } else { PathBuf::from("/") };
    let cwd = args.cwd.as_ref().map_or(default_cwd.clone(), |dir| absolute(&default_cwd, dir));
    let env = environment(&args.env, &cwd)?;
    let mut gatherer = Gatherer::new(root, env, cwd);
    gatherer.run(args, command, &host_cwd)?;
    let Gatherer { tree, exec, notes, details, .. } = gatherer;
    Ok(Gathered { tree, exec, notes, details, _rootfs: rootfs })
}

/// The program's environment: a small clean one, then what `--env` says.
fn environment(options: &[String], cwd: &Path) -> Result<Vec<String>> {
    let mut env: Vec<(String, String)> = [("PATH", GUEST_PATH), ("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root"), ("LANG", "C.UTF-8")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    env.push(("PWD".into(), cwd.display().to_string()));
    if std::io::stdout().is_terminal() {
        env.push(("TERM".into(), std::env::var("TERM").unwrap_or_else(|_| "linux".into())));
    }
    for option in options {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (option.as_str(), std::env::var(option).ok()),
        };
        if key.is_empty() || key.contains('\0') {
            return Err(Error::BadValue { what: "--env value", value: option.clone(), cause: "it must be KEY=VALUE or KEY".into() });
        }
        env.retain(|(k, _)| k != key);
        env.extend(value.map(|value| (key.to_owned(), value)));
    }
    Ok(env.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
}

struct Gatherer {
    root: Root,
    tree: Tree,
    linker: Linker,
    dpkg: Dpkg,
    exec: Exec,
    /// Packages whose files are in the tree.
    packages: HashSet<String>,
    notes: Vec<String>,
    details: Vec<String>,
}

impl Gatherer {
    fn new(root: Root, env: Vec<String>, cwd: PathBuf) -> Gatherer {
        let exec = Exec {
            argv: Vec::new(),
            env,
            cwd: cwd.display().to_string(),
            exe: String::new(),
            uid: 0,
            gid: 0,
            hostname: HOST_NAME.into(),
        };
        Gatherer {
            linker: Linker::new(&root, &exec.env),
            dpkg: Dpkg::load(&root),
            tree: Tree::default(),
            packages: HashSet::new(),
            notes: Vec::new(),
            details: Vec::new(),
            exec,
            root,
        }
    }

    fn run(&mut self, args: &GatherArgs, command: &[String], host_cwd: &Path) -> Result<()> {
        let path_variable = self.search_path(&args.env);
        let cwd = if self.root.is_host() { host_cwd.to_owned() } else { PathBuf::from(&self.exec.cwd) };
        let name = command.first().map_or("", String::as_str);
        let program = program::find(&self.root, &cwd, &path_variable, name)?;
        self.add_base(args)?;
        self.exec.argv = command.to_vec();
        self.add_program(program, &cwd, &path_variable)?;
        self.add_named(args, command, host_cwd)?;
        alternatives::add(&mut self.tree, &self.root);
        let guest_cwd = PathBuf::from(&self.exec.cwd);
        // A link on the way to the current directory stays one.
        let _ = self.root.is_host().then(|| self.tree.add(&self.root, &guest_cwd));
        self.tree.make_directories(&guest_cwd);
        self.tree.insert(Path::new(exec::PATH), Node::bytes(self.exec.to_json(), 0o644));
        Ok(())
    }

    /// The PATH to find the program with: `--env PATH=…`, on this machine the caller's, in a root file system the guest's.
    fn search_path(&self, env: &[String]) -> String {
        let given = env.iter().find_map(|e| e.strip_prefix("PATH="));
        let own = || std::env::var("PATH").ok().filter(|_| self.root.is_host());
        given.map(String::from).or_else(own).unwrap_or_else(|| GUEST_PATH.into())
    }

    fn add_base(&mut self, args: &GatherArgs) -> Result<()> {
        if let Some(path) = args.rootfs.as_deref() {
            let whole = self.tree.add_recursive(&self.root.host(Path::new("/")), Path::new("/"));
            whole.map_err(|e| Error::BadRootfs { path: path.to_owned(), cause: e.to_string() })?;
        }
        base::add(&mut self.tree, &self.root, HOST_NAME);
        let term = self.exec.env.iter().find_map(|e| e.strip_prefix("TERM=")).unwrap_or_default().to_owned();
        base::add_terminfo(&mut self.tree, &self.root, &term);
        Ok(())
    }

    fn add_named(&mut self, args: &GatherArgs, command: &[String], host_cwd: &Path) -> Result<()> {
        for name in &args.package {
            if !self.dpkg.is_installed(name) {
                return Err(Error::PackageMissing { name: name.clone() });
            }
            self.add_packages(std::slice::from_ref(name), Programs::All);
        }
        if !args.no_auto_add && self.root.is_host() {
            let arguments = command.get(1..).unwrap_or_default();
            self.notes.extend(add::add_arguments(&mut self.tree, &self.root, host_cwd, arguments));
        }
        for option in &args.add {
            add::add_option(&mut self.tree, &self.root, host_cwd, option)?;
        }
        Ok(())
    }

    /// Adds the program to start, following `#!` lines, and completes `exec`.
    fn add_program(&mut self, program: PathBuf, cwd: &Path, path_variable: &str) -> Result<()> {
        let mut program = program;
        for _ in 0..MAX_SCRIPTS {
            let Some(shebang) = self.add_executable(&program)? else {
                self.exec.exe = program.display().to_string();
                return Ok(());
            };
            if let Some(target) = shebang.env_target() {
                let target = program::find(&self.root, cwd, path_variable, target)?;
                self.add_env_target(&target)?;
            }
            let arguments = self.exec.argv.split_off(1.min(self.exec.argv.len()));
            self.exec.argv = shebang.argv(&program.display().to_string(), &arguments);
            program = self.interpreter_of(&program, &shebang.interpreter)?;
        }
        Err(Error::TooManyLevels { path: program, limit: MAX_SCRIPTS })
    }

    fn interpreter_of(&self, script: &Path, interpreter: &str) -> Result<PathBuf> {
        let missing = || Error::MissingInterpreter { path: script.to_owned(), interpreter: interpreter.to_owned() };
        match program::find(&self.root, Path::new("/"), "", &absolute(Path::new("/"), Path::new(interpreter)).display().to_string()) {
            Err(Error::ProgramNotFound { .. }) => Err(missing()),
            found => found,
        }
    }

    /// Adds what `env` will start; where the guest's PATH does not lead to it, its directory is put in front.
    fn add_env_target(&mut self, target: &Path) -> Result<()> {
        self.add_executable(target)?;
        let directory = target.parent().unwrap_or(Path::new("/")).display().to_string();
        if let Some(path) = self.exec.env.iter_mut().find(|e| e.starts_with("PATH="))
            && !path["PATH=".len()..].split(':').any(|d| d == directory)
        {
            *path = format!("PATH={directory}:{}", &path["PATH=".len()..]);
        }
        Ok(())
    }

    /// Adds one executable file with its libraries and package; for a script returns its `#!` line.
    fn add_executable(&mut self, program: &Path) -> Result<Option<script::Shebang>> {
        let unreadable = |source| Error::Unreadable { path: program.to_owned(), source };
        let real = self.tree.add(&self.root, program).map_err(unreadable)?;
        let host = self.root.host(&real);
        let shebang = match elf::parse(File::open(&host).map_err(unreadable)?) {
            Ok(elf) if !elf.loadable => {
                return Err(Error::NotRunnable { path: program.to_owned(), kind: "object or core file".into() });
            }
            Ok(elf) => {
                self.linker.add_closure(&mut self.tree, &real, elf, Missing::Fail)?;
                None
            }
            Err(ElfError::NotElf) => {
                let start = read_start(&host).map_err(unreadable)?;
                Some(script::parse(&start).ok_or_else(|| Error::NotProgram { path: program.to_owned() })?)
            }
            Err(ElfError::Machine(machine)) => return Err(Error::WrongMachine { path: program.to_owned(), machine }),
            Err(ElfError::Broken(cause)) => return Err(Error::BrokenElf { path: program.to_owned(), cause }),
            Err(ElfError::Io(source)) => return Err(unreadable(source)),
        };
        self.add_surroundings(program, &real);
        Ok(shebang)
    }

    /// Adds the program's package, or, where none owns it, its language's library directory.
    fn add_surroundings(&mut self, program: &Path, real: &Path) {
        let mut packages = self.dpkg.owners(&self.links_between(program, real));
        // `perl` belongs to perl-base, but who has the package perl expects its modules.
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        if !packages.is_empty() && self.dpkg.is_installed(&name) && !packages.iter().any(|p| *p == *name) {
            packages.push(name.into_owned());
        }
        if packages.is_empty() {
            self.add_prefix_library(real);
        } else {
            self.add_packages(&packages, Programs::NotOfEssential);
            self.add_shell();
        }
    }

    /// What system(3) and popen(3) start. Debian's programs may rely on it without a dependency (Debian Policy §3.8).
    fn add_shell(&mut self) {
        if let Ok(real) = self.tree.add(&self.root, Path::new("/bin/sh")) {
            self.add_library(&real);
        }
    }

    /// `program`, the links it leads through, and `real`.
    fn links_between(&self, program: &Path, real: &Path) -> Vec<PathBuf> {
        let mut paths = vec![program.to_owned()];
        let mut here = program.to_owned();
        while let Some(Node { kind: tree::Kind::Symlink(target), .. }) = self.tree.get(&here)
            && paths.len() < 10
        {
            here = absolute(here.parent().unwrap_or(Path::new("/")), target);
            paths.push(here.clone());
        }
        paths.push(real.to_owned());
        paths
    }

    /// Adds packages and what they depend on; `programs` says which programs of the packages named.
    fn add_packages(&mut self, names: &[String], programs: Programs) {
        let closure = self.dpkg.closure(names);
        for package in closure {
            let programs = if names.contains(&package) { programs } else { Programs::NotOfEssential };
            // A package may have come along without its programs before the user names it.
            if self.packages.insert(package.clone()) || programs == Programs::All {
                let files = self.dpkg.add_files(&mut self.tree, &package, programs);
                self.details.push(format!("package {package}"));
                files.iter().for_each(|file| self.add_library(file));
            }
        }
    }

    /// If `path` is an ELF file, adds the libraries it needs; a package's plug-ins may need what is not installed.
    fn add_library(&mut self, path: &Path) {
        let host = self.root.host(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let executable = || std::fs::metadata(&host).is_ok_and(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o111 != 0);
        if !(name.contains(".so") || executable()) || !host.is_file() {
            return;
        }
        if let Some(elf) = File::open(&host).ok().and_then(|file| elf::parse(file).ok()) {
            // With `Ignore` only the interpreter can be missing, and then the file cannot be used anyway.
            let _ = self.linker.add_closure(&mut self.tree, path, elf, Missing::Ignore);
        }
    }

    /// For a program `PREFIX/bin/NAME` outside the package system: `PREFIX/lib/NAME*`, as for pythonX.Y, ruby, perl5.
    fn add_prefix_library(&mut self, real: &Path) {
        let (Some(name), Some(bin)) = (real.file_name().and_then(|n| n.to_str()), real.parent()) else { return };
        let Some(library) = bin.parent().filter(|_| bin.ends_with("bin")).map(|prefix| prefix.join("lib")) else { return };
        let Ok(entries) = std::fs::read_dir(self.root.host(&library)) else { return };
        for entry in entries.filter_map(|e| e.ok()) {
            if entry.path().is_dir() && entry.file_name().to_string_lossy().starts_with(name) {
                self.add_prefix_directory(&library.join(entry.file_name()));
            }
        }
    }

    fn add_prefix_directory(&mut self, directory: &Path) {
        // It was listed just now; unreadable parts are left out.
        let _ = self.tree.add(&self.root, directory);
        let _ = self.tree.add_recursive(&self.root.host(directory), directory);
        for unwanted in PREFIX_UNWANTED {
            self.tree.remove(&directory.join(unwanted));
        }
        self.tree.remove_endings(directory, &PREFIX_UNWANTED_ENDINGS);
        self.limit_site_packages(&directory.join("site-packages"));
        self.details.push(format!("directory {}", directory.display()));
        let files: Vec<PathBuf> = self.tree.files_below(directory).map(Path::to_owned).collect();
        files.iter().filter(|f| f.to_string_lossy().contains(".so")).for_each(|file| self.add_library(file));
    }

    /// Installed add-on packages come along unless they are so many that every start would be slow.
    fn limit_site_packages(&mut self, directory: &Path) {
        let total = self.tree.size_below(directory);
        if total > SITE_PACKAGES_LIMIT {
            self.tree.remove(directory);
            let path = directory.display();
            self.notes.push(format!("leaving out {path} ({}); add what is needed with `--add {path}/NAME`", size(total)));
        }
    }
}

fn read_start(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(256).read_to_end(&mut start)?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_options_replace_defaults_and_take_over_the_callers() {
        let options = ["HOME=/x".to_owned(), "OXV_TEST_UNSET".to_owned(), "A=b=c".to_owned()];
        let env = environment(&options, Path::new("/w")).expect("environment");
        assert!(env.contains(&"HOME=/x".into()) && env.contains(&"A=b=c".into()) && env.contains(&"PWD=/w".into()));
        assert!(!env.iter().any(|e| e.starts_with("OXV_TEST_UNSET") || e == "HOME=/root"));
        assert!(environment(&["=x".into()], Path::new("/")).is_err());
    }
}
