//! Restoring: the disks of a point into files, an export or a device, all at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{Counts, Fault, Lane, LaneReport, LaneSettings, Side};
use tempfile::TempDir;

use super::error::ReadError;
use super::lanes::{self, Reviver};
use super::opened::{Opened, OpenedDisk, OpenedHere};
use super::read_back::read_back;
use super::scratch::Scratch;
use super::settings::ReadSettings;
use super::target::{RestoreTarget, Target, make_folder};
use crate::backup::{Cancellation, Watch};
use crate::catalog::{DiskName, LayerId, PointId, VmName};
use crate::repository::{HeldPoint, Repository};
use crate::snapshots::VmId;

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
    pub point: PointId,
    /// Its VM.
    pub vm: VmName,
    /// Its disks, by their names.
    pub disks: Vec<RestoredDisk>,
    /// The VM that they are disks of now, where it is one.
    pub into: Option<RestoredInto>,
    /// Time from the request to the end.
    pub elapsed: Duration,
}

/// The VM that disks were restored into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredInto {
    /// What the hypervisor knows it by.
    pub vm: VmId,
    /// Where it stands.
    pub path: String,
    /// Whether it was made for this. It is there only if all disks are right.
    pub is_new: bool,
}

/// A disk of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoredDisk {
    /// Its name.
    pub name: DiskName,
    /// Its layer in the point.
    pub layer: LayerId,
    /// Its exact size.
    pub size_bytes: u64,
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
    // What is wrong with one disk does not matter to the others.
    let held = repository.hold_as_found(request.point, &request.disks)?;
    check_number(
        request.point,
        &held.layers.iter().map(OpenedDisk::of).collect::<Vec<_>>(),
        &request.target,
    )?;
    restore_held(repository, held, &request.target, settings, started, watch, cancellation)
}

