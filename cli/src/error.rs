//! Everything that can go wrong on the host, as one enum.
//!
//! Each variant says three things: the object concerned, the cause and what to do about it. `Display` prints
//! object and cause, [`Error::remedy`] the advice, [`Error::exit_code`] the status of the `oxv` process, which follows
//! `env(1)`, `timeout(1)` and the container tools: 127 not found, 126 found but not runnable, 125 a failure of oxv itself.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible operation in this program.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why `oxv` could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot find the program '{name}'{}", looked_in(.searched))]
    ProgramNotFound { name: String, searched: Vec<PathBuf> },
    #[error("cannot run '{}': it is a directory", .path.display())]
    Directory { path: PathBuf },
    #[error("cannot run '{}': it is not a regular file", .path.display())]
    NotRegular { path: PathBuf },
    #[error("cannot run '{}': it has no execute permission", .path.display())]
    NotExecutable { path: PathBuf },
    #[error("cannot read '{}': {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot run '{}': it is neither an ELF program nor a script that starts with '#!'", .path.display())]
    NotProgram { path: PathBuf },
    #[error("cannot run '{}': the ELF file is damaged ({cause})", .path.display())]
    BrokenElf { path: PathBuf, cause: String },
    #[error("cannot run '{}': it is built for {machine}, and oxv runs x86-64 programs", .path.display())]
    WrongMachine { path: PathBuf, machine: String },
    #[error("cannot run '{}': it is an ELF {kind}, not a program", .path.display())]
    NotRunnable { path: PathBuf, kind: String },
    #[error("cannot run '{}': its interpreter '{interpreter}' does not exist", .path.display())]
    MissingInterpreter { path: PathBuf, interpreter: String },
    #[error("cannot run '{}': the shared library '{name}', needed by '{}', was not found{}", .program.display(), .needed_by.display(), looked_in(.searched))]
    MissingLibrary { program: PathBuf, name: String, needed_by: PathBuf, searched: Vec<PathBuf> },
    #[error("cannot run '{}': more than {limit} scripts or symbolic links lead on from it", .path.display())]
    TooManyLevels { path: PathBuf, limit: usize },
    #[error("the Debian package '{name}' is not installed")]
    PackageMissing { name: String },
    #[error("cannot add '{}': {source}", .path.display())]
    CannotAdd { path: PathBuf, source: io::Error },
    #[error("cannot use '{}' as a root file system: {cause}", .path.display())]
    BadRootfs { path: PathBuf, cause: String },
    #[error("invalid {what} '{value}': {cause}")]
    BadValue { what: &'static str, value: String, cause: String },
    #[error("--memory {} is too small: this image ({}) needs at least {}", size(*.given), size(*.image), size(*.needed))]
    MemoryTooSmall { given: u64, image: u64, needed: u64 },
    #[error("'{}' is not a usable oxv image: {cause}", .path.display())]
    BadImage { path: PathBuf, cause: String },
    #[error("cannot {action} '{}': {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot find the oxv kernel{}", looked_in(.searched))]
    KernelMissing { searched: Vec<PathBuf> },
    #[error("cannot find the emulator '{name}'")]
    QemuMissing { name: String },
    #[error("cannot use KVM: {cause}")]
    NoKvm { cause: String },
    #[error("cannot start '{name}': {source}")]
    QemuStart { name: String, source: io::Error },
    #[error("the emulator '{name}' failed before the program ended ({status}){}", quoted(.stderr))]
    QemuFailed { name: String, status: String, stderr: String },
    #[error("the oxv kernel stopped before the program ended ({cause}){}", quoted(.console))]
    GuestDied { cause: String, console: String },
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: io::Error },
}

