//! The options of `restore`.

use std::ffi::OsString;

use blockferry_control::catalog::{DiskName, PointId};
use blockferry_control::hub::NodeName;
use blockferry_control::reading::DiskFormat;
use blockferry_control::snapshots::{DiskController, Firmware};
use clap::Args;

use crate::lane_options::{LaneOptions, OutputOptions};
use crate::reading::RepositoryOption;
use crate::vcenter::{BudgetOptions, ServerOptions, VddkOptions};

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
    blockferry restore 01kat0h4m2f6q8r0s2 --repository /backup --disk root --to /dev/vg/root

  All disks over those of a VM of a vCenter, which is off and has no snapshot:
    blockferry restore 01kat0h4m2f6q8r0s2 --repository /backup --to vsphere --vm db1 \\
        --vcenter vc.example --vcenter-user restore@vsphere.local \\
        --vcenter-password-file vc.password --vcenter-thumbprint AA:BB:... \\
        --vddk-libdir /opt/vmware-vix-disklib-distrib

  All disks as those of a new VM, beside the old one where that is still there:
    blockferry restore 01kat0h4m2f6q8r0s2 --repository /backup --to vsphere --new-vm db1-restored \\
        --vcenter vc.example --vcenter-user restore@vsphere.local \\
        --vcenter-password-file vc.password --vcenter-thumbprint AA:BB:... \\
        --vddk-libdir /opt/vmware-vix-disklib-distrib --datastore ssd1";

/// A VM that is there.
const VM: &str = "A VM (--to vsphere)";
/// One that is made.
const NEW_VM: &str = "A new VM (--to vsphere)";

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

    /// A folder, which is made if it is not there; for one disk an NBD URI or a block device; or
    /// `vsphere`, with --vm or --new-vm
    #[arg(long, value_name = "DIR|URI|DEVICE|vsphere")]
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
    pub(crate) vm: VmOptions,

    #[command(flatten)]
    pub(crate) server: ServerOptions,

    #[command(flatten)]
    pub(crate) vddk: VddkOptions,

    #[command(flatten)]
    pub(crate) budgets: BudgetOptions,

    #[command(flatten)]
    pub(crate) lane: LaneOptions,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

/// The VM that disks are restored into.
#[derive(Args, Clone, Debug)]
pub(crate) struct VmOptions {
    /// A VM that is there, by name, path, UUID or moref; its disks are written over
    ///
    /// It has to be off, and without snapshots. Disks are matched by their UUIDs, or by device where
    /// one is unknown, and have to be of the same size.
    #[arg(long, value_name = "VM", help_heading = VM, conflicts_with = "new_vm")]
    pub(crate) vm: Option<String>,

    /// A VM that is made, and stays off; it is removed if not all of its disks come to be right
    ///
    /// What is not said of it is as with the VM that was backed up, where that is still there. It has
    /// no network adapter.
    #[arg(long, value_name = "NAME", value_parser = name_of_new_vm, help_heading = NEW_VM)]
    pub(crate) new_vm: Option<String>,

    /// Its folder, by name or path
    #[arg(long, value_name = "FOLDER", help_heading = NEW_VM)]
    pub(crate) folder: Option<String>,

    /// Its host
    #[arg(long, value_name = "HOST", help_heading = NEW_VM)]
    pub(crate) host: Option<String>,

    /// The datastore of its disks
    #[arg(long, value_name = "DATASTORE", help_heading = NEW_VM)]
    pub(crate) datastore: Option<String>,

    /// Its resource pool; by default all of its host or cluster
    #[arg(long, value_name = "POOL", help_heading = NEW_VM)]
    pub(crate) resource_pool: Option<String>,

    /// The system that it is for, in VMware's words (debian12_64Guest)
    #[arg(long, value_name = "ID", help_heading = NEW_VM)]
    pub(crate) guest_id: Option<String>,

    /// Its processors; 1 where no old VM is there
    #[arg(
        long, value_name = "NUMBER", help_heading = NEW_VM,
        value_parser = clap::value_parser!(u32).range(1..=768)
    )]
    pub(crate) cpus: Option<u32>,

    /// Its memory in MiB; 1024 where no old VM is there
    #[arg(
        long, value_name = "MIB", help_heading = NEW_VM,
        value_parser = clap::value_parser!(u64).range(4..=25_165_824)
    )]
    pub(crate) memory: Option<u64>,

    /// How it starts: bios or efi; bios where no old VM is there
    #[arg(long, value_name = "KIND", help_heading = NEW_VM)]
    pub(crate) firmware: Option<Firmware>,

    /// What its disks hang on: pvscsi, lsilogic or lsilogic-sas; pvscsi where no old VM is there
    #[arg(long, value_name = "KIND", help_heading = NEW_VM)]
    pub(crate) controller: Option<DiskController>,
}

/// vSphere makes a VM of any name, also of one that nobody can read.
fn name_of_new_vm(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err("a name has letters or digits, and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

impl VmOptions {
    /// Whether one is named.
    pub(crate) fn is_named(&self) -> bool {
        self.vm.is_some() || self.new_vm.is_some()
    }

    /// Whether something is said that only a new one can take.
    pub(crate) fn says_what_is_new(&self) -> bool {
        let words =
            [&self.folder, &self.host, &self.datastore, &self.resource_pool, &self.guest_id];
        words.iter().any(|word| word.is_some())
            || self.cpus.is_some()
            || self.memory.is_some()
            || self.firmware.is_some()
            || self.controller.is_some()
    }
}
