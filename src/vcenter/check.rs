//! `blockferry check`: what would stop or limit the backup of a VM.

use blockferry_control::snapshots::{HypervisorError, Severity, Vm, findings};
use clap::Args;

use super::options::{INTERRUPTED, ServerOptions};
use super::vddk::VddkOptions;
use super::vms::VmRecord;
use crate::exit::{Exit, Refusal};
use crate::output::{escaped, json, print, table};
use indicatif::BinaryBytes;

/// Shown below the options.
pub(crate) const EXAMPLES: &str = "\
Examples:
  See whether a VM can be backed up; nothing is changed:
    blockferry check db1 --vcenter vc.example --vcenter-user backup@vsphere.local \\
        --vcenter-password-file vc.password --vcenter-thumbprint AA:BB:... \\
        --vddk-libdir /opt/vmware-vix-disklib-distrib";

#[derive(Args, Debug)]
pub(crate) struct CheckOptions {
    /// The VM: its name, path, UUID or moref
    #[arg(value_name = "VM")]
    vm: String,

    #[command(flatten)]
    server: ServerOptions,

    #[command(flatten)]
    vddk: VddkOptions,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `blockferry check`.
///
/// # Errors
/// What would stop the backup.
pub(crate) fn command(options: &CheckOptions) -> anyhow::Result<Exit> {
    let vm = options.server.connect()?.find(&options.vm).map_err(|error| refusal(&error))?;
    if options.json {
        json::print(&VmRecord::of(&vm))?;
    } else {
        print(&told(&vm))?;
    }
    options.vddk.looked_at(Exit::Source)?;
    let stops: Vec<String> = findings(&vm)
        .iter()
        .filter(|finding| finding.severity == Severity::Stops)
        .map(ToString::to_string)
        .collect();
    match stops.as_slice() {
        [] => Ok(Exit::Done),
        stops => Err(Refusal::of(
            Exit::Source,
            format!("VM {} cannot be backed up: {}", vm.path, stops.join("; ")),
        )),
    }
}

/// The error, with its exit code.
pub(crate) fn refusal(error: &HypervisorError) -> anyhow::Error {
    if matches!(error, HypervisorError::CalledOff) {
        return Refusal::of(Exit::Interrupted, INTERRUPTED);
    }
    let exit = if error.is_wrong_request() { Exit::Usage } else { Exit::Source };
    Refusal::of(exit, error.to_string())
}

fn told(vm: &Vm) -> String {
    let disks = vm.disks.iter().map(|disk| {
        let left_out = disk.left_out();
        vec![
            disk.label.clone(),
            disk.key.to_string(),
            BinaryBytes(disk.capacity_bytes).to_string(),
            disk.file.clone(),
            left_out.map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
        ]
    });
    let mut told = format!(
        "VM {} ({}), {}, on {}\n{}",
        escaped(&vm.path),
        vm.id,
        vm.power.as_str(),
        escaped(vm.host.as_ref().map_or("no host", |host| &host.name)),
        table(&["disk", "key", "size", "file", "backed up"], disks)
    );
    for finding in findings(vm) {
        let weight = if finding.severity == Severity::Stops { "stops" } else { "warns" };
        told.push_str(&format!("\n{weight}: {}", escaped(&finding.to_string())));
    }
    told
}
