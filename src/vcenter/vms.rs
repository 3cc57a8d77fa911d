//! `blockferry vms`: which VMs there are, and what would stop their backup.

use blockferry_control::snapshots::{Finding, Severity, Vm, VmDisk, findings};
use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::check::refusal;
use super::options::ServerOptions;
use crate::exit::Exit;
use crate::output::{json, print, table};

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  List the VMs of a vCenter, with what would stop or limit their backups:
    blockferry vms --vcenter vc.example --vcenter-user backup@vsphere.local \\
        --vcenter-password-file vc.password --vcenter-thumbprint AA:BB:...

  For a script:
    blockferry vms --vcenter esx1.example --vcenter-user root \\
        --vcenter-password-file esx.password --vcenter-ca ca.pem --json";

#[derive(Args, Debug)]
pub(crate) struct VmsOptions {
    #[command(flatten)]
    server: ServerOptions,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `blockferry vms`.
///
/// # Errors
/// Why they cannot be listed.
pub(crate) fn command(options: &VmsOptions) -> anyhow::Result<Exit> {
    let vms = options.server.connect()?.vms().map_err(|error| refusal(&error))?;
    if options.json {
        json::print(&Json { vms: vms.iter().map(VmRecord::of).collect() })?;
    } else {
        print(&listed(&vms))?;
    }
    Ok(Exit::Done)
}

fn listed(vms: &[Vm]) -> String {
    let heads = ["VM", "id", "power", "disks", "size", "CBT", "snapshots", "findings"];
    let rows = vms.iter().map(|vm| {
        let size: u64 = vm.disks.iter().map(|disk| disk.capacity_bytes).sum();
        let found = findings(vm);
        let stops = found.iter().filter(|finding| finding.severity == Severity::Stops).count();
        let told = match (found.len(), stops) {
            (0, _) => "none".to_owned(),
            (all, 0) => format!("{all}"),
            (all, stops) => format!("{all}, {stops} of which stop it"),
        };
        vec![
            vm.path.clone(),
            vm.id.to_string(),
            vm.power.as_str().to_owned(),
            vm.disks.len().to_string(),
            BinaryBytes(size).to_string(),
            if vm.tracks_changes { "on" } else { "off" }.to_owned(),
            vm.snapshots.len().to_string(),
            told,
        ]
    });
    let listed = table(&heads, rows);
    format!("{listed}\n{} VMs; blockferry check VM tells the findings of one", vms.len())
}

#[derive(Debug, Serialize)]
struct Json {
    vms: Vec<VmRecord>,
}

/// A VM, for programs. Fields are added, never taken away.
#[derive(Debug, Serialize)]
pub(super) struct VmRecord {
    id: String,
    name: String,
    path: String,
    uuid: Option<String>,
    instance_uuid: Option<String>,
    host: Option<String>,
    power: &'static str,
    hardware_version: Option<u32>,
    cbt: bool,
    snapshots: usize,
    needs_consolidation: bool,
    disks: Vec<DiskRecord>,
    findings: Vec<FindingRecord>,
}

#[derive(Debug, Serialize)]
struct DiskRecord {
    key: i32,
    label: String,
    file: String,
    uuid: Option<String>,
    size: u64,
    /// Why a backup does not have it.
    left_out: Option<String>,
}

#[derive(Debug, Serialize)]
struct FindingRecord {
    /// warns or stops.
    severity: &'static str,
    says: String,
}

impl VmRecord {
    pub(super) fn of(vm: &Vm) -> Self {
        Self {
            id: vm.id.to_string(),
            name: vm.name.clone(),
            path: vm.path.clone(),
            uuid: vm.uuid.clone(),
            instance_uuid: vm.instance_uuid.clone(),
            host: vm.host.as_ref().map(|host| host.name.clone()),
            power: vm.power.as_str(),
            hardware_version: vm.hardware_version,
            cbt: vm.tracks_changes,
            snapshots: vm.snapshots.len(),
            needs_consolidation: vm.needs_consolidation,
            disks: vm.disks.iter().map(DiskRecord::of).collect(),
            findings: findings(vm).iter().map(FindingRecord::of).collect(),
        }
    }
}

impl DiskRecord {
    fn of(disk: &VmDisk) -> Self {
        Self {
            key: disk.key.0,
            label: disk.label.clone(),
            file: disk.file.clone(),
            uuid: disk.uuid.as_ref().map(ToString::to_string),
            size: disk.capacity_bytes,
            left_out: disk.left_out().map(|why| why.to_string()),
        }
    }
}

impl FindingRecord {
    fn of(finding: &Finding) -> Self {
        let severity = if finding.severity == Severity::Stops { "stops" } else { "warns" };
        Self { severity, says: finding.to_string() }
    }
}
