//! What the options ask for, checked.

use std::path::PathBuf;

use blockferry_control::catalog::DiskName;

use super::asked::{Asked, AskedChanges, AskedDisk, source};
use super::options::{BackupOptions, Named};
use crate::exit::Refusal;

/// Checks the options.
///
/// # Errors
/// Wrong usage, in one line.
pub(super) fn of(options: &BackupOptions) -> anyhow::Result<Asked> {
    for (option, named) in [("--changed", &options.changed), ("--bitmap", &options.bitmap)] {
        let stranger = named.iter().find(|named| !is_named(&options.disk, named));
        if let Some(Named { disk, .. }) = stranger {
            return Err(Refusal::usage(format!(
                "{option} is about disk {disk}, which no --disk names"
            )));
        }
    }
    let mut disks = Vec::with_capacity(options.disk.len());
    for Named { disk, value } in &options.disk {
        let source = source(value);
        disks.push(AskedDisk {
            name: disk.clone(),
            source: source.map_err(|error| Refusal::usage(format!("disk {disk}: {error}")))?,
            changes: changes(disk, options)?,
        });
    }
    Ok(Asked {
        vm: options.vm.clone(),
        disks,
        mode: options.mode,
        repository: options.repository.clone(),
        lane: options.lane.lane(),
        mover: options.lane.mover(),
    })
}

fn is_named(disks: &[Named], named: &Named) -> bool {
    disks.iter().any(|disk| disk.disk == named.disk)
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
