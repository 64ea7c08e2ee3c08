//! Compiles the programs of `tests/guest/`. A program is compiled again when its source is newer.

use crate::case::{Build, Program};
use crate::paths;
use crate::registry;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

/// Why a program is not there.
#[derive(Debug, Clone)]
pub enum Unavailable {
    /// A tool or an installed program is missing: its name and the Debian package that has it.
    Missing(String, &'static str),
    /// The compiler refused.
    Failed(String),
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(tool, package) => {
                write!(f, "missing tool: {tool} (apt-get install {package}); --allow-missing skips such tests")
            }
            Self::Failed(message) => f.write_str(message),
        }
    }
}

type Product = Arc<OnceLock<Result<PathBuf, Unavailable>>>;

/// The path of a program, compiled first if need be.
///
/// # Errors
/// When a tool is missing or the compiler fails.
pub fn program(program: &Program) -> Result<PathBuf, Unavailable> {
    match program {
        Program::Installed(path) => installed(path),
        Program::Source(source, build) => compiled(source, *build),
        Program::Registry(package) => registry::program(package),
    }
}

fn installed(path: &str) -> Result<PathBuf, Unavailable> {
    match Path::new(path).exists() {
        true => Ok(path.into()),
        false => Err(Unavailable::Missing(path.to_owned(), package(path))),
    }
}

/// Two threads may want the same program: one compiles, the other waits.
fn compiled(source: &'static str, build: Build) -> Result<PathBuf, Unavailable> {
    static PRODUCTS: OnceLock<Mutex<HashMap<(&'static str, Build), Product>>> = OnceLock::new();
    let product = {
        let mut products = PRODUCTS.get_or_init(Mutex::default).lock().expect("no panic while it is held");
        Arc::clone(products.entry((source, build)).or_default())
    };
    product.get_or_init(|| compile(source, build)).clone()
}

fn compile(source: &str, build: Build) -> Result<PathBuf, Unavailable> {
    let input = paths::guest_source(source);
    let stem = source.split('.').next().unwrap_or(source);
    let output = paths::guest_dir("bin").join(format!("{stem}-{}", suffix(build)));
    if is_current(&output, &input) {
        return Ok(output);
    }
    let mut command = compiler(build, &output);
    command.arg(&input);
    if matches!(build, Build::Dynamic | Build::NonPie | Build::Static | Build::StaticPie | Build::Cxx) {
        command.args(["-lpthread", "-lm"]);
    }
    let tool = command.get_program().to_string_lossy().into_owned();
    let result = command.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unavailable::Missing(tool.clone(), package(&tool)),
        _ => Unavailable::Failed(format!("cannot start {tool}: {error}")),
    })?;
    if !result.status.success() {
        return Err(Unavailable::Failed(format!("{tool} {source}:\n{}", String::from_utf8_lossy(&result.stderr))));
    }
    Ok(output)
}

fn compiler(build: Build, output: &Path) -> Command {
    const C: [&str; 3] = ["-O1", "-g", "-fno-omit-frame-pointer"];
    let (tool, flags): (&str, &[&str]) = match build {
        Build::Dynamic => ("gcc", &["-fPIE", "-pie"]),
        Build::NonPie => ("gcc", &["-fno-pie", "-no-pie"]),
        Build::Static => ("gcc", &["-fno-pie", "-static"]),
        Build::StaticPie => ("gcc", &["-fPIE", "-static-pie"]),
        Build::MuslStatic => ("musl-gcc", &["-static"]),
        Build::MuslDynamic => ("musl-gcc", &[]),
        Build::Cxx => ("g++", &["-std=c++20"]),
        Build::Rust => ("rustc", &["--edition", "2024", "-O", "-g", "-o"]),
        Build::Go => ("go", &["build", "-o"]),
    };
    let mut command = Command::new(tool);
    match build {
        Build::Rust => command.args(flags).arg(output),
        Build::Go => command.env("CGO_ENABLED", "0").args(flags).arg(output),
        _ => command.args(C).args(flags).arg("-o").arg(output),
    };
    command
}

fn suffix(build: Build) -> &'static str {
    match build {
        Build::Dynamic => "dynamic",
        Build::NonPie => "non-pie",
        Build::Static => "static",
        Build::StaticPie => "static-pie",
        Build::MuslStatic => "musl-static",
        Build::MuslDynamic => "musl-dynamic",
        Build::Cxx => "cxx",
        Build::Rust => "rust",
        Build::Go => "go",
    }
}

fn is_current(output: &Path, input: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let headers = ["check.h", "free_kib.h", "memory.h"].map(|header| modified(&paths::guest_source(header)).unwrap_or(SystemTime::UNIX_EPOCH));
    let header = headers[0].max(headers[1]);
    match (modified(output), modified(input)) {
        (Some(output), Some(input)) => output > input && output > header,
        _ => false,
    }
}

/// The Debian package that has a tool.
fn package(tool: &str) -> &'static str {
    match tool.rsplit('/').next().unwrap_or(tool) {
        "gcc" => "gcc",
        "g++" => "g++",
        "musl-gcc" => "musl-tools",
        "go" => "golang-go",
        "rustc" => "rustc",
        "busybox" => "busybox-static",
        "python3" => "python3",
        "perl" => "perl",
        "sqlite3" => "sqlite3",
        "lua5.4" | "lua" => "lua5.4",
        "ruby" => "ruby",
        "fio" => "fio",
        "stress-ng" => "stress-ng",
        _ => "coreutils",
    }
}
