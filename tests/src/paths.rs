//! Where sources, products and logs are.

use std::path::{Path, PathBuf};

/// `tests/` in the repository.
#[must_use]
pub fn tests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A source file below `tests/guest`.
#[must_use]
pub fn guest_source(name: &str) -> PathBuf {
    tests().join("guest").join(name)
}

/// Cargo's target directory.
#[must_use]
pub fn target() -> PathBuf {
    let root = tests().parent().map(Path::to_path_buf).unwrap_or_default();
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

/// `target/guest/KIND`, created: compiled programs, data files, logs.
///
/// # Panics
/// When it cannot be created.
#[must_use]
pub fn guest_dir(kind: &str) -> PathBuf {
    let dir = target().join("guest").join(kind);
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    dir
}

/// The `oxv` program to test.
#[must_use]
pub fn oxv() -> PathBuf {
    std::env::var_os("OXV").map_or_else(|| target().join("release/oxv"), PathBuf::from)
}
