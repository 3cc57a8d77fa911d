//! What the options ask for, checked.

use std::path::PathBuf;

use blockferry_control::backup::Changes;
use blockferry_control::catalog::{DiskName, ValueError, VmName};
use blockferry_control::client::{DiskSubmission, Submission};
use blockferry_dataplane::Endpoint;

use super::asked::{Asked, AskedChanges, AskedDisk, source_from};
use super::options::{BackupOptions, Named};
use crate::exit::Refusal;
use crate::remote::repository_name;

/// Changed areas of all disks that a hub is told of, which fit into a request; longer lists are
/// merged over their smallest gaps.
const MAX_SUBMITTED_AREAS: usize = 16_384;

/// Checks the options.
///
/// # Errors
/// Wrong usage, in one line.
pub(super) fn of(options: &BackupOptions) -> anyhow::Result<Asked> {
    let repository = options.repository.clone().ok_or_else(|| {
        Refusal::usage("where to? name a folder with --repository, or a hub with --hub")
    })?;
    Ok(Asked {
        vm: vm_name(&options.vm)?,
        disks: disks(options)?,
        mode: options.mode,
        repository,
        lane: options.lane.lane(),
        mover: options.lane.mover(),
    })
}

/// What a VM is called in a repository.
///
/// # Errors
/// A name that it cannot have.
pub(super) fn vm_name(name: &str) -> anyhow::Result<VmName> {
    name.parse().map_err(|error: ValueError| Refusal::usage(format!("--vm {name}: {error}")))
}

fn disks(options: &BackupOptions) -> anyhow::Result<Vec<AskedDisk>> {
    for (option, named) in [("--changed", &options.changed), ("--bitmap", &options.bitmap)] {
        let stranger = named.iter().find(|named| !is_named(&options.disk, named));
        if let Some(Named { disk, .. }) = stranger {
            return Err(Refusal::usage(format!(
                "{option} is about disk {disk}, which no --disk names"
            )));
        }
    }
    let mut disks = Vec::with_capacity(options.disk.len());
    for named in &options.disk {
        disks.push(AskedDisk {
            name: named.disk.clone(),
            source: source(named)?,
            changes: changes(&named.disk, options)?,
        });
    }
    Ok(disks)
}

/// The same for a hub, which reads the sources itself.
///
/// # Errors
/// Wrong usage, in one line.
pub(super) fn for_hub(options: &BackupOptions) -> anyhow::Result<Submission> {
    let repository = repository_name(options.repository.as_ref())?;
    let asked = disks(options)?;
    let most = MAX_SUBMITTED_AREAS / asked.len().max(1);
    let mut disks = Vec::with_capacity(asked.len());
    for disk in asked {
        let disk = disk.request()?;
        let source = source_for_hub(&disk.name, disk.source)?;
        let (changed, bitmap) = match disk.changes {
            // Nobody tracks what is asked for here; without a word, a hub compares.
            Changes::Compared | Changes::Tracked { .. } => (None, None),
            Changes::Areas(areas) => (Some(areas.coalesced_to(most.max(1))), None),
            Changes::Bitmap(name) => (None, Some(name)),
        };
        disks.push(DiskSubmission { name: disk.name, source, changed, bitmap });
    }
    if !disks.is_empty() {
        vm_name(&options.vm)?;
    }
    let (vm, name) = (options.vm.clone(), options.name.clone());
    let (mode, node, snapshot) = (options.mode, options.node.clone(), options.snapshot.choice());
    Ok(Submission { vm, name, disks, mode, repository, node, snapshot })
}

/// A source as it is told to a hub, which reads it itself.
///
/// # Errors
/// Wrong usage, in one line.
pub(crate) fn source_for_hub(disk: &DiskName, source: Endpoint) -> anyhow::Result<String> {
    match source {
        Endpoint::Nbd(nbd) => Ok(nbd.uri.to_string()),
        other => Err(Refusal::usage(format!(
            "disk {disk}: a hub reads NBD URIs, and not {other}; serve it, as with qemu-nbd"
        ))),
    }
}

fn is_named(disks: &[Named], named: &Named) -> bool {
    disks.iter().any(|disk| disk.disk == named.disk)
}

/// The source of a disk.
///
/// # Errors
/// Wrong usage, in one line.
pub(crate) fn source(disk: &Named) -> anyhow::Result<Endpoint> {
    source_from(&disk.value).map_err(|error| Refusal::usage(format!("disk {}: {error}", disk.disk)))
}

fn changes(disk: &DiskName, options: &BackupOptions) -> anyhow::Result<AskedChanges> {
    let of = |named: &[Named]| -> Vec<String> {
        let about = named.iter().filter(|named| named.disk == *disk);
        about.map(|named| named.value.clone()).collect()
    };
    match (of(&options.changed).as_slice(), of(&options.bitmap).as_slice()) {
        ([], []) => Ok(AskedChanges::Compared),
        ([file], []) => Ok(AskedChanges::Areas(PathBuf::from(file))),
        ([], [name]) => Ok(AskedChanges::Bitmap(name.clone())),
        _ => Err(Refusal::usage(format!(
            "what changed on disk {disk} is told more than once: give one --changed or one --bitmap"
        ))),
    }
}
