//! What was asked for, checked.

use std::path::Path;

use blockferry_control::backup::{BackupRequest, Changes, DiskRequest};
use blockferry_control::client::{DiskSubmission, Submission};
use blockferry_dataplane::Endpoint;

use super::options::{BackupOptions, Named};
use crate::copy::{Place, areas, named_place};
use crate::exit::Refusal;
use crate::remote::repository_name;

/// Changed areas of one disk at most; a longer list is merged over its smallest gaps.
const MAX_AREAS: usize = 1 << 20;

/// Changed areas of all disks that a hub is told of, which fit into a request; longer lists are
/// merged over their smallest gaps.
const MAX_SUBMITTED_AREAS: usize = 16_384;

/// Checks the options, and reads the lists of changed areas.
///
/// # Errors
/// Wrong usage, in one line.
pub(super) fn of(options: &BackupOptions) -> anyhow::Result<BackupRequest> {
    for (option, named) in [("--changed", &options.changed), ("--bitmap", &options.bitmap)] {
        let stranger = named.iter().find(|named| !is_named(&options.disk, named));
        if let Some(Named { disk, .. }) = stranger {
            return Err(Refusal::usage(format!(
                "{option} is about disk {disk}, which no --disk names"
            )));
        }
    }
    let mut disks = Vec::with_capacity(options.disk.len());
    for disk in &options.disk {
        disks.push(DiskRequest {
            name: disk.disk.clone(),
            uuid: None,
            source: source(disk)?,
            changes: changes(disk, options)?,
        });
    }
    Ok(BackupRequest { vm: options.vm.clone(), disks, mode: options.mode })
}

/// The same for a hub, which reads the sources itself.
///
/// # Errors
/// Wrong usage, in one line.
pub(super) fn for_hub(options: &BackupOptions) -> anyhow::Result<Submission> {
    let request = of(options)?;
    let repository = repository_name(options.repository.as_ref())?;
    let most = MAX_SUBMITTED_AREAS / request.disks.len().max(1);
    let mut disks = Vec::with_capacity(request.disks.len());
    for disk in request.disks {
        let source = match disk.source {
            Endpoint::Nbd(nbd) => nbd.uri.to_string(),
            other => {
                return Err(Refusal::usage(format!(
                    "disk {}: a hub reads NBD URIs, and not {other}; serve it, as with qemu-nbd",
                    disk.name
                )));
            }
        };
        let (changed, bitmap) = match disk.changes {
            Changes::Compared => (None, None),
            Changes::Areas(areas) => (Some(areas.coalesced_to(most.max(1))), None),
            Changes::Bitmap(name) => (None, Some(name)),
        };
        disks.push(DiskSubmission { name: disk.name, source, changed, bitmap });
    }
    Ok(Submission { vm: request.vm, disks, mode: request.mode, repository })
}

fn is_named(disks: &[Named], named: &Named) -> bool {
    disks.iter().any(|disk| disk.disk == named.disk)
}

pub(crate) fn source(disk: &Named) -> anyhow::Result<Endpoint> {
    match named_place(disk.value.as_ref()).map_err(Refusal::usage)? {
        Place::Uri(uri) => Ok(Endpoint::nbd(*uri)),
        Place::Path(path) => Ok(Endpoint::File(path)),
        Place::Command(_) | Place::Standard | Place::Null => Err(Refusal::usage(format!(
            "disk {}: its source is an NBD URI, a file or a block device, and not {}",
            disk.disk, disk.value
        ))),
    }
}

fn changes(disk: &Named, options: &BackupOptions) -> anyhow::Result<Changes> {
    let of = |named: &[Named]| -> Vec<String> {
        let about = named.iter().filter(|named| named.disk == disk.disk);
        about.map(|named| named.value.clone()).collect()
    };
    match (of(&options.changed).as_slice(), of(&options.bitmap).as_slice()) {
        ([], []) => Ok(Changes::Compared),
        ([file], []) => Ok(Changes::Areas(areas(Path::new(file), MAX_AREAS)?)),
        // What nbdinfo shows is the name behind a prefix.
        ([], [name]) => {
            Ok(Changes::Bitmap(name.strip_prefix("qemu:dirty-bitmap:").unwrap_or(name).to_owned()))
        }
        _ => Err(Refusal::usage(format!(
            "what changed on disk {} is told more than once: give one --changed or one --bitmap",
            disk.disk
        ))),
    }
}
