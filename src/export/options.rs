//! The options of `export`.

use std::path::PathBuf;

use blockferry_control::catalog::{DiskName, PointId};
use blockferry_control::hub::NodeName;
use clap::Args;

use crate::reading::RepositoryOption;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Serve all disks of a point, and look into one from another terminal:
    blockferry export 01kat0h4m2f6q8r0s2 --repository /backup
    nbdcopy nbd://127.0.0.1:10100/root root.raw

  Start a virtual machine from a point; what it writes is thrown away:
    blockferry export 01kat0h4m2f6q8r0s2 --repository /backup --disk root --writable

  Have a hub serve it, on its own ports:
    blockferry export 01kat0h4m2f6q8r0s2 --hub http://127.0.0.1:10080 --token-file hub.token

  For this user alone:
    blockferry export 01kat0h4m2f6q8r0s2 --repository /backup --socket-dir \"$XDG_RUNTIME_DIR\"";

#[derive(Args, Debug)]
pub(crate) struct ExportOptions {
    /// The point, as `points` lists it
    pub(crate) point: PointId,

    #[command(flatten)]
    pub(crate) repository: RepositoryOption,

    /// Have the hub lease its ports for this node, so that they are reached on the node's machine,
    /// where `node serve --ports` leads to them
    #[arg(long, value_name = "NODE", requires = "hub", help_heading = "A hub")]
    pub(crate) node: Option<NodeName>,

    /// Only this disk; repeat it for more
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Vec<DiskName>,

    /// Let clients write; what they write is thrown away at the end
    #[arg(long)]
    pub(crate) writable: bool,

    /// Listen on Unix sockets in this folder, which only this user can reach
    #[arg(long, value_name = "DIR", conflicts_with_all = ["port", "hub"])]
    pub(crate) socket_dir: Option<PathBuf>,

    /// The first port of 127.0.0.1 that is tried; each disk takes the next free one. A hub leases
    /// its own
    #[arg(
        long, value_name = "N", default_value = "10100", conflicts_with = "hub",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub(crate) port: u16,

    /// Print one JSON object to standard output when all are ready, or when that failed
    #[arg(long)]
    pub(crate) json: bool,

    /// Say what is done and why
    #[arg(short, long)]
    pub(crate) verbose: bool,
}