impl Error {
    /// The exit status `oxv` ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::ProgramNotFound { .. } | Error::MissingInterpreter { .. } | Error::MissingLibrary { .. } => 127,
            Error::Directory { .. }
            | Error::NotRegular { .. }
            | Error::NotExecutable { .. }
            | Error::Unreadable { .. }
            | Error::NotProgram { .. }
            | Error::BrokenElf { .. }
            | Error::WrongMachine { .. }
            | Error::NotRunnable { .. }
            | Error::TooManyLevels { .. } => 126,
            _ => 125,
        }
    }

    /// What the user can do about it, if there is something to say.
    pub(crate) fn remedy(&self) -> Option<String> {
        Some(match self {
            Error::ProgramNotFound { .. } => "check the spelling, install the program, or give its path".into(),
            Error::Directory { .. } => "name the program inside the directory; `--add DIR` puts a directory into the image".into(),
            Error::NotRegular { .. } => "name a program file".into(),
            Error::NotExecutable { path } => format!("if it is a program, run `chmod +x {}`", path.display()),
            Error::Unreadable { path, .. } => format!("make it readable for you (`chmod +r {}`), or run oxv as its owner", path.display()),
            Error::NotProgram { .. } => "give the program that reads this file first, as in `oxv run -- sh FILE`".into(),
            Error::BrokenElf { .. } => "copy or build the program again".into(),
            Error::WrongMachine { .. } => "build it for x86-64 (64-bit), or install the amd64 version of the package".into(),
            Error::NotRunnable { .. } => "name an executable; `file` says what a file is".into(),
            Error::MissingInterpreter { interpreter, .. } => missing_interpreter_remedy(interpreter),
            Error::MissingLibrary { name, .. } => {
                format!("install the package that has {name}, or name its directory with `--env LD_LIBRARY_PATH=DIR`")
            }
            Error::TooManyLevels { .. } => "look for a script or link that leads back to itself".into(),
            Error::PackageMissing { name } => format!("install it: apt-get install {name}"),
            Error::CannotAdd { .. } => "check the path given to --add (HOST[:GUEST])".into(),
            Error::BadRootfs { .. } => "--rootfs takes a directory or a tar file (.tar, .tar.gz) that holds a root file system".into(),
            Error::BadValue { .. } => "`oxv run --help` lists the options and their values".into(),
            Error::MemoryTooSmall { needed, .. } => format!("use `--memory {}` or more, or leave --memory out", size(*needed)),
            Error::BadImage { .. } => "make it again: oxv build -o FILE -- PROGRAM".into(),
            Error::KernelMissing { .. } => "build it with `cargo xtask build`, start oxv through the ./oxv script, or set OXV_KERNEL".into(),
            Error::QemuMissing { .. } => {
                "install it (Debian: apt-get install qemu-system-x86), or set OXV_QEMU to its path".into()
            }
            Error::NoKvm { .. } => "use `--accel auto`, which falls back to emulation".into(),
            Error::QemuFailed { .. } => "`oxv run --dry-run` prints the command that was run".into(),
            Error::GuestDied { .. } => "this is a bug in oxv; `--verbose` shows the whole kernel log".into(),
            Error::Io { .. } | Error::QemuStart { .. } | Error::System { .. } => return None,
        })
    }

    /// An I/O error with what was being done to which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// A system-call failure that concerns no file.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { action, source: source.into() }
    }
}

/// Bytes in the largest unit that divides well, in the form `--memory` accepts.
pub(crate) fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{}K", bytes.div_ceil(1024)),
        _ => format!("{}M", bytes.div_ceil(MIB)),
    }
}

fn looked_in(searched: &[PathBuf]) -> String {
    if searched.is_empty() {
        return String::new();
    }
    let list: Vec<_> = searched.iter().map(|p| p.display().to_string()).collect();
    format!(" (looked in {})", list.join(", "))
}

fn quoted(text: &str) -> String {
    if text.trim().is_empty() {
        return String::new();
    }
    let lines: Vec<_> = text.trim_end().lines().map(|l| format!("\n  | {l}")).collect();
    format!(":{}", lines.concat())
}

fn missing_interpreter_remedy(interpreter: &str) -> String {
    let hint = match interpreter {
        i if i.contains("ld-musl") => "apt-get install musl",
        i if i.contains("ld-linux-x86-64") => "apt-get install libc6",
        _ => "install the package that has it",
    };
    format!("{hint}, or correct the program's interpreter line")
}