/// The same of a point that is held already, as it was found.
pub(super) fn restore_held(
    repository: &Repository,
    held: HeldPoint,
    target: &RestoreTarget,
    settings: &ReadSettings,
    started: Instant,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<RestoreReport, ReadError> {
    // Before all that is in it, so that it goes last.
    let scratch = Scratch::make(&settings.folder)?;
    // Images are written through exports too.
    let settings = &settings.at_once(2 * held.layers.len()).within(&scratch);
    let (mut opened, failed) = OpenedHere::open(repository, held, settings, watch);
    let mut disks = Vec::new();
    if !opened.disks().is_empty() {
        disks = restore_opened(&mut opened, target, settings, watch, cancellation)?;
    }
    disks.extend(failed.into_iter().map(|(disk, error)| RestoredDisk::not(disk, error)));
    disks.sort_by(|one, other| one.name.cmp(&other.name));
    let (point, vm) = (opened.point(), opened.vm().clone());
    Ok(RestoreReport { point, vm, disks, into: None, elapsed: started.elapsed() })
}

/// The same of a point that is open, wherever it is kept.
pub(crate) fn restore_opened(
    opened: &mut dyn Opened,
    target: &RestoreTarget,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<Vec<RestoredDisk>, ReadError> {
    check_number(opened.point(), opened.disks(), target)?;
    if let RestoreTarget::Folder { path, .. } = target {
        make_folder(path)?;
    }
    let disks: Vec<OpenedDisk> = opened.disks().to_vec();
    let mut targets = Vec::with_capacity(disks.len());
    for disk in &disks {
        targets.push(target.prepare(disk, settings)?);
    }
    let notes = notes_folder(settings)?;
    let reports = move_all(opened, &disks, &mut targets, &notes, settings, watch, cancellation)?;
    let mut compared = Vec::with_capacity(reports.len());
    for (index, report) in reports.into_iter().enumerate() {
        let (counts, elapsed) = (report.counts, report.elapsed);
        compared.push((counts, elapsed, compare(opened, index, report, &targets[index], &notes)));
    }
    if cancellation.is_cancelled() {
        return Err(ReadError::Cancelled);
    }
    let is_whole: Vec<bool> = compared.iter().map(|(_, _, same)| same.is_ok()).collect();
    let mut back = read_back(&disks, &targets, &is_whole, &notes, settings, watch, cancellation)?;
    for ((_, _, same), back) in compared.iter_mut().zip(&mut back) {
        if let Some(error) = back.take() {
            *same = Err(error);
        }
    }
    let each = disks.into_iter().zip(compared).zip(targets);
    let restored = each.map(|((disk, (counts, elapsed, same)), target)| {
        let OpenedDisk { name, layer, size_bytes } = disk;
        let outcome = same.and_then(|()| target.finish(&name, settings));
        RestoredDisk { name, layer, size_bytes, counts, elapsed, outcome }
    });
    Ok(restored.collect())
}

impl RestoredDisk {
    /// One that could not even be opened.
    fn not(disk: OpenedDisk, error: ReadError) -> Self {
        let OpenedDisk { name, layer, size_bytes } = disk;
        let (counts, elapsed) = (Counts::default(), Duration::ZERO);
        Self { name, layer, size_bytes, counts, elapsed, outcome: Err(error) }
    }
}

fn check_number(
    point: PointId,
    disks: &[OpenedDisk],
    target: &RestoreTarget,
) -> Result<(), ReadError> {
    match target {
        RestoreTarget::Whole(endpoint) if disks.len() != 1 => Err(ReadError::NotOneDisk {
            point,
            disks: disks.iter().map(|disk| disk.name.clone()).collect(),
            target: endpoint.to_string(),
        }),
        _ => Ok(()),
    }
}

fn move_all(
    opened: &mut dyn Opened,
    disks: &[OpenedDisk],
    targets: &mut [Target],
    notes: &TempDir,
    settings: &ReadSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<Vec<LaneReport>, ReadError> {
    let names: Vec<DiskName> = disks.iter().map(|disk| disk.name.clone()).collect();
    let mut work = Vec::with_capacity(disks.len());
    for (index, (disk, target)) in disks.iter().zip(&*targets).enumerate() {
        let lane = Lane::new(opened.endpoint(index), target.endpoint());
        work.push(lane.with_settings(LaneSettings {
            source_bytes: Some(disk.size_bytes),
            digest: opened.algorithm(index),
            manifest: Some(note(notes, index)),
            target_is_zero: target.is_zero(),
            ..settings.lane.clone()
        }));
    }
    // What is read back later counts as work from the start.
    let later = vec![Counts::default(); targets.iter().filter(|it| it.is_read_back()).count()];
    let mut keep = |reviver: &mut Reviver<'_>| {
        opened.keep(reviver)?;
        let mut targets = names.iter().zip(targets.iter_mut());
        targets.try_for_each(|(disk, target)| {
            target.served().map_or(Ok(()), |served| reviver.revive(disk, served))
        })
    };
    let told = Arc::clone(watch);
    let progress = move |counts: &[Counts]| told.progress(&[counts, &later].concat());
    lanes::run(&names, work, &mut keep, settings, watch, &progress, cancellation)
}

/// Whether a disk is what was backed up.
fn compare(
    opened: &dyn Opened,
    disk: usize,
    report: LaneReport,
    target: &Target,
    notes: &TempDir,
) -> Result<(), ReadError> {
    report.outcome.map_err(|fault| ReadError::Lane {
        disk: opened.disks()[disk].name.clone(),
        fault: Box::new(match fault {
            Fault::Side { side: Side::Target, cause, .. } => {
                Fault::Side { side: Side::Target, endpoint: target.named(), cause }
            }
            other => other,
        }),
        said: opened.said(disk),
    })?;
    opened.compare(disk, &Manifest::open(&note(notes, disk))?)
}

/// A folder for the digests of what is read.
pub(crate) fn notes_folder(settings: &ReadSettings) -> Result<TempDir, ReadError> {
    let failed = |error| ReadError::system(&settings.folder, "making a folder in it", error);
    tempfile::Builder::new().prefix("digests-").tempdir_in(&settings.folder).map_err(failed)
}

pub(super) fn note(notes: &TempDir, index: usize) -> std::path::PathBuf {
    notes.path().join(format!("{index}.manifest"))
}
