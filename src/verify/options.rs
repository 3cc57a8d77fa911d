//! The options of `verify`.

use blockferry_control::catalog::{DiskName, PointId};
use clap::Args;

use crate::backup::{Named, named};
use crate::lane_options::{LaneOptions, OutputOptions};
use crate::reading::RepositoryOption;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Whether a point still is what was backed up:
    blockferry verify 01kat0h4m2f6q8r0s2 --repository /backup

  All points of a repository, for cron:
    blockferry verify --all --repository /backup --json

  The same, by the hub that has the repository:
    blockferry verify 01kat0h4m2f6q8r0s2 --hub http://127.0.0.1:10080 --token-file hub.token

  Whether a disk of a point equals a source that is served now:
    blockferry verify 01kat0h4m2f6q8r0s2 --repository /backup --against root=nbd://esx/root";

#[derive(Args, Debug)]
pub(crate) struct VerifyOptions {
    /// The point, as `points` lists it
    #[arg(required_unless_present = "all")]
    pub(crate) point: Option<PointId>,

    /// All points of the repository, each read as a whole; each image is checked once
    #[arg(long, conflicts_with_all = ["point", "disk", "against"])]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) repository: RepositoryOption,

    /// Only this disk; repeat it for more
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Vec<DiskName>,

    /// Compare a disk with a live source too, as NAME=SOURCE: an NBD URI, a file or a block device
    ///
    /// It is read as a whole, and must not change meanwhile.
    #[arg(long, value_name = "NAME=SOURCE", value_parser = named)]
    pub(crate) against: Vec<Named>,

    #[command(flatten)]
    pub(crate) lane: LaneOptions,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}
