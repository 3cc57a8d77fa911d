//! Restoring: the disks of a point into files, an export or a device, all at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::plan::AreaSet;
use blockferry_dataplane::{Counts, Lane, LaneReport, LaneSettings};
use tempfile::TempDir;

use super::damaged::by_layer;
use super::digests::{ChainDigests, NoDigests};
use super::error::ReadError;
use super::lanes::{self, Reviver};
use super::serve::{Served, serve};
use super::settings::ReadSettings;
use super::target::{RestoreTarget, Target, make_folder};
use crate::backup::{Cancellation, Watch};
use crate::catalog::{DiskName, Layer, Point, PointId};
use crate::image::ImageTool;
use crate::repository::{HeldLayer, HeldPoint, Repository};

/// What is to be restored, and where to.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The point.
    pub point: PointId,
    /// Which disks; all where none is named.
    pub disks: Vec<DiskName>,
    /// Where to.
    pub target: RestoreTarget,
}

/// What became of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The point.
    pub point: Point,
    /// Its disks, by their names.
    pub disks: Vec<RestoredDisk>,
    /// Time from the request to the end.
    pub elapsed: Duration,
}

/// A disk of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoredDisk {
    /// Its layer in the point, with its name and exact size.
    pub layer: Layer,
    /// What was moved.
    pub counts: Counts,
    /// Time that its lane took.
    pub elapsed: Duration,
    /// Where it is, whole and durable; or why it is not, and then there is no new file.
    pub outcome: Result<String, ReadError>,
}

/// Restores disks of a point. Each is compared with its digests while it is read, and a file has
/// its name only when it was found to be what was backed up.
///
/// # Errors
/// [`ReadError`] where nothing was restored. What happened to a single disk is in its outcome.
pub fn restore(
    repository: &Repository,
    request: &RestoreRequest,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<RestoreReport, ReadError> {
    let started = Instant::now();
    let held = repository.hold_disks(request.point, &request.disks)?;
    check_number(&held, request)?;
    // Images are written through exports too.
    let settings = &settings.at_once(2 * held.layers.len());
    let mut digests = Vec::with_capacity(held.layers.len());
    for layer in &held.layers {
        let opened = ChainDigests::open(layer, repository.root());
        digests.push(opened.map_err(|none| no_digests(layer, &none))?);
    }
    if let RestoreTarget::Folder { path, .. } = &request.target {
        make_folder(path)?;
    }
    let mut targets = Vec::with_capacity(held.layers.len());
    for layer in &held.layers {
        targets.push(request.target.prepare(layer.layer(), settings)?);
    }
    let layers: Vec<&HeldLayer> = held.layers.iter().collect();
    let mut sources = serve(&layers, settings)?;
    let notes = notes_folder(settings)?;
    let reports = move_all(
        &held,
        &mut sources,
        &mut targets,
        &digests,
        &notes,
        settings,
        watch,
        cancellation,
    )?;
    let mut compared = Vec::with_capacity(reports.len());
    let each = held.layers.iter().zip(&sources).zip(&digests).zip(reports);
    for (index, (((layer, source), digests), report)) in each.enumerate() {
        let (counts, elapsed) = (report.counts, report.elapsed);
        let same = compare(layer, source, report, digests, &notes, index, &settings.image_tool);
        compared.push((layer.layer().clone(), counts, elapsed, same));
    }
    if cancellation.is_cancelled() {
        return Err(ReadError::Cancelled);
    }
    let disks = compared.into_iter().zip(targets);
    let disks = disks.map(|((layer, counts, elapsed, same), target)| {
        let outcome = same.and_then(|()| target.finish(&layer.disk_name, settings));
        RestoredDisk { layer, counts, elapsed, outcome }
    });
    let disks = disks.collect();
    Ok(RestoreReport { point: held.point.clone(), disks, elapsed: started.elapsed() })
}

fn check_number(held: &HeldPoint, request: &RestoreRequest) -> Result<(), ReadError> {
    match &request.target {
        RestoreTarget::Whole(endpoint) if held.layers.len() != 1 => Err(ReadError::NotOneDisk {
            point: request.point,
            disks: held.layers.iter().map(|held| held.layer().disk_name.clone()).collect(),
            target: endpoint.to_string(),
        }),
        _ => Ok(()),
    }
}

#[expect(clippy::too_many_arguments, reason = "what a restore has in hand, once, and split up")]
fn move_all(
    held: &HeldPoint,
    sources: &mut [Served],
    targets: &mut [Target],
    digests: &[ChainDigests],
    notes: &TempDir,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<Vec<LaneReport>, ReadError> {
    let names: Vec<DiskName> =
        held.layers.iter().map(|held| held.layer().disk_name.clone()).collect();
    let mut work = Vec::with_capacity(names.len());
    for (index, layer) in held.layers.iter().enumerate() {
        let lane = Lane::new(sources[index].endpoint(), targets[index].endpoint());
        work.push(lane.with_settings(LaneSettings {
            source_bytes: Some(layer.layer().facts.size_bytes),
            digest: digests[index].algorithm(),
            manifest: Some(note(notes, index)),
            target_is_zero: targets[index].is_zero(),
            ..settings.lane.clone()
        }));
    }
    let mut keep = |reviver: &mut Reviver<'_>| {
        let mut disks = names.iter().zip(sources.iter_mut()).zip(targets.iter_mut());
        disks.try_for_each(|((disk, source), target)| {
            reviver.revive(disk, source)?;
            target.served().map_or(Ok(()), |served| reviver.revive(disk, served))
        })
    };
    let told = Arc::clone(watch);
    let progress = move |counts: &[Counts]| told.progress(counts);
    lanes::run(&names, work, &mut keep, settings, watch, &progress, cancellation)
}

/// Whether a disk is what was backed up.
fn compare(
    layer: &HeldLayer,
    source: &Served,
    report: LaneReport,
    digests: &ChainDigests,
    notes: &TempDir,
    index: usize,
    tool: &ImageTool,
) -> Result<(), ReadError> {
    let disk = &layer.layer().disk_name;
    report.outcome.map_err(|fault| ReadError::Lane {
        disk: disk.clone(),
        fault: Box::new(fault),
        said: source.said(),
    })?;
    let found = digests.differences(&Manifest::open(&note(notes, index))?)?;
    let differences = by_layer(layer, found, tool);
    let first = differences.iter().filter_map(|(damaged, ranges)| {
        let first = ranges.as_slice().first()?;
        Some((*first, *damaged))
    });
    let Some((first, damaged)) = first.min_by_key(|(area, _)| area.start) else { return Ok(()) };
    let damaged = layer.chain.get(damaged).unwrap_or(layer.layer());
    Err(ReadError::Differs {
        disk: disk.clone(),
        layer: damaged.facts.id,
        point: damaged.point,
        first,
        bytes: differences.values().map(AreaSet::total).sum(),
    })
}

pub(super) fn no_digests(held: &HeldLayer, none: &NoDigests<'_>) -> ReadError {
    ReadError::Digests {
        disk: held.layer().disk_name.clone(),
        layer: none.layer.facts.id,
        point: none.layer.point,
        why: none.why.clone(),
    }
}

/// A folder for the digests of what is read.
pub(super) fn notes_folder(settings: &ReadSettings) -> Result<TempDir, ReadError> {
    let failed = |error| ReadError::system(&settings.folder, "making a folder in it", error);
    tempfile::Builder::new().prefix("blockferry-").tempdir_in(&settings.folder).map_err(failed)
}

pub(super) fn note(notes: &TempDir, index: usize) -> std::path::PathBuf {
    notes.path().join(format!("{index}.manifest"))
}
