//! `cargo xtask soak`.
/// Options.
#[derive(clap::Args, Default)]
pub(crate) struct Options {}
/// Runs it.
pub(crate) fn command(_: &Options) -> anyhow::Result<()> { anyhow::bail!("not written yet") }
