//! `cargo xtask abi`: writes doc/linux-abi.md, the coverage of Linux's system calls, from `linux/src/table.rs`.
//!
//! The generator is a test of `libs/linux-abi`, so that `cargo test` notices when the page is out of date; here it is asked to
//! write instead of to compare.

use crate::run;
use anyhow::Result;

/// Writes the page.
///
/// # Errors
/// When the table cannot be read or the page not be written.
pub(crate) fn command() -> Result<()> {
    run::check(run::cargo().args(["test", "--quiet", "--package", "linux-abi", "--test", "coverage"]).env("UPDATE_DOC", "1"))
}
