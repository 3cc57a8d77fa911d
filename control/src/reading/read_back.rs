//! What targets hold after they were written, read back and compared with what was read from the
//! point.

use std::sync::Arc;

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{Counts, Endpoint, Fault, Lane, LaneSettings, Side};
use tempfile::TempDir;

use super::digests::unequal;
use super::error::ReadError;
use super::lanes;
use super::opened::OpenedDisk;
use super::restore::note;
use super::settings::ReadSettings;
use super::target::Target;
use crate::backup::{Cancellation, Watch};
use crate::catalog::DiskName;

/// Reads back what is `is_whole` and has to be, and says of each disk why it is not what was
/// written, if it is not.
pub(super) fn read_back(
    disks: &[OpenedDisk],
    targets: &[Target],
    is_whole: &[bool],
    notes: &TempDir,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<Vec<Option<ReadError>>, ReadError> {
    let mut errors: Vec<Option<ReadError>> = disks.iter().map(|_| None).collect();
    let wanted =
        (0..disks.len()).filter(|index| is_whole[*index] && targets[*index].is_read_back());
    let wanted: Vec<usize> = wanted.collect();
    if wanted.is_empty() {
        return Ok(errors);
    }
    watch.detail("all is written and flushed; it is read back, and compared");
    let mut names: Vec<DiskName> = Vec::new();
    let mut work = Vec::new();
    for &index in &wanted {
        let written = Manifest::open(&note(notes, index))?;
        names.push(disks[index].name.clone());
        let lane = Lane::new(targets[index].endpoint(), Endpoint::Null);
        work.push(lane.with_settings(LaneSettings {
            source_bytes: Some(disks[index].size_bytes),
            digest: Some(written.algorithm()),
            manifest: Some(note(notes, disks.len() + index)),
            ..settings.lane.clone()
        }));
    }
    let told = Arc::clone(watch);
    let before: Vec<Counts> = disks.iter().map(written).collect();
    let progress = move |counts: &[Counts]| told.progress(&[&before, counts].concat());
    let mut keep = |_: &mut lanes::Reviver<'_>| Ok(());
    let reports = lanes::run(&names, work, &mut keep, settings, watch, &progress, cancellation)?;
    for (&index, report) in wanted.iter().zip(reports) {
        let disk = &disks[index].name;
        let outcome = report.outcome.map_err(|fault| of_target(disk, &targets[index], fault));
        errors[index] = outcome.and_then(|()| compare(disk, index, disks, targets, notes)).err();
    }
    Ok(errors)
}

/// A disk that was written, as far as a display is concerned.
fn written(disk: &OpenedDisk) -> Counts {
    let mut counts = Counts::default();
    counts.planned = disk.size_bytes;
    counts.acknowledged = disk.size_bytes;
    counts
}

fn compare(
    disk: &DiskName,
    index: usize,
    disks: &[OpenedDisk],
    targets: &[Target],
    notes: &TempDir,
) -> Result<(), ReadError> {
    let written = Manifest::open(&note(notes, index))?;
    let back = Manifest::open(&note(notes, disks.len() + index))?;
    let ranges = unequal(&written, &back)?;
    match ranges.as_slice().first() {
        None => Ok(()),
        Some(first) => Err(ReadError::ReadBack {
            disk: disk.clone(),
            target: targets[index].named(),
            first: *first,
            bytes: ranges.total(),
        }),
    }
}

/// The source of these lanes is the target.
fn of_target(disk: &DiskName, target: &Target, fault: Fault) -> ReadError {
    let fault = match fault {
        Fault::Side { side: Side::Source, cause, .. } => {
            Fault::Side { side: Side::Target, endpoint: target.named(), cause }
        }
        other => other,
    };
    ReadError::Lane { disk: disk.clone(), fault: Box::new(fault), said: String::new() }
}
