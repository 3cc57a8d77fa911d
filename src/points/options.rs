//! The options of `points`.

use std::path::PathBuf;

use blockferry_control::catalog::{PointId, VmName};
use clap::{Args, Subcommand};

use crate::remote::HubOption;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  What there is of a VM:
    blockferry points --repository /backup --vm db1

  The newest point, for a script:
    blockferry points --repository /backup --vm db1 --json | jq -r '.points[-1].id'

  Those of a hub:
    blockferry points --hub http://127.0.0.1:10080 --token-file hub.token --vm db1

  Delete a point that no other stands on:
    blockferry points delete 01kat0h4m2f6q8r0s2 --repository /backup";

#[derive(Args, Debug)]
pub(crate) struct PointsOptions {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,

    /// The repository
    #[arg(long, value_name = "DIR", required_unless_present = "hub")]
    pub(crate) repository: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) remote: HubOption,

    /// Only those of this VM
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<VmName>,

    /// Print one JSON object to standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Delete a point with its files, if no other stands on it and nobody uses it
    Delete(DeleteOptions),
}

#[derive(Args, Debug)]
pub(crate) struct DeleteOptions {
    /// The point
    pub(crate) point: PointId,

    /// The repository
    #[arg(long, value_name = "DIR", required_unless_present = "hub")]
    pub(crate) repository: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) remote: HubOption,

    /// Print one JSON object to standard output at the end, also of a failure
    #[arg(long)]
    pub(crate) json: bool,
}
