//! The options of `restore`.

use std::ffi::OsString;

use blockferry_control::catalog::{DiskName, PointId};
use blockferry_control::hub::NodeName;
use blockferry_control::reading::DiskFormat;
use clap::Args;

use crate::lane_options::{LaneOptions, OutputOptions};
use crate::reading::RepositoryOption;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  All disks of a point as raw files (root.raw, data.raw) of exactly their sizes:
    blockferry restore 01kat0h4m2f6q8r0s2 --repository /backup --to /restored

  All disks of a point of a hub, into files here:
    blockferry restore 01kat0h4m2f6q8r0s2 --hub http://127.0.0.1:10080 --token-file hub.token \\
        --to /restored

  One disk, as an image for a virtual machine:
    blockferry restore 01kat0h4m2f6q8r0s2 --repository /backup --disk root --format qcow2 \\
        --to /var/lib/images

  One disk over an NBD export or a block device that is as large, or larger:
    blockferry restore 01kat0h4m2f6q8r0s2 --repository /backup --disk root --to nbd://host/root
    blockferry restore 01kat0h4m2f6q8r0s2 --repository /backup --disk root --to /dev/vg/root";

#[derive(Args, Debug)]
pub(crate) struct RestoreOptions {
    /// The point, as `points` lists it
    pub(crate) point: PointId,

    #[command(flatten)]
    pub(crate) repository: RepositoryOption,

    /// Have the hub lease its ports for this node, so that they are reached on the node's machine,
    /// where `node serve --ports` leads to them
    #[arg(long, value_name = "NODE", requires = "hub", help_heading = "A hub")]
    pub(crate) node: Option<NodeName>,

    /// A folder, which is made if it is not there; or for one disk an NBD URI or a block device
    #[arg(long, value_name = "DIR|URI|DEVICE")]
    pub(crate) to: OsString,

    /// Only this disk; repeat it for more
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Vec<DiskName>,

    /// raw, or qcow2 (whose size qemu rounds up to 512 bytes); of files
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<DiskFormat>,

    /// Replace files that are there; the old one stays until the new one is whole
    #[arg(long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) lane: LaneOptions,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}
