//! Programs from the Rust registry, built into `target/guest/registry`.

use crate::paths;
use crate::toolchain::Unavailable;
use std::path::PathBuf;
use std::process::Command;

/// The program of a crate: `NAME@VERSION`.
///
/// # Errors
/// When cargo cannot fetch or build it.
pub fn program(package: &str) -> Result<PathBuf, Unavailable> {
    let root = paths::guest_dir("registry");
    let program = root.join("bin").join(package.split('@').next().unwrap_or(package));
    if program.exists() {
        return Ok(program);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "--quiet", "--locked", "--root"]).arg(&root).arg(package);
    // The compiler flags of whoever runs the tests are not for it.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_TARGET_DIR", root.join("target"));
    let result = cargo.output().map_err(|error| Unavailable::Failed(format!("cannot start cargo: {error}")))?;
    if !result.status.success() {
        return Err(Unavailable::Failed(format!("cargo install {package}:\n{}", String::from_utf8_lossy(&result.stderr))));
    }
    // What is left of it is of no use, and much.
    let _removed = std::fs::remove_dir_all(root.join("target"));
    Ok(program)
}
