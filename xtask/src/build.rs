//! `cargo xtask build`: the kernel image.
//!
//! The kernel is one more binary for the host's target, but with its own compiler flags (`image/kernel.toml`), profile
//! and target directory, in a cargo invocation of its own: features of host tools must not leak into its
//! dependency graph.

use crate::{paths, run};
use anyhow::Result;
use std::path::PathBuf;

/// The compiler target; given explicitly so that the flags do not reach build scripts.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The kernel's compiler flags, as a cargo configuration.
pub(crate) const CONFIG: &str = "image/kernel.toml";

/// Options of `cargo xtask build`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Build with the incremental `kernel-dev` profile instead of `kernel`.
    #[arg(long)]
    pub dev: bool,
}

/// Builds and prints the path.
pub(crate) fn command(options: &Options) -> Result<()> {
    println!("{}", kernel(options)?.display());
    Ok(())
}

/// Builds the kernel and returns the path of the ELF file.
///
/// # Errors
/// When the compiler fails.
pub(crate) fn kernel(options: &Options) -> Result<PathBuf> {
    let profile = if options.dev { "kernel-dev" } else { "kernel" };
    let target_dir = paths::target().join("kernel");
    let mut cargo = run::cargo();
    if options.dev {
        // Nobody looks at this kernel's instructions: it makes no brief calls (linux/src/brief.rs).
        cargo.env("OXV_UNPROVEN", "1");
    }
    run::check(
        cargo
            .args(["build", "--package", "image", "--bin", "oxv-kernel"])
            .args(["--profile", profile, "--target", TARGET])
            .arg("--target-dir")
            .arg(&target_dir)
            .args(["--config", CONFIG]),
    )?;
    Ok(target_dir.join(TARGET).join(profile).join("oxv-kernel"))
}
