//! `cargo xtask test`.
/// Options.
#[derive(clap::Args, Default)]
pub(crate) struct Options {}
/// Filter.
#[derive(clap::Args, Default)]
pub(crate) struct Filter {}
/// Runs it.
pub(crate) fn command(_: &Options) -> anyhow::Result<()> { anyhow::bail!("not written yet") }
/// Runs it.
pub(crate) fn loom(_: &Filter) -> anyhow::Result<()> { anyhow::bail!("not written yet") }
/// Runs it.
pub(crate) fn guest(_: &Options) -> anyhow::Result<()> { anyhow::bail!("not written yet") }
