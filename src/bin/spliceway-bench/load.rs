//! `spliceway-bench load`

/// What `load` can be told.
#[derive(clap::Args)]
pub(crate) struct LoadArgs {}

/// Does it.
pub(crate) fn run(_args: LoadArgs) -> anyhow::Result<()> {
    anyhow::bail!("load: not there yet")
}
