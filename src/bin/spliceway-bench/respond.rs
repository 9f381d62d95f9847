//! `spliceway-bench respond`

/// What `respond` can be told.
#[derive(clap::Args)]
pub(crate) struct RespondArgs {}

/// Does it.
pub(crate) fn run(_args: RespondArgs) -> anyhow::Result<()> {
    anyhow::bail!("respond: not there yet")
}
