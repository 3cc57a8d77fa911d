//! The options of `backup`.

use std::path::PathBuf;

use blockferry_control::catalog::{BackupMode, DiskName, VmName};
use blockferry_control::hub::NodeName;
use clap::Args;

use crate::exit::Refusal;
use crate::lane_options::{LaneOptions, OutputOptions};
use crate::remote::HubOption;
use crate::vcenter::{ServerOptions, SnapshotOptions, VddkOptions};

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Back up a VM of two disks; the first time in full, later what differs from the last point:
    blockferry backup --vm db1 --disk root=nbd://esx/root --disk data=nbd://esx/data \\
        --repository /backup

  Send only what is known to have changed since the last point:
    blockferry backup --vm db1 --disk root=nbd://esx/root --changed root=areas.json \\
        --repository /backup
    blockferry backup --vm db1 --disk root=nbd://kvm/root --bitmap root=daily \\
        --repository /backup --mode incremental

  Back up a VM of a vCenter, all disks by one snapshot, changed blocks by CBT:
    blockferry backup --vm db1 --vcenter vc.example --vcenter-user backup@vsphere.local \\
        --vcenter-password-file vc.password --vcenter-thumbprint AA:BB:... \\
        --vddk-libdir /opt/vmware-vix-disklib-distrib --repository /backup

  Have a hub do it; its token is in a file, or in $BLOCKFERRY_TOKEN:
    blockferry backup --vm db1 --disk root=nbd://esx/root --hub http://127.0.0.1:10080 \\
        --token-file hub.token

  Have a node of the hub read it, near the VMs:
    blockferry backup --vm db1 --disk root=nbd://esx/root --hub http://127.0.0.1:10080 \\
        --token-file hub.token --node esx-rack2

  Have a node of the hub back up a VM of its vCenter:
    blockferry backup --vm db1 --hub http://127.0.0.1:10080 --token-file hub.token \\
        --node esx-rack2 --quiesce require

  For a script:
    blockferry backup --vm db1 --disk root=nbd://esx/root --repository /backup --json";

#[derive(Args, Debug)]
pub(crate) struct BackupOptions {
    /// Name of the VM; of a VM of a vCenter, or of a node's, also its path, UUID or moref
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: String,

    /// What the VM is called in the repository, if not as it is
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<VmName>,

    /// A disk of it, as NAME=SOURCE; once for each. SOURCE is an NBD URI, a file or a block device
    ///
    /// It must not change while it is read: serve a snapshot. A disk is known by its name: the
    /// next backup of the same name continues its chain.
    #[arg(long, value_name = "NAME=SOURCE", required_unless_present_any = ["vcenter", "node"],
        conflicts_with = "vcenter", value_parser = named)]
    pub(crate) disk: Vec<Named>,

    /// The repository; an empty or new folder becomes one
    #[arg(long, value_name = "DIR", required_unless_present = "hub")]
    pub(crate) repository: Option<PathBuf>,

    /// auto: what has changed, where that can be told, else all; full; or incremental: or fail
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) mode: BackupMode,

    /// What has changed on a disk since its last point, as NAME=FILE: JSON as copy --changed takes
    ///
    /// Whoever gives it vouches for it: a change that it does not name is lost.
    #[arg(long, value_name = "NAME=FILE", value_parser = named)]
    pub(crate) changed: Vec<Named>,

    /// The dirty bitmap of a source that marks what has changed since the last point; a source
    /// without it is compared with the digests of that point
    #[arg(long, value_name = "NAME=BITMAP", value_parser = named)]
    pub(crate) bitmap: Vec<Named>,

    #[command(flatten)]
    pub(crate) remote: HubOption,

    /// Have this node of the hub read the disks, whose sources are named as the node sees them
    ///
    /// Without --disk the VM is one of the node's vCenter; --quiesce, --enable-cbt and --cbt-audit are
    /// then what this backup has otherwise than the node's options say.
    #[arg(long, value_name = "NODE", requires = "hub", help_heading = "A hub")]
    pub(crate) node: Option<NodeName>,

    #[command(flatten)]
    pub(crate) server: ServerOptions,

    #[command(flatten)]
    pub(crate) snapshot: SnapshotOptions,

    #[command(flatten)]
    pub(crate) vddk: VddkOptions,

    #[command(flatten)]
    pub(crate) lane: LaneOptions,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

impl BackupOptions {
    /// Refuses what is about a VM of a vCenter, where this command asks none: what a node can be told
    /// of one of its VMs is all that is left then.
    ///
    /// # Errors
    /// Wrong usage.
    pub(super) fn refuse_for_other_sources(&self) -> anyhow::Result<()> {
        if !self.vddk.is_plain() {
            return Err(Refusal::usage(
                "--nbdkit, --vddk-libdir and the like are about a vCenter that is named with --vcenter; \
                 those of a node are options of its `node serve`",
            ));
        }
        let is_of_node = self.node.is_some() && self.disk.is_empty();
        if self.name.is_some() && !is_of_node {
            return Err(Refusal::usage(
                "--as is about a VM of a vCenter: name that with --vcenter, or its node with --node \
                 and no --disk",
            ));
        }
        if !self.snapshot.is_choice() {
            return Err(Refusal::usage(
                "--quiesce-deadline, --max-disks-per-host, --max-nfc-connections and \
                 --max-snapshots-per-datastore are about a vCenter that is named with --vcenter; \
                 those of a node are options of its `node serve`",
            ));
        }
        if is_of_node || self.snapshot.choice().is_none() {
            return Ok(());
        }
        Err(Refusal::usage(
            "--quiesce, --enable-cbt and --cbt-audit are about a VM of a vCenter: name that with \
             --vcenter, or its node with --node and no --disk",
        ))
    }
}

/// Something of a disk, as `NAME=VALUE`.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) disk: DiskName,
    pub(crate) value: String,
}

pub(crate) fn named(text: &str) -> Result<Named, String> {
    let (disk, value) = text
        .split_once('=')
        .filter(|(_, value)| !value.is_empty())
        .ok_or("write the name of a disk, an equals sign, and what belongs to it")?;
    let disk =
        disk.parse().map_err(|error: blockferry_control::catalog::ValueError| error.to_string())?;
    Ok(Named { disk, value: value.to_owned() })
}
